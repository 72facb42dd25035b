"""Sideways (arXiv 2001.06232) and, on a wiring with skips, Skip-Sideways (arXiv 2106.08318).

[P] Every unit works at every tick on the newest messages, and gradients travel forward in time: at each tick, after its
forward, a unit takes the gradients that its readers sent one tick before, applies its vector-Jacobian product at its
newest input, and sends the result down. Nothing older than one tick is stored.

    tick            t            t+1           t+2
    unit D      h^t, loss ------.
    unit D-1                     `-> vjp at z^{t+1} ---.
    unit D-2                                            `-> vjp at z^{t+2} ...

[D] With `stash: exact` unit i keeps its last 2(D - i) + 1 inputs and applies the product at the input that the gradient
is about. Gradients are exact again, still without blocking, at the price of memory that does not grow with the clip.

[D] Where targets change from frame to frame, a gradient that came h hops tells what was wrong about frame n to a unit
that sees frame n + 2h. Asked for the future, the unit then sees what it should have foreseen: for the change from
frame n to n + k, and an output of nothing, its gradient correlates -(x[n + k] - x[n]) with x[n + 2h] in place of x[n],
and has the opposite sign. With `lead: s` the last unit still learns by its own target, but the gradient that it sends
compares its output with the target of frame n + s: an old answer, but a question of the time at which it is heard.
Targets that do not change are the same with any lead. Units still wait for no other unit; but a target k frames ahead
of an output, or k + s, is there only once its frame is: recorded clips have it at hand, a live stream would wait.

    lead 2     output about n,  target of n      -> the last unit's own parameters
               output about n,  target of n + 2  -> message, which meets n + 2 one hop below
"""

from lightning_modules.rules.rule import Rule, Stash, Update


def sideways(update: Update = "clip", stash: Stash = "none", drain: bool = True, lead: int = 0) -> Rule:
    """Pseudo-gradients that travel forward in time; the wiring decides between Sideways and Skip-Sideways.

    [P] arXiv 2001.06232 and 2106.08318; the one-tick delay of messages, `stash`, `drain` and `lead` are ours [D].
    """
    return Rule("sideways", forward_shift=1, backward_shift=1, update=update, stash=stash, drain=drain, lead=lead)
