"""Doctor's decoder self-test: writes a small clip, decodes it and compares. Frames are (H, W, 3) uint8 RGB."""

import tempfile
from pathlib import Path
from typing import Any

FRAMES, HEIGHT, WIDTH = 20, 48, 64
# Mean absolute difference per frame that lossy coding may make; H.264 makes about 2, a frame shifted by one 6 or more.
MAX_DIFFERENCE_LEVELS = 4.0


def decode_written_clip() -> str:
    """Return one line about the round trip; raise RuntimeError where count or content of the frames differ."""
    import av

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        written, codec = _write_clip(path)
        with av.open(str(path)) as container:
            decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    if len(decoded) != len(written):
        raise RuntimeError(f"wrote {len(written)} {codec} frames and decoded {len(decoded)}")
    levels = max(float(abs(a.astype(int) - b).mean()) for a, b in zip(written, decoded, strict=True))
    if levels > MAX_DIFFERENCE_LEVELS:
        raise RuntimeError(f"decoded {codec} frames differ from the written ones by {levels:.1f} of 255 levels")
    return f"{len(decoded)} {codec} frames there and back, {levels:.1f} levels apart (PyAV {av.__version__})"


def decode_with_torchcodec() -> str:
    """Return one line about reading the clip with torchcodec; RuntimeError where its frames are not PyAV's."""
    from importlib.metadata import version

    import torch

    from datamodules.decoders.torchcodec_decoder import frames_by_number
    from datamodules.decoding import decode, probe

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        _write_clip(path)
        frames = frames_by_number(path, list(range(FRAMES)), probe(path))
        expected = decode(path, decoder="pyav")
    if frames is None or not torch.equal(frames, expected):
        raise RuntimeError("its frames are not those that PyAV decodes")
    return f"{version('torchcodec')} decodes {FRAMES} frames as PyAV does"


def decode_with_pytorchvideo() -> str:
    """Return one line about reading the clip with pytorchvideo's EncodedVideo."""
    from lightning_modules.compat import ensure_pytorchvideo

    ensure_pytorchvideo()
    from pytorchvideo.data.encoded_video import EncodedVideo

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        _write_clip(path)
        video = EncodedVideo.from_path(path, decode_audio=False, decoder="pyav")
        frames_CTHW = video.get_clip(0, video.duration)["video"]
        video.close()  # one left open deadlocks forked workers
    if frames_CTHW.shape[1] != FRAMES:
        raise RuntimeError(f"wrote {FRAMES} frames and decoded {frames_CTHW.shape[1]}")
    return f"imports and decodes {FRAMES} frames"


def _write_clip(path: Path) -> tuple[list[Any], str]:
    """Write a bright bar that moves over a slope; return the frames and the codec's name."""
    import av

    frames = _moving_bar()
    codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return frames, codec


def _moving_bar() -> list[Any]:
    import numpy as np

    slope_HW = np.add.outer(np.arange(HEIGHT), np.arange(WIDTH)).astype(np.uint8)
    frames = [np.repeat(slope_HW[..., None], 3, axis=2) for _ in range(FRAMES)]
    for step, frame in enumerate(frames):
        frame[:, 2 * step : 2 * step + 16] = 200
    return frames
