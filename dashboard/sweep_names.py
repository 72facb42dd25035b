"""Names of a study that strangers gave, as titles in charts. No Streamlit."""

from __future__ import annotations

from collections.abc import Iterable

_MEANT_OTHERWISE = ("title", "image")  # vega-tooltip makes a heading of the one and loads the other


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """Return for each dotted key its shortest end that no other key has.

    >>> short_names(["model.init_args.lr", "data.init_args.size", "model.init_args.size"])["model.init_args.lr"]
    'lr'
    """
    parts = {key: key.split(".") for key in keys}
    ends = [end for given in parts.values() for end in _ends(given)]
    return {key: next((end for end in _ends(given) if ends.count(end) == 1), key) for key, given in parts.items()}


def _ends(parts: list[str]) -> list[str]:
    return [end for start in range(1, len(parts) + 1) if (end := ".".join(parts[-start:]))]


def tooltip_title(name: str) -> str:
    """Return a name as the title of a line in a tooltip, where two names mean something else."""
    return f"{name}:" if name in _MEANT_OTHERWISE else name
