"""The table of frames: rows are the truth and each prediction, columns are time. Text in, one piece of HTML out.

    frame          12     13     14
    truth          [ ]    [ ]    [ ]
    copy last      [ ]    [ ]    [ ]     2 frames ahead
    skip-sideways  [ ]    [ ]    [ ]
      difference   [ ]    [ ]    [ ]

Every text is escaped and every picture is data in the page: nothing that a run named is markup or an address.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from PIL import Image

from dashboard.names import clean

_LARGEST_PX = 192  # a cell is hardly larger on any screen
# The header of the app is 3.75 rem high; head and truth stay below it while the rows pass. A telephone shows three
# frames in a line, each with its number, since the head would not stand above them.
STYLE = """<style>
.frames table {border-collapse: separate; border-spacing: 0; table-layout: fixed; width: 100%}
.frames thead {position: sticky; top: 3.75rem; z-index: 2; background: #fff}
.frames th, .frames td {padding: 4px; font-weight: 400; font-size: .85rem; border: 0; text-align: center;
  vertical-align: top}
.frames th[scope=row] {width: 16%; padding-right: 14px; text-align: left; vertical-align: middle;
  overflow-wrap: anywhere}
.frames td img {width: 100%; image-rendering: pixelated; display: block; margin: 0 auto; outline: 1px solid #8884}
.frames .dot {display: inline-block; width: .7em; height: .7em; border-radius: 50%; margin-right: .35em}
.frames small {color: #595959; display: block; white-space: nowrap; padding-top: 2px}
@media (max-width: 640px) {
  .frames table, .frames thead, .frames tbody {display: block}
  .frames tr {display: grid; grid-template-columns: repeat(3, 1fr)}
  .frames tr.head {display: none}
  .frames th[scope=row] {grid-column: 1 / -1; width: auto; padding: .6rem 4px .2rem}
  .frames td::before {content: attr(data-frame); font-size: .7rem; color: #595959}
}
</style>"""


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Args:
        name: whatever the run is called.
        frames: (C, H, W) uint8 for each column, None where there is none.
        notes: a text under each frame, such as its PSNR; empty for none.
        colour: #RRGGBB of the row in the charts, or "".
        alt: what a screen reader says of its pictures, where that is not the name.
    """

    name: str
    frames: Sequence[np.ndarray | None]
    notes: Sequence[str] = ()
    colour: str = ""
    alt: str = ""


def strip(columns: Sequence[int], rows: Sequence[Row], caption: str) -> str:
    """Return the table as HTML; `columns` are the numbers of the frames shown. The first row stays in sight."""
    head = "".join(f'<th scope="col" role="columnheader">{number}</th>' for number in columns)
    first, *others = [_row(columns, row) for row in rows] or [""]
    return (
        f'{STYLE}<div class="frames" tabindex="0" role="region" aria-label="{escape(caption)}"><table role="table">'
        f'<thead><tr class="head" role="row"><th scope="row" role="rowheader">frame</th>{head}</tr>{first}</thead>'
        f"<tbody>{''.join(others)}</tbody></table></div>"
    )


def _row(columns: Sequence[int], row: Row) -> str:
    name = escape(clean(row.name))
    dot = f'<span class="dot" style="background:{escape(row.colour)}"></span>' if row.colour else ""
    notes = row.notes or [""] * len(columns)
    cells = "".join(
        _cell(number, frame, f"{escape(clean(row.alt or row.name))}, frame {number}", note)
        for number, frame, note in zip(columns, row.frames, notes, strict=True)
    )
    return f'<tr role="row"><th scope="row" role="rowheader">{dot}{name}</th>{cells}</tr>'


def _cell(number: int, frame_CHW: np.ndarray | None, alt: str, note: str) -> str:
    if frame_CHW is None:
        return f'<td role="cell" data-frame="{number}">–</td>'
    below = f"<small>{escape(note)}</small>" if note else ""
    return f'<td role="cell" data-frame="{number}"><img alt="{alt}" src="{picture(frame_CHW)}">{below}</td>'


def picture(frame_CHW: np.ndarray) -> str:
    """Return a frame as a `data:` address of a PNG of at most _LARGEST_PX."""
    image = as_image(frame_CHW)
    if max(image.size) > _LARGEST_PX:
        image.thumbnail((_LARGEST_PX, _LARGEST_PX))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def as_image(frame_CHW: np.ndarray) -> Image.Image:
    """Return a grey or colour frame as a Pillow image."""
    return Image.fromarray(np.ascontiguousarray(frame_CHW[0] if len(frame_CHW) == 1 else frame_CHW.transpose(1, 2, 0)))
