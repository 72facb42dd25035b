"""Exact backprop, the control, in the three forms of methods.md section 1 [D].

Exact holds for gradients over all edges: with gradient edges `newest` the two per-frame forms lack the others' share.
"""

from lightning_modules.rules.rule import Rule, Update


def backprop_frame(update: Update = "clip") -> Rule:
    """Exact gradients of the ordinary per-frame network: every unit on the same frame, skips without time [D]."""
    return Rule("backprop_frame", forward_shift=0, backward_shift=0, update=update)


def backprop_shifted() -> Rule:
    """Exact gradients, through time over the clip, of the network that the pipeline computes [D, sections 1 and 3]."""
    return Rule("backprop_shifted", forward_shift=1, backward_shift=-1)


def backprop() -> Rule:
    """Exact gradients of a network that takes the whole clip: the 3D controls [D]."""
    return Rule("backprop", forward_shift=0, backward_shift=0, whole_clip=True)
