"""The tables in benchmarks/ are, to the byte, what their records give today: no change of the report goes unseen."""

from pathlib import Path

import pytest

from app.comparison.report import markdown
from app.comparison.spec import load_comparison
from app.comparison.store import Store
from app.comparison.sweep_report import markdown as sweeps_markdown
from app.comparison.tuning import trial_comparison

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = sorted(
    folder.parent
    for folder in ROOT.glob("benchmarks/*/results.json")
    if (ROOT / f"app/configs/comparisons/{folder.parent.name}.yaml").is_file()
)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_committed_table_is_made_from_its_records(folder):
    comparison = load_comparison(ROOT / f"app/configs/comparisons/{folder.name}.yaml")
    if (folder / "tuning.json").is_file():
        trials = Store(folder / "tuning.json")
        if comparison.sweep:
            text = sweeps_markdown(comparison, trials.header)
        else:
            text = markdown(trial_comparison(comparison), trials.header, trials.records)
        assert text == (folder / "tuning.md").read_text()
        choices = trials.header["choices"]
        comparison = comparison.with_overrides({row: choice["overrides"] for row, choice in choices.items()})
    results = Store(folder / "results.json")
    assert markdown(comparison, results.header, results.records) == (folder / "results.md").read_text()
