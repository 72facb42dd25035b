"""Every configuration says what it is for, and makes objects."""

from pathlib import Path

import pytest
import yaml

import app
from app.cli import main
from app.trainer_cli import SkipSidewaysCLI

CONFIGS = Path(app.__file__).parent / "configs"
COMPLETE = sorted(CONFIGS.glob("experiments/*.yaml"))
PARTS = sorted([*CONFIGS.glob("debug/*.yaml"), *CONFIGS.glob("data/*.yaml")])
BASE = CONFIGS / "experiments" / "digits_direction.yaml"


def test_there_are_some():
    assert len(COMPLETE) >= 2
    assert len(PARTS) >= 4


@pytest.mark.parametrize("path", [*COMPLETE, *PARTS], ids=lambda p: f"{p.parent.name}/{p.name}")
def test_it_begins_with_one_line_of_intent_and_prints(path, capfd):
    first, second = path.read_text().splitlines()[:2]
    assert first.startswith("# ")
    assert not second.startswith("#")
    argv = ["fit", "--config", str(BASE), "--config", str(path), "--print_config"]
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 0
    printed = yaml.safe_load(capfd.readouterr().out)
    own = yaml.safe_load(path.read_text())
    for section, values in own.items():
        if isinstance(values, dict) and "init_args" in values:
            assert printed[section]["init_args"].items() >= values["init_args"].items()
        elif isinstance(values, dict):
            assert printed[section].items() >= values.items()


@pytest.mark.parametrize("path", COMPLETE, ids=lambda p: p.name)
def test_it_makes_objects(path, request):
    config = yaml.safe_load(path.read_text())
    if config["data"]["class_path"] == "Weizmann":
        config["data"]["init_args"]["root"] = str(request.getfixturevalue("data_root") / "weizmann")
    config["trainer"] = config.get("trainer", {}) | {"logger": False}
    cli = SkipSidewaysCLI(args=config, run=False)
    assert cli.model.hparams["num_classes"] == cli.datamodule.num_classes


def test_debug_fast_runs_and_stores_nothing(tmp_cwd, mlflow_store):
    argv = ["fit", "--config", str(BASE), "--config", str(CONFIGS / "data" / "moving_digits_small.yaml")]
    argv += ["--config", str(CONFIGS / "debug" / "fast.yaml"), "--model.width=0.25", "--data.batch_size=4"]
    assert main([*argv, "--trainer.enable_progress_bar=false"]) == 0
    assert not list(tmp_cwd.glob("runs/*"))


@pytest.mark.parametrize("rule", ["backprop_frame", "backprop_shifted", "sideways"])
def test_fast_dev_run_under_every_rule(rule, tmp_cwd):
    config = ["--data=MovingDigits", "--data.batch_size=2", "--model.depth=3", "--model.width=0.25"]
    argv = [
        "fit",
        *config,
        f"--model.rule={rule}",
        "--trainer.fast_dev_run=true",
        "--trainer.enable_progress_bar=false",
    ]
    assert main(argv) == 0
