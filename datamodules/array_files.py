"""Long streams in pairs of .npy files, memory-mapped: of a stream only the steps that are asked for are read.

    train/NAME.x.npy           what is seen: uint8 (T, C, S, S), float32 (T, F) or int64 (T,)
    train/NAME.y.npy           int64 (T,): the class that is asked for, -100 where nothing is
    train/NAME.answers.npy     int64 (A,), may be left out: the steps that are scored; else all where something is asked

Legend: T steps, B lanes, N steps asked for, A answers.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datamodules.lanes import IGNORE, Lanes, StreamSource
from datamodules.loader import Key

_PIECE = 2**20  # numbers that are read at once
_ENDS_BYTES = 2**16
_KINDS = {("uint8", 4): "frames", ("float32", 2): "vectors", ("int64", 1): "symbols"}
_EXPECTED = "expected uint8 frames (T, C, S, S), float32 vectors (T, F) or int64 symbols (T,)"


@dataclass(frozen=True)
class Form:
    """What is at a step: the kind of input, the shape of a step's, and how many symbols and classes there may be.

    `symbols` and `classes` are 0 where they are not known yet.
    """

    kind: str
    shape: tuple[int, ...]
    symbols: int = 0
    classes: int = 0


@dataclass(frozen=True)
class ArrayStream:
    """One stream: its name, which begins with the split's, the files' common path, and its steps."""

    name: str
    stem: Path
    steps: int

    @property
    def x(self) -> np.ndarray:
        """What is seen, mapped."""
        return mapped(beside(self.stem, "x"))

    @property
    def y(self) -> np.ndarray:
        """What is asked for, mapped."""
        return mapped(beside(self.stem, "y"))

    @property
    def answers(self) -> np.ndarray:
        """The steps that are scored, int64 (A,)."""
        file = beside(self.stem, "answers")
        if not file.exists():
            return np.concatenate([at + np.flatnonzero(part != IGNORE) for at, part in pieces(self.y)])
        steps = np.array(mapped(file))
        if len(steps) and (steps[0] < 0 or steps[-1] >= self.steps or (np.diff(steps) <= 0).any()):
            raise ValueError(
                f"{file}: expected ascending steps from 0 to {self.steps - 1:,}, found {steps[:8].tolist()} .. "
                f"{steps[-1]}. Save them with np.save(path, np.unique(steps))."
            )
        return steps


def beside(stem: Path, part: str) -> Path:
    """Return the file of a stream's part, `x`, `y` or `answers`."""
    return stem.with_name(f"{stem.name}.{part}.npy")


def mapped(file: Path) -> np.ndarray:
    """Return an array without reading it.

    Raises:
        ValueError: no array of numbers.
    """
    return _mapped(file, file.stat().st_mtime_ns)


@lru_cache(maxsize=256)
def _mapped(file: Path, _mtime_ns: int) -> np.ndarray:
    try:
        return np.load(file, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{file}: expected one array of numbers, written by np.save: {error}") from error


def pieces(array: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield where a piece of an array begins, and the piece, so that it is never in memory as a whole."""
    for start in range(0, len(array), _PIECE):
        yield start, array[start : start + _PIECE]


def largest(arrays: Sequence[np.ndarray]) -> int:
    """Return the largest number of some arrays, read in pieces."""
    return max(int(part.max()) for array in arrays for _, part in pieces(array))


def fingerprint(file: Path) -> str:
    """Return a hash of a file's size, its first bytes and its last ones."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        head = stream.read(_ENDS_BYTES)
        stream.seek(max(0, size - _ENDS_BYTES))
        return hashlib.sha256(b"%d %b %b" % (size, head, stream.read())).hexdigest()[:16]


def find_streams(root: Path, split: str) -> list[ArrayStream]:
    """Return the streams of a split, by name; none where there is no such folder.

    Raises:
        ValueError: a file without the other one of its pair, of another length, or of another type.
    """
    names = {
        part: {file.name.removesuffix(f".{part}.npy") for file in (root / split).glob(f"*.{part}.npy")}
        for part in ("x", "y", "answers")
    }
    for part, other in (("x", "y"), ("y", "x"), ("answers", "x")):
        if lone := sorted(names[part] - names[other]):
            raise ValueError(
                f"{root / split}: {len(lone)} of the {part}.npy files lack the {other}.npy file of their stream, first "
                f"{lone[0]}.{part}.npy. Save NAME.x.npy and NAME.y.npy for each stream, as long as each other."
            )
    return [_stream(root / split / name, f"{split}/{name}") for name in sorted(names["x"])]


def _stream(stem: Path, name: str) -> ArrayStream:
    x, y = mapped(beside(stem, "x")), mapped(beside(stem, "y"))
    _check_steps(beside(stem, "y"), y)
    if beside(stem, "answers").exists():
        _check_steps(beside(stem, "answers"), mapped(beside(stem, "answers")))
    form_of(beside(stem, "x"), x)
    if not len(x):
        raise ValueError(f"{beside(stem, 'x')} has no steps: expected 1 or more. Leave the stream out.")
    if len(x) != len(y):
        raise ValueError(
            f"{beside(stem, 'x')} has {len(x):,} steps, its y {len(y):,}: expected as many. Where nothing is asked, y "
            f"is {IGNORE}."
        )
    return ArrayStream(name, stem, len(x))


def _check_steps(file: Path, array: np.ndarray) -> None:
    if array.dtype != np.int64 or array.ndim != 1:
        raise ValueError(
            f"{file}: {array.dtype} {array.shape}; expected int64 (T,). Save it with np.save(path, "
            "array.astype(np.int64))."
        )


def form_of(file: Path, x: np.ndarray) -> Form:
    """Return what is at a step of `x`, which `file` holds.

    Raises:
        ValueError: another type or shape than the three that there are.
    """
    kind = _KINDS.get((str(x.dtype), x.ndim))
    if kind is None:
        raise ValueError(
            f"{file}: {x.dtype} {x.shape}; {_EXPECTED}. Convert it, as np.save(path, x.astype(np.float32))."
        )
    if kind == "frames" and x.shape[2] != x.shape[3]:
        raise ValueError(f"{file}: frames of {x.shape[2]} x {x.shape[3]} pixels; expected square ones. Cut or scale.")
    return Form(kind, x.shape[1:])


class ArrayLanes(Lanes):
    """Streams of files side by side.

    Args:
        streams: the files.
        form: what is at a step.
    """

    def __init__(self, streams: Sequence[ArrayStream], form: Form) -> None:
        self.streams, self.form = list(streams), form
        self.ids = [stream.name for stream in streams]
        self.lengths_B = torch.tensor([stream.steps for stream in streams])

    @cached_property
    def answers_BA(self) -> Tensor:  # type: ignore[override]  # noqa: N802
        """The steps that are scored, -1 where a stream has fewer; found at the first use, for targets are read."""
        found = [torch.from_numpy(stream.answers) for stream in self.streams]
        return torch.nn.utils.rnn.pad_sequence(found, batch_first=True, padding_value=-1)

    def only(self, rows: Tensor) -> "ArrayLanes":
        """Return lanes `rows` of these."""
        return ArrayLanes([self.streams[row] for row in rows.tolist()], self.form)

    def read(self, steps_BN: Tensor) -> tuple[Tensor, Tensor]:
        """Return what is seen and asked; ValueError where a symbol or class is beyond those that there are."""
        steps, inside, form = steps_BN.numpy(), self.inside(steps_BN).numpy(), self.form
        first = self.streams[0].x
        x = np.zeros((*steps.shape, *form.shape), dtype=first.dtype)
        y = np.full(steps.shape, IGNORE, dtype=np.int64)
        for lane, stream in enumerate(self.streams):
            at, there = steps[lane, inside[lane]], inside[lane]
            x[lane, there], y[lane, there] = stream.x[at], stream.y[at]
            _check_range(stream, "y", y[lane, y[lane] != IGNORE], form.classes, "--data.num_classes")
            if form.kind == "symbols":
                _check_range(stream, "x", x[lane], form.symbols, "--data.symbols")
        return torch.from_numpy(x), torch.from_numpy(y)


def check_ranges(stream: ArrayStream, form: Form) -> None:
    """Refuse a stream with a class or symbol beyond those that there are; its files are read in pieces."""
    for _, part in pieces(stream.y):
        _check_range(stream, "y", part[part != IGNORE], form.classes, "--data.num_classes")
    if form.kind == "symbols":
        for _, part in pieces(stream.x):
            _check_range(stream, "x", part, form.symbols, "--data.symbols")


def _check_range(stream: ArrayStream, part: str, values: np.ndarray, bound: int, option: str) -> None:
    if values.size and (values.min() < 0 or values.max() >= bound):
        wrong = values[(values < 0) | (values >= bound)][0]
        nothing = f" Where nothing is asked, y is {IGNORE}." if part == "y" and wrong < 0 else ""
        more = f"Give {option} {wrong + 1}, or mend the file." if wrong >= bound else "Mend the file."
        raise ValueError(
            f"{beside(stream.stem, part)} has {wrong}; expected 0 to {bound - 1}, for the training streams have no "
            f"more. {more}{nothing}"
        )


class ArraySource(StreamSource):
    """The streams of a split; every epoch has the same.

    Args:
        streams: the files.
        form: what is at a step.
    """

    endless = False

    def __init__(self, streams: Sequence[ArrayStream], form: Form) -> None:
        super().__init__(np.array([stream.steps for stream in streams], dtype=np.int64))
        self.streams, self.form = list(streams), form

    def lanes(self, keys: Sequence[Key]) -> ArrayLanes:
        """Return streams side by side."""
        return ArrayLanes([self.streams[index] for _, index in keys], self.form)
