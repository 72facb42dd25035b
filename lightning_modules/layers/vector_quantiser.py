"""Online vector quantisation of what modules send and buffers hold: each position becomes one short index a group.

    x (N, C, ...) -> (P, G, C/G) -> nearest code of each group -> (P, G) indices -> bytes     encode, `Packed`
                                                                       codes     <- bytes     decode

methods.md section 4: online vector quantisation is the paper's [P: arXiv 2106.06401, the abstract], this form ours [D].
No gradient crosses, so there is no straight-through term. The codebook changes in `step` and `start` alone, and each
change is a new version: indices are of use with the codebook of their own version.

Shape legend: N frames, C channels, P positions (N and all dimensions behind C), G groups, K codes, D = C / G.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from lightning_modules.layers.bit_packing import MAX_BITS, index_bits, pack, unpack
from lightning_modules.layers.codebook_learning import (
    Gathered,
    averaged,
    codes_of,
    first_codebook,
    perplexity_of,
    revived,
    seeded,
)
from lightning_modules.layers.nearest_code import nearest, take


@dataclass(frozen=True)
class Packed:
    """A quantised tensor as it is sent and held.

    Args:
        data: the indices' bits, bytes in one dimension: position by position, the groups of a position together.
        shape: of the tensor that was encoded.
        dtype: of the tensor that was encoded.
        version: of the codebook.
        groups: G.
        codes: K.
    """

    data: Tensor
    shape: torch.Size
    dtype: torch.dtype
    version: int
    groups: int
    codes: int

    @property
    def nbytes(self) -> int:
        """Bytes of the indices."""
        return self.data.nbytes

    def plain(self) -> dict[str, Any]:
        """Return plain containers and tensors, for a checkpoint: `Packed(**plain)` is the same again."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


class VectorQuantiser(nn.Module):
    """Codebooks for the groups of C channels, learnt from what passes.

    Args:
        channels: C, dimension 1 of what is quantised.
        groups: G; divides C.
        codes: K of each group, 2 to 65536; any number, though a power of two wastes no bits.
        decay: of the averages that the codes are made of; 0.99 looks back about 100 steps.
        epsilon: of the Laplace smoothing of counts.
        dead: a code with less than this share of its group's mean count begins anew at a vector seen; 0 for never.

    Raises:
        ValueError: groups that do not divide the channels, codes or shares out of range.
    """

    codebook: Tensor
    ema_count: Tensor
    ema_sum: Tensor
    version: Tensor
    started: Tensor

    def __init__(
        self,
        channels: int,
        groups: int,
        codes: int,
        *,
        decay: float = 0.99,
        epsilon: float = 1e-5,
        dead: float = 0.01,
    ) -> None:
        super().__init__()
        _check(channels, groups, codes, decay, epsilon, dead)
        self.channels, self.groups, self.codes = channels, groups, codes
        self.decay, self.epsilon, self.dead = decay, epsilon, dead
        dtype = torch.promote_types(torch.get_default_dtype(), torch.float32)
        depth = channels // groups
        # Not the global generator's: a network's weights are the same with and without a quantiser.
        first = torch.randn(groups, codes, depth, generator=seeded(torch.device("cpu"), 0, 0), device="cpu")
        self.register_buffer("codebook", torch.empty(groups, codes, depth, dtype=dtype).copy_(first))
        self.register_buffer("ema_count", torch.zeros(groups, codes, dtype=dtype))
        self.register_buffer("ema_sum", torch.zeros(groups, codes, depth, dtype=dtype))
        self.register_buffer("version", torch.tensor(0, dtype=torch.int64))
        self.register_buffer("started", torch.tensor(False))
        self._gathered: Gathered | None = None
        self._read: tuple[tuple[int, ...], int, bool] | None = None

    @property
    def bits_per_position(self) -> float:
        """Bits of one position as sent: G times the whole bits of an index, against 32 C in float32."""
        return float(self.groups * index_bits(self.codes))

    @property
    def codebook_bytes(self) -> int:
        """Bytes of the codebooks of one version: what a receiver needs beside the indices."""
        return self.codebook.nbytes

    def gathered(self) -> int:
        """Return the number of positions that count for the next `step`."""
        return 0 if self._gathered is None else self._gathered.positions

    def perplexity(self) -> Tensor:
        """Return how many codes are in use, 1 to K, the mean over groups: e to the entropy of the averaged counts."""
        return perplexity_of(self.ema_count)

    def extra_repr(self) -> str:
        """Return what distinguishes this quantiser in a printed network."""
        return (
            f"{self.channels}, groups={self.groups}, codes={self.codes}, bits_per_position={self.bits_per_position:g}"
        )

    def zero(self) -> None:
        """Forget what was gathered since the last step."""
        self._gathered = None

    @torch.no_grad()
    def start(self, x: Tensor) -> None:
        """Take the first codebook from a batch (N, C, ...), if there is none yet: a new version.

        Raises:
            ValueError: a tensor without C channels in dimension 1.
        """
        if not self._state()[1]:
            self._start(self._vectors(x))

    @torch.no_grad()
    def encode(self, x: Tensor, *, learn: bool = False) -> Packed:
        """Return the nearest codes of x (N, C, ...) as bits; see `forward` for `learn`.

        Raises:
            ValueError: a tensor without C channels in dimension 1.
        """
        data = pack(self._indices(x, learn), index_bits(self.codes))
        return Packed(data, x.shape, x.dtype, self._state()[0], self.groups, self.codes)

    @torch.no_grad()
    def decode(self, packed: Packed, codebook: Tensor | None = None) -> Tensor:
        """Return the tensor that was encoded, made of codes: of its shape and type, on the codebook's device.

        Args:
            packed: from `encode`, of a quantiser with the same groups and codes.
            codebook: (G, K, D), a copy kept of the version that it was encoded with; without one, the present one.

        Raises:
            ValueError: other groups, codes or channels than the codebook's.
        """
        codebook = self.codebook if codebook is None else codebook
        channels = codebook.shape[0] * codebook.shape[2]
        if (packed.groups, packed.codes) != codebook.shape[:2] or packed.shape[1] != channels:
            raise ValueError(
                f"a message of {packed.shape[1]} channels in {packed.groups} groups of {packed.codes} codes, and a "
                f"codebook of shape {tuple(codebook.shape)} (groups, codes, channels of a group); decode it with the "
                "quantiser that encoded it"
            )
        count = packed.shape[0] * prod(packed.shape[2:]) * packed.groups
        indices = unpack(packed.data.to(codebook.device), index_bits(packed.codes), count)
        out = torch.empty(packed.shape, dtype=packed.dtype, device=codebook.device)
        return _filled(out, take(codebook, indices.view(-1, packed.groups)))

    @torch.no_grad()
    def forward(self, x: Tensor, *, learn: bool = False) -> Tensor:
        """Return x (N, C, ...) made of its nearest codes: detached, of its shape, type and memory format.

        A codebook that was never started is random, and works.

        Args:
            x: on the codebook's device.
            learn: x counts for the next `step`. The codebook is the same for all calls until then; the first of a
                codebook without a start starts it.

        Raises:
            ValueError: a tensor without C channels in dimension 1.
        """
        return _filled(torch.empty_like(x), take(self.codebook, self._indices(x, learn)))

    @torch.no_grad()
    def step(self) -> None:
        """Update the codebook from all that was gathered since the last step: a new version. Nothing: no change."""
        if self._gathered is None:
            return
        gathered, self._gathered = self._gathered, None
        found_GK, found_GKD = gathered.finite()
        counts_GK, sums_GKD = averaged(self.ema_count, self.ema_sum, found_GK, found_GKD, self.decay)
        codebook_GKD = codes_of(counts_GK, sums_GKD, self.epsilon, found_GK, self.codebook)
        if self.dead:
            counts_GK, sums_GKD, codebook_GKD = revived(counts_GK, sums_GKD, codebook_GKD, gathered, self.dead)
        self._set(counts_GK, sums_GKD, codebook_GKD)

    def _indices(self, x: Tensor, learn: bool) -> Tensor:
        vectors_PGD = self._vectors(x)
        if learn and not self._state()[1]:
            self._start(vectors_PGD)
        indices_PG = nearest(vectors_PGD, self.codebook)
        if learn and len(vectors_PGD) and self._state()[1]:
            if self._gathered is None:
                self._gathered = Gathered(self.codebook, self._state()[0])
            self._gathered.add(vectors_PGD, indices_PG, self.codebook)
        return indices_PG

    def _vectors(self, x: Tensor) -> Tensor:
        """Return x (N, C, ...) as (P, G, D), of the codebook's type."""
        if x.dim() < 2 or x.shape[1] != self.channels:
            raise ValueError(
                f"a tensor of shape {tuple(x.shape)}; expected (N, {self.channels}, ...), "
                f"{self.channels} channels in dimension 1"
            )
        x = x.detach().to(self.codebook.dtype).movedim(1, -1)
        return x.reshape(prod(x.shape[:-1]), self.groups, self.channels // self.groups)

    def _start(self, vectors_PGD: Tensor) -> None:
        found = first_codebook(vectors_PGD, self.codes, seeded(vectors_PGD.device, self._state()[0], 0))
        if found is None:
            return
        codebook_GKD, counts_GK = found
        # As if the averages had begun at zero with this batch: the first steps move the codes far, as they should.
        counts_GK = (1 - self.decay) * counts_GK.to(codebook_GKD.dtype)
        self._set(counts_GK, codebook_GKD * counts_GK[..., None], codebook_GKD)

    def _set(self, counts_GK: Tensor, sums_GKD: Tensor, codebook_GKD: Tensor) -> None:
        """Write a new version, in place: who keeps an old one keeps a clone."""
        version, _ = self._state()
        self.ema_count.copy_(counts_GK)
        self.ema_sum.copy_(sums_GKD)
        self.codebook.copy_(codebook_GKD)
        self.version.fill_(version + 1)
        self.started.fill_(True)
        self._know(version + 1, True)

    def _state(self) -> tuple[int, bool]:
        """Return version and started, read from the device only when they were written: reading makes the host wait."""
        if self._read is None or self._read[0] != self._written():
            self._know(int(self.version), bool(self.started))
        assert self._read is not None
        return self._read[1:]

    def _know(self, version: int, started: bool) -> None:
        self._read = (self._written(), version, started)

    def _written(self) -> tuple[int, ...]:
        """Return what changes when someone writes to version or started, in place or by another tensor."""
        state = (self.version, self.started)
        # A tensor made in inference mode counts no writes: never the same, so always read.
        return tuple(x for t in state for x in (id(t), time.monotonic_ns() if t.is_inference() else t._version))

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._gathered = self._read = None  # of another codebook
        super()._load_from_state_dict(*args, **kwargs)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "VectorQuantiser":
        """Move or convert, but never below float32: with a decay of 0.99 half precision would round each step away."""

        def kept(tensor: Tensor) -> Tensor:
            made = fn(tensor)
            narrow = made.is_floating_point() and made.element_size() < 4
            return tensor.to(made.device, torch.float32) if narrow else made

        self._gathered = self._read = None
        return super()._apply(kept, recurse)


def _filled(out: Tensor, codes_PGD: Tensor) -> Tensor:
    """Write codes into a tensor (N, C, ...) and return it."""
    return out.copy_(codes_PGD.view(out.shape[0], *out.shape[2:], out.shape[1]).movedim(-1, 1))


def _check(channels: int, groups: int, codes: int, decay: float, epsilon: float, dead: float) -> None:
    if groups < 1 or channels < 1 or channels % groups:
        near = [g for g in range(1, channels + 1) if channels % g == 0]
        raise ValueError(
            f"{groups} groups of {channels} channels; expected a divisor of the channels: "
            f"{', '.join(map(str, near)) or 'none, for there must be channels'}"
        )
    if not 2 <= codes <= 2**MAX_BITS:
        raise ValueError(f"{codes} codes; expected 2 to {2**MAX_BITS}, such as 256")
    if not 0 <= decay < 1:
        raise ValueError(f"decay {decay}; expected at least 0 and less than 1, such as 0.99")
    if epsilon < 0:
        raise ValueError(f"epsilon {epsilon}; expected 0 or more, such as 1e-5")
    if not 0 <= dead < 1:
        raise ValueError(f"dead {dead}; expected a share of the mean count, at least 0 and less than 1, such as 0.01")
