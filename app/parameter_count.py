"""How large the network is, said once when it starts to train.

Lightning's own table has a column and a line of FLOPs, which it counts on an example input. Our modules give none,
since clips come in all lengths, so it would say 0.
"""

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import nn


class ParameterCount(Callback):
    """Says how many parameters each part of a module has, and how many of them are trained."""

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say it; a part without parameters is left out."""
        for name, part in pl_module.named_children():
            if next(part.parameters(), None) is not None:
                rank_zero_info(f"{name} ({type(part).__name__}): {parameter_count(part)}")


def parameter_count(part: nn.Module) -> str:
    """Return the number of parameters of a module in words: `2,020 parameters, 20 of them trained`."""
    sizes = [(p.numel(), p.requires_grad) for p in part.parameters()]
    total, trained = sum(n for n, _ in sizes), sum(n for n, is_trained in sizes if is_trained)
    return f"{total:,} parameters, {'all' if trained == total else f'{trained:,}'} of them trained"
