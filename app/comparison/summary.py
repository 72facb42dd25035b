"""One line of the table for every row: what the records of a comparison say, before anybody formats it."""

from __future__ import annotations

import statistics as standard
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.comparison.baselines import COPY_LAST, baseline_names, is_baseline
from app.comparison.bounds import GAP_RECOVERED, Bound
from app.comparison.grid import CellKey, is_reporting, make_cell
from app.comparison.spec import Comparison
from app.comparison.statistics import (
    Interval,
    MeanStd,
    Pair,
    gap_recovered,
    has_diverged,
    has_fallen_back,
    holds,
    mean_interval,
    mean_std,
    paired_difference,
    relative_difference,
    share,
    verdict,
)
from app.comparison.variants import partner

Records = Mapping[CellKey, Mapping[str, Any]]


@dataclass(frozen=True)
class RowSummary:
    """What the table says of one row, or of a baseline; None where it has no such value.

    `reported` and `difference`, `gap` are over the reporting folds; `overall` over all. `costs` are medians over the
    runs (`memory/peak_mib`: the largest). `unstable` is the share of runs that diverged or fell back, None for a
    baseline. Of predicted frames alone: `lmin`, `relative` (the difference as a share of the control) and `to_copy`
    (the same against copying the newest frame) with `copy_verdict`.
    """

    name: str
    facts: Mapping[str, Any]
    runs: int
    folds: int
    seeds: int
    reported: MeanStd | None
    overall: MeanStd | None
    difference: Interval | None
    verdict: str
    gap: Interval | None
    unstable: float | None
    costs: Mapping[str, float]
    units: Mapping[str, float]
    lmin: str = ""
    relative: Interval | None = None
    to_copy: Interval | None = None
    copy_verdict: str = ""


@dataclass(frozen=True)
class Claim:
    """A bound and what the runs say of it: "holds", "fails" or "undecided"."""

    bound: Bound
    interval: Interval | None
    answer: str


def current(comparison: Comparison, records: Records) -> dict[CellKey, Mapping[str, Any]]:
    """The records that belong to the comparison as it is now: a known row, an unchanged configuration."""
    return {
        key: record
        for key, record in records.items()
        if key[0] in comparison.row_names
        and record["config_hash"] == make_cell(comparison, comparison.row(key[0]), key[1], key[2]).config_hash
    }


def summarise(comparison: Comparison, records: Records) -> list[RowSummary]:
    """A summary for each row that has a finished run, in the file's order, and for the baselines below them."""
    names = [*comparison.row_names, *baseline_names(records)]
    summaries = (_summarise_row(comparison, records, name) for name in names)
    return [summary for summary in summaries if summary is not None]


def claims(comparison: Comparison, records: Records) -> list[Claim]:
    """Every bound of the comparison with its answer, on the reporting folds."""
    return [_claim(comparison, records, bound) for bound in comparison.bounds]


def row_values(
    comparison: Comparison, records: Records, row: str | None, *, reporting: bool, metric: str | None = None
) -> dict[Pair, float]:
    """(fold, seed) to the metric of a row's finished runs, of the reporting folds alone or of all."""
    name = metric or comparison.metric
    return {
        (fold, seed): float(record["metrics"][name])
        for (label, fold, seed), record in records.items()
        if label == row
        and record["status"] == "ok"
        and record["metrics"].get(name) is not None
        and (not reporting or is_reporting(comparison, fold, seed))
    }


def row_gap(comparison: Comparison, records: Records, row: str) -> Interval | None:
    """The gap a row recovers between the comparison's frozen and exact rows; None where not defined."""
    names = (row, partner(row, comparison.frozen), partner(row, comparison.exact))
    values = [row_values(comparison, records, name, reporting=True) for name in names]
    sign = -1 if comparison.better == "lower" else 1  # the gap must be one that exact wins
    return gap_recovered(*({pair: sign * value for pair, value in row.items()} for row in values))


def _summarise_row(comparison: Comparison, records: Records, name: str) -> RowSummary | None:
    own = [record for key, record in sorted(records.items()) if key[0] == name]
    finished = [record for record in own if record["status"] == "ok"]
    if not finished:
        return None
    reported = row_values(comparison, records, name, reporting=True)
    overall = row_values(comparison, records, name, reporting=False)
    against = partner(name, comparison.control)
    control = row_values(comparison, records, against, reporting=True)
    difference = None if name == against else paired_difference(reported, control)
    copied = partner(name, COPY_LAST)
    to_copy = None if name == copied else _versus(comparison, records, name, copied)
    metrics = [record["metrics"] for record in finished]
    return RowSummary(
        name=name,
        facts={key: finished[0][key] for key in ("rule", "wiring", "network", "dataset")},
        runs=len(finished),
        folds=len({record["fold"] for record in finished}),
        seeds=len({record["seed"] for record in finished}),
        reported=mean_std(reported) if reported else None,
        overall=mean_std(overall) if overall else None,
        difference=difference,
        verdict="control" if name == against else _word(comparison, difference),
        gap=row_gap(comparison, records, name),
        unstable=None if is_baseline(name) else share([_unstable(comparison, values) for values in metrics]),
        costs=_costs(metrics),
        units=_means(metrics, ("alignment/", "grad_norm/", "weight_change/")),
        lmin=", ".join(sorted({record["lmin"] for record in finished if "lmin" in record})),
        relative=None if name == against else relative_difference(reported, control),
        to_copy=to_copy,
        copy_verdict="" if name == copied else _word(comparison, to_copy),
    )


def _word(comparison: Comparison, difference: Interval | None) -> str:
    """The verdict in words; where less is better, "below" would read as worse."""
    answer = verdict(difference)
    return {"below": "better", "above": "worse"}.get(answer, answer) if comparison.better == "lower" else answer


def _versus(
    comparison: Comparison, records: Records, row: str, versus: str | None, metric: str | None = None
) -> Interval | None:
    """The paired difference of two rows as a share of the second's, on the reporting folds."""
    values = (row_values(comparison, records, name, reporting=True, metric=metric) for name in (row, versus))
    return relative_difference(*values)


def _unstable(comparison: Comparison, metrics: Mapping[str, Any]) -> bool:
    return has_diverged(metrics, loss_above=comparison.diverged_above) or has_fallen_back(metrics)


def _claim(comparison: Comparison, records: Records, bound: Bound) -> Claim:
    if bound.metric == GAP_RECOVERED:
        interval = row_gap(comparison, records, bound.row)
    else:
        values = row_values(comparison, records, bound.row, reporting=True, metric=bound.metric)
        if bound.relative:
            interval = _versus(comparison, records, bound.row, bound.versus, bound.metric)
        elif bound.versus:
            versus = row_values(comparison, records, bound.versus, reporting=True, metric=bound.metric)
            interval = paired_difference(values, versus)
        else:
            interval = mean_interval(values) if values else None
    return Claim(bound, interval, holds(interval, at_least=bound.at_least, at_most=bound.at_most))


def _costs(metrics: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    names = {name for values in metrics for name in values}
    costs = [name for name in names if name.startswith(("latency/", "memory/")) or name == "train/frames_per_second"]
    return {name: (max if name == "memory/peak_mib" else standard.median)(_present(metrics, name)) for name in costs}


def _means(metrics: Sequence[Mapping[str, Any]], prefixes: tuple[str, ...]) -> dict[str, float]:
    names = sorted({name for values in metrics for name in values if name.startswith(prefixes)})
    return {name: standard.fmean(present) for name in names if (present := list(_present(metrics, name)))}


def _present(metrics: Iterable[Mapping[str, Any]], name: str) -> list[float]:
    """The finite values of a metric; [nan] where there is none."""
    return [float(values[name]) for values in metrics if values.get(name) is not None] or [float("nan")]
