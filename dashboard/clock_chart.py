"""The clock of a run's units as an HTML table, from its artifact `clock.json`: which frame a unit reads at each tick.

    tick             1   2   3   4
    unit 1 forward   1   2   3   4
    unit 2 forward       1   2   3
    unit 2 backward      1   2   3
    unit 1 backward          1   2

Frames count from 1 here, as in the clock. Where skips bring newer frames, a cell reads `oldest-newest`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dashboard.names import clean

MAX_UNITS = 64
MAX_TICKS = 160
STAGE_SHADES = ("#FFFFFF", "#E8EEF4")  # neighbouring stages differ; the stage's number stands in the row's name
STYLE = """<style>
.clock {overflow-x: auto}
.clock table {border-collapse: collapse; font-size: .85rem; color: #262730}
.clock th, .clock td {padding: 2px 6px; font-weight: 400; text-align: center; border: 1px solid #D5D8DD;
  white-space: nowrap; min-width: 1.9rem}
.clock th[scope=row] {text-align: left}
.clock td.back {font-style: italic}
</style>"""


class NoClock(ValueError):  # noqa: N818 - reads as a sentence
    """A clock.json that does not say what the table needs."""


def clock_table(clock: Mapping[str, Any]) -> str:
    """Return the table of a parsed clock.json as HTML. Raises NoClock where it is not one."""
    try:
        depth = int(clock["depth"])
        ticks = [list(tick) for tick in clock["ticks"]][:MAX_TICKS]
        stages = [int(stage) for stage in clock.get("stage_of_unit") or [1] * depth]
        if not 1 <= depth <= MAX_UNITS or len(stages) != depth or any(len(tick) != depth for tick in ticks):
            raise ValueError("depth")
        rows = [_row(i, "forward", [_forward(tick[i]) for tick in ticks], stages) for i in range(depth)]
        rows += [
            _row(i, "backward", [_text(tick[i]["backward"]) for tick in ticks], stages) for i in reversed(range(depth))
        ]
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise NoClock(
            f"clock.json does not hold the ticks of 1 to {MAX_UNITS} units and their frames ({type(error).__name__})."
        ) from error
    head = "".join(f'<th scope="col">{tick}</th>' for tick in range(1, len(ticks) + 1))
    return (
        f'{STYLE}<div class="clock" tabindex="0" role="region" aria-label="Clock of the units"><table><thead><tr>'
        f'<th scope="row">tick</th>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    )


def _forward(work: Mapping[str, Any]) -> str:
    nominal, newest = work["forward"], work.get("newest")
    if nominal is None or newest is None or newest == nominal:
        return _text(nominal)
    return f"{_text(nominal)}–{_text(newest)}"


def _text(frame: object) -> str:
    return "" if frame is None else str(int(frame))  # type: ignore[call-overload]


def _row(index: int, way: str, cells: Sequence[str], stages: Sequence[int]) -> str:
    stage = stages[index]
    several = f" · stage {stage}" if len(set(stages)) > 1 else ""
    shade = STAGE_SHADES[stage % len(STAGE_SHADES)] if several else STAGE_SHADES[0]
    kind = ' class="back"' if way == "backward" else ""
    return (
        f'<tr style="background:{shade}"><th scope="row">unit {index + 1} {way}{several}</th>'
        + "".join(f"<td{kind}>{cell}</td>" for cell in cells)
        + "</tr>"
    )


def facts(clock: Mapping[str, Any]) -> dict[str, str]:
    """Return what the clock says of each unit, as texts that may hold anything: to be shown as plain text."""
    names = {
        "rule": "Rule",
        "wiring": "Wiring",
        "merge": "Merge",
        "depth": "Units",
        "lmin": "Shortest path (Lmin)",
        "gradient_edges": "Edges with gradients",
        "sources": "Each unit reads from",
        "lags": "Lag of each unit's gradient, frames",
        "first_gradient_ticks": "First gradient at tick",
        "stage_of_unit": "Stage of each unit",
    }
    return {title: clean(_flat(clock[name])) for name, title in names.items() if clock.get(name) is not None}


def _flat(value: object) -> str:
    if isinstance(value, list):
        return ", ".join("+".join(map(str, part)) if isinstance(part, list) else str(part) for part in value)
    return str(value)
