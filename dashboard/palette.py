"""The look of a line, the same on every page, in every scope and whatever is filtered away or still to come.

    colour <- what the row is (rule; skips; frozen; replay)      marker x dash <- the row's own name and wiring

Known names have looks of their own (KNOWN), other names the look that a hash of name and wiring gives. Colour alone
tells nothing: no two known names have the same marker and dash. Only where two lines shown together would have the same
colour, marker and dash (one row on two data sets, or two hashes that meet) the later by name takes the next free dash.
All colours have a contrast of at least 3 to 1 on white.
"""

from __future__ import annotations

import hashlib
import re
from itertools import product

import pandas as pd

SKIP_SIDEWAYS, FROZEN, OTHER = "skip-sideways", "frozen", "other"
ASYNCHRONOUS = "greedy, asynchronous"
COLOURS = {  # what a row is, as `family` names it
    "backprop_shifted": "#0072B2",
    "backprop_frame": "#008060",
    "backprop": "#7A5C00",
    "sideways": "#D55E00",
    SKIP_SIDEWAYS: "#AA3377",
    "greedy": "#6A3D9A",
    ASYNCHRONOUS: "#4C7A00",
    "memup": "#C2185B",
    "truncated_backprop": "#00777F",
    "full_backprop": "#5E35B1",
    FROZEN: "#6B6B6B",
    OTHER: "#000000",
    # what no run trains: rows of the pages on predicted frames
    "truth": "#000000",
    "copy_last": "#A67C00",
    "mean_last": "#8D4E3C",
}
# Vega's own markers, then paths in Vega's unit square; with the letter that stands for each in a table.
MARKS = {
    "circle": "●",
    "square": "■",
    "triangle-up": "▲",
    "diamond": "◆",
    "cross": "✚",
    "triangle-down": "▼",
    "triangle-right": "▶",
    "triangle-left": "◀",
    "M0,-1L.23,-.32L.95,-.31L.38,.12L.59,.81L0,.4L-.59,.81L-.38,.12L-.95,-.31L-.23,-.32Z": "★",
    "M-.9,-.6L-.6,-.9L0,-.3L.6,-.9L.9,-.6L.3,0L.9,.6L.6,.9L0,.3L-.6,.9L-.9,.6L-.3,0Z": "✖",
    "M-1,-.35L1,-.35L1,.35L-1,.35Z": "▬",
    "M-.35,-1L.35,-1L.35,1L-.35,1Z": "▮",
    "M-.5,-.87L.5,-.87L1,0L.5,.87L-.5,.87L-1,0Z": "⬢",
    "M0,-1L.95,-.31L.59,.81L-.59,.81L-.95,-.31Z": "⬟",
    "M-.8,-.9L.8,-.9L-.8,.9L.8,.9Z": "⧗",
    "M-.9,-.8L-.9,.8L.9,-.8L.9,.8Z": "⧓",
}
SHAPES = tuple(MARKS)
DASHES = ([1, 0], [6, 3], [2, 2], [8, 3, 2, 3], [12, 4], [4, 2, 1, 2], [12, 3, 3, 3, 3, 3], [1, 4])
# The n-th has marker n of SHAPES, from the seventeenth on again the first with the next dash: never reorder.
KNOWN = (
    *("sideways", "skip_sideways", "backprop_shifted", "backprop_frame", "frozen"),
    *("skip_sideways_newest", "skip_sideways_lead", "skip_sideways_stash", "skip_sideways_shortest"),
    *("skip_sideways_concat", "skip_sideways_dense", "skip_sideways_input"),
    *("copy_the_last_frame", "mean_of_the_last_frames", "sideways_lead", "backprop_shifted_chain"),
    *("backprop_shifted_concat", "cnn3d", "skip_sideways_concat_newest", "skip_sideways_concat_lead"),
    *("skip_sideways_residual_lead", "units_1_and_2_frozen", "exact_newest_edges", "unit_1_frozen", "unit_2_frozen"),
    *("lower_units_at_a_tenth", "newest_edges", "newest_edges_max_pool", "skip_sideways_dense_lead"),
    *("skip_sideways_input_lead", "skip_sideways_newest_concat", "skip_sideways_newest_dense"),
    "skip_sideways_slow_lower",
    *("greedy", "greedy_cnn", "greedy_two", "greedy_frame", "greedy_vq_17x", "greedy_vq_68x", "greedy_vq_228x"),
    *(f"greedy_replay_{held}_slow_{slow}" for held in (1, 4, 30) for slow in ("1_0", "1_2", "1_5", "2_0")),
    *("compact_norm", "xconv_1_4", "xconv_1_8", "xconv_1_16", "xconv_1_32", "paper_1_4", "paper_1_16"),
    *("skip_sideways_xconv_1_4", "skip_sideways_newest_xconv_1_4", "greedy_cnn_xconv_1_4"),
    *("vgg8", "vgg8_xconv_1_4", "cnn3d_xconv_1_4"),
    *("memup", "memup_surprise", "memup_oracle", "truncated_backprop", "full_backprop", "transformer"),
    *("memup_no_chrono", "truncated_no_chrono", "memup_sideways"),
)
Style = tuple[int, int]  # marker, dash: their places in SHAPES and DASHES


def family(rule: object, wiring: object, row: object = "") -> str:
    """Return what a row is: its rule, but `skip-sideways` for sideways with skips, `frozen` for a row so called.

    Both greedy rules are one method; a row of them with `replay` in its name is `greedy, asynchronous`.
    """
    name = str(row).lower()
    if "frozen" in name:
        return FROZEN
    if rule == "sideways" and wiring and wiring != "chain":
        return SKIP_SIDEWAYS
    if rule in ("greedy", "greedy_frame"):
        return ASYNCHRONOUS if "replay" in name else "greedy"
    return str(rule) if rule in COLOURS else OTHER


class Palette:
    """Colour, dash and marker of each line of a table of runs (columns `line`, `row`, `rule`, `wiring`).

    Give it all runs in scope, not those that a filter leaves: then a filter changes no look.
    """

    def __init__(self, runs: pd.DataFrame) -> None:
        lines = runs.drop_duplicates("line").sort_values("line")
        self._colour = {one.line: COLOURS[family(one.rule, one.wiring, one.row)] for one in lines.itertuples()}
        rows = {one.line: (str(one.row), str(one.wiring or "")) for one in lines.itertuples()}
        self._style = _styles(self._colour, rows)

    def colour(self, line: str) -> str:
        """Return the line's colour as #RRGGBB."""
        return self._colour[line]

    def dash(self, line: str) -> list[int]:
        """Return the line's dash pattern in px."""
        return DASHES[self._style[line][1]]

    def shape(self, line: str) -> str:
        """Return the line's marker, as Vega names or draws it."""
        return SHAPES[self._style[line][0]]


def own_style(row: str, wiring: str) -> tuple[Style, bool]:
    """Return the look of a row by itself, and whether its name is a known one.

    A variant (`NAME@VARIANT`) of a known name looks like it, but leaves the look to the name itself.
    """
    name, known = _plain(row), _plain(row.partition("@")[0])
    if known in KNOWN:
        place = KNOWN.index(known)
        turn, marker = divmod(place, len(SHAPES))
        return (marker, (marker + turn) % len(DASHES)), known == name
    number = int.from_bytes(hashlib.sha256(f"{name} {wiring}".encode("utf-8", "replace")).digest()[:4], "big")
    turn, marker = divmod(number, len(SHAPES))
    return (marker, turn % len(DASHES)), False


def _plain(row: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", row.lower()).strip("_")


def _styles(colours: dict[str, str], rows: dict[str, tuple[str, str]]) -> dict[str, Style]:
    """Return the look of each line: its own; where that is taken by a line of its colour, the next that is free.

    Known names choose first, so that no other row ever takes theirs.
    """
    own = {line: own_style(*row) for line, row in rows.items()}
    styles: dict[str, Style] = {}
    taken: set[tuple[str, Style]] = set()
    for line in sorted(own, key=lambda line: (not own[line][1], line)):
        style = next((each for each in _from(own[line][0]) if (colours[line], each) not in taken), own[line][0])
        styles[line] = style
        taken.add((colours[line], style))
    return styles


def _from(style: Style) -> list[Style]:
    """Return every look, from this one on: the dashes of its marker, then those of the next marker."""
    marker, dash = style
    return [
        ((marker + step) % len(SHAPES), (dash + turn) % len(DASHES))
        for step, turn in product(range(len(SHAPES)), range(len(DASHES)))
    ]
