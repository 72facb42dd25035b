"""Streams of digits with a cue, a long distraction and a question: any frame is drawn alone, from its number.

    step      0 .. cue     |  gap                                        | question
    frame     [3] [3] [3]  |  7 7 7 7  1 1 1 1  4 4 4 4  ...             |  checkerboard
    target     13  13  13  |  7 7 7 7  1 1 1 1  4 4 4 4  ...             |  13
              [ ]: a bright border    a new digit every `hold` frames, its border dark

What is asked of a frame with a digit in it, the frame tells: the digit, and with a border that it is the cue, 10 more.
What the question asks, only the cue told [D].

Legend: B lanes, N steps asked for, S side in pixels; digits are drawn inside the border, Z = S - 2.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from datamodules.counter_random import below, hashed, normal, uniform
from datamodules.digit_clips import digit_images, digit_split
from datamodules.lanes import IGNORE, Lanes, StreamSource, names, roots, same_length
from datamodules.loader import Key
from datamodules.motion import CELLS, positions, render_each

_CUE, _SEGMENT, _NOISE = range(3)  # of a stream
_DIGIT, _IMAGE, _TOP, _LEFT, _ANGLE = range(5)  # of a segment, which shows one digit
_BORDER = 1
_CHECKS = 8  # fields of the question's checkerboard along a side
MOTIONS = ("wrap", "bounce")


@dataclass(frozen=True)
class CuedOptions:
    """What a stream looks like; see CuedVideo."""

    size: int
    digit_size: int
    cue_frames: int
    gap: int
    hold: int
    question_frames: int
    motion: str
    speed: float
    noise: float

    def __post_init__(self) -> None:
        o = self
        if not CELLS <= o.digit_size <= o.inside:
            raise ValueError(
                f"digit_size {o.digit_size} with size {o.size}: expected {CELLS} to size - {2 * _BORDER}, for there is "
                f"a border. Give --data.digit_size {CELLS} and --data.size 16, say."
            )
        if o.motion not in MOTIONS:
            raise ValueError(f"motion {o.motion!r}: expected {' or '.join(MOTIONS)}. Give --data.motion wrap.")
        for name in ("cue_frames", "hold", "question_frames"):
            if getattr(o, name) < 1:
                raise ValueError(f"{name} {getattr(o, name)}: expected 1 frame or more. Give --data.{name} 1.")
        for name in ("gap", "speed", "noise"):
            if getattr(o, name) < 0:
                raise ValueError(f"{name} {getattr(o, name)}: expected 0 or more. Give --data.{name} 0.")

    @property
    def inside(self) -> int:
        """Side of the canvas within the border, Z."""
        return self.size - 2 * _BORDER

    @property
    def steps(self) -> int:
        """Frames of a stream."""
        return self.cue_frames + self.gap + self.question_frames


class CuedLanes(Lanes):
    """Streams side by side: x (B, N, 1, S, S) uint8, y (B, N) the digit, of cues 10 more.

    All that is held is two numbers a lane.

    Args:
        ids: names of the streams.
        roots_B: what each stream is drawn from, uint64.
        cue_B: the digits of the cues, int64.
        options: what the streams look like.
        split: whose images of digits are shown, `train`, `val` or `test`.
    """

    def __init__(
        self, ids: Sequence[str], roots_B: np.ndarray, cue_B: np.ndarray, options: CuedOptions, split: str
    ) -> None:
        answers_A = torch.arange(options.steps - options.question_frames, options.steps)
        super().__init__(ids, same_length(options.steps, len(ids)), answers_A.repeat(len(ids), 1))
        self.roots_B, self.cue_B, self.options, self.split = roots_B, cue_B, options, split

    def only(self, rows: Tensor) -> "CuedLanes":
        """Return lanes `rows` of these."""
        chosen = rows.numpy()
        ids = [self.ids[row] for row in chosen.tolist()]
        return CuedLanes(ids, self.roots_B[chosen], self.cue_B[chosen], self.options, self.split)

    def read(self, steps_BN: Tensor) -> tuple[Tensor, Tensor]:
        """Return frames and the digits that are asked for; outside a stream black, and nothing asked."""
        o, steps, inside = self.options, steps_BN.numpy(), self.inside(steps_BN).numpy()
        cue, question = steps < o.cue_frames, steps >= o.steps - o.question_frames
        segment = np.where(cue, 0, 1 + (steps - o.cue_frames) // o.hold)
        time = np.where(cue, steps, (steps - o.cue_frames) % o.hold)
        drawn = hashed(self.roots_B[:, None], _SEGMENT, segment)
        digit = np.where(cue | question, self.cue_B[:, None], below(10, drawn, _DIGIT))
        frames = np.zeros((*steps.shape, o.size, o.size), dtype=np.float32)
        frames[cue] = 1
        frames[..., _BORDER:-_BORDER, _BORDER:-_BORDER] = self._digits(digit, drawn, time)
        frames[question] = question_frame(o.size)
        if o.noise:
            frames = self._with_noise(frames, steps)
        frames[~inside] = 0
        x = np.rint(frames * np.float32(255)).astype(np.uint8)[:, :, None]
        return torch.from_numpy(x), torch.from_numpy(np.where(inside, digit + 10 * (cue | question), IGNORE))

    def _digits(self, digit_BN: np.ndarray, drawn_BN: np.ndarray, time_BN: np.ndarray) -> np.ndarray:
        """Return moving digits (B, N, Z, Z) in [0, 1], `time` frames after they came; `drawn` tells all else."""
        o, (table, counts) = self.options, _pool(self.split)
        image = table[digit_BN, below(counts[digit_BN], drawn_BN, _IMAGE)].reshape(-1)
        angle = 2 * np.pi * uniform(drawn_BN, _ANGLE)
        way = o.speed * time_BN[..., None] * np.stack([np.sin(angle), np.cos(angle)], -1)
        room = float(o.inside if o.motion == "wrap" else o.inside - o.digit_size)
        start = room * np.stack([uniform(drawn_BN, _TOP), uniform(drawn_BN, _LEFT)], -1)
        place = positions(start.reshape(-1, 2), way.reshape(-1, 2), 2, room, o.motion)[:, 1:]
        cell = o.digit_size / CELLS
        frames = render_each(digit_images()[0][image], place, o.inside, cell, wrap=o.motion == "wrap")
        return np.minimum(frames, 1).reshape(*digit_BN.shape, o.inside, o.inside)

    def _with_noise(self, frames_BNSS: np.ndarray, steps_BN: np.ndarray) -> np.ndarray:
        drawn = hashed(self.roots_B[:, None], _NOISE, steps_BN)
        noise = normal(drawn[..., None, None], np.arange(frames_BNSS[0, 0].size).reshape(frames_BNSS.shape[2:]))
        return np.clip(frames_BNSS + np.float32(self.options.noise) * noise, 0, 1)


class CuedSource(StreamSource):
    """Streams of a split; in evaluation each digit is the cue equally often.

    Args:
        split: `train`, `val` or `test`.
        streams: of an epoch.
        options: what they look like.
        seed: of the training streams.
    """

    def __init__(self, split: str, streams: int, options: CuedOptions, seed: int) -> None:
        super().__init__(np.full(streams, options.steps))
        self.split, self.options, self.seed = split, options, seed

    def lanes(self, keys: Sequence[Key]) -> CuedLanes:
        """Return streams side by side."""
        roots_B = roots(self.split, self.seed, keys)
        if self.split == "train":
            cue_B = below(10, roots_B, _CUE)
        else:
            cue_B = np.array([index for _, index in keys], dtype=np.int64) % 10
        return CuedLanes(names(self.split, keys), roots_B, cue_B, self.options, self.split)


@cache
def _pool(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the images of a split's digits, (10, most of a digit), and how many a digit has, (10,)."""
    pools = digit_split(split)
    counts = np.array([len(pool) for pool in pools])
    table = np.zeros((10, counts.max()), dtype=np.int64)
    for row, pool in zip(table, pools, strict=True):
        row[: len(pool)] = pool
    return table, counts


def question_frame(size: int) -> np.ndarray:
    """Return the frame (S, S) of 0 and 1 that says that something is asked: a checkerboard."""
    field = np.arange(size) * _CHECKS // size
    return ((field[:, None] + field) % 2).astype(np.float32)
