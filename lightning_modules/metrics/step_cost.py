"""What a training step costs under each executor and rule: the rows, a step of each to time, and its memory.

A step is loss, gradients and the optimizer's update. Rows with local losses train a copy of the network that is cut
into as many modules as it gives: their heads' cost is part of every figure.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.optim import SGD

from lightning_modules.execution import clip_gradients
from lightning_modules.metrics.latency import synchronise
from lightning_modules.metrics.memory import MIB, SavedTensors, peak_mib, reset_peak, storage_bytes, tensors_in
from lightning_modules.networks import UnitNetwork
from lightning_modules.networks.local_modules import LocalModules, cut_into_modules
from lightning_modules.optimisation import set_gradients
from lightning_modules.rules import Rule, make_rule


@dataclass(frozen=True)
class Row:
    """One way to do a training step."""

    name: str
    rule: Rule
    executor: str


ROWS = (
    Row("backprop_frame", make_rule("backprop_frame"), "vectorised"),
    Row("backprop_shifted", make_rule("backprop_shifted"), "vectorised"),
    Row("sideways vectorised", make_rule("sideways"), "vectorised"),
    Row("sideways pipelined", make_rule("sideways"), "pipelined"),
    Row("sideways pipelined, stash exact", make_rule("sideways", stash="exact"), "pipelined"),
    Row("sideways pipelined, update frame", make_rule("sideways", update="frame"), "pipelined"),
    Row("greedy vectorised", make_rule("greedy"), "vectorised"),
    Row("greedy pipelined", make_rule("greedy"), "pipelined"),
    Row("greedy pipelined, update frame", make_rule("greedy", update="frame"), "pipelined"),
)


@dataclass(frozen=True)
class Clips:
    """A batch to step on.

    Args:
        video_BTCHW: clips, B batch, T frames, C channels, H and W height and width.
        labels_B: a class each.
    """

    video_BTCHW: Tensor
    labels_B: Tensor

    @property
    def frames(self) -> int:
        """Frames in the batch, B x T."""
        return self.video_BTCHW.shape[0] * self.video_BTCHW.shape[1]


def random_clips(batch: int, frames: int, frame_shape: tuple[int, int, int], classes: int, device: str) -> Clips:
    """Return clips of noise, the same for every call: a step's cost does not depend on what they show."""
    generator = torch.Generator().manual_seed(0)
    video_BTCHW = torch.rand(batch, frames, *frame_shape, generator=generator)
    labels_B = torch.randint(classes, (batch,), generator=generator)
    return Clips(video_BTCHW.to(device), labels_B.to(device))


def network_of(network: UnitNetwork, row: Row) -> UnitNetwork:
    """Return the network that a row trains: the one given, or a copy with modules and heads where losses are local."""
    if not row.rule.local:
        return network
    network = copy.deepcopy(network)
    device = next(network.parameters()).device
    cut_into_modules(network, LocalModules())
    return network.to(device)


def training_step(network: UnitNetwork, row: Row, clips: Clips) -> Callable[[], None]:
    """Return a function that does one training step: gradients, and SGD with a rate that moves nothing far.

    Args:
        network: as `network_of` gives it for the row.
        row: the rule and executor.
        clips: the batch.
    """
    optimizer = SGD(network.parameters(), lr=1e-6)

    def update(gradients: Mapping[str, Tensor]) -> None:
        set_gradients(network, gradients)
        optimizer.step()

    def step() -> None:
        on_tick = update if row.rule.update == "frame" else None
        result = clip_gradients(
            network, clips.video_BTCHW, clips.labels_B, rule=row.rule, executor=row.executor, on_tick=on_tick
        )
        if on_tick is None:
            update(result.gradients)
        optimizer.zero_grad()

    return step


@dataclass(frozen=True)
class Memory:
    """What one step holds, in MiB.

    Args:
        saved_tensors_mib: most bytes that autograd's graphs held at one time, parameters left out.
        state_mib: what the pipeline holds between two ticks; 0 for the vectorised executor, which has no state.
        device_peak_mib: peak of the CUDA allocator; None on a CPU.
    """

    saved_tensors_mib: float
    state_mib: float
    device_peak_mib: float | None


def _state_mib(network: UnitNetwork, row: Row, clips: Clips) -> float:
    """Return what the pipeline holds once it is full: after the clip's last frame, not drained.

    The clip's own frames, which a stash of inputs shares, are counted by the frame, not as the whole clip.
    """
    if row.executor != "pipelined":
        return 0.0
    rule = replace(row.rule, update="clip", drain=False)
    frames = [frame.clone() for frame in clips.video_BTCHW.unbind(1)]
    state = None
    for frame_BCHW in frames:
        state = clip_gradients(
            network, frame_BCHW[:, None], clips.labels_B, rule=rule, executor=row.executor, state=state
        ).state
    assert state is not None
    return storage_bytes(tensors_in(state.state_dict())) / MIB


def step_memory(network: nn.Module, row: Row, clips: Clips) -> Memory:
    """Measure the memory of one training step of the network that `network_of` gives for the row."""
    assert isinstance(network, UnitNetwork)
    device = clips.video_BTCHW.device
    step = training_step(network, row, clips)
    reset_peak(device)
    step()
    synchronise(device)
    peak = peak_mib(device) if device.type == "cuda" else None
    with SavedTensors.measure(network) as meter:
        step()
    return Memory(meter.peak_bytes / MIB, _state_mib(network, row, clips), peak)
