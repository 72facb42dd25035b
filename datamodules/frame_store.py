"""Where a clip's frames come from: the file, the memory, or the cache on the disk.

file -> decode at size + margin -> grey -> background -> uint8 frames, numbered from the video's first one

cache   none     decodes what each clip needs
        memory   decodes a video whole at its first use and keeps it
        disk     the same, in memory-mapped files that later runs find again (frame_cache.py)
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from datamodules.background import subtract
from datamodules.decoding import decode
from datamodules.frame_cache import DEFAULT_FOLDER, FrameCache
from datamodules.transforms import grey

if TYPE_CHECKING:
    from datamodules.video_dataset import ClipOptions, Video

CACHES = ("memory", "disk", "none")


class FrameSource(Protocol):
    """Whatever gives frames of videos."""

    options: "ClipOptions"

    def frames(self, video: "Video", numbers: np.ndarray) -> Tensor:
        """Return frames of a video, x_TCHW uint8; fewer than `numbers`, which ascend, where the file ends early."""
        ...


class FrameStore:
    """Gives videos' frames at the training size, uint8, after background subtraction.

    Args:
        options: what clips look like.
        cache: "none", "memory" or "disk".
        dataset_name: names the folder of the cache on the disk.
        cache_dir: folder of the caches on the disk; None: `.skip-sideways/frames` in the working directory.
    """

    def __init__(
        self, options: "ClipOptions", cache: str, *, dataset_name: str = "videos", cache_dir: str | None = None
    ) -> None:
        if cache not in CACHES:
            raise ValueError(f"cache {cache!r}: expected one of {', '.join(CACHES)}")
        if cache_dir and cache != "disk":
            raise ValueError(f"cache_dir {cache_dir} has no effect with cache {cache!r}: add --data.cache disk")
        self.options, self.cache = options, cache
        folder = Path(cache_dir) if cache_dir else DEFAULT_FOLDER
        self.disk = FrameCache(folder, dataset_name, options) if cache == "disk" else None
        self._kept: dict[str, Tensor] = {}

    def frames(self, video: "Video", numbers: np.ndarray) -> Tensor:
        """Return frames of a video, x_TCHW uint8; fewer than `numbers`, which ascend, where the file ends early."""
        if self.cache == "memory":
            return _chosen(self.whole(video), numbers)
        if self.disk is not None:
            return _chosen(self.disk.frames(video, lambda: self._decoded(video)), numbers)
        if self.options.background == "none":
            return self._processed(video, (video.first + numbers).tolist())
        # The background is made of all frames before.
        return _chosen(self._processed(video, range(video.first, video.first + int(numbers[-1]) + 1)), numbers)

    def whole(self, video: "Video") -> Tensor:
        """Return all frames of a video, kept in memory from the first call on."""
        if video.video_id not in self._kept:
            self._kept[video.video_id] = self._decoded(video)
        return self._kept[video.video_id]

    def _decoded(self, video: "Video") -> Tensor:
        return self._processed(video, range(video.first, video.first + video.frames))

    def _processed(self, video: "Video", numbers: Sequence[int]) -> Tensor:
        o = self.options
        frames = decode(
            video.path, frames=numbers, facts=video.facts, size=o.size + o.margin, fit=o.fit, decoder=o.decoder
        )
        return subtract(grey(frames) if o.grayscale else frames, o.background)


def _chosen(video_TCHW: Tensor, numbers: np.ndarray) -> Tensor:
    """Return the frames that there are of `numbers`: a view where they are evenly spaced, else a copy."""
    numbers = numbers[: np.searchsorted(numbers, len(video_TCHW))]
    steps = np.diff(numbers)
    if len(steps) == 0 or (steps[0] > 0 and (steps == steps[0]).all()):
        step = int(steps[0]) if len(steps) else 1
        first = int(numbers[0]) if len(numbers) else 0
        return video_TCHW[first : first + step * len(numbers) : step]
    return video_TCHW[torch.from_numpy(numbers)]
