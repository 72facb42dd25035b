"""docs/xconv.md: its tables are what the layers give, and its options, defaults and commands are the code's."""

import importlib.util
import inspect
import re
import shlex
from pathlib import Path

import pytest
import yaml

DOCS = Path(__file__).resolve().parents[2] / "docs"
OPTIONS = ("probes", "probe_warmup", "probe_schedule", "probe_layers", "probe_mode", "probe_center", "probe_half",
           "probe_budget_mib", "compact")  # fmt: skip


@pytest.fixture(scope="module")
def figure():
    spec = importlib.util.spec_from_file_location("xconv_figure", DOCS / "xconv_figure.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def page():
    return (DOCS / "xconv.md").read_text()


def test_the_page_is_what_the_layers_give(figure, page, tmp_path, monkeypatch, capsys):
    assert figure.filled(page) == page
    assert [match[1] for match in figure.BLOCKS.finditer(page)] == ["levels", "choice"]
    monkeypatch.setattr(figure, "PAGE", tmp_path / "page.md")
    figure.PAGE.write_text(page.replace("| `none` | exact |", "| `none` | nothing |"))
    assert figure.main(["--check"]) == 1
    assert "type 'python docs/xconv_figure.py'" in capsys.readouterr().out
    assert figure.main([]) == 0
    assert figure.PAGE.read_text() == page


def test_sketches_and_few_bits_together_keep_a_quarter_of_the_bytes_at_most(figure):
    """What the page claims; and that sketches alone keep nearly all, which is why both go together."""
    for name in figure.SHAPES:
        exact = figure.saved_kib(name, "none", 0)
        assert figure.saved_kib(name, "norm", figure.PROBES) <= 0.25 * exact
        assert figure.saved_kib(name, "none", figure.PROBES) >= 0.9 * exact


def test_options_and_defaults_on_the_page_are_the_tasks(page):
    from lightning_modules.video_task import VideoTask

    ours = {name: p.default for name, p in inspect.signature(VideoTask.__init__).parameters.items()}
    table = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", page.partition("## Options")[2], re.MULTILINE))
    assert {name: text.strip().strip("`") for name, text in table.items()} == {
        name: {None: "absent", True: "true"}.get(ours[name], str(ours[name])) if ours[name] != 0 else "0"
        for name in OPTIONS
    }


def test_modes_and_levels_on_the_page_are_those_that_there_are(page):
    from lightning_modules.layers.compact import LEVELS
    from lightning_modules.layers.probes import MODES

    found = re.findall(r"^\| `(\w+)` \|", page.partition("## Options")[0], re.MULTILINE)
    assert found[: len(MODES) + 1] == ["probe_mode", *MODES]
    assert found[len(MODES) + 1 : len(MODES) + 2 + len(LEVELS)] == ["compact", *LEVELS]


def test_the_documented_fit_is_understood(page, monkeypatch, capsys):
    from app.cli import main as cli

    monkeypatch.chdir(DOCS.parent)
    (line,) = [x for x in re.findall(r"^ +skip-sideways fit (.+)$", page, re.MULTILINE) if "YOURS" not in x]
    with pytest.raises(SystemExit) as stop:
        cli(["fit", *shlex.split(line), "--print_config"])
    assert stop.value.code == 0
    chosen = yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]
    assert chosen["probes"]
    assert chosen["compact"] == "norm"


def test_the_documented_lines_of_code_run_and_learn(page):
    from lightning_modules.layers.xconv import xconv_layers
    from lightning_modules.networks import build_network

    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    network = build_network("cnn3d", in_channels=3, num_classes=4)
    names = list(network.state_dict())
    exec(code, {"network": network})
    assert list(network.state_dict()) == names
    assert {layer.probes for layer in xconv_layers(network).values()} == {0}
