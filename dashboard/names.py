"""Texts that anyone may have written (names, tags, metric keys) made safe to show: as text, on one line, not too long.

MLflow takes any text. What reaches a page has no control or invisible direction character and at most LONGEST
characters; what reaches Markdown stands in a code span, in which Markdown, HTML, mathematics and links are plain text.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata

LONGEST = 120
_LATEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "−": "$-$",
    "Δ": r"$\Delta$", "·": r"$\cdot$", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "–": "--",
    "×": r"$\times$",
    **{sign: f"$^{{{number}}}$" for sign, number in zip("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789", strict=True)},
    **{sign: "\\" + sign for sign in "&%$#_{}"},
}  # fmt: skip
_FORMULA = ("=", "+", "-", "@", "\t")


def clean(text: object) -> str:
    """Return `text` on one line without control characters; beyond LONGEST its beginning and a hash that tells it."""
    given = str(text)
    shown = "".join(" " if _invisible(sign) else sign for sign in given[: 20 * LONGEST]).strip()
    shown = re.sub(r"\s+", " ", shown)
    if len(given) <= LONGEST and len(shown) <= LONGEST:
        return shown
    return f"{shown[: LONGEST - 10]}…{hashlib.sha256(given.encode('utf-8', 'replace')).hexdigest()[:8]}"


def _invisible(sign: str) -> bool:
    return unicodedata.category(sign) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")


def code(text: object) -> str:
    """Return `text` as a code span of Markdown, which shows every character of it as it is."""
    inside = clean(text) or " "
    fence = "`" * (1 + max(map(len, re.findall("`+", inside)), default=0))
    return f"{fence} {inside} {fence}" if "`" in inside else f"{fence}{inside}{fence}"


def escaped(text: object) -> str:
    """Return a sentence of our own that holds a name (a path), so that Markdown shows its signs as they are."""
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", "".join(" " if _invisible(sign) else sign for sign in str(text)))


def latex(text: object) -> str:
    """Return `text` for LaTeX: every character that would be a command stands for itself."""
    return "".join(_LATEX.get(sign, sign) for sign in clean(text))


def cell(value: object) -> object:
    """Return a cell for a csv file: a text that a spreadsheet would run as a formula gets an apostrophe before it."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
