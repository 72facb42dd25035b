"""What heads cost, said before a network of modules trains, and logged: `cost/FIGURE/module_j`.

    module  units  parameters  MMACs  head parameters  head MMACs  parameter share  MAC share
         2      2       4,672   0.29            9,828        0.02            210 %        6 %

`cost/macs` and `cost/parameters` are those of a module without its head, `cost/head_macs` and `cost/head_parameters`
those of the head, `cost/mac_share` and `cost/parameter_share` the head's relative to the module's (head_cost.py).
"""

from collections.abc import Sequence

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from lightning_modules.batch import data_shape
from lightning_modules.metrics.head_cost import ModuleCost, cost_table, module_costs
from lightning_modules.networks import ClipNetwork

FIGURES = ("parameters", "macs", "head_parameters", "head_macs", "parameter_share", "mac_share")


class ModuleCosts(Callback):
    """Prints and logs the cost of each module and its head, where a network has modules and its data tell their size.

    The size is that of the DataModule's attributes `channels`, `size` and, for networks of whole clips, `frames`.
    """

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the table, and log its figures at the step where training starts."""
        network = getattr(pl_module, "network", None)
        if not getattr(network, "module_count", 0) or not trainer.is_global_zero:
            return
        shape = data_shape(trainer.datamodule, clips=isinstance(network, ClipNetwork))  # type: ignore[attr-defined]
        if shape is None:
            return
        costs = module_costs(network, shape)  # type: ignore[arg-type]
        rank_zero_info(f"modules on {_said(shape)}, and their heads:\n{cost_table(costs)}")
        for logger in trainer.loggers:
            logger.log_metrics(cost_figures(costs), step=trainer.global_step)


def cost_figures(costs: Sequence[ModuleCost]) -> dict[str, float]:
    """Return the figures that are logged; of a module without a head those of the module alone."""
    found = {}
    for number, cost in enumerate(costs, start=1):
        for figure in FIGURES if cost.head_parameters else FIGURES[:2]:
            found[f"cost/{figure}/module_{number}"] = float(getattr(cost, figure))
    return found


def _said(shape: Sequence[int]) -> str:
    height, width = shape[-2:]
    frame = f"{height} x {width} pixels of {shape[-3]} channel{'s' if shape[-3] > 1 else ''}"
    return f"a clip of {shape[0]} frames of {frame}" if len(shape) == 4 else f"a frame of {frame}"
