"""The command as a person types it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from app.compare import build_parser, main
from app.comparison.check import distinct
from app.comparison.grid import build_grid
from app.comparison.overrides import get
from app.comparison.spec import load_comparison, read_comparison
from tests.datamodules import miniature

CONFIGS = Path(__file__).resolve().parents[2] / "app/configs/comparisons"
TINY = {
    "name": "tiny",
    "intent": "End to end in seconds",
    "experiment": {
        "trainer": {"max_steps": 2, "accelerator": "cpu", "log_every_n_steps": 1, "limit_val_batches": 0},
        "model": {
            "class_path": "ActionRecognition",
            "init_args": {"network": "small_cnn", "wiring": "dense", "depth": 3, "width": 0.25},
        },
        "data": {
            "class_path": "MovingDigits",
            "init_args": {"frames": 8, "size": 32, "batch_size": 4, "train_clips": 8, "val_clips": 4, "test_clips": 8},
        },
    },
    "control": "exact",
    "rows": [
        {"name": "sideways", "overrides": {"model.init_args.rule": "sideways"}},
        {"name": "exact", "overrides": {"model.init_args.rule": "backprop_shifted"}},
    ],
}


@pytest.fixture
def tiny(tmp_cwd):
    path = tmp_cwd / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY))
    return path


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_comparison_we_ship_is_valid_and_named_as_its_file(path):
    comparison = load_comparison(path)
    assert comparison.name == path.stem
    assert path.read_text().startswith("# ")
    for row in comparison.rows:
        assert get(row.overrides, "model.init_args.rule"), row.name


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_table_has_the_rows_that_make_it_honest(path):
    comparison = load_comparison(path)
    if "LongMemory" in str(comparison.experiment["model"]["class_path"]):
        assert {"memup", "truncated_backprop"} <= {name.split("@")[0] for name in comparison.row_names}
        assert comparison.control == "truncated_backprop"
        return
    assert {"frozen", "sideways", "skip_sideways", "backprop_shifted", "backprop_frame"} <= {
        name.split("@")[0] for name in comparison.row_names
    }
    assert (comparison.frozen, comparison.exact) == ("frozen", "backprop_shifted")


def test_options_are_these():
    options = {option for action in build_parser()._actions for option in action.option_strings}
    assert options == {
        *("-h", "--help", "--config", "--rows", "--folds", "--seeds", "--output", "--jobs", "--limit-hours"),
        *("--tune", "--rerun-changed", "--dry-run", "--set"),
    }


def test_help_is_fast_and_shows_an_example(repository):
    code = "import sys; from app.compare import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    code += "heavy = {'torch', 'lightning', 'mlflow', 'numpy', 'yaml'} & set(sys.modules); print('heavy', heavy)"
    done = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=True)
    assert "example: skip-sideways compare --config app/configs/comparisons/demo.yaml" in " ".join(done.stdout.split())
    assert "heavy set()" in done.stdout


def test_dry_run_changes_nothing(tiny, capsys):
    assert main(["--config", str(tiny), "--dry-run", "--seeds", "0", "1"]) == 0
    output = capsys.readouterr()
    assert output.out.count("to run ") == 4
    assert "4 cells, 0 done, 4 to run" in output.err
    assert [path.name for path in tiny.parent.iterdir()] == ["tiny.yaml"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "none.yaml"], "no such file"),
        (["--config", "tiny.yaml", "--rows", "exat"], "did you mean 'exact'"),
        (["--config", "tiny.yaml", "--folds", "1"], "has no folds"),
        (["--config", "tiny.yaml", "--jobs", "0"], "--jobs 0: expected at least 1"),
        (["--config", "tiny.yaml", "--tune"], "has no tune grid"),
    ],
)
def test_refusals_have_exit_code_2(tiny, capsys, arguments, message):
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_from_yaml_to_table_with_real_training(tiny, mlflow_store, capfd):
    from app.tracking import new_client

    environment = os.environ | {"MLFLOW_TRACKING_URI": mlflow_store}
    command = [sys.executable, "-c", "import sys; from app.compare import main; sys.exit(main(sys.argv[1:]))"]
    script = [*command, "--config", "tiny.yaml", "--jobs", "2"]
    done = subprocess.run(script, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].endswith("`skip-sideways dashboard` shows these runs.")
    content = json.loads(Path("runs/comparisons/tiny/results.json").read_text())
    assert [row["row"] for row in content["rows"]] == ["exact", "sideways"]
    client = new_client(mlflow_store)
    for row in content["rows"]:
        assert {"test/top1", "test/loss", "memory/saved_tensors_mib", "latency/tick_ms"} <= set(row["metrics"])
        run = client.get_run(row["run_id"])
        assert run.data.tags["mlflow.parentRunId"] == content["header"]["parent_run_id"]
        assert (run.data.tags["row"], run.data.tags["comparison"]) == (row["row"], "tiny")
        assert run.data.tags["kind"] == "run"
        assert run.data.metrics["test/top1"] == pytest.approx(row["metrics"]["test/top1"])
    again = subprocess.run(script, env=environment, capture_output=True, text=True)
    assert again.returncode == 0
    assert "2 cells, 2 done, 0 to run" in again.stderr
    assert again.stdout.splitlines()[-3:] == done.stdout.splitlines()[-3:]


def with_override(path, key, value):
    """Write the tiny comparison with one override more in its row sideways."""
    content = yaml.safe_load(path.read_text())
    content["rows"][0]["overrides"][key] = value
    path.write_text(yaml.safe_dump(content))


@pytest.mark.parametrize("dry", [[], ["--dry-run"]], ids=["run", "dry run"])
@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model.init_args.rul", "sideways", "Option 'rul' is not accepted. Did you mean rule?"),
        ("model.init_args.wiring", "chein", "wiring 'chein' is unknown"),
        ("model.init_args.lr", "fast", "Got value: fast"),
        ("data.init_args.frame", 8, "Option 'frame' is not accepted. Did you mean frames?"),
        ("data.init_args.motion", "jump", "motion 'jump': expected one of wrap, bounce"),
        ("data.class_path", "MovingDigit", "Did you mean MovingDigits?"),
        ("trainer.max_epoch", 1, "Group 'trainer' does not accept option 'max_epoch'. Did you mean max_epochs?"),
        ("trainer.accelerator", "abacus", "abacus"),
    ],
)
def test_what_a_row_cannot_be_made_of_is_refused_before_any_cell_runs(tiny, capsys, key, value, message, dry):
    with_override(tiny, key, value)
    assert main(["--config", "tiny.yaml", *dry]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("compare: row 'sideways': ")
    assert message in line
    assert [path.name for path in tiny.parent.iterdir()] == ["tiny.yaml"]


def test_trials_are_checked_too(tiny, capsys):
    content = yaml.safe_load(tiny.read_text())
    content |= {"tune": {"model.init_args.pool": ["avg", "mean"]}, "tuning_seeds": [0]}
    tiny.write_text(yaml.safe_dump(content))
    assert main(["--config", "tiny.yaml", "--tune", "--dry-run"]) == 2
    assert "compare: row 'sideways-trial2': head pool 'mean'" in capsys.readouterr().err


def test_every_fold_is_looked_at_before_any_cell_runs(tmp_cwd, capsys):
    """The video that is gone is in the lists of fold 3 alone; options are named as `compare` takes them."""
    root = miniature.hmdb51(tmp_cwd / "archive", frames=8)
    (gone,) = root.rglob("SchoolRulesHowTheyHelpUs*.avi")
    gone.unlink()
    data = {"class_path": "HMDB51", "init_args": {"root": str(root), "frames": 8, "size": 16}}
    path = tmp_cwd / "folds.yaml"
    path.write_text(yaml.safe_dump(TINY | {"folds": [3, 1], "experiment": TINY["experiment"] | {"data": data}}))
    assert main(["--config", "folds.yaml", "--folds", "1", "--dry-run"]) == 0
    capsys.readouterr()
    assert main(["--config", "folds.yaml"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("compare: row 'sideways', fold 3: hmdb51: 1 of the ")
    assert " In a comparison: --set " in line
    assert line.endswith("data.init_args.allow_missing=...")
    assert not Path("runs").exists()


def test_data_is_made_once_for_every_configuration_of_it(tiny):
    content = yaml.safe_load(tiny.read_text()) | {"folds": [1, 2, 3], "seeds": [0, 1]}
    content["rows"].append({"name": "wide", "overrides": {"data.init_args.size": 48}, "folds": [2]})
    cells = build_grid(read_comparison(content))
    made = [(cell.row, cell.fold, cell.seed) for cell in distinct(cells)]
    assert made == [("sideways", 1, 0), ("exact", 1, 0), ("sideways", 2, 0), ("wide", 2, 0), ("sideways", 3, 0)]


@pytest.mark.slow
def test_a_cell_that_fails_is_listed_with_the_reason(tiny, mlflow_store, capfd):
    with_override(tiny, "data.init_args.frames", 4)
    assert main(["--config", "tiny.yaml", "--jobs", "1"]) == 1
    output = capfd.readouterr()
    assert "needs at least 5" in output.err.split("failed: sideways, fold 0, seed 0: ")[1]
    assert "repeats only the failed cells" in output.out
