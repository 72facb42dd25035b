"""The files of the comparison table, read back."""

from __future__ import annotations

import io

import pandas as pd
import pytest
from test_tables import EXACT, make_runs

from dashboard import downloads, tables
from dashboard.scores import TOP1

CELLS = [("=a_1", 0, 0, 0.6), ("=a_1", 0, 1, 0.8), ("b", 0, 0, 0.5, EXACT), ("b", 0, 1, 0.6, EXACT)]


@pytest.fixture
def table():
    return tables.comparison_table(make_runs(*CELLS), "b")


def test_csv_has_every_number_in_full_and_runs_no_formula(table):
    read = pd.read_csv(io.StringIO(downloads.csv(table, TOP1)))
    assert read["line"].tolist() == ["'=a_1", "b"]
    assert read["test/top1"].tolist() == pytest.approx([0.7, 0.55])
    assert read["test/top1 std"].tolist() == pytest.approx([0.2 / 2**0.5, 0.1 / 2**0.5])
    assert read["test/top1 difference"].tolist() == pytest.approx([0.15, 0])
    assert "test/psnr_db" not in read


def test_latex_is_the_table_of_the_page(table):
    lines = downloads.latex_table(table, TOP1).splitlines()
    assert lines[0] == r"\begin{tabular}{lrrlrrr}"
    assert lines[2] == r"Row & Top-1 & $\Delta$ Top-1 & Rule & Runs & Folds & Seeds \\"
    assert lines[4] == r"=a\_1 & 0.700 $\pm$ 0.141 & +0.150 & sideways & 2 & 1 & 2 \\"
    assert lines[5] == r"b & 0.550 $\pm$ 0.071 & control & backprop\_shifted & 2 & 1 & 2 \\"
