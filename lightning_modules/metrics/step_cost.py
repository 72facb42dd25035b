"""What a training step costs under each executor and rule: time, CPU time and memory, measured side by side.

A step is loss, gradients and the optimizer's update. On a shared machine a time means little by itself, so every
round does one step of every row, each round starts with another row, and ratios are taken inside a round:

    round 1   a b c d        ratio of c: median over rounds of  time(c, round) / time(base, round)
    round 2   b c d a
    round 3   c d a b
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.optim import SGD

from lightning_modules.execution import clip_gradients
from lightning_modules.metrics.latency import percentile, synchronise
from lightning_modules.metrics.memory import MIB, SavedTensors, peak_mib, reset_peak
from lightning_modules.networks import UnitNetwork
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


def training_step(network: UnitNetwork, row: Row, clips: Clips) -> Callable[[], None]:
    """Return a function that does one training step: gradients, and SGD with a rate that moves nothing far."""
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


@dataclass
class Times:
    """One row's times, a value for each round, in ms."""

    wall_ms: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)


def _timed(step: Callable[[], None], device: torch.device, times: Times) -> None:
    synchronise(device)
    wall, cpu = time.perf_counter(), time.process_time()
    step()
    synchronise(device)
    times.wall_ms.append(1000 * (time.perf_counter() - wall))
    times.cpu_ms.append(1000 * (time.process_time() - cpu))


def interleaved_times(
    steps: Mapping[str, Callable[[], None]],
    rounds: int,
    device: torch.device,
    *,
    warm_up: int = 2,
    after_round: Callable[[], object] = lambda: None,
) -> dict[str, Times]:
    """Time every step once a round and return all times; warm-up rounds, run first, are dropped."""
    names = list(steps)
    times = {name: Times() for name in names}
    for number in range(warm_up + rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            _timed(steps[name], device, times[name] if number >= warm_up else Times())
        after_round()
    return times


def median_ratio(values: list[float], base: list[float]) -> float:
    """Return the median over rounds of value / base."""
    return percentile([value / under for value, under in zip(values, base, strict=True)], 50)


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


def storage_bytes(tensors: Iterator[Tensor]) -> int:
    """Return the bytes of the tensors' storages, a shared one counted once."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


def tensors_in(value: object) -> Iterator[Tensor]:
    """Yield the tensors in nested dicts, lists and tuples."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from tensors_in(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from tensors_in(inner)


def _state_mib(network: UnitNetwork, row: Row, clips: Clips) -> float:
    """Return what the pipeline holds once it is full: after the clip's last frame, not drained.

    The clip's own frames, which a stash of inputs shares, are counted by the frame, not as the whole clip.
    """
    if row.executor != "pipelined":
        return 0.0
    rule = make_rule("sideways", stash=row.rule.stash, drain=False)
    frames = [frame.clone() for frame in clips.video_BTCHW.unbind(1)]
    state = None
    for frame_BCHW in frames:
        state = clip_gradients(
            network, frame_BCHW[:, None], clips.labels_B, rule=rule, executor=row.executor, state=state
        ).state
    assert state is not None
    return storage_bytes(tensors_in(state.state_dict())) / MIB


def step_memory(network: nn.Module, row: Row, clips: Clips) -> Memory:
    """Measure the memory of one training step."""
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
