"""How a run that did not end well is marked in MLflow."""

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from app.run_logger import RunLogger


class Outcome(Callback):
    """Says in MLflow how a run ended that did not end well: KILLED from outside, or FAILED with the error as a tag."""

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Called before Lightning finalizes the loggers."""
        for logger in trainer.loggers:
            if not isinstance(logger, RunLogger) or not logger.started:
                continue
            if isinstance(exception, KeyboardInterrupt | SystemExit):
                logger.outcome = "KILLED"
            else:
                logger.outcome = "FAILED"
                logger.try_tag("error", f"{type(exception).__name__}: {exception}"[:500])
