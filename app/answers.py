"""What a network answers in the course of one video: rows over time, for the terminal and a csv file.

    answers      a a a b b b b b c c     about frames, one after the other
    rows         |-----|-----|-----|     a row is the mean of the answers about its stretch of `every` seconds

Shape legend: K classes.
"""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from app.top_classes import TopClasses

DEFAULT_EVERY_S = 0.5
MOST_PRINTED_ROWS = 40
_STEPS_S = (0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600)
_BAR = 20
_SHOWN_CLASSES = 3


@dataclass(frozen=True)
class Row:
    """A stretch of a video, and the mean of the answers about its frames: probabilities (K,)."""

    from_s: float
    to_s: float
    scores_K: Tensor


class Rows:
    """Makes rows of answers as they come; holds one row at a time.

    Args:
        times_s: of the video's frames, and at last when it is over.
        every_s: length of a row; 0 for one row an answer.
    """

    def __init__(self, times_s: np.ndarray, every_s: float) -> None:
        self.times_s, self.every_s = times_s, every_s
        self._sum: Tensor | None = None
        self._count = self._first = self._stop = self._done = 0

    def add(self, scores_K: Tensor, first: int, stop: int) -> Row | None:
        """Count an answer about frames `first` to `stop` (exclusive); return the row that it ends, if it does."""
        if self._sum is None:
            self._sum, self._count, self._first = scores_K.double(), 1, first
        else:
            self._sum, self._count = self._sum + scores_K, self._count + 1
        self._stop = stop
        over = self.times_s[stop] >= (self._done + 1) * self.every_s - 1e-6
        return self.end() if over else None

    def end(self) -> Row | None:
        """Return the row that is not over yet; None where there is none."""
        if self._sum is None:
            return None
        to_s = float(self.times_s[self._stop])
        row = Row(float(self.times_s[self._first]), to_s, (self._sum / self._count).float())
        self._sum, self._done = None, math.floor(to_s / self.every_s + 1e-6) if self.every_s else 0
        return row


def printed_every_s(duration_s: float, every_s: float) -> float:
    """Return the length of the terminal's rows: the csv's, or longer where these would be more than fit on a screen."""
    if duration_s <= MOST_PRINTED_ROWS * every_s:
        return every_s
    longer = [step for step in _STEPS_S if step >= every_s and duration_s <= MOST_PRINTED_ROWS * step]
    return longer[0] if longer else duration_s / MOST_PRINTED_ROWS


class VideoAnswers(Callback):
    """Prints the top classes of one video over time while it is read, and writes them to a csv file.

    Columns: from_s, to_s, then class_1, probability_1 ... class_k, probability_k.

    Args:
        path: of the csv file.
        class_names: by class index.
        top_k: classes of a row in the file; the terminal shows three.
        times_s: of the video's frames, and at last when it is over.
        every_s: length of the file's rows in seconds; 0 for one row an answer; None for half a second.
        title: lines about the video.
        manner: a sentence on how the answer for the whole video was made, with `{}` for the number of answers.
    """

    def __init__(
        self,
        path: Path,
        class_names: Sequence[str],
        top_k: int,
        *,
        times_s: np.ndarray,
        every_s: float | None,
        title: str,
        manner: str,
    ) -> None:
        if every_s is not None and every_s < 0:
            raise ValueError(f"--every is {every_s:g}; expected seconds a row, or 0 for one row an answer.")
        self.path, self.title, self.manner = path, title, manner
        self.top, self.shown = TopClasses(class_names, top_k), TopClasses(class_names, _SHOWN_CLASSES)
        every_s = DEFAULT_EVERY_S if every_s is None else every_s
        self._written = Rows(times_s, every_s)
        self._printed = Rows(times_s, printed_every_s(float(times_s[-1]), every_s))
        self._width = max(map(len, class_names))
        self.rows = self.answers = 0

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the head of the table, so that a path that can't be written fails before the work."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow(["from_s", "to_s", *self.top.head()])
        also = "   then" if self.shown.top_k > 1 else ""
        print(f"\n{self.title}\n\n{'seconds':>15}   {'class':<{self._width}}  {'probability':<{_BAR + 6}}{also}")

    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write and print the rows that are over. `outputs`: of a stream of one lane."""
        scores, counts, spans = outputs["answers"][0], outputs["answered"][0], outputs["answered_frames"]
        written: list[Row | None] = []
        for scores_K, (first, stop) in zip(scores[counts], spans[counts].tolist(), strict=True):
            self.answers += 1
            written.append(self._written.add(scores_K, first, stop))
            self._print(self._printed.add(scores_K, first, stop))
        if ended := bool(len(outputs["scores"])):
            written.append(self._written.end())
            self._print(self._printed.end())
        self._write([row for row in written if row is not None])
        if ended:
            whole = self._line("whole video", outputs["scores"][0])
            print(f"{'-' * len(whole)}\n{whole}\n\n{self.manner.format(self.answers)}")

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say where the table is."""
        print(f"{self.rows} rows written to {self.path}")

    def _print(self, row: Row | None) -> None:
        if row is not None:
            print(self._line(f"{row.from_s:.2f} - {row.to_s:.2f}", row.scores_K), flush=True)

    def _line(self, when: str, scores_K: Tensor) -> str:
        (first, p), *others = self.shown.best(scores_K)
        bar = "#" * round(_BAR * p)
        then = "   ".join(f"{name} {q:.2f}" for name, q in others)
        return f"{when:>15}   {first:<{self._width}}  {p:.2f}  {bar:<{_BAR}}  {then}".rstrip()

    def _write(self, rows: Sequence[Row]) -> None:
        self.rows += len(rows)
        with self.path.open("a", newline="", encoding="utf-8") as file:
            for row in rows:
                stretch = [f"{row.from_s:.3f}", f"{row.to_s:.3f}"]
                csv.writer(file).writerow([*stretch, *self.top.cells(row.scores_K)])
