"""A tiny DataModule of motion: a smooth noise picture that wraps round, at a speed of its own, some clips shorter."""

import torch
import torch.nn.functional as F
from lightning import LightningDataModule
from torch.utils.data import Dataset

from datamodules.loader import eval_loader, train_loader


class MovingClips(Dataset):
    def __init__(self, clips, frames, size, channels):
        self.clips, self.frames, self.size, self.channels = clips, frames, size, channels

    def __len__(self):
        return self.clips

    def __getitem__(self, key: tuple[int, int]) -> dict:
        _, index = key
        generator = torch.Generator().manual_seed(index)
        small = torch.rand(1, self.channels, self.size // 4, self.size // 4, generator=generator)
        picture = F.interpolate(small, size=self.size, mode="bilinear")[0]
        speed = 1 + index % 2
        video = torch.stack([picture.roll(speed * t, -1) for t in range(self.frames)])
        length = self.frames - index % 3
        video[length:] = 0
        return {
            "video": video.mul(255).round().byte(),
            "label": index % 2,
            "length": length,
            "video_index": index,
            "clip_id": f"clip{index}@0",
        }


class MovingData(LightningDataModule):
    class_names = ("slow", "fast")

    def __init__(self, clips=8, frames=18, size=16, channels=1, batch_size=4, stream=False):
        super().__init__()
        self.channels, self.frames, self.size, self.batch_size, self.stream = channels, frames, size, batch_size, stream
        self.data = MovingClips(clips, frames, size, channels)

    def train_dataloader(self):
        options = {"batch_size": self.batch_size, "num_workers": 0, "seed": 0, "trainer": self.trainer}
        return train_loader(self.data, len(self.data), **options)

    def val_dataloader(self):
        return eval_loader(self.data, len(self.data), batch_size=self.batch_size, num_workers=0, trainer=self.trainer)

    test_dataloader = predict_dataloader = val_dataloader
