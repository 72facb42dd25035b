"""Sentences that hold a stranger's words, for the places where Streamlit reads Markdown."""

from __future__ import annotations

import re
import unicodedata

LONGEST = 600  # the reasons of MLflow name the cause at their end
_MARKUP = re.compile(r"([!-/:-@\[-`{-~])")  # all of ASCII's punctuation: Markdown lets each be escaped


def sentence(text: str) -> str:
    """Return text that Markdown shows as it stands: no link, colour, icon, formula, tag or second line."""
    line = "".join(" " if unicodedata.category(c)[0] in "CZ" else c for c in text[:LONGEST])
    return _MARKUP.sub(r"\\\1", line) + ("…" if len(text) > LONGEST else "")
