"""The comparison table as a person reads it: `mean ± std` cells, units in the headers, the chart's colour per line."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import pandas as pd

from dashboard.palette import MARKS, Palette
from dashboard.scores import Score
from dashboard.tables import varying_settings

if TYPE_CHECKING:
    from pandas.io.formats.style import Styler

# column: header with unit, what it is
HEADERS = {
    "swatch": ("", "The line's colour and marker in the charts: colour by rule, marker by row"),
    "line": ("Row", "The row's name in its comparison"),
    "dataset": ("Data set", "The tag `dataset` of the runs"),
    "comparison": ("Comparison", "The comparison that the runs belong to"),
    "horizon": ("Horizon", "Frames predicted ahead of the newest frame that can have reached the output"),
    "lmin": ("Lmin", "Units on the shortest path to the output: the newest frame that can have reached it"),
    "runs": ("Runs", "Finished runs with a test score: the newest of each fold and seed"),
    "folds": ("Folds", "Different folds among them"),
    "seeds": ("Seeds", "Different seeds among them"),
    "videos": (
        "Videos",
        "Videos found / in the official list, summed over the folds; without an official list, videos found",
    ),
    "id_hash": ("Id list", "Hash of the ids and labels of the lists tested on, by fold: the same where the lists are"),
    "views": ("Test protocol", "What the score of a test video is the mean of"),
    "latency/tick_ms": ("Tick (ms)", "Inference latency per frame, batch 1"),
    "latency/step_p50_ms": ("Step (ms)", "Training step, median"),
    "train/frames_per_second": ("Frames/s", "Training speed, frames a second"),
    "memory/saved_tensors_mib": ("Saved (MiB)", "Tensors kept for the backward pass"),
    "memory/peak_mib": ("Peak (MiB)", "Peak memory of the process or device"),
}
WIDTHS_PX = {"swatch": 32, "runs": 55, "folds": 60, "seeds": 60}
SETTINGS = ("dataset", "comparison", "rule", "wiring", "network", "views")
_COSTS = [column for column in HEADERS if "/" in column]
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_SCALED = ["difference", "low", "high"]
_MISSING = "–"


def with_spread(mean: float, std: float, decimals: int) -> str:
    """Return `0.889 ± 0.010`; without ± where std is NaN (one run), a dash where the mean is."""
    if math.isnan(mean):
        return _MISSING
    return f"{mean:,.{decimals}f}" + ("" if math.isnan(std) else f" ± {std:,.{decimals}f}")


def difference_text(difference: float, low: float, high: float, decimals: int = 3) -> str:
    """Return `−0.022 [−0.050, +0.010]`, signed; without the interval where it is NaN, a dash without a difference."""
    if math.isnan(difference):
        return _MISSING
    interval = "" if math.isnan(low) else f" [{low:+.{decimals}f}, {high:+.{decimals}f}]"
    return f"{difference:+.{decimals}f}{interval}".replace("-", "−")


def decimals_for(means: pd.Series, most: int = 3, figures: int = 3) -> int:
    """Return how many decimals show about three figures of the middle value of a column, at most `most`."""
    middle = means.abs().median()
    if math.isnan(middle) or middle == 0:
        return 1
    return min(max(figures - 1 - math.floor(math.log10(middle)), 0), most)


def score_decimals(score: Score, table: pd.DataFrame) -> int:
    """Return how many decimals a column of the score shows: three figures of the least where it has none of its own."""
    if score.decimals is not None:
        return score.decimals
    return decimals_for(pd.Series([table[score.metric].abs().replace(0, math.nan).min()]))


def difference_decimals(score: Score, table: pd.DataFrame) -> int:
    """Return how many decimals the differences show: two figures of the least, as many as the score or one more."""
    own = score_decimals(score, table)
    least = pd.Series([table["difference"].abs().replace(0, math.nan).min()])
    return max(own, decimals_for(least, most=own + 1, figures=2)) if least.notna().any() else own


def scaled(table: pd.DataFrame, score: Score) -> tuple[pd.DataFrame, Score]:
    """Return the table in a unit that needs no leading zeros, and the score that names it: `MSE ×10⁻³`.

    Only a score without decimals of its own has another unit.
    """
    middle = table[score.metric].abs().replace(0, math.nan).median()
    power = 0 if score.decimals is not None or math.isnan(middle) else 3 * math.floor(math.log10(middle) / 3)
    if not power:
        return table, score
    columns = [name for name in (score.metric, f"{score.metric} std", *_SCALED) if name in table]
    unit = f"×10{str(power).translate(_SUPERSCRIPTS)}"
    return table.assign(**{name: table[name] * 10.0**-power for name in columns}), replace(
        score, short=f"{score.short} {unit}"
    )


def shown_columns(table: pd.DataFrame, score: Score) -> list[str]:
    """Return the columns to show, in order: settings only where they differ, costs only where some line has them.

    Row and score come first: they are what a narrow screen shows without scrolling.
    """
    costs = [column for column in _COSTS if table[column].notna().any()]
    varying = varying_settings(table)
    scope = [name for name in ("dataset", "comparison") if name in varying]
    settings = [name for name in ("rule", "wiring", "network") if name in varying]
    lmin = ["lmin"] if (table["lmin"] != "").any() else []
    protocol = [name for name in ("horizon", "views") if name in varying]
    data = [name for name in ("videos", "id_hash") if (table[name] != "").any()]
    counts = ["runs", "folds", "seeds"]
    relative = ["relative"] if score.relative and table["relative"].notna().any() else []
    return [
        "swatch",
        "line",
        score.metric,
        "difference",
        *relative,
        *scope,
        *settings,
        *lmin,
        *counts,
        *protocol,
        *data,
        *costs,
    ]


def header(column: str, score: Score) -> tuple[str, str]:
    """Return a column's title and its explanation."""
    if column == score.metric:
        return score.short, f"{score.explanation}; {'less' if score.lower else 'more'} is better"
    if column == "difference":
        return f"Δ {score.short}", "Difference to the control, paired by fold and seed [95 % bootstrap interval]"
    if column == "relative":
        return "Δ %", "The difference divided by the control's own value, over the same pairs [95 % bootstrap interval]"
    return HEADERS.get(column, (column.capitalize(), f"The tag `{column}` of the runs"))


def styled(table: pd.DataFrame, palette: Palette, score: Score) -> Styler:
    """Return the table with a text for every cell; the values below stay numbers, so that columns sort by value."""
    columns = shown_columns(table, score)
    swatches = [MARKS[palette.shape(line)] for line in table["line"]]
    # Screen readers read the values and not the texts: no digits that mean nothing.
    shown = table.assign(swatch=swatches)[columns].round(4)
    styler = shown.style
    for column, listed in texts(table, columns, score).items():
        for index, text in zip(table.index, listed, strict=True):
            styler = _cell(styler, index, column, text)
    return styler.apply(lambda _: [f"color: {palette.colour(line)}" for line in table["line"]], subset=["swatch"])


def texts(table: pd.DataFrame, columns: list[str], score: Score) -> dict[str, list[str]]:
    """Return the texts of the columns that show more than their value: means with spread, differences with interval."""
    found = {}
    for column in [score.metric, *(name for name in columns if name in _COSTS)]:
        decimals = score_decimals(score, table) if column == score.metric else decimals_for(table[column])
        pairs = zip(table[column], table[f"{column} std"], strict=True)
        found[column] = [with_spread(mean, std, decimals) for mean, std in pairs]
    if "difference" in columns:
        found["difference"] = _differences(table, "difference", "", 1, difference_decimals(score, table))
    if "relative" in columns:
        found["relative"] = _differences(table, "relative", "relative ", 100, 1)
    return found


def _differences(table: pd.DataFrame, name: str, prefix: str, times: int, decimals: int) -> list[str]:
    rows = table[["line", "control", name, f"{prefix}low", f"{prefix}high"]].itertuples(index=False)
    return [
        "control" if line == control else difference_text(times * value, times * low, times * high, decimals)
        for line, control, value, low, high in rows
    ]


def _cell(styler: Styler, index: object, column: str, text: str) -> Styler:
    return styler.format(lambda _: text, subset=(pd.Index([index]), [column]))
