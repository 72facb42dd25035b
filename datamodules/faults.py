"""Videos that cannot be used: training leaves them out and says so, an evaluation refuses them and lists them.

    known from the table         skip (fit), refuse (validate, test): before anything is trained or scored
    found while training         Fault instead of an item -> left out of its batch, never replaced, counted, warned once

    items     clip  Fault  clip  clip             Fault  Fault
    batch     clip         clip  clip             (a batch of no clips)

A batch that has lost all of its clips stays, empty: Lightning counts batches against the loader's length, so that
without it an epoch would end without validation, and a resumed one would not find its place.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from torch.utils.data import default_collate

from datamodules.decoding import VideoFacts

log = logging.getLogger(__name__)
_LISTED = 20
LISTS = Path(".skip-sideways")


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


def skip(faults: Sequence[str], split: str, kept: int) -> None:
    """Log how many videos a fit leaves out and which; ValueError where none is left of them."""
    if faults and not kept:
        purpose = "train" if split == "train" else "validate"
        raise ValueError(f"no video left to {purpose} on, {len(faults)} cannot be used:\n{_listed(faults, split)}")
    if split == "train" and not kept:
        raise ValueError("no video to train on: the training split is empty")
    if faults:
        broken = sum(line.startswith("broken") for line in faults)
        counts = f"{broken} broken, {len(faults) - broken} short"
        said = "training" if split == "train" else "validation while training"
        log.warning(
            "%s skips %d of %d videos: %s\n%s", said, len(faults), len(faults) + kept, counts, _listed(faults, split)
        )


def refuse(faults: Sequence[str], split: str, check: str) -> None:
    """Raise a ValueError with the list where a video of an evaluation cannot be used; `check`: a command to type."""
    if faults:
        raise ValueError(
            f"{len(faults)} videos of the {split} split cannot be used; a score without them would be of other data:\n"
            f"{_listed(faults, split)}\nMend them, or move them away so that they count as missing ({check}). Where "
            "they are short take a network of fewer units, a smaller --data.stride or a larger --data.fps."
        )


def _listed(faults: Sequence[str], split: str) -> str:
    """Return the first lines; where there are more, the whole list is in a file, which the last line names."""
    if len(faults) <= _LISTED:
        return "\n".join(f"  {line}" for line in faults)
    file = LISTS / f"unusable-{split}.txt"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join(faults) + "\n", encoding="utf-8", errors="surrogateescape")
        where = f": {file}"
    except OSError as error:
        where = f" (the list could not be written to {file}: {error.strerror})"
    return "\n".join([*(f"  {line}" for line in faults[:_LISTED]), f"  and {len(faults) - _LISTED} more{where}"])
