"""What the figures of predicted frames are about: the artifact `future_frames.json` of a test."""

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from lightning_modules.future_frames import FutureFrames


class FrameProtocol(Callback):
    """Stores horizons, form of prediction, scored frames and each metric's protocol with every logger that can."""

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Store it, where the task predicts frames."""
        if not isinstance(pl_module, FutureFrames) or not pl_module.scored:
            return
        for logger in trainer.loggers:
            if hasattr(logger, "log_dict"):
                logger.log_dict(pl_module.artifact(), "future_frames.json")
