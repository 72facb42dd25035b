"""What a checkpoint is scored on, beside what its run was to be scored on.

the same videos, clips and rule          same MLflow run
other clips, views or videos             a run of its own, of kind `evaluation`; the same command finds it again
another fold of the same split           refused: the checkpoint was trained on these videos
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_SAME = ("dataset", "split", "fold", "data_hash", "rule")
_SAME_WHERE_KNOWN = ("views", "id_hash")  # checkpoints of older versions have neither
# What changes no score: where the videos lie, who reads them how fast, and lists whose content the hashes tell.
_NOT_SCORED = {
    *("root", "index", "splits", "split_csv", "train_list", "val_list", "test_list", "label_map", "allow_missing"),
    *("num_workers", "jobs", "cache", "cache_dir", "decoder", "batch_size"),
    *("seed", "flip", "crop_scale", "augmentations", "augment", "clips_per_video"),  # of training clips
    *("train_streams", "val_streams", "stagger"),  # of long streams; `data_hash` tells those of the validation
}
# What divides a set of videos, so that another value scores on videos of training.
_SPLIT_TEST = ("split_seed", "test_fraction", "group_pattern")
_SPLIT_VAL = ("val_fraction", "val_group", "val_person", "val_images")


def scored_arguments(data_init: Mapping[str, Any]) -> dict[str, Any]:
    """Return the data arguments that can change a score, plain values: what a checkpoint keeps of them."""
    return {name: value for name, value in data_init.items() if name not in _NOT_SCORED}


def same_score(card: Mapping[str, Any], layout: Mapping[str, str], scored: Mapping[str, Any]) -> bool:
    """Return whether a score is of what the checkpoint's own run is to be scored on.

    `card`: the checkpoint's. `layout`, `scored`: of this launch. A checkpoint that does not keep its data arguments has
    those of its clips; what it does not know is not compared.
    """
    before = card.get("layout") or {}
    if any(before.get(key) != layout[key] for key in _SAME):
        return False
    if any(before.get(key, layout[key]) != layout[key] for key in _SAME_WHERE_KNOWN):
        return False
    arguments = _arguments(card)
    return all(arguments[name] == value for name, value in scored.items() if name in arguments)


def evaluation_id(card: Mapping[str, Any], step: int, layout: Mapping[str, str], scored: Mapping[str, Any]) -> str:
    """Return 16 hex digits of weights, data and code: the same command has the same."""
    about = {key: layout[key] for key in (*_SAME, *_SAME_WHERE_KNOWN, "git_sha")}
    weights = [card.get("run_id"), card.get("run_name"), step]
    return hashlib.sha256(json.dumps([weights, about, scored], sort_keys=True).encode()).hexdigest()[:16]


def refuse_seen_videos(
    path: Path,
    card: Mapping[str, Any],
    layout: Mapping[str, str],
    scored: Mapping[str, Any],
    classes: Sequence[str],
    command: str = "test",
) -> None:
    """Refuse the checkpoint's own data, split otherwise: it has learnt from some of what it would be scored on.

    Raises:
        ValueError: says which fold it was trained on and what to type.
    """
    before, names = card.get("layout") or {}, (card.get("data") or {}).get("class_names")
    if any(before.get(key) != layout[key] for key in ("dataset", "split")) or names not in (None, list(classes)):
        return
    arguments = _arguments(card)
    names_of_splits = _SPLIT_TEST if command == "test" else (*_SPLIT_TEST, *_SPLIT_VAL)
    old = {"fold": before.get("fold")} | {name: arguments[name] for name in names_of_splits if name in arguments}
    new = {"fold": layout["fold"], **scored}
    for name, was in old.items():
        value = new.get(name, was)
        if str(value) != str(was):
            raise ValueError(
                f"--ckpt_path {path} was trained on {name} {was} of {layout['dataset']} ({layout['split']}); "
                f"videos that {name} {value} scores on were among its training videos. Give --data.{name} {was}, or a "
                f"checkpoint trained on {name} {value}."
            )


def _arguments(card: Mapping[str, Any]) -> dict[str, Any]:
    """Return the data arguments that a checkpoint knows."""
    if "scored" in card:
        return dict(card["scored"])
    kept = card.get("data") or {}
    known = {name: kept[name] for name in ("views",) if name in kept} | (kept.get("clip_options") or {})
    return scored_arguments(known)
