"""What the figures of predicted frames are about: the artifact `future_frames.json` of a test."""

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback


class FrameProtocol(Callback):
    """Stores horizons, form of prediction, scored frames and each metric's protocol with every logger that can."""

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Store it, where the task predicts frames."""
        task: Any = pl_module
        if not getattr(task, "frame_targets", False) or not task.scored:
            return
        for logger in trainer.loggers:
            if hasattr(logger, "log_dict"):
                logger.log_dict(task.artifact(), "future_frames.json")
