"""Frames of a long stream in their order, each with its step and what it is. Text in, one piece of HTML out.

    [ ]      [ ]      [ ]     [ ]
    step 0   step 9   step 20 step 44
    cue      chosen           chosen, answer

Every text is escaped and every picture is data in the page.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from dashboard.frame_strip import picture
from dashboard.memory_chart import ANSWER, BOTH, CHOSEN, KINDS

CUE_COLOUR = "#0072B2"
_PLAIN = "#C8CDD2"
STYLE = """<style>
.stream {display: grid; grid-template-columns: repeat(auto-fill, minmax(76px, 1fr)); gap: .6rem; list-style: none;
  margin: 0 !important; padding: 0 !important}
.stream li {margin: 0 !important; padding: 0; font-size: .8rem; line-height: 1.25; text-align: center}
.stream img {width: 100%; image-rendering: pixelated; display: block; border: 3px solid; border-radius: 3px}
.stream b {display: block; font-weight: 600}
.stream span {color: #404040}
</style>"""


def strip(steps: Sequence[int], frames_nCHW: np.ndarray, roles: Sequence[Sequence[str]], caption: str) -> str:
    """Return the frames as an HTML list.

    Args:
        steps: the step of each frame.
        frames_nCHW: uint8, 1 or 3 channels.
        roles: what each frame is: any of `cue`, `chosen`, `answer`, or none.
        caption: what a screen reader says of the list.
    """
    items = "".join(
        _item(step, frame_CHW, each) for step, frame_CHW, each in zip(steps, frames_nCHW, roles, strict=True)
    )
    return f'{STYLE}<ol class="stream" aria-label="{escape(caption)}">{items}</ol>'


def _item(step: int, frame_CHW: np.ndarray, roles: Sequence[str]) -> str:
    said = escape(", ".join(roles))
    alt = f"step {step}{': ' if said else ''}{said}"
    image = f'<img alt="{alt}" src="{picture(frame_CHW)}" style="border-color:{_colour(roles)}">'
    return f"<li>{image}<b>step {step}</b><span>{said}</span></li>"


def _colour(roles: Sequence[str]) -> str:
    if "answer" in roles:
        return KINDS[BOTH if "chosen" in roles else ANSWER][0]
    if "chosen" in roles:
        return KINDS[CHOSEN][0]
    return CUE_COLOUR if "cue" in roles else _PLAIN
