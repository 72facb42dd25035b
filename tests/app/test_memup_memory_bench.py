"""benchmarks/memup_memory: what should be flat is, what should grow does, and a run writes every table."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks" / "memup_memory"


@pytest.fixture(scope="module")
def scripts():
    """The benchmark's files as modules, `run` and `stream_cells`."""
    paths = [str(FOLDER), str(FOLDER.parent / "xconv")]
    sys.path[:0] = paths
    try:
        import run
        import stream_cells

        assert Path(run.__file__).parent == FOLDER
        yield run, stream_cells
    finally:
        for path in paths:
            sys.path.remove(path)
        for name in ("run", "cells", "stream_cells", "inference_cells"):
            sys.modules.pop(name, None)


def saved_mib(cells, way, gap):
    cell = cells.Cell(cells.COPY, way, gap, 2, Path())
    return cells.fitted(cell, 1 - cells.DETECTOR_UPDATES if way.whole else 1, save=True)[2].saved_mib


def test_saved_tensors_of_memup_are_the_same_at_any_gap_and_full_backprop_is_not(scripts):
    _, cells = scripts
    assert saved_mib(cells, cells.ENTROPY, 40) == pytest.approx(saved_mib(cells, cells.ENTROPY, 4000), rel=0.1)
    assert saved_mib(cells, cells.FULL, 400) > 5 * saved_mib(cells, cells.FULL, 40) > 0


def test_the_verdict_is_taken_from_the_peaks(scripts):
    run, _ = scripts
    rows = [
        {"data": data, "way": way, "gap": gap, "fits": True, "peak_mib": 10.0 + (gap == 5000) * more}
        for (data, _), more in zip(run.Plan().lanes, (0.1, 4.0, 0.0), strict=True)
        for way in run.FLAT_WAYS
        for gap in (500, 5000)
    ]
    said = run.verdict(rows, run.Plan())
    assert "CopySequences, memup, entropy: +1.0 % (flat)" in said
    assert "CuedVideo, memup, surprise: +40.0 % (not flat)" in said


@pytest.mark.slow
def test_a_quick_run_writes_every_table(tmp_path):
    done = subprocess.run(
        [sys.executable, FOLDER / "run.py", "--quick", "--output", tmp_path], capture_output=True, text=True
    )
    assert not done.returncode, done.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    rows = {(row["data"], row["way"], row["gap"]): row for row in results["updates"]}
    assert ("CopySequences", "memup, entropy", 120) in rows
    for data in ("CopySequences", "ArrayStreams"):
        short, long = (rows[data, "memup, entropy", gap]["saved_mib"] for gap in (20, 60))
        assert long == pytest.approx(short, rel=0.1)
        short, long = (rows[data, "full backprop", gap]["saved_mib"] for gap in (20, 60))
        assert long > 1.5 * short
    held = {row["held_kib"] for row in results["inference"] if row["data"] == "CopySequences"}
    assert len(held) == 1
    text = (tmp_path / "results.md").read_text()
    assert text.count("memory of an update") == 2
    assert "step by step: held KiB" in text
