"""N worker processes, each on one thread, that take cells one after another.

A worker that dies (out of memory, a crash in native code) fails its cell alone and is replaced.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from app.comparison.grid import Cell
from app.comparison.worker import Outcome, Runner, Task, serve

# Spinning threads make small convolutions many times slower where several processes share the cores.
THREADS = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
HEARTBEAT_S = 1.0
GRACE_S = 5.0


@dataclass
class _Worker:
    process: BaseProcess
    connection: Connection
    cell: Cell | None = None

    def give(self, cell: Cell, task: Task) -> None:
        self.cell = cell
        self.connection.send(task)

    def take(self) -> Outcome:
        """The outcome it sent, or a failed one where it died instead."""
        try:
            return self.connection.recv()  # type: ignore[no-any-return]
        except (EOFError, ConnectionError):
            self.process.join(GRACE_S)
            code = self.process.exitcode
            hint = ": killed, perhaps for memory; try fewer --jobs" if code == -9 else ""
            return Outcome("failed", error=f"the worker process ended with exit code {code}{hint}")


def run_cells(
    work: Iterable[tuple[Cell, Task]], runner: Runner, jobs: int
) -> Generator[tuple[Cell, Outcome] | None, None, None]:
    """Run every cell, yielding (cell, outcome) as each ends, and None once a second in between.

    Closing the iterator, or any exception in its consumer's thread, ends the workers.
    """
    waiting = deque(work)
    workers: list[_Worker] = []
    try:
        while waiting or any(worker.cell for worker in workers):
            while waiting and len(workers) < jobs:
                workers.append(_start(runner))
            for worker in workers:
                if worker.cell is None and waiting:
                    worker.give(*waiting.popleft())
            yield from _finished(workers)
    finally:
        _stop(workers)


def _finished(workers: list[_Worker]) -> Iterator[tuple[Cell, Outcome] | None]:
    busy: list[Any] = [worker.connection for worker in workers if worker.cell]
    ready = wait(busy, timeout=HEARTBEAT_S)
    if not ready:
        yield None
    for worker in [worker for worker in workers if worker.connection in ready]:
        cell, outcome = worker.cell, worker.take()
        assert cell is not None
        worker.cell = None
        if not worker.process.is_alive():
            workers.remove(worker)
        yield cell, outcome


def _start(runner: Runner) -> _Worker:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(theirs, runner), name="compare-worker")
    with environment(THREADS):  # read when the new interpreter loads OpenMP, so it must be set before it starts
        process.start()
    theirs.close()
    return _Worker(process, ours)


@contextlib.contextmanager
def environment(values: dict[str, str]) -> Iterator[None]:
    """Set variables of the environment inside the block: what processes started there inherit."""
    before = {key: os.environ.get(key) for key in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


def _stop(workers: list[_Worker]) -> None:
    """End the workers: idle ones by closing their pipe, busy ones by SIGTERM, and by SIGKILL if that takes too long."""
    for worker in workers:
        worker.connection.close()
        if worker.cell is not None:
            worker.process.terminate()
    for worker in workers:
        worker.process.join(GRACE_S)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()
