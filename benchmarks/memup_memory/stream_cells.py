"""One cell: data with a gap, and a way to train a memory on it; its memory or its times, in a process of its own.

    warm up   `fit` at a small gap: code, Lightning and the C library have what they need
    start     the resident set of the process
    cell      data, model and `fit`, from the first batch, at which the detector reads every lane's whole stream
    peak      above the start; weights and optimizer are in it

Processes are forked from one that has imported torch and computed nothing; freed tensors give their pages back at once
(benchmarks/xconv/cells.py), so that a peak shows what tensors need.
"""

import ctypes
import gc
import logging
import resource
import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cells import map_tensors

from lightning_modules.compat import ensure_torchvision

ensure_torchvision()

from lightning import Trainer  # noqa: E402
from lightning.pytorch.callbacks import Callback  # noqa: E402

from datamodules.array_streams import ArrayStreams  # noqa: E402
from datamodules.copy_sequences import CopySequences  # noqa: E402
from datamodules.cued_video import CuedVideo  # noqa: E402
from datamodules.long_streams import LongStreamData  # noqa: E402
from lightning_modules.long_memory import LongMemory  # noqa: E402
from lightning_modules.memory.candidates import choose  # noqa: E402
from lightning_modules.metrics.latency import percentile  # noqa: E402
from lightning_modules.metrics.memory import MIB, SavedTensors, peak_mib, reset_peak, tensors_in  # noqa: E402

CPU = torch.device("cpu")
DETECTOR_UPDATES = 2
COPY, VIDEO, DISK = "CopySequences", "CuedVideo", "ArrayStreams"


@dataclass(frozen=True)
class Way:
    """How a memory is trained.

    Args:
        name: of the row.
        rule: as the option `rule`.
        detector: as the option `detector`.
        memory: as the option `memory`.
    """

    name: str
    rule: str = "memup"
    detector: str = "entropy"
    memory: str = "lstm"

    @property
    def whole(self) -> bool:
        """Whether whole streams are one rollout."""
        return self.rule == "full_backprop"


ENTROPY = Way("memup, entropy")
SURPRISE = Way("memup, surprise", detector="surprise")
TRUNCATED = Way("truncated backprop", "truncated_backprop")
TRANSFORMER = Way("truncated backprop, transformer", "truncated_backprop", memory="transformer")
FULL = Way("full backprop", "full_backprop")
WAYS = (ENTROPY, SURPRISE, TRUNCATED, TRANSFORMER, FULL)

_SIZES: dict[str, dict[str, Any]] = {
    COPY: {"rollout": 20, "predict_every": 10, "k": 10, "context": 10},
    VIDEO: {"rollout": 8, "k": 4},
    DISK: {"rollout": 8, "k": 4},
}


@dataclass(frozen=True)
class Cell:
    """What is measured.

    Args:
        data: COPY, VIDEO or DISK.
        way: to train.
        gap: steps between what must be remembered and the question.
        lanes: streams side by side.
        folder: that DISK's streams were written to, a folder a gap.
    """

    data: str
    way: Way
    gap: int
    lanes: int
    folder: Path


def data_of(cell: Cell) -> LongStreamData:
    """Return the streams of a cell."""
    if cell.data == COPY:
        return CopySequences(gap=cell.gap, batch_size=cell.lanes)
    if cell.data == VIDEO:
        return CuedVideo(gap=cell.gap, batch_size=cell.lanes)
    return ArrayStreams(str(cell.folder / str(cell.gap)), batch_size=cell.lanes, stagger=True)


def model_of(cell: Cell, data: LongStreamData) -> LongMemory:
    """Return the task of a cell, at its random start, and tell the data its rollout."""
    torch.manual_seed(0)
    model = LongMemory(
        num_classes=data.num_classes,
        in_channels=data.channels,
        input_kind=data.input_kind,
        rule=cell.way.rule,
        detector=cell.way.detector,
        memory=cell.way.memory,
        detector_updates=DETECTOR_UPDATES,
        **_SIZES[cell.data],
    )
    data.rollout = model.rollout
    return model


def write_streams(folder: Path, gap: int, lanes: int, piece: int = 256) -> None:
    """Write CuedVideo's streams as files that ArrayStreams reads, piece by piece."""
    data = CuedVideo(gap=gap)
    for split, streams in (("train", lanes), ("test", 1)):
        (folder / str(gap) / split).mkdir(parents=True)
        for index in range(streams):
            lane = data.source(split).lanes([(0, index)])
            stem = folder / str(gap) / split / f"{index:03}"
            shape = (data.steps, data.channels, data.size, data.size)
            x = np.lib.format.open_memmap(f"{stem}.x.npy", "w+", np.uint8, shape)
            y = np.lib.format.open_memmap(f"{stem}.y.npy", "w+", np.int64, (data.steps,))
            for start in range(0, data.steps, piece):
                steps = torch.arange(start, min(start + piece, data.steps))
                x[steps], y[steps] = (part[0].numpy() for part in lane.read(steps[None]))
            np.save(f"{stem}.answers.npy", lane.answers_BA[0].numpy())


class _Meter(Callback):
    """Times updates, or takes the peak after some of them and then what autograd saves in one more.

    Args:
        updates: that count; the detector's own go before them.
        save: count saved tensors in a last update, and time nothing.
    """

    def __init__(self, updates: int, save: bool) -> None:
        self.last, self.save = DETECTOR_UPDATES + updates, save
        self.cpu_ms: list[float] = []
        self.peak_mib = self.saved_mib = 0.0
        self._batches, self._began = 0, 0.0
        self._saving: AbstractContextManager[SavedTensors] | None = None

    def on_train_batch_start(self, trainer: Trainer, model: Any, *_: Any) -> None:
        """Start the clock, and before the update that is weighed count what autograd saves."""
        if self._batches == self.last and self.save:
            self._saving = SavedTensors.measure(model)
            self._saved = self._saving.__enter__()
        self._began = time.process_time()

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Keep what the update took, and stop after the last one."""
        self.cpu_ms.append(1000 * (time.process_time() - self._began))
        self._batches += 1
        if self._saving is not None:
            self._saving.__exit__(None, None, None)
            self.saved_mib = self._saved.peak_bytes / MIB
        if self._batches == self.last:
            self.peak_mib = peak_mib(CPU)
        trainer.should_stop = self._batches == self.last + self.save


def fitted(cell: Cell, updates: int, save: bool = False) -> tuple[LongMemory, LongStreamData, _Meter]:
    """Return model and data after so many updates of `fit`, and what was measured."""
    meter = _Meter(updates, save)
    data = data_of(cell)
    model = model_of(cell, data)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Trainer(
            accelerator="cpu",
            max_epochs=-1,
            callbacks=[meter],
            limit_val_batches=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        ).fit(model, data)
    return model, data, meter


def resident_mib() -> float:
    """Return what is resident, in MiB, when all that was freed has been given back; a new peak starts."""
    gc.collect()
    if hasattr(library := ctypes.CDLL(None), "malloc_trim"):
        library.malloc_trim(0)
    reset_peak(CPU)
    return peak_mib(CPU)


def _file_mib() -> float:
    """Return how much of the resident set is pages of mapped files, in MiB."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("RssFile")), 0.0)


def _bytes_of(value: object) -> int:
    return sum(tensor.nbytes for tensor in tensors_in(value))


def memory_of(cell: Cell, small: int, updates: int, budget_mib: float) -> dict[str, float] | None:
    """Return the memory of an update in MiB; None where full backprop does not fit the budget.

    The peak is without pages of mapped files, which the system takes back when it needs them.

    Args:
        cell: what is measured.
        small: gap of the warm-up.
        updates: before the peak is taken.
        budget_mib: that data may take above the start.
    """
    map_tensors()
    fitted(replace(cell, gap=small), 2, save=True)
    before, files = resident_mib(), _file_mib()
    if cell.way.whole:
        used = int(before * MIB)
        resource.setrlimit(resource.RLIMIT_DATA, (used + int(budget_mib * MIB), resource.RLIM_INFINITY))
    try:
        model, _, meter = fitted(cell, updates, save=True)
    except (RuntimeError, MemoryError) as error:
        if cell.way.whole and ("memory" in str(error) or isinstance(error, MemoryError)):
            return None
        raise
    file_mib = _file_mib() - files
    return {
        "peak_mib": meter.peak_mib - before - file_mib,
        "file_mib": file_mib,
        "saved_mib": meter.saved_mib,
        "carried_kib": _bytes_of(model._carried.state_dict()) / 1024,
    }


def times_of(cell: Cell, updates: int) -> dict[str, float]:
    """Return the CPU time in ms of an update, of the choice in it, and of the detector's share of an update.

    A detector reads each stream once, so that of a lane's pass an update has as many steps as it reads of that lane.
    """
    model, data, meter = fitted(cell, updates)
    warm = 1 if cell.way.whole else DETECTOR_UPDATES + 1
    figures = {"update_ms": percentile(meter.cpu_ms[warm:], 50)}
    uncertainty = model._carried.uncertainty
    if uncertainty is None:
        return figures
    lane = data.source("train").lanes([(0, 0)])
    share = cell.lanes * model.rollout / data.steps
    figures["detector_ms"] = share * cpu_ms(lambda: model._detect(lane))
    moments = torch.zeros(cell.lanes, 1, dtype=torch.int64)
    figures["choice_ms"] = percentile(
        [cpu_ms(lambda: choose(uncertainty, model.selector, moments)) for _ in range(5)], 50
    )
    return figures


def cpu_ms(call: Callable[[], object]) -> float:
    """Return the CPU time of a call."""
    began = time.process_time()
    call()
    return 1000 * (time.process_time() - began)
