"""Who died, failed or stalled: every rank tells the others that it lives, and ends when another one does not [D].

    every 0.5 s    each rank writes a beat to the run's store, with its phase, tick and batch, and reads the others'
    3 s            a rank without a new beat is dead (SIGKILL), or stopped (SIGSTOP); 1.5 s if its connection closed
    stall_s        a rank that is so long in one tick, waiting for nobody, says itself that it has stalled
    10 stall_s     the same of an update on a whole minibatch, where stages train without waiting for one another
    then           one verdict, the first that reaches the store; `check` raises it in every rank, waits within 0.2 s
    2 s, 4 s       a rank whose main thread has not raised it, or has not come to `stop`, ends its process

A rank's own time counts only while it runs: after a break of the whole machine, or of the process, nobody is accused.
Two threads: one talks to the store, which may not answer; the other one judges.
"""

import atexit
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch.distributed import PrefixStore, Store

from lightning_modules.execution.stage import StageError

BEAT_S = 0.5
SILENT_S = 3.0  # four busy ranks and other programs on two cores: never more than 0.6 s
SUSPECT_S = 1.5
RAISE_S = 2.0
END_S = 4.0
FIRST_TICK = 10.0  # times as long as others: kernels are chosen and compiled
_KEEPER = 0  # the rank in whose process the store is
_LOOK_S = 0.1
_LIMITED = ("tick", "update")  # phases that may be too long


@dataclass
class _Life:
    """What is known of another rank.

    Args:
        beat: the number of its last one.
        seen: our clock when that was read.
        state: `alive`, `done` or `failed`.
        at: batch and tick.
        phase: what it does beside ticks.
    """

    beat: int = -1
    seen: float = 0.0
    state: str = "alive"
    at: tuple[int, int] = (0, 0)
    phase: str = ""


@dataclass(frozen=True)
class Verdict:
    """What ended the run.

    Args:
        culprit: rank.
        message: for the user.
    """

    culprit: int
    message: str


class Watchdog:
    """Watches all ranks of a run from one of them, from its making to `stop`.

    Args:
        store: of all ranks, kept by rank 0's process; a client of its own is made from it.
        rank: this one.
        ranks: how many there are.
        describe: a rank in words, such as `stage 1 (rank 1, units 3-4)`.
        stall_s: longest time in one tick without waiting for others; ten times that in the first.
        hint: what to do next, the end of every message.
    """

    def __init__(
        self,
        store: Store,
        rank: int,
        ranks: int,
        describe: Callable[[int], str],
        stall_s: float = 8.0,
        hint: str = "",
    ) -> None:
        self.rank, self.describe, self.stall_s, self.hint = rank, describe, stall_s, hint
        generation = store.add(f"watchdog/made/{rank}", 1)
        self._kept = store  # the clone does not keep the server alive
        # A client of its own: a call that blocks in the main thread must not hold up the beats.
        self._store = PrefixStore(f"watchdog/{generation}", store.clone())  # type: ignore[attr-defined]
        self._others = {other: _Life() for other in range(ranks) if other != rank}
        self._phase, self._since, self._tick, self._batch, self._ticks = "start", 0.0, 0, 0, 0
        self._unit = "tick"
        self._state, self._beat = "alive", 0
        self._clock = self._answered = 0.0
        self._suspects: set[int] = set()
        self._accused: Verdict | None = None
        self._accused_at = 0.0
        self._verdict: Verdict | None = None
        self._verdict_at = 0.0
        self._raised = False
        self._wake, self._known, self._stopped = threading.Event(), threading.Event(), threading.Event()
        self._on_failure: list[Callable[[], object]] = []
        self._on_exit: list[Callable[[], object]] = []
        self._threads = [
            threading.Thread(target=work, name="watchdog", daemon=True) for work in (self._talk, self._judge)
        ]
        for thread in self._threads:
            thread.start()
        atexit.register(self._join)

    # -- the main thread's side -----------------------------------------------------------------------------------

    def on_tick(self, tick: int) -> None:
        """Note that a tick begins."""
        if self._phase != "tick" or tick <= self._tick:
            self._batch += 1
        self._tick, self._ticks = tick, self._ticks + 1
        self._enter("tick")

    def on_update(self, update: int, batch: int) -> None:
        """Note that an update begins, of stages that are at different places: which one of which batch."""
        self._unit = "update"
        self._tick, self._batch, self._ticks = update, batch, self._ticks + 1
        self._enter("update")

    def on_clip_end(self) -> None:
        """Note that a clip's last tick has ended: until the next tick nothing is too slow."""
        self._enter("between clips")

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Name what is done inside the block; in it, and in what follows a wait, a tick's time starts anew."""
        before = self._phase
        self._enter(name)
        try:
            yield
        finally:
            self._enter(before)

    @contextmanager
    def collective(self, name: str) -> Iterator[None]:
        """Name a call that waits for other ranks, and say who it was where the call fails because one is gone.

        Raises:
            StageError: with the verdict, in place of what the library says of a lost connection.
        """
        with self.phase(name):
            try:
                yield
            except StageError:
                raise
            except RuntimeError:
                self._known.wait(SILENT_S + 2 * BEAT_S)
                self.check()
                raise

    def check(self) -> None:
        """Raise when the run has failed somewhere.

        Raises:
            StageError: with the verdict, the same in every rank.
        """
        if self._verdict is not None:
            self._raised = True
            raise StageError(self._verdict.message)

    def lost(self, rank: int) -> None:
        """Find out why a rank's connection has closed; returns only if it ended in order, or still lives.

        Raises:
            StageError: with the verdict.
        """
        self._suspects.add(rank)
        end = time.monotonic() + SUSPECT_S + 2.0
        while time.monotonic() < end and not self._known.is_set() and self._others[rank].state != "done":
            self._known.wait(0.1)
        self.check()

    def failed(self, error: BaseException) -> None:
        """Tell the others that this rank ends with an error; of a StageError they know."""
        if self._verdict is None:
            lines = str(error).strip().splitlines()
            said = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
            told = str(error) if isinstance(error, StageError) else self._message(self.rank, f"raised {said}", "")
            self._accuse(Verdict(self.rank, told))
            self._known.wait(2.0)
        self._raised = True

    def on_failure(self, callback: Callable[[], object]) -> None:
        """Call something, from another thread, as soon as there is a verdict: what ends the main thread's waits."""
        self._on_failure.append(callback)

    def on_exit(self, callback: Callable[[], object]) -> None:
        """Call something before the process is ended because the main thread does not come back; 2 s for all."""
        self._on_exit.append(callback)

    def speaks(self) -> bool:
        """Whether this rank is the one to tell the user of the verdict: the lowest that lives and is not to blame."""
        living = {r for r, life in self._others.items() if self._answered - life.seen < SUSPECT_S} | {self.rank}
        culprit = set() if self._verdict is None else {self._verdict.culprit}
        return self.rank == min(living - culprit or living)

    def stop(self) -> None:
        """End the watch in order. The last act of a rank: until then a failed run ends its process.

        The rank that keeps the store gives the others up to 2 s to see that it does not die.
        """
        self._state = "failed" if self._verdict else "done"
        self._wake.set()
        end = time.monotonic() + 2.0
        while self.rank == _KEEPER and self._awaited() and time.monotonic() < end:
            time.sleep(0.02)
        self._join()
        atexit.unregister(self._join)

    def _join(self) -> None:
        """End both threads: one that is in the store's code when the interpreter ends would abort the process."""
        self._stopped.set()
        self._wake.set()
        for thread in self._threads:
            thread.join(2.0)

    def _enter(self, phase: str) -> None:
        self._phase, self._since = phase, self._clock

    def _where(self, rank: int) -> str:
        """Return where a rank is. Its beat is up to 0.5 s old, and its neighbours are stuck near it, or far away."""
        batch, tick = ours = (self._batch, self._tick)
        at, phase = "at", self._phase
        if rank != self.rank:
            life = self._others[rank]
            batch, tick = life.at if self._unit == "update" else max(life.at, ours)
            at, phase = ("at" if life.at >= ours and self._unit == "tick" else "at about"), life.phase
        doing = "" if phase in ("tick", "update", "start") else f", {phase}"
        return f"{at} {self._unit} {tick} of batch {batch}{doing}" if batch else f"before the first {self._unit}"

    def _awaited(self) -> list[int]:
        return [r for r, life in self._others.items() if life.state == "alive" and self._clock - life.seen < SILENT_S]

    # -- the thread that talks to the store -----------------------------------------------------------------------

    def _talk(self) -> None:
        while True:
            # After the verdict there is one more beat, `failed`: then the keeper may leave, and the store with it.
            last = self._stopped.is_set() or (self._verdict is not None and self.rank != _KEEPER)
            try:
                self._write()
                self._read()
                self._agree()
            except Exception:  # of any class: what a store raises is its own affair
                self._without_store()
                return
            self._answered = self._clock
            if last:
                return
            self._wake.wait(BEAT_S)
            self._wake.clear()

    def _write(self) -> None:
        self._beat += 1
        beat = [self._beat, self._state, [self._batch, self._tick], self._phase]
        self._store.set(f"beat/{self.rank}", json.dumps(beat))

    def _read(self) -> None:
        there = [r for r, life in self._others.items() if life.beat >= 0 or self._store.check([f"beat/{r}"])]
        values = self._store.multi_get([f"beat/{r}" for r in there]) if there else []
        for rank, value in zip(there, values, strict=True):
            life, (beat, state, at, phase) = self._others[rank], json.loads(value)
            if beat != life.beat:
                life.beat, life.state, life.at, life.phase, life.seen = beat, state, tuple(at), phase, self._clock

    def _agree(self) -> None:
        """Take the first verdict that anyone has put into the store, or put one there."""
        if self._verdict is not None:
            return
        if self._accused is not None:
            ours = json.dumps([self._accused.culprit, self._accused.message])
            self._decide(Verdict(*json.loads(self._store.compare_set("verdict", "", ours))))
        elif self._store.check(["verdict"]):
            self._decide(Verdict(*json.loads(self._store.get("verdict"))))

    def _without_store(self) -> None:
        """The store is gone: its keeper has died, unless it or this rank has ended in order."""
        keeper = self._others.get(_KEEPER)
        if self._stopped.is_set() or keeper is None or keeper.state == "done":
            return
        if self._verdict is None:
            gone = self._message(_KEEPER, "died", "its store no longer answers")
            self._decide(self._accused or Verdict(_KEEPER, gone))

    # -- the thread that judges -----------------------------------------------------------------------------------

    def _judge(self) -> None:
        before = time.monotonic()
        while not self._stopped.is_set():
            time.sleep(_LOOK_S)
            now = time.monotonic()
            self._clock += min(now - before, BEAT_S)  # longer time in which this process did not run does not count
            before = now
            if self._verdict is None:
                self._look()
            elif self._clock - self._verdict_at > (END_S if self._raised else RAISE_S):
                self._exit()

    def _look(self) -> None:
        if self._accused is not None:
            if self._clock - self._accused_at > 1.0:  # the store does not answer
                self._decide(self._accused)
        elif self._phase in _LIMITED and self._clock - self._since > self._longest():
            self._accuse_rank(self.rank, "stalled", f"{self._clock - self._since:.1f} s in one {self._phase}")
        elif (silent := self._clock - self._answered) > SILENT_S:
            if _KEEPER in self._others and self._others[_KEEPER].state == "alive":
                self._accuse_rank(_KEEPER, "died or was stopped", f"no sign of life for {silent:.1f} s")
        else:
            self._look_at_others()

    def _longest(self) -> float:
        """Return how long what is done now may take."""
        return self.stall_s * (FIRST_TICK if self._ticks == 1 or self._phase == "update" else 1)

    def _look_at_others(self) -> None:
        for rank, life in self._others.items():
            silent = self._answered - life.seen
            if (
                life.beat >= 0
                and life.state == "alive"
                and silent > (SUSPECT_S if rank in self._suspects else SILENT_S)
            ):
                self._accuse_rank(rank, "died or was stopped", f"no sign of life for {silent:.1f} s")
                return

    def _accuse_rank(self, rank: int, did: str, why: str) -> None:
        self._accuse(Verdict(rank, self._message(rank, did, why)))

    def _message(self, rank: int, did: str, why: str) -> str:
        reason, hint = f" ({why})" if why else "", f"; {self.hint}" if self.hint else ""
        return f"{self.describe(rank)} {did} {self._where(rank)}{reason}{hint}"

    def _accuse(self, verdict: Verdict) -> None:
        self._accused_at, self._accused = self._clock, verdict
        self._wake.set()

    def _decide(self, verdict: Verdict) -> None:
        self._verdict_at, self._verdict, self._state = self._clock, verdict, "failed"
        self._known.set()
        for callback in self._on_failure:
            # Each in a thread of its own: it may block.
            threading.Thread(target=callback, daemon=True).start()

    def _exit(self) -> None:
        """End the process, whose main thread may sit in a call that never returns."""
        assert self._verdict is not None
        callbacks = threading.Thread(target=self._call_on_exit, daemon=True)
        callbacks.start()
        callbacks.join(2.0)
        if not self._raised and self.speaks():
            print(f"skip-sideways: error: {self._verdict.message}", file=sys.stderr, flush=True)
        os._exit(1)

    def _call_on_exit(self) -> None:
        for callback in self._on_exit:
            try:
                callback()
            except Exception as error:
                print(f"while the process was ended: {error!r}", file=sys.stderr)
