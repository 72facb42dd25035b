"""Which videos a line's accuracy is of: found of expected, and the hash of the official list. No Streamlit, no MLflow.

Runs made before these tags existed, and generated data, have none: their cells are blank.
"""

from __future__ import annotations

import re

import pandas as pd

from dashboard.names import code

_ORDER = ("test", "val", "train")
_DIGITS = 8


def counts(text: object) -> dict[str, int]:
    """Return the videos by split of a tag such as `9537 train, 3783 test`; empty for a blank one."""
    return {split: int(number) for number, split in re.findall(r"(\d+) (\w+)", text if isinstance(text, str) else "")}


def videos(runs: pd.DataFrame) -> str:
    """Return `3783/3783 test, 9537/9537 train`: found of expected, summed over the folds of the runs of one line."""
    newest = runs.sort_values("started", kind="stable").drop_duplicates("fold", keep="last")
    found, expected = (_total(newest[name]) for name in ("data_found", "data_expected"))
    splits = [split for split in _ORDER if split in found or split in expected]
    return ", ".join(f"{found.get(split, 0)}{_of(expected, split)} {split}" for split in splits)


def _total(tags: pd.Series) -> dict[str, int]:
    each = [counts(tag) for tag in tags]
    return {split: sum(one.get(split, 0) for one in each) for split in _ORDER if any(split in one for one in each)}


def _of(expected: dict[str, int], split: str) -> str:
    return f"/{expected[split]}" if split in expected else ""


def hashes(runs: pd.DataFrame) -> str:
    """Return the first digits of the id-list hash of each fold, in the order of the folds."""
    known = runs.dropna(subset=["id_hash"]).sort_values("fold")
    return " ".join(dict.fromkeys(str(value)[:_DIGITS] for value in known["id_hash"]))


def mixed(runs: pd.DataFrame) -> list[str]:
    """Return a sentence for each line of which one fold has runs on different videos: one mean of two things."""
    sentences = []
    for (line, fold), group in runs.groupby(["line", "fold"], dropna=False):
        for column, what in (("id_hash", "id lists"), ("data_found", "numbers of videos found")):
            values = list(dict.fromkeys(group[column].fillna("none stated")))
            if len(values) > 1:
                named = "; ".join(map(code, values))
                sentences.append(f"{code(line)}: fold {fold} has runs on different {what} ({named}) in one mean.")
    return sentences
