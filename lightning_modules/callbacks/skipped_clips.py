"""How many training videos a run has left out so far: `data/skipped`."""

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback


class SkippedClips(Callback):
    """Logs the number at the start, 0 as well, and whenever it changes; of data that counts them in `skipped`."""

    def __init__(self) -> None:
        self._logged: int | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log what the table of videos told."""
        self._logged = None
        self._log(trainer)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log what broke since."""
        self._log(trainer)

    def _log(self, trainer: pl.Trainer) -> None:
        skipped = getattr(trainer.datamodule, "skipped", None)  # type: ignore[attr-defined]
        if skipped is None or len(skipped) == self._logged or not trainer.is_global_zero:
            return
        self._logged = len(skipped)
        for logger in trainer.loggers:
            logger.log_metrics({"data/skipped": float(self._logged)}, step=trainer.global_step)
