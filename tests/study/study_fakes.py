"""Stand-ins for training, importable by spawned workers: they answer from the configuration in no time."""

import os
import signal
import time
from pathlib import Path


def parabola(config, *, tags, parent_run_id, experiment_name, reports, test):
    """Best at lr 0.01; every call leaves a line `TRIAL FOLD PID` in the file that FAKE_TRACE names.

    FAKE_MISBEHAVE is `TRIAL:WHAT`: what that trial does on its first call (a mark beside the trace remembers it).
    """
    model, fold = config["model"]["init_args"], config["data"]["init_args"].get("fold", 0)
    trace = Path(os.environ["FAKE_TRACE"])
    with trace.open("a") as file:
        file.write(f"{tags['trial']} {fold} {os.getpid()}\n")
    number, _, what = os.environ.get("FAKE_MISBEHAVE", ":").partition(":")
    mark = trace.with_name("misbehaved")
    if tags["trial"] == number and not mark.exists():
        mark.touch()
        misbehave(what)
    if os.environ.get("FAKE_ALWAYS") == f"{fold}:die":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(float(os.environ.get("FAKE_SECONDS", "0")))
    value = 1.0 - (model["lr"] - 0.01) ** 2 + 0.001 * fold
    metrics = {"val/top1": value, "test/top1": value, "val/loss": 1 - value, "memory/mib": 9 * (1 - value)}
    return {"run_id": None, "metrics": metrics}


def misbehave(what):
    """Die, hang, fail, diverge."""
    if what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "hang":
        os.kill(os.getpid(), signal.SIGSTOP)
    if what == "fail":
        raise RuntimeError("the loss is nan\nsecond line")
    if what == "wait":
        time.sleep(600)
