"""Every configuration says what it is for, and makes objects."""

from pathlib import Path

import pytest
import yaml

import app
from app.cli import main
from app.trainer_cli import SkipSidewaysCLI
from tests.datamodules import cifar10_miniature, miniature

CONFIGS = Path(app.__file__).parent / "configs"
COMPLETE = sorted(CONFIGS.glob("experiments/*.yaml"))
PARTS = sorted([*CONFIGS.glob("debug/*.yaml"), *CONFIGS.glob("data/*.yaml")])
STANDARD = sorted(CONFIGS.glob("experiments/*/*.yaml"))
FUTURE = [path for path in STANDARD if "_future_" in path.stem]
RULE_PART = {"rule", "wiring", "gradient_edges", "lead"}
BASE = CONFIGS / "experiments" / "digits_direction.yaml"


def test_there_are_some():
    assert len(COMPLETE) >= 4
    assert len(PARTS) >= 4
    assert len(STANDARD) == 2 * len(FUTURE) == 2 * 3 * 2 * 4


@pytest.fixture(scope="session")
def roots(tmp_path_factory):
    """The root of a small archive of each standard dataset."""
    names = ("ucf101", "hmdb51", "kinetics600")
    return {name: str(getattr(miniature, name)(tmp_path_factory.mktemp(name), frames=40)) for name in names}


@pytest.mark.parametrize("path", [*COMPLETE, *PARTS, *STANDARD[::5]], ids=lambda p: f"{p.parent.name}/{p.name}")
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
def test_it_makes_objects(path, request, tmp_path):
    config = yaml.safe_load(path.read_text())
    if config["data"]["class_path"] in ("Weizmann", "WeizmannStreams"):
        config["data"]["init_args"]["root"] = str(request.getfixturevalue("data_root") / "weizmann")
    if config["data"]["class_path"] == "CIFAR10":
        config["data"]["init_args"] |= {"root": str(cifar10_miniature.write(tmp_path)), "val_images": 6}
    config["trainer"] = config.get("trainer", {}) | {"logger": False}
    cli = SkipSidewaysCLI(args=config, run=False)
    assert cli.model.hparams["in_channels"] == cli.datamodule.channels
    assert cli.model.hparams.get("num_classes") in (None, cli.datamodule.num_classes)
    if (steps := getattr(cli.datamodule, "steps", None)) is not None:
        assert max(cli.model.rollout, cli.model.selector.k) <= steps
    else:
        assert cli.datamodule.frames >= cli.model.min_frames


def of_miniature(path, roots):
    config = yaml.safe_load(path.read_text())
    config["data"]["init_args"]["root"] = roots[path.parent.name]
    config["trainer"] |= {"logger": False, "enable_progress_bar": False, "accelerator": "cpu"}
    return config


@pytest.mark.parametrize("path", STANDARD, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_a_standard_experiment_makes_objects_whose_clips_are_long_enough(path, roots, tmp_cwd):
    config = of_miniature(path, roots)
    cli = SkipSidewaysCLI(args=config, run=False)
    horizon = cli.model.hparams.get("horizon", 0)
    assert (horizon == 4) == (path in FUTURE)
    assert cli.model.hparams["in_channels"] == cli.datamodule.channels == 3
    assert cli.model.hparams.get("num_classes") in (None, 3)
    assert cli.datamodule.frames >= 8 * len(cli.model.network.units) + horizon
    assert cli.datamodule.dataset_name == path.parent.name
    network = config["model"]["init_args"]["network"].removesuffix("_autoencoder")
    assert path.stem == f"{network}_{path.stem.split('_', 1)[1]}"


@pytest.mark.parametrize("path", STANDARD, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_experiments_of_one_dataset_and_network_differ_in_the_rule_alone(path):
    kind = path.stem.split("_", 1)[0] + ("_future" if path in FUTURE else "")
    own, control = (yaml.safe_load(p.read_text()) for p in (path, path.with_name(f"{kind}_backprop_frame.yaml")))
    for config in (own, control):
        for key in RULE_PART:
            config["model"]["init_args"].pop(key, None)
    assert own == control


def by_turns() -> list:
    """The standard experiments. Quick is each of a network, task and rule on one dataset, so that each two meet."""
    datasets, rules = ("ucf101", "hmdb51", "kinetics600"), sorted({rule_of(path) for path in STANDARD})
    cases = []
    for path in STANDARD:
        turn = rules.index(rule_of(path)) + (path in FUTURE) + path.stem.startswith("vgg8")
        marks = () if path.parent.name == datasets[turn % 3] else pytest.mark.slow
        cases.append(pytest.param(path, id=f"{path.parent.name}/{path.stem}", marks=marks))
    return cases


def rule_of(path):
    return path.stem.split("_", 1)[1].removeprefix("future_")


@pytest.mark.parametrize("path", by_turns())
def test_a_standard_experiment_runs_on_the_miniature(path, roots, tmp_cwd):
    """Every setting but the size is the file's: clips are cut to what a slow machine trains on in a second."""
    config = of_miniature(path, roots)
    config["trainer"]["fast_dev_run"] = True
    frames = 28 if path in FUTURE else 20
    config["data"]["init_args"] |= {"size": 32, "margin": 4, "frames": frames, "batch_size": 2, "num_workers": 0}
    config["model"]["init_args"]["width"] = 0.125
    file = tmp_cwd / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    assert main(["fit", "--config", str(file)]) == 0


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
