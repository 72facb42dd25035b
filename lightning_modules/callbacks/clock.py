"""Which frame each unit works on at each tick: the artifact `clock.json` of a fit.

rule               forward           backward
sideways           t - i + 1         the frame whose gradient arrives, from the unit's first gradient tick on
backprop_shifted   t - i + 1         none: it waits for the clip's end
backprop_frame     t                 t: all units work on one frame
greedy             t - j + 1         the same frame: every unit of module j learns at once
"""

from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from lightning_modules.execution.schedule import first_gradient_tick, lag, newest_frame, work
from lightning_modules.execution.team import Team
from lightning_modules.networks import UnitNetwork, Wiring
from lightning_modules.rules import Rule

SCHEMA = 1


class ClockArtifact(Callback):
    """Stores the clock of a network that is cut into units with every logger that has `log_dict(content, file)`."""

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Store it, once the units are placed."""
        network, rule = getattr(pl_module, "network", None), getattr(pl_module, "rule", None)
        if not isinstance(network, UnitNetwork) or rule is None or not trainer.is_global_zero:
            return
        stage = getattr(pl_module, "team", Team()).stage
        stages = [range(1, network.depth + 1)] if stage is None else stage.placement.stages
        for logger in trainer.loggers:
            if hasattr(logger, "log_dict"):
                logger.log_dict(clock_content(network.wiring, rule, stages), "clock.json")


def clock_content(wiring: Wiring, rule: Rule, stages: Sequence[range]) -> dict[str, Any]:
    """Return plain values: the wiring, each unit's lag, first gradient and stage, and ticks 1 to 2D + 2.

    `stages`: the units (from 1) of each stage.
    """
    units = range(1, wiring.depth + 1)
    return {
        "schema": SCHEMA,
        "wiring": wiring.name,
        "depth": wiring.depth,
        "sources": [list(wiring.sources_of(unit)) for unit in units],
        "merge": wiring.merge,
        "gradient_edges": wiring.gradients,
        "lmin": wiring.lmin,
        "lags": [lag(wiring, unit) for unit in units] if rule.forwards_gradients else None,
        "first_gradient_ticks": [first_gradient_tick(wiring, unit) for unit in units] if rule.pipelines else None,
        "stage_of_unit": [number for number, held in enumerate(stages, start=1) for _ in held],
        "rule": rule.name,
        "ticks": [[_work(wiring, rule, tick, unit) for unit in units] for tick in range(1, 2 * wiring.depth + 3)],
    }


def _work(wiring: Wiring, rule: Rule, tick: int, unit: int) -> dict[str, int | None]:
    if not rule.forward_shift:
        return {"unit": unit, "forward": tick, "newest": tick, "backward": tick}
    done = work(wiring, tick, unit)
    return {
        "unit": unit,
        "forward": done.output_frame,
        "newest": None if done.output_frame is None else newest_frame(wiring, unit, tick),
        "backward": done.gradient_frame if rule.pipelines else None,
    }
