"""Every page over a store in which every text is hostile: no page fails, and Markdown gets them only as code."""

from __future__ import annotations

import math
import re

import pytest
from dashboard_store import HOSTILE, uri_of

from dashboard.histories import read_timed_history
from dashboard.names import LONGEST
from dashboard.runs import open_store, read_store


@pytest.mark.parametrize("name", ["compare", "cost", "frames", "learning", "memory", "run"])
def test_no_page_fails_and_no_markdown_is_of_a_stranger(open_page, hostile_db, name):
    page = open_page(uri_of(hostile_db), name, dataset="all", comparison="all")
    assert page.title
    written = [*page.markdown, *page.caption, *page.warning, *page.info, *page.error, *page.subheader]
    # what stands in code spans is text; nothing else may be theirs
    said = "\n".join(re.sub(r"(?<!\\)(`+)(?!`).+?(?<!`)\1(?!`)", "", each.value) for each in written)
    for sign in ("<img", "<script", "](http", "onerror", "/etc/passwd", "HYPERLINK", "long long"):
        assert sign not in said


def test_what_is_read_is_clean_bounded_and_finite(hostile_db):
    store = read_store(open_store(uri_of(hostile_db)), uri_of(hostile_db))
    runs = store.runs
    assert len(runs) == 3 * len(HOSTILE)
    texts = [text for column in runs.select_dtypes(object) for text in runs[column].dropna() if isinstance(text, str)]
    assert max(map(len, texts)) <= LONGEST
    assert all(text.isprintable() for text in texts)
    assert not [column for column in runs if not re.fullmatch(r"[a-z0-9_/]+", str(column))]
    assert runs.loc[runs["seed"].notna(), "memory/peak_mib"].isna().all()
    assert runs["fold"].isna().sum() == len(HOSTILE)
    assert runs["seed"].isna().sum() == len(HOSTILE)
    assert sum(store.left_out.values()) == 5


def test_an_infinite_loss_reads_as_infinite(hostile_db):
    client = open_store(uri_of(hostile_db))
    run_id = read_store(client, uri_of(hostile_db)).runs.query("seed == 0")["run_id"].iloc[0]
    assert math.inf in read_timed_history(client, uri_of(hostile_db), run_id, "train/loss")["value"].tolist()


def test_at_most_so_many_runs_are_read(demo_db, monkeypatch):
    monkeypatch.setattr("dashboard.runs.MOST_RUNS", 5)
    store = read_store(open_store(uri_of(demo_db)), uri_of(demo_db))
    assert len(store.runs) == 5
    assert "beyond the newest 5" in next(iter(store.left_out))
