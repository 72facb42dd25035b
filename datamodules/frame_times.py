"""Presentation stamps of a file's frames as one short text, and back.

    stamps, in ticks of the time base:   0 512 1024 1536 2048 3072
    steps between them:                    512  512  512  512 1024
    text:                                "0 512*4 1024"

A constant rate is a dozen characters however long the file; only a variable rate, or the millisecond stamps of a
Matroska file (33 34 33 33 34 ...), need more.
"""

from collections.abc import Sequence
from fractions import Fraction
from itertools import groupby

import numpy as np

# Steps that differ by one tick are rounding, unless a tick is a good part of a step.
_ROUNDING_TICKS = 1
_ROUNDING_SHARE = 0.25


def increasing(stamps: Sequence[int | None]) -> bool:
    """Return whether every frame has a stamp and each is larger than the one before."""
    if any(stamp is None for stamp in stamps):
        return False
    return bool((np.diff(np.asarray(stamps, np.int64)) > 0).all())


def to_text(stamps: Sequence[int | None]) -> str:
    """Return the text of stamps in the order of the frames; "" for none, unknown or not increasing ones."""
    if len(stamps) == 0 or not increasing(stamps):
        return ""
    array = np.asarray(stamps, np.int64)
    runs = ((step, len(list(run))) for step, run in groupby(np.diff(array).tolist()))
    return " ".join([str(array[0]), *(f"{step}*{count}" if count > 1 else f"{step}" for step, count in runs)])


def from_text(text: str) -> np.ndarray:
    """Return the stamps, int64; none for "". ValueError for a text that `to_text` never writes."""
    if not text:
        return np.zeros(0, np.int64)
    first, *runs = text.split(" ")
    pairs = [run.split("*") if "*" in run else (run, "1") for run in runs]
    try:
        steps = np.repeat([int(step) for step, _ in pairs], [int(count) for _, count in pairs]).astype(np.int64)
        return np.concatenate([[int(first)], int(first) + np.cumsum(steps)]).astype(np.int64)
    except ValueError:
        raise ValueError(
            f"time stamps {text[:60]!r}: expected 'first step*count step ...', as in '0 512*4 1024'"
        ) from None


def seconds(stamps: np.ndarray, time_base: str) -> np.ndarray:
    """Return the seconds from the first frame to each, float64; `time_base` as "1/12800"."""
    base = Fraction(time_base)
    return (stamps - stamps[0]) * base.numerator / base.denominator


def varies(stamps: np.ndarray) -> bool:
    """Return whether the steps differ by more than the rounding of the time base."""
    steps = np.diff(stamps)
    if len(steps) < 2:
        return False
    spread = int(steps.max() - steps.min())
    return spread > _ROUNDING_TICKS or spread > _ROUNDING_SHARE * float(steps.mean())
