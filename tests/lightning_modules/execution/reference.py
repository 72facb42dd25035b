"""Slow, independent definitions of what the executors must compute, straight from methods.md: tests' oracles.

Nothing here is shared with the executors but the units' own functions: no shifts, no masks, no queues.
"""

from functools import cache

import torch
from torch import Tensor

from lightning_modules.networks import UnitNetwork, build_network


def tiny_network(depth: int, wiring: str, seed: int = 0, **options: object) -> UnitNetwork:
    """A smooth float64 network: kinks of ReLU would spoil statements about small differences."""
    torch.manual_seed(seed)
    options = {"in_channels": 2, "num_classes": 3, "width": 0.25, "activation": "tanh", **options}
    network = build_network("small_cnn", wiring=wiring, depth=depth, **options)  # type: ignore[arg-type]
    assert isinstance(network, UnitNetwork)
    return network.double()


def moving_video(clips: int, frames: int, size: int = 8, step: float = 1.0, seed: int = 0) -> Tensor:
    """Frames on a smooth random path: x^t = base + step * (t * drift + small independent parts)."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.rand(clips, 1, 2, size, size, generator=generator, dtype=torch.float64)
    drift = torch.randn(clips, 1, 2, size, size, generator=generator, dtype=torch.float64)
    ticks = torch.arange(frames, dtype=torch.float64).view(1, -1, 1, 1, 1)
    return base + step * 0.1 * ticks * drift


def shifted_output(network: UnitNetwork, video_BTCHW: Tensor, unit: int, n: int) -> Tensor:
    """h_i[n] = f_i(merge_j h_j[n + (i - 1 - j)]): unit i's output for nominal frame n (section 3), with its graph."""
    if unit == 0:
        return video_BTCHW[:, n - 1]
    sources = network.wiring.sources_of(unit)
    return network.unit(unit)([shifted_output(network, video_BTCHW, j, n + unit - 1 - j) for j in sources])


class Reference:
    """One clip through a network of units by the recursions of methods.md sections 2 and 3.

    Args:
        network: units and wiring.
        video_BTCHW: the clip.
        labels: its labels (B,), or one for each frame (B, T).
        lead: frames by which the label behind what the last unit sends is newer (sideways.py).
    """

    def __init__(self, network: UnitNetwork, video_BTCHW: Tensor, labels: Tensor, lead: int = 0) -> None:
        self.network, self.video, self.lead = network, video_BTCHW, lead
        self.labels = labels if labels.dim() == 2 else labels[:, None].expand(-1, video_BTCHW.shape[1])
        self.output = cache(self._output)
        self.gradient = cache(self._gradient)

    def messages(self, unit: int, tick: int) -> list[Tensor]:
        """What unit i reads at tick t: h_j^{t-1}, and x^t for the frame."""
        return [
            self.video[:, tick - 1] if j == 0 else self.output(j, tick - 1)
            for j in self.network.wiring.sources_of(unit)
        ]

    def _output(self, unit: int, tick: int) -> Tensor:
        with torch.no_grad():
            return self.network.unit(unit)(self.messages(unit, tick))

    def _gradient(self, unit: int, tick: int) -> Tensor | None:
        """dL/dh_i as unit i sees it at tick t: what its readers sent at t - 1, each by its own product at t - 1."""
        depth = self.network.depth
        if unit == depth:
            return self._loss_gradient(tick, tick - depth + 1) if tick >= depth else None
        total = None
        for source, reader in self.network.wiring.edges():
            if source != unit or not self.network.wiring.carries_gradient(source, reader):
                continue
            sent = self.sent(reader, tick - 1).get(unit)
            if sent is not None:
                total = sent if total is None else total + sent
        return total

    def _loss_gradient(self, tick: int, label_frame: int) -> Tensor:
        output = self.output(self.network.depth, tick).detach().requires_grad_()
        label_frame = min(label_frame, self.labels.shape[1])
        loss = torch.nn.functional.cross_entropy(output, self.labels[:, label_frame - 1], reduction="sum")
        return torch.autograd.grad(loss, output)[0]

    def sent(self, unit: int, tick: int) -> dict[int, Tensor]:
        """What unit i sends down at tick t, by source."""
        if tick < unit or self.gradient(unit, tick) is None:
            return {}
        leaves = [m.clone().requires_grad_() for m in self.messages(unit, tick)]
        gradient, depth = self.gradient(unit, tick), self.network.depth
        if unit == depth:
            gradient = self._loss_gradient(tick, tick - depth + 1 + self.lead)
        grads = torch.autograd.grad(self.network.unit(unit)(leaves), leaves, gradient)
        return dict(zip(self.network.wiring.sources_of(unit), grads, strict=True))

    def pseudo_gradient(self, unit: int, tick: int) -> dict[str, Tensor]:
        """The parameters' gradient of unit i at tick t, summed over clips."""
        parameters = self.network.unit_parameters(unit)
        output = self.network.unit(unit)(self.messages(unit, tick))
        grads = torch.autograd.grad(output, list(parameters.values()), self.gradient(unit, tick))
        return dict(zip(parameters, grads, strict=True))


def relative_error(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """Largest relative difference over parameters, in the 2-norm; the names must be the same."""
    assert ours.keys() == theirs.keys(), ours.keys() ^ theirs.keys()
    return max(((ours[k] - theirs[k]).norm() / theirs[k].norm().clamp_min(1e-300)).item() for k in ours)
