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

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from lightning_modules.rules.rule import Rule, Update

Order = Literal["priority-lifo", "reference"]
ORDERS: tuple[Order, ...] = get_args(Order)


@dataclass(frozen=True)
class Replay:
    """Asynchronous modules, each with a buffer of minibatches below it.

    Args:
        size: minibatches that a buffer holds, M.
        order: in which they are drawn, `priority-lifo` or the public code's, `reference`.
        max_reuse: how often one is drawn at most; None: as often as there is nothing better.
        slow_downs: of each module, 1 or more: it works in one of so many steps; empty: no module is slow. One process
            only: real processes are as slow as they are. The schedule follows the run's seed.
        alike: the one slow-down given is every module's.

    Raises:
        ValueError: a number that makes no sense.
    """

    size: int
    order: Order = "priority-lifo"
    max_reuse: int | None = None
    slow_downs: tuple[float, ...] = ()
    alike: bool = False

    def __post_init__(self) -> None:
        check_buffer(self.size, self.order, self.max_reuse)
        check_slow_downs(self.slow_downs)

    def slow_downs_of(self, modules: int) -> tuple[float, ...]:
        """Return the slow-downs of a network's modules: one for each where each was given its own, or none was."""
        if self.slow_downs and not self.alike:
            return self.slow_downs
        return (self.slow_downs or (1.0,)) * modules


def check_buffer(size: int, order: str, max_reuse: int | None) -> None:
    """Refuse buffers that cannot be.

    Raises:
        ValueError: a size or `max_reuse` below 1, an unknown order.
    """
    if size < 1:
        raise ValueError(f"replay buffers of {size} minibatches; give 1 or more: 1 holds only the newest")
    if order not in ORDERS:
        raise ValueError(f"replay_order {order!r} is unknown; expected one of {', '.join(ORDERS)}")
    if max_reuse is not None and max_reuse < 1:
        raise ValueError(f"max_reuse is {max_reuse}; give 1 to draw a minibatch once, or leave it out for no limit")


def check_slow_downs(slow_downs: Sequence[float]) -> None:
    """Refuse slow-downs that are no numbers of at least 1.

    Raises:
        ValueError: the first of them, with its module.
    """
    for number, slow_down in enumerate(slow_downs, start=1):
        if not slow_down >= 1:
            raise ValueError(
                f"module {number} has slow-down {slow_down}; give 1 for a module that works at every step, "
                "or more: at 2 it works at one step in two"
            )


def greedy(update: Update = "clip", replay: Replay | None = None) -> Rule:
    """Local losses under Sideways' clock, one tick a module [C; the clock is D]."""
    return Rule("greedy", forward_shift=1, backward_shift=0, update=update, local=True, replay=replay)


def greedy_frame(update: Update = "clip", replay: Replay | None = None) -> Rule:
    """Local losses, every module on the same frame [C]."""
    return Rule("greedy_frame", forward_shift=0, backward_shift=0, update=update, local=True, replay=replay)
