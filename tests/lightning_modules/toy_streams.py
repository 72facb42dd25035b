"""A DataModule of streams whose videos are made of numbers: all of `datamodules.streams` but the files."""

from pathlib import Path

import numpy as np
import torch
from lightning import LightningDataModule

from datamodules.decoding import DecodingError
from datamodules.streams import Streams, eval_stream_loader, train_stream_loader
from datamodules.video_dataset import ClipOptions, Video

FRAMES = (14, 9, 11, 3, 8, 13, 10)  # of the videos; D = 4 gives a gradient to every unit from 7 on


class MadeUp:
    """A frame store without files: noise, brighter in the half of the picture that is the class."""

    def __init__(self, frames, size):
        self.options = ClipOptions(frames, size, 1, "crop", 2, True, True, "none", "pyav")
        self.broken = set()

    def frames(self, video, numbers):
        if video.video_id in self.broken:
            raise DecodingError(f"{video.video_id} is broken")
        side = self.options.size + self.options.margin
        rng = np.random.default_rng([int(video.video_id), video.label])
        made = rng.integers(0, 80, (video.frames, 1, side, side), dtype=np.uint8)
        half = side // 2
        made[..., video.label * half : (video.label + 1) * half, :] += 150
        return torch.from_numpy(made[numbers])


class StreamData(LightningDataModule):
    stream = True

    def __init__(self, frames=4, size=16, lanes=3, lengths=FRAMES, num_workers=0, seed=0):
        super().__init__()
        self.num_classes, self.channels, self.num_workers, self.seed = 2, 1, num_workers, seed
        self.store, self.lanes, self.faults = MadeUp(frames, size), lanes, []
        self.videos = [Video(Path(str(i)), str(i), i % 2, length) for i, length in enumerate(lengths)]

    def streams(self, training):
        return Streams(self.videos, self.store, lanes=self.lanes, seed=self.seed, training=training)

    def train_dataloader(self):
        options = {"num_workers": self.num_workers, "seed": self.seed}
        return train_stream_loader(self.streams(True), on_fault=lambda *fault: self.faults.append(fault), **options)

    def test_dataloader(self):
        return eval_stream_loader(self.streams(False), num_workers=self.num_workers)

    val_dataloader = predict_dataloader = test_dataloader
