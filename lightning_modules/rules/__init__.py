"""How gradients are found: exact backprop in three forms, and Sideways."""

from difflib import get_close_matches
from typing import get_args

from lightning_modules.rules.backprop import backprop, backprop_frame, backprop_shifted
from lightning_modules.rules.rule import Rule, Stash, Update
from lightning_modules.rules.sideways import sideways

RULES = ("backprop_frame", "backprop_shifted", "backprop", "sideways")

__all__ = ["RULES", "Rule", "backprop", "backprop_frame", "backprop_shifted", "make_rule", "sideways"]


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
        raise ValueError(f"stash={stash!r} with rule {name!r}, which is exact already; leave stash out")
    if not drain and stash != "exact":
        raise ValueError(
            f"drain=False with stash {stash!r}, where nothing is drained; use stash='exact', or leave drain out"
        )
    if lead < 0:
        raise ValueError(f"lead is {lead}; expected frames, 0 for none")
    if lead and (name != "sideways" or stash != "none"):
        raise ValueError(
            f"lead={lead} with rule {name!r} and stash {stash!r}, whose gradients are about the frame that they meet; "
            "lead belongs to rule 'sideways' without a stash"
        )
    if update == "frame" and name in ("backprop_shifted", "backprop"):
        raise ValueError(
            f"update='frame' with rule {name!r}, whose gradient needs the whole clip; "
            "use update='clip', or rule 'sideways'"
        )


def make_rule(name: str, *, update: Update = "clip", stash: Stash = "none", drain: bool = True, lead: int = 0) -> Rule:
    """Return a rule by name.

    Raises:
        ValueError: an unknown name, or options that make no sense for the rule.
    """
    _check(name, update, stash, drain, lead)
    if name == "sideways":
        return sideways(update, stash, drain, lead)
    if name == "backprop_frame":
        return backprop_frame(update)
    return backprop_shifted() if name == "backprop_shifted" else backprop()
