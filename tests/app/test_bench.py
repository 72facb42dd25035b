"""`skip-sideways bench`: rows measured side by side, files that say how, claims that hold under load, clear errors."""

import json
import subprocess
import sys

import pytest
import torch

from app.bench import BASE, greedy_lines, main, markdown, verdict
from lightning_modules.metrics import memory, step_cost
from lightning_modules.metrics.interleaved import interleaved_times, median_ratio
from lightning_modules.networks import build_network

TINY = ["--width", "0.25", "--size", "16", "--batch", "2", "--rounds", "3", "--depth", "4", "--frames", "8", "32"]
GREEDY = [row for row in step_cost.ROWS if row.rule.local]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench") / "new"
    threads = torch.get_num_threads()
    assert main([*TINY, "--wiring", "dense", "--output", str(folder)]) == 0
    torch.set_num_threads(threads)
    return json.loads((folder / "results.json").read_text()), (folder / "results.md").read_text()


def test_every_row_is_measured(run):
    content, _ = run
    assert [row["row"] for row in content["rows"]] == [row.name for row in step_cost.ROWS]
    for row in content["rows"]:
        assert len(row["wall_ms"]) == len(row["cpu_ms"]) == 3
        assert row["step_p50_ms"] == sorted(row["wall_ms"])[1]
        assert row["step_p95_ms"] >= row["step_p50_ms"] > 0
        assert row["cpu_ms_per_frame"] == pytest.approx(sorted(row["cpu_ms"])[1] / 16)
        assert set(row["memory"]) == {"8", "32"}


def test_ratios_are_taken_inside_a_round(run):
    rows = {row["row"]: row for row in run[0]["rows"]}
    base = rows[BASE]
    assert base["wall_ratio"] == base["cpu_ratio"] == 1
    for row in rows.values():
        ratios = sorted(a / b for a, b in zip(row["wall_ms"], base["wall_ms"], strict=True))
        assert row["wall_ratio"] == pytest.approx(ratios[1])


def test_memory_claims(run):
    """Flat in the clip's length for the pipelined executor, its state too; growing for the vectorised one."""
    for row in run[0]["rows"]:
        short, long = row["memory"]["8"], row["memory"]["32"]
        if "pipelined" in row["row"]:
            assert long["saved_tensors_mib"] <= 1.01 * short["saved_tensors_mib"]
            assert 0 < long["state_mib"] <= 1.01 * short["state_mib"]
        else:
            assert long["saved_tensors_mib"] > 3 * short["saved_tensors_mib"]
            assert long["state_mib"] == 0
        assert long["device_peak_mib"] is None


def test_a_stash_costs_state(run):
    state = {row["row"]: row["memory"]["32"]["state_mib"] for row in run[0]["rows"]}
    assert state["sideways pipelined, stash exact"] > 2 * state["sideways pipelined"]


def test_greedy_rows_say_what_their_heads_cost(run):
    content, text = run
    network = step_cost.network_of(
        build_network("small_cnn", wiring="dense", width=0.25, depth=4, num_classes=10), GREEDY[0]
    )
    heads = [network.module_head(j) for j in (1, 2)]
    share = sum(p.numel() for head in heads for p in head.parameters())
    for row in content["rows"]:
        assert ("heads" in row) == row["row"].startswith("greedy")
    found = [row["heads"] for row in content["rows"] if "heads" in row]
    assert found == [found[0]] * 3
    assert found[0]["modules"] == 3
    everything = sum(p.numel() for p in network.parameters())
    assert found[0]["parameter_share"] == pytest.approx(share / (everything - share))
    assert 0 < found[0]["mac_share"] < 1
    assert f"{100 * found[0]['mac_share']:.1f} % to the network's multiplications" in text


def test_greedy_holds_one_modules_graph(run):
    saved = {row["row"]: row["memory"]["32"]["saved_tensors_mib"] for row in run[0]["rows"]}
    assert saved["greedy vectorised"] < saved["backprop_frame"]


def test_greedy_rows_train_a_copy_with_heads():
    network = build_network("small_cnn", num_classes=10)
    before = {name: p.clone() for name, p in network.named_parameters()}
    assert step_cost.network_of(network, step_cost.ROWS[0]) is network
    greedy = step_cost.network_of(network, GREEDY[0])
    clips = step_cost.random_clips(2, 12, (3, 32, 32), 10, "cpu")
    first = {name: p.clone() for name, p in greedy.named_parameters()}
    assert all(torch.equal(first[name], p) for name, p in before.items())
    for row in GREEDY:
        step_cost.training_step(greedy, row, clips)()
    changed = {name for name, p in greedy.named_parameters() if not torch.equal(p, first[name])}
    assert any(".head." in name for name in changed)
    assert {name.split(".")[1] for name in changed} == {str(unit) for unit in range(network.depth)}
    assert not network.is_local
    assert all(torch.equal(p, before[name]) for name, p in network.named_parameters())


def test_tables_from_before_greedy(run):
    assert not greedy_lines([row for row in run[0]["rows"] if "heads" not in row])


def test_the_record_says_how(run):
    content, text = run
    assert content["command"].startswith("skip-sideways bench --width 0.25")
    assert content["settings"]["wiring"] == "dense"
    assert content["packages"]["torch"] == torch.__version__
    assert content["commit"] in text
    assert content["command"] in text
    assert content["device"] in text
    assert all(row.name in text for row in step_cost.ROWS)
    assert markdown(content) == text


def test_the_verdict_follows_the_numbers(run):
    rows = [dict(row) for row in run[0]["rows"]]
    vectorised = next(row for row in rows if row["row"] == "sideways vectorised")
    vectorised["cpu_ratio"] = 1.04
    assert verdict(rows).endswith("met")
    vectorised["cpu_ratio"] = 1.06
    assert verdict(rows).endswith("missed")


def test_vectorised_sideways_costs_no_more_than_backprop():
    """The goal, by CPU time: at most 1.05 of the backprop step of the same network; 1.15 here, for a loaded machine."""
    network = build_network("small_cnn", num_classes=10)
    clips = step_cost.random_clips(4, 16, (3, 32, 32), 10, "cpu")
    rows = [row for row in step_cost.ROWS if row.name in (BASE, "sideways vectorised")]
    steps = {row.name: step_cost.training_step(network, row, clips) for row in rows}
    times = interleaved_times(steps, 9, torch.device("cpu"))
    assert median_ratio(times["sideways vectorised"].cpu_ms, times[BASE].cpu_ms) <= 1.15


def test_rounds_are_interleaved_and_each_starts_elsewhere():
    calls, rounds = [], []
    steps = {name: (lambda name=name: calls.append(name)) for name in "abc"}
    times = interleaved_times(steps, 3, torch.device("cpu"), warm_up=1, after_round=lambda: rounds.append(len(calls)))
    assert "".join(calls) == "abcbcacababc"
    assert rounds == [3, 6, 9, 12]
    assert {name: len(t.wall_ms) for name, t in times.items()} == {"a": 3, "b": 3, "c": 3}


def test_shared_storage_is_counted_once():
    x = torch.zeros(8, 4)
    assert memory.storage_bytes([x, x[2:], x.T]) == 8 * 4 * 4
    assert len(list(memory.tensors_in({"a": [x, (x,)], "b": {1: x}, "c": 3}))) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rounds", "0"], "--rounds is 0; it must be at least 1"),
        (["--width", "0"], "--width is 0.0; it must be above 0"),
        (["--frames", "4"], "6 units need clips of at least 11"),
        (["--network", "cnn3d"], "use a per-frame network"),
        (["--network", "small_cn"], "did you mean 'small_cnn'"),
        (["--wiring", "dens"], "did you mean 'dense'"),
    ],
)
def test_errors_that_teach(options, message):
    with pytest.raises(ValueError, match=message):
        main(options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_no_cuda_device():
    with pytest.raises(ValueError, match="use --device cpu"):
        main(["--device", "cuda"])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_cuda(tmp_path):
    assert main([*TINY, "--device", "cuda", "--output", str(tmp_path)]) == 0
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert all(row["memory"]["32"]["device_peak_mib"] > 0 for row in rows)


def test_only_the_core_packages_are_imported():
    """So that it runs on GPU machines that have torch, Lightning's family, torchvision and numpy, and no more."""
    absent = ["mlflow", "optuna", "pandas", "streamlit", "altair", "av", "sklearn", "pytorchvideo", "jsonargparse"]
    code = f"""
import sys
for name in {absent}:
    sys.modules[name] = None
from app.cli import main
sys.exit(main(["bench", *{TINY}, "--rounds", "1"]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "sideways vectorised" in done.stdout
