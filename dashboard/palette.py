"""One colour a line of the table, the same in the table and in every chart.

Okabe and Ito's palette (readable with the common colour-blindnesses), without its yellow, too pale on white. Lines
beyond its seven colours repeat them with another dash and marker.
"""

from __future__ import annotations

from collections.abc import Iterable

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#595959")
DASHES = ([1, 0], [6, 3], [2, 2], [8, 3, 2, 3])
SHAPES = ("circle", "square", "triangle-up", "diamond")


class Palette:
    """Colour, dash and marker of each line; by the sorted names, so that a filter does not recolour what remains."""

    def __init__(self, lines: Iterable[str]) -> None:
        self.lines = sorted(set(lines))

    def colour(self, line: str) -> str:
        """Return the line's colour as #RRGGBB."""
        return COLOURS[self.lines.index(line) % len(COLOURS)]

    def dash(self, line: str) -> list[int]:
        """Return the line's dash pattern in px."""
        return DASHES[self._round(line)]

    def shape(self, line: str) -> str:
        """Return the name of the line's marker."""
        return SHAPES[self._round(line)]

    def _round(self, line: str) -> int:
        return self.lines.index(line) // len(COLOURS) % len(DASHES)
