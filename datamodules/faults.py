"""Videos that cannot be used: training skips them and says how many, an evaluation refuses them and lists them."""

import logging
from collections.abc import Sequence

from datamodules.clips import clip_length
from datamodules.index import IndexRow

log = logging.getLogger(__name__)
_LISTED = 20


def fault(row: IndexRow, *, frames: int, stride: int, min_frames: int) -> str:
    """Return why clips cannot be taken from a video, or ""."""
    if row.facts.problem:
        return f"broken: {row.path}: {row.facts.problem}"
    length = clip_length(row.facts.frames, frames, stride)
    if length < min_frames:
        return f"short: {row.path}: {row.facts.frames} frames, {length} at stride {stride}, needed {min_frames}"
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
            "fewer units or a smaller --data.stride where they are short."
        )


def _listed(faults: Sequence[str]) -> str:
    more = [f"  and {len(faults) - _LISTED} more"] if len(faults) > _LISTED else []
    return "\n".join([f"  {line}" for line in faults[:_LISTED]] + more)
