"""What was taken for what: the artifact `confusion.json` of a test."""

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from torch import Tensor


class ConfusionArtifact(Callback):
    """Stores the test's confusion matrix with every logger that has `log_dict(content, file)`."""

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Store it, where the task counts one."""
        metric = getattr(pl_module, "confusion", None)
        if metric is None or not metric.update_called:
            return
        content = confusion_content(metric.compute(), getattr(trainer.datamodule, "class_names", []))  # type: ignore[attr-defined]
        for logger in trainer.loggers:
            if hasattr(logger, "log_dict"):
                logger.log_dict(content, "confusion.json")


def confusion_content(matrix_KK: Tensor, class_names: list[str]) -> dict[str, list]:
    """Return plain values: class names, the counts (rows true, columns predicted), and each class's accuracy.

    A class without a test video has accuracy None.
    """
    counts = matrix_KK.long().tolist()
    accuracy = [row[i] / sum(row) if sum(row) else None for i, row in enumerate(counts)]
    return {"class_names": list(class_names), "matrix": counts, "per_class_accuracy": accuracy}
