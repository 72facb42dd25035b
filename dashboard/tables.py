"""The comparison table: which runs count, mean and spread, paired difference to a control. No Streamlit, no MLflow.

A *line* of the table is one setting (LINE: row, rule, wiring, network, the views of a test video and what else changes
the result); its runs are the cells fold x seed. Mean, spread and the difference's interval are those of `compare`
(app.comparison.statistics: seeds averaged within a fold, then folds), so that the page and results.md agree. The
numbers of folds and seeds stand beside them, so that one fold never passes for all. Differences are paired: same split,
data, fold and seed. Lines of different data sets or comparisons are never averaged: each is part of the setting.

Means of different folds do not compare: an easy fold makes a row look best. With `common` every figure of the table is
over the cells that all its lines have, so means, order and differences agree.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from itertools import combinations

import pandas as pd

from app.comparison import statistics
from dashboard import data_columns
from dashboard.baselines import disagreements
from dashboard.names import code
from dashboard.runs import METRICS
from dashboard.scores import BASELINES, TOP1, Score

SCOPE = ["task", "dataset", "comparison"]
LINE = [
    *("row", "rule", "wiring", "network", "split", "update", "stash", "executor", "device", "views", "horizon", "gap"),
    *("detector", "encoder"),
    *SCOPE,
]
CELL = ["split", "fold", "seed"]
PAIR = [*CELL, "data_hash"]
# What `comparison_table` reads of the runs beside metrics.
READ = [
    "line",
    *LINE,
    *CELL,
    "data_hash",
    "status",
    "started",
    "tuning",
    "lmin",
    "data_found",
    "data_expected",
    "id_hash",
]
SINGLE_RUNS = "single runs"
ALL = "all"
_NAMED = 4
DIFFERENCE = ["difference", "low", "high", "relative", "relative low", "relative high"]
Values = dict[tuple[int, int], float]
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
    return _named(setting, _telling(namesakes))


def _named(setting: pd.Series, keys: Collection[str]) -> str:
    return " · ".join([setting["row"], *(setting[key] for key in keys if setting[key])])


def _telling(namesakes: pd.DataFrame) -> list[str]:
    """Return the fewest keys that tell settings of one row apart, data set and comparison before others."""
    varying = [key for key in dict.fromkeys([*SCOPE[1:], *LINE]) if namesakes[key].nunique() > 1]
    for number in range(len(varying)):
        for keys in combinations(varying, number):
            if len({_named(setting, keys) for _, setting in namesakes.iterrows()}) == len(namesakes):
                return list(keys)
    return varying


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


def on_common_cells(counted: pd.DataFrame, lines: Collection[str]) -> pd.DataFrame:
    """Return the runs in the cells (split, data, fold, seed) that all `lines` with a run in their scope have.

    All runs of a scope (data set and comparison) whose lines have no cell in common. `counted` as `newest` returns it.
    """
    keys = counted[PAIR].astype(object).fillna("").astype(str).agg("|".join, axis=1)
    shown = counted["line"].isin(list(lines))
    keep = pd.Series(True, index=counted.index)
    for _, group in counted.groupby(SCOPE, dropna=False):
        cells = [set(keys[each.index]) for _, each in group[shown[group.index]].groupby("line")]
        shared = set.intersection(*cells) if cells else set()
        if shared:
            keep[group.index] = keys[group.index].isin(shared)
    return counted[keep]


def cells_differ(runs: pd.DataFrame, lines: Collection[str], score: Score = TOP1) -> bool:
    """Return whether some of `lines` have a run in a cell in which another line of their scope has none."""
    counted = newest(counting(runs[runs["line"].isin(list(lines))], score))
    return len(on_common_cells(counted, lines)) < len(counted) or bool(_without_common(counted))


def _without_common(counted: pd.DataFrame) -> list[str]:
    """Return the names of scopes whose lines have no cell in common."""
    found = []
    for scope, group in counted.groupby(SCOPE, dropna=False):
        lines = group.groupby("line").size()
        cells = group.drop_duplicates(["line", *PAIR]).groupby(PAIR, dropna=False).size()
        if len(lines) > 1 and cells.max() < len(lines):
            found.append(" · ".join(str(name) for name in scope[1:] if name))
    return found


def comparison_table(
    runs: pd.DataFrame,
    control: Control,
    score: Score = TOP1,
    *,
    lines: Collection[str] | None = None,
    common: bool = False,
) -> pd.DataFrame:
    """Return one line a setting, best score first; over several data sets and comparisons these stand together.

    `lines`: those to show, where the runs hold a control's beside them; `common`: over the cells that all these have.

    Columns: `line`, LINE, counts `runs`, `folds`, `seeds`, the texts `lmin`, and `videos` and `id_hash` of
    data_columns; for the score and each cost M `M` (mean) and `M std` (NaN for a single run); and of the score to
    `control` the `difference`, its 95 % interval `low`, `high` (NaN below three folds, or seeds of one fold), the
    number of `pairs` and the `control` itself. A setting of which no run finished has NaN.
    """
    shown = set(runs["line"]) if lines is None else set(lines)
    metrics = list(dict.fromkeys([*METRICS, score.metric]))
    runs = runs[list(dict.fromkeys([*READ, *(name for name in metrics if name in runs)]))]
    counted = newest(counting(runs, score))
    if common:
        counted = on_common_cells(counted, shown)
    records = []
    for line, group in runs[runs["line"].isin(shown)].groupby("line", sort=True):
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
    return table.sort_values(["dataset", "comparison"], kind="stable").reset_index(drop=True)


def _columns(metrics: list[str]) -> list[str]:
    counts = ["runs", "folds", "seeds", "lmin", "videos", "id_hash"]
    means = [name for metric in metrics for name in (metric, f"{metric} std")]
    return ["line", *LINE, *counts, *means, *DIFFERENCE, "pairs", "control"]


def _statistics(runs: pd.DataFrame, metrics: list[str]) -> dict[str, float]:
    found: dict[str, float] = {"runs": len(runs), "folds": runs["fold"].nunique(), "seeds": runs["seed"].nunique()}
    cells = _cells(runs)
    for metric in metrics:
        values = {cell: value for cell, value in zip(cells, _values_of(runs, metric), strict=True) if value == value}
        summary = statistics.mean_std(values) if values else None
        found[metric] = summary.mean if summary else math.nan
        found[f"{metric} std"] = _number(summary.std if summary else None)
    return found


def paired_difference(counted: pd.DataFrame, line: str, control: str | None, score: Score = TOP1) -> dict[str, float]:
    """Return `difference` (line - control in the score), its 95 % interval `low`, `high`, and the number of `pairs`.

    Of a relative score also the same divided by the control: `relative`, `relative low`, `relative high`. A pair is the
    same split, data hash, fold and seed; without any pair, and of the control to itself, there is no interval.
    """
    found = dict.fromkeys(DIFFERENCE, math.nan)
    ours, theirs = _pairs(counted, line, control, score)
    if not ours:
        return {**found, "pairs": 0}
    if line == control:
        return {**found, "difference": 0.0, "pairs": len(ours)}
    found |= _numbers("", "difference", statistics.paired_difference(ours, theirs))
    if score.relative:
        found |= _numbers("relative ", "relative", statistics.relative_difference(ours, theirs))
    return {**found, "pairs": len(ours)}


def _numbers(prefix: str, name: str, interval: statistics.Interval | None) -> dict[str, float]:
    if interval is None:
        return {}
    return {name: interval.estimate, f"{prefix}low": _number(interval.low), f"{prefix}high": _number(interval.high)}


def _pairs(counted: pd.DataFrame, line: str, control: str | None, score: Score) -> tuple[Values, Values]:
    """Return the scores of the line and of its control by fold and seed, of the pairs."""
    ours, theirs = (_by_pair(counted[counted["line"] == name], score) for name in (line, control))
    both = [pair for pair in ours if pair in theirs]
    return {pair[-1]: ours[pair] for pair in both}, {pair[-1]: theirs[pair] for pair in both}


def _by_pair(runs: pd.DataFrame, score: Score) -> dict[tuple[str, str, tuple[int, int]], float]:
    pairs = zip(runs["split"].map(str), runs["data_hash"].map(str), _cells(runs), strict=True)
    return dict(zip(pairs, _values_of(runs, score.metric), strict=True))


def _cells(runs: pd.DataFrame) -> list[tuple[int, int]]:
    """Return fold and seed of each run; -1 for none, which is no fold of any data set."""
    fold, seed = (runs[name].fillna(-1).astype(int) for name in ("fold", "seed"))
    return list(zip(fold, seed, strict=True))


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def constant_settings(table: pd.DataFrame) -> dict[str, str]:
    """Return the settings that all lines share (name: value): said once above the table, not in a column."""
    shared = {key: table[key].unique() for key in LINE[1:] if key not in SCOPE}
    return {key: str(values[0]) for key, values in shared.items() if len(values) == 1 and values[0]}


def varying_settings(table: pd.DataFrame) -> list[str]:
    """Return the settings of LINE, without the row's name, that differ between lines."""
    return [key for key in LINE[1:] if table[key].nunique() > 1]


def remarks(
    runs: pd.DataFrame,
    control: Control,
    score: Score = TOP1,
    *,
    lines: Collection[str] | None = None,
    common: bool = False,
) -> list[str]:
    """Return a sentence of Markdown for all that keeps a run out of a mean or a pair, or mixes two data sets."""
    uneven = _uneven(runs, set(runs["line"]) if lines is None else lines, score, common=common)
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
    return uneven + sentences + data_columns.mixed(counted) + disagreements(counted) + list(filter(None, unpaired))


def _uneven(runs: pd.DataFrame, lines: Collection[str], score: Score, *, common: bool) -> list[str]:
    """Return what keeps the means of the lines from comparing, or what they leave out so as to compare."""
    counted = newest(counting(runs[runs["line"].isin(list(lines))], score))
    apart = _without_common(counted)
    if apart:
        return [f"The rows of {code(' and '.join(apart))} have no fold and seed in common: their means do not compare."]
    kept = on_common_cells(counted, lines)
    if len(kept) == len(counted):
        return []
    if not common:
        return ["Not all rows have the same folds and seeds: their means and their order do not compare."]
    sentences = []
    for _, group in counted.groupby(SCOPE, dropna=False):
        left, cells = kept.loc[kept.index.isin(group.index)], len(group.drop_duplicates(PAIR))
        shared = len(left.drop_duplicates(PAIR))
        sizes = group.groupby("line").size()
        fewest = [str(line) for line in sizes[sizes < cells].sort_values(kind="stable").index]
        if shared < cells:
            named = ", ".join(f"{code(line)} ({sizes[line]})" for line in fewest[:_NAMED])
            more = f" and {len(fewest) - _NAMED} more" if len(fewest) > _NAMED else ""
            sentences.append(
                f"Only the {shared} of {cells} folds and seeds that all rows have; fewer have: {named}{more}."
            )
    return sentences


def _unpaired(counted: pd.DataFrame, line: str, control: str | None, score: Score) -> str:
    if control is None or line == control:
        return ""
    total = int((counted["line"] == line).sum())
    missing = total - len(_pairs(counted, line, control, score)[0])
    if not missing:
        return ""
    return f"{code(line)}: {missing} of {total} runs have no run of {code(control)} on the same data, fold and seed."
