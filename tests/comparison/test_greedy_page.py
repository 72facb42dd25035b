"""docs/greedy.md: its tables are what the functions give, and its options, defaults and commands are the code's."""

import importlib.util
import inspect
import re
from pathlib import Path

import pytest
import yaml

DOCS = Path(__file__).resolve().parents[2] / "docs"
OPTIONS = ("modules", "head", "head_width", "replay", "replay_order", "max_reuse", "slow_down", "vq_groups", "vq_codes",
           "vq_decay")  # fmt: skip


@pytest.fixture(scope="module")
def figure():
    spec = importlib.util.spec_from_file_location("greedy_figure", DOCS / "greedy_figure.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def page():
    return (DOCS / "greedy.md").read_text()


def test_the_page_is_what_the_functions_give(figure, page, tmp_path, monkeypatch, capsys):
    assert figure.filled(page) == page
    names = [match[1] for match in figure.BLOCKS.finditer(page)]
    assert names == ["cuts", "clock", "wirings", "heads", "orders", "bits"]
    monkeypatch.setattr(figure, "PAGE", tmp_path / "page.md")
    figure.PAGE.write_text(page.replace("| absent | 1, 1, 1, 1, 2 |", "| absent | 6 |"))
    assert figure.main(["--check"]) == 1
    assert "type 'python docs/greedy_figure.py'" in capsys.readouterr().out
    assert figure.main([]) == 0
    assert figure.PAGE.read_text() == page


def test_a_module_is_one_tick_behind_the_one_below_and_a_skip_brings_a_newer_frame(figure):
    """Counted here by hand: module 5 of a chain has frame t - 4; over two skips it sees frame t - 2 besides."""
    chain, residual = (block.splitlines()[1:] for block in figure.clock().split("wiring ")[1:])
    assert chain[4].split()[-4:] == ["1", "2", "3", "4"]
    assert residual[4].split()[-4:] == ["1-3", "2-4", "3-5", "4-6"]
    assert chain[0].split()[-8:] == [str(tick) for tick in range(1, 9)]


def test_skips_bring_nothing_new_where_no_skip_leaves_a_module_by_more_than_one(page):
    assert "| residual | m, m - 1, m - 2 | m | m |" in page
    assert "| dense | m, m - 1, m - 2, m - 3 | m, m - 1 | m |" in page


def test_the_share_of_heads_is_counted_from_the_layers(figure):
    """A head mlp of 0.25 on C channels: LayerNorms of C, linear 4C -> C, C -> C twice, and C -> 10."""
    costs = figure.costs_of("mlp", 0.25)
    for channels, cost in zip((16, 32, 64, 64), costs[:4], strict=True):
        hidden = max(4, channels)
        linears = [(4 * channels, hidden), (hidden, hidden), (hidden, hidden), (hidden, 10)]
        assert cost.head_macs == sum(a * b for a, b in linears)
        assert cost.head_parameters == sum(a * b + b for a, b in linears) + 3 * 2 * hidden
    assert costs[4].head_parameters == 0


def test_options_and_defaults_on_the_page_are_the_tasks(page):
    from lightning_modules.video_task import VideoTask

    ours = {name: p.default for name, p in inspect.signature(VideoTask.__init__).parameters.items()}
    table = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", page.partition("## Options")[2], re.MULTILINE))
    shown = {name: text.strip("`") for name, text in table.items() if name in OPTIONS}
    expected = {name: "absent" if ours[name] is None else str(ours[name]) for name in OPTIONS}
    assert shown == expected | {"head": "the task's"}
    assert table["rule"].strip("`") == ours["rule"]


def test_heads_on_the_page_are_those_that_there_are(page):
    from lightning_modules.networks.heads import DECODER, HEADS

    block = page.partition("## Heads")[2].partition("Normalisation")[0]
    assert re.findall(r"^\| `([\w-]+)` \|", block, re.MULTILINE) == ["head", *HEADS, DECODER]


def test_documented_commands_are_understood(page, tmp_path, monkeypatch, capsys):
    """Each `fit` prints its configuration with what the command chose; each `compare` passes a dry run."""
    import shlex

    from app.cli import main as cli
    from app.compare import main as compare

    monkeypatch.chdir(DOCS.parent)
    monkeypatch.setattr("app.comparison.check.check_rows", lambda *_: None)  # needs the data
    fits = re.findall(r"^ +skip-sideways fit (.+)$", page, re.MULTILINE)
    comparisons = re.findall(r"^ +skip-sideways compare (.+)$", page, re.MULTILINE)
    assert len(fits) >= 5
    assert comparisons
    for line in fits:
        with pytest.raises(SystemExit) as stop:
            cli(["fit", *shlex.split(line), "--print_config"])
        assert stop.value.code == 0
        chosen = yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]
        assert chosen["rule"].startswith("greedy")
        if "slow_down" in line:
            assert (chosen["replay"], chosen["slow_down"]) == (4, [1, 1, 2, 1])
    for line in comparisons:
        assert compare([*line.split(), "--dry-run", "--output", str(tmp_path)]) == 0, line + capsys.readouterr().err


def test_slow_downs_of_the_documented_command_are_one_a_module(page):
    from lightning_modules.action_recognition import ActionRecognition

    config = yaml.safe_load((DOCS.parent / "app/configs/experiments/digits_greedy.yaml").read_text())
    (given,) = re.findall(r"--model\.slow_down '(\[.*?\])'", page)
    model = ActionRecognition(10, in_channels=1, **config["model"]["init_args"])
    assert len(yaml.safe_load(given)) == model.network.module_count
