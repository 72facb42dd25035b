"""Nested configurations: dotted keys, merging of overrides, and the hash that tells whether a cell has changed."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any

import yaml

# What a LightningCLI fit configuration may hold. `null` optimisers and schedulers are written by --print_config.
TOP_LEVEL_KEYS = (
    "seed_everything",
    "trainer",
    "model",
    "data",
    "checkpoint",
    "experiment",
    "optimizer",
    "lr_scheduler",
    "ckpt_path",
    "weights_only",
)
CLASS_KEYS = ("class_path", "init_args", "dict_kwargs")
# Where the data lies and who reads it: what changes no result must not make a finished cell another one.
WITHOUT_EFFECT = tuple(
    f"data.init_args.{name}" for name in ("root", "splits", "cache", "cache_dir", "num_workers", "jobs")
)


def nearest(name: str, valid: Mapping[str, Any] | list[str] | tuple[str, ...]) -> str:
    """The end of an error message: the closest valid name where there is one, and all valid names."""
    names = [str(key) for key in valid]
    close = get_close_matches(str(name), names, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}Valid: {', '.join(names)}"


def expand(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Overrides with dotted keys (`model.init_args.rule`) turned into nested ones; both forms may be mixed."""
    nested: dict[str, Any] = {}
    for key, value in overrides.items():
        leaf = expand(value) if isinstance(value, Mapping) else copy.deepcopy(value)
        for part in reversed(str(key).split(".")):
            leaf = {part: leaf}
        nested = merge(nested, leaf)
    return nested


def merge(base: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of `base` in which the leaves of the nested `overrides` are set.

    Where an override names another `class_path`, the old class's `init_args` are dropped: they belong to that class.
    """
    result = {key: copy.deepcopy(value) for key, value in base.items()}
    if "class_path" in overrides and result.get("class_path") not in (None, overrides["class_path"]):
        result.pop("init_args", None)
    for key, value in overrides.items():
        old = result.get(key)
        if isinstance(value, Mapping):
            result[key] = merge(old if isinstance(old, Mapping) else {}, value)
        else:
            result[key] = copy.deepcopy(value)
    return result


def apply_overrides(base: Mapping[str, Any], *layers: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with every layer of dotted or nested overrides applied in turn (the last wins)."""
    result = dict(base)
    for layer in layers:
        result = merge(result, expand(layer))
    return result


def given(words: Iterable[str]) -> dict[str, Any]:
    """Overrides written on the command line, KEY=VALUE each, the value as in YAML.

    >>> given(["data.init_args.root=/data/UCF-101", "trainer.max_epochs=2"])
    {'data.init_args.root': '/data/UCF-101', 'trainer.max_epochs': 2}
    """
    overrides = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not key or not equals:
            raise ValueError(f"--set {word}: expected KEY=VALUE, as in --set data.init_args.root=/data/UCF-101")
        overrides[key] = yaml.safe_load(value)
    return overrides


def flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, leaf value) pairs of a nested configuration, in its order."""
    for key, value in config.items():
        dotted = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{dotted}.")
        else:
            yield dotted, value


def get(config: Mapping[str, Any], dotted: str, default: Any = None) -> Any:
    """The value at a dotted key, or `default` where the path ends early."""
    node: Any = config
    for part in dotted.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return default
        node = node[part]
    return node


def check_experiment(config: Mapping[str, Any], where: str) -> None:
    """Refuse keys that no fit configuration has.

    Errors: ValueError with the nearest valid key. Names inside `init_args` are the class's own and are checked by it.
    """
    for key in config:
        if key not in TOP_LEVEL_KEYS:
            raise ValueError(f"{where}: unknown key {key!r}; {nearest(key, TOP_LEVEL_KEYS)}")
    for part in ("model", "data"):
        node = config.get(part)
        if not isinstance(node, Mapping) or "class_path" not in node:
            raise ValueError(f"{where}: {part!r} must hold a class_path (and init_args); got {node!r}")
        for key in node:
            if key not in CLASS_KEYS:
                raise ValueError(f"{where}: unknown key '{part}.{key}'; {nearest(key, CLASS_KEYS)}")


def config_hash(config: Mapping[str, Any]) -> str:
    """sha256 (16 hex digits) of a configuration without what has no effect, whatever the order of its keys."""
    kept = expand({key: value for key, value in flatten(config) if key not in WITHOUT_EFFECT})
    text = json.dumps(kept, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """One line for every leaf that differs: `key: was OLD, is NEW`."""
    before, after = dict(flatten(old)), dict(flatten(new))
    keys = list(dict.fromkeys([*before, *after]))
    absent = "(absent)"
    return [
        f"{key}: was {before.get(key, absent)}, is {after.get(key, absent)}"
        for key in keys
        if before.get(key, absent) != after.get(key, absent)
    ]
