"""The frames of one video from the first to the last, a stretch at a time: any length in the same memory.

    file      |............................................................|
    decoded   |-------------------|-------------------|                         stretches of at most 16 MiB
    asked for       piece  piece  piece -->

A stretch is decoded by one call, which begins at a key frame: the larger it is, the less is decoded twice.
"""

import numpy as np
import torch
from torch import Tensor

from datamodules.background import Subtraction
from datamodules.decoding import decode
from datamodules.streams import whole_video
from datamodules.transforms import grey
from datamodules.video_dataset import ClipOptions, Video

STRETCH_BYTES = 16 * 2**20


class ForwardStore:
    """Gives frames of one video at the training size, uint8, as a FrameStore does, in ascending order only.

    Args:
        options: what a clip looks like.
        video: with facts.
        stretch_bytes: largest size of a stretch; a piece that needs more gets it.
    """

    def __init__(self, options: ClipOptions, video: Video, stretch_bytes: int = STRETCH_BYTES) -> None:
        assert video.facts is not None
        self.options, self.video = options, video
        numbers = np.unique(whole_video(options, video))
        # A background is made of all frames, also of those between.
        self._wanted = numbers if options.background == "none" else np.arange(numbers[-1] + 1)
        facts, side = video.facts, options.size + options.margin
        long_side = side * max(facts.width, facts.height) // max(1, min(facts.width, facts.height))
        self._stretch = max(1, stretch_bytes // (3 * side * (side if options.fit == "squash" else long_side)))
        self._subtraction = Subtraction(options.background)
        self._held: list[Tensor] = []
        self._first = self._end = 0  # positions in `_wanted` that are held

    def frames(self, video: Video, numbers: np.ndarray) -> Tensor:
        """Return frames of the video, x_TCHW uint8; fewer than `numbers`, which ascend, where the file ends early."""
        assert video == self.video
        places = np.searchsorted(self._wanted, numbers)
        assert places[0] >= self._first, "frames are given once, in order"
        while self._end <= places[-1] and (more := self._decode()):
            self._end += more
        while self._held and self._first + len(self._held[0]) <= places[0]:
            self._first += len(self._held.pop(0))
        there = torch.from_numpy(places[: np.searchsorted(places, self._end)] - self._first)
        return torch.cat(self._held)[there]

    def _decode(self) -> int:
        """Hold the next stretch as well and return how many frames it has; 0 where the file is over."""
        o, next_ones = self.options, self._wanted[self._end : self._end + self._stretch]
        if not len(next_ones):
            return 0
        path, facts = self.video.path, self.video.facts
        numbers = (self.video.first + next_ones).tolist()
        frames = decode(path, frames=numbers, facts=facts, size=o.size + o.margin, fit=o.fit, decoder=o.decoder)
        if len(frames) < len(next_ones):
            self._wanted = self._wanted[: self._end + len(frames)]  # the file is over
        self._held.append(self._subtraction(grey(frames) if o.grayscale else frames))
        return len(frames)
