"""Writes small video files for the tests."""

import av
import numpy as np


def write_video(path, frames=20, height=48, width=64, value=None, codec="mpeg4", gop=8):
    """Write a clip whose frame t is grey level 10 t (or `value`) with a bright square that moves right."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = width, height, "yuv420p", gop
        stream.bit_rate = 4_000_000
        for t in range(frames):
            image = np.full((height, width, 3), 10 * t % 200 if value is None else value, np.uint8)
            image[8:24, 2 * t % 48 : 2 * t % 48 + 16] = 250
            for packet in stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def truncate(path, share):
    """Keep the first `share` of a file's bytes."""
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    return path
