"""What the figures of predicted frames are by definition: a line under each table, and a warning where rows differ.

A run says it in its artifact `future_frames.json`, and its record keeps it. Of records that were made before they kept
it, the protocols are those of the scores' code, and the Frechet distance is said to have none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.comparison.measures import FRAME_METRICS

FRECHET = "frechet"
UNKNOWN = "not stated"

Records = Mapping[tuple[str, int, int], Mapping[str, Any]]


def protocol_facts(about: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what of a run's `future_frames.json` its record keeps."""
    return {name: dict(about[name]) for name in ("protocols", FRECHET) if about.get(name)} if about else {}


def protocol_line(records: Records, name: str) -> str:
    """Return the sentence for under a metric's table."""
    own = [record for record in records.values() if f"test/{name}" in record.get("metrics", {})]
    stated = [words for record in own if (words := _words(record, name))]
    texts = _extractors(own) if name == FRECHET else list(dict.fromkeys(stated)) or [_of_the_code(name)]
    return f"{FRAME_METRICS[name]}: {' / '.join(texts)}.\n"


def different_protocols(records: Records) -> list[str]:
    """Return a sentence for each metric that runs of a fold measured by another protocol, sample or extractor."""
    sentences = []
    for name in FRAME_METRICS:
        first: dict[int, tuple[str, str]] = {}
        for (row, fold, _), record in sorted(records.items()):
            words = _words(record, name) if record["status"] == "ok" else ""
            known_row, known = first.setdefault(fold, (row, words)) if words else ("", "")
            if words != known:
                sentences.append(
                    f"Fold {fold}: {FRAME_METRICS[name]} is not one measure: "
                    f"{known_row} has {known}, {row} has {words}."
                )
                break
    return sentences


def _words(record: Mapping[str, Any], name: str) -> str:
    if name == FRECHET:
        about = record.get(FRECHET)
        return f"extractor {about['extractor']}, {about['samples']} samples" if about else ""
    return str(record.get("protocols", {}).get(name, ""))


def _extractors(records: list[Mapping[str, Any]]) -> list[str]:
    """Return each extractor with its samples, a range where folds differ."""
    samples: dict[str, list[int]] = {}
    for about in (record[FRECHET] for record in records if FRECHET in record):
        samples.setdefault(str(about["extractor"]), []).append(int(about["samples"]))
    texts = []
    for extractor, counts in samples.items():
        least, most = min(counts), max(counts)
        texts.append(f"extractor {extractor}, {least if least == most else f'{least} to {most}'} samples a run")
    return texts or [f"extractor and samples {UNKNOWN}"]


def _of_the_code(name: str) -> str:
    # torch and its metrics take seconds to import, which tables of other tasks must not pay.
    from lightning_modules.metrics.frame_scores import PROTOCOLS

    return PROTOCOLS.get(name, UNKNOWN)
