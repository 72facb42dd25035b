"""torchcodec (optional): frames by their number, resized inside the decoder.

It numbers frames by the sorted stamps of the file's packets. That is right where the table has stamps; where it has
none (AVI with packed B-frames swaps them), or where torchcodec cannot read a file, PyAV does, and says what is wrong.
"""

import functools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from datamodules import frame_times
from datamodules.decoders.pictures import scaled_size
from datamodules.decoders.pyav_decoder import decode_pyav
from datamodules.probing import probe
from datamodules.video_facts import DecodingError, VideoFacts

# Streams whose stamps are guesses after a seek; see pyav_decoder.py.
_NOT_SEEKABLE = (".mpg", ".mpeg", ".ts")
log = logging.getLogger(__name__)


@functools.cache
def torchcodec_problem() -> str:
    """Return why torchcodec cannot be used here, in one line, or ""."""
    try:
        import torchcodec.decoders  # noqa: F401  (the import is the test: it loads ffmpeg's libraries)
    except ImportError:
        return 'not installed: pip install "skip-sideways[torchcodec]"'
    except (OSError, RuntimeError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return f"does not load, it needs ffmpeg's libraries and a torch of its own build: {first}"
    return ""


def decode_torchcodec(
    path: Path,
    *,
    frames: Sequence[int] | None = None,
    facts: VideoFacts | None = None,
    size: int | None = None,
    fit: str = "crop",
) -> Tensor:
    """Decode with torchcodec; see `decode`. RuntimeError where the package does not work."""
    if torchcodec_problem():
        raise RuntimeError(f"decoder torchcodec: {torchcodec_problem()}. Or take --data.decoder pyav.")
    facts = probe(path, "scan") if facts is None else facts
    stamps = frame_times.from_text(facts.pts)
    numbers = [number for number in (range(len(stamps)) if frames is None else frames) if number < len(stamps)]
    if len(stamps) and not numbers:
        raise DecodingError(f"{path}: no frame decodes" + (f" from frame {frames[0]} on" if frames else ""))
    found = (
        frames_by_number(path, numbers, facts, size, fit)
        if numbers and path.suffix.lower() not in _NOT_SEEKABLE
        else None
    )
    return decode_pyav(path, frames=frames, facts=facts, size=size, fit=fit) if found is None else found


def frames_by_number(
    path: Path, numbers: list[int], facts: VideoFacts, size: int | None = None, fit: str = "crop"
) -> Tensor | None:
    """Return the frames, None where torchcodec fails or gives others than those of the table."""
    from lightning_modules.compat import ensure_torchvision

    ensure_torchvision()
    from torchcodec.decoders import VideoDecoder
    from torchcodec.transforms import Resize

    shape = scaled_size(facts.height, facts.width, size, fit)
    resize: list[Any] = [Resize(shape)] if size is not None else []
    try:
        decoder = VideoDecoder(str(path), num_ffmpeg_threads=1, device="cpu", transforms=resize)
        batch = decoder.get_frames_at(numbers)
    except (RuntimeError, ValueError, IndexError) as error:
        log.debug("torchcodec cannot read %s (%s); PyAV does", path, error)
        return None
    came = batch.pts_seconds - _tick_s(facts) * float(frame_times.from_text(facts.pts)[0])
    expected = torch.from_numpy(facts.times_s()[numbers])
    if batch.data.shape[-2:] != shape or not torch.allclose(came, expected, rtol=0, atol=_tick_s(facts) / 2):
        log.debug("torchcodec's frames of %s are not those of the table; PyAV reads it", path)
        return None
    return batch.data.contiguous()


def _tick_s(facts: VideoFacts) -> float:
    ticks, per_second = facts.time_base.split("/")
    return int(ticks) / int(per_second)
