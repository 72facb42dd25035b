"""Decoupled Greedy Learning, DGL (arXiv 1901.08164, 2106.06401): every module learns by a loss of its own.

[C] Modules are runs of consecutive units. Module j reads what the modules below it sent, detached; a head answers from
its output, and the loss of that answer changes the module and the head. No gradient crosses from module to module, so
that no module waits for those above it. All of them learn from the first step on.

`greedy` has Sideways' clock [D]: a message takes one tick, so that module j works on frame t while module j - 1 works
on frame t + 1, and a skip brings a newer frame. Inside a module all units work on one frame, and its gradient is exact:

    tick            t                     t+1
    module 2        frame t-1, loss       frame t, loss
                       ^                 /
    module 1        frame t, loss ------'     message, one tick; no gradient comes back

`greedy_frame` has no clock: every module works on the same frame (the form of the paper, for images; one module is
backprop_frame). On networks that take whole clips a module's message is about the clip, and both are the same.

[C] With a `replay` buffer below every module nobody waits for those below either: a module draws a minibatch from its
buffer, learns from it, and pushes what it made of it into the next. See execution/replay_buffer.py for the order in
which minibatches are drawn.
"""

from dataclasses import dataclass
from typing import Literal

from lightning_modules.rules.rule import Rule, Update

Order = Literal["priority-lifo", "reference"]


@dataclass(frozen=True)
class Replay:
    """Asynchronous modules, each with a buffer of minibatches below it.

    Args:
        size: minibatches that a buffer holds, M.
        order: in which they are drawn, `priority-lifo` or the public code's, `reference`.
        max_reuse: how often one is drawn at most; None: as often as there is nothing better.
        slow_downs: of each module, 1 or more: it works in one of so many steps; empty: no module is slow. One process
            only: real processes are as slow as they are. The schedule follows the run's seed.

    Raises:
        ValueError: a number that makes no sense.
    """

    size: int
    order: Order = "priority-lifo"
    max_reuse: int | None = None
    slow_downs: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"replay is {self.size}; expected the minibatches that a buffer holds, 1 or more")
        if self.max_reuse is not None and self.max_reuse < 1:
            raise ValueError(f"max_reuse is {self.max_reuse}; expected 1 or more, or none for no limit")
        if any(slow < 1 for slow in self.slow_downs):
            raise ValueError(f"slow_down {list(self.slow_downs)}; expected 1 (as fast as any) or more")


def greedy(update: Update = "clip", replay: Replay | None = None) -> Rule:
    """Local losses under Sideways' clock, one tick a module [C; the clock is D]."""
    return Rule("greedy", forward_shift=1, backward_shift=0, update=update, local=True, replay=replay)


def greedy_frame(update: Update = "clip", replay: Replay | None = None) -> Rule:
    """Local losses, every module on the same frame [C]."""
    return Rule("greedy_frame", forward_shift=0, backward_shift=0, update=update, local=True, replay=replay)
