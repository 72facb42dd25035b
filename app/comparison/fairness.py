"""What a table of rows with sweeps says beside its figures: who was not tuned, what equal trials leave unequal."""

from __future__ import annotations

from collections.abc import Collection

from app.comparison.bounds import GAP_RECOVERED, Bound
from app.comparison.spec import Comparison
from app.comparison.sweep_spec import row_space

MARK = " ‡"


def marked(name: str, not_tuned: Collection[str]) -> str:
    """Return a row's name, with a mark where the row was not tuned."""
    return name + MARK if name in not_tuned else name


def is_unfair(comparison: Comparison, bound: Bound, not_tuned: Collection[str]) -> bool:
    """Return whether a bound sets a row that was tuned against one that was not."""
    others = (comparison.frozen, comparison.exact) if bound.metric == GAP_RECOVERED else (bound.versus,)
    return len({name in not_tuned for name in (bound.row, *others) if name}) > 1


def notes(comparison: Comparison, not_tuned: Collection[str]) -> list[str]:
    """Return the notes under a table of rows with sweeps, one sentence or two each."""
    tuned = [row for row in comparison.rows if row.name not in not_tuned]
    sizes = [f"{row.name} {len(space.parameters)}" for row in tuned if (space := row_space(comparison, row))]
    lines = [
        "Equal trials are not equal search: the more settings a row has to choose, the thinner its trials cover them "
        f"(settings: {', '.join(sizes)})."
    ]
    if comparison.tuning_folds:
        lines.append(
            "The test clips of the reported folds chose nothing. Where each fold trains on the clips of the others (as "
            "in leaving one person out), the trials have trained on them: this is not nested cross-validation."
        )
    if not_tuned:
        lines.append(
            f"{MARK.strip()}: not tuned: this row has the settings of the file, where others have the best of their "
            "trials. A difference between the two kinds, and a gap recovered from such a row, is also one of search: "
            "do not read it as a finding."
        )
    return lines
