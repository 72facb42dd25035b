"""The command's surface: help, errors in one line, cheap imports, and options that don't change unnoticed."""

import logging
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from launch import options

from app.cli import COMMANDS, main

SURFACE = Path(__file__).with_name("cli_surface.txt")


def test_help_lists_every_command_and_imports_nothing_heavy(capsys):
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    for name, line in COMMANDS.items():
        assert f"  {name}" in printed
        assert line in printed
    code = "import app.cli, sys; app.cli.main(['--help']); sys.exit(any(m in sys.modules for m in ('torch', 'mlflow')))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_building_the_fit_parser_leaves_heavy_packages_alone():
    code = (
        "import sys; from app.trainer_cli import SkipSidewaysCLI, run_subcommand\n"
        "try: run_subcommand('fit', ['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = [m for m in ('mlflow', 'streamlit', 'pytorchvideo', 'optuna', 'sklearn') if m in sys.modules]\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def cpu_seconds(*command) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *command], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.slow
def test_fit_help_costs_at_most_two_seconds_above_importing_lightning():
    lightning = "from lightning_modules.compat import ensure_torchvision as e; e(); import lightning"
    base = min(cpu_seconds("-c", lightning) for _ in range(2))
    assert min(cpu_seconds("-m", "app.cli", "fit", "--help") for _ in range(2)) - base <= 2.0


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["fti"], "Did you mean `skip-sideways fit`?"),
        (["fit"], "add --data MovingDigits"),
        (["fit", "--model=LongMemory"], "add --data CuedVideo (generated), CopySequences, ArrayStreams, ..., or --con"),
        (["fit", "--model=LongMemory", "--data.gap=9"], "'gap' is not accepted. Name the class, as --data CuedVideo"),
        (
            ["fit", "--data=Nope"],
            "ActionRecognition, AddSequences, ArrayStreams, CIFAR10, CopySequences, CuedVideo, DigitSequences, "
            "FutureFrames, HMDB51, Kinetics400, Kinetics600, LongMemory, MovingDigits, ScatteredCopySequences, UCF101, "
            "VideoFolder, Weizmann, WeizmannStreams",
        ),
        (["fit", "--data=MovingDigits", "--data.siz=3"], "Did you mean size?"),
        (["fit", "--data=MovingDigits", "--trainer.max_ep=3"], "Did you mean --trainer.max_epochs?"),
        (["fit", "--data=MovingDigits", "--data.num_classes=3"], "'num_classes' is not accepted"),
        (["fit", "--data=MovingDigits", "--model.network=vgg9"], "did you mean 'vgg8'?"),
        (["fit", "--data=MovingDigits", "--model=FutureFrames", "--data.size=30"], "use --data.size 32"),
        (["fit", "--data=MovingDigits", "--model=FutureFrames", "--data.frames=14"], "--data.frames 15 or more"),
        (["fit", "--data=MovingDigits", "--model=FutureFrames", "--model.network=vgg8"], "resnet18_autoencoder"),
        (["fit", "--data=MovingDigits", "--model=FutureFrames", "--model.horizon=-1"], "0 to encode the frame itself"),
        (["fit", "--data=MovingDigits", "--trainer.gradient_clip_val=1"], "--model.clip_norm 1.0"),
        (["fit", "--data=MovingDigits", "--trainer.accumulate_grad_batches=2"], "--model.accumulate 2"),
        (
            ["fit", "--data=CopySequences", "--model=LongMemory", "--trainer.accumulate_grad_batches=2"],
            "accumulate_grad_batches 2: leave it out: a batch is an update here",
        ),
        (["fit", "--data=Weizmann", "--data.root=nowhere"], "looked for the folders"),
        (["fit", "--config=nowhere.yaml"], "nowhere.yaml; expected a YAML file"),
        (["fit", "--data=VideoFolder"], "--data VideoFolder needs more: add --data.root"),
        (["test", "--data=MovingDigits"], "add --ckpt_path runs/NAME/last.ckpt"),
        (["test", "--ckpt_path=nowhere.ckpt"], "there is no such file"),
        (["fit", "--data=MovingDigits", "--ckpt_path=last"], "has no checkpoint yet"),
    ],
)
def test_an_error_is_one_line_that_says_what_to_type(argv, says, capfd, tmp_cwd):
    assert main(argv) == 2
    line = capfd.readouterr().err.splitlines()[-1]
    assert line.startswith("skip-sideways: error: ")
    assert says in line
    assert "Union subtypes" not in line
    assert "Traceback" not in line


def test_debug_variable_shows_the_traceback(monkeypatch, tmp_cwd):
    monkeypatch.setenv("SKIP_SIDEWAYS_DEBUG", "1")
    with pytest.raises(ValueError, match="there is no such file"):
        main(["test", "--ckpt_path=nowhere.ckpt"])


def test_parser_gives_short_names_and_links_the_data_to_the_model():
    from app.trainer_cli import SkipSidewaysCLI

    config = {"data": {"class_path": "MovingDigits", "init_args": {"directions": 8}}, "trainer": {"logger": False}}
    cli = SkipSidewaysCLI(args=config, run=False)
    assert type(cli.model).__name__ == "ActionRecognition"
    assert (cli.model.hparams["num_classes"], cli.model.hparams["in_channels"]) == (8, 1)
    assert cli.datamodule.min_frames == 2 * cli.model.network.depth - 1


@pytest.mark.parametrize(
    ("model", "words"),
    [({}, r"all of them trained"), ({"train_units": "last"}, r"[\d,]+ of them trained")],
    ids=["all", "last"],
)
def test_a_fit_says_how_large_the_network_is_and_nothing_of_flops(model, words, caplog, capfd, tmp_cwd):
    argv = options(trainer={"max_steps": 1, "logger": "false", "enable_model_summary": "true"}, model=model)
    with caplog.at_level(logging.INFO):
        assert main(argv) == 0
    printed = capfd.readouterr()
    said = caplog.text + printed.out + printed.err
    assert re.search(rf"network \(UnitNetwork\): [\d,]+ parameters, {words}$", said, re.MULTILINE)
    assert "flops" not in said.lower()
    assert "already configured" not in said
    caplog.clear()
    assert main([*argv, "--trainer.enable_model_summary=false"]) == 0
    assert "of them trained" not in caplog.text


def surface() -> str:
    """Every option of the trainer's commands, and every argument of the classes they take, with its default."""
    from jsonargparse import ArgumentParser

    import datamodules
    from app.trainer_cli import TRAINER_DEFAULTS, SkipSidewaysCLI
    from lightning_modules.action_recognition import ActionRecognition
    from lightning_modules.future_frames import FutureFrames
    from lightning_modules.long_memory import LongMemory

    lines = []
    for name in ("fit", "validate", "test", "predict"):
        cli = SkipSidewaysCLI.__new__(SkipSidewaysCLI)
        parser = parser_of(name, cli)
        for action in parser._actions:
            lines += [f"{name} {option}" for option in action.option_strings]
    lines += [f"trainer default {key}: {value}" for key, value in TRAINER_DEFAULTS.items()]
    made_of = [getattr(datamodules, name) for name in sorted(datamodules.__all__)]
    for cls in (ActionRecognition, FutureFrames, LongMemory, *made_of):
        parser = ArgumentParser()
        parser.add_class_arguments(cls, None)
        options = {o: a.default for a in parser._actions for o in a.option_strings if o not in ("-h", "--help")}
        lines += [f"{cls.__name__} {option}: {default}" for option, default in options.items()]
    return "\n".join(lines) + "\n"


def parser_of(name, cli):
    from app.trainer_cli import PARSER_OPTIONS, import_classes, task_path

    import_classes()
    cli.only, cli.tags, cli.task = name, {}, task_path()
    for key, value in PARSER_OPTIONS.items():
        setattr(cli, key, value)
    cli._model_class, cli._datamodule_class = cli.model_class, cli.datamodule_class
    cli.setup_parser(True, *cli._setup_parser_kwargs(cli.parser_kwargs))
    return cli._subcommand_parsers[name]


def test_the_options_are_those_that_were_agreed():
    """A changed, renamed or dropped option breaks users' scripts: change the list knowingly (UPDATE_SURFACE=1)."""
    now = surface()
    if os.environ.get("UPDATE_SURFACE"):
        SURFACE.write_text(now)
    assert now == SURFACE.read_text()


def test_print_config_is_a_config_that_fit_takes(capfd, tmp_cwd):
    with pytest.raises(SystemExit) as stop:
        main([*options(), "--print_config"])
    assert stop.value.code == 0
    printed = capfd.readouterr().out
    Path("printed.yaml").write_text(printed)
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--config", "printed.yaml", "--print_config"])
    assert stop.value.code == 0
    assert capfd.readouterr().out == printed
