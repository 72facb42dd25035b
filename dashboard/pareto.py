"""Which rows no other row beats in both score and cost. Pure function."""

from __future__ import annotations

import numpy as np
import pandas as pd


def front(table: pd.DataFrame, score: str, cost: str, *, lower_score: bool, lower_cost: bool) -> pd.Series:
    """Return, line by line, whether no other line is at least as good in both and better in one; by the means alone.

    A line without either mean is not on the front.
    """
    goodness_NX = np.column_stack(
        [
            table[score].to_numpy(float) * (-1 if lower_score else 1),
            table[cost].to_numpy(float) * (-1 if lower_cost else 1),
        ]
    )
    known_N = np.isfinite(goodness_NX).all(axis=1)
    no_worse_NN = (goodness_NX[None] >= goodness_NX[:, None]).all(axis=2)
    better_NN = (goodness_NX[None] > goodness_NX[:, None]).any(axis=2)
    beaten_N = (no_worse_NN & better_NN & known_N[None]).any(axis=1)
    return pd.Series(known_N & ~beaten_N, index=table.index)
