"""What a worker process does: take a cell, run it with its output in a log file, and send back what came of it."""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from app.comparison.protocols import protocol_facts
from app.comparison.tested import facts
from app.metric_sense import sense

Runner = Callable[..., dict[str, Any]]
ERROR_LENGTH = 400
BEST: Mapping[str, Callable[[Iterable[float]], float]] = {
    metric: min if sense(metric) == "lower" else max for metric in ("val/top1", "val/mse")
}


@dataclass(frozen=True)
class Task:
    """One cell, ready to be sent to another process."""

    config: Mapping[str, Any]
    tags: Mapping[str, str]
    parent_run_id: str | None
    experiment_name: str | None
    log: Path


@dataclass(frozen=True)
class Outcome:
    """What came of a cell. `status` is "ok" or "failed"; `error` is one line, the log holds the rest.

    `tested` is what it was tested on, where the data says so (see `app.comparison.tested`), and by which protocols
    predicted frames were (see `app.comparison.protocols`).
    """

    status: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    run_id: str | None = None
    error: str | None = None
    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0
    tested: Mapping[str, Any] = field(default_factory=dict)


def experiment_runner(config: Mapping[str, Any], **options: Any) -> dict[str, Any]:
    """Fit, then test: the real runner, with a run's best validation beside its last (`val/top1_max`, `val/mse_min`).

    Imported here, in the worker, because it takes seconds.
    """
    from app.experiment import run_experiment
    from app.tracking import new_client, tracking_uri

    result = run_experiment(config, **options)
    for name, best in BEST.items():
        if result["run_id"] and name in result["metrics"]:
            history = new_client(tracking_uri()).get_metric_history(result["run_id"], name)
            result["metrics"][f"{name}_{best.__name__}"] = best(point.value for point in history)
    return result


def serve(connection: Connection, runner: Runner) -> None:
    """The worker's main loop: run every task that arrives until the connection closes or sends None."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides what ends
    end_with_parent()
    while True:
        try:
            task = connection.recv()
        except EOFError:
            return
        if task is None:
            return
        outcome = run_task(task, runner)
        try:
            connection.send(outcome)
        except OSError:  # the parent was stopped and has hung up
            return


def run_task(task: Task, runner: Runner) -> Outcome:
    """Run one cell in this process; every exception becomes a failed outcome."""
    gc.collect()
    reset_peak_memory()
    wall, cpu = time.perf_counter(), cpu_seconds_now()
    status, result, error = "ok", {}, None
    with output_to(task.log):
        try:
            result = runner(
                task.config,
                tags=task.tags,
                parent_run_id=task.parent_run_id,
                experiment_name=task.experiment_name,
            )
        except BaseException as exception:  # SystemExit too: a library that exits must not take the worker along
            traceback.print_exc()
            status, error = "failed", one_line(exception)
    return Outcome(
        status,
        metrics={name: float(value) for name, value in result.get("metrics", {}).items()},
        run_id=result.get("run_id"),
        error=error,
        wall_seconds=round(time.perf_counter() - wall, 3),
        cpu_seconds=round(cpu_seconds_now() - cpu, 3),
        tested=facts(result.get("layout", {})) | protocol_facts(result.get("about")),
    )


def one_line(exception: BaseException) -> str:
    """Type and message on one line, cut where it gets long: the log has the rest."""
    name, text = type(exception).__name__.lstrip("_"), " ".join(str(exception).split())
    text = text if len(text) <= ERROR_LENGTH else f"{text[:ERROR_LENGTH]} ..."
    return f"{name}: {text}" if text else name


def cpu_seconds_now() -> float:
    """CPU time of this process and of its ended children (a loader's workers)."""
    usages = (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def reset_peak_memory() -> None:
    """Start the process's peak memory anew, so that a cell does not report the one before it (Linux alone has this)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def end_with_parent() -> None:
    """End this process when the parent is gone (SIGKILL included), rather than train on unseen."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="end-with-parent").start()


@contextlib.contextmanager
def output_to(log: Path) -> Iterator[None]:
    """Everything written to stdout and stderr, by libraries and children too, goes to a file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    with log.open("w") as file:
        try:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os.dup2(kept[0], 1)
            os.dup2(kept[1], 2)
            os.close(kept[0])
            os.close(kept[1])
