"""Networks that take a whole clip at once: the 3D CNN controls that a user would pick instead.

For rules that learn locally a network's blocks are put together in modules, as the units of per-frame networks are
(see local_modules.py): features 1, 2 | 3, 4 | 5 and the classifier. Uncut it is one unit.

Shape legend: B clips, T frames, C channels, H and W height and width, K classes.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from lightning_modules.layers.vector_quantiser import VectorQuantiser


class ClipNetwork(nn.Module):
    """A network over clips, trained by plain backprop: one unit whose input is the clip and whose output is one answer.

    Args:
        features: from (B, C, T, H, W) to (B, C', T', H', W').
        head: linear layer from C' to K.
        pool: over space, `avg` or `max`; the pool over time is the mean.
        blocks: (layers of `features`, channels it gives) of each block, where the features can be cut; they are then a
            Sequential.

    Raises:
        ValueError: an unknown pool.
    """

    def __init__(
        self,
        features: nn.Module,
        head: nn.Linear,
        pool: str = "avg",
        blocks: Sequence[tuple[int, int]] = (),
    ) -> None:
        super().__init__()
        if pool not in ("avg", "max"):
            raise ValueError(f"head pool {pool!r} is unknown; expected 'avg' or 'max'")
        self.features = features
        self.head = head
        self.pool = pool
        self.blocks = tuple(blocks)
        self.sizes: tuple[int, ...] = ()  # blocks of each module
        self.heads = nn.ModuleList()
        self.quantisers = nn.ModuleList()

    @property
    def depth(self) -> int:
        """Number of units: of modules, or 1."""
        return max(1, len(self.sizes))

    @property
    def module_count(self) -> int:
        """Number of modules, J; 0 where the blocks are not put together in modules."""
        return len(self.sizes)

    @property
    def is_local(self) -> bool:
        """Whether modules learn by losses of their own."""
        return bool(self.sizes)

    def unit_parameters(self, number: int) -> dict[str, nn.Parameter]:
        """Return the parameters of a unit (1-based): of a module with its head, or all of them.

        Raises:
            ValueError: there is no such unit.
        """
        if not 1 <= number <= self.depth:
            raise ValueError(f"unit {number} of a clip network; it has {self.depth}, numbered from 1")
        if not self.sizes:
            return dict(self.named_parameters())
        layers = self._layers(number)
        prefixes = [f"features.{i}." for i in layers]
        prefixes += ["head."] if number == self.depth else [f"heads.{number - 1}."]
        return {name: p for name, p in self.named_parameters() if name.startswith(tuple(prefixes))}

    def _layers(self, module: int) -> range:
        """Return the layers of `features` that make a module."""
        end = sum(self.sizes[:module])
        layers = [count for count, _ in self.blocks]
        return range(sum(layers[: end - self.sizes[module - 1]]), sum(layers[:end]))

    def module_units(self, module: int) -> range:
        """Return the units of a module: itself."""
        return range(module, module + 1)

    def module_channels(self, module: int) -> int:
        """Return the channels of a module's output."""
        return self.blocks[sum(self.sizes[:module]) - 1][1]

    def module_head(self, module: int) -> nn.Module | None:
        """Return a module's head; None for the last module, which has the classifier."""
        return self.heads[module - 1] if module < self.depth else None

    def module_sources(self, module: int) -> tuple[int, ...]:
        """Return what a module reads: the clip (0), or the module below."""
        return (module - 1,)

    def module_outputs(self, module: int) -> tuple[int, ...]:
        """Return what higher modules read: the module's output."""
        return (module,) if module < self.depth else ()

    def quantiser(self, module: int) -> VectorQuantiser | None:
        """Return what quantises a module's output on its way up, if anything does."""
        found = self.quantisers[module - 1] if self.quantisers else None
        assert found is None or isinstance(found, VectorQuantiser)
        return found

    def module_forward(
        self, module: int, messages: Mapping[int, Tensor], *, heads: bool = True
    ) -> tuple[dict[int, Tensor], Tensor]:
        """Return the output that the next module reads, and the module's answer (B, K).

        Args:
            module: number, 1-based.
            messages: by source, clips (B, C, T, H, W).
            heads: without, a module that has a head gives what it would read.
        """
        x_BCTHW = messages[module - 1]
        assert isinstance(self.features, nn.Sequential)
        for layer in self._layers(module):
            x_BCTHW = self.features[layer](x_BCTHW)
        head = self.module_head(module)
        if head is None:
            return {}, self._classified(x_BCTHW)
        return {module: x_BCTHW}, head(x_BCTHW) if heads else x_BCTHW

    def forward(self, video_BTCHW: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Return logits (B, K), each clip's as if it had no padding.

        Padding cannot be masked after the fact: it enters the convolutions over time and the statistics of the
        normalisation. So clips of one length go through together, cut to it. Where features hold BatchNorm (x3d), a
        training step then takes its statistics over the clips of one length.
        """
        if lengths_B is None:
            return self._logits(video_BTCHW)
        lengths = lengths_B.unique().tolist()
        if lengths == [video_BTCHW.shape[1]]:
            return self._logits(video_BTCHW)
        parts, order = [], []
        for length in lengths:
            clips = (lengths_B == length).nonzero().squeeze(1)
            parts.append(self._logits(video_BTCHW[clips, : max(length, 1)]))
            order.append(clips)
        return torch.cat(parts)[torch.cat(order).argsort()]

    def _logits(self, video_BTCHW: Tensor) -> Tensor:
        return self._classified(self.features(video_BTCHW.transpose(1, 2)))

    def _classified(self, x_BCTHW: Tensor) -> Tensor:
        x_BCT = x_BCTHW.mean((-2, -1)) if self.pool == "avg" else x_BCTHW.amax((-2, -1))
        return self.head(x_BCT.mean(-1))
