"""What the data cannot give a study's trials, said before the first: a fold that is not there, a validation."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from app.comparison.overrides import get
from app.study.plan import Plan
from app.study.schema import limits
from app.study.space import is_active
from app.study.trial_config import with_values

if TYPE_CHECKING:
    from app.trainer_cli import SkipSidewaysCLI


def check_cells(plan: Plan) -> None:
    """Make data, model and trainer of one trial on every fold; no video is read and nothing is written.

    Errors: ValueError with the fold, and where an objective or the pruner asks for a validation that there is not.
    """
    values = example(plan)
    for fold, seed in {fold: (fold, seed) for fold, seed in plan.cells}.values():  # one of each fold
        problem, cli = _made(plan.run_config(values, fold, seed))
        if cli is None:
            if plan.folds or plan.seeds:
                _refuse_cell(plan, values, fold, problem)
            return  # this combination of values is refused, which others need not be
        _check_validation(plan, cli, fold)


def example(plan: Plan) -> dict[str, Any]:
    """Return one trial's values: the experiment's own where they are a point of the space, else each key's first."""
    if (point := plan.space.point(plan.config)) is not None:
        return plan.space.values(point)
    values: dict[str, Any] = {}
    for parameter in plan.space.parameters:
        if is_active(parameter, values):
            values[parameter.key] = limits(parameter)[0]
    return values


def _made(config: dict[str, Any]) -> tuple[str, SkipSidewaysCLI | None]:
    """Return what is wrong with a run's configuration, or the objects made of it."""
    from app.cli import user_message
    from app.noise import without_noise
    from app.trainer_cli import SkipSidewaysCLI

    try:
        with without_noise(quiet=True):
            return "", SkipSidewaysCLI(run=False, args=config)
    except Exception as error:  # whatever it is, the run would end with it
        return user_message(error), None


def _refuse_cell(plan: Plan, values: Mapping[str, Any], fold: int, problem: str) -> None:
    """Raise where it is the fold or the seed that is refused: the experiment's own would do."""
    _, own = _made(with_values(plan.config, plan.space.plain(), values))
    if own is not None:
        raise ValueError(f"--folds or --seeds, fold {fold}: {problem}")


def _check_validation(plan: Plan, cli: SkipSidewaysCLI, fold: int) -> None:
    asking = [metric for metric in plan.metrics if metric.startswith("val/")]
    asking += [f"--pruner {plan.pruner}"] if plan.pruner != "none" else []
    if not asking:
        return
    wanted = " and ".join(asking)
    if get(cli.plain_config(), "trainer.limit_val_batches") == 0:
        raise ValueError(f"{wanted} needs a validation, and trainer.limit_val_batches is 0; set it to 1.0")
    listing = getattr(cli.datamodule, "listing", None)
    if listing is not None and not listing.splits.get("val"):
        hint = _as_set(getattr(cli.datamodule, "val_options", ""))
        raise ValueError(
            f"{wanted} needs a validation, and fold {fold} holds no video out for one: "
            f"{f'give {hint}, or ' if hint else ''}sweep by --objective {_tested(plan)}"
        )


def _tested(plan: Plan) -> str:
    objectives = " ".join(re.sub("^val/", "test/", metric) for metric in plan.metrics)
    return objectives if plan.pruner == "none" else f"{objectives} and --pruner none"


def _as_set(options: str) -> str:
    """Return options of `fit` as `sweep` takes them.

    >>> _as_set("--data.val_fraction, or --data.val_group next")
    '--set data.init_args.val_fraction=..., or --set data.init_args.val_group=next'
    """
    return re.sub(r"--data\.(\w+)(?: ([\w.]+))?", lambda m: f"--set data.init_args.{m[1]}={m[2] or '...'}", options)
