"""benchmarks/xconv: what it calls checkpointing is exact and counted in full, and its search finds the largest."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks" / "xconv"


@pytest.fixture(scope="module")
def scripts():
    """The benchmark's two files as modules, `run` and `cells`."""
    sys.path.insert(0, str(FOLDER))
    try:
        import cells
        import run

        assert Path(run.__file__).parent == FOLDER
        yield run, cells
    finally:
        sys.path.remove(str(FOLDER))
        for name in ("run", "cells"):
            sys.modules.pop(name, None)


@pytest.mark.parametrize("network", ["vgg8", "cnn3d"])
def test_checkpointing_changes_no_gradient_and_compact_relus_neither(scripts, network):
    run, cells = scripts
    for way in (run.CHECKPOINT, cells.Way("relu", compact="relu")):
        assert cells.error_of(cells.Cell(network, way, 2, 3)) < 1e-6
    assert cells.error_of(cells.Cell(network, run.BOTH, 2, 3)) > 0.05


def test_what_a_block_keeps_when_it_is_computed_again_is_counted(scripts):
    _, cells = scripts
    x = torch.ones(256, requires_grad=True)  # 1 KiB
    twice = nn.Sequential(nn.Tanh(), nn.Tanh())  # each keeps its result

    def step(network):
        return lambda: network(x * 1).sum().backward()

    assert cells.saved_bytes(twice, step(twice)) == 2 * 1024
    blocks = nn.Sequential(cells.Checkpointed(twice), cells.Checkpointed(twice))
    # Two blocks' inputs, and in the last block's backward what it keeps; its block's input is no result of a Tanh.
    assert cells.saved_bytes(blocks, step(blocks)) == (2 + 2) * 1024


def test_checkpointing_leaves_less_than_exact_backprop_and_sketches_less_than_that(scripts):
    run, cells = scripts
    saved = [
        cells.saved_of(cells.Cell("vgg8", way, 2, 3))["saved_mib"] for way in (run.EXACT, run.CHECKPOINT, run.BOTH)
    ]
    assert saved[2] <= run.AIM * saved[0]
    assert saved[2] < saved[1] < saved[0]


@pytest.mark.parametrize("guess", [1, 7, 30, 500])
def test_the_search_finds_the_largest_that_fits(scripts, guess):
    run, _ = scripts
    assert run.largest(lambda n: 10 + 3.0 * n, 100, guess) == (30, 100)
    assert run.largest(lambda n: 10 + 3.0 * n, 12, guess) == (0, 0)


def test_a_process_without_an_answer_is_told(scripts):
    _, cells = scripts
    with pytest.raises(RuntimeError, match=r"exit.*ended with code 3 and no answer"):
        cells.in_own_process(sys.exit, 3)


@pytest.mark.slow
def test_a_quick_run_writes_every_table(tmp_path):
    done = subprocess.run(
        [sys.executable, FOLDER / "run.py", "--quick", "--output", tmp_path], capture_output=True, text=True
    )
    assert not done.returncode, done.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    assert {row["way"] for row in results["memory"]} >= {"exact", "checkpoint", "xconv", "relu", "norm", "xconv + norm"}
    fits = {(row["network"], row["side"]): row for row in results["fits"] if row["way"] == "xconv + norm"}
    assert all(row["most"] > 2 * row["base"] and row["mib"] <= row["limit_mib"] for row in fits.values())
    assert len(fits) == 4
    text = (tmp_path / "results.md").read_text()
    assert text.count("| exact |") >= 4
    assert "met" in text
