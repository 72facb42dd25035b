"""The comparison table: which runs count, mean and spread, paired difference to a control. No Streamlit, no MLflow.

A *line* of the table is one setting (LINE: row, rule, wiring, network, the views of a test video and what else changes
the result); its runs are the cells fold x seed. Mean, spread and the difference's interval are those of `compare`
(app.comparison.statistics: seeds averaged within a fold, then folds), so that the page and results.md agree. The
numbers of folds and seeds stand beside them, so that one fold never passes for all. Differences are paired: same split,
data, fold and seed. Lines of different data sets or comparisons are never averaged: each is part of the setting.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import pandas as pd

from app.comparison import statistics
from dashboard import data_columns
from dashboard.baselines import disagreements
from dashboard.names import code
from dashboard.runs import METRICS
from dashboard.scores import BASELINES, TOP1, Score

SCOPE = ["task", "dataset", "comparison"]
LINE = [
    *("row", "rule", "wiring", "network", "split", "update", "stash", "executor", "device", "views", "horizon"),
    *SCOPE,
]
CELL = ["split", "fold", "seed"]
SINGLE_RUNS = "single runs"
ALL = "all"
# The control of each line, or one for all.
Control = Mapping[str, str] | str | None
_CONTROL_RULES = ("backprop_shifted", "backprop_frame", "backprop")


def in_scope(runs: pd.DataFrame, dataset: str, comparison: str, task: str = ALL) -> pd.DataFrame:
    """Return `of_scope` with `line` set."""
    return label_lines(of_scope(runs, dataset, comparison, task))


def of_scope(runs: pd.DataFrame, dataset: str, comparison: str, task: str = ALL) -> pd.DataFrame:
    """Return the runs of a data set, a comparison (SINGLE_RUNS: of none) and a task; ALL: of any."""
    wanted = pd.Series(True, index=runs.index)
    for name, value in zip(SCOPE, (task, dataset, comparison), strict=True):
        if value != ALL:
            missing = SINGLE_RUNS if name == "comparison" else "unknown"
            wanted &= runs[name].astype(object).fillna("").replace("", missing) == value
    return runs[wanted]


def label_lines(runs: pd.DataFrame) -> pd.DataFrame:
    """Return `runs` with a column `line`: the row's name, and only where that is not unique, what tells it apart.

    A setting that a run does not name reads as "".
    """
    keys = runs[LINE].astype(object).fillna("").astype(str)
    settings = keys.drop_duplicates()
    labels = {tuple(setting): _label(setting, settings) for _, setting in settings.iterrows()}
    line = [labels[tuple(key)] for key in keys.itertuples(index=False)]
    return runs.assign(**{key: keys[key] for key in LINE}, line=line)


def _label(setting: pd.Series, settings: pd.DataFrame) -> str:
    namesakes = settings[settings["row"] == setting["row"]]
    telling = [key for key in LINE if namesakes[key].nunique() > 1]
    return " · ".join([setting["row"], *(setting[key] for key in telling if setting[key])])


def reporting(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs outside the folds (or seeds) on which their comparison chose settings, as its report does."""
    return runs[runs["tuning"].isna()]


def counting(runs: pd.DataFrame, score: Score = TOP1) -> pd.DataFrame:
    """Return the runs that count: reporting, finished, with the score."""
    runs = reporting(runs)
    return runs[(runs["status"] == "FINISHED") & _values_of(runs, score.metric).notna()]


def _values_of(runs: pd.DataFrame, metric: str) -> pd.Series:
    return runs[metric] if metric in runs else pd.Series(math.nan, index=runs.index)


def newest(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the latest started of the runs that repeat the same line, fold and seed."""
    return runs.sort_values("started", kind="stable").drop_duplicates(["line", *CELL], keep="last")


def default_control(runs: pd.DataFrame) -> str | None:
    """Return the line to compare with: the comparison's own control, else exact backprop, else the first line.

    Exact is shifted backprop, else frame, else plain. A row called frozen trains by backprop but only its last unit:
    a control of its own, not this one. None without runs.
    """
    named = runs.loc[runs["row"] == runs["control"], "line"]
    trained = runs[~runs["row"].astype(str).str.contains("frozen", case=False)]
    exact = [trained.loc[trained["rule"] == rule, "line"] for rule in _CONTROL_RULES]
    learned = runs.loc[~runs["rule"].isin(list(BASELINES)), "line"]
    return next((min(lines) for lines in [named, *exact, learned, runs["line"]] if len(lines)), None)


def own_controls(runs: pd.DataFrame) -> dict[str, str]:
    """Return the control of each line: the default one of its own data set and comparison."""
    controls = {}
    for _, group in runs.groupby(SCOPE, dropna=False):
        control = default_control(group)
        if control is not None:
            controls.update(dict.fromkeys(group["line"].unique(), control))
    return controls


def control_by_row(runs: pd.DataFrame, row: str) -> dict[str, str]:
    """Return as control of each line the line of this row in its own data set and comparison, where there is one."""
    controls = {}
    for _, group in runs.groupby(SCOPE, dropna=False):
        found = sorted(group.loc[group["row"] == row, "line"].unique())
        if found:
            controls.update(dict.fromkeys(group["line"].unique(), found[0]))
    return controls


def _control_of(control: Control, line: str) -> str | None:
    return control if control is None or isinstance(control, str) else control.get(line)


def comparison_table(runs: pd.DataFrame, control: Control, score: Score = TOP1) -> pd.DataFrame:
    """Return one line a setting, best score first.

    Columns: `line`, LINE, counts `runs`, `folds`, `seeds`, the texts `lmin`, and `videos` and `id_hash` of
    data_columns; for the score and each cost M `M` (mean) and `M std` (NaN for a single run); and of the score to
    `control` the `difference`, its 95 % interval `low`, `high` (NaN below three folds, or seeds of one fold), the
    number of `pairs` and the `control` itself. A setting of which no run finished has NaN.
    """
    counted = newest(counting(runs, score))
    metrics = list(dict.fromkeys([*METRICS, score.metric]))
    records = []
    for line, group in runs.groupby("line", sort=True):
        ours, against = counted[counted["line"] == line], _control_of(control, str(line))
        records.append(
            {
                **group[LINE].iloc[0].to_dict(),
                "line": line,
                **_statistics(ours, metrics),
                "lmin": " ".join(sorted({str(value) for value in group["lmin"].dropna()})),
                "videos": data_columns.videos(ours),
                "id_hash": data_columns.hashes(ours),
                **paired_difference(counted, str(line), against, score),
                "control": against or "",
            }
        )
    table = pd.DataFrame.from_records(records, columns=_columns(metrics))
    table = table.sort_values(score.metric, ascending=score.lower, kind="stable", na_position="last")
    return table.reset_index(drop=True)


def _columns(metrics: list[str]) -> list[str]:
    counts = ["runs", "folds", "seeds", "lmin", "videos", "id_hash"]
    means = [name for metric in metrics for name in (metric, f"{metric} std")]
    return ["line", *LINE, *counts, *means, "difference", "low", "high", "pairs", "control"]


def _statistics(runs: pd.DataFrame, metrics: list[str]) -> dict[str, float]:
    found: dict[str, float] = {"runs": len(runs), "folds": runs["fold"].nunique(), "seeds": runs["seed"].nunique()}
    for metric in metrics:
        values = _values(runs, _values_of(runs, metric))
        summary = statistics.mean_std(values) if values else None
        found[metric] = summary.mean if summary else math.nan
        found[f"{metric} std"] = _number(summary.std if summary else None)
    return found


def paired_difference(counted: pd.DataFrame, line: str, control: str | None, score: Score = TOP1) -> dict[str, float]:
    """Return `difference` (line - control in the score), its 95 % interval `low`, `high`, and the number of `pairs`.

    A pair is the same split, data hash, fold and seed; without any pair the numbers are NaN.
    """
    values = _pairs(counted, line, control, score)
    if not values:
        return {"difference": math.nan, "low": math.nan, "high": math.nan, "pairs": 0}
    found = statistics.mean_interval(values)
    return {"difference": found.estimate, "low": _number(found.low), "high": _number(found.high), "pairs": len(values)}


def _pairs(counted: pd.DataFrame, line: str, control: str | None, score: Score) -> dict[tuple[int, int], float]:
    pair = [*CELL, "data_hash"]
    scored = counted.assign(score=_values_of(counted, score.metric))
    ours, theirs = (scored.loc[scored["line"] == name, [*pair, "score"]] for name in (line, control))
    both = ours.merge(theirs, on=pair, suffixes=("", "_control"))
    return _values(both, both["score"] - both["score_control"])


def _values(runs: pd.DataFrame, numbers: pd.Series) -> dict[tuple[int, int], float]:
    cells = runs[["fold", "seed"]].fillna(0).astype(int).assign(value=numbers).dropna()
    return {(int(fold), int(seed)): float(value) for fold, seed, value in cells.itertuples(index=False)}


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def constant_settings(table: pd.DataFrame) -> dict[str, str]:
    """Return the settings that all lines share (name: value): said once above the table, not in a column."""
    shared = {key: table[key].unique() for key in LINE[1:] if key not in SCOPE}
    return {key: str(values[0]) for key, values in shared.items() if len(values) == 1 and values[0]}


def varying_settings(table: pd.DataFrame) -> list[str]:
    """Return the settings of LINE, without the row's name, that differ between lines."""
    return [key for key in LINE[1:] if table[key].nunique() > 1]


def remarks(runs: pd.DataFrame, control: Control, score: Score = TOP1) -> list[str]:
    """Return a sentence of Markdown for all that keeps a run out of a mean or a pair, or mixes two data sets."""
    if "baseline" in runs:
        runs = runs[~runs["baseline"].astype(bool)]
    counted = newest(counting(runs, score))
    finished = runs[runs["status"] == "FINISHED"]
    left_out = {
        "on a fold or seed on which the settings were chosen": len(runs) - len(reporting(runs)),
        "failed": int((runs["status"] == "FAILED").sum()),
        "stopped early": int((runs["status"] == "KILLED").sum()),
        "not finished yet": int(runs["status"].isin(["RUNNING", "SCHEDULED"]).sum()),
        "finished without a test score": int(_values_of(finished, score.metric).isna().sum()),
        "repeated later with the same fold and seed": len(counting(runs, score)) - len(counted),
    }
    sentences = [
        f"{number} of {len(runs)} runs {what}: not in the means." for what, number in left_out.items() if number
    ]
    unpaired = [_unpaired(counted, line, _control_of(control, line), score) for line in sorted(set(counted["line"]))]
    return sentences + data_columns.mixed(counted) + disagreements(counted) + list(filter(None, unpaired))


def _unpaired(counted: pd.DataFrame, line: str, control: str | None, score: Score) -> str:
    if control is None or line == control:
        return ""
    total = int((counted["line"] == line).sum())
    missing = total - len(_pairs(counted, line, control, score))
    if not missing:
        return ""
    return f"{code(line)}: {missing} of {total} runs have no run of {code(control)} on the same data, fold and seed."
