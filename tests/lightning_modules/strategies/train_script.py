"""A user's own training script, started as a real process: `python train_script.py OUT.pt '{"model": {...}, ...}' ...`.

Trains once for each JSON configuration, in the same processes, and writes what each ended with.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

from lightning_modules.compat import ensure_torchvision

ensure_torchvision()

import torch  # noqa: E402
from lightning import Callback, Trainer, seed_everything  # noqa: E402

from lightning_modules.action_recognition import ActionRecognition  # noqa: E402
from lightning_modules.future_frames import FutureFrames  # noqa: E402
from lightning_modules.strategies.depth_parallel import DepthParallelStrategy  # noqa: E402
from tests.lightning_modules.toy_clips import ToyData  # noqa: E402

MODEL = {"num_classes": 2, "in_channels": 1, "width": 0.25, "depth": 4, "executor": "pipelined", "activation": "tanh"}
FRAMES = {"network": "small_autoencoder", "in_channels": 1, "width": 0.25, "horizon": 2, "activation": "tanh"}
TASKS = {
    "actions": lambda **options: ActionRecognition(**MODEL | options),
    "frames": lambda **options: FutureFrames(**FRAMES | options),
}
TRAINER = {
    "accelerator": "cpu",
    "max_steps": 18,
    "precision": "64-true",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "use_distributed_sampler": False,
    "log_every_n_steps": 5,
}


class SaveAt(Callback):
    """Writes a checkpoint between two batches of an epoch."""

    def __init__(self, step: int, path: str) -> None:
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


def train(config: dict) -> dict:
    seed_everything(config.get("seed", 0), verbose=False)
    trainer = dict(TRAINER | config.get("trainer", {}))
    if "strategy" in config:
        trainer["strategy"] = DepthParallelStrategy(**config["strategy"])
    if "save" in config:
        trainer["callbacks"] = [SaveAt(10, config["save"])]
    trainer = Trainer(**trainer)
    model = TASKS[config.get("task", "actions")](**config.get("model", {}))
    data = ToyData(**{"clips": 24, "frames": 9, "ragged": True, **config.get("data", {})})
    trainer.fit(model, datamodule=data, ckpt_path=config.get("ckpt_path"))
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    trainer.test(model, datamodule=data, verbose=False)
    metrics |= {name: float(value) for name, value in trainer.callback_metrics.items()}
    return {"rank": trainer.global_rank, "weights": model.network.state_dict(), "metrics": metrics}


if __name__ == "__main__":
    out, *configs = sys.argv[1:]
    results = [train(json.loads(config)) for config in configs]
    torch.save(results, f"{out}.{results[-1]['rank']}")
