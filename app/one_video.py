"""`predict --video FILE`: the clips of one file, cut as the data set of the checkpoint cuts its own.

A checkpoint tells what this needs of its data set: the classes' names and what a clip looks like. So the data set
itself need not be on the machine.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from datamodules.clips import clip_length
from datamodules.decoding import probe
from datamodules.loader import eval_loader
from datamodules.video_dataset import ClipOptions, EvalClips, FrameStore, Video

UNKNOWN_LABEL = -1


class RememberedData(LightningDataModule):
    """The data set of a checkpoint without its videos, for the clips of another file.

    Args:
        class_names: by class index.
        clip_options: what a clip looks like.
        views: clips of a video, evenly spaced.
        dataset_name: what the data set is called.
        batch_size: clips a batch.
    """

    def __init__(
        self, class_names: list[str], clip_options: ClipOptions, views: int, dataset_name: str, batch_size: int = 8
    ) -> None:
        super().__init__()
        self.class_names, self.clip_options, self.views = class_names, clip_options, views
        self.dataset_name, self.batch_size = dataset_name, batch_size
        self.num_classes, self.channels = len(class_names), 1 if clip_options.grayscale else 3


def remember(data: Any) -> dict[str, Any]:
    """Return what a checkpoint keeps of a DataModule, plain values; nothing of what the module does not have."""
    kept = {name: getattr(data, name) for name in ("dataset_name", "class_names", "views") if hasattr(data, name)}
    return kept | ({"clip_options": asdict(data.clip_options)} if hasattr(data, "clip_options") else {})


def remembered(card: Mapping[str, Any], given: Mapping[str, Any] | Namespace) -> Namespace | None:
    """Return RememberedData's section of a configuration, None for a checkpoint that lacks something of it.

    `card`: the checkpoint's. `given`: the data section as configured, whose arguments count more than the checkpoint's.
    """
    kept = dict(card.get("data") or {})
    if not {"class_names", "clip_options", "views", "dataset_name"} <= kept.keys():
        return None
    chosen = given.get("init_args") or Namespace()
    options = Namespace({name: chosen.get(name, value) for name, value in kept["clip_options"].items()})
    own = {name: chosen[name] for name in ("views", "batch_size") if name in chosen}
    path = f"{RememberedData.__module__}.{RememberedData.__name__}"
    return Namespace(class_path=path, init_args=Namespace({**kept, **own, "clip_options": options}))


def one_video_loader(data: Any, path: Path, min_frames: int) -> DataLoader:
    """Return a loader of the test views of one video file, with label -1.

    `data`: the DataModule whose size, frames and background the network was trained on, or what is remembered of it.
    ValueError: no such file, broken, too short, or the data set is not made of video files.
    """
    options = getattr(data, "clip_options", None)
    if options is None:
        raise ValueError(
            f"--video {path}: the checkpoint was trained on {data.dataset_name}, which is not made of video files. "
            "Give a checkpoint trained with --data VideoFolder or Weizmann."
        )
    if not path.is_file():
        raise ValueError(f"--video {path}: there is no such file; expected the path of one video.")
    facts = probe(path)
    if facts.problem:
        raise ValueError(f"--video {path} {facts.problem}. Mend it or give another: predictions need a whole video.")
    used = clip_length(facts.frames, options.frames, options.stride)
    if used < min_frames:
        held = f"{facts.frames} frames" + (f", {used} at stride {options.stride}" if options.stride > 1 else "")
        raise ValueError(f"--video {path} has {held}; this network needs at least {min_frames}.")
    video = Video(path, path.name, UNKNOWN_LABEL, facts.frames)
    dataset = EvalClips([video], FrameStore(options, cache="none"), views=data.views)
    return eval_loader(dataset, len(dataset), batch_size=data.batch_size, num_workers=0, trainer=None)
