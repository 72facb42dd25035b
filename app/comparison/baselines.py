"""The predictions that cost nothing, as lines of every table of predicted frames.

    copy_last    the newest frame that can have reached the output, again
    mean_last    the mean of the last four frames up to and with it

Each run scores them on the frames that it is scored on itself (`test/copy_last/mse`, ...). All rows of a cell are
scored on the same frames, so they must agree: where they don't, the table compares different frames, and says so.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from app.comparison.variants import MARK, partner

BASELINES = ("copy_last", "mean_last")
COPY_LAST = BASELINES[0]
RULE = "baseline"
_METRIC = re.compile(r"test/(copy_last|mean_last)/(.+)")
# Sums over the test set in another order of batches differ by rounding alone.
_TOLERANCE = 1e-4

CellKey = tuple[str, int, int]
Record = Mapping[str, Any]
Records = Mapping[CellKey, Record]


def is_baseline(row: str) -> bool:
    """Whether a row is one of the baselines, of any variant."""
    return row.split(MARK, 1)[0] in BASELINES


def with_baselines(records: Records) -> dict[CellKey, Record]:
    """Return the records with one more for each baseline and cell, under the names that the rows' own metrics have.

    Where the rows of a cell disagree the first one's figures stand (see `disagreements`).
    """
    result = dict(records)
    for row, fold, seed, record in _finished(records):
        for baseline, metrics in _baselines_of(record).items():
            name = str(partner(row, baseline))
            facts = {"row": name, "rule": RULE, "wiring": "-", "network": "-", "dataset": record["dataset"]}
            own = {**facts, "fold": fold, "seed": seed, "status": "ok", "metrics": metrics}
            result.setdefault((name, fold, seed), own)
    return result


def baseline_names(records: Iterable[CellKey]) -> list[str]:
    """Return the baselines that `with_baselines` added, copy_last before mean_last."""
    names = dict.fromkeys(row for row, _, _ in records if is_baseline(row))
    return sorted(names, key=lambda name: (name.partition(MARK)[2], BASELINES.index(name.split(MARK, 1)[0])))


def disagreements(records: Records) -> list[str]:
    """Return a sentence for every cell whose rows scored the baselines differently."""
    sentences = []
    first: dict[tuple[str, int, int], tuple[str, Mapping[str, float]]] = {}
    for row, fold, seed, record in _finished(records):
        for baseline, metrics in _baselines_of(record).items():
            name = str(partner(row, baseline))
            known, values = first.setdefault((name, fold, seed), (row, metrics))
            differ = [key for key in metrics if key in values and not _equal(metrics[key], values[key])]
            if differ:
                key = differ[0]
                sentences.append(
                    f"Fold {fold}, seed {seed}: {name} has {key} {values[key]:.6g} in {known} and {metrics[key]:.6g} "
                    f"in {row}, so these rows were scored on different frames."
                )
                break
    return sentences


def _finished(records: Records) -> Sequence[tuple[str, int, int, Record]]:
    return [(*key, record) for key, record in sorted(records.items()) if record["status"] == "ok"]


def _baselines_of(record: Record) -> dict[str, dict[str, float]]:
    """Return baseline to metrics, each `test/NAME` as the row's own metric is called."""
    found: dict[str, dict[str, float]] = {}
    for name, value in record["metrics"].items():
        match = _METRIC.fullmatch(name)
        if match and value is not None:
            found.setdefault(match[1], {})[f"test/{match[2]}"] = float(value)
    return found


def _equal(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=_TOLERANCE)
