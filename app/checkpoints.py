"""When checkpoints are written, and where.

`last.ckpt` holds everything that is state: a run that goes on from it ends with the same bits. It is written between
two batches of one epoch: from an epoch's or a validation's end Lightning would go on without that validation.

    batch    1   2   3 | val   4   5   6 | val        every_n_train_steps=3: due after 3 and 6, written after 4
    written                    *         |            and, since the run ends there, after 6

`best.ckpt` holds the weights with the best validation score.
"""

import json
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Checkpoint

from app.checkpoint_io import UNFINISHED
from app.metric_sense import sense
from app.run_logger import RunLogger

LAST, BEST, PREVIOUS = "last.ckpt", "best.ckpt", "previous.ckpt"
RUN_FILE = "run.json"


class RunCheckpoint(Checkpoint):
    """Writes `last.ckpt` and `best.ckpt` of a run.

    Args:
        every_n_train_steps: batches between two writings of last.ckpt; 0 writes only at the end.
        dirpath: folder of this run's checkpoints; by default runs/ and a name made from the configuration.
        monitor: metric that decides which is best; the task's own if unset: val/top1, or val/mse of predicted frames.
        mode: whether the best is the largest or the smallest, max or min; as the metric's name tells if unset.

    """

    def __init__(
        self,
        every_n_train_steps: int = 100,
        dirpath: str | None = None,
        monitor: str | None = None,
        mode: str | None = None,
    ) -> None:
        if mode not in ("max", "min", None) or every_n_train_steps < 0:
            raise ValueError(
                f"--checkpoint got mode {mode!r} and every_n_train_steps {every_n_train_steps}; expected max or min, "
                "and 0 or more."
            )
        self.every_n_train_steps, self.dirpath, self.monitor, self.mode = every_n_train_steps, dirpath, monitor, mode
        self.best_score: float | None = None
        self.run_id: str | None = None
        self._due = False

    @property
    def folder(self) -> Path:
        """The folder of this run's checkpoints."""
        assert self.dirpath is not None, "the command line sets dirpath before it trains"
        return Path(self.dirpath)

    @property
    def best_model_path(self) -> str:
        """What Lightning loads for ckpt_path="best"."""
        best = self.folder / BEST
        return str(best) if self.best_score is not None and best.exists() else ""

    def state_dict(self) -> dict[str, Any]:
        """Return the best score so far."""
        return {"best_score": self.best_score}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the best score so far."""
        self.best_score = state_dict["best_score"]

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Take the task's metric and its direction, where none were asked for."""
        task_metric = getattr(pl_module, "score_metric", "val/loss")
        self.monitor = self.monitor or task_metric
        own = getattr(pl_module, "score_mode", None) if self.monitor == task_metric else None
        self.mode = self.mode or own or better(self.monitor)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep an earlier run's last checkpoint aside, and note which MLflow run this folder now belongs to."""
        last = self.folder / LAST
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self.folder.mkdir(parents=True, exist_ok=True)
            for unfinished in self.folder.glob(UNFINISHED):  # of a process that was killed while it wrote
                unfinished.unlink(missing_ok=True)
            if last.exists() and not trainer.ckpt_path:
                last.replace(self.folder / PREVIOUS)
            (self.folder / RUN_FILE).write_text(json.dumps({"run_id": self.run_id}), encoding="utf-8")

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write last.ckpt if it is due and this batch is not followed by a validation or an epoch's end."""
        n, done = self.every_n_train_steps, trainer.fit_loop.total_batch_idx + 1
        self._due |= n > 0 and done % n == 0
        if self._due and not self._boundary(trainer, batch_idx + 1, done):
            hand_over_metrics(trainer)
            self._save_last(trainer)

    def _boundary(self, trainer: pl.Trainer, done_in_epoch: int, done: int) -> bool:
        every = trainer.val_check_batch or 0
        counted = done if trainer.check_val_every_n_epoch is None else done_in_epoch
        validates = trainer.enable_validation and every and counted % every == 0
        return bool(validates) or done_in_epoch == trainer.num_training_batches

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write last.ckpt here only where epochs are too short to have a batch that is not their last."""
        if self._due and trainer.num_training_batches == 1:
            self._save_last(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write best.ckpt where the validation score is the best so far."""
        value = trainer.callback_metrics.get(self.monitor or "")
        if trainer.sanity_checking or trainer.state.fn != "fit" or value is None:
            return
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        score = float(value)
        if self.best_score is None or (score > self.best_score if self.mode == "max" else score < self.best_score):
            self.best_score = score
            trainer.save_checkpoint(self.folder / BEST, weights_only=True)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the finished run's last.ckpt."""
        self._save_last(trainer)

    def _save_last(self, trainer: pl.Trainer) -> None:
        self._due = False
        for logger in trainer.loggers:
            # What was logged before the checkpoint is not computed again after a resume, so it must be stored by now.
            if isinstance(logger, RunLogger):
                logger.try_flush()
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            trainer.save_checkpoint(self.folder / LAST, weights_only=False)


def better(metric: str) -> str:
    """Return whether the best value of a metric is its largest or its smallest: max or min.

    >>> better("val/top1"), better("val/psnr_db"), better("val/copy_last/mse_sum_4"), better("val/loss")
    ('max', 'max', 'min', 'min')
    """
    return "min" if sense(metric) == "lower" else "max"


def hand_over_metrics(trainer: pl.Trainer) -> None:
    """Log this batch's values now: Lightning would a moment after the checkpoint is written, too late for a kill."""
    connector = trainer._logger_connector
    if not connector.should_update_logs:
        return
    for logger in trainer.loggers:
        if isinstance(logger, RunLogger):
            logger.log_ahead(connector.metrics["log"], trainer.fit_loop.epoch_loop._batches_that_stepped)
