"""What goes into a letter: every tensor of nested values is changed, and everything else stays."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_modules.strategies.letters import for_tensors


@dataclass
class Sheet:
    """A dataclass with a tensor, a list of them, and none."""

    name: str
    values: Tensor
    parts: list[Tensor]
    nothing: None = None


def test_tensors_are_changed_wherever_they_are() -> None:
    given = {"sheet": Sheet("a", torch.ones(2), [torch.zeros(1)]), "pair": (torch.ones(1), 3)}
    changed = for_tensors(given, lambda t: t + 1)
    sheet = changed["sheet"]
    assert isinstance(sheet, Sheet)
    assert (sheet.name, sheet.nothing, changed["pair"][1]) == ("a", None, 3)
    assert torch.equal(sheet.values, torch.full((2,), 2.0))
    assert torch.equal(sheet.parts[0], torch.ones(1))
    assert torch.equal(given["sheet"].values, torch.ones(2))  # type: ignore[attr-defined]
