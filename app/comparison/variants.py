"""Variants: the same rows under several conditions (frame strides, learning rates), each compared within its own.

A comparison with rows a, b and variants x, y has the rows a@x, b@x, a@y, b@y; the control of a@x is CONTROL@x.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from app.comparison.overrides import apply_overrides, expand, get, nearest

if TYPE_CHECKING:
    from app.comparison.spec import Row

KEYS = ("name", "overrides", "scale")
MARK = "@"


def expand_rows(rows: Sequence[Row], variants: Sequence[Any]) -> tuple[Row, ...]:
    """Every row under every variant, variants outermost; the rows themselves where there are none.

    A variant is a mapping with a name, `overrides` (set) and `scale` (dotted key to factor: multiplies what the row
    then has, so that rows keep their own rates). Errors: ValueError for anything else.
    """
    if not variants:
        return tuple(rows)
    for index, variant in enumerate(variants):
        _check(variant, f"variants[{index}]")
    names = [str(variant["name"]) for variant in variants]
    if len(set(names)) < len(names):
        raise ValueError(f"variants: names given twice among {', '.join(names)}")
    return tuple(_vary(row, variant) for variant in variants for row in rows)


def partner(row: str, base: str | None) -> str | None:
    """The row `base` in the variant of `row`: partner("skip@stride2", "frozen") is "frozen@stride2"."""
    if base is None or MARK not in row:
        return base
    return f"{base}{MARK}{row.split(MARK, 1)[1]}"


def scaled(config: Mapping[str, Any], scale: Mapping[str, float], where: str) -> dict[str, Any]:
    """The configuration with each dotted key of `scale` multiplied. Errors: ValueError where it holds no number."""
    result = dict(config)
    for key, factor in scale.items():
        value = get(config, key)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{where}: scale: {key} is {value!r}, no number; set it in the experiment or the row")
        result = apply_overrides(result, {key: value * factor})
    return result


def _vary(row: Row, variant: Mapping[str, Any]) -> Row:
    overrides = apply_overrides(row.overrides, expand(variant.get("overrides") or {}))
    name = f"{row.name}{MARK}{variant['name']}"
    return replace(row, name=name, overrides=overrides, scale=dict(variant.get("scale") or {}))


def _check(variant: Any, where: str) -> None:
    if not isinstance(variant, Mapping) or not variant.get("name"):
        raise ValueError(f"{where}: expected a mapping with a name, got {variant!r}")
    for key in variant:
        if key not in KEYS:
            raise ValueError(f"{where}: unknown key {key!r}; {nearest(key, KEYS)}")
