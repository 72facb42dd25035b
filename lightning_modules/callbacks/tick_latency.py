"""How long a trained network needs for one new frame: `latency/tick_ms`."""

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import nn

from lightning_modules.execution.team import Team
from lightning_modules.metrics.latency import median_ms, tick_ms


class TickLatency(Callback):
    """Measures, at the end of a test, the time from one frame's arrival to the next output (batch 1, one process)."""

    def __init__(self) -> None:
        self._clip: tuple[int, tuple[int, int, int]] | None = None
        self._step: torch.Tensor | None = None

    def on_test_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Remember the shape of a clip, of a batch that holds clips; of long streams a first step."""
        if isinstance(batch, Mapping) and "lanes" in batch:
            self._step = batch["lanes"].only(torch.tensor([0])).read(torch.tensor([[0]]))[0][:, 0]
            return
        if not (isinstance(batch, Mapping) and isinstance(batch.get("video"), torch.Tensor)):
            return
        _, frames, channels, height, width = batch["video"].shape
        self._clip = (frames, (channels, height, width))

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure and log, where the task has a network and a rule, or watches streams."""
        if self._step is not None and (watch := getattr(pl_module, "watcher", None)) is not None:
            watcher, step = watch(), self._step.to(pl_module.device)
            pl_module.log("latency/tick_ms", median_ms(lambda: watcher.feed(step), step.device, watcher.ahead + 2))
            return
        network, rule = getattr(pl_module, "network", None), getattr(pl_module, "rule", None)
        if self._clip is None or network is None or rule is None or _is_spread(network):
            return
        frames, frame_shape = self._clip
        with torch.random.fork_rng():
            value = tick_ms(network, rule, frame_shape, frames)
        team = getattr(pl_module, "team", Team())
        pl_module.log("latency/tick_ms", team.from_all_stages(value)[0])


def _is_spread(network: nn.Module) -> bool:
    """Whether the units are on several devices, so that no process can do a tick of all of them."""
    return len({p.device for p in network.parameters()}) > 1
