"""Local losses written out, straight from methods.md section 4: the oracle of test_greedy*.py.

Nothing is shared with execution/greedy.py or the network's own idea of modules: only the units' functions, their heads
and their quantisers are called. Numbers of frames and ticks count from 1.

    GreedyReference    tick by tick, unit by unit, one graph with a detached message wherever modules meet
    one_graph          all ticks of a unit at once: the same sums in the same order as the vectorised executor
    frames_reached     which frames have reached a unit at a tick: sets of numbers, no tensors

Shape legend: B clips, T frames, S ticks of one module.
"""

from collections.abc import Callable, Sequence
from functools import cache
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_modules.networks import ClipNetwork, UnitNetwork, Wiring

Loss = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(logits_NK: Tensor, labels_N: Tensor) -> Tensor:
    return F.cross_entropy(logits_NK, labels_N, reduction="none")


def squared(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).square().flatten(1).mean(1)


class Cut:
    """Which module a unit belongs to, of `sizes` units each, and from which unit a module's answer comes."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self.tops = list(accumulate(sizes))
        self.count = len(sizes)

    def module(self, unit: int) -> int:
        return 1 + sum(unit > top for top in self.tops)

    def top(self, module: int) -> int:
        return self.tops[module - 1]


def frames_reached(wiring: Wiring, sizes: Sequence[int], unit: int, tick: int) -> set[int]:
    """Frames in a unit's output at a tick: same tick inside a module, the tick before across, the frame itself now."""
    cut, found = Cut(sizes), set[int]()
    if tick < cut.module(unit):
        return found
    for source in wiring.sources_of(unit):
        if source == 0:
            found.add(tick)
        else:
            found |= frames_reached(wiring, sizes, source, tick - (cut.module(source) != cut.module(unit)))
    return found


def asked(wiring: Wiring, sizes: Sequence[int], module: int, tick: int) -> int | None:
    """Nominal frame of the last unit's output that has seen as new a frame as a module's answer; None if it has none.

    Found by looking for it: the last unit's first output, nominal frame 1, comes at tick J.
    """
    newest = max(frames_reached(wiring, sizes, Cut(sizes).top(module), tick))
    for nominal in range(1, tick + len(sizes) + 1):
        if max(frames_reached(wiring, sizes, len(wiring.sources), nominal + len(sizes) - 1)) == newest:
            return nominal
    return None


class GreedyReference:
    """A batch of clips through modules, tick by tick, all in one graph.

    Args:
        network: its units, heads and quantisers are called.
        sizes: units of each module.
        video_BTCHW: clips.
        targets: labels (B,), or one target for each nominal frame.
        lengths_B: real frames; None: all.
        loss: of an answer.
        clock: ticks that a message between modules takes: 1, or 0 where all work on the same frame.
    """

    def __init__(
        self,
        network: UnitNetwork,
        sizes: Sequence[int],
        video_BTCHW: Tensor,
        targets: Tensor,
        lengths_B: Tensor | None = None,
        loss: Loss = cross_entropy,
        clock: int = 1,
    ) -> None:
        self.network, self.sizes, self.cut = network, sizes, Cut(sizes)
        self.video, self.targets, self.loss, self.clock = video_BTCHW, targets, loss, clock
        clips, self.frames = video_BTCHW.shape[:2]
        self.lengths = [self.frames] * clips if lengths_B is None else lengths_B.tolist()
        self.output = cache(self._output)
        self.message = cache(self._message)

    def first(self, module: int) -> int:
        return module if self.clock else 1

    def _message(self, source: int, tick: int) -> Tensor:
        """What other modules read of a unit's output."""
        output = self.output(source, tick).detach()
        quantiser = self.network.unit(source).quantiser
        return output if quantiser is None else nearest_codes(quantiser.codebook, output)

    def _output(self, unit: int, tick: int) -> Tensor:
        read = []
        for source in self.network.wiring.sources_of(unit):
            if source == 0:
                read.append(self.video[:, tick - 1])
            elif self.cut.module(source) == self.cut.module(unit):
                read.append(self.output(source, tick))
            else:
                read.append(self.message(source, tick - self.clock))
        return self.network.unit(unit)(read)

    def answer(self, module: int, tick: int) -> Tensor:
        unit = self.cut.top(module)
        head = self.network.unit(unit).head
        return self.output(unit, tick) if head is None else head(self.output(unit, tick))

    def pairs(self, module: int) -> list[tuple[int, int]]:
        """The (clip, tick) pairs that a module learns from."""
        return [
            (clip, tick)
            for tick in range(self.first(module), self.frames + 1)
            if self.targets.dim() == 1 or self.nominal(module, tick)
            for clip, length in enumerate(self.lengths)
            if tick <= length
        ]

    def nominal(self, module: int, tick: int) -> int | None:
        return asked(self.network.wiring, self.sizes, module, tick) if self.clock else tick

    def pair_loss(self, module: int, clip: int, tick: int) -> Tensor:
        answer = self.answer(module, tick)[clip : clip + 1]
        if self.targets.dim() == 1:
            return self.loss(answer, self.targets[clip : clip + 1])[0]
        nominal = self.nominal(module, tick)
        assert nominal is not None
        target = self.targets[clip : clip + 1, nominal - 1]
        if answer.dim() == 4 and answer.shape[-1] != target.shape[-1]:
            times = target.shape[-1] // answer.shape[-1]
            target = F.avg_pool2d(target, times)
        return self.loss(answer, target)[0]

    def losses(self) -> dict[int, Tensor]:
        """Each module's mean loss, of modules that have one."""
        found = {}
        for module in range(1, self.cut.count + 1):
            if pairs := self.pairs(module):
                found[module] = torch.stack([self.pair_loss(module, *pair) for pair in pairs]).mean()
        return found

    def gradients(self) -> dict[str, Tensor]:
        """Of the sum of all modules' losses, in one go."""
        names, parameters = zip(*self.network.named_parameters(), strict=True)
        total = torch.stack(list(self.losses().values())).sum()
        found = torch.autograd.grad(total, parameters, allow_unused=True)
        return {name: g for name, g in zip(names, found, strict=True) if g is not None}


def nearest_codes(codebook_GKD: Tensor, x_NCHW: Tensor) -> Tensor:
    """Each position's vectors, replaced by the nearest code of their group, by brute force."""
    groups, _, depth = codebook_GKD.shape
    vectors = x_NCHW.movedim(1, -1).unflatten(-1, (groups, depth))
    errors = (vectors[..., None, :] - codebook_GKD).square().sum(-1)
    chosen = errors.argmin(-1)
    picked = torch.stack([codebook_GKD[g][chosen[..., g]] for g in range(groups)], -2)
    return picked.flatten(-2).movedim(-1, 1)


def one_graph(
    network: UnitNetwork,
    sizes: Sequence[int],
    video_BTCHW: Tensor,
    labels_B: Tensor,
    lengths_B: Tensor,
    clock: int,
) -> tuple[dict[str, Tensor], dict[int, Tensor]]:
    """Gradients and mean losses of one graph over all ticks; each module's sums are divided by its own count."""
    cut, frames = Cut(sizes), video_BTCHW.shape[1]
    starts = {0: 1 - clock} | {unit: cut.module(unit) if clock else 1 for unit in range(1, cut.tops[-1] + 1)}
    whole = {0: video_BTCHW.transpose(0, 1).contiguous()}  # (S, B, C, H, W), from a unit's first tick on
    sums, counts = {}, {}
    for module in range(1, cut.count + 1):
        units = range(cut.top(module - 1) + 1 if module > 1 else 1, cut.top(module) + 1)
        first = starts[units[0]]
        outputs: dict[int, Tensor] = {}  # (S * B, C, H, W)
        for unit in units:
            read = []
            for source in network.wiring.sources_of(unit):
                if source in outputs:
                    read.append(outputs[source])
                else:
                    begin = first - clock - starts[source]
                    read.append(whole[source][begin : begin + frames - first + 1].flatten(0, 1))
            outputs[unit] = network.unit(unit)(read)
            whole[unit] = outputs[unit].detach().unflatten(0, (-1, len(labels_B)))
        head, answer = network.unit(units[-1]).head, outputs[units[-1]]
        ticks = torch.arange(first, frames + 1)
        weight = (ticks[:, None] <= lengths_B).flatten()
        losses = cross_entropy(answer if head is None else head(answer), labels_B.repeat(len(ticks)))
        sums[module], counts[module] = (losses * weight.to(losses.dtype)).sum(), int(weight.sum())
    names, parameters = zip(*network.named_parameters(), strict=True)
    found = torch.autograd.grad(torch.stack([*sums.values()]).sum(), parameters, allow_unused=True)
    gradients = {
        name: g / counts[cut.module(1 + int(name.split(".")[1]))]
        for name, g in zip(names, found, strict=True)
        if g is not None
    }
    return gradients, {module: sums[module].detach() / counts[module] for module in sums}


def one_clip_graph(
    network: ClipNetwork, layers: Sequence[range], video_BTCHW: Tensor, labels_B: Tensor
) -> dict[str, Tensor]:
    """Gradients of a network of whole clips whose modules are runs of `features`' layers; detached between them."""
    assert isinstance(network.features, torch.nn.Sequential)
    x, total = video_BTCHW.transpose(1, 2), torch.zeros((), dtype=video_BTCHW.dtype)
    for module, run in enumerate(layers):
        for layer in run:
            x = network.features[layer](x)
        if module < len(layers) - 1:
            answer = network.heads[module](x)
        else:
            pooled = x.mean((-2, -1)) if network.pool == "avg" else x.amax((-2, -1))
            answer = network.head(pooled.mean(-1))
        total = total + cross_entropy(answer, labels_B).sum()
        x = x.detach()
    names, parameters = zip(*network.named_parameters(), strict=True)
    found = torch.autograd.grad(total, parameters)
    return {name: g / len(labels_B) for name, g in zip(names, found, strict=True)}
