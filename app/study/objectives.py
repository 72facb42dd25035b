"""What a study is after: one metric, or several that pull against one another, and which direction is better."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from app.comparison.overrides import nearest
from app.metric_sense import sense

DIRECTIONS = {"higher": "maximize", "lower": "minimize"}


@dataclass(frozen=True)
class Objective:
    """A metric as the run logs it (`val/top1`) and Optuna's word for what is better: maximize or minimize."""

    metric: str
    direction: str


def read_objective(text: str) -> Objective:
    """Read `METRIC` or `METRIC:maximize`; without a direction the metric's own is taken.

    >>> read_objective("val/top1").direction, read_objective("energy/joule:minimize").direction
    ('maximize', 'minimize')

    Errors: ValueError where the direction is unknown, is missing, or would ask for the worst of a known metric.
    """
    metric, colon, direction = text.rpartition(":") if ":" in text else (text, "", "")
    if not metric or metric != "".join(metric.split()):
        raise ValueError(f"--objective {text!r}: expected METRIC or METRIC:maximize, as in val/top1")
    own = sense(metric)
    if colon and direction not in DIRECTIONS.values():
        valid = list(DIRECTIONS.values())
        raise ValueError(f"--objective {text}: unknown direction {direction!r}; {nearest(direction, valid)}")
    if not colon and own is None:
        raise ValueError(
            f"--objective {text}: whether more or less of it is better is not known; "
            f"write {metric}:maximize or {metric}:minimize"
        )
    if colon and own and DIRECTIONS[own] != direction:
        raise ValueError(f"--objective {text}: {metric} is better where it is {own}; write {metric}:{DIRECTIONS[own]}")
    return Objective(metric, direction or DIRECTIONS[str(own)])


def read_objectives(texts: Sequence[str]) -> tuple[Objective, ...]:
    """Read every objective in the order given; the first decides which trial is called the best.

    Errors: ValueError where there is none, or a metric stands there twice.
    """
    objectives = tuple(read_objective(text) for text in texts)
    if not objectives:
        raise ValueError("--objective: expected at least one metric, as in --objective val/top1")
    metrics = [objective.metric for objective in objectives]
    for metric in metrics:
        if metrics.count(metric) > 1:
            raise ValueError(f"--objective: {metric} is given twice; keep one")
    return objectives
