"""A tiny synthetic DataModule: clips of constant noise pictures whose brightness in one half of the frame is the class.

Every clip is a pure function of its index, and the loader is the project's own, so that a fit can be continued exactly.
"""

import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.loader import eval_loader, train_loader


class ToyClips(Dataset):
    def __init__(self, clips, frames, size, classes, views=1, ragged=False, as_bytes=False):
        self.clips, self.frames, self.size, self.classes = clips, frames, size, classes
        self.views, self.ragged, self.as_bytes = views, ragged, as_bytes

    def __len__(self):
        return self.clips * self.views

    def __getitem__(self, key: tuple[int, int]) -> dict:
        _, index = key
        video_index = index // self.views
        generator = torch.Generator().manual_seed(index)
        label = video_index % self.classes
        video: Tensor = 0.3 * torch.rand(self.frames, 1, self.size, self.size, generator=generator)
        band = self.size // self.classes
        video[..., label * band : (label + 1) * band] += 0.7
        length = self.frames - (index % 2 if self.ragged else 0)
        video[length:] = 0
        return {
            "video": video.mul(255).round().byte() if self.as_bytes else video,
            "label": label,
            "length": length,
            "video_index": video_index,
            "clip_id": f"clip{video_index}@{index % self.views}",
        }


class ToyData(LightningDataModule):
    def __init__(
        self,
        clips=12,
        frames=9,
        size=16,
        classes=2,
        batch_size=4,
        views=1,
        ragged=False,
        seed=0,
        validated=True,
        as_bytes=False,
    ):
        super().__init__()
        self.num_classes, self.channels, self.frames, self.batch_size = classes, 1, frames, batch_size
        self.views, self.seed, self.validated = views, seed, validated
        self.train = ToyClips(clips, frames, size, classes, ragged=ragged, as_bytes=as_bytes)
        self.held_out = ToyClips(clips, frames, size, classes, views=views, ragged=ragged, as_bytes=as_bytes)

    def train_dataloader(self):
        options = {"batch_size": self.batch_size, "num_workers": 0, "seed": self.seed, "trainer": self.trainer}
        return train_loader(self.train, len(self.train), **options)

    def val_dataloader(self):
        return self.test_dataloader() if self.validated else []

    def test_dataloader(self):
        options = {"batch_size": self.batch_size, "num_workers": 0, "trainer": self.trainer}
        return eval_loader(self.held_out, len(self.held_out), **options)

    predict_dataloader = test_dataloader
