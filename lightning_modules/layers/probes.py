"""Sketches of an activation by random probes, and what is got back from them: randomised trace estimation.

A probe is a field of Gaussian numbers over some elements of an activation X; r of them are the columns of E. The sketch
X E is what is kept. As E E^T has the mean r I, what is got back, X~ = (X E) E^T / r, has the mean X, and so has every
number that is linear in it (arXiv 2106.06998, methods.md section 5):

    mode          a probe covers                   kept of each sample     probes of one convolution
    local         about 16 positions of one        r numbers a channel     (16, r) for each sample [D], local_probes.py
                  sample, in all its channels
    independent   all N positions of a channel     r numbers a channel     (N, r), the same for every channel [C]
    multi         all ci N elements                r numbers               (ci N, r) [P]
    orthogonal    the elements of a block of       r numbers               (ci N / blocks, r) in all, for min(r, ci)
                  channels                                                 blocks [P]

A channel's mean may be taken away first and kept as it is: what is left is smaller, and the error with it, for ci
numbers more a sample. ReLU's outputs are mostly mean. [D]

Probes are never kept: they are drawn again from their key where they are needed, in chunks of `CHUNK`, so that what is
there for a moment stays below a budget. The draws depend on the key alone, not on the budget.

Shape legend: B samples, C channels (ci), S spatial sizes, N their product, n elements that a probe covers, r probes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

MODES = ("local", "independent", "multi", "orthogonal")
LOCAL_SIZE = 16  # positions that a local probe covers, about
CHUNK = 8  # probes drawn from one seed at most
BUDGET_BYTES = 16 * 2**20
_LARGE = 2**13  # elements of probes that are drawn one by one
_BITS = 2**64 - 1

# From key, block, first probe, probes, elements n, dtype and device to the probes (probes, n).
Draw = Callable[[Tensor, int, int, int, int, torch.dtype, torch.device], Tensor]


@dataclass(frozen=True)
class Probes:
    """How an activation is sketched.

    Args:
        count: number of probes, r; local ones: of all blocks together.
        mode: one of `MODES`.
        budget_bytes: what probes, and what is got back at a time, may take for a moment: half of it each. One chunk of
            probes and one sample are the least.
        center: sketch what is left without each channel's mean, and keep the means. [D]
        half: keep sketches of float32 in bfloat16, whose rounding is far below a sketch's own error. [D]
        blocks: of positions, with count / blocks local probes each; 1 for other modes.
    """

    count: int
    mode: str
    budget_bytes: int = BUDGET_BYTES
    center: bool = False
    half: bool = False
    blocks: int = 1

    @classmethod
    def of(cls, count: int, mode: str, positions: int, **options: Any) -> "Probes":
        """Return so many probes over so many positions; local ones as near to it as equal blocks allow.

        Blocks have about `LOCAL_SIZE` positions: so many that each has a whole number of probes, at least one.
        """
        if mode != "local":
            return cls(count, mode, **options)
        each = max(1, round(count * min(LOCAL_SIZE / max(1, positions), 1)))
        size = -(-positions // max(1, round(count / each)))
        blocks = max(1, -(-positions // max(1, size)))
        return cls(blocks * each, mode, blocks=blocks, **options)

    @property
    def a_channel(self) -> bool:
        """Whether so many numbers are kept of each channel, not of all together."""
        return self.mode in ("local", "independent")

    def local_size(self, shape: Sequence[int]) -> int:
        """Return how many positions of (B, C, *S) a local probe covers."""
        return -(-prod(shape[2:]) // self.blocks)

    def local_elements(self, shape: Sequence[int]) -> int:
        """Return how many elements the local probes of a sample of (B, C, *S) cover together."""
        return self.count * self.local_size(shape)

    def stored_bytes(self, channels: int, itemsize: int = 4) -> int:
        """Return the bytes that are kept of each sample of an activation whose numbers have so many."""
        numbers, means = self.count * (channels if self.a_channel else 1), channels if self.center else 0
        return numbers * (2 if self.half and itemsize == 4 else itemsize) + means * itemsize

    def means(self, x: Tensor) -> Tensor | None:
        """Return what is taken away first, (B, C); None where nothing is."""
        return x.flatten(2).mean(2) if self.center else None

    def of_channels(self, channels: int) -> list[tuple[slice, range]]:
        """Return blocks of channels, and which probes cover each."""
        if self.mode != "orthogonal":
            return [(slice(0, channels), range(self.count))]
        blocks = min(self.count, channels)
        return [
            (
                slice(i * channels // blocks, (i + 1) * channels // blocks),
                range(i * self.count // blocks, (i + 1) * self.count // blocks),
            )
            for i in range(blocks)
        ]


def _mixed(value: int) -> int:
    """Return a 64-bit hash of a 64-bit number (splitmix64)."""
    value = (value + 0x9E3779B97F4A7C15) & _BITS
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _BITS
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _BITS
    return value ^ (value >> 31)


def chunk(elements: int) -> int:
    """Return how many probes over so many elements are drawn from one seed: few where each is large."""
    return max(1, min(CHUNK, _LARGE // max(1, elements)))


def _seed(numbers: Sequence[int]) -> int:
    seed = 0
    for number in numbers:
        seed = _mixed(seed ^ (number & _BITS))
    return seed


# An operator of its own, which torch.compile takes as it is: a generator cannot be traced.
@torch.library.custom_op("skip_sideways::gaussian_fields", mutates_args=())
def gaussian_fields(
    key: Tensor, block: int, first: int, count: int, elements: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Return `count` probes (count, elements) of standard Gaussian numbers, from number `first` on.

    Args:
        key: whole numbers on the CPU; equal keys give equal probes, whatever the pieces they are drawn in.
        block: number of the block of channels.
        first: number of the first probe, a multiple of `chunk(elements)`.
        count: of probes.
        elements: that a probe covers.
        dtype: of the result; numbers are drawn in float32, in float64 for float64.
        device: of the result.
    """
    kind = torch.float64 if dtype == torch.float64 else torch.float32
    generator = torch.Generator(device)
    fields = torch.empty(count, elements, dtype=dtype, device=device)
    numbers = key.tolist()
    step = chunk(elements)
    assert first % step == 0, "a piece starts inside a chunk: its seed would be another's"
    for start in range(0, count, step):
        generator.manual_seed(_seed([*numbers, block, (first + start) // step]))
        part = fields[start : start + step]
        if kind == dtype:
            part.normal_(generator=generator)
        else:
            part.copy_(torch.empty_like(part, dtype=kind).normal_(generator=generator))
    return fields


@gaussian_fields.register_fake
def _(
    key: Tensor, block: int, first: int, count: int, elements: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    return torch.empty(count, elements, dtype=dtype, device=device)


class Fields:
    """The probes of one convolution at one time, drawn as they are asked for; kept as long as all fit the budget.

    Args:
        probes: how many, and of what kind.
        key: what they are drawn from.
        like: dtype and device are its.
        draw: `gaussian_fields`, or a test's own.
    """

    def __init__(self, probes: Probes, key: Tensor, like: Tensor, draw: Draw = gaussian_fields) -> None:
        self._budget, self._key, self._draw = probes.budget_bytes // 2, key, draw
        self._dtype, self._device, self._itemsize = like.dtype, like.device, like.element_size()
        self._kept: dict[tuple[int, int], Tensor] = {}

    def pieces(self, count: int, elements: int, beside: int = 0) -> list[range]:
        """Return the pieces in which probes over so many elements are drawn.

        Args:
            count: of probes.
            elements: that each covers.
            beside: elements of what is made of each probe, which must fit the budget too.
        """
        least, size = chunk(elements), max(elements, beside) * self._itemsize
        step = max(1, self._budget // (size * least)) * least if size else max(1, count)
        return [range(first, min(first + step, count)) for first in range(0, count, step)]

    def __call__(self, block: int, piece: range, elements: int) -> Tensor:
        """Return the probes of a piece, (probes, elements)."""
        name = (block, piece.start)
        if name not in self._kept:
            held = sum(field.numel() for field in self._kept.values())
            if (held + len(piece) * elements) * self._itemsize > self._budget:
                self._kept.clear()
            self._kept[name] = self._draw(
                self._key, block, piece.start, len(piece), elements, self._dtype, self._device
            )
        return self._kept[name]


def samples_at_once(shape: Sequence[int], probes: Probes, itemsize: int) -> int:
    """Return how many samples of a shape (B, C, *S) may be copied, or got back, at a time."""
    least, of_probes = 1, 0
    if probes.mode == "local":
        of_probes = probes.local_elements(shape)
        least = chunk(of_probes)
    sample = max(prod(shape[1:]), of_probes) * itemsize
    return max(least, probes.budget_bytes // 2 // sample // least * least) if sample else max(1, shape[0])
