"""Scores against the gap between what must be remembered and the question: a line a row. No Streamlit, no MLflow.

memup@gap40  ─┐
memup@gap100  ├─ one line `memup`: rows of a comparison are joined by what stands before the @
memup@gap400 ─┘
"""

from __future__ import annotations

import re

import pandas as pd

from dashboard import tables
from dashboard.names import cell

METRICS = {
    "test/top1": "Share of right answers (test)",
    "test/mse": "MSE of the answers (test)",
    "test/loss": "Loss (test)",
    "test/detector_precision": "Chosen steps that are answers (test)",
    "test/detector_recall": "Answers that are chosen (test)",
    "memory/peak_mib": "Peak memory (MiB)",
    "memory/saved_tensors_mib": "Saved tensors (MiB)",
    "train/frames_per_second": "Training speed (frames/s)",
}
SHARES = ("test/top1", "test/detector_precision", "test/detector_recall")
CHANCE = "test/chance"  # what a guess scores, where runs say it
VARIANT = "@"
# What tells two lines of one name apart.
_DIFFERENT = ["rule", "network", "detector", "encoder", "comparison", "dataset"]


def gap_of(tag: object) -> float:
    """Return the gap that a tag names; NaN for what is no whole number."""
    return float(str(tag)) if re.fullmatch(r"[0-9]{1,9}", str(tag), re.ASCII) else float("nan")


def base_of(row: object) -> str:
    """Return a row's name without its variant: `memup` of `memup@gap40`."""
    return str(row).partition(VARIANT)[0].strip() or str(row)


def with_gap(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs whose tag `gap` is a number, with it as `steps_apart`."""
    apart = runs["gap"].map(gap_of).astype(float)
    return runs.assign(steps_apart=apart)[apart.notna()]


def joined(runs: pd.DataFrame) -> pd.DataFrame:
    """Return runs `with_gap` with `row` without its variant, and the `line` of each: rows of other gaps are one.

    Where rules, networks, detectors, encoders or comparisons have a row of the same name each has its line. Where a
    line has other data at the same gap and fold, such as another folder of one's own, each data has its line.
    """
    settings = {name: "" for name in tables.LINE if name not in ("row", *_DIFFERENT)}
    named = runs.assign(row=runs["row"].map(base_of), **settings)
    lines = tables.label_lines(named).assign(wiring=runs["wiring"])
    return lines.assign(line=lines["line"] + _data_of(lines))


def _data_of(lines: pd.DataFrame) -> pd.Series:
    """Return what tells the data of lines apart, "" of a line that has one data at each gap and fold."""
    data = lines["data_hash"].astype(object).fillna("").astype(str)
    several = (
        data.groupby([lines[key] for key in ("line", "steps_apart", "fold")], dropna=False).transform("nunique") > 1
    )
    mixed = lines["line"].isin(lines["line"][several])
    return (" · data " + data.str.slice(0, 8)).where(mixed & (data != ""), "")


def metrics_of(runs: pd.DataFrame) -> dict[str, str]:
    """Return {metric: title} of METRICS that some run has; accuracy first."""
    return {name: title for name, title in METRICS.items() if name in runs and runs[name].notna().any()}


def points(runs: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return `line`, `gap`, `mean`, `std`, `low`, `high`, `runs`: over the finished runs of a line at a gap.

    Of runs that repeat gap, fold and seed the newest counts; `low` and `high` are the lowest and the highest run.

    Args:
        runs: as `joined` gives them.
        metric: one of `metrics_of`.
    """
    finished = tables.reporting(runs)
    finished = finished[(finished["status"] == "FINISHED") & finished[metric].notna()]
    cells = ["line", "steps_apart", "fold", "seed"]
    newest = finished.sort_values("started", kind="stable").drop_duplicates(cells, keep="last")
    grouped = newest.groupby(["line", "steps_apart"])[metric]
    table = grouped.agg(mean="mean", std="std", low="min", high="max", runs="size").reset_index()
    table["steps_apart"] = table["steps_apart"].astype("int64")
    return table.rename(columns={"steps_apart": "gap"})


def chance_of(runs: pd.DataFrame, metric: str) -> float | None:
    """Return what a guess scores, as the runs say (`test/chance`); None where they do not."""
    asked = next(iter(metrics_of(runs)), "")
    if metric != asked or metric not in ("test/top1", "test/mse"):
        return None
    said = runs[CHANCE].dropna() if CHANCE in runs else pd.Series(dtype=float)
    return float(said.median()) if len(said) else None


def csv(table: pd.DataFrame, metric: str) -> str:
    """Return `points` as csv with the metric's name; a text that a spreadsheet would run gets an apostrophe."""
    named = table.rename(columns={name: f"{metric} {name}" for name in ("mean", "std", "low", "high")})
    return named.map(cell).to_csv(index=False)
