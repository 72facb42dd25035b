"""How much memory a training step needs: `memory/saved_tensors_mib` and `memory/peak_mib`."""

from contextlib import ExitStack
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from lightning_modules.execution.team import Team
from lightning_modules.metrics.gradients import is_logged
from lightning_modules.metrics.memory import MIB, SavedTensors, peak_mib, reset_peak

MEASURED_STEP = 2  # the first step allocates the optimizer's state


class StepMemory(Callback):
    """Counts the bytes that autograd holds at most during one early step, and the peak of process or device.

    The counted step is one of those that `StepTime` drops as warm-up, since counting costs time. A step on which
    gradients are compared for the log is left out of both figures: it also holds the graph of the exact backprop. (What
    a process keeps of it after such a step, since allocators give memory back late, stays in its peak.) A step in which
    a task `prepares` what it is for is not the counted one.
    """

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._meter: SavedTensors | None = None
        self._steps = 0
        self._peak_mib = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start a new peak."""
        self._peak_mib = 0.0
        reset_peak(pl_module.device)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Start counting at the measured step, or the next whose gradients are not logged."""
        self._steps += not getattr(pl_module, "prepares", False)
        if _is_logged(pl_module, batch_idx):
            self._peak_mib = max(self._peak_mib, peak_mib(pl_module.device))
        elif self._meter is None and self._steps >= MEASURED_STEP:
            self._meter = self._stack.enter_context(SavedTensors.measure(pl_module))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop counting, and forget the peak of a step that is left out."""
        self._stack.close()
        if _is_logged(pl_module, batch_idx):
            reset_peak(pl_module.device)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Stop counting: the hooks would outlive the run."""
        self._stack.close()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log what is known: the largest of all stages, and each stage's where there are several."""
        figures = {"peak_mib": max(self._peak_mib, peak_mib(pl_module.device))}
        if self._meter is not None:
            figures["saved_tensors_mib"] = self._meter.peak_bytes / MIB
        stages = getattr(pl_module, "team", Team()).from_all_stages(figures)
        for name in figures:
            pl_module.log(f"memory/{name}", max(of_stage[name] for of_stage in stages))
            for stage, of_stage in enumerate(stages) if len(stages) > 1 else ():
                pl_module.log(f"memory/stage_{stage}/{name}", of_stage[name])


def _is_logged(pl_module: pl.LightningModule, batch_idx: int) -> bool:
    return is_logged(batch_idx, pl_module.hparams.get("log_gradients_every", 0))
