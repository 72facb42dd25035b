"""The look of a line, the same on every page and whatever is filtered away: colour by rule, marker and dash by wiring.

Colour alone tells nothing: markers and dashes differ too, and two lines of the same rule and wiring get different ones.
All colours have a contrast of at least 3 to 1 on white and differ in lightness or marker for colour-blind readers.
"""

from __future__ import annotations

import pandas as pd

SKIP_SIDEWAYS, FROZEN, OTHER = "skip-sideways", "frozen", "other"
COLOURS = {  # what a row is, as `family` names it
    "backprop_shifted": "#0072B2",
    "backprop_frame": "#008060",
    "backprop": "#7A5C00",
    "sideways": "#D55E00",
    SKIP_SIDEWAYS: "#AA3377",
    "greedy": "#6A3D9A",
    FROZEN: "#6B6B6B",
    OTHER: "#000000",
    # what no run trains: rows of the pages on predicted frames
    "truth": "#000000",
    "copy_last": "#7F7F7F",
    "mean_last": "#7F7F7F",
}
WIRINGS = ("chain", "residual", "concat", "dense", "input", "unet")
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right", "triangle-left")
DASHES = ([1, 0], [6, 3], [2, 2], [8, 3, 2, 3], [12, 4], [4, 2, 1, 2], [12, 3, 3, 3, 3, 3], [1, 4])


def family(rule: object, wiring: object, row: object = "") -> str:
    """Return what a row is: its rule, but `skip-sideways` for sideways with skips, `frozen` for a row so called."""
    if "frozen" in str(row).lower():
        return FROZEN
    if rule == "sideways" and wiring and wiring != "chain":
        return SKIP_SIDEWAYS
    return str(rule) if rule in COLOURS else OTHER


class Palette:
    """Colour, dash and marker of each line of a table of runs (columns `line`, `row`, `rule`, `wiring`).

    Give it all runs in scope, not those that a filter leaves: then a filter changes no look.
    """

    def __init__(self, runs: pd.DataFrame) -> None:
        lines = runs.drop_duplicates("line").sort_values("line")
        self._family = {one.line: family(one.rule, one.wiring, one.row) for one in lines.itertuples()}
        self._style = _styles({one.line: (self._family[one.line], str(one.wiring)) for one in lines.itertuples()})

    def colour(self, line: str) -> str:
        """Return the line's colour as #RRGGBB."""
        return COLOURS[self._family[line]]

    def dash(self, line: str) -> list[int]:
        """Return the line's dash pattern in px."""
        return DASHES[self._style[line] % len(DASHES)]

    def shape(self, line: str) -> str:
        """Return the name of the line's marker, as Vega names it."""
        return SHAPES[self._style[line] % len(SHAPES)]


def _styles(lines: dict[str, tuple[str, str]]) -> dict[str, int]:
    """Return a number for each line: its wiring's own, or the next that is free among the lines of its family."""
    styles: dict[str, int] = {}
    taken: set[tuple[str, int]] = set()
    others = []
    for line, (kind, wiring) in lines.items():
        own = WIRINGS.index(wiring) if wiring in WIRINGS else 0
        if (kind, own) in taken:
            others.append((line, kind))
        else:
            styles[line] = own
            taken.add((kind, own))
    for line, kind in others:
        styles[line] = next((number for number in range(len(SHAPES)) if (kind, number) not in taken), len(taken))
        taken.add((kind, styles[line]))
    return styles
