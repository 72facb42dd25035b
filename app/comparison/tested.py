"""What the runs of a table were tested on, in words: views, videos found of those expected, and the id list.

    Test: 4 views x 1 crop of 64 frames at 25 fps
    Videos: fold 1: 9537 of 9537 train, 3783 of 3783 test (id list 0123abcd)

Runs of generated data, and those made before runs kept this, have none of it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from app.comparison.formats import numbers

FACTS = ("views", "id_hash", "data_found", "data_expected")  # of a run's layout, in a record where they are known
OF_THE_TASK = ("lmin", "horizon")  # of predicted frames: what the network has seen, how far it looks ahead
UNKNOWN = "not stated"
_DIGITS = 8

Record = Mapping[str, Any]
Records = Mapping[tuple[str, int, int], Record]


def facts(layout: Mapping[str, str]) -> dict[str, str]:
    """Return what of a run's layout its record keeps."""
    kept = (*FACTS, *OF_THE_TASK) if layout.get("horizon") else FACTS
    return {name: layout[name] for name in kept if layout.get(name)}


def tested_on(records: Records) -> list[str]:
    """Return the lines of the report; none where no run says what it was tested on."""
    known = _known(records)
    if not known:
        return []
    rows_of: dict[str, list[str]] = {}
    for (row, _, _), record in known.items():
        rows = rows_of.setdefault(record.get("views", UNKNOWN), [])
        rows += [] if row in rows else [row]
    if len(rows_of) == 1:
        tests = next(iter(rows_of))
    else:
        tests = "; ".join(f"{views} ({', '.join(rows)})" for views, rows in rows_of.items())
    lines = [f"Test: {tests}"]
    if any("data_found" in record for record in known.values()):
        lines.append(f"Videos: {_videos(known)}")
    return lines


def mixtures(records: Records) -> list[str]:
    """Return a sentence for each row, and each fold, whose runs were not tested on the same."""
    known = _known(records)
    sentences = []
    for row in dict.fromkeys(row for row, _, _ in known):
        own = {key: record for key, record in known.items() if key[0] == row}
        views = _values(own, lambda record: record.get("views", UNKNOWN))
        if len(views) > 1:
            sentences.append(f"Row {row} averages runs tested on {' and on '.join(views)}.")
    for fold in sorted({fold for _, fold, _ in known}):
        own = {key: record for key, record in known.items() if key[1] == fold}
        videos = _values(own, _test_videos)
        if len(videos) > 1:
            sentences.append(f"Fold {fold} compares runs tested on different videos: {'; '.join(videos)}.")
    return sentences


def _known(records: Records) -> Records:
    """Return the finished runs in the order of the keys; none where not one says what it was tested on."""
    finished = {key: record for key, record in sorted(records.items()) if record["status"] == "ok"}
    return finished if any(name in record for record in finished.values() for name in FACTS) else {}


def _values(records: Records, value: Any) -> list[str]:
    return list(dict.fromkeys(value(record) for record in records.values()))


def _videos(records: Records) -> str:
    """Return the videos of each fold, folds with the same numbers together."""
    folds_of: dict[str, dict[int, None]] = {}
    lists: dict[int, list[str]] = {}
    for (_, fold, _), record in records.items():
        folds_of.setdefault(_found(record), {})[fold] = None
        name = record["id_hash"][:_DIGITS] if "id_hash" in record else UNKNOWN
        lists[fold] = list(dict.fromkeys([*lists.get(fold, []), name]))
    texts = []
    for found, folds in folds_of.items():
        ids = [name for fold in sorted(folds) for name in lists[fold]]
        word = "fold" if len(folds) == 1 else "folds"
        texts.append(f"{word} {numbers(list(folds))}: {found} (id list {' '.join(ids)})")
    return "; ".join(texts)


def _found(record: Record) -> str:
    """Return `9537 of 9537 train, 3783 of 3783 test`; without the expected number where there is none."""
    found, expected = _counts(record.get("data_found", "")), _counts(record.get("data_expected", ""))
    splits = dict.fromkeys([*found, *expected])
    words = [f"{found.get(s, 0)}{f' of {expected[s]}' if s in expected else ''} {s}" for s in splits]
    return ", ".join(words) or UNKNOWN


def _test_videos(record: Record) -> str:
    """Return what must agree between the runs of a fold; a folder of one's own is its own list, split and all."""
    if "data_found" not in record:
        return UNKNOWN
    found = f"{_counts(record['data_found']).get('test', 0)} found"
    return f"{found}, id list {record.get('id_hash', UNKNOWN)[:_DIGITS]}" if record.get("data_expected") else found


def _counts(text: str) -> dict[str, int]:
    return {split: int(number) for number, split in re.findall(r"(\d+) (\w+)", text)}
