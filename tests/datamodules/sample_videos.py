"""Writes small video files for the tests."""

from fractions import Fraction

import av
import numpy as np


def picture(t, height=48, width=64, value=None):
    """Return frame t: grey level 10 t (or `value`) with a bright square that moves right, (height, width, 3) uint8."""
    image = np.full((height, width, 3), 10 * t % 200 if value is None else value, np.uint8)
    image[8:24, 2 * t % 48 : 2 * t % 48 + 16] = 250
    return image


def write_video(
    path,
    frames=20,
    height=48,
    width=64,
    value=None,
    codec="mpeg4",
    gop=8,
    b_frames=None,
    stamps=None,
    rotation=0,
    options=None,
):
    """Write a clip of `picture`s.

    `stamps`: milliseconds of each frame, for a variable rate. `rotation`: degrees counterclockwise, in the header.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options or {})
        stream.width, stream.height, stream.gop_size = width, height, gop
        stream.pix_fmt = "yuv420p" if width % 2 == height % 2 == 0 else "yuv444p"
        stream.bit_rate = 4_000_000
        if b_frames is not None:
            stream.codec_context.max_b_frames = b_frames
        if stamps is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        if rotation:
            stream.set_display_rotation(rotation)
        for t in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(t, height, width, value), format="rgb24")
            if stamps is not None:
                frame.pts, frame.time_base = stamps[t], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_sound(path, seconds=1):
    """Write a file that holds a tone and no picture."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000 * seconds), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def truncate(path, share):
    """Keep the first `share` of a file's bytes."""
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    return path
