"""The pages in docs/: what is generated is up to date, what they name exists, and their options are the code's."""

import importlib.util
import inspect
import re
import shlex
import subprocess
import sys

import pytest
import yaml

pytestmark = pytest.mark.timeout(60)
PAGE = "docs/depth_parallel.md"


@pytest.fixture(scope="module")
def figure(repository):
    spec = importlib.util.spec_from_file_location("figure", repository / "docs" / "depth_parallel_figure.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def page(repository) -> str:
    return (repository / PAGE).read_text()


def test_the_page_is_what_the_schedule_gives(repository) -> None:
    script = repository / "docs" / "depth_parallel_figure.py"
    done = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_page_that_is_not_is_noticed_and_mended(figure, page, tmp_path, monkeypatch, capsys) -> None:
    stale = page.replace("unit 1 forward           1   2", "unit 1 forward           2   3")
    assert stale != page
    copy = tmp_path / "page.md"
    copy.write_text(stale)
    monkeypatch.setattr(figure, "PAGE", copy)
    assert figure.main(["--check"]) == 1
    assert "type 'python docs/depth_parallel_figure.py'" in capsys.readouterr().out
    assert copy.read_text() == stale
    assert figure.main([]) == 0
    assert copy.read_text() == page


def test_every_generated_block_is_there_and_filled(figure, page) -> None:
    names = [match[1] for match in figure.BLOCKS.finditer(page)]
    assert names == ["clock", "channels", "balance"]
    assert all(match[0].count("\n") > 5 for match in figure.BLOCKS.finditer(page))


def test_the_diagram_shows_the_facts_that_the_text_states(figure) -> None:
    """Frame 1's own loss reaches unit 1 at tick 2D - 1 = 7; over the skip everything is one frame newer."""
    rows = {line[:24].strip(): line[24:] for line in figure.clock_diagram(figure.PLACEMENT).splitlines()}

    def at(label: str, tick: int) -> str:
        return rows[label][4 * (tick - 1) : 4 * tick].strip()

    assert at("unit 4 forward", 4) == "1"
    assert [at("unit 1 gradient", t) for t in (6, 7)] == ["", "1"]
    assert (at("2 -> 3, 4", 5), at("1 -> 3  (skip)", 5)) == ("3", "4")
    assert (at("2 <- 3, 4", 7), at("1 <- 3  (skip)", 7)) == ("2", "2")
    assert at("unit 2 gradient", 7) == "2"  # which is what the chain's message for unit 1 is about, one tick later
    assert (at("unit 1 gradient", 8), at("1 <- 3  (skip)", 8)) == ("2", "3")


def test_options_on_the_page_are_the_strategys(page) -> None:
    from lightning.pytorch.strategies import ParallelStrategy

    import lightning_modules  # noqa: F401 - repairs torchvision, before lightning
    from lightning_modules.strategies.depth_parallel import DepthParallelStrategy

    (block,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    strategy = yaml.safe_load(block)["trainer"]["strategy"]
    assert strategy["class_path"] == f"{DepthParallelStrategy.__module__}.{DepthParallelStrategy.__name__}"
    ours = {
        name: p.default
        for name, p in inspect.signature(DepthParallelStrategy.__init__).parameters.items()
        if name not in {"self", *inspect.signature(ParallelStrategy.__init__).parameters}  # Lightning sets these
    }
    assert set(strategy["init_args"]) == set(ours)
    table = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", page, re.MULTILINE))
    shown = {name: "all devices" if default is None else f"{default}" for name, default in ours.items()}
    assert {name: text.strip("`") for name, text in table.items() if name in ours} == {
        name: text.removesuffix(".0") for name, text in shown.items()
    }


@pytest.mark.slow
def test_the_example_of_ones_own_streams_runs_as_written(repository, tmp_cwd, mlflow_store, capfd) -> None:
    """Its 500 updates shortened to three, and those of the detector to two."""
    from app.cli import main

    text = (repository / "docs" / "memory.md").read_text().partition("### Your own streams")[2]
    script, commands = re.search(r"```python\n(.*?)```\n\n```\n(.*?)```", text, re.DOTALL).groups()
    exec(compile(script, "docs/memory.md", "exec"), {})
    fit, test = (shlex.split(line)[1:] for line in commands.strip().splitlines())
    quiet = "--trainer.enable_progress_bar=false"
    assert main([*fit, quiet, "--trainer.max_steps=3", "--model.detector_updates=2"]) == 0
    (path,) = tmp_cwd.glob(test[-1])
    assert main([*test[:-1], str(path), quiet]) == 0
    printed = capfd.readouterr().out
    section = text.partition("## Reading the results")[2].partition("\n## ")[0]
    table = re.findall(r"^\| `(\S+)` \|", section, re.MULTILINE)
    assert {"test/top1", "latency/tick_ms"} <= set(table)
    assert [name for name in table if name not in printed] == []


def test_links_commands_and_make_targets_exist(repository) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (repository / "Makefile").read_text(), re.MULTILINE))
    for path in (repository / "docs").glob("*.md"):
        text = path.read_text()
        for link in re.findall(r"\]\((?!http)([^)#]+)\)", text):
            assert (path.parent / link).exists(), f"{path.name}: {link}"
        for config in re.findall(r"--config (app/\S+)", text):
            assert (repository / config).is_file(), f"{path.name}: {config}"
        assert set(re.findall(r"`make ([a-z-]+)", text)) <= targets
