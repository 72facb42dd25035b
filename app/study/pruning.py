"""Pruning of a training that is not promising: a callback that works the same for every rule."""

from lightning_modules.compat import ensure_torchvision

ensure_torchvision()

import lightning.pytorch as pl  # noqa: E402
from lightning.pytorch.callbacks import Callback  # noqa: E402

from app.study.reports import Reports  # noqa: E402


class Watch(Callback):
    """Reports every validation to the study, and tells the trainer to stop where the study has seen enough."""

    def __init__(self, reports: Reports) -> None:
        self.reports = reports

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Called after each validation, whatever optimiser or rule has made the weights.

        ValueError: the validation does not log the metric that the pruner needs.
        """
        if trainer.sanity_checking:
            return
        value = trainer.callback_metrics.get(self.reports.metric)
        if value is not None:
            trainer.should_stop = self.reports.add(float(value), trainer.global_step) or trainer.should_stop
        elif self.reports.required:
            logged = ", ".join(sorted(map(str, trainer.callback_metrics))) or "nothing"
            raise ValueError(
                f"the pruner watches {self.reports.metric}, which the validation does not log; it logs {logged}. Give "
                "--pruner none, or an --objective of the validation"
            )
