"""The experiment with a trial's values, and without those that belong to choices the trial did not take."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from app.comparison.overrides import apply_overrides, expand


def with_values(config: Mapping[str, Any], keys: Iterable[str], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the nested `config` with a trial's `values` (dotted key to value).

    `keys`: all of the space. One that the trial has no value for is taken out of the experiment, so that the class's
    default holds: the experiment's `lag_strength` means nothing where a trial chose `lag_scaling: off`, and is refused.

    >>> with_values({"model": {"law": "inverse", "strength": 2}}, ["model.law", "model.strength"], {"model.law": "off"})
    {'model': {'law': 'off'}}
    """
    base = expand(config)
    for key in keys:
        if key not in values:
            _remove(base, key)
    return apply_overrides(base, values)


def _remove(config: dict[str, Any], dotted: str) -> None:
    *path, last = dotted.split(".")
    node: Any = config
    for part in path:
        node = node.get(part) if isinstance(node, dict) else None
    if isinstance(node, dict):
        node.pop(last, None)
