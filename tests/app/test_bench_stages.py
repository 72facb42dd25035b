"""`skip-sideways bench --stages`: all contestants in two processes, the record of the run, errors that teach."""

import json
import multiprocessing
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from app.bench import main
from app.bench_report import markdown
from app.bench_stages import contestants_of, parser, setting_of
from app.bench_store import metrics_of

TINY = ["--stages", "2", "--blocks", "1", "--channels", "4", "--size", "4", "--batch", "2"]
TABLE = [*TINY, "--frames", "8", "16", "--micro", "2", "8", "--rounds", "2", "--peers"]


def entries(folder):
    return set(Path(folder).iterdir()) if Path(folder).is_dir() else set()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The whole command on a network of four units with skips, in two processes."""
    folder = tmp_path_factory.mktemp("bench") / "new"
    shared = entries("/dev/shm")
    threads = torch.get_num_threads()
    assert main([*TABLE, "--depth", "4", "--wiring", "residual", "--output", str(folder)]) == 0
    assert torch.get_num_threads() == threads
    assert entries("/dev/shm") <= shared
    assert not multiprocessing.active_children()
    return json.loads((folder / "results.json").read_text()), (folder / "results.md").read_text()


pytestmark = pytest.mark.timeout(200)


@pytest.mark.slow
def test_every_contestant_is_measured_in_every_round(run):
    rows = {row["row"]: row for row in run[0]["rows"]}
    executors = {row["executor"] for row in rows.values()}
    assert {"GPipe", "1F1B", "Interleaved1F1B", "ZBVZeroBubble", "DualPipeV"} < executors
    assert {"whole", "accumulated", "vectorised", "pipelined"} < executors
    transports = {
        row["transport"] for row in rows.values() if row["rule"] == "sideways" and row["placement"] == "stages"
    }
    assert transports == {"shared_memory", "process_group"}
    greedy = {name for name, row in rows.items() if row["rule"] == "greedy" and row["frames"] == 8 and row["wall_ms"]}
    assert {name.removeprefix("greedy ") for name in greedy} == {
        "vectorised T=8 update clip, 1 thread",
        "pipelined T=8 update clip, 1 thread",
        "vectorised T=8 update clip, shared memory",
        "pipelined T=8 update clip, shared memory",
        "pipelined T=8 update clip, process group",
        "pipelined T=8 update frame, shared memory",
        "vectorised T=8 update clip, copies, no messages",
        "pipelined T=8 update clip, copies, no messages",
        "pipelined T=8 update frame, copies, no messages",
    }
    assert {row["row"] for row in rows.values() if row["laps"] > 1} == {
        "greedy vectorised T=8 update clip, shared memory"
    }
    for row in rows.values():
        assert len(row["wall_ms"]) == len(row["cpu_ms"]) in (0, 2)
        assert all(wall > 0 for wall in row["wall_ms"])
    assert len(rows) == len(run[0]["rows"])


@pytest.mark.slow
def test_rates_are_of_the_frames_of_all_clips(run):
    row = run[0]["rows"][0]
    assert run[0]["round_frames"] == 16
    assert row["frames_per_second"] == pytest.approx(16 * 2 * 1000 / (sum(row["wall_ms"]) / 2))
    assert row["cpu_ms_per_frame"] == pytest.approx(sum(row["cpu_ms"]) / 2 / 16 / 2)


@pytest.mark.slow
def test_copies_train_the_frames_in_every_process(run):
    rows = {row["row"]: row for row in run[0]["rows"]}
    copies = {name for name, row in rows.items() if row["placement"] == "copies"}
    ours = {f"sideways pipelined T={t} update {u}, copies, no messages" for t in (8, 16) for u in ("clip", "frame")}
    assert {name for name in copies if "greedy" not in name} == ours | {"backprop accumulated m=8, copies, no messages"}
    for name in copies:
        row = rows[name]
        assert row["copies"] == 2
        assert row["frames_per_second"] == pytest.approx(2 * 16 * 2 * 1000 / (sum(row["wall_ms"]) / 2))
        assert row["cpu_ms_per_frame"] == pytest.approx(sum(row["cpu_ms"]) / 2 / 16 / 2 / 2)
    alone = rows["sideways pipelined T=8 update clip, 1 thread"]
    # Both processes do all of it: stages have about half of the saved tensors each.
    assert rows["sideways pipelined T=8 update clip, copies, no messages"]["saved_mib"] == alone["saved_mib"] * 2
    assert "the machine's ceiling: 2 copies of [backprop accumulated m=8, 1 thread]" in run[1]


@pytest.mark.slow
def test_a_frames_own_loss_reaches_the_bottom_unit_at_tick_2d_minus_1(run):
    assert run[0]["own_loss_scheduled"] == {"1": 7, "2": 6, "3": 5, "4": 4}
    assert run[0]["own_loss_seen"] == run[0]["own_loss_scheduled"]
    assert "unit 1 of 4: tick 7, as the schedule says" in run[1]


@pytest.mark.slow
def test_memory_claims(run):
    """Flat in the clip's length for Sideways in stages, growing for every method that waits for the clip."""
    rows = {row["row"]: row for row in run[0]["rows"]}

    def saved(name):
        return max(rows[name]["saved_mib"])

    short, long = (f"sideways pipelined T={t} update clip, shared memory" for t in (8, 16))
    assert saved(long) <= 1.01 * saved(short)
    assert saved(short) <= 0.35 * saved("backprop whole m=1, 1 thread")
    assert saved(short) <= 0.2 * saved("backprop GPipe m=8, gloo")
    short, long = (f"greedy pipelined T={t} update clip, shared memory" for t in (8, 16))
    assert saved(long) <= 1.01 * saved(short)
    naive = "backprop vectorised T={} update clip, shared memory"
    assert saved(naive.format(16)) > 1.7 * saved(naive.format(8))
    assert all(len(r["peak_mib"]) == (1 if r["placement"] == "one process" else 2) for r in rows.values())
    assert all(peak > 10 for r in rows.values() for peak in r["peak_mib"])


@pytest.mark.slow
def test_passes_and_ticks(run):
    for row in run[0]["rows"]:
        has_ticks = row["executor"] == "pipelined" and bool(row["wall_ms"] or row["rule"] == "sideways")
        assert (row["tick_p50_ms"] is not None) == has_ticks
        assert not has_ticks or row["tick_p95_ms"] >= row["tick_p50_ms"] > 0
        assert (row["passes"] < 1) == (row["rule"] != "backprop")


@pytest.mark.slow
def test_the_record_says_how(run):
    content, text = run
    assert content["command"].startswith("skip-sideways bench --stages 2 --blocks 1")
    assert content["command"] in text
    assert content["commit"] in text
    assert content["settings"]["wiring"] == "residual"
    assert all(row["row"] in text for row in content["rows"])
    assert all(f"goal {number}: " in text for number in (1, 2, 3, 4, 8))
    assert content["greedy_heads"]["modules"] == 2
    assert "greedy: 2 modules, whose heads add " in text
    assert any("DualPipeV: needs at least 4 micro-batches" in line for line in content["absent"])
    assert any("torchgpipe" in line for line in content["absent"])
    assert markdown(content) == text


@pytest.mark.slow
def test_rows_are_stored_as_mlflow_runs(run, mlflow_store):
    from app.bench_store import store
    from app.tracking import new_client

    content, _ = run
    assert store(content, "stages") == len(content["rows"])
    client = new_client(mlflow_store)
    stored = client.search_runs([client.get_experiment_by_name("stages").experiment_id])
    by_name = {found.info.run_name: found for found in stored}
    assert set(by_name) == {row["row"] for row in content["rows"]}
    ours = by_name["sideways pipelined T=8 update clip, shared memory"]
    assert ours.data.params["executor"] == "pipelined"
    assert ours.data.params["depth"] == "4"
    assert ours.data.metrics["latency/own_loss_tick_unit_1"] == 7
    assert ours.data.metrics["bench/cpu_ms_per_frame"] > 0
    assert ours.info.status == "FINISHED"


def test_metrics_of_a_row_without_times():
    row = {
        "executor": "whole",
        "placement": "one process",
        "frames_per_second": None,
        "cpu_ms_per_frame": None,
        "passes": 1.0,
        "tick_p50_ms": None,
        "tick_p95_ms": None,
        "saved_mib": [2.0],
        "peak_mib": [300.0],
    }
    found = metrics_of(row, {1: 3})
    assert found == {"bench/passes": 1.0, "memory/saved_mib_stage_0": 2.0, "memory/peak_mib_stage_0": 300.0}


def test_two_units_leave_out_schedules_that_need_four():
    options = parser().parse_args([*TABLE])
    contestants, absent = contestants_of(options, setting_of(options))
    executors = {c.executor for c in contestants} - {"torchgpipe"}  # where it is installed
    assert executors == {"whole", "accumulated", "vectorised", "pipelined", "GPipe", "1F1B"}
    assert "Interleaved1F1B: needs 4 equal chunks; the network has 2 units (m=2, m=8)" in absent
    assert len({c.name for c in contestants}) == len(contestants)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--stages", "1"], "give at least 2 stages"),
        (["--stages", "2", "--depth", "3"], "--stages 2 with --depth 3; give at least 2 stages, and a number of units"),
        (["--stages", "2", "--rounds", "0"], "--rounds is 0; it must be at least 1"),
        (["--stages", "2", "--depth", "4", "--frames", "4"], "4 units need clips of at least 7"),
        (["--stages", "2", "--wiring", "dens"], "did you mean 'dense'"),
        (["--stages", "2", "--peers", "--micro", "0"], "--micro .0.; each must be at least 1"),
    ],
)
def test_errors_that_teach(options, message):
    with pytest.raises(ValueError, match=message):
        main(options)


def test_help_is_quick_and_loads_no_torch():
    code = """
import sys
from app.cli import main
try:
    main(["bench", "--stages", "2", "--help"])
except SystemExit:
    pass
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    assert "--transport" in done.stdout
