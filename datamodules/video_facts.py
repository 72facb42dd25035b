"""What is known of a video file once it was read, and the error for a file that cannot be."""

from dataclasses import dataclass

import numpy as np

from datamodules import frame_times

DECODED, SCANNED = "decoded", "scanned"


class DecodingError(ValueError):
    """A video file that cannot be decoded; says which file, how far it got and why."""


@dataclass(frozen=True, slots=True)
class VideoFacts:
    """What reading a whole file shows.

    Args:
        frames: that decode.
        fps: frames a second, on average; 0 where the file does not say.
        width: as shown, after rotation.
        height: as shown, after rotation.
        rotation: degrees that the stored picture is turned by, counterclockwise, to be shown: 0, 90, 180 or 270.
        duration_s: seconds.
        time_base: seconds a tick, as "1/12800"; "" where unknown.
        pts: presentation stamps of the frames as text (frame_times.py); "" where unknown or not increasing.
        checked: "decoded" (every frame) or "scanned" (packets only).
        problem: why it cannot be used, or "".
    """

    frames: int = 0
    fps: float = 0.0
    width: int = 0
    height: int = 0
    rotation: int = 0
    duration_s: float = 0.0
    time_base: str = ""
    pts: str = ""
    checked: str = DECODED
    problem: str = ""

    def times_s(self) -> np.ndarray:
        """Return the seconds from the first frame to each, float64 (frames,); n / fps where the stamps are unknown."""
        if self.pts:
            return frame_times.seconds(frame_times.from_text(self.pts), self.time_base)
        if not self.fps:
            raise ValueError("the file states neither time stamps nor a frame rate: its frames have no times")
        return np.arange(self.frames) / self.fps

    @property
    def variable_rate(self) -> bool:
        """Whether the frames' distances in time differ by more than rounding."""
        return frame_times.varies(frame_times.from_text(self.pts))
