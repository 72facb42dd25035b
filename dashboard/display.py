"""The comparison table as a person reads it: `mean ± std` cells, units in the headers, the chart's colour per line."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pandas as pd

from dashboard.palette import Palette
from dashboard.tables import SCORE, varying_settings

if TYPE_CHECKING:
    from pandas.io.formats.style import Styler

# column: header with unit, what it is
HEADERS = {
    "swatch": ("", "The line's colour in the charts"),
    "line": ("Row", "The row's name in its comparison"),
    "runs": ("Runs", "Finished runs with a test score: the newest of each fold and seed"),
    "folds": ("Folds", "Different folds among them"),
    "seeds": ("Seeds", "Different seeds among them"),
    SCORE: ("Top-1", "Test accuracy, fraction of videos"),
    "difference": (
        "Δ Top-1",
        "Difference to the control, paired by fold and seed [95 % bootstrap interval]",
    ),
    "videos": (
        "Videos",
        "Videos found / in the official list, summed over the folds; without an official list, videos found",
    ),
    "id_hash": ("Id list", "Hash of the ids and labels of the lists tested on, by fold: the same where the lists are"),
    "views": ("Views", "What the score of a test video is the mean of"),
    "latency/tick_ms": ("Tick (ms)", "Inference latency per frame, batch 1"),
    "latency/step_p50_ms": ("Step (ms)", "Training step, median"),
    "train/frames_per_second": ("Frames/s", "Training speed, frames a second"),
    "memory/saved_tensors_mib": ("Saved (MiB)", "Tensors kept for the backward pass"),
    "memory/peak_mib": ("Peak (MiB)", "Peak memory of the process or device"),
}
WIDTHS_PX = {"swatch": 32, "runs": 55, "folds": 60, "seeds": 60}
_COSTS = [column for column in HEADERS if "/" in column and column != SCORE]
_MISSING = "–"


def with_spread(mean: float, std: float, decimals: int) -> str:
    """Return `0.889 ± 0.010`; without ± where std is NaN (one run), a dash where the mean is."""
    if math.isnan(mean):
        return _MISSING
    return f"{mean:,.{decimals}f}" + ("" if math.isnan(std) else f" ± {std:,.{decimals}f}")


def difference_text(difference: float, low: float, high: float) -> str:
    """Return `−0.022 [−0.050, +0.010]`, signed; without the interval where it is NaN, a dash without a difference."""
    if math.isnan(difference):
        return _MISSING
    interval = "" if math.isnan(low) else f" [{low:+.3f}, {high:+.3f}]"
    return f"{difference:+.3f}{interval}".replace("-", "−")


def decimals_for(means: pd.Series) -> int:
    """Return how many decimals show about three figures of the middle value of a column, at most 3."""
    middle = means.abs().median()
    if math.isnan(middle) or middle == 0:
        return 1
    return min(max(2 - math.floor(math.log10(middle)), 0), 3)


def shown_columns(table: pd.DataFrame) -> list[str]:
    """Return the columns to show, in order: settings only where they differ, costs only where some line has them."""
    costs = [column for column in _COSTS if table[column].notna().any()]
    settings = [name for name in varying_settings(table) if name in ("rule", "wiring", "network")]
    views = [name for name in varying_settings(table) if name == "views"]
    data = [name for name in ("videos", "id_hash") if (table[name] != "").any()]
    return ["swatch", "line", *settings, "runs", "folds", "seeds", SCORE, "difference", *views, *data, *costs]


def header(column: str) -> tuple[str, str]:
    """Return a column's title and its explanation."""
    return HEADERS.get(column, (column.capitalize(), f"The tag `{column}` of the runs"))


def styled(table: pd.DataFrame, palette: Palette, control: str | None) -> Styler:
    """Return the table with a text for every cell; the values below stay numbers, so that columns sort by value."""
    # Screen readers read the values and not the texts: no digits that mean nothing.
    shown = table.assign(swatch="⬤")[shown_columns(table)].round(4)
    styler = shown.style
    for column in [SCORE, *(name for name in shown if name in _COSTS)]:
        decimals = 3 if column == SCORE else decimals_for(table[column])
        for index, line in table.iterrows():
            styler = _cell(styler, index, column, with_spread(line[column], line[f"{column} std"], decimals))
    for index, line in table.iterrows():
        own = difference_text(line["difference"], line["low"], line["high"])
        styler = _cell(styler, index, "difference", "control" if line["line"] == control else own)
    return styler.apply(lambda _: [f"color: {palette.colour(line)}" for line in table["line"]], subset=["swatch"])


def _cell(styler: Styler, index: object, column: str, text: str) -> Styler:
    return styler.format(lambda _: text, subset=(pd.Index([index]), [column]))
