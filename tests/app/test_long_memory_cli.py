"""LongMemory through the command line: a killed run goes on bit for bit; what makes no sense is said before any run."""

import signal

import pytest
from launch import QUIET, checkpoint, finish, launch, runs
from test_kill_and_continue import differences, history, kill_after_first_checkpoint, uninterrupted

from app.cli import main

DATA = {"gap": 12, "symbols": 3, "batch_size": 8, "train_streams": 128, "val_streams": 8, "test_streams": 8}
MODEL = {
    "rollout": 6, "k": 3, "hidden": 8, "detector_updates": 3, "context_width": 8, "predictor_width": 8, "context": 3,
}  # fmt: skip
CASES = {
    "lstm, entropy": {},
    "gru, surprise": {"memory": "gru", "detector": "surprise", "ema_decay": 0.9},
    "gumbel": {"select": "gumbel_top_k"},
    "transformer, truncated": {"memory": "transformer", "rule": "truncated_backprop"},
}


def argv(subcommand="fit", *, name="CopySequences", data=None, model=None, trainer=None, **groups):
    """Return the command line of a tiny run, with changes by group; None leaves an option out."""
    sections = {"data": DATA | (data or {}), "model": MODEL | (model or {}), "trainer": QUIET | (trainer or {})}
    out = [subcommand, f"--data={name}", "--model=LongMemory"]
    for section, values in (sections | groups).items():
        out += [f"--{section}.{key}={value}" for key, value in values.items() if value is not None]
    return out


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_killed_in_the_middle_of_streams_and_continued_equals_uninterrupted(case, tmp_path, mlflow_template):
    """Streams of three rollouts, staggered: after any update some lanes are in the middle of theirs."""
    changes = {"max_epochs": 2, "log_every_n_steps": 1}
    line = argv(model=CASES[case], trainer=changes, checkpoint={"every_n_train_steps": 5})
    other = uninterrupted(tmp_path / "uninterrupted", mlflow_template, line)
    (tmp_path / "mlflow.db").write_bytes(mlflow_template.read_bytes())
    assert kill_after_first_checkpoint(tmp_path, argv=line) == -signal.SIGKILL
    killed = checkpoint(tmp_path)
    assert 0 < killed["global_step"] < 48, "the kill must come inside the first epoch for this test to mean anything"
    assert killed["long_memory"]["carried"]["state"]

    finish(launch([*line, "--ckpt_path=last"], tmp_path))

    whole, continued = checkpoint(other), checkpoint(tmp_path)
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "long_memory"):
        assert differences(whole[part], continued[part]) == [], part
    assert whole["global_step"] == continued["global_step"] == 96
    store, stores = f"sqlite:///{tmp_path}/mlflow.db", f"sqlite:///{other}/mlflow.db"
    (run,) = runs(store, "copy_sequences")
    assert run.info.status == "FINISHED"
    assert history(store, "copy_sequences") == history(stores, "copy_sequences")


ERRORS = {
    "rollout beyond the stream": (
        {"model": {"rollout": 19}},
        "rollout is 19, and the longest stream has 18 steps; use --model.rollout 18 or less",
    ),
    "k beyond the stream": (
        {"model": {"k": 19}},
        "k is 19, and the longest stream has 18 steps; use --model.k 18 or less",
    ),
    "an unknown rule": ({"model": {"rule": "sideways"}}, "rule 'sideways' is unknown; expected one of memup, "),
    "a decay of everything": ({"model": {"detector": "surprise", "ema_decay": 1.0}}, "--model.ema_decay 0.99"),
    "several processes": (
        {"trainer": {"devices": 2, "accelerator": "cpu", "strategy": "ddp"}},
        "with --trainer.devices 1",
    ),
    "clips": (
        {
            "name": "MovingDigits",
            "data": {**dict.fromkeys(["gap", "symbols", "train_streams", "val_streams", "test_streams"]), "size": 32},
        },
        "long memory learns from long sequences that can be read anywhere, and MovingDigits gives clips",
    ),
    "a gap below nothing": ({"data": {"gap": -1}}, "--data.gap"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_what_makes_no_sense_is_said_in_one_line_before_any_run(case, tmp_cwd, mlflow_store, capfd):
    changes, message = ERRORS[case]
    assert main(argv(**changes)) == 2
    said = capfd.readouterr().err.splitlines()
    assert message in said[-1]
    assert not any("Traceback" in line for line in said)
    assert not list(tmp_cwd.glob("runs/*/last.ckpt"))
