"""A LightningModule and a DataModule of somebody else's, whose batches are no clips: fitted, tested, timed."""

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader, TensorDataset

from app.experiment import run_experiment
from app.study.schema import check_space
from app.study.space import read_space


class Signs(pl.LightningDataModule):
    """Vectors labelled by the sign of their first number, as plain pairs."""

    def train_dataloader(self):
        x_BF = torch.randn(32, 4, generator=torch.Generator().manual_seed(0))
        return DataLoader(TensorDataset(x_BF, (x_BF[:, 0] > 0).long()), batch_size=4)

    val_dataloader = test_dataloader = train_dataloader


class Linear(pl.LightningModule):
    """One layer."""

    def __init__(self, lr: float = 0.1):
        super().__init__()
        self.save_hyperparameters()
        self.layer = torch.nn.Linear(4, 2)

    def training_step(self, batch, batch_idx):
        return torch.nn.functional.cross_entropy(self.layer(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self.training_step(batch, batch_idx))

    def test_step(self, batch, batch_idx):
        self.log("test/loss", self.training_step(batch, batch_idx))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), self.hparams["lr"])


CONFIG = {
    "trainer": {"max_epochs": 1, "accelerator": "cpu"},
    "model": {"class_path": f"{__name__}.Linear"},
    "data": {"class_path": f"{__name__}.Signs"},
}


def test_a_foreign_module_trains_and_is_timed_without_frames(mlflow_store, tmp_cwd):
    check_space(read_space({"model.init_args.lr": [0.01, 0.1]}), CONFIG)
    metrics = run_experiment(CONFIG, quiet=True)["metrics"]
    assert metrics["latency/step_p50_ms"] > 0
    assert {"val/loss", "test/loss"} <= metrics.keys()
    assert not {"train/frames_per_second", "latency/tick_ms"} & metrics.keys()
