"""Which modules work at a step, where some are slow: simulated asynchrony of Decoupled Greedy Learning.

A module that is slowed down by s works at each step with probability 1 / s, drawn for itself:

    slow-down      step 0   1   2   3   4   5   6   7
    module 1  1         x   x   x   x   x   x   x   x     always
    module 2  4         .   .   x   .   .   .   .   x     one step in four, by chance
    module 3  1         x   x   x   x   x   x   x   x     draws from its buffer what module 2 has left there

The authors' code [C] draws one module at a time, with weights 1 and 1 - noise, so that a slow-down is 1 / (1 - noise).
Here every module has its own draw at each step [D]: rates are the same, and without slow-down all work at every step.
"""

from collections.abc import Sequence
from hashlib import blake2b

from lightning_modules.rules.greedy import check_slow_downs


def draw(seed: int, step: int, module: int) -> float:
    """Return a number in [0, 1): always the same for a seed, a step and a module, and unlike all others'."""
    digest = blake2b(f"{seed} {step} {module}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2**53


class WorkSchedule:
    """Says which modules work at a step; a function of seed, step and module, so that there is nothing to save.

    Args:
        slow_downs: of each module, the lowest first; 1 works at every step, 4 at one in four.
        seed: of the draws.
        modules: how many there are, where `slow_downs` is a user's.

    Raises:
        ValueError: a slow-down below 1, none at all, or not one for each of `modules`.
    """

    def __init__(self, slow_downs: Sequence[float], seed: int, *, modules: int | None = None) -> None:
        expected = len(slow_downs) if modules is None else modules
        if not slow_downs or len(slow_downs) != expected:
            raise ValueError(
                f"{len(slow_downs)} slow-downs were given for {expected} modules; give one for each, the lowest "
                f"module's first, such as {[1.0] * max(expected - 1, 0) + [2.0]}"
            )
        check_slow_downs(slow_downs)
        self.slow_downs = tuple(slow_downs)
        self.seed = seed

    def works(self, step: int) -> tuple[bool, ...]:
        """Return whether each module works at a step, the lowest first."""
        return tuple(draw(self.seed, step, j) < 1 / s for j, s in enumerate(self.slow_downs, start=1))
