"""Predicted frames as files: a fixed sample of the test set as artifacts of its run, or all clips that `predict` meets.

test       the `saved_clips` clips whose names have the smallest hash: the same in every run on the same data,
           whatever the order, the size of batches and the number of processes    -> artifacts predictions/...
predict    every clip                                                             -> --output
"""

import tempfile
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from app.frame_files import ClipFrames, clear_folder, clip_digest, clip_frames, write_clip, write_index, written_to
from lightning_modules.horizon import copy_last, horizons
from lightning_modules.metrics.frame_scores import METRICS, FrameScores
from lightning_modules.predicted_clips import PredictedClips

ARTIFACTS = "predictions"
NETWORK, COPY = "this network", "copy last"  # rows of the printed table


class SampleOfClips:
    """The clips with the smallest hashes of all that it is shown: bounded, and blind to order.

    Args:
        size: clips at most.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._by_digest: dict[str, ClipFrames] = {}

    def __len__(self) -> int:
        return len(self._by_digest)

    @property
    def clips(self) -> list[ClipFrames]:
        """The clips, those with the smallest hashes first."""
        return [self._by_digest[digest] for digest in sorted(self._by_digest)]

    def update(self, batch: PredictedClips) -> None:
        """Look at a batch; clips without a scored frame are left out."""
        for clip in batch:
            if clip.frames and self._has_place_for(clip_digest(clip.clip_id)):
                self._keep(clip_frames(clip))

    def merge(self, other: "SampleOfClips") -> None:
        """Look at what another process has kept."""
        for clip in other.clips:
            if self._has_place_for(clip.digest):
                self._keep(clip)

    def _has_place_for(self, digest: str) -> bool:
        if digest in self._by_digest:
            return False
        return len(self) < self.size or any(digest < kept for kept in self._by_digest)

    def _keep(self, clip: ClipFrames) -> None:
        self._by_digest[clip.digest] = clip
        if len(self) > self.size:
            del self._by_digest[max(self._by_digest)]


class PredictedFrames(Callback):
    """Stores the fixed sample of a test with every logger that has `log_folder(folder, artifact_path)`.

    It reads the task's options `saved_clips` and `horizon`; of tasks that predict no frames it stores nothing.
    """

    def __init__(self) -> None:
        self.sample = SampleOfClips(0)

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forget the last test."""
        self.sample = SampleOfClips(int(pl_module.hparams.get("saved_clips", 0)))

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Look at a batch."""
        if isinstance(outputs, PredictedClips):
            self.sample.update(outputs)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Store the sample of all processes.

        Raises:
            ValueError: the files could not be written.
        """
        if not self.sample.size:
            return
        team: Any = pl_module.team
        sample = team.from_output(self._of_all(team) if team.has_output else None)
        loggers = [logger for logger in trainer.loggers if hasattr(logger, "log_folder")]
        if not (trainer.is_global_zero and loggers and len(sample)):
            return
        with tempfile.TemporaryDirectory() as folder:
            entries = [write_clip(Path(folder), clip, below=f"{ARTIFACTS}/") for clip in sample.clips]
            write_index(Path(folder), entries, _about(pl_module))
            for logger in loggers:
                with written_to(getattr(logger, "uri", "the run's store")):
                    logger.log_folder(folder, ARTIFACTS)

    def _of_all(self, team: Any) -> SampleOfClips:
        merged = SampleOfClips(self.sample.size)
        for part in team.from_all_clips(self.sample):
            merged.merge(part)
        return merged


class FrameTable(Callback):
    """Prints a test's figures as a table, metric by metric, in place of Lightning's list of all of them."""

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print it, where the task predicts frames."""
        if not (getattr(pl_module, "frame_targets", False) and trainer.is_global_zero):
            return
        found = {name.removeprefix("test/"): float(value) for name, value in trainer.callback_metrics.items()}
        rows = {NETWORK: found}
        for baseline, row in (("copy_last/", COPY), ("mean_last/", "mean last")):
            figures = {k.removeprefix(baseline): v for k, v in found.items() if k.startswith(baseline)}
            rows |= {row: figures} if figures else {}
        print(table_of_scores(rows, horizons(int(pl_module.hparams["horizon"]))))
        others = [name for name in ("lpips", "frechet") if name in found]
        print("\n".join(f"{name:<24}{found[name]:>11.4g}" for name in others), end="\n" if others else "")


class PredictedFrameFiles(Callback):
    """Writes every predicted clip below a folder while they are made, and prints how near they come to the truth.

    Args:
        folder: the files' place; an earlier prediction that stands there is replaced.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._entries: list[dict[str, Any]] = []
        self._scores: dict[str, FrameScores] = {}

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Make the folder, so that one that can't be written fails before the work.

        Raises:
            ValueError: it is a file's name, something else than predictions stands there, or it can't be made.
        """
        if self.folder.is_file() or self.folder.suffix == ".csv":
            raise ValueError(
                f"--output {self.folder} is a file; predicted frames need a folder, such as {self.folder.stem}"
            )
        horizon = int(pl_module.hparams["horizon"])
        rows = (NETWORK, COPY) if horizon else (NETWORK,)  # a copy of the frame that is asked for knows the answer
        self._entries, self._scores = [], {row: FrameScores(horizons(horizon)) for row in rows}
        if trainer.is_global_zero:
            clear_folder(self.folder)
            write_index(self.folder, [], _about(pl_module))

    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write a batch's clips."""
        if not (isinstance(outputs, PredictedClips) and trainer.is_global_zero):
            return
        last = copy_last(outputs.context_BTCHW, outputs.newest_N, int(pl_module.hparams["horizon"]))
        said = {NETWORK: outputs.prediction_BNKCHW, COPY: last}
        for row, scores in self._scores.items():
            scores.update(said[row], outputs.target_BNKCHW, outputs.scored_BN)
        self._entries += [write_clip(self.folder, clip_frames(clip)) for clip in outputs if clip.frames]

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the index and say what was found.

        Raises:
            ValueError: every clip was too short.
        """
        if not trainer.is_global_zero:
            return
        write_index(self.folder, self._entries, _about(pl_module))
        rows = {row: scores.compute() for row, scores in self._scores.items()}
        print(table_of_scores(rows, self._scores[NETWORK].ahead))
        print(f"{len(self._entries)} clips written to {self.folder}")


def table_of_scores(rows: dict[str, dict[str, float]], ahead: list[int]) -> str:
    """Return a text table, a line for each metric and row of `rows`, a column for each horizon and for their mean."""
    columns = [f"k={k}" for k in ahead] + ["mean"]
    lines = [f"{'':<24}" + "".join(f"{name:>11}" for name in columns)]
    for metric in METRICS:
        for row, found in rows.items():
            cells = [found[f"{metric}_{k}"] for k in ahead] + [found[metric]]
            lines.append(f"{metric + ' ' + row:<24}" + "".join(f"{cell:>11.4g}" for cell in cells))
    return "\n".join(lines)


def _about(pl_module: pl.LightningModule) -> dict[str, Any]:
    task: Any = pl_module
    return {"horizons": horizons(int(task.hparams["horizon"])), "lmin": task.network.wiring.lmin}
