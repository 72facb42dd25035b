"""Videos that cannot be used: training leaves them out and says so, an evaluation refuses them and lists them.

    known from the table         skip (training), refuse (validation, test): before anything is trained or scored
    found while training         Fault instead of an item -> left out of its batch, never replaced, counted, warned once

    items     clip  Fault  clip  clip             Fault  Fault
    batch     clip         clip  clip             (a batch of no clips)

A batch that has lost all of its clips stays, empty: Lightning counts batches against the loader's length, so that
without it an epoch would end without validation, and a resumed one would not find its place.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch.utils.data import default_collate

from datamodules.decoding import VideoFacts

log = logging.getLogger(__name__)
_LISTED = 20


@dataclass(frozen=True)
class Fault:
    """A training clip that could not be had: its video, why, and an item of its form without frames."""

    video_id: str
    reason: str
    form: dict[str, Any]


class Collated(NamedTuple):
    """A batch, and the faults of the items that it lacks."""

    batch: dict[str, Any]
    faults: list[tuple[str, str]]


def collate(items: Sequence[Any]) -> Any:
    """Return the batch of the items; beside the faults, where there are any, as Collated."""
    faults = [item for item in items if isinstance(item, Fault)]
    if not faults:
        return default_collate(list(items))
    whole = [item for item in items if not isinstance(item, Fault)]
    batch = default_collate(whole or [faults[0].form])
    if not whole:
        batch = {name: values[:0] for name, values in batch.items()}
    return Collated(batch, [(fault.video_id, fault.reason) for fault in faults])


def fault(path: str, facts: VideoFacts, *, frames: int, length: int, rate: str, min_frames: int) -> str:
    """Return why clips cannot be taken from a video, or "".

    `frames`: of the video. `length`: frames of its longest clip, chosen as `rate` says.
    """
    if facts.problem:
        return f"broken: {path}: {facts.problem}"
    if not frames:
        return f"broken: {path}: the file is over after {facts.duration_s:g} s, before the video's time range begins"
    if length < min_frames:
        chosen = f", {length} {rate}" if rate else ""
        return f"short: {path}: {frames} frames{chosen}, needed {min_frames}"
    return ""


def skip(faults: Sequence[str], kept: int) -> None:
    """Log how many training videos are left out and which; ValueError where none is left."""
    if not kept:
        raise ValueError(f"no video left to train on, {len(faults)} cannot be used:\n{_listed(faults)}")
    if faults:
        broken = sum(line.startswith("broken") for line in faults)
        counts = f"{broken} broken, {len(faults) - broken} short"
        log.warning("training skips %d of %d videos: %s\n%s", len(faults), len(faults) + kept, counts, _listed(faults))


def refuse(faults: Sequence[str], split: str) -> None:
    """Raise a ValueError with the list where a video of an evaluation cannot be used."""
    if faults:
        raise ValueError(
            f"{len(faults)} videos of the {split} split cannot be used; a score without them would be of other data:\n"
            f"{_listed(faults)}\nMend or remove them (skip-sideways data verify --root DIR), or take a network of "
            "fewer units, a smaller --data.stride or a larger --data.fps where they are short."
        )


def _listed(faults: Sequence[str]) -> str:
    more = [f"  and {len(faults) - _LISTED} more"] if len(faults) > _LISTED else []
    return "\n".join([f"  {line}" for line in faults[:_LISTED]] + more)
