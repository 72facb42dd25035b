"""One cell of the table: a network, a way to train it and a batch; its memory or its time, in a process of its own.

    saved      most bytes that autograd holds at one time: metrics/memory.py, and for checkpointing `Checkpointed`
    peak       of the process's resident set in a step, above what it was before it; the second step, the first warms up
    CPU time   of a step, in rounds of one step of every way, so that ratios are taken inside a round

Processes are forked from one that has imported torch and computed nothing. The C library keeps freed memory and takes
it again, in pieces: a peak is measured with that (`as it is`), and where every tensor from 256 KiB has pages of its own
that are given back at once (`map_tensors`), which shows what tensors need, to 1 %.
"""

import ctypes
import multiprocessing
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
import torch._dynamo  # by optimisers and custom operators, a second in every process
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lightning_modules.execution import clip_gradients
from lightning_modules.layers.xconv import set_probes
from lightning_modules.metrics.interleaved import interleaved_times, median_ratio
from lightning_modules.metrics.latency import percentile
from lightning_modules.metrics.memory import MIB, SavedTensors, peak_mib, reset_peak
from lightning_modules.metrics.sketch_choice import choose_layers
from lightning_modules.metrics.step_cost import Clips, Row, random_clips, training_step
from lightning_modules.networks import ClipNetwork, UnitNetwork, build_network
from lightning_modules.networks.sketched import Sketching, sketch_network
from lightning_modules.rules import make_rule

SIZE, CLASSES, PROBES = 32, 10, 0.125
CPU = torch.device("cpu")
WIDTHS = {"vgg8": 0.25, "cnn3d": 1.0}
_M_MMAP_THRESHOLD, _MAPPED_BYTES = -3, 2**18  # mallopt(3)
RULES = {"vgg8": make_rule("backprop_frame"), "cnn3d": make_rule("backprop")}


@dataclass(frozen=True)
class Way:
    """How a network's activations are kept for the backward pass.

    Args:
        name: of the row.
        probes: as the option `probes`.
        compact: as the option `compact`.
        mode: as the option `probe_mode`.
        checkpointed: each unit or block is computed again in the backward pass.
    """

    name: str
    probes: float = 0
    compact: str = "none"
    mode: str = Sketching.probe_mode
    checkpointed: bool = False


WAYS = (
    Way("exact"),
    Way("checkpoint", checkpointed=True),
    Way("xconv", PROBES),
    Way("relu", compact="relu"),
    Way("xconv + relu", PROBES, "relu"),
    Way("norm", compact="norm"),
    Way("xconv + norm", PROBES, "norm"),
)


@dataclass(frozen=True)
class Cell:
    """What is measured: a network, a way, and a batch of so many clips of so many frames."""

    network: str
    way: Way
    batch: int
    frames: int


class Checkpointed(nn.Module):
    """A block under torch.utils.checkpoint (use_reentrant=False), by which its input alone is kept.

    What it keeps when it is computed again does not pass through hooks from outside: it is counted here.

    Args:
        block: takes and gives one tensor.
    """

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block
        self.meter: SavedTensors | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        return checkpoint(self._computed, x, use_reentrant=False)

    def _computed(self, x: Tensor) -> Tensor:
        if self.meter is not None and torch._C._current_graph_task_id() != -1:  # in a backward pass
            self._count(self.meter, x.detach().requires_grad_(x.requires_grad))
        return self.block(x)

    def _count(self, meter: SavedTensors, x: Tensor) -> None:
        """Add for a moment what the block keeps to what is held already."""
        kept: list[Tensor] = []

        def keep(tensor: Tensor) -> Tensor:
            meter.take(tensor)
            kept.append(tensor)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            self.block(x)
        for tensor in kept:
            meter.give(tensor)


def saved_bytes(network: nn.Module, step: Callable[[], object]) -> int:
    """Return the most bytes that autograd's graphs hold at one time in a step, parameters left out."""
    blocks = [module for module in network.modules() if isinstance(module, Checkpointed)]
    with SavedTensors.measure(network) as meter:
        for block in blocks:
            block.meter = meter
        step()
    for block in blocks:
        block.meter = None
    return meter.peak_bytes


def checkpoint_blocks(network: nn.Module) -> None:
    """Put every unit's body, or every block of a clip network, under checkpointing."""
    if isinstance(network, UnitNetwork):
        for number in range(1, network.depth + 1):
            unit = network.unit(number)
            unit.body = Checkpointed(unit.body)
        return
    assert isinstance(network, ClipNetwork)
    assert isinstance(network.features, nn.Sequential)
    layers, blocks = list(network.features), []
    for count, _ in network.blocks:
        blocks.append(Checkpointed(nn.Sequential(*layers[:count])))
        layers = layers[count:]
    network.features = nn.Sequential(*blocks)


def network_of(cell: Cell) -> UnitNetwork | ClipNetwork:
    """Return the network of a cell, converted as a task converts it."""
    torch.manual_seed(0)
    network = build_network(cell.network, in_channels=3, num_classes=CLASSES, width=WIDTHS[cell.network])
    way = cell.way
    if way.checkpointed:
        checkpoint_blocks(network)
    options = asdict(Sketching(probes=way.probes, probe_mode=way.mode, compact=way.compact))
    sketch_network(network, options, "vectorised")
    if way.probes:
        shape = (3, SIZE, SIZE) if isinstance(network, UnitNetwork) else (cell.frames, 3, SIZE, SIZE)
        choose_layers(network, shape, way.probes, auto=True)
        set_probes(network, way.probes)
    return network


def clips_of(cell: Cell) -> Clips:
    """Return the batch of a cell: noise."""
    return random_clips(cell.batch, cell.frames, (3, SIZE, SIZE), CLASSES, "cpu")


def step_of(network: Any, cell: Cell, clips: Clips) -> Callable[[], None]:
    """Return a training step of a cell."""
    return training_step(network, Row(cell.way.name, RULES[cell.network], "vectorised"), clips)


def map_tensors() -> None:
    """Let the C library give large pieces of memory back as soon as they are freed, where it can (glibc)."""
    if hasattr(library := ctypes.CDLL(None), "mallopt"):
        library.mallopt(_M_MMAP_THRESHOLD, _MAPPED_BYTES)


def _trim() -> None:
    """Let the C library give back what it keeps: what a step takes of that would not show in its peak."""
    if hasattr(library := ctypes.CDLL(None), "malloc_trim"):
        library.malloc_trim(0)


def saved_of(cell: Cell) -> dict[str, float]:
    """Return the saved tensors of a step, and of them the clips, in MiB."""
    network, clips = network_of(cell), clips_of(cell)
    saved = saved_bytes(network, step_of(network, cell, clips))
    return {"saved_mib": saved / MIB, "clips_mib": clips.video_BTCHW.nbytes / MIB}


def peak_of(cell: Cell, mapped: bool) -> float:
    """Return the peak of the process's resident set in a second step, in MiB above what it was before."""
    if mapped:
        map_tensors()
    network, clips = network_of(cell), clips_of(cell)
    step = step_of(network, cell, clips)
    step()
    _trim()
    reset_peak(CPU)
    before = peak_mib(CPU)  # a new peak starts at what is resident now
    step()
    return peak_mib(CPU) - before


def times_of(cells: list[Cell], rounds: int) -> dict[str, dict[str, float]]:
    """Return each way's CPU time a step in ms, and its ratio to the first's; cells differ in their ways alone."""
    clips = clips_of(cells[0])
    steps = {cell.way.name: step_of(network_of(cell), cell, clips) for cell in cells}
    times = interleaved_times(steps, rounds, CPU, warm_up=1)
    base = times[cells[0].way.name].cpu_ms
    return {
        name: {"cpu_ms": percentile(own.cpu_ms, 50), "cpu_ratio": median_ratio(own.cpu_ms, base)}
        for name, own in times.items()
    }


def error_of(cell: Cell) -> float:
    """Return how far the gradient is from the exact one, all parameters together, relative to its norm."""
    clips = clips_of(cell)
    found = [_gradient(one, clips) for one in (cell, replace(cell, way=WAYS[0]))]
    return float((found[0] - found[1]).norm() / found[1].norm())


def _gradient(cell: Cell, clips: Clips) -> Tensor:
    result = clip_gradients(network_of(cell), clips.video_BTCHW, clips.labels_B, rule=RULES[cell.network])
    return torch.cat([gradient.flatten() for gradient in result.gradients.values()])


def in_own_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a function gives when a process of its own runs it.

    Raises:
        RuntimeError: it ended without an answer, as a process does that is killed for its memory.
    """
    context = multiprocessing.get_context("fork")
    reader, writer = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(writer, function, arguments))
    process.start()
    writer.close()
    try:
        return reader.recv()
    except EOFError:
        process.join()
        raise RuntimeError(
            f"{function.__name__}{arguments} ended with code {process.exitcode} and no answer; its error stands above, "
            "or it was killed: see that there is memory for it"
        ) from None
    finally:
        process.join()


def _answer(writer: Any, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    writer.send(function(*arguments))
