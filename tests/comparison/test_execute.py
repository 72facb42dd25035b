"""Real worker processes with a runner that answers at once."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from comparison_fakes import scores

from app.comparison.execute import Settings, _task, execute, failed
from app.comparison.grid import build_grid
from app.comparison.spec import read_comparison
from app.comparison.store import Store, locked


@pytest.fixture
def settings(tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_TRACE", str(tmp_path / "trace"))
    return Settings(output=tmp_path / "out", jobs=2, track=False)


def ran(settings):
    """The cells that were run since the last call, as "row fold seed"."""
    trace = settings.output.parent / "trace"
    lines = trace.read_text().splitlines() if trace.exists() else []
    trace.unlink(missing_ok=True)
    return lines


def small(comparison, **options):
    return build_grid(comparison, folds=[0, 1], seeds=[0], **options)


def test_every_cell_runs_once_on_one_thread_and_is_recorded(comparison, settings):
    cells = small(comparison)
    store = execute(comparison, cells, settings, scores)
    lines = [line.split() for line in ran(settings)]
    assert sorted(tuple(line[:3]) for line in lines) == sorted((c.row, str(c.fold), str(c.seed)) for c in cells)
    assert {line[3] for line in lines} == {"1"}
    assert os.getpid() not in {int(line[4]) for line in lines}
    record = store.records[("sideways", 1, 0)]
    assert record["metrics"]["test/top1"] == pytest.approx(0.62)
    assert (record["status"], record["rule"], record["wiring"], record["jobs"]) == ("ok", "sideways", "chain", 2)
    assert record["run_id"] == "run-sideways-1-0"
    assert Store(settings.results).records == store.records
    assert (settings.output / "results.md").exists()
    assert (settings.output / "logs/results-skip-fold1-seed0.log").read_text() == "output of skip\n"


def test_runs_say_on_what_settings_were_chosen(comparison, content, settings):
    tags = [_task(comparison, cell, settings, None).tags for cell in small(comparison, rows=["skip"])]
    assert [tag["tuning"] for tag in tags] == ["fold", ""]
    seeds = read_comparison({**content, "tuning_folds": [], "tuning_seeds": [1]})
    cells = build_grid(seeds, rows=["skip"], folds=[0], seeds=[0, 1])
    assert [_task(seeds, cell, settings, None).tags["tuning"] for cell in cells] == ["", "seed"]


def test_the_same_command_runs_nothing_again_and_more_folds_run_only_those(comparison, settings):
    execute(comparison, small(comparison), settings, scores)
    ran(settings)
    execute(comparison, small(comparison), settings, scores)
    assert ran(settings) == []
    execute(comparison, build_grid(comparison, folds=[1, 2], seeds=[0]), settings, scores)
    assert {line.split()[1] for line in ran(settings)} == {"2"}


def test_a_failed_cell_stops_no_other_and_is_run_again(content, settings):
    content["rows"][1]["overrides"] = {"model.init_args.behaviour": "raise"}
    comparison = read_comparison(content)
    cells = small(comparison)
    store = execute(comparison, cells, settings, scores)
    bad = failed(store, cells)
    assert [record["row"] for record in bad] == ["sideways", "sideways"]
    assert bad[0]["error"] == "RuntimeError: the loss is nan second line"
    assert len([record for record in store.records.values() if record["status"] == "ok"]) == 6
    assert "second line" in (settings.output / "logs/results-sideways-fold0-seed0.log").read_text()
    assert "sideways, fold 1, seed 0: RuntimeError: the loss is nan" in (settings.output / "results.md").read_text()
    ran(settings)
    execute(comparison, cells, settings, scores)
    assert {line.split()[0] for line in ran(settings)} == {"sideways"}


@pytest.mark.parametrize(("behaviour", "error"), [("die", "exit code 7"), ("exit", "SystemExit: 1")])
def test_a_worker_that_dies_fails_its_cell_alone(content, settings, behaviour, error):
    content["rows"][1]["overrides"] = {"model.init_args.behaviour": behaviour}
    comparison = read_comparison(content)
    cells = small(comparison)
    store = execute(comparison, cells, replace(settings, jobs=1), scores)
    assert error in failed(store, cells)[0]["error"]
    assert len(store.records) == 8


def test_a_changed_configuration_is_refused_and_explained(content, settings):
    comparison = read_comparison(content)
    execute(comparison, small(comparison), settings, scores)
    before = settings.results.read_text()
    ran(settings)
    content["rows"][1]["overrides"]["model"]["init_args"]["lr"] = 0.25
    changed = read_comparison(content)
    with pytest.raises(ValueError, match=r"2 finished cells(.|\n)*lr: was \(absent\), is 0.25(.|\n)*--rerun-changed"):
        execute(changed, small(changed), settings, scores)
    assert settings.results.read_text() == before
    assert ran(settings) == []
    store = execute(changed, small(changed), replace(settings, rerun_changed=True), scores)
    assert {line.split()[0] for line in ran(settings)} == {"sideways"}
    assert store.records[("sideways", 0, 0)]["metrics"]["test/top1"] == pytest.approx(0.85)


def test_a_table_over_the_limit_does_not_start(content, settings):
    comparison = read_comparison(content | {"cell_seconds": 3600})
    with pytest.raises(ValueError, match=r"8.00 core-hours, more than --limit-hours 6.*--limit-hours 8.80"):
        execute(comparison, small(comparison), settings, scores)
    assert ran(settings) == []


def test_the_first_cell_shows_that_the_limit_is_passed(content, settings):
    comparison = read_comparison(content | {"overrides": {"model.init_args.behaviour": "burn"}})
    with pytest.raises(ValueError, match="more than --limit-hours 1e-05"):
        execute(comparison, small(comparison), replace(settings, limit_hours=1e-5, jobs=1), scores)
    assert len(Store(settings.results).records) == 1


def test_metrics_that_are_not_finite_are_null_and_counted(content, settings):
    content["rows"][1]["overrides"] = {"model.init_args.behaviour": "diverge"}
    comparison = read_comparison(content)
    execute(comparison, small(comparison), settings, scores)
    rows = json.loads(settings.results.read_text(), parse_constant=pytest.fail)["rows"]
    assert [row["metrics"]["test/loss"] for row in rows if row["row"] == "sideways"] == [None, None]
    line = next(text for text in (settings.output / "results.md").read_text().splitlines() if "| sideways" in text)
    assert "100 %" in line


def test_two_processes_cannot_share_an_output(comparison, settings):
    with (
        locked(settings.output),
        pytest.raises(ValueError, match=rf"in use by another compare \(process {os.getpid()}\)"),
    ):
        execute(comparison, small(comparison), settings, scores)
    execute(comparison, small(comparison, rows=["skip"]), settings, scores)


def test_a_broken_results_file_is_refused(comparison, settings):
    settings.output.mkdir()
    settings.results.write_text('{"rows": [')
    with pytest.raises(ValueError, match="not a results file"):
        execute(comparison, small(comparison), settings, scores)


def test_a_kill_while_saving_leaves_the_old_file(comparison, settings, monkeypatch):
    store = execute(comparison, small(comparison, rows=["skip"]), settings, scores)
    before = settings.results.read_text()

    def power_cut(*arguments):
        raise OSError("power cut")

    monkeypatch.setattr(os, "replace", power_cut)
    with pytest.raises(OSError, match="power cut"):
        store.add({**store.records[("skip", 0, 0)], "row": "other"})
    assert settings.results.read_text() == before


SCRIPT = """
import sys, json
from pathlib import Path
from app.comparison.execute import Settings, execute
from app.comparison.grid import build_grid
from app.comparison.spec import read_comparison
from comparison_fakes import scores
if __name__ == "__main__":
    comparison = read_comparison(json.loads(Path(sys.argv[1]).read_text()))
    execute(comparison, build_grid(comparison, folds=[0], seeds=[0]), Settings(Path(sys.argv[2]), track=False), scores)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_stopped_from_outside_it_keeps_what_is_done_and_leaves_no_process(content, settings, number, tmp_path):
    content["rows"][1]["overrides"] = {"model.init_args.behaviour": "sleep"}  # the second cell
    (tmp_path / "content.json").write_text(json.dumps(content))
    (tmp_path / "script.py").write_text(SCRIPT)
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "content.json"), str(settings.output)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])},
        stderr=subprocess.DEVNULL,
    )
    trace = tmp_path / "trace"
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and not (trace.exists() and "sideways" in trace.read_text()):
        time.sleep(0.05)
    process.send_signal(number)
    process.wait(15)
    worker = int(trace.read_text().splitlines()[-1].split()[4])
    assert gone(worker)
    assert list(Store(settings.results).records) == [("frozen", 0, 0)]
    comparison = read_comparison(content)
    trace.unlink()
    execute(comparison, build_grid(comparison, rows=["frozen", "skip"], folds=[0], seeds=[0]), settings, scores)
    assert [line.split()[0] for line in ran(settings)] == ["skip"]


def gone(pid):
    """Whether a process ends within five seconds."""
    for _ in range(100):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.05)
    return False
