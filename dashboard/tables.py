"""The comparison table: which runs count, mean and spread, paired difference to a control. No Streamlit, no MLflow.

A *line* of the table is one setting (LINE: row, rule, wiring, network, the views of a test video and what else changes
the result); its runs are the cells fold x seed. Mean, spread and the difference's interval are those of `compare`
(app.comparison.statistics: seeds averaged within a fold, then folds), so that the page and results.md agree. The
numbers of folds and seeds stand beside them, so that one fold never passes for all. Differences are paired: same split,
data, fold and seed.
"""

from __future__ import annotations

import math

import pandas as pd

from app.comparison import statistics
from dashboard import data_columns
from dashboard.runs import METRICS

LINE = ["row", "rule", "wiring", "network", "split", "update", "stash", "executor", "device", "views"]
CELL = ["split", "fold", "seed"]
SINGLE_RUNS = "single runs"
SCORE = "test/top1"
_CONTROL_RULES = ("backprop_shifted", "backprop_frame", "backprop")


def in_scope(runs: pd.DataFrame, dataset: str, comparison: str) -> pd.DataFrame:
    """Return the runs of one data set and one comparison (SINGLE_RUNS: those that belong to none), with `line` set."""
    wanted = (runs["dataset"] == dataset) & (runs["comparison"].fillna(SINGLE_RUNS) == comparison)
    return label_lines(runs[wanted])


def label_lines(runs: pd.DataFrame) -> pd.DataFrame:
    """Return `runs` with a column `line`: the row's name, and only where that is not unique, what tells it apart.

    A setting that a run does not name reads as "".
    """
    keys = runs[LINE].fillna("").astype(str)
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


def tested(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs that count: reporting, finished, with a test score."""
    runs = reporting(runs)
    return runs[(runs["status"] == "FINISHED") & runs[SCORE].notna()]


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
    return next((min(lines) for lines in [named, *exact, runs["line"]] if len(lines)), None)


def comparison_table(runs: pd.DataFrame, control: str | None) -> pd.DataFrame:
    """Return one line a setting, best score first.

    Columns: `line`, LINE, counts `runs`, `folds`, `seeds`, the texts `videos` and `id_hash` of data_columns; for each
    metric M `M` (mean) and `M std` (NaN for a single run); and of SCORE to `control` the `difference`, its 95 %
    interval `low`, `high` (NaN below three folds, or seeds of one fold) and the number of `pairs`. A setting of which
    no run finished has NaN.
    """
    counted = newest(tested(runs))
    records = [
        {
            **group[LINE].iloc[0].to_dict(),
            "line": line,
            **_statistics(counted[counted["line"] == line]),
            "videos": data_columns.videos(counted[counted["line"] == line]),
            "id_hash": data_columns.hashes(counted[counted["line"] == line]),
            **paired_difference(counted, line, control),
        }
        for line, group in runs.groupby("line", sort=True)
    ]
    table = pd.DataFrame.from_records(records, columns=_columns())
    return table.sort_values(SCORE, ascending=False, kind="stable", na_position="last").reset_index(drop=True)


def _columns() -> list[str]:
    metrics = [name for metric in METRICS for name in (metric, f"{metric} std")]
    return [
        "line",
        *LINE,
        "runs",
        "folds",
        "seeds",
        "videos",
        "id_hash",
        *metrics,
        "difference",
        "low",
        "high",
        "pairs",
    ]


def _statistics(runs: pd.DataFrame) -> dict[str, float]:
    found: dict[str, float] = {"runs": len(runs), "folds": runs["fold"].nunique(), "seeds": runs["seed"].nunique()}
    for metric in METRICS:
        values = _values(runs, runs[metric])
        summary = statistics.mean_std(values) if values else None
        found[metric] = summary.mean if summary else math.nan
        found[f"{metric} std"] = _number(summary.std if summary else None)
    return found


def paired_difference(counted: pd.DataFrame, line: str, control: str | None) -> dict[str, float]:
    """Return `difference` (line - control in SCORE), its 95 % interval `low`, `high`, and the number of `pairs`.

    A pair is the same split, data hash, fold and seed; without any pair the numbers are NaN.
    """
    pair = [*CELL, "data_hash"]
    ours, theirs = (counted.loc[counted["line"] == name, [*pair, SCORE]] for name in (line, control))
    both = ours.merge(theirs, on=pair, suffixes=("", "_control"))
    values = _values(both, both[SCORE] - both[f"{SCORE}_control"])
    if not values:
        return {"difference": math.nan, "low": math.nan, "high": math.nan, "pairs": 0}
    found = statistics.mean_interval(values)
    return {"difference": found.estimate, "low": _number(found.low), "high": _number(found.high), "pairs": len(values)}


def _values(runs: pd.DataFrame, numbers: pd.Series) -> dict[tuple[int, int], float]:
    cells = runs[["fold", "seed"]].fillna(0).astype(int).assign(value=numbers).dropna()
    return {(int(fold), int(seed)): float(value) for fold, seed, value in cells.itertuples(index=False)}


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def constant_settings(table: pd.DataFrame) -> dict[str, str]:
    """Return the settings that all lines share (name: value): said once above the table, not in a column."""
    shared = {key: table[key].unique() for key in LINE[1:]}
    return {key: str(values[0]) for key, values in shared.items() if len(values) == 1 and values[0]}


def varying_settings(table: pd.DataFrame) -> list[str]:
    """Return the settings of LINE, without the row's name, that differ between lines."""
    return [key for key in LINE[1:] if table[key].nunique() > 1]


def remarks(runs: pd.DataFrame, control: str | None) -> list[str]:
    """Return one sentence for everything that keeps a run out of the means or out of a pair, or mixes two data sets."""
    counted = newest(tested(runs))
    finished = runs[runs["status"] == "FINISHED"]
    left_out = {
        "on a fold or seed on which the settings were chosen": len(runs) - len(reporting(runs)),
        "failed": int((runs["status"] == "FAILED").sum()),
        "stopped early": int((runs["status"] == "KILLED").sum()),
        "not finished yet": int(runs["status"].isin(["RUNNING", "SCHEDULED"]).sum()),
        "finished without a test score": int(finished[SCORE].isna().sum()),
        "repeated later with the same fold and seed": len(tested(runs)) - len(counted),
    }
    sentences = [
        f"{number} of {len(runs)} runs {what}: not in the means." for what, number in left_out.items() if number
    ]
    others = sorted(set(counted["line"]) - {control}) if control else []
    unpaired = [sentence for line in others if (sentence := _unpaired(counted, line, control))]
    return sentences + data_columns.mixed(counted) + unpaired


def _unpaired(counted: pd.DataFrame, line: str, control: str | None) -> str:
    total = int((counted["line"] == line).sum())
    missing = total - int(paired_difference(counted, line, control)["pairs"])
    if not missing:
        return ""
    return f"{line}: {missing} of {total} runs have no run of {control} on the same data, fold and seed."
