"""Stages as real processes: start N of them, kill or stop one, collect what they returned, leave nothing behind."""

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from torch.distributed import PrefixStore, Store, TCPStore

from tests.forked import forked, preload

preload("lightning_modules.strategies.depth_parallel", "lightning_modules.action_recognition", "datamodules.loader")


@dataclass
class Outcome:
    """How a process ended: what it returned, or the text of its exception; neither where it was ended from outside."""

    exitcode: int | None
    result: Any = None
    error: str = ""
    stderr: str = ""


@dataclass
class Group:
    """Processes at work."""

    processes: list[BaseProcess]
    pipes: list[Connection]
    folder: Path
    outcomes: list[Outcome] = field(default_factory=list)

    def send_signal(self, index: int, number: signal.Signals) -> None:
        os.kill(self.processes[index].pid, number)

    def wait_for(self, name: str, timeout: float = 60.0) -> None:
        """Wait until some process has called `mark`."""
        end = time.monotonic() + timeout
        while not (self.folder / name).exists():
            assert time.monotonic() < end, f"no process came to {name!r}"
            time.sleep(0.02)

    def join(self, timeout: float, *, but: int | None = None) -> list[Outcome]:
        """Wait for all processes (`but` one, which was stopped); fail where one of them is still there."""
        end = time.monotonic() + timeout
        waited = [p for index, p in enumerate(self.processes) if index != but]
        answers = []
        for index, pipe in enumerate(self.pipes):
            patience = max(end - time.monotonic(), 0) if index != but else 0
            try:
                answers.append(pipe.recv() if pipe.poll(patience) else {})
            except EOFError:
                answers.append({})
        for process in waited:
            process.join(max(end - time.monotonic(), 0.1))
        late = [index for index, p in enumerate(self.processes) if p.is_alive() and index != but]
        errors = [(self.folder / f"stderr{index}").read_text() for index in range(len(self.processes))]
        assert not late, f"processes {late} are still there after {timeout} s: {answers} {errors}"
        return [
            Outcome(p.exitcode, **answer, stderr=text)
            for p, answer, text in zip(self.processes, answers, errors, strict=True)
        ]

    def results(self, timeout: float = 120.0) -> list[Any]:
        """Return what every process returned; fail with the traceback of one that did not."""
        outcomes = self.join(timeout)
        failed = [o.error or o.stderr or f"exit code {o.exitcode}" for o in outcomes if o.error or o.exitcode]
        assert not failed, "\n".join(failed)
        return [o.result for o in outcomes]


def mark(folder: Path, name: str) -> None:
    """Tell the test that this process has come so far."""
    (Path(folder) / name).touch()


def store_at(port: int, prefix: str = "test") -> Store:
    """Return a client of the test's store."""
    return PrefixStore(prefix, TCPStore("127.0.0.1", port, is_master=False, timeout=timedelta(seconds=60)))


def _child(
    function: Callable[..., Any], index: int, port: int, args: tuple[Any, ...], folder: Path, pipe: Connection
) -> None:
    # A file of its own for each process: who prints is part of what is tested.
    os.dup2(os.open(folder / f"stderr{index}", os.O_WRONLY | os.O_CREAT), 2)
    try:
        pipe.send({"result": function(index, store_at(port), *args)})
    except BaseException:
        pipe.send({"error": traceback.format_exc()})
        sys.exit(3)


@contextmanager
def running(folder: Path, count: int, function: Callable[..., Any], *args: Any) -> Iterator[Group]:
    """Run `function(index, store, *args)` in so many processes; end what is left of them, and look for leftovers."""
    before = set(os.listdir("/dev/shm"))
    server = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    context = forked()
    group = Group([], [], folder)
    try:
        for index in range(count):
            ours, theirs = context.Pipe(duplex=False)
            group.pipes.append(ours)
            parts = (function, index, server.port, args, folder, theirs)
            group.processes.append(context.Process(target=_child, args=parts, daemon=True))
            group.processes[-1].start()
            theirs.close()
        yield group
    finally:
        for process in group.processes:
            process.kill()
            process.join(10)
        for pipe in group.pipes:
            pipe.close()
    _no_leftovers(before)


def _no_leftovers(before: set[str]) -> None:
    """Nothing new is left in /dev/shm; other programs' entries come and go, and their semaphores stay for long."""
    end = time.monotonic() + 10
    while left := {name for name in set(os.listdir("/dev/shm")) - before if not name.startswith("sem.mp-")}:
        assert time.monotonic() < end, f"left over in /dev/shm: {sorted(left)}"
        time.sleep(0.1)
