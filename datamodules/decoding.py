"""Video files to frames, behind one function: PyAV, torchcodec where it is installed, pytorchvideo to compare.

    decode(path, frames=range(8, 24), facts=row.facts, size=112) -> video_TCHW uint8 in [0, 255]

Frame n is the n-th that decodes, in every container and with every backend. With the facts of the index a decoder
seeks by exact stamps; without them it reads from the beginning and counts, and gives the same frames.
Files are opened in the process that uses them, on one thread, and closed before a function returns.
"""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Protocol

from torch import Tensor

from datamodules.decoders.pictures import FITS, scaled_size
from datamodules.decoders.pyav_decoder import decode_pyav
from datamodules.decoders.pytorchvideo_decoder import decode_pytorchvideo
from datamodules.decoders.torchcodec_decoder import decode_torchcodec, torchcodec_problem
from datamodules.probing import probe
from datamodules.video_facts import DecodingError, VideoFacts

__all__ = [
    "DECODERS",
    "FITS",
    "DecodingError",
    "VideoFacts",
    "decode",
    "probe",
    "resolve_decoder",
    "scaled_size",
    "torchcodec_problem",
]


class Decoder(Protocol):
    """A decoding backend."""

    def __call__(
        self,
        path: Path,
        *,
        frames: Sequence[int] | None = None,
        facts: VideoFacts | None = None,
        size: int | None = None,
        fit: str = "crop",
    ) -> Tensor:
        """Return video_TCHW uint8 RGB, upright; see `decode`."""
        ...


DECODERS: dict[str, Decoder] = {
    "pyav": decode_pyav,
    "torchcodec": decode_torchcodec,
    "pytorchvideo": decode_pytorchvideo,
}


_FASTEST = "pyav"


def resolve_decoder(name: str) -> str:
    """Return the backend that `name` means: itself, or the one that "auto" takes.

    "auto" is PyAV, the fastest on all files that were measured (benchmarks/loader): 1.4 to 1.9 times torchcodec's clips
    per CPU second. Given the table's stamps it seeks at once, where torchcodec reads all packets of a file at each
    opening, and it leaves out frames that no frame asked for needs. It is a dependency, so it works everywhere.
    """
    if name == "auto":
        return _FASTEST
    if name not in DECODERS:
        raise ValueError(f"decoder {name!r}: expected auto or one of {', '.join(DECODERS)}")
    return name


def decode(
    path: Path,
    *,
    frames: Sequence[int] | None = None,
    facts: VideoFacts | None = None,
    size: int | None = None,
    fit: str = "crop",
    decoder: str = "auto",
) -> Tensor:
    """Return frames of a video, video_TCHW uint8 RGB, upright.

    Args:
        path: the file.
        frames: ascending frame numbers, repeats allowed; None: all. Numbers at or beyond the end are left out.
        facts: what the index knows of the file; with it the decoder seeks. The frames are the same without it.
        size: None keeps the file's size; fit "crop" scales the short side to it, "squash" both sides.
        fit: "crop" or "squash".
        decoder: "auto", "pyav", "torchcodec" or "pytorchvideo".

    Raises:
        DecodingError: the file is broken before the last frame asked for, or holds none of them.
        ValueError: an unknown decoder or fit, or frame numbers that are negative, none, or not ascending.
    """
    backend = DECODERS[resolve_decoder(decoder)]
    if frames is not None and (not len(frames) or frames[0] < 0 or any(a > b for a, b in pairwise(frames))):
        raise ValueError(f"frames {list(frames)[:8]}: expected one or more frame numbers >= 0 in ascending order")
    return backend(Path(path), frames=frames, facts=facts, size=size, fit=fit)
