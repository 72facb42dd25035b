"""What heads cost beside the modules that they train: parameters, and multiplications of one frame's forward.

    module 1  [ unit 1 | unit 2 ] -> head        share = head / units, of each module
    module 2  [ unit 3 | unit 4 ]                no head: its last unit answers

Multiply-accumulates (MACs) are those of convolutions and linear layers, counted while a copy of the network runs on
meta tensors: nothing is computed. A convolution makes (C / groups) x kernel of them for each number it gives, a linear
layer C. Backward makes twice as many, so that the share holds for a training step too. Quantisers are not counted.

Shape legend: T frames of a clip, C channels, H and W height and width.
"""

import copy
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn

from lightning_modules.networks import ClipNetwork, UnitNetwork
from lightning_modules.networks.wiring import INPUT

_AT_ONCE = 2  # frames that run: some normalisations refuse a single one of one pixel
_HEADINGS = ("module", "units", "parameters", "MMACs", "head parameters", "head MMACs", "parameter share", "MAC share")


@dataclass(frozen=True)
class ModuleCost:
    """What a module and its head cost.

    Args:
        units: the module's units, 1-based.
        parameters: of the units, without the head.
        macs: of the units on one frame, or on one clip.
        head_parameters: 0 where the module has no head.
        head_macs: on one frame, or on one clip.
    """

    units: range
    parameters: int
    macs: int
    head_parameters: int
    head_macs: int

    @property
    def parameter_share(self) -> float:
        """Parameters of the head relative to those of its module."""
        return _share(self.head_parameters, self.parameters)

    @property
    def mac_share(self) -> float:
        """MACs of the head relative to those of its module."""
        return _share(self.head_macs, self.macs)


def _share(part: int, whole: int) -> float:
    if part == 0:
        return 0.0
    return part / whole if whole else float("inf")


def layer_macs(layer: nn.Module, output: Tensor) -> int:
    """Return the multiply-accumulates with which a layer made an output; 0 for layers of other kinds."""
    if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return output.numel() * layer.in_channels // layer.groups * prod(layer.kernel_size)
    return output.numel() * layer.in_features if isinstance(layer, nn.Linear) else 0


@contextmanager
def counted_macs(network: nn.Module) -> Iterator[Counter[nn.Module]]:
    """Count the MACs of each layer of a network in all forwards inside the block."""
    macs: Counter[nn.Module] = Counter()

    def count(layer: nn.Module, _: object, output: Tensor) -> None:
        macs[layer] += layer_macs(layer, output)

    layers = [m for m in network.modules() if isinstance(m, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    try:
        yield macs
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def module_costs(network: UnitNetwork | ClipNetwork, frame_shape: Sequence[int]) -> list[ModuleCost]:
    """Return the cost of each module, the lowest first; none for a network without modules.

    Args:
        network: it stays as it is.
        frame_shape: (C, H, W), for a network of clips (T, C, H, W).

    Raises:
        ValueError: a shape of another number of sizes.
    """
    clips = isinstance(network, ClipNetwork)
    if len(frame_shape) != 3 + clips:
        expected = "(T, C, H, W), a clip's" if clips else "(C, H, W), a frame's"
        raise ValueError(f"frame_shape is {tuple(frame_shape)}; this network needs {expected}")
    network = copy.deepcopy(network).to("meta").eval()
    frames = torch.zeros(_AT_ONCE, *frame_shape, device="meta", dtype=next(network.parameters()).dtype)
    messages = {INPUT: frames.transpose(1, 2) if clips else frames}
    costs = []
    for module in range(1, network.module_count + 1):
        with counted_macs(network) as macs:
            sent, _ = network.module_forward(module, messages)
        messages.update(sent)
        costs.append(_cost(network, module, macs))
    return costs


def _cost(network: UnitNetwork | ClipNetwork, module: int, macs: Counter[nn.Module]) -> ModuleCost:
    units, head = network.module_units(module), network.module_head(module)
    layers = set() if head is None else set(head.modules())
    of_head = sum(number for layer, number in macs.items() if layer in layers)
    parameters = {name: p for unit in units for name, p in network.unit_parameters(unit).items()}
    head_parameters = 0 if head is None else sum(p.numel() for p in head.parameters())
    return ModuleCost(
        units,
        sum(p.numel() for p in parameters.values()) - head_parameters,
        (macs.total() - of_head) // _AT_ONCE,
        head_parameters,
        of_head // _AT_ONCE,
    )


def cost_table(costs: Sequence[ModuleCost]) -> str:
    """Return a table for the terminal: a line for each module and one for all; `MMACs` are 10^6 MACs."""
    lines = [list(_HEADINGS)]
    for number, cost in enumerate(costs, start=1):
        first, last = cost.units[0], cost.units[-1]
        lines.append([str(number), str(first) if first == last else f"{first}-{last}", *_cells(cost)])
    lines.append(["all", "", *_cells(_total(costs))])
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEADINGS))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def _total(costs: Sequence[ModuleCost]) -> ModuleCost:
    return ModuleCost(
        range(0),
        sum(c.parameters for c in costs),
        sum(c.macs for c in costs),
        sum(c.head_parameters for c in costs),
        sum(c.head_macs for c in costs),
    )


def _cells(cost: ModuleCost) -> list[str]:
    parameters, head = f"{cost.parameters:,}", f"{cost.head_parameters:,}"
    shares = [f"{100 * cost.parameter_share:.0f} %", f"{100 * cost.mac_share:.0f} %"]
    return [parameters, f"{cost.macs / 1e6:.2f}", head, f"{cost.head_macs / 1e6:.2f}", *shares]
