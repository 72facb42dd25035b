"""LongStreamData: long streams for memories, whatever they are made of; a leaf makes them, all the rest is here.

    leaf (CopySequences, ...)  --StreamSource-->  TrainRollouts, EvalStreams  -->  loaders

Training takes r steps of every lane at a time (rollouts.py), evaluation whole streams; both get Lanes, of which any
step can be read (lanes.py).
"""

import hashlib
import json
from abc import ABC, abstractmethod
from typing import Any

from lightning import LightningDataModule
from torch.utils.data import DataLoader

from datamodules.lanes import IGNORE, Lanes, StreamSource
from datamodules.listing import SPLITS
from datamodules.rollouts import EvalStreams, TrainRollouts
from datamodules.streams import eval_stream_loader, train_stream_loader

__all__ = ["IGNORE", "EvalStreams", "Lanes", "LongStreamData", "StreamSource", "TrainRollouts"]


class LongStreamData(LightningDataModule, ABC):
    """Long streams, read in rollouts: see methods.md section 6 for what a memory learns from them.

    Args:
        steps: of the longest stream, T.
        gap: steps between what must be remembered and the question.
        scored: steps of a stream that are scored.
        batch_size: streams side by side, B.
        seed: of the training streams and their order; evaluation streams are the same for every seed.
        num_workers: loader processes; 0 is right here, for they only choose streams: steps are read where they are
            needed, by the process that trains.
        train_streams: streams of a training epoch.
        val_streams: streams of the validation, always the same; 0: none.
        test_streams: streams of the test, always the same.
        stagger: lanes stand at different places of their streams, so that every batch has some of all; with `false`
            they begin together. Streams of different lengths need `false`.

    Attributes:
        input_kind: `symbols`, `vectors` or `frames`.
        channels: size of the vocabulary, numbers of a vector, or channels of a frame.
        class_names: by class index; a single name where a number is asked for (`regression`).
        rollout: steps of a training batch, which the model says; 0: whole streams.
        root_is_data: whether an option `root` names the data itself, so that another root is other data.
    """

    dataset_name: str
    split_name: str
    input_kind: str
    channels: int
    class_names: list[str]
    regression = False
    root_is_data = False
    fold = 0
    views = 1
    min_frames = 1
    min_scored_frames: int | None = None
    rollout = 1

    def __init__(
        self,
        steps: int,
        gap: int,
        scored: int,
        *,
        batch_size: int = 64,
        seed: int = 0,
        num_workers: int = 0,
        train_streams: int = 4096,
        val_streams: int = 256,
        test_streams: int = 512,
        stagger: bool = True,
    ) -> None:
        super().__init__()
        if min(batch_size, train_streams, test_streams) < 1 or min(val_streams, num_workers, seed) < 0:
            raise ValueError(
                f"batch_size {batch_size}, train_streams {train_streams}, test_streams {test_streams}: expected 1 or "
                f"more; val_streams {val_streams}, num_workers {num_workers}, seed {seed}: expected 0 or more"
            )
        self.steps, self.gap, self.scored = steps, gap, scored
        self.batch_size, self.seed, self.num_workers, self.stagger = batch_size, seed, num_workers, stagger
        self.streams = {"train": train_streams, "val": val_streams, "test": test_streams}

    @abstractmethod
    def source(self, split: str) -> StreamSource:
        """Return the streams of `train`, `val` or `test`, `self.streams[split]` of them."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Return what the streams are made from, plain values: `data_hash` is of it."""

    @property
    def num_classes(self) -> int:
        """Number of classes; 1 where a number is asked for."""
        return len(self.class_names)

    @property
    def data_hash(self) -> str:
        """16 hex digits of what the streams are made from, and of how many are scored.

        Seed and length of a training epoch are a run's own, and are not in it.
        """
        scored = {split: self.streams[split] for split in SPLITS if split != "train"}
        said = json.dumps({**self.settings(), **scored}, sort_keys=True)
        return hashlib.sha256(said.encode()).hexdigest()[:16]

    @property
    def protocol(self) -> str:
        """What a score is of, as "512 streams of 120 steps, scored at 10 steps"."""
        return f"{_counted(self.streams['test'], 'stream')} of {_counted(self.steps, 'step')}, scored at " + _counted(
            self.scored, "step"
        )

    @property
    def found(self) -> dict[str, int]:
        """Numbers of streams by split."""
        return {split: self.streams[split] for split in SPLITS}

    def folds(self) -> int:
        """Return 1: there is one split."""
        return 1

    def setup(self, stage: str | None = None) -> None:
        """Refuse what no model could learn from or be scored on; how long a rollout may be the model says.

        Raises:
            ValueError: one class, nothing to validate on, or several processes, which would all read the same lanes.
        """
        if self.num_classes < 2 and not self.regression:
            raise ValueError(
                f"{self.dataset_name} has one class: nothing to learn; expected two or more in class_names, or "
                "`regression = True` where numbers are asked for"
            )
        if stage == "validate" and not self.streams["val"]:
            raise ValueError("val_streams 0 leaves nothing to validate on; give --data.val_streams 256")
        if self.trainer is not None and self.trainer.world_size > 1:
            raise ValueError(
                f"{self.trainer.world_size} processes: a memory goes on from batch to batch, so all lanes are read in "
                "one. Give --trainer.devices 1."
            )

    def train_dataloader(self) -> DataLoader:
        """Return the resumable loader of rollouts."""
        rollouts = TrainRollouts(
            self.source("train"), lanes=self.batch_size, rollout=self.rollout, seed=self.seed, stagger=self.stagger
        )
        return train_stream_loader(rollouts, num_workers=self.num_workers, seed=self.seed)

    def val_dataloader(self) -> DataLoader | list[DataLoader]:
        """Return the loader of the validation streams; an empty list, so no validation, where there are none."""
        return self._eval("val") if self.streams["val"] else []

    def test_dataloader(self) -> DataLoader:
        """Return the loader of the test streams."""
        return self._eval("test")

    def predict_dataloader(self) -> DataLoader:
        """Return the loader of the test streams."""
        return self._eval("test")

    def _eval(self, split: str) -> DataLoader:
        return eval_stream_loader(EvalStreams(self.source(split), lanes=self.batch_size), num_workers=self.num_workers)


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number:,} {noun}s"
