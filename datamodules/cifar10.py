"""CIFAR10: 60,000 images of 32 x 32 in 10 classes, as clips of one frame, for comparison with what papers report.

    data_batch_1 ... data_batch_5                                test_batch
    |------------ train -------------|-- val (val_images) --|    |-- test --|

The authors put the training images into random order, so its end is as good a sample as any.
"""

import hashlib
import logging
from functools import cached_property
from pathlib import Path

from lightning import LightningDataModule
from torch.utils.data import DataLoader

from datamodules.cifar10_files import CLASSES, NAME, OFFICIAL_IMAGES, Batch, Images, find, read
from datamodules.cifar10_images import AUGMENTATIONS, SIDE, CIFAR10Clips
from datamodules.loader import eval_loader, train_loader

log = logging.getLogger(__name__)


class CIFAR10(LightningDataModule):
    """CIFAR-10's images as clips of one frame, (1, 3, 32, 32) uint8 in [0, 255]; for rules that need one frame.

    Nothing is downloaded. Pixels go to the network in [0, 1], without subtracting means, as those of videos.

    Args:
        root: folder that holds cifar-10-batches-py or cifar-10-batches-bin, or one of them, or an archive of them,
            cifar-10-python.tar.gz or cifar-10-binary.tar.gz, which is read where it lies.
        batch_size: images a batch.
        val_images: the last so many training images are held out for validation, the same for every seed; with 0 there
            is no validation and training has all 50,000.
        augment: `standard` cuts training images at random from 4 pixels of black around them and mirrors half of them;
            `none` leaves them as they are.
        num_workers: loader processes.
        seed: of the order of the training images and of their augmentation.
    """

    dataset_name = NAME
    channels = 3
    views = 1
    split_name = "official"
    protocol = "1 view x 1 crop of 1 frame"
    fold = 0
    frames = 1
    size = SIDE
    min_frames = 1
    min_scored_frames: int | None = None
    val_options = "--data.val_images 5000"

    def __init__(
        self,
        root: str,
        batch_size: int = 128,
        val_images: int = 5000,
        augment: str = "standard",
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if batch_size < 1 or num_workers < 0:
            raise ValueError(f"batch_size {batch_size}, num_workers {num_workers}: expected 1 or more, and 0 or more")
        if augment not in AUGMENTATIONS:
            raise ValueError(f"augment {augment!r}: expected one of {', '.join(AUGMENTATIONS)}")
        if not 0 <= val_images < OFFICIAL_IMAGES["train"]:
            raise ValueError(f"val_images {val_images}: expected 0 to {OFFICIAL_IMAGES['train'] - 1}")
        self.source = find(Path(root))
        self.batch_size, self.val_images, self.augment = batch_size, val_images, augment
        self.num_workers, self.seed = num_workers, seed

    @property
    def class_names(self) -> list[str]:
        """Names by class index."""
        return list(CLASSES)

    @property
    def num_classes(self) -> int:
        """Number of classes, 10."""
        return len(CLASSES)

    @cached_property
    def images(self) -> Images:
        """The images of the files, 184 MB, read when they are first asked for."""
        found = read(self.source)
        if self.val_images >= len(found.train[1]):
            raise ValueError(
                f"val_images {self.val_images} of the {len(found.train[1])} training images in {self.source.place} "
                "leave none to train on; give a smaller --data.val_images"
            )
        return found

    @cached_property
    def data_hash(self) -> str:
        """16 hex digits of pixels, labels and the held out part; the same for either version, packed or not."""
        digest = hashlib.sha256(str(self.val_images).encode())
        for pixels, labels in (self.images.train, self.images.test):
            digest.update(pixels.data)
            digest.update(labels.data)
        return digest.hexdigest()[:16]

    @property
    def found(self) -> dict[str, int]:
        """Numbers of images by split."""
        return {split: len(self._part(split)[1]) for split in ("train", "val", "test")}

    @property
    def expected(self) -> dict[str, int]:
        """The same of the official files."""
        train = OFFICIAL_IMAGES["train"] - self.val_images
        return {"train": train, "val": self.val_images, "test": OFFICIAL_IMAGES["test"]}

    def folds(self) -> int:
        """Return 1: there is one split."""
        return 1

    def _part(self, split: str) -> Batch:
        if split == "test":
            return self.images.test
        pixels, labels = self.images.train
        middle = len(labels) - self.val_images
        part = slice(0, middle) if split == "train" else slice(middle, None)
        return pixels[part], labels[part]

    def dataset(self, split: str) -> CIFAR10Clips:
        """Return the dataset of `train`, `val` or `test`; that of `train` is augmented where so chosen."""
        if split == "train":
            return CIFAR10Clips(self._part(split), "train", seed=self.seed if self.augment == "standard" else None)
        first = len(self.images.train[1]) - self.val_images if split == "val" else 0
        return CIFAR10Clips(self._part(split), "test" if split == "test" else "train", first=first)

    def setup(self, stage: str | None = None) -> None:
        """Refuse networks that need clips of several frames, read the files, and say so where nothing is held out."""
        scored = self.min_frames if self.min_scored_frames is None else self.min_scored_frames
        needed = self.min_frames if stage in (None, "fit") else scored
        if needed > 1:
            raise ValueError(
                f"{NAME}: an image is a clip of one frame, and under this rule the network needs at least {needed}, "
                "because a frame moves up one unit a tick. Use --model.rule backprop_frame or greedy_frame, or --data "
                "MovingDigits."
            )
        if stage == "validate" and not self.val_images:
            raise ValueError(f"val_images 0 leaves nothing to validate on; give {self.val_options}")
        if stage == "fit" and not self.val_images and (self.trainer is None or self.trainer.is_global_zero):
            log.warning("no image is held out of training for validation (%s)", self.val_options)
        _ = self.images

    def train_dataloader(self) -> DataLoader:
        """Return the shuffled, resumable loader."""
        dataset = self.dataset("train")
        return train_loader(
            dataset,
            len(dataset),
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            seed=self.seed,
            trainer=self.trainer,
        )

    def val_dataloader(self) -> DataLoader | list[DataLoader]:
        """Return the loader of the images held out; an empty list, so no validation, where none are."""
        return self._eval("val") if self.val_images else []

    def test_dataloader(self) -> DataLoader:
        """Return the loader of the test images."""
        return self._eval("test")

    def predict_dataloader(self) -> DataLoader:
        """Return the loader of the test images."""
        return self._eval("test")

    def _eval(self, split: str) -> DataLoader:
        dataset = self.dataset(split)
        return eval_loader(
            dataset, len(dataset), batch_size=self.batch_size, num_workers=self.num_workers, trainer=self.trainer
        )
