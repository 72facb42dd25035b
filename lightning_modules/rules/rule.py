"""What every rule states: how an edge shifts ticks forward and backward, and when weights change.

An edge of the network carries messages from a unit to a unit that reads it. Read over all ticks at once it is a delay:

    rule               forward   backward     what the backward shift means
    backprop_frame        0         0         the ordinary network on each frame
    backprop_shifted     +1        -1         exact: a gradient returns to the tick whose message it is about
    sideways             +1        +1         the gradient travels on in time, to the unit's newest input
    greedy               +1        none       no gradient crosses an edge between modules

That one sign is the whole difference between exact backprop of the pipelined network and Sideways (methods.md 3 [D]).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from lightning_modules.rules.greedy import Replay

Update = Literal["clip", "frame"]
Stash = Literal["none", "exact"]


@dataclass(frozen=True)
class Rule:
    """How gradients are found.

    Args:
        name: the rule's name on the command line.
        forward_shift: ticks that an edge adds to an activation, 0 or 1.
        backward_shift: ticks that an edge adds to a gradient.
        update: `clip` holds weights fixed inside a clip; `frame` changes them at every tick.
        stash: `exact` keeps the past inputs that make Sideways' gradients exact.
        drain: with `stash: exact` and `update: clip`, run on for the 2D - 2 ticks in which the last losses reach the
            lowest unit.
        whole_clip: the rule's network takes the clip as one input (3D networks).
        lead: Sideways without a stash, targets for each frame: frames by which the target behind the gradients that
            the last unit sends is newer than its output; see sideways.py.
        local: every module has a loss of its own, and no gradient crosses from one to another; see greedy.py.
        replay: local losses only: modules draw minibatches from buffers, and do not wait for those below.
    """

    name: str
    forward_shift: int
    backward_shift: int
    update: Update = "clip"
    stash: Stash = "none"
    drain: bool = True
    whole_clip: bool = False
    lead: int = 0
    local: bool = False
    replay: "Replay | None" = None

    @property
    def forwards_gradients(self) -> bool:
        """Whether gradients travel forward in time: Sideways without a stash."""
        return self.backward_shift > 0 and self.stash == "none"

    @property
    def hands_over(self) -> bool:
        """Whether gradients change weights while a batch is worked on, at ticks or at modules' own updates."""
        return self.update == "frame" or self.replay is not None

    def stage_executor(self, executor: str) -> str:
        """Return the executor that several stages use: tick by tick where gradients come back, so that none waits."""
        if self.backward_shift > 0:
            return "pipelined"
        return executor if self.local else "vectorised"

    @property
    def drains(self) -> bool:
        """Whether a clip's last losses are waited for: not with `update: frame`, where an ended clip moves nothing."""
        return self.stash == "exact" and self.drain and self.update == "clip"

    @property
    def pipelines(self) -> bool:
        """Whether units may work tick by tick without waiting for one another."""
        return self.backward_shift > 0 or (self.local and self.forward_shift > 0 and self.replay is None)
