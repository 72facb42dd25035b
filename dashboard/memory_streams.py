"""Streams that runs with a long memory saved, checked before they are shown. No Streamlit, no MLflow.

    memory/streams.json   detector, selector, K, rollout, gap, and which streams, with how many steps are the cue
    memory/NAME.npz       uncertainty (T,), chosen (K,), target (T,), prediction (A,), probability (A,),
                          and of videos `shown` (n,) steps with their `frames` (n, C, H, W)

`chosen` are the steps that the first moment chose, -1 for none; the A answers are the steps that a test scores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

STREAMS = "memory/streams.json"
SCHEMA = 1
ARRAYS = ("uncertainty", "chosen", "target", "prediction", "probability")
FRAME_ARRAYS = ("shown", "frames")
IGNORE = -100  # target of a step at which nothing is asked
MOST_STREAMS = 1000
MOST_ANSWERS = 100_000
MOST_CLASSES = 10_000
MOST_SHOWN = 64
_LARGEST = 2**53


class NoStreams(ValueError):  # noqa: N818 - reads as a sentence
    """Saved streams that do not follow the layout; the message says what is wrong."""


@dataclass(frozen=True)
class Entry:
    """One stream of a run's index: its name, its file, the steps that were scored, and how many steps are the cue."""

    stream_id: str
    file: str
    answers: tuple[int, ...]
    cue: int = 0


@dataclass(frozen=True)
class Index:
    """What a run saved: how it chose its steps, and its streams by name."""

    detector: str
    selector: str
    k: int
    rollout: int
    gap: int
    input_kind: str
    class_names: tuple[str, ...]
    streams: Mapping[str, Entry] = field(default_factory=dict)

    @property
    def has_frames(self) -> bool:
        """Return whether the streams are videos, whose frames are saved too."""
        return self.input_kind == "frames"

    def name(self, value: float) -> str:
        """Return what a target or a prediction is called: its class, or the number itself."""
        if not np.isfinite(value) or value == IGNORE:
            return "–"
        if self.class_names and float(value).is_integer() and 0 <= value < len(self.class_names):
            return self.class_names[int(value)]
        return f"{value:.4g}"


@dataclass(frozen=True)
class Stream:
    """One stream: T steps, K chosen, A answers; n steps of which a frame is shown."""

    uncertainty_T: np.ndarray
    chosen: tuple[int, ...]
    answers: tuple[int, ...]
    target_A: np.ndarray
    prediction_A: np.ndarray
    probability_A: np.ndarray
    cue: int = 0
    shown: tuple[int, ...] = ()
    frames_nCHW: np.ndarray | None = None

    @property
    def steps(self) -> int:
        """Return T."""
        return len(self.uncertainty_T)

    @property
    def right(self) -> int:
        """Return how many answers are right."""
        return int((self.target_A == self.prediction_A).sum())

    @property
    def numeric(self) -> bool:
        """Return whether answers are numbers, not classes."""
        return self.target_A.dtype.kind == "f"

    @property
    def chosen_answers(self) -> int:
        """Return how many of the chosen steps are answers."""
        return len({*self.chosen} & {*self.answers})


def parse_index(content: Mapping[str, Any]) -> Index:
    """Return the index; NoStreams where it is of another layout. A stream without a name, file or answers is left out.

    Args:
        content: the parsed `memory/streams.json`.
    """
    if content.get("schema") != SCHEMA:
        raise NoStreams(f"{STREAMS} is of layout {str(content.get('schema'))[:20]}; this dashboard reads {SCHEMA}.")
    entries, names = content.get("streams"), content.get("class_names") or []
    if not isinstance(entries, list) or not isinstance(names, list):
        raise NoStreams(f"{STREAMS} lists no streams and class names.")
    gap = _count(content.get("gap"))
    streams = [_entry(entry, gap) for entry in entries[:MOST_STREAMS] if isinstance(entry, dict)]
    return Index(
        detector=str(content.get("detector") or ""),
        selector=str(content.get("selector") or ""),
        k=_count(content.get("k")),
        rollout=_count(content.get("rollout")),
        gap=gap,
        input_kind=str(content.get("input_kind") or ""),
        class_names=tuple(str(name) for name in names[:MOST_CLASSES]),
        streams={entry.stream_id: entry for entry in streams if entry},
    )


def _entry(entry: Mapping[str, Any], gap: int) -> Entry | None:
    name, file, answers = entry.get("id"), entry.get("file"), entry.get("answers")
    if not isinstance(name, str) or not isinstance(file, str) or not isinstance(answers, list):
        return None
    if not all(isinstance(step, int) for step in answers):
        return None
    # A run that does not say where its cue ends has it before the gap that the first answer ends.
    cue = entry.get("cue", max(min(answers, default=0) - gap, 0) if gap else 0)
    return Entry(name, file, tuple(sorted({*answers[:MOST_ANSWERS]})), _count(cue))


def _count(value: object) -> int:
    return value if isinstance(value, int) and 0 <= value < _LARGEST else 0


def stream(entry: Entry, arrays: Mapping[str, np.ndarray]) -> Stream:
    """Return one stream; NoStreams where its arrays do not fit each other.

    Args:
        entry: the stream in the index.
        arrays: ARRAYS, and FRAME_ARRAYS where it has frames.
    """
    uncertainty, chosen, target, prediction, probability = (_row(name, arrays[name]) for name in ARRAYS)
    steps, answers = len(uncertainty), entry.answers
    if len(target) != steps:
        raise NoStreams(f"The stream has {steps} uncertainties and {len(target)} targets; expected one each a step.")
    _check_steps("answers", answers, steps)
    if len(prediction) != len(answers) or len(probability) != len(answers):
        raise NoStreams(
            f"{len(prediction)} predictions and {len(probability)} probabilities stand for {len(answers)} answers."
        )
    steps_chosen = _steps_of("chosen", chosen[chosen != -1], steps)
    found = Stream(
        np.where(np.isfinite(uncertainty), uncertainty, np.nan).astype(np.float64),
        tuple(dict.fromkeys(steps_chosen)),
        answers,
        target[list(answers)],
        prediction,
        probability.astype(np.float64),
        entry.cue,
    )
    return _with_frames(found, arrays["shown"], arrays["frames"]) if "frames" in arrays else found


def _row(name: str, array: np.ndarray) -> np.ndarray:
    if array.ndim != 1 or array.dtype.kind not in "iuf":
        raise NoStreams(f"`{name}` is {array.dtype} {array.shape}; expected numbers in one dimension.")
    return array


def _steps_of(name: str, array: np.ndarray, steps: int) -> tuple[int, ...]:
    if array.dtype.kind not in "iu":
        raise NoStreams(f"`{name}` is {array.dtype}; expected whole numbers.")
    found = tuple(int(step) for step in array)
    _check_steps(name, found, steps)
    return found


def _check_steps(name: str, found: Sequence[int], steps: int) -> None:
    outside = next((step for step in found if not 0 <= step < steps), None)
    if outside is not None:
        raise NoStreams(f"`{name}` names step {str(outside)[:20]} of a stream of {steps} steps, counted from 0.")


def _with_frames(bare: Stream, shown: np.ndarray, frames_nCHW: np.ndarray) -> Stream:
    steps = _steps_of("shown", _row("shown", shown), bare.steps)
    fits = frames_nCHW.ndim == 4 and frames_nCHW.dtype == np.uint8 and len(frames_nCHW) == len(steps)
    if not fits or frames_nCHW.shape[1] not in (1, 3) or 0 in frames_nCHW.shape[2:]:
        raise NoStreams(
            f"Saved frames are {frames_nCHW.dtype} {frames_nCHW.shape}; expected uint8 ({len(steps)}, C, H, W), "
            "1 or 3 channels."
        )
    return Stream(
        bare.uncertainty_T, bare.chosen, bare.answers, bare.target_A, bare.prediction_A, bare.probability_A, bare.cue,
        steps[:MOST_SHOWN], frames_nCHW[:MOST_SHOWN],
    )  # fmt: skip


def roles(found: Stream) -> list[list[str]]:
    """Return what each shown step is: `cue` (before the gap), `chosen`, `answer`; empty for the rest."""
    named = {"cue": range(found.cue), "chosen": {*found.chosen}, "answer": {*found.answers}}
    return [[name for name, steps in named.items() if step in steps] for step in found.shown]
