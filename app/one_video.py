"""`predict --video FILE`: the clips of one file, cut as the data set of the checkpoint cuts its own."""

from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

UNKNOWN_LABEL = -1


def one_video_loader(data: Any, path: Path, min_frames: int) -> DataLoader:
    """Return a loader of the test views of one video file, with label -1.

    `data`: the DataModule whose size, frames and background the network was trained on.
    ValueError: no such file, broken, too short, or the data set is not made of video files.
    """
    from datamodules.clips import clip_length
    from datamodules.decoding import probe
    from datamodules.loader import eval_loader
    from datamodules.video_dataset import EvalClips, Video

    folder = getattr(data, "folder", data)
    if not hasattr(folder, "store"):
        raise ValueError(
            f"--video {path}: the checkpoint was trained on {data.dataset_name}, which is not made of video files. "
            "Give a checkpoint trained with --data VideoFolder or Weizmann."
        )
    if not path.is_file():
        raise ValueError(f"--video {path}: there is no such file; expected the path of one video.")
    facts = probe(path)
    if facts.problem:
        raise ValueError(f"--video {path} {facts.problem}. Mend it or give another: predictions need a whole video.")
    stride = folder.store.options.stride
    used = clip_length(facts.frames, folder.store.options.frames, stride)
    if used < min_frames:
        held = f"{facts.frames} frames" + (f", {used} at stride {stride}" if stride > 1 else "")
        raise ValueError(f"--video {path} has {held}; this network needs at least {min_frames}.")
    dataset = EvalClips([Video(path, path.name, UNKNOWN_LABEL, facts.frames)], folder.store, views=data.views)
    return eval_loader(dataset, len(dataset), batch_size=data.batch_size, num_workers=0, trainer=None)
