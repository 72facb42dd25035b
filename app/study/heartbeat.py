"""Signs of life of the trials in a journal, which Optuna keeps for databases alone.

A running trial has a file in `JOURNAL.heartbeats/`. Its process touches the file and holds a lock on it. A process that
dies loses the lock at once, on any way out; one that is stopped or hangs grows silent. Either way the trial is stale:
Optuna fails it and has it run again.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from optuna.storages import JournalStorage
from optuna.storages._heartbeat import BaseHeartbeat  # the interface that `Study.optimize` asks for has no public name
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import TrialState

BEATS_A_GRACE = 6
LONGEST_LINE = 1 << 20

StaleCallback = Callable[[Any, Any], None]


def worker_name() -> str:
    """Return HOST:PID, what a worker is called in logs and in the storage."""
    return f"{socket.gethostname()}:{os.getpid()}"


class LivingJournal(JournalStorage, BaseHeartbeat):
    """Optuna's journal file with heartbeats.

    `path`: the journal. `grace_s`: seconds of silence after which a process that still exists counts as dead.
    `on_stale`: called with (study, trial) for each trial that is given up.

    Errors: OSError where files can't be written.
    """

    def __init__(self, path: Path, grace_s: int, on_stale: StaleCallback | None = None) -> None:
        # Absolute: the journal's own lock is a link to this path, which must not lead astray from another folder.
        self._journal = path.absolute()
        self._folder = self._journal.with_name(f"{self._journal.name}.heartbeats")
        self._grace_s, self._on_stale = grace_s, on_stale
        self._held: dict[int, int] = {}  # trial id to the descriptor that holds its lock
        _drop_unfinished_line(self._journal)
        super().__init__(JournalFileBackend(str(self._journal)))

    def record_heartbeat(self, trial_id: int) -> None:
        """Say that the trial's process lives."""
        if trial_id not in self._held:
            self._release()
            self._held[trial_id] = self._locked(trial_id)
        with contextlib.suppress(OSError):  # a full disk must not end a running trial
            os.utime(self._file(trial_id))

    def _locked(self, trial_id: int) -> int:
        """Make the trial's file, locked before anyone can see it, and return its descriptor."""
        self._folder.mkdir(parents=True, exist_ok=True)
        unseen = self._folder / f".{trial_id}.{worker_name()}"
        descriptor = os.open(unseen, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        os.write(descriptor, worker_name().encode())
        os.replace(unseen, self._file(trial_id))
        return descriptor

    def _release(self) -> None:
        for descriptor in self._held.values():
            os.close(descriptor)
        self._held.clear()

    def _file(self, trial_id: int) -> Path:
        return self._folder / str(trial_id)

    def _get_stale_trial_ids(self, study_id: int) -> list[int]:
        running = self.get_all_trials(study_id, deepcopy=False, states=(TrialState.RUNNING,))
        others = [trial._trial_id for trial in running if trial._trial_id not in self._held]
        return [trial_id for trial_id in others if self._is_stale(trial_id)] if others else []

    def _is_stale(self, trial_id: int) -> bool:
        """Whether nobody holds the trial's file, or holds it in silence. Without a file the process has just begun."""
        now = self._now()
        try:
            descriptor = os.open(self._file(trial_id), os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            started = self.get_trial(trial_id).datetime_start
            return started is not None and now - started.timestamp() > self._grace_s
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return now - os.fstat(descriptor).st_mtime > self._grace_s
        finally:
            os.close(descriptor)
        return True

    def _now(self) -> float:
        """Return the time by the clock that stamps the files, which on a network drive is the server's."""
        self._folder.mkdir(parents=True, exist_ok=True)
        probe = self._folder / f".now.{worker_name()}"
        probe.touch()
        return probe.stat().st_mtime

    def get_heartbeat_interval(self) -> int:
        """Return the seconds between two signs of life."""
        return max(1, self._grace_s // BEATS_A_GRACE)

    def get_heartbeat_stale_trial_callback(self) -> StaleCallback | None:
        """Return what is called for a trial that was given up."""
        return self._on_stale


def check_journal(path: Path) -> None:
    """Refuse a file that Optuna's journal did not write; it is only read.

    Errors: ValueError with what it is and what to type.
    """
    if not path.exists():
        return
    if path.is_dir():
        raise ValueError(f"--storage {path} is a folder; give a file in it, as {path / 'study.journal'}")
    with path.open("rb") as file:
        start = file.readline(LONGEST_LINE)
    if start.startswith(b"SQLite format 3"):
        raise ValueError(f"--storage {path} is a SQLite database; write --storage sqlite:///{path}")
    if start and not start.startswith(b'{"op_code"'):
        raise ValueError(
            f"--storage {path} is no journal of Optuna's: it begins with {start[:40]!r}; give another file"
        )


def _drop_unfinished_line(journal: Path) -> None:
    """Cut a last line that a full disk left unfinished: the line after it would make the journal unreadable."""
    check_journal(journal)
    if not journal.exists() or journal.stat().st_size == 0:
        return
    lock = JournalFileSymlinkLock(str(journal))
    lock.acquire()
    try:
        with journal.open("rb+") as file:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)
    finally:
        lock.release()
