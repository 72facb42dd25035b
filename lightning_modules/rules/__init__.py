"""How gradients are found: exact backprop in three forms, Sideways, and local losses."""

from collections.abc import Sequence
from difflib import get_close_matches
from typing import cast, get_args

from lightning_modules.rules.backprop import backprop, backprop_frame, backprop_shifted
from lightning_modules.rules.greedy import ORDERS, Order, Replay, greedy, greedy_frame
from lightning_modules.rules.rule import Rule, Stash, Update
from lightning_modules.rules.sideways import sideways

RULES = ("backprop_frame", "backprop_shifted", "backprop", "sideways", "greedy", "greedy_frame")
LOCAL = ("greedy", "greedy_frame")

__all__ = [
    "ORDERS",
    "RULES",
    "Replay",
    "Rule",
    "backprop",
    "backprop_frame",
    "backprop_shifted",
    "greedy",
    "greedy_frame",
    "make_rule",
    "sideways",
]


def _check(name: str, update: str, stash: str, drain: bool, lead: int) -> None:
    if name not in RULES:
        near = get_close_matches(name, RULES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"rule {name!r} is unknown; expected one of {', '.join(RULES)}{hint}")
    if update not in get_args(Update):
        raise ValueError(f"update {update!r} is unknown; expected 'clip' or 'frame'")
    if stash not in get_args(Stash):
        raise ValueError(f"stash {stash!r} is unknown; expected 'none' or 'exact'")
    if stash != "none" and name != "sideways":
        why = "whose modules learn by themselves" if name in LOCAL else "which is exact already"
        raise ValueError(f"stash={stash!r} with rule {name!r}, {why}; leave stash out")
    if not drain and stash != "exact":
        raise ValueError(
            f"drain=False with stash {stash!r}, where nothing is drained; use stash='exact', or leave drain out"
        )
    if lead < 0:
        raise ValueError(f"lead is {lead}; expected frames, 0 for none")
    if lead and (name != "sideways" or stash != "none"):
        with_stash = "" if stash == "none" else f" and stash {stash!r}"
        raise ValueError(
            f"lead={lead} with rule {name!r}{with_stash}, whose gradients are about the frame that they meet; lead "
            "belongs to rule 'sideways' without a stash: use lead 0"
        )
    if update == "frame" and name in ("backprop_shifted", "backprop"):
        raise ValueError(
            f"update='frame' with rule {name!r}, whose gradient needs the whole clip; "
            "use update='clip', or rule 'sideways'"
        )


def _replay(
    name: str, update: str, size: int, order: str, max_reuse: int | None, slow_down: float | Sequence[float]
) -> Replay | None:
    """Return the buffers that were asked for; None where modules wait for those below.

    Raises:
        ValueError: options that make no sense, or have no effect.
    """
    if not size:
        chosen = {"replay_order": order != ORDERS[0], "max_reuse": max_reuse is not None, "slow_down": slow_down != 1}
        if without := [option for option, is_chosen in chosen.items() if is_chosen]:
            raise ValueError(f"{without[0]} without replay buffers; use replay 1 or more, or leave {without[0]} out")
        return None
    if name not in LOCAL:
        raise ValueError(
            f"replay={size} with rule {name!r}, whose units wait for one another's messages; leave replay out, or use "
            "rule 'greedy'"
        )
    if update != "clip":
        raise ValueError(f"replay={size} with update {update!r}: buffers hold whole clips; use update 'clip'")
    if isinstance(slow_down, int | float):
        return Replay(size, cast(Order, order), max_reuse, () if slow_down == 1 else (slow_down,), alike=True)
    if not len(slow_down):
        raise ValueError("slow_down []; give one number for all modules, or one for each, the lowest module's first")
    return Replay(size, cast(Order, order), max_reuse, tuple(slow_down))


def make_rule(
    name: str,
    *,
    update: Update = "clip",
    stash: Stash = "none",
    drain: bool = True,
    lead: int = 0,
    replay: int = 0,
    replay_order: str = "priority-lifo",
    max_reuse: int | None = None,
    slow_down: float | Sequence[float] = 1.0,
) -> Rule:
    """Return a rule by name.

    Args:
        name: one of `RULES`.
        update: see `Rule`; so are stash, drain and lead.
        stash: see update.
        drain: see update.
        lead: see update.
        replay: of greedy rules: minibatches that the buffer below each module holds; 0: modules wait for those below.
        replay_order: priority-lifo or reference.
        max_reuse: how often a minibatch is drawn at most.
        slow_down: simulated, of all modules or of each, the lowest first: 1 or more.

    Raises:
        ValueError: an unknown name, or options that make no sense for the rule.
    """
    _check(name, update, stash, drain, lead)
    buffers = _replay(name, update, replay, replay_order, max_reuse, slow_down)
    if name in LOCAL:
        return greedy(update, buffers) if name == "greedy" else greedy_frame(update, buffers)
    if name == "sideways":
        return sideways(update, stash, drain, lead)
    if name == "backprop_frame":
        return backprop_frame(update)
    return backprop_shifted() if name == "backprop_shifted" else backprop()
