"""`skip-sideways fit` with units on separate processes, as a person types it; and what happens when a stage fails."""

import os
import re
import signal
import time
from pathlib import Path

import pytest
from launch import checkpoint, finish, launch, options, runs

from app.cli import main

STAGED = {"accelerator": "cpu", "devices": 2, "strategy": "depth_parallel"}
QUIET_THREADS = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
ENDS_WITHIN_S = 10
WAYS = {"killed": signal.SIGKILL, "stopped": signal.SIGSTOP}
DIED = r"\(rank {}, units? \S+\) died( or was stopped)? .*of batch \d+"


def argv(**changes):
    trainer = {**STAGED, **changes.pop("trainer", {})}
    return options(model={"wiring": "concat", **changes.pop("model", {})}, trainer=trainer, **changes)


@pytest.fixture
def folder(tmp_path, mlflow_template):
    (tmp_path / "mlflow.db").write_bytes(mlflow_template.read_bytes())
    return tmp_path


def process_of(first: int, rank: int) -> int:
    """The process that the first one started for a rank."""
    children = Path(f"/proc/{first}/task/{first}/children").read_text().split()
    return next(int(c) for c in children if f"LOCAL_RANK={rank}".encode() in Path(f"/proc/{c}/environ").read_bytes())


def is_alive(process: int) -> bool:
    status = Path(f"/proc/{process}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] not in "ZX"


@pytest.mark.slow
def test_a_fit_in_stages_is_one_run_and_its_checkpoint_tests_without_them(folder):
    """Validation, best.ckpt, early stopping and MLflow see the last stage's figures; the file loads anywhere."""
    stop = {
        "callbacks": '[{"class_path": "lightning.pytorch.callbacks.EarlyStopping", "init_args": '
        '{"monitor": "val/loss", "patience": 0, "min_delta": 10.0}}]'
    }
    printed = finish(launch(argv(trainer={"max_epochs": 3, "log_every_n_steps": 2, **stop}), folder, **QUIET_THREADS))
    assert printed.count("Done. Next:") == 1
    assert "stage  units" in printed
    (run,) = runs(f"sqlite:///{folder}/mlflow.db")
    assert run.info.status == "FINISHED"
    assert (run.data.tags["stages"], run.data.tags["executor"]) == ("2", "pipelined")
    assert {"train/loss", "val/top1", "memory/stage_0/saved_tensors_mib", "memory/stage_1/peak_mib"} <= set(
        run.data.metrics
    )
    saved = checkpoint(folder)
    assert saved["epoch"] == 2, "patience 0 stops after the second validation"
    groups = saved["optimizer_states"][0]["param_groups"]
    assert set(saved["optimizer_states"][0]["state"]) == {p for group in groups for p in group["params"]}
    last = next(folder.glob("runs/*/last.ckpt"))
    staged, alone = (
        re.search(r"test/top1\s+│?\s*([\d.]+)", finish(launch(["test", "--ckpt_path", str(last), *extra], folder)))
        for extra in ((), ("--trainer.strategy=auto", "--trainer.devices=1"))
    )
    assert staged
    assert alone
    assert staged.group(1) == alone.group(1)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_a_stage_that_fails_ends_all_in_seconds_and_the_run_goes_on(folder, way):
    """One message with rank, units, tick and what to type; no process left; the checkpoint is whole and resumes."""
    command = argv(data={"train_clips": 4000}, checkpoint={"every_n_train_steps": 5}, trainer={"max_steps": 900})
    first = launch(command, folder, **QUIET_THREADS)
    while not list(folder.glob("runs/*/last.ckpt")):
        assert first.poll() is None, first.communicate()[0]
        time.sleep(0.05)
    second = process_of(first.pid, 1)
    os.kill(second, WAYS[way])
    killed_at = time.monotonic()
    printed, _ = first.communicate(timeout=60)
    took_s = time.monotonic() - killed_at
    try:
        assert first.returncode == 2
        assert len(re.findall("skip-sideways: error:", printed)) == 1, printed
        assert re.search("stage 1 " + DIED.format(1), printed), printed
        assert "--ckpt_path last" in printed
        assert took_s < ENDS_WITHIN_S
        assert not is_alive(second)
    finally:
        if is_alive(second):
            os.kill(second, signal.SIGKILL)
    saved = checkpoint(folder)
    (run,) = runs(f"sqlite:///{folder}/mlflow.db")
    assert run.info.status == "FAILED"
    assert 0 < saved["global_step"] < 900
    resumed = launch([*command, "--ckpt_path=last"], folder, **QUIET_THREADS)
    while checkpoint(folder)["global_step"] <= saved["global_step"]:
        assert resumed.poll() is None, resumed.communicate()[0]
        time.sleep(0.2)
    resumed.send_signal(signal.SIGINT)
    resumed.communicate(timeout=60)
    assert len(runs(f"sqlite:///{folder}/mlflow.db")) == 1, "a resumed run stays the same MLflow run"


@pytest.mark.slow
@pytest.mark.parametrize(("devices", "victim"), [(2, 0), (4, 3)], ids=["first", "of a replica"])
def test_whoever_is_killed_is_named_by_another(folder, devices, victim):
    """The first process keeps the store and starts the others; a replica's twin waits in a collective call."""
    strategy = {"strategy": "DepthParallelStrategy", "strategy.stages": 2, "devices": devices}
    command = argv(data={"train_clips": 4000}, checkpoint={"every_n_train_steps": 5}, trainer=strategy)
    with (folder / "printed.txt").open("w") as file:
        first = launch(command, folder, file, **QUIET_THREADS)
        while not list(folder.glob("runs/*/last.ckpt")):
            assert first.poll() is None, (folder / "printed.txt").read_text()
            time.sleep(0.05)
        ranks = {0: first.pid, **{n: process_of(first.pid, n) for n in range(1, devices)}}
        os.kill(ranks[victim], signal.SIGKILL)
        end = time.monotonic() + ENDS_WITHIN_S
        while any(map(is_alive, ranks.values())) and time.monotonic() < end:
            first.poll()
            time.sleep(0.1)
    alive = [rank for rank, process in ranks.items() if is_alive(process)]
    for rank in alive:
        os.kill(ranks[rank], signal.SIGKILL)
    first.wait(timeout=10)
    printed = (folder / "printed.txt").read_text()
    assert alive == [], printed
    assert re.search(DIED.format(victim), printed), printed
    assert "Traceback" not in printed


@pytest.mark.slow
def test_predictions_in_stages_are_one_table(folder):
    finish(launch(argv(trainer={"max_steps": 4}), folder, **QUIET_THREADS))
    last = str(next(folder.glob("runs/*/last.ckpt")))
    finish(launch(["predict", "--ckpt_path", last, "--output", "staged.csv"], folder, **QUIET_THREADS))
    alone = ["--trainer.strategy=auto", "--trainer.devices=1", "--output", "alone.csv"]
    finish(launch(["predict", "--ckpt_path", last, *alone], folder, **QUIET_THREADS))
    staged, one = ([line.split(",") for line in (folder / f"{n}.csv").read_text().split()] for n in ("staged", "alone"))
    assert [row[:3] for row in staged] == [row[:3] for row in one]
    assert len(one) == 9, "a head and eight clips"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trainer": {"devices": 1}}, "with 1 device has nothing to place; use --trainer.devices 2"),
        ({"trainer": {"strategy": "DepthParallelStrategy", "strategy.stages": 2, "devices": 3}}, "whole replicas"),
        ({"trainer": {"strategy": "DepthParallelStrategy", "strategy.balance": "1,2"}}, "balance .* add up to 4"),
        ({"trainer": {"devices": 5}}, "5 stages for 4 units.* use --trainer.devices 4 or fewer"),
        ({"model": {"log_gradients_every": 5}}, "log_gradients_every compares .* leave it out"),
        ({"model": {"network": "cnn3d", "rule": "backprop", "wiring": "chain", "depth": "null"}}, "cut into units"),
    ],
)
def test_what_cannot_be_placed_is_refused_before_a_process_starts(folder, monkeypatch, capsys, changes, message):
    monkeypatch.chdir(folder)
    assert main(argv(**changes)) == 2
    printed = capsys.readouterr().err
    assert re.search(message, printed), printed
    assert printed.count("error:") == 1
