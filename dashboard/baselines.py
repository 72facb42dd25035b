"""Predictions that need no training, as rows of a table: copy the last frame, mean of the last frames.

Every future-frames run measures them on the frames that it is scored on, so they have no runs of their own: the rows
are made from one run of each data, fold and seed. No Streamlit, no MLflow.
"""

from __future__ import annotations

import math

import pandas as pd

from dashboard.runs import METRICS
from dashboard.scores import BASELINES

_CELL = ["task", "dataset", "comparison", "split", "data_hash", "horizon", "views", "fold", "seed"]
_SPREAD = 1e-6  # relative; what two runs on the same frames may differ by


def with_baselines(runs: pd.DataFrame) -> pd.DataFrame:
    """Return `runs` with a column `baseline` (False) and below them the rows of each baseline that they measured."""
    runs = runs.copy()  # of one piece, to which pandas adds columns without a warning
    return pd.concat([runs.assign(baseline=False), *(_rows(runs, name) for name in BASELINES)], ignore_index=True)


def _rows(runs: pd.DataFrame, name: str) -> pd.DataFrame:
    prefix = f"test/{name}/"
    measured = [column for column in runs if str(column).startswith(prefix)]
    finished = runs[(runs["status"] == "FINISHED") & runs["tuning"].isna()]
    rows = finished[finished[measured].notna().any(axis=1)] if measured else finished.iloc[:0]
    rows = rows.drop_duplicates(_CELL).assign(baseline=True)
    values = {f"test/{column.removeprefix(prefix)}": rows[column] for column in measured}
    empty = {column: math.nan for column in rows if column in METRICS or str(column).startswith(("test/", "memory/"))}
    settings = dict.fromkeys(["wiring", "network", "update", "stash", "executor", "device", "lmin"])
    changed = {**empty, **values, **settings, "row": BASELINES[name], "rule": name, "run_id": name}
    kept = rows.drop(columns=[column for column in changed if column in rows])
    rows = pd.concat([kept, pd.DataFrame(changed, index=rows.index)], axis=1)
    return rows.astype(dict.fromkeys(settings, object))


def disagreements(runs: pd.DataFrame) -> list[str]:
    """Return a sentence for each baseline that differs between runs of one cell: not scored on the same frames."""
    sentences = []
    for name, title in BASELINES.items():
        column = f"test/{name}/mse"
        if column in runs:
            spread = runs.groupby(_CELL, dropna=False)[column].agg(["min", "max"])
            cells = int((spread["max"] - spread["min"] > _SPREAD * spread["max"].abs()).sum())
            if cells:
                sentences.append(
                    f"{title}: differs between the rows in {cells} of {len(spread)} folds and seeds, so these rows "
                    "were not scored on the same frames and do not compare."
                )
    return sentences
