"""How numbers and tables are written: the same figures in results.md and in the terminal."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from app.comparison.statistics import Interval, MeanStd

MISSING = "-"


def mean_text(value: MeanStd | None, places: int = 3) -> str:
    """`0.912 ± 0.034`; without the spread for a single run."""
    if value is None:
        return MISSING
    return f"{value.mean:.{places}f}" + (f" ± {value.std:.{places}f}" if value.std is not None else "")


def interval_text(value: Interval | None, *, signed: bool = True, places: int = 3) -> str:
    """`+0.034 [+0.010, +0.061]`; without the interval where there are too few runs for one."""
    form = f"{'+' if signed else ''}.{places}f"
    return _interval(value, lambda number: format(number, form))


def percent_text(value: Interval | None) -> str:
    """`+3.4 % [+1.0 %, +6.1 %]` of an interval of shares."""
    return _interval(value, lambda number: f"{100 * number:+.1f} %")


def _interval(value: Interval | None, text: Callable[[float], str]) -> str:
    if value is None:
        return MISSING
    if value.low is None or value.high is None:
        return text(value.estimate)
    return f"{text(value.estimate)} [{text(value.low)}, {text(value.high)}]"


def number_text(value: float | None) -> str:
    """Three significant digits, whole from 100 on."""
    if value is None or math.isnan(value):
        return MISSING
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, its first column left, the others right."""
    lines = [f"| {' | '.join(header)} |", "|" + "|".join([" --- ", *[" ---: "] * (len(header) - 1)]) + "|"]
    lines += [f"| {' | '.join(_escaped(cell) for cell in row)} |" for row in rows]
    return "\n".join(lines) + "\n"


def plain_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table for the terminal, its first column left, the others right, two spaces between."""
    lines = [list(header), *[list(row) for row in rows]]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "  ".join(
            cell.ljust(width) if not column else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def numbers(values: Sequence[int]) -> str:
    """`0-8` for a run of numbers, else `0, 2, 5`."""
    values = sorted(values)
    if len(values) > 2 and values == list(range(values[0], values[-1] + 1)):
        return f"{values[0]}-{values[-1]}"
    return ", ".join(str(value) for value in values)


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", " ")
