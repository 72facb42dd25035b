"""The tables in benchmarks/ are, to the byte, what their records give today: no change of the report goes unseen."""

from pathlib import Path

import pytest

from app.comparison.report import markdown
from app.comparison.spec import load_comparison
from app.comparison.store import Store
from app.comparison.sweep_report import markdown as sweeps_markdown
from app.comparison.tuning import trial_comparison

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"


def config_of(folder: Path) -> Path:
    """The comparison whose results lie in a folder: benchmarks/weizmann/sweep is of weizmann_sweep.yaml."""
    return ROOT / f"app/configs/comparisons/{'_'.join(folder.relative_to(BENCHMARKS).parts)}.yaml"


FOLDERS = sorted(file.parent for file in BENCHMARKS.rglob("results.json") if config_of(file.parent).is_file())


def test_every_kind_of_folder_is_found():
    assert {BENCHMARKS / "weizmann_long", BENCHMARKS / "weizmann" / "sweep"} <= set(FOLDERS)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_committed_table_is_made_from_its_records(folder):
    comparison = load_comparison(config_of(folder))
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
