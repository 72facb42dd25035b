"""Names of strangers as plain text: one line, no control characters, no markup, no more than fits.

A run's name, tag, clip or class may hold HTML, Markdown, an address or ten thousand characters. Text goes through
`short` wherever it is drawn, and through `as_markdown` where Streamlit would read Markdown.
"""

from __future__ import annotations

import re

LONGEST = 80
_MARKUP = re.compile(r"([!-/:-@\[-`{-~])")  # all of ASCII's punctuation: Markdown lets each be escaped


def short(name: str, longest: int = LONGEST) -> str:
    """Return a name on one line without control characters, cut to `longest` with an ellipsis."""
    plain = "".join(c if c.isprintable() else " " for c in name[: 4 * longest])
    plain = " ".join(plain.split()) or "(no name)"
    return plain if len(plain) <= longest else plain[: longest - 1] + "…"


def as_markdown(text: str, longest: int = 300) -> str:
    """Return text that Streamlit's Markdown shows as it stands: no link, colour, icon, formula or tag."""
    return _MARKUP.sub(r"\\\1", short(text, longest))
