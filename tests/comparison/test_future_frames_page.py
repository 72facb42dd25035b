"""docs/future_frames.md: its pictures are what the schedule gives, and its commands and facts are the code's."""

import importlib.util
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture(scope="module")
def figure():
    spec = importlib.util.spec_from_file_location("future_figure", DOCS / "future_frames_figure.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def page():
    return (DOCS / "future_frames.md").read_text()


def test_the_page_is_what_the_functions_give(figure, page, tmp_path, monkeypatch):
    assert figure.filled(page) == page
    names = [match[1] for match in figure.BLOCKS.finditer(page)]
    assert names == ["horizon", "wirings", "lengths", "unet"]
    monkeypatch.setattr(figure, "PAGE", tmp_path / "page.md")
    figure.PAGE.write_text(page.replace("| dense | 2 |", "| dense | 3 |"))
    assert figure.main(["--check"]) == 1
    assert figure.main([]) == 0
    assert figure.PAGE.read_text() == page


def test_the_wait_of_the_loss_is_what_a_live_stream_would_wait(figure):
    waits = {}
    for name in ("chain", "unet"):
        wiring = figure.make_wiring(name, 6)
        newest = 20 - min(wiring.path_lengths(6)) + 1  # of the output of tick 20, by which frame 20 has been read
        waits[name] = [len(range(20, newest + 4 + lead)) for lead in (0, 2)]
        assert [figure.ticks_of_wait(wiring, 4, lead) for lead in (0, 2)] == waits[name]
    assert waits == {"chain": [0, 1], "unet": [3, 5]}


def test_documented_comparisons_pass_a_dry_run(page, tmp_path, monkeypatch, capsys):
    from app.compare import main

    monkeypatch.chdir(DOCS.parent)
    monkeypatch.setattr("app.comparison.check.check_rows", lambda *_: None)  # needs the data
    lines = re.findall(r"^ +skip-sideways compare (.+)$", page, re.MULTILINE)
    assert len(lines) >= 2
    for line in lines:
        assert main([*line.split(), "--dry-run", "--output", str(tmp_path)]) == 0, line + capsys.readouterr().err


def test_no_target_is_a_frame_that_has_reached_the_output(figure):
    rows = figure.horizon_picture().splitlines()[1:]
    assert len(rows) == 6
    for row in rows:
        seen, ahead = row.split("m")
        assert "+" not in seen, row
        assert ahead.split() == ["+1", "+2"], row
        assert "*" not in ahead, row


def test_protocols_on_the_page_are_those_of_the_scores(page):
    from lightning_modules.metrics.frame_scores import PROTOCOLS

    table = set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
    assert set(PROTOCOLS) <= table
    for limit in ("11 x 11", "1.5", "1e-10", "100"):
        assert any(limit in text for text in PROTOCOLS.values()), limit
        assert limit in page
