"""Texts of strangers: one line, bounded, and plain in Markdown, LaTeX and csv."""

from __future__ import annotations

import pytest

from dashboard.names import LONGEST, cell, clean, code, escaped, latex


def test_clean_is_one_bounded_line_and_still_tells_texts_apart():
    assert clean("  a\x00b\u202e\n\tc\x1b[31m ") == "a b c [31m"
    assert clean("exact · residual ± 1") == "exact · residual ± 1"
    first, second = clean("x" * 10_000), clean("x" * 10_001)
    assert len(first) <= LONGEST
    assert first != second
    assert clean(first) == first
    assert clean("\ud800") == ""


@pytest.mark.parametrize(
    ("text", "expected"), [("a_b", "`a_b`"), ("a`b", "`` a`b ``"), ("``", "``` `` ```"), ("", "` `")]
)
def test_code_is_a_span_that_the_text_cannot_end(text, expected):
    assert code(text) == expected


def test_escaped_latex_and_csv():
    assert escaped("my_runs.db <b>") == r"my\_runs\.db \<b\>"
    assert latex(r"50 % of a_b & {c} \input{x}") == r"50 \% of a\_b \& \{c\} \textbackslash{}input\{x\}"
    assert [cell(value) for value in ("=1+1", "@x", "a=1", -0.5)] == ["'=1+1", "'@x", "a=1", -0.5]
