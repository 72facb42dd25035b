"""pytorchvideo's EncodedVideo as a second opinion: whole file, then the frames asked for."""

from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
from torch import Tensor

from datamodules.decoders.pictures import Pictures, quarter_turns
from datamodules.decoders.pyav_files import all_frames, opened
from datamodules.video_facts import DecodingError, VideoFacts


def decode_pytorchvideo(
    path: Path,
    *,
    frames: Sequence[int] | None = None,
    facts: VideoFacts | None = None,
    size: int | None = None,
    fit: str = "crop",
) -> Tensor:
    """Decode with pytorchvideo; see `decode`. It cannot open files whose metadata is not UTF-8."""
    from lightning_modules.compat import ensure_pytorchvideo

    ensure_pytorchvideo()
    from pytorchvideo.data.encoded_video import EncodedVideo

    try:
        video = EncodedVideo.from_path(str(path), decode_audio=False, decoder="pyav")
    except (OSError, RuntimeError, UnicodeDecodeError, av.FFmpegError) as error:
        raise DecodingError(f"pytorchvideo cannot open {path}: {error}") from error
    try:
        clip_CTHW = video.get_clip(0, video.duration + 1)["video"]
    finally:
        video.close()
    if clip_CTHW is None:
        raise DecodingError(f"{path}: pytorchvideo decoded no frame")
    there = range(clip_CTHW.shape[1])
    numbers = list(there) if frames is None else [number for number in frames if number in there]
    if not numbers:
        raise DecodingError(f"{path}: no frame decodes" + (f" from frame {frames[0]} on" if frames else ""))
    turned = np.rot90(clip_CTHW[:, numbers].byte().numpy(), _turns(path, facts), axes=(2, 3))
    height, width = turned.shape[-2:]
    pictures = Pictures(height, width, len(numbers), size, fit)
    for image_HWC in turned.transpose(1, 2, 3, 0):
        pictures.add(av.VideoFrame.from_ndarray(np.ascontiguousarray(image_HWC), format="rgb24"))
    return pictures.tensor()


def _turns(path: Path, facts: VideoFacts | None) -> int:
    if facts is not None:
        return facts.rotation // 90
    with opened(path) as stream:
        return next((quarter_turns(frame) for frame in all_frames(path, stream)), 0)
