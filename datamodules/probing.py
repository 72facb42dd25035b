"""What a video file holds, found by reading it: headers lie.

    probe(path)                    decodes every frame: exact count, exact stamps
    probe(path, check="scan")      reads the packets only, and the first frames to see that the packets tell the truth:
                                   a hundred times faster, for sets of hundreds of thousands of videos

A scan's stamps are taken as unknown where packets are no frames: in AVI (packed B-frames, empty packets) and VP8
(pictures that are never shown).
"""

from dataclasses import replace
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import av

from datamodules import frame_times
from datamodules.decoders.pictures import quarter_turns
from datamodules.decoders.pyav_files import all_frames, opened
from datamodules.video_facts import DECODED, SCANNED, DecodingError, VideoFacts

CHECKS = {"decode": DECODED, "scan": SCANNED}
# HMDB51's headers claim one frame more than decodes; a file cut short lacks many.
_HEADER_SLACK = 2
_HEADER_SLACK_SHARE = 0.02
_HEADER_SLACK_S = 0.5
_FRAMES_TO_COMPARE = 8


def probe(path: Path, check: str = "decode") -> VideoFacts:
    """Read a whole file and return what it holds; never raises for a broken file.

    Args:
        path: the file.
        check: "decode" every frame, or "scan" the packets.
    """
    if check not in CHECKS:
        raise ValueError(f"check {check!r}: expected one of {', '.join(CHECKS)}")
    reading = _Reading(VideoFacts(checked=CHECKS[check]))
    try:
        with opened(path) as stream:
            reading.header(stream)
            (reading.decode if check == "decode" else reading.scan)(path, stream)
    except DecodingError as error:
        return reading.facts(str(error).removeprefix(f"{path}: "))
    return reading.facts("")


class _Reading:
    """What was seen of a file so far, so that a broken one still says how far it got."""

    def __init__(self, blank: VideoFacts) -> None:
        self._facts, self._trusted = blank, True
        self._stamps: list[Any] = []
        self._claimed_frames, self._claimed_s = 0, 0.0

    def header(self, stream: Any) -> None:
        """Note what the header says."""
        base = f"{stream.time_base}" if stream.time_base else ""
        fps = float(stream.average_rate or 0)
        self._facts = replace(self._facts, fps=fps, width=stream.width, height=stream.height, time_base=base)
        self._claimed_frames, self._claimed_s = stream.frames, _claimed_seconds(stream)

    def decode(self, path: Path, stream: Any) -> None:
        """Note the stamps of all frames."""
        for frame in all_frames(path, stream):
            if not self._stamps:
                self._turn(frame)
            self._stamps.append(frame.pts)

    def scan(self, path: Path, stream: Any) -> None:
        """Note the stamps of all packets, and whether the first frames agree with them."""
        try:
            packets = [(packet.pts, packet.is_keyframe) for packet in stream.container.demux(stream) if _shown(packet)]
        except (OSError, ValueError, av.FFmpegError) as error:
            raise DecodingError(f"{path}: broken: {error}") from error
        first_key = next((number for number, (_, key) in enumerate(packets) if key), len(packets))
        self._stamps = [stamp for stamp, _ in packets[first_key:]]
        if None not in self._stamps:
            self._stamps.sort()
        with opened(path) as again:
            first = list(islice(all_frames(path, again), _FRAMES_TO_COMPARE))
            if first:
                self._turn(first[0])
        frames_are_packets = "avi" not in stream.container.format.name and stream.codec_context.name != "vp8"
        agree = [frame.pts for frame in first] == self._stamps[: len(first)]
        self._trusted = bool(first) and frames_are_packets and agree
        if not first:
            self._stamps = []

    def _turn(self, frame: Any) -> None:
        turns, facts = quarter_turns(frame), self._facts
        shown = (facts.height, facts.width) if turns % 2 else (facts.width, facts.height)
        self._facts = replace(facts, rotation=90 * turns, width=shown[0], height=shown[1])

    def facts(self, problem: str) -> VideoFacts:
        """Return what is known; `problem`: what stopped the reading, or ""."""
        frames = len(self._stamps)
        pts = frame_times.to_text(self._stamps) if self._trusted and self._facts.time_base else ""
        facts = replace(self._facts, frames=frames, pts=pts)
        if pts and not facts.fps and frames > 1:
            facts = replace(facts, fps=(frames - 1) / facts.times_s()[-1])
        seconds = _seconds(facts)
        return replace(facts, duration_s=round(seconds, 3), problem=problem or self._missing(frames, seconds))

    def _missing(self, frames: int, seconds: float) -> str:
        if not frames:
            return "no frame decodes"
        claimed, claimed_s = self._claimed_frames, self._claimed_s
        if claimed - frames > max(_HEADER_SLACK, _HEADER_SLACK_SHARE * claimed):
            return f"ends early: the header says {claimed} frames, {frames} decode"
        if not claimed and claimed_s - seconds > max(_HEADER_SLACK_S, _HEADER_SLACK_SHARE * claimed_s):
            return f"ends early: the header says {claimed_s:.1f} s, the frames end after {seconds:.1f} s"
        return ""


def _shown(packet: Any) -> bool:
    """Whether a packet holds a picture of the video: not the empty one at the end, nor one that an edit list cuts."""
    return bool(packet.size) and not packet.is_discard


def _claimed_seconds(stream: Any) -> float:
    """Return how long the header says that the pictures last; 0 where it does not say."""
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    parts = (stream.metadata.get("DURATION") or "").split(":")  # Matroska: 00:00:10.040000000
    if len(parts) == 3:
        return float(sum(Fraction(part) * 60**power for part, power in zip(parts, (2, 1, 0), strict=True)))
    alone = len(stream.container.streams) == 1 and stream.container.duration
    return stream.container.duration / av.time_base if alone else 0.0


def _seconds(facts: VideoFacts) -> float:
    """Return the time from the first frame's start to the last one's end."""
    step = 1 / facts.fps if facts.fps else 0.0
    return float(facts.times_s()[-1]) + step if facts.pts else facts.frames * step
