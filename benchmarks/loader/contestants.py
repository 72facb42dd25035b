"""Who takes part: pytorchvideo's LabeledVideoDataset and our training loader, on the same files, one random clip of
each video an epoch, short side scaled to the same size, a random square cut, mirrored at random, in batches.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lightning_modules.compat import ensure_pytorchvideo

ensure_pytorchvideo()

import torch  # noqa: E402
from torch.utils.data import DataLoader  # noqa: E402

from datamodules.index import load_index  # noqa: E402
from datamodules.loader import train_loader  # noqa: E402
from datamodules.video_dataset import ClipOptions, FrameStore, TrainClips, Video  # noqa: E402

FRAMES, BATCH = 16, 4
CACHED_CLIPS = 20  # of each video an epoch: cached ones are too quick to measure a few
# The length of 16 frames at 30 a second. Of a file with 25 a second pytorchvideo then has 14 to decode, ours 16.
CLIP_S = FRAMES / 30
PYTORCHVIDEO = {"pytorchvideo, with sound": True, "pytorchvideo, no sound": False}
OURS = {
    "pyav": ("none", "pyav"),
    "torchcodec": ("none", "torchcodec"),
    "cache disk": ("disk", "pyav"),
    "cache memory": ("memory", "pyav"),
}


def pytorchvideo_loader(root: Path, paths: list[str], sound: bool, size: int, workers: int) -> Iterable[Any]:
    """Return the loader that pytorchvideo's tutorial builds; its default is to decode the sound."""
    from pytorchvideo.data import LabeledVideoDataset, make_clip_sampler
    from pytorchvideo.transforms import ApplyTransformToKey, ShortSideScale, UniformTemporalSubsample
    from torchvision.transforms import Compose, RandomCrop, RandomHorizontalFlip

    video = Compose([UniformTemporalSubsample(FRAMES), ShortSideScale(size), RandomCrop(size), RandomHorizontalFlip()])

    def transform(item: dict[str, Any]) -> dict[str, Any]:
        # Sound of unequal length cannot be put into a batch.
        return {key: value for key, value in item.items() if key in ("video", "label")}

    dataset = LabeledVideoDataset(
        [(str(root / path), {"label": number}) for number, path in enumerate(paths)],
        make_clip_sampler("random", CLIP_S),
        transform=Compose([ApplyTransformToKey("video", video), transform]),
        decode_audio=sound,
    )
    return DataLoader(dataset, batch_size=BATCH, num_workers=workers, persistent_workers=workers > 0)


def our_loader(
    root: Path, paths: list[str], cache: str, decoder: str, size: int, workers: int, folder: Path
) -> Iterable[Any]:
    """Return the loader of the DataModules, its cache filled."""
    rows = load_index(root, paths, progress=False)
    videos = [
        Video(root / path, path, number, rows[path].facts.frames, facts=rows[path].facts)
        for number, path in enumerate(paths)
    ]
    options = ClipOptions(FRAMES, size, 1, "crop", 0, True, False, "none", decoder)
    store = FrameStore(options, cache, dataset_name=root.name, cache_dir=str(folder) if cache == "disk" else None)
    if cache == "memory":
        for video in videos:
            store.whole(video)
    clips_per_video = 1 if cache == "none" else CACHED_CLIPS
    dataset = TrainClips(videos, store, seed=0, clips_per_video=clips_per_video)
    return train_loader(dataset, len(dataset), batch_size=BATCH, num_workers=workers, seed=0, trainer=None)


def loader(name: str, root: Path, paths: list[str], size: int, workers: int, folder: Path) -> Iterable[Any]:
    """Return a contestant's loader."""
    torch.set_num_threads(1)
    if name in PYTORCHVIDEO:
        return pytorchvideo_loader(root, paths, PYTORCHVIDEO[name], size, workers)
    cache, decoder = OURS[name]
    return our_loader(root, paths, cache, decoder, size, workers, folder)
