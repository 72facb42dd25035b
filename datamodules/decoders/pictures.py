"""From decoded pictures to frames: scaled while the colours are converted, upright, one array for the whole clip.

    yuv (h, w) --swscale--> planar RGB at the training size --> turned upright --> out[i]   uint8 (3, H, W)

Planes and not packed RGB: swscale's planar path takes about half the time and interpolates the colour of every pixel.
"""

from typing import Any

import av
import numpy as np
import torch
from torch import Tensor

FITS = ("crop", "squash")
_PLANES_OF_RGB = (2, 0, 1)  # in a gbrp picture


def scaled_size(height: int, width: int, size: int | None, fit: str) -> tuple[int, int]:
    """Return (height, width) after scaling: short side to `size` ("crop") or both sides ("squash")."""
    if fit not in FITS:
        raise ValueError(f"fit {fit!r}: expected one of {', '.join(FITS)}")
    if size is None:
        return height, width
    if fit == "squash":
        return size, size
    short = min(height, width)
    return max(size, round(height * size / short)), max(size, round(width * size / short))


class Pictures:
    """Collects the frames of one clip as uint8 (n, 3, H, W).

    Args:
        height: of the stored picture.
        width: of the stored picture. Pictures of another size, in files where it changes, are brought to this one.
        count: frames at most.
        size: see `scaled_size`; None keeps the file's size.
        fit: "crop" or "squash".
    """

    def __init__(self, height: int, width: int, count: int, size: int | None, fit: str) -> None:
        self._stored, self._size, self._fit, self._count = (height, width), size, fit, count
        self._reformatter = av.video.reformatter.VideoReformatter()
        self._frames: np.ndarray | None = None
        self._filled = 0

    def add(self, picture: Any, times: int = 1) -> None:
        """Convert one decoded picture and store it `times` times."""
        image = self._upright(picture)
        if self._frames is None:
            self._frames = np.empty((self._count, *image.shape), np.uint8)
        if self._filled + times > len(self._frames):  # a file with more frames than its header says
            self._frames = np.concatenate([self._frames, np.empty_like(self._frames)])
        self._frames[self._filled : self._filled + times] = image
        self._filled += times

    def __len__(self) -> int:
        return self._filled

    def tensor(self) -> Tensor:
        """Return the frames so far; ValueError where there is none."""
        if self._frames is None:
            raise ValueError("no frame was added")
        return torch.from_numpy(self._frames[: self._filled])

    def _upright(self, picture: Any) -> np.ndarray:
        """Return the picture scaled and turned, (3, H, W)."""
        turn = quarter_turns(picture)
        height, width = self._stored
        if turn % 2:
            width, height = scaled_size(width, height, self._size, self._fit)
        else:
            height, width = scaled_size(height, width, self._size, self._fit)
        image = self._rgb(picture, height, width)
        return np.rot90(image, turn, axes=(1, 2)) if turn else image

    def _rgb(self, picture: Any, height: int, width: int) -> np.ndarray:
        """Return a (3, H, W) view of the picture in RGB."""
        as_it_is = (picture.height, picture.width) == (height, width)
        # One thread: the loader has its own processes. Without scaling swscale has a faster way to packed RGB.
        form = "rgb24" if as_it_is else "gbrp"
        rgb = self._reformatter.reformat(picture, width=width, height=height, format=form, threads=1)
        if as_it_is:
            return rgb.to_ndarray().transpose(2, 0, 1)
        planes = (rgb.planes[number] for number in _PLANES_OF_RGB)
        return np.stack(
            [np.frombuffer(memoryview(p), np.uint8).reshape(height, p.line_size)[:, :width] for p in planes]
        )


def quarter_turns(picture: Any) -> int:
    """Return how many quarter turns counterclockwise bring the stored picture upright (its display matrix)."""
    return round(picture.rotation / 90) % 4
