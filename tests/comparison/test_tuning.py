import json
from dataclasses import replace

import pytest
from comparison_fakes import scores

from app.comparison.execute import Settings, execute
from app.comparison.grid import build_grid
from app.comparison.report import markdown
from app.comparison.spec import read_comparison
from app.comparison.trials import grid_trials, row_trials
from app.comparison.tuning import trial_cells, trial_comparison, tune

LR, BEHAVIOUR = "model.init_args.lr", "model.init_args.behaviour"


@pytest.fixture
def settings(tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_TRACE", str(tmp_path / "trace"))
    return Settings(output=tmp_path / "out", jobs=2, track=False)


@pytest.fixture
def content(content):
    """Two rows; the fake's top-1 grows with lr, so the largest is the best."""
    return content | {
        "rows": [content["rows"][1], content["rows"][3]],
        "frozen": None,
        "tune": {LR: [0.01, 0.03, 0.02]},
        "tuning_folds": [0, 1],
    }


def lines(tmp_path):
    trace = tmp_path / "trace"
    text = trace.read_text().splitlines() if trace.exists() else []
    trace.unlink(missing_ok=True)
    return text


def test_grid_trials():
    assert grid_trials({"a": [1, 2], "b": ["x", "y"]}) == [
        {"a": 1, "b": "x"},
        {"a": 1, "b": "y"},
        {"a": 2, "b": "x"},
        {"a": 2, "b": "y"},
    ]
    assert grid_trials({}) == []


def test_trials_run_on_the_tuning_folds_and_one_seed_alone(content):
    comparison = read_comparison(content)
    cells = trial_cells(comparison, trial_comparison(comparison))
    assert {(cell.fold, cell.seed) for cell in cells} == {(0, 0), (1, 0)}
    assert len(cells) == 2 * 3 * 2
    assert {cell.config["model"]["init_args"]["lr"] for cell in cells if cell.row == "sideways-trial2"} == {0.03}


def test_trials_run_on_tuning_seeds_where_there_are_no_folds(content):
    del content["folds"]
    comparison = read_comparison(content | {"tuning_folds": [], "tuning_seeds": [8, 9]})
    cells = trial_cells(comparison, trial_comparison(comparison))
    assert {(cell.fold, cell.seed) for cell in cells} == {(0, 8), (0, 9)}


def test_the_best_is_chosen_used_and_written_down(content, settings, tmp_path):
    content["rows"][0]["tune"] = {LR: [0.3, 0.1, 0.2]}
    comparison = read_comparison(content)
    chosen, further = tune(comparison, None, 4, settings, scores)
    assert chosen.row("sideways").overrides["model"]["init_args"] == {"rule": "sideways", "wiring": "chain", "lr": 0.3}
    assert chosen.row("exact").overrides["model"]["init_args"] == {"rule": "exact", "lr": 0.03}
    written = json.loads((settings.output / "tuning.json").read_text())
    assert len(written["rows"]) == 12
    choice = written["header"]["choices"]["exact"]
    assert (choice["trial"], choice["overrides"]) == (2, {LR: 0.03})
    assert [trial["score"] for trial in choice["trials"]] == pytest.approx([0.92, 0.94, 0.93])
    assert further.tuning == "the best of 3 trials a row by test/top1 on fold 0, 1, seed 0 (all trials: tuning.json)"
    lines(tmp_path)
    cells = build_grid(chosen, folds=[2], seeds=[0])
    store = execute(chosen, cells, further, scores)
    assert store.records[("sideways", 2, 0)]["metrics"]["test/top1"] == pytest.approx(0.6 + 0.04 + 0.3)
    text = markdown(chosen, store.header, store.records)
    assert "the best of 3 trials" in text
    assert "| sideways | rule sideways, wiring chain, lr 0.3 |" in text


def test_a_second_tune_runs_nothing_and_chooses_the_same(content, settings, tmp_path):
    comparison = read_comparison(content)
    first, _ = tune(comparison, None, 4, settings, scores)
    lines(tmp_path)
    second, _ = tune(comparison, None, 4, settings, scores)
    assert lines(tmp_path) == []
    assert first == second


def test_a_failed_trial_is_not_chosen(content, settings):
    comparison = read_comparison(content | {"tune": {BEHAVIOUR: ["raise", "good"]}})
    chosen, _ = tune(comparison, None, 4, settings, scores)
    assert chosen.row("exact").overrides["model"]["init_args"]["behaviour"] == "good"


def test_equal_scores_are_decided_by_the_first(content, settings):
    comparison = read_comparison(content | {"tune": {"model.init_args.width": [2, 1, 3]}})
    chosen, _ = tune(comparison, None, 4, settings, scores)
    assert chosen.row("exact").overrides["model"]["init_args"]["width"] == 2


def test_a_row_whose_trials_all_fail_is_an_error(content, settings):
    comparison = read_comparison(content | {"tune": {BEHAVIOUR: ["raise"]}})
    with pytest.raises(ValueError, match="every trial of row 'sideways' failed"):
        tune(comparison, None, 4, settings, scores)


def test_the_limit_leaves_room_for_the_table(content, settings):
    comparison = read_comparison(content | {"cell_seconds": 360})
    with pytest.raises(ValueError, match=r"2.20 core-hours"):  # 12 trial runs and 10 cells of 0.1 hours
        tune(comparison, None, 10, replace(settings, limit_hours=2.1), scores)


def test_tuning_time_counts_for_the_table(content, settings):
    comparison = read_comparison(content | {"cell_seconds": 360})
    cells = build_grid(comparison, folds=[2], seeds=[0])
    with pytest.raises(ValueError, match=r"1.20 core-hours"):
        execute(comparison, cells, replace(settings, spent_s=3600, limit_hours=1.1))


def test_rows_need_equal_numbers_of_trials(content):
    content["rows"][0]["tune"] = {LR: [0.1, 0.2]}
    with pytest.raises(ValueError, match="same number of trials, got sideways 2, exact 3"):
        read_comparison(content)


def test_tuning_needs_its_folds_named(content):
    with pytest.raises(ValueError, match="name the tuning_folds or tuning_seeds"):
        read_comparison(content | {"tuning_folds": []})


def test_a_grid_needs_lists(content):
    with pytest.raises(ValueError, match=r"lr must have a list of values to try, got 0.1"):
        read_comparison(content | {"tune": {LR: 0.1}})


def test_no_grid_no_tuning(content):
    comparison = read_comparison(content | {"tune": {}})
    assert row_trials(comparison, comparison.rows[0]) == []
    with pytest.raises(ValueError, match="has no tune grid"):
        trial_comparison(comparison)
