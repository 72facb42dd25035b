"""Minibatches between stages that never wait for one another, and the pace at which they go through the data [D].

    stage 0    batch 1   | batch 2   | batch 3   | batch 4   |       one update of its modules a batch
                         v           v           v           v       minibatches, to the stage above alone
    stage 1   . update | update | update | update | update | ...     fast: updates until the first stage's batch is over
                       v        v        v        v
    stage 2   . update               | update               | ...    slow: late for a batch that is over, it leaves it

Every stage does a training step for each batch, so that all of them come to an epoch's end, a validation or a
checkpoint at the same batch, and meet there. Inside an epoch nobody waits: minibatches lie in a mailbox, where new ones
take the place of the oldest, and so do two kinds of notes, in a mailbox of their own: how many batches are over, from
the first stage to all others, and the newest figures, from all others to the first stage, which has the loggers.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch.distributed import PrefixStore, Store

from lightning_modules.strategies.mailbox import SLOTS, Mailbox
from lightning_modules.strategies.parcels import unwrapped, wrapped
from lightning_modules.strategies.shared_memory import Phase

_REST_S = 0.002
_NOTES = 2  # the newest counts
OnUpdate = Callable[[int, int], None]


def _nothing(update: int, batch: int) -> None:
    """No watchdog."""


class ReplayLink:
    """One stage's way to the others, from its making to `close`; see `execution.stage.ReplayLink` for who calls what.

    Args:
        store: shared by the stages of one replica, and by nobody else.
        index: this stage.
        stages: how many there are.
        module: the stage's highest module, whose minibatches are sent; names figures.
        check: raises StageError when another stage is known to have died or stalled.
        lost: is told the stage whose mailbox is closed, and may raise a StageError that says more.
        phase: names what this stage waits for, while it does.
        on_update: is told the number of each update of a batch, and of the batch, before any of its work.
        on_batch_end: is called when this stage's last update of a batch is over.
        buffer: minibatches that the buffer above holds; more are not kept on the way.

    Raises:
        OSError: the system is not Linux.
    """

    def __init__(
        self,
        store: Store,
        index: int,
        stages: int,
        module: int,
        check: Callable[[], None],
        *,
        lost: Callable[[int], None] = lambda stage: None,
        phase: Phase = nullcontext,
        on_update: OnUpdate = _nothing,
        on_batch_end: Callable[[], None] = lambda: None,
        buffer: int = SLOTS,
    ) -> None:
        self.index, self.stages, self.module = index, stages, module
        self._phase, self._on_update, self._on_batch_end = phase, on_update, on_batch_end
        slots = min(max(buffer, 2), SLOTS)
        hooks: dict[str, Any] = {"check": check, "lost": lost, "phase": phase}
        self._minibatches = Mailbox(PrefixStore("minibatches", store), index, slots=slots, **hooks)
        self._notes = Mailbox(PrefixStore("notes", store), index, slots=_NOTES, **hooks)
        self._done = 0  # batches that are over for this stage
        self._over = 0  # batches that are over for the first stage, as far as this one knows
        self._updates = 0  # of this batch
        self._open = False
        self._sent = self._figures_sent = 0
        self._own: dict[str, float] = {}
        self._others: dict[int, dict[str, float]] = {}

    @property
    def now(self) -> int:
        """Number of the batch that the first stage works on, as far as this stage knows; ages are counted in these."""
        return self._over + 1

    # -- a batch --------------------------------------------------------------------------------------------------

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Do this stage's work for a batch inside the block."""
        self._updates, self._open = 0, True
        yield
        self.end_batch()

    def end_batch(self) -> None:
        """End this stage's work for the batch, and as the first stage tell the others; then it may meet them."""
        if not self._open:
            return
        self._open = False
        self._done += 1
        self._on_batch_end()
        if self.index == 0:
            self._over = self._done
            for stage in range(1, self.stages):
                self._notes.put(stage, {}, self._over)

    def is_over(self) -> bool:
        """Whether the first stage's batch is over; there this is False: it says so itself, after one update."""
        if self.index == 0:
            return False
        for number, _ in self._notes.take(0):
            self._over = number
        return self._over > self._done

    def incoming(self) -> list[tuple[int, Any]]:
        """Begin an update; return the minibatches that came from below since the last, with the time they were sent."""
        self._updates += 1
        self._on_update(self._updates, self._done + 1)
        if self.index == 0:
            return []
        return [(number, unwrapped(parts)) for number, parts in self._minibatches.take(self.index - 1)]

    def outgoing(self, number: int, content: Any) -> None:
        """Leave a minibatch, a nest of plain containers and tensors, for the stage above.

        Args:
            number: the time, as `now` counts it.
            content: is copied.
        """
        self._minibatches.put(self.index + 1, wrapped(content), number)
        self._sent += 1

    def rest(self) -> None:
        """Let some time pass: there was nothing to learn from."""
        self._updates -= 1
        with self._phase("waiting for minibatches"):
            time.sleep(_REST_S)

    # -- figures --------------------------------------------------------------------------------------------------

    def own_figures(self, new: Mapping[str, Any]) -> dict[str, float]:
        """Return the newest figure of each name that this stage has had, and what its mailboxes have counted."""
        self._own |= {name: float(value) for name, value in new.items()}
        if self.index == self.stages - 1:
            return dict(self._own)
        box = self._minibatches
        counts = {"sent": self._sent, "dropped": box.dropped, "minibatch_bytes": box.bytes_sent / max(self._sent, 1)}
        return self._own | {f"{name}/module_{self.module}": float(count) for name, count in counts.items()}

    def newest_figures(self, own: Mapping[str, float]) -> dict[str, float]:
        """Leave this stage's figures for the first one, which gets the newest ones of all; the others get none."""
        if self.index > 0:
            self._figures_sent += 1
            parts = {name: torch.tensor(value, dtype=torch.float64) for name, value in own.items()}
            self._notes.put(0, parts, self._figures_sent)
            return {}
        for stage in range(1, self.stages):
            for _, taken in self._notes.take(stage):
                self._others[stage] = {name: float(value) for name, value in taken.items()}
        return {name: value for found in (own, *self._others.values()) for name, value in found.items()}

    def close(self) -> None:
        """Close both mailboxes; what others have not taken yet is still theirs."""
        self._minibatches.close()
        self._notes.close()
