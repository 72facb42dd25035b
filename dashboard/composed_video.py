"""One looping video of a comparison: truth, baseline and runs side by side, their differences below, frame by frame.

    truth           copy last
    [   ]           [   ]
                    [ | |]      white: equal, black: a difference of the scale that the title names, or more
    skip-sideways   sideways
    [   ]           [   ]
    [ | |]          [ | |]

mp4 (H.264) where PyAV has an encoder, else GIF. Bounded: MAX_SIDE_PX wide or high, MAX_FRAMES long.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, cast

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dashboard.frame_strip import as_image
from dashboard.names import clean

if TYPE_CHECKING:
    from av.video.stream import VideoStream

TILE_PX = 192
GAP_PX = 8
TEXT_PX = 17  # on a telephone 390 px wide the video is drawn a little smaller
LINE_PX = TEXT_PX + 3
HEAD_PX = 2 * LINE_PX + 4
COLUMNS = 2
CONTROLS_PX = 48  # below the pictures, where players draw their controls
MAX_FRAMES = 300
_ENCODERS = ("libx264", "libopenh264")


@dataclass(frozen=True)
class Tile:
    """One picture of the comparison at one time: a name, the frame (C, H, W) or None, the difference below or None."""

    name: str
    frame_CHW: np.ndarray | None
    difference_1HW: np.ndarray | None = None


def compose(tiles: Sequence[Tile], titles: Sequence[str]) -> np.ndarray:
    """Return one frame of the video, RGB uint8 (height, width, 3), both even, COLUMNS tiles in a line.

    `titles` are the lines above. Without any difference there is no room for them.
    """
    font = ImageFont.load_default(TEXT_PX)
    rows = 2 if any(tile.difference_1HW is not None for tile in tiles) else 1
    tile_height = HEAD_PX + rows * (_height(tiles) + GAP_PX)
    above = len(titles) * LINE_PX + 2 * GAP_PX
    width = COLUMNS * (TILE_PX + GAP_PX) + GAP_PX
    page = Image.new("RGB", (width, above + -(-len(tiles) // COLUMNS) * tile_height + CONTROLS_PX), "white")
    draw = ImageDraw.Draw(page)
    for line, title in enumerate(titles):
        draw.text((GAP_PX, GAP_PX + line * LINE_PX), title, "black", font)
    for place, tile in enumerate(tiles):
        x = GAP_PX + place % COLUMNS * (TILE_PX + GAP_PX)
        y = above + place // COLUMNS * tile_height
        for line, text in enumerate(two_lines(tile.name, font)):
            draw.text((x, y + line * LINE_PX), text, "black", font)
        for row, picture in enumerate((tile.frame_CHW, tile.difference_1HW)):
            if picture is not None:
                page.paste(_enlarged(picture), (x, y + HEAD_PX + row * (_height(tiles) + GAP_PX)))
    return _even(np.asarray(page))


def _height(tiles: Sequence[Tile]) -> int:
    shapes = [tile.frame_CHW.shape for tile in tiles if tile.frame_CHW is not None]
    return min(round(TILE_PX * shapes[0][-2] / shapes[0][-1]), 4 * TILE_PX) if shapes else TILE_PX


def _enlarged(frame_CHW: np.ndarray) -> Image.Image:
    image = as_image(frame_CHW).convert("RGB")
    size = (TILE_PX, min(round(TILE_PX * image.height / image.width), 4 * TILE_PX))
    return image.resize(size, Image.Resampling.NEAREST if image.width < TILE_PX else Image.Resampling.BOX)


def two_lines(name: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    """Return a name as at most two lines that fit a tile, the rest cut; broken after `_`, `-` or a space if it can."""
    left, lines = clean(name), list[str]()
    while left and len(lines) < 2:
        fits = max((n for n in range(1, len(left) + 1) if font.getlength(left[:n]) <= TILE_PX), default=1)
        breaks = [n for n in range(1, fits + 1) if left[n - 1] in "_- "]
        length = fits if fits == len(left) or not breaks else breaks[-1]
        lines.append(left[:length])
        left = left[length:]
    return [*lines[:-1], lines[-1][:-1] + "…"] if left else lines


def _even(frame_HWC: np.ndarray) -> np.ndarray:
    height, width, _ = frame_HWC.shape  # H.264 halves the colours' size
    return np.pad(frame_HWC, ((0, height % 2), (0, width % 2), (0, 0)), constant_values=255)


def encode(frames: Sequence[np.ndarray], fps: float) -> tuple[bytes, str]:
    """Return the video and its kind, "video/mp4" or "image/gif". `frames`: RGB uint8 of one size, at least one."""
    frames = list(frames)[:MAX_FRAMES]
    encoder = h264_encoder()
    return (_mp4(frames, fps, encoder), "video/mp4") if encoder else (_gif(frames, fps), "image/gif")


def h264_encoder() -> str | None:
    """Return the name of a H.264 encoder of this PyAV, None where it has none."""
    import av

    for name in _ENCODERS:
        try:
            return str(av.codec.Codec(name, "w").name)
        except av.error.FFmpegError:
            continue
        except ValueError:  # PyAV's UnknownCodecError
            continue
    return None


def _mp4(frames: list[np.ndarray], fps: float, encoder: str) -> bytes:
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = cast("VideoStream", container.add_stream(encoder, rate=Fraction(fps).limit_denominator(1000)))
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def _gif(frames: list[np.ndarray], fps: float) -> bytes:
    first, *rest = (Image.fromarray(frame) for frame in frames)
    buffer = io.BytesIO()
    first.save(buffer, "GIF", save_all=True, append_images=rest, duration=round(1000 / fps), loop=0)
    return buffer.getvalue()
