"""A network cut into units: an ordered list of units and the wiring between them.

Shape legend: N any number of frames (batch, or ticks x batch), C channels, H and W height and width, K classes.
A unit reads one message per source and gives one output:

    z_i = C_i(h_{i-1}, {P_{j->i}(h_j)})      h_i = f_i(z_i)          (methods.md section 3 [D])

C is `sum` or `concat`; P brings a message to the chain message's height and width (a larger one by average pooling, a
smaller one, in a decoder, by repeating pixels) and, for `sum`, maps its channels by a 1x1 convolution where they
differ. P and C belong to the receiving unit: their parameters are the unit's. Units mix nothing across frames
(GroupNorm, never BatchNorm), so that all ticks of a clip may pass through a unit at once.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.layers.compact_pool import average_pool
from lightning_modules.layers.vector_quantiser import VectorQuantiser
from lightning_modules.networks.wiring import INPUT, Wiring


@dataclass(frozen=True)
class UnitSpec:
    """What a network says of one unit: how many channels it gives and how to build it for given input channels."""

    out_channels: int
    build: Callable[[int], nn.Module]


def _resized(message_NCHW: Tensor, size: tuple[int, int]) -> Tensor:
    """Return a message of another height and width: averages of a larger map's pixels, or a smaller map's repeated."""
    if tuple(message_NCHW.shape[-2:]) == size:
        return message_NCHW
    if message_NCHW.shape[-2] < size[0] or message_NCHW.shape[-1] < size[1]:
        return F.interpolate(message_NCHW, size=size, mode="nearest")
    return average_pool(message_NCHW, size)


class Merge(nn.Module):
    """Bring the messages of one tick to one shape and merge them: P and C of methods.md section 3 [D].

    Args:
        channels: channels of each message, the chain neighbour's first.
        kind: `sum` or `concat`.
    """

    def __init__(self, channels: Sequence[int], kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.out_channels = channels[0] if kind == "sum" else sum(channels)
        self.projections = nn.ModuleList(
            nn.Conv2d(c, channels[0], 1, bias=False) if kind == "sum" and c != channels[0] else nn.Identity()
            for c in channels[1:]
        )

    def forward(self, messages: Sequence[Tensor]) -> Tensor:
        """Merge messages of shapes (N, C_j, H_j, W_j) to (N, C, H, W) with H and W of the first."""
        chain_NCHW = messages[0]
        if len(messages) == 1:
            return chain_NCHW
        size = (chain_NCHW.shape[-2], chain_NCHW.shape[-1])
        skips = [
            project(_resized(message, size)) for project, message in zip(self.projections, messages[1:], strict=True)
        ]
        if self.kind == "sum":
            return chain_NCHW + sum(skips)
        return torch.cat([chain_NCHW, *skips], dim=1)


class Unit(nn.Module):
    """One node of the network: it merges the messages it reads and applies its function.

    Args:
        merge: brings the messages to one shape.
        body: the unit's function f_i, from (N, C, H, W) to (N, C', H', W'), or to (N, K) for a classifier's last unit.

    Attributes:
        head: of a module's last unit, see local_modules.py: from its output to an answer of the module's own.
        quantiser: of a unit that another module reads: what is sent to it is quantised.
    """

    head: nn.Module | None
    quantiser: VectorQuantiser | None

    def __init__(self, merge: Merge, body: nn.Module) -> None:
        super().__init__()
        self.merge = merge
        self.body = body
        self.head = None
        self.quantiser = None

    def forward(self, messages: Sequence[Tensor]) -> Tensor:
        """Return h_i for one message per source, the chain neighbour's first."""
        return self.body(self.merge(messages))


@cache
def _read_above(wiring: Wiring, units: range) -> tuple[int, ...]:
    """Return those of some units that others read."""
    return tuple(i for i in units if any(j == i and reader not in units for j, reader in wiring.edges()))


class UnitNetwork(nn.Module):
    """Units in order plus, for each unit, the units it reads.

    Args:
        specs: one entry per unit, the lowest first.
        wiring: which units each unit reads; its depth is the number of specs.
        in_channels: channels of a frame.
        frame_multiple: what a frame's height and width must be a multiple of, in an encoder-decoder.

    Raises:
        ValueError: the wiring's depth is not the number of units.
    """

    def __init__(self, specs: Sequence[UnitSpec], wiring: Wiring, in_channels: int, *, frame_multiple: int = 1) -> None:
        super().__init__()
        self.frame_multiple = frame_multiple
        if wiring.depth != len(specs):
            raise ValueError(
                f"wiring {wiring.name!r} has {wiring.depth} units, the network {len(specs)}; make them equal"
            )
        self.wiring = wiring
        self.channels = channels = [in_channels, *(spec.out_channels for spec in specs)]
        self.units = nn.ModuleList()
        for number, spec in enumerate(specs, start=1):
            merge = Merge([channels[j] for j in wiring.sources_of(number)], wiring.merge)
            self.units.append(Unit(merge, spec.build(merge.out_channels)))

    @property
    def depth(self) -> int:
        """Number of units, D."""
        return len(self.units)

    def unit(self, number: int) -> Unit:
        """Return unit `number`, 1-based as in the papers."""
        unit = self.units[number - 1]
        assert isinstance(unit, Unit)
        return unit

    def unit_parameters(self, number: int) -> dict[str, nn.Parameter]:
        """Return the parameters of a unit (1-based) by their names in `named_parameters()`."""
        prefix = f"units.{number - 1}."
        return {prefix + name: p for name, p in self.unit(number).named_parameters()}

    @property
    def module_count(self) -> int:
        """Number of modules, J; 0 where the units are not put together in modules."""
        return len(self.wiring.modules)

    @property
    def is_local(self) -> bool:
        """Whether modules learn by losses of their own."""
        return self.wiring.gradients == "local"

    def module_units(self, module: int) -> range:
        """Return the units of a module (1-based)."""
        end = sum(self.wiring.modules[:module])
        return range(end - self.wiring.modules[module - 1] + 1, end + 1)

    def module_head(self, module: int) -> nn.Module | None:
        """Return a module's head; None for the last module, whose last unit answers."""
        return self.unit(self.module_units(module)[-1]).head

    def module_sources(self, module: int) -> tuple[int, ...]:
        """Return what a module reads from outside, the frame (0) or units of lower modules, in order."""
        units = self.module_units(module)
        return tuple(sorted({j for i in units for j in self.wiring.sources_of(i)} - set(units)))

    def module_outputs(self, module: int) -> tuple[int, ...]:
        """Return the units of a module that higher modules read."""
        return _read_above(self.wiring, self.module_units(module))

    def quantiser(self, unit: int) -> VectorQuantiser | None:
        """Return what quantises a unit's output on its way to other modules, if anything does."""
        return self.unit(unit).quantiser

    def module_forward(
        self, module: int, messages: Mapping[int, Tensor], *, heads: bool = True
    ) -> tuple[dict[int, Tensor], Tensor]:
        """Return the outputs that higher modules read, and the module's answer: its head's, or its last unit's.

        Args:
            module: number, 1-based.
            messages: by source, frames (N, C, H, W) of one tick or of several.
            heads: without, a module that has a head gives what it would read.
        """
        outputs = dict(messages)
        units = self.module_units(module)
        for number in units:
            outputs[number] = self.unit(number)([outputs[j] for j in self.wiring.sources_of(number)])
        head = self.module_head(module) if heads else None
        answer = outputs[units[-1]]
        return {i: outputs[i] for i in self.module_outputs(module)}, answer if head is None else head(answer)

    def forward(self, frames_NCHW: Tensor) -> Tensor:
        """Return the output of the ordinary per-frame network, every unit on the same frame."""
        outputs = {INPUT: frames_NCHW}
        for number in range(1, self.depth + 1):
            outputs[number] = self.unit(number)([outputs[j] for j in self.wiring.sources_of(number)])
        return outputs[self.depth]
