"""XConv: a network whose convolutions keep sketches of their inputs (arXiv 2106.06998, methods.md section 5).

The convolution itself is sketched_convolution.py. Here torch's layers become layers that call it, by `to_xconv`: a
layer's class changes, and its parameters, hooks and names stay. With `probes` 0, without a graph, or where the sketch
would be no smaller than the input, a layer is torch's own.

Draws: the n-th use of a layer has the key (seed, number of the layer, n). No global generator is touched, so that the
same seed gives the same gradients in one process or in several, and `draws_state` is all that a resume needs.

Shape legend: B samples, C input channels (ci), S spatial sizes.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from math import prod
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.layers.convolution import Geometry
from lightning_modules.layers.probes import (
    BUDGET_BYTES,
    MODES,
    Probes,
)
from lightning_modules.layers.sketched_convolution import sketched_convolution


def check_probes(probes: float) -> None:
    """Refuse what is no number of probes.

    Raises:
        ValueError: negative, or neither whole nor a share below 1.
    """
    if not (0 <= probes < 1 or (probes >= 1 and float(probes).is_integer())):
        raise ValueError(
            f"probes {probes}; expected 0 (exact), a whole number from 1, or a share of the input's numbers below 1"
        )


def _lowered(x: Tensor) -> Tensor:
    """Return what autocast makes of a convolution's arguments: it leaves float64."""
    return x if x.dtype == torch.float64 else x.to(torch.get_autocast_dtype(x.device.type))


class _Sketched(nn.Module):
    """What a convolution of torch becomes: with probes it keeps a sketch of its input .

    Attributes:
        probes: number of them; below 1 the share of the input's numbers that is kept; 0: exact.
        is_chosen: whether probes are used here at all.
        mode: one of `MODES`.
        center: sketch what is left without the channels' means, and keep these.
        keeps_half: sketches of float32 are kept in bfloat16.
        budget_bytes: what probes, and what is got back from them at a time, may take: half of it each.
        key: (4,) seed, number of the layer, uses, and whether the last use may be computed again in a backward pass.
        replica: which copy of the network this is, where several learn from other samples: each draws its own probes.
    """

    probes: float
    is_chosen: bool
    mode: str
    center: bool
    keeps_half: bool
    budget_bytes: int
    key: Tensor
    replica: int

    def sketch_of(self, shape: Sequence[int], itemsize: int = 4) -> Probes | None:
        """Return how an input (B, C, *S) is sketched; None where a sketch would be no smaller.

        Args:
            shape: of the input.
            itemsize: bytes of each of its numbers.
        """
        channels, positions = shape[1], prod(shape[2:])
        count = self.probes
        if 0 < count < 1:
            count = max(1, round(count * positions * (1 if self.mode in ("local", "independent") else channels)))
        options = {"budget_bytes": self.budget_bytes, "center": self.center, "half": self.keeps_half}
        probes = Probes.of(int(count), self.mode, positions, **options)
        return probes if count and probes.stored_bytes(channels, itemsize) < itemsize * channels * positions else None

    def forward(self, x: Tensor, *size: Any, **sizes: Any) -> Tensor:
        """Return the convolution of x (B, C, *S) or (C, *S); transposed ones may be told the output's size."""
        conv = cast("nn.Conv2d", self)
        dims = len(conv.kernel_size)
        if not (self.is_chosen and self.probes and torch.is_grad_enabled()) or x.is_meta:
            return super().forward(x, *size, **sizes)
        if x.dim() == dims + 1:
            return self.forward(x[None], *size, **sizes).squeeze(0)
        weight, bias, kind = conv.weight, conv.bias, x.device.type
        itemsize = min(2, x.element_size()) if torch.is_autocast_enabled(kind) else x.element_size()
        probes = self.sketch_of(x.shape, itemsize) if x.dim() == dims + 2 else None
        if probes is None:
            return super().forward(x, *size, **sizes)
        if torch.is_autocast_enabled(kind):
            x, weight, bias = _lowered(x), _lowered(weight), None if bias is None else _lowered(bias)
        with torch.autocast(kind, enabled=False):
            x, geometry = self._prepared(x, *size, **sizes)
            # With a frozen weight nothing is kept (torch's own convolution keeps its input all the same).
            key = self._next_key() if weight.requires_grad else self.key
            return sketched_convolution(x, weight, bias, geometry, probes, key)

    def _prepared(self, x: Tensor, output_size: list[int] | None = None) -> tuple[Tensor, Geometry]:
        """Return the input, padded where autograd keeps nothing for it, and how the convolution moves over it."""
        conv: Any = self
        dims, steps = len(conv.kernel_size), (conv.stride, conv.padding, conv.dilation, conv.groups)
        if conv.transposed:
            outside = conv._output_padding(
                x, output_size, conv.stride, conv.padding, conv.kernel_size, dims, conv.dilation
            )
            return x, Geometry(*steps, transposed=True, output_padding=tuple(outside))
        zero, around = (0,) * dims, tuple(conv._reversed_padding_repeated_twice)
        unpadded = (conv.stride, zero, conv.dilation, conv.groups)
        if conv.padding_mode in ("reflect", "replicate"):
            return x, Geometry(*unpadded, border=conv.padding_mode, around=around)
        if conv.padding_mode == "circular":
            return F.pad(x, around, "circular"), Geometry(*unpadded)
        if not isinstance(conv.padding, str):
            return x, Geometry(*steps)
        if all(left == right for left, right in zip(around[::2], around[1::2], strict=True)):
            return x, Geometry(conv.stride, around[::2][::-1], conv.dilation, conv.groups)
        return F.pad(x, around), Geometry(*unpadded)

    def _next_key(self) -> Tensor:
        """Return the key of this use.

        What activation checkpointing computes again, inside a backward pass, has the key of the last use, if that was
        outside one: where a layer is used once between two backward passes, its gradients are those without
        checkpointing. Everything else has a key of its own.
        """
        is_again = not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1
        if not (is_again and self.key[3]):
            self.key[2] += 1
        self.key[3] = not is_again
        key = self.key[:3].clone()
        return torch.cat([key, key.new_tensor([self.replica])]) if self.replica else key

    def extra_repr(self) -> str:
        """Say the probes too."""
        return f"{super().extra_repr()}, probes={self.probes if self.is_chosen else 0:g}, mode={self.mode}"


class XConv1d(_Sketched, nn.Conv1d):  # type: ignore[misc]
    """`nn.Conv1d` that keeps a sketch of its input."""


class XConv2d(_Sketched, nn.Conv2d):  # type: ignore[misc]
    """`nn.Conv2d` that keeps a sketch of its input."""


class XConv3d(_Sketched, nn.Conv3d):  # type: ignore[misc]
    """`nn.Conv3d` that keeps a sketch of its input."""


class XConvTranspose1d(_Sketched, nn.ConvTranspose1d):  # type: ignore[misc]
    """`nn.ConvTranspose1d` that keeps a sketch of its input."""


class XConvTranspose2d(_Sketched, nn.ConvTranspose2d):  # type: ignore[misc]
    """`nn.ConvTranspose2d` that keeps a sketch of its input."""


class XConvTranspose3d(_Sketched, nn.ConvTranspose3d):  # type: ignore[misc]
    """`nn.ConvTranspose3d` that keeps a sketch of its input."""


KINDS: dict[type[nn.Module], type[_Sketched]] = {
    nn.Conv1d: XConv1d,
    nn.Conv2d: XConv2d,
    nn.Conv3d: XConv3d,
    nn.ConvTranspose1d: XConvTranspose1d,
    nn.ConvTranspose2d: XConvTranspose2d,
    nn.ConvTranspose3d: XConvTranspose3d,
}


def xconv_layers(network: nn.Module) -> dict[str, _Sketched]:
    """Return the converted convolutions by name."""
    return {name: layer for name, layer in network.named_modules() if isinstance(layer, _Sketched)}


def to_xconv(
    network: nn.Module,
    probes: float = 0.125,
    *,
    mode: str = MODES[0],
    center: bool = False,
    half: bool = False,
    layers: Sequence[str] = ("*",),
    seed: int | None = None,
    budget_bytes: int = BUDGET_BYTES,
) -> list[str]:
    """Turn a network's convolutions into ones that keep sketches, in place, and return the names of those chosen.

    methods.md section 5 [D]. Parameters, hooks and names stay, and with them the keys of a state_dict. Layers of
    classes derived from torch's are left as they are. A network converted before takes the new settings.

    Args:
        network: is changed.
        probes: number of them; below 1 the share of the input's numbers that is kept; 0: exact, until `set_probes`.
        mode: one of `MODES`.
        center: sketch what is left without the channels' means, and keep these: smaller errors. [D]
        half: keep sketches of float32 in bfloat16, whose rounding is far below a sketch's own error. [D]
        layers: names of convolutions, or patterns such as `units.*.body.0`; the others stay exact.
        seed: of the probes; None: torch's initial seed.
        budget_bytes: what probes, and what is got back from them at a time, may take: half of it each.

    Raises:
        ValueError: an unknown mode, no number of probes, or a name that fits no convolution.
    """
    check_probes(probes)
    if mode not in MODES:
        raise ValueError(f"mode {mode!r} of probes is unknown; expected one of {', '.join(MODES)}")
    found = {n: m for n, m in network.named_modules() if type(m) in KINDS or isinstance(m, _Sketched)}
    for pattern in layers:
        if pattern != "*" and not any(fnmatchcase(name, pattern) for name in found):
            names = ", ".join(found) or "none here"
            raise ValueError(f"layer {pattern!r} fits no convolution; expected a name or pattern of {names}")
    seed = torch.initial_seed() if seed is None else seed
    for number, (name, layer) in enumerate(found.items()):
        if not isinstance(layer, _Sketched):
            layer.__class__ = KINDS[type(layer)]
            assert isinstance(layer, _Sketched)
        layer.probes, layer.mode, layer.center, layer.keeps_half, layer.budget_bytes = (
            probes,
            mode,
            center,
            half,
            budget_bytes,
        )
        layer.is_chosen = any(fnmatchcase(name, pattern) for pattern in layers)
        layer.key = torch.tensor([seed % 2**63, number, 0, 0], dtype=torch.int64)
        layer.replica = 0
    return [name for name, layer in xconv_layers(network).items() if layer.is_chosen]


def set_replica(network: nn.Module, replica: int) -> None:
    """Let a copy of a network draw other probes than its twins, so that the mean over copies averages their errors."""
    for layer in xconv_layers(network).values():
        layer.replica = replica


def set_probes(network: nn.Module, probes: float) -> None:
    """Change the number of probes of all converted convolutions, from their next use on; 0: exact.

    Not between a forward pass under activation checkpointing and its backward pass, which computes it again.

    Raises:
        ValueError: no number of probes.
    """
    check_probes(probes)
    for layer in xconv_layers(network).values():
        layer.probes = probes


@contextmanager
def kept_exact(network: nn.Module) -> Iterator[None]:
    """Let converted convolutions find exact gradients inside the block, and draw nothing."""
    layers = list(xconv_layers(network).values())
    before = [layer.probes for layer in layers]
    try:
        set_probes(network, 0)
        yield
    finally:
        for layer, probes in zip(layers, before, strict=True):
            layer.probes = probes


def draws_state(network: nn.Module) -> dict[str, Tensor]:
    """Return what the next probes will be drawn from, by the name of the convolution's weight."""
    return {_weight_name(name): layer.key.clone() for name, layer in xconv_layers(network).items()}


def _weight_name(layer: str) -> str:
    return f"{layer}.weight" if layer else "weight"


def load_draws_state(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Go on drawing from where `draws_state` was taken; convolutions that it lacks are left."""
    for name, layer in xconv_layers(network).items():
        if (weight := _weight_name(name)) in state:
            layer.key = state[weight].to("cpu", copy=True)
