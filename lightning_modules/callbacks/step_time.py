"""How long training steps take: `latency/step_p50_ms`, `latency/step_p95_ms` and `train/frames_per_second`."""

import time
from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from lightning_modules.execution.team import Team
from lightning_modules.metrics.gradients import is_logged
from lightning_modules.metrics.latency import percentile, synchronise

WARM_UP_STEPS = 5


class StepTime(Callback):
    """Times each training step from the batch's arrival to the end of the update.

    Waiting for data, validation, checkpoints and logging are left out; so are the first steps of this process, steps
    on which gradients are compared for the log, and those in which a task `prepares` what it is for. Frames are real
    ones: padding does not count. Batches that are no `Batch` of ours have no frames to count, and their runs no
    `train/frames_per_second`.
    """

    def __init__(self) -> None:
        self._start = 0.0
        self._prepares = False
        self._steps = 0
        self._times_ms: list[float] = []
        self._frames = 0

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Start the clock once the device is idle."""
        self._prepares = getattr(pl_module, "prepares", False)
        synchronise(pl_module.device)
        self._start = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop the clock once the device is idle."""
        synchronise(pl_module.device)
        elapsed_ms = 1000 * (time.perf_counter() - self._start)
        self._steps += not self._prepares
        logged = is_logged(batch_idx, pl_module.hparams.get("log_gradients_every", 0))
        if self._steps > WARM_UP_STEPS and not (logged or self._prepares):
            self._times_ms.append(elapsed_ms)
            if isinstance(batch, Mapping) and isinstance(lengths_B := batch.get("length"), Tensor):
                self._frames += int(lengths_B.sum())

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the figures over all steps so far, the first stage's; nothing where every step was warm-up."""
        if not self._times_ms:
            return
        team = getattr(pl_module, "team", Team())
        figures = {
            "latency/step_p50_ms": percentile(self._times_ms, 50),
            "latency/step_p95_ms": percentile(self._times_ms, 95),
        }
        if self._frames:
            figures["train/frames_per_second"] = 1000 * team.replicas * self._frames / sum(self._times_ms)
        pl_module.log_dict(team.from_all_stages(figures)[0])
