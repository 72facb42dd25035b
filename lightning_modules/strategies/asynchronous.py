"""What stages that do not wait for one another need beside their link: no call in which all processes meet [D].

A trainer of several processes lets them meet at every batch, so that the slowest one would set the pace of all. Here
they meet where weights are brought together or scored: at epochs' ends, validations and checkpoints.
"""

import sys
from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.callbacks import ModelCheckpoint, Timer
from lightning.pytorch.utilities.exceptions import SIGTERMException
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from lightning_modules.rules import Replay
from lightning_modules.strategies.shared_memory import supported


def check_asynchronous(trainer: pl.Trainer, replay: Replay, stages: int) -> None:
    """Refuse what stages that do not wait for one another cannot do, and warn of what makes them wait.

    Raises:
        ValueError: with what to type instead.
    """
    if any(slow != 1 for slow in replay.slow_downs):
        raise ValueError(
            f"slow_down {list(replay.slow_downs)} in {stages} stages, whose processes are as slow as they are; leave "
            "slow_down out, or use --trainer.devices 1, which simulates it"
        )
    others = "--trainer.devices 1, where modules that do not wait are simulated, or --model.replay 0"
    if not isinstance(trainer.accelerator, CPUAccelerator):
        raise ValueError(
            f"replay {replay.size} in {stages} stages on {type(trainer.accelerator).__name__}: minibatches go through "
            f"the host's memory; use --trainer.accelerator cpu, or {others}"
        )
    if trainer.num_nodes > 1 or not supported():
        raise ValueError(
            f"replay {replay.size} in {stages} stages on {trainer.num_nodes} hosts of {sys.platform}: minibatches go "
            f"through the memory of one Linux host; use {others}"
        )
    if any(_meets_at_batches(callback) for callback in trainer.callbacks):  # type: ignore[attr-defined]
        rank_zero_warn(
            "max_time, and checkpoints at intervals of time, ask all stages after every batch, so that they wait for "
            "the slowest one; use max_epochs or max_steps, and checkpoints at numbers of steps"
        )


def _meets_at_batches(callback: pl.Callback) -> bool:
    if isinstance(callback, ModelCheckpoint):
        return callback._train_time_interval is not None
    return isinstance(callback, Timer)


def never_meet(trainer: pl.Trainer) -> None:
    """Keep Lightning from letting all processes meet at every batch.

    Lightning 2.6 does, to ask the first process whether it was told to end. That reaches the others by itself: the
    launcher passes the signal on.
    """

    def look_for_signal() -> None:
        if trainer.received_sigterm:
            raise SIGTERMException

    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = look_for_signal  # type: ignore[method-assign]


def updates_line(figures: Mapping[str, Any]) -> str:
    """Return what modules have done, each at its own pace.

    >>> updates_line({"updates/module_1": 60.0, "updates/module_2": 238.0, "dropped/module_1": 3.0})
    'updates of modules 1 to 2: 60, 238; minibatches overwritten before they were taken: 3'
    """
    updates = [f"{int(figures[name])}" for name in sorted(figures, key=_module) if name.startswith("updates/module_")]
    dropped = sum(int(value) for name, value in figures.items() if name.startswith("dropped/module_"))
    done = f"updates of modules 1 to {len(updates)}: {', '.join(updates)}"
    return f"{done}; minibatches overwritten before they were taken: {dropped}"


def _module(name: str) -> int:
    number = name.rsplit("_", 1)[-1]
    return int(number) if number.isdigit() else 0
