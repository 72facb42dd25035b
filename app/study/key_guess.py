"""What an unknown key of the configuration was meant to be."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher

from app.comparison.overrides import nearest

OTHER_NAMES = {"learning_rate": "lr", "epochs": "max_epochs", "steps": "max_steps", "optim": "optimizer"}
LISTED = 12  # keys beside an unknown one
_NEAR = 1.2  # of 2: how alike a key and its guess must be, in all and in their last part
_NEAR_LAST = 0.6  # of 1: in their last part alone; what stands before it is the same for many keys


def nearest_key(key: str, known: Iterable[str]) -> str:
    """The end of an error message about an unknown key: the closest one, or some of what is there beside it.

    >>> nearest_key("model.lr", ["model.init_args.lr", "model.init_args.rule", "trainer.max_steps"])
    "did you mean 'model.init_args.lr'?"
    >>> nearest_key("model.init_args.hue", ["model.init_args.lr", "model.init_args.wiring"])
    'beside it are: lr, wiring'
    """
    known = list(known)
    if guess := _guess(key, known):
        return f"did you mean {guess!r}?"
    parent, _, last = key.rpartition(".")
    beside = [name.removeprefix(f"{parent}.") for name in known if parent and name.startswith(f"{parent}.")]
    if not beside:
        return nearest(key.split(".")[0], list(dict.fromkeys(name.split(".")[0] for name in known)))
    more = f" and {len(beside) - LISTED} more" if len(beside) > LISTED else ""
    return f"beside it are: {', '.join(sorted(beside, key=lambda name: -_alike(name, last))[:LISTED])}{more}"


def _guess(key: str, known: list[str]) -> str:
    if above := [name for name in known if key.startswith(f"{name}.")]:
        return above[0]
    parent, _, last = key.rpartition(".")
    if last in OTHER_NAMES and (name := _best(f"{parent}.{OTHER_NAMES[last]}", known)):
        return name
    return _best(key, known)


def _best(key: str, known: list[str]) -> str:
    last = key.rpartition(".")[2]
    scores = {name: (_alike(key, name), _alike(last, name.rpartition(".")[2])) for name in known}
    near = [name for name, (whole, end) in scores.items() if end >= _NEAR_LAST and whole + end >= _NEAR]
    return max(near, key=lambda name: sum(scores[name]), default="")


def _alike(one: str, other: str) -> float:
    return SequenceMatcher(None, one, other).ratio()
