"""The table that `predict` writes: one row for each clip, with the most probable classes."""

import csv
import math
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from app.answers import VideoAnswers
from app.one_video import manner
from app.predicted_frames import PredictedFrameFiles
from app.top_classes import TopClasses

DEFAULT_TOP_K = 5

if TYPE_CHECKING:
    from app.trainer_cli import SkipSidewaysCLI


def predictions_of(cli: "SkipSidewaysCLI") -> Callback:
    """Return what writes what the options ask for: frames, or a table of a data set's clips or of one video."""
    names, get = list(cli.datamodule.class_names), partial(cli._get, cli.config)
    if getattr(cli.model, "frame_targets", False):
        return _frames_of(cli)
    path, every_s = Path(get("output") or "predictions.csv"), get("every")
    top_k = DEFAULT_TOP_K if get("top_k") is None else int(get("top_k"))
    if (video := cli.video) is None:
        if every_s is not None:
            raise ValueError(f"--every {every_s:g} without --video: clips have one row each; leave it out.")
        if hasattr(cli.model, "rollout"):
            return StepTable(path, _top_classes(cli, names))
        return PredictionTable(path, TopClasses(names, top_k))
    return VideoAnswers(
        path,
        names,
        top_k,
        times_s=video.times_s(),
        every_s=every_s,
        title=video.title(),
        manner=manner(cli.model.network, cli.model.rule, video.options),
    )


def _top_classes(cli: "SkipSidewaysCLI", names: list[str]) -> TopClasses | None:
    """Return the classes' columns; None where numbers are predicted, and ValueError for an option of classes then."""
    top_k = cli._get(cli.config, "top_k")
    if cli.model.question.outputs > 1:
        return TopClasses(names, DEFAULT_TOP_K if top_k is None else int(top_k))
    if top_k is not None:
        raise ValueError(f"--top_k {top_k} with predicted numbers, which are of no class; leave it out.")
    return None


def _frames_of(cli: "SkipSidewaysCLI") -> Callback:
    """Return what writes predicted frames; ValueError for options of a table."""
    for option in ("every", "top_k"):
        if (value := cli._get(cli.config, option)) is not None:
            raise ValueError(
                f"--{option} {value:g} with predicted frames, which make no table of classes; leave it out."
            )
    if cli.video:
        print(f"\n{cli.video.clips_title()}\n", flush=True)
    return PredictedFrameFiles(Path(cli._get(cli.config, "output") or "predictions"))


class PredictionTable(Callback):
    """Writes predictions to a CSV file while they are made, so that none are kept in memory.

    Columns: clip_id, label (empty where it is not known), then class_1, probability_1 ... class_k, probability_k.
    """

    def __init__(self, path: Path, top: TopClasses | None) -> None:
        self.path, self.top, self.rows = path, top, 0

    def head(self) -> list[str]:
        """Return the columns' names."""
        assert self.top is not None
        return ["clip_id", "label", *self.top.head()]

    def row(self, clip: str, label: Any, scores_K: Tensor) -> list[str]:
        """Return a row's cells."""
        assert self.top is not None
        return [clip, self.top.class_names[label] if label >= 0 else "", *self.top.cells(scores_K)]

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the head of the table, so that a path that can't be written fails before the work."""
        if not trainer.is_global_zero:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._write([self.head()], "w")

    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Append a batch's rows. `outputs`: clip_id, label (B,) with -1 for unknown, scores (B, K)."""
        if not trainer.is_global_zero:
            return  # another stage, with the same scores
        clips = zip(outputs["clip_id"], outputs["label"].tolist(), outputs["scores"], strict=True)
        rows = [self.row(clip, label, scores_K) for clip, label, scores_K in clips]
        self._write(rows, "a")
        self.rows += len(rows)

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say where the table is."""
        if trainer.is_global_zero:
            print(f"{self.rows} predictions written to {self.path}")

    def _write(self, rows: list[list[str]], mode: str) -> None:
        with self.path.open(mode, newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows)


class StepTable(PredictionTable):
    """The same of long streams: a row for each scored step.

    Columns: stream, step, label, then class_1, probability_1 ... class_k, probability_k; of numbers stream, step,
    target, prediction.
    """

    def head(self) -> list[str]:
        """Return the columns' names."""
        return ["stream", "step", *(["target", "prediction"] if self.top is None else super().head()[1:])]

    def row(self, clip: str, label: Any, scores_K: Tensor) -> list[str]:
        """Return a row's cells. `clip`: stream@step."""
        stream, _, step = clip.rpartition("@")
        if self.top is not None:
            return [stream, step, *super().row(clip, label, scores_K)[1:]]
        return [stream, step, "" if math.isnan(label) else f"{label:.6g}", f"{float(scores_K[0]):.6g}"]
