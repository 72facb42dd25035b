"""Found and expected videos, id lists and views beside the accuracy."""

from __future__ import annotations

import pytest
from dashboard_store import table_of, uri_of, write_run
from test_tables import EXACT, make_runs

from dashboard import data_columns, tables
from dashboard.display import shown_columns
from dashboard.runs import open_store
from dashboard.scores import TOP1

FOLD1 = {"id_hash": "a" * 16, "data_found": "9530 train, 3783 test", "data_expected": "9537 train, 3783 test"}
FOLD2 = {"id_hash": "b" * 16, "data_found": "9586 train, 3734 test", "data_expected": "9586 train, 3734 test"}


def test_found_of_expected_is_summed_over_folds_and_not_over_seeds():
    runs = make_runs(("a", 1, 0, 0.6, FOLD1), ("a", 1, 1, 0.6, FOLD1), ("a", 2, 0, 0.8, FOLD2))
    line = tables.comparison_table(runs, None).iloc[0]
    assert line["videos"] == "7517/7517 test, 19116/19123 train"
    assert line["id_hash"] == "aaaaaaaa bbbbbbbb"
    assert tables.remarks(runs, None) == []


def test_a_folder_of_ones_own_has_nothing_expected():
    runs = make_runs(("a", 0, 0, 0.6, {"data_found": "80 train, 10 test"}))
    assert data_columns.videos(runs) == "10 test, 80 train"


def test_runs_made_before_the_tags_have_blank_cells_and_no_columns():
    table = tables.comparison_table(make_runs(("a", 0, 0, 0.6), ("b", 0, 0, 0.5, EXACT)), None)
    assert table["videos"].tolist() == table["id_hash"].tolist() == ["", ""]
    assert not {"videos", "id_hash", "views"} & set(shown_columns(table, TOP1))


@pytest.mark.parametrize(
    ("other", "what"), [({"id_hash": "c" * 16}, "id lists"), ({"data_found": "1 train, 1 test"}, "numbers of videos")]
)
def test_one_mean_of_different_videos_is_said(other, what):
    runs = make_runs(("a", 1, 0, 0.6, FOLD1), ("a", 1, 1, 0.9, FOLD1 | other))
    (sentence,) = tables.remarks(runs, None)
    assert sentence.startswith(f"`a`: fold 1 has runs on different {what}")


def test_other_views_are_another_line_and_not_averaged():
    one, ten = {"views": "1 view of 64 frames"}, {"views": "10 views of 64 frames"}
    table = tables.comparison_table(make_runs(("a", 1, 0, 0.6, one), ("a", 1, 1, 0.9, ten)), None)
    assert dict(zip(table["line"], table["test/top1"], strict=True)) == {
        "a · 1 view of 64 frames": 0.6,
        "a · 10 views of 64 frames": 0.9,
    }
    assert "views" in shown_columns(table, TOP1)


def test_the_page_shows_them_beside_the_accuracy(open_page, bare_db):
    client = open_store(uri_of(bare_db))
    write_run(client, client.create_experiment("u"), "exact", 1, 0, top1=0.5, views="3 views of 64 frames", **FOLD1)
    page = open_page(uri_of(bare_db))
    line = table_of(page).loc["exact"]
    assert (line["videos"], line["id_hash"]) == ("3783/3783 test, 9530/9537 train", "aaaaaaaa")
    assert any("Test protocol `3 views of 64 frames`" in caption.value for caption in page.caption)
    listed = page.dataframe[1].value.iloc[0]
    assert (listed["data_found"], listed["id_hash"]) == (FOLD1["data_found"], FOLD1["id_hash"])
