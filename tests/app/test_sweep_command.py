"""`sweep` as a person types it: options, refusals before the first trial, --dry-run, exit codes. Runs: tests/study."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
import yaml

import app.study.execute
from app.study import making, samplers
from app.study.storage import open_study
from app.sweep import PRUNERS, SAMPLERS, build_parser, default_objective, main, make_plan
from tests.datamodules import miniature

EXPERIMENT = {
    "trainer": {"max_steps": 2, "accelerator": "cpu"},
    "model": {"class_path": "ActionRecognition", "init_args": {"wiring": "dense", "depth": 3, "width": 0.25}},
    "data": {"class_path": "MovingDigits", "init_args": {"frames": 8, "train_clips": 8, "batch_size": 4}},
}
SPACE = {
    "model.init_args.lr": {"low": 1e-3, "high": 1e-1, "log": True},
    "model.init_args.lag_scaling": ["off", "inverse"],
    "model.init_args.lag_strength": {"low": 0.5, "high": 2.0, "when": {"model.init_args.lag_scaling": "inverse"}},
}
GRID = {"model.init_args.rule": ["sideways", "backprop_shifted"], "model.init_args.width": [0.25, 0.5]}
COMMAND = ["--config", "tiny.yaml", "--space", "space.yaml", "--trials", "4"]


@pytest.fixture
def tiny(tmp_cwd, monkeypatch):
    """A folder with an experiment, a space and a grid; the signal handler is put back after."""
    for name, content in (("tiny", EXPERIMENT), ("space", SPACE), ("grid", GRID)):
        (tmp_cwd / f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    monkeypatch.setattr(making, "SLOW_S", 1000.0)  # a busy machine is no part of these tests
    before = signal.getsignal(signal.SIGTERM)
    yield tmp_cwd
    signal.signal(signal.SIGTERM, before)
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def files(folder):
    """What stands in a folder."""
    return sorted(path.name for path in folder.iterdir())


def plan_of(*arguments):
    """The plan of a command."""
    argv = [*COMMAND, *arguments]
    return make_plan(build_parser().parse_args(argv), argv)


def test_options_are_these():
    options = {option for action in build_parser()._actions for option in action.option_strings}
    assert options == {
        *("-h", "--help", "--config", "--space", "--trials", "--objective", "--sampler", "--pruner", "--seed"),
        *("--folds", "--seeds", "--set", "--study", "--storage", "--output", "--jobs", "--limit-hours", "--dry-run"),
    }
    assert (SAMPLERS, PRUNERS) == (samplers.SAMPLERS, samplers.PRUNERS)


def test_every_option_says_what_it_is_and_its_default():
    for action in build_parser()._actions[1:]:
        assert action.help
        assert action.required or "(default: " in action.help or action.dest in ("set", "dry_run"), action.dest


def test_help_is_fast_and_shows_an_example(repository):
    code = "import sys; from app.sweep import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    code += (
        "heavy = {'torch', 'lightning', 'mlflow', 'numpy', 'yaml', 'optuna'} & set(sys.modules); print('heavy', heavy)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=True)
    assert "example: skip-sideways sweep --config app/configs/experiments/" in " ".join(done.stdout.split())
    assert "heavy set()" in done.stdout


def commands(text):
    """The sweep commands of a page, with their continued lines joined."""
    return re.findall(r"^ {4}skip-sideways sweep (.*?)(?: {2,}#.*)?$", text.replace("\\\n", " "), re.MULTILINE)


@pytest.mark.parametrize("page", ["README.md", "docs/sweeps.md"])
def test_commands_in_the_documentation_are_understood(repository, page):
    found = commands((repository / page).read_text())
    assert found
    for command in found:
        options = build_parser().parse_args(shlex.split(command))
        for path in (options.config, options.space):
            assert not str(path).startswith("app/") or (repository / path).is_file(), path


def test_spaces_in_the_documentation_can_be_read(repository):
    from app.study.space import read_space

    blocks = re.findall(r"```yaml\n(.*?)```", (repository / "docs" / "sweeps.md").read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        assert read_space(yaml.safe_load(block)).parameters


def test_the_command_of_the_readme_would_run(repository, monkeypatch, capsys):
    monkeypatch.chdir(repository)
    (command,) = commands((repository / "README.md").read_text())
    assert main([*shlex.split(command), "--output", "nowhere", "--dry-run"]) == 0
    assert "nothing: the study is new" in capsys.readouterr().out
    assert not Path("nowhere").exists()


def test_defaults(tiny):
    plan = plan_of()
    assert (plan.name, str(plan.output), plan.storage) == (
        "tiny-space",
        "runs/sweeps/tiny-space",
        "runs/sweeps/tiny-space/study.journal",
    )
    assert (plan.sampler, plan.pruner, plan.seed, plan.folds, plan.seeds) == ("tpe", "none", 0, None, ())
    assert plan.experiment == "tiny.yaml"
    assert plan.command == "skip-sideways sweep --config tiny.yaml --space space.yaml --trials 4"


def test_options_reach_the_plan(tiny):
    plan = plan_of(
        *("--study", "x", "--output", "out", "--folds", "1", "0", "--seeds", "5", "--set", "trainer.max_steps=7"),
        *("--objective", "test/top1", "memory/peak_mib", "--sampler", "nsga2", "--seed", "3", "--limit-hours", "2"),
    )
    assert (plan.name, plan.storage, plan.folds, plan.seeds) == ("x", "out/study.journal", (1, 0), (5,))
    assert plan.config["trainer"]["max_steps"] == 7
    assert [(each.metric, each.direction) for each in plan.objectives] == [
        ("test/top1", "maximize"),
        ("memory/peak_mib", "minimize"),
    ]
    assert (plan.sampler, plan.seed, plan.limit_hours) == ("nsga2", 3, 2.0)


@pytest.mark.parametrize(
    ("task", "objective"), [("ActionRecognition", "val/top1:maximize"), ("FutureFrames", "val/mse:minimize")]
)
def test_the_default_objective_is_the_tasks_own(task, objective):
    assert default_objective(task) == objective
    module = {"ActionRecognition": "action_recognition", "FutureFrames": "future_frames"}[task]
    assert default_objective(f"lightning_modules.{module}.{task}") == objective


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "tyny.yaml"], "tyny.yaml: no such file; . holds grid.yaml, space.yaml, tiny.yaml"),
        (["--space", "spice.yaml"], "spice.yaml: no such file"),
        (["--trials", "0"], "--trials 0: expected at least 1"),
        (["--jobs", "0"], "--jobs 0: expected at least 1"),
        (["--limit-hours", "0"], "--limit-hours 0: expected more than 0"),
        (["--limit-hours", "nan"], "--limit-hours nan: expected more than 0"),
        (["--limit-hours", "inf"], "--limit-hours inf: expected more than 0"),
        (["--space", "."], ". is a folder; name a YAML file in it: grid.yaml, space.yaml, tiny.yaml"),
        (["--set", "trainer.max_epoch=1"], "--set, not in the space) is no key of this experiment; did you mean"),
        (["--folds", "1", "1"], "--folds 1 1: expected whole numbers from 0, none of them twice"),
        (["--seeds", "-1"], "--seeds -1: expected whole numbers from 0"),
        (["--study", "a/b"], "--study a/b: it names a folder too"),
        (["--set", "modle.lr=1"], "tiny.yaml: unknown key 'modle'; did you mean 'model'?"),
        (["--set", "model.class_path=mine.Task"], "--objective: mine.Task is no task that ships here"),
        (["--objective", "val/top1:maximise"], "did you mean 'maximize'?"),
        (["--sampler", "grid"], "--sampler grid: model.init_args.lr, model.init_args.lag_strength has no end"),
        (["--pruner", "median", "--objective", "val/top1", "latency/tick_ms"], "--pruner median with 2 objectives"),
        (["--set", "model.init_args.wiring=chein"], "wiring 'chein' is unknown"),
        (["--folds", "2"], "--folds or --seeds, fold 2: "),
        (["--set", "trainer.limit_val_batches=0"], "val/top1 needs a validation, and trainer.limit_val_batches is 0"),
    ],
)
def test_refusals_have_exit_code_2_one_line_and_leave_nothing(tiny, capsys, arguments, message):
    assert main([*COMMAND, *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("sweep: ")
    assert message in line
    assert files(tiny) == ["grid.yaml", "space.yaml", "tiny.yaml"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("model.init_args.lr: {low: 1\nb: 2\n", "line 2, column 2: expected ',' or '}', but got ':'"),
        ("a: [1, 2\n", "line 2, column 1: expected ',' or ']'"),
        ("a: 1\n\tb: 2\n", "line 2, column 1: found character"),
        ("a: \x00\n", "special characters are not allowed"),
    ],
)
def test_a_broken_space_is_said_in_one_line(tiny, capsys, content, said):
    (tiny / "space.yaml").write_text(content)
    assert main(COMMAND) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("sweep: space.yaml: ")
    assert said in line


def test_a_key_that_the_experiment_has_not_is_refused_with_the_nearest(tiny, capsys):
    (tiny / "space.yaml").write_text("model.init_args.wirring: [chain, dense]\n")
    assert main(COMMAND) == 2
    assert "did you mean 'model.init_args.wiring'?" in capsys.readouterr().err


def test_data_without_a_validation_is_refused_before_hours_of_training(tiny, capsys):
    data = {
        "class_path": "HMDB51",
        "init_args": {"root": str(miniature.hmdb51(tiny / "archive", frames=8)), "frames": 8},
    }
    (tiny / "tiny.yaml").write_text(yaml.safe_dump(EXPERIMENT | {"data": data}))
    assert main([*COMMAND, "--folds", "1", "2"]) == 2
    line = capsys.readouterr().err
    assert "val/top1 needs a validation, and fold 1 holds no video out for one: " in line
    assert "give --set data.init_args.val_fraction=0.1, or sweep by --objective test/top1" in line
    assert main([*COMMAND, "--folds", "1", "--objective", "test/top1", "--dry-run"]) == 0
    assert main([*COMMAND, "--folds", "4", "--objective", "test/top1", "--dry-run"]) == 2
    assert "--folds or --seeds, fold 4: " in capsys.readouterr().err


def test_a_dry_run_says_what_would_run_and_changes_nothing(tiny, capsys):
    assert main([*COMMAND, "--seeds", "0", "1", "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["key", "values", "only", "where"]
    assert lines[4].split("  ")[0] == "model.init_args.lag_strength"
    assert lines[4].endswith("lag_scaling is inverse")
    facts = dict(re.split(r"(?<=\S) {2,}|(?<=done so far) +", line, maxsplit=1) for line in lines[6:])
    assert facts == {
        "study": "tiny-space",
        "points": "no end of them",
        "objectives": "val/top1 (maximize)",
        "sampler": "tpe, seed 0",
        "pruner": "none",
        "a trial": "2 runs on seeds 0, 1",
        "trials": "4, so 8 runs in all",
        "first trial": "the experiment as it stands",
        "storage": "runs/sweeps/tiny-space/study.journal",
        "done so far": "nothing: the study is new",
    }
    assert files(tiny) == ["grid.yaml", "space.yaml", "tiny.yaml"]


def test_a_grid_has_an_end(tiny, capsys):
    grid = ["--config", "tiny.yaml", "--space", "grid.yaml", "--trials", "9", "--sampler", "grid", "--dry-run"]
    assert main(grid) == 0
    printed = capsys.readouterr()
    assert "note: the grid has 4 points, so --trials 9 runs 4 trials" in printed.err
    assert "4, so 4 runs in all" in printed.out


@pytest.mark.parametrize("storage", ["study.journal", "sqlite:///study.db"])
def test_a_dry_run_counts_the_trials_that_are_there(tiny, capsys, storage):
    argv = [*COMMAND, "--storage", storage]
    assert main([*argv, "--dry-run"]) == 0
    assert "nothing: the study is new" in capsys.readouterr().out
    assert files(tiny) == ["grid.yaml", "space.yaml", "tiny.yaml"]
    plan = plan_of("--storage", storage)
    study = open_study(plan)

    def objective(trial):
        plan.space.suggest(trial)
        return 0.5 / (1 - trial.number)

    study.optimize(objective, n_trials=2, catch=(ZeroDivisionError,))
    before = {path.name: path.read_bytes() for path in tiny.iterdir() if path.is_file()}
    assert main([*argv, "--dry-run"]) == 0
    assert "done so far  1 complete, 1 failed of 4 trials; 0 s of core time" in capsys.readouterr().out
    assert main([*argv, "--study", "other", "--dry-run"]) == 0
    assert "nothing: the study is new" in capsys.readouterr().out
    assert main([*argv, "--set", "trainer.max_steps=3", "--dry-run"]) == 2
    assert "config.trainer.max_steps: was 2, is 3" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in tiny.iterdir() if path.is_file()} == before


def test_a_storage_that_is_none_is_refused(tiny, capsys):
    (tiny / "broken.journal").write_text("not a journal\nat all\n")
    assert main([*COMMAND, "--storage", "broken.journal", "--dry-run"]) == 2
    assert "--storage broken.journal is no journal of Optuna's" in capsys.readouterr().err


def test_a_password_is_never_shown(tiny, capsys):
    url = "postgresql+nodriver://me:s3cret@localhost:1/none"
    assert "s3cret" not in plan_of("--storage", url).command
    assert "s3cret" not in plan_of(f"--storage={url}").command
    assert main([*COMMAND, "--storage", url, "--dry-run"]) == 2
    printed = capsys.readouterr()
    assert "postgresql+nodriver://me:***@localhost:1/none can't be used" in printed.err
    assert "s3cret" not in printed.err + printed.out


def test_what_a_valid_sweep_should_be_known_for_is_noted(tiny, capsys):
    strength = "model.init_args.lag_strength"
    arguments = ["--set", "model.init_args.lag_scaling=inverse", f"{strength}=3.0", "--jobs", "2"]
    arguments += ["--objective", "val/top1", "latency/tick_ms"]
    assert main([*COMMAND, *arguments, "--dry-run"]) == 0
    notes = capsys.readouterr().err.splitlines()
    assert notes[0].startswith(f"note: {strength} is 3.0 in the experiment; trials whose other values leave it out")
    assert notes[1].startswith("note: latency/tick_ms depends on what else runs: 2 trials at a time")
    assert len(notes) == 2


def fake_summary(state, best=None):
    """What `run_study` returns of a study of four trials in one state."""
    trial = {"values": None, "params": {}, "error": "ValueError: no", "pruned": None}
    return {
        "study": "tiny-space",
        "trials_asked": 4,
        "folds": [],
        "seeds": [],
        "space": {},
        "objectives": [{"metric": "val/top1", "direction": "maximize"}],
        "importances": [],
        "best": best,
        "front": [],
        "cpu_seconds": 1.0,
        "trials": [{"number": number, "state": state, **trial} for number in range(4)],
    }


@pytest.mark.parametrize(
    ("summary", "code", "says"),
    [
        (fake_summary("failed"), 1, "Every trial failed. Next: read runs/sweeps/tiny-space/logs"),
        (fake_summary("pruned"), 0, "The report is in runs/sweeps/tiny-space/report.md"),
        (
            fake_summary("complete", {"trial": 0, "command": "skip-sideways fit --config x"}),
            0,
            "Next: skip-sideways fit",
        ),
    ],
)
def test_exit_codes_and_what_to_type_next(tiny, capsys, monkeypatch, summary, code, says):
    monkeypatch.setattr(app.study.execute, "run_study", lambda plan, jobs: summary)
    assert main(COMMAND) == code
    assert says in capsys.readouterr().out


def test_a_limit_that_is_spent_is_said(tiny, capsys, monkeypatch):
    summary = fake_summary("complete", {"trial": 0, "command": "skip-sideways fit --config x"})
    monkeypatch.setattr(app.study.execute, "run_study", lambda plan, jobs: summary)
    argv = [*COMMAND[:-1], "5", "--limit-hours", "1"]
    assert main(argv) == 0
    assert "--limit-hours 1 is spent. The same command with more hours continues." in capsys.readouterr().out


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
def test_a_signal_stops_with_130_and_a_sentence(tiny, capsys, monkeypatch, number):
    def run_study(plan, jobs):
        os.kill(os.getpid(), number)
        time.sleep(30)

    monkeypatch.setattr(app.study.execute, "run_study", run_study)
    assert main(COMMAND) == 130
    assert "Stopped. Finished trials are kept: the same command continues." in capsys.readouterr().err
