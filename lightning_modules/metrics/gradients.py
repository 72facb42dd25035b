"""The health of a rule's gradients, unit by unit: alignment with exact backprop, norm, and how far weights moved."""

from collections.abc import Mapping
from copy import copy
from dataclasses import replace

import torch
from torch import Tensor

from lightning_modules.networks import ClipNetwork, UnitNetwork


def is_logged(batch_idx: int, every: int) -> bool:
    """Return whether a batch (from 0) is the last of each `every` batches, whose gradients are logged; 0: never.

    Callbacks that time or weigh a step ask too: a logged step also does the exact backprop it is compared with.
    """
    return every > 0 and (batch_idx + 1) % every == 0


def with_all_edges(network: UnitNetwork) -> UnitNetwork:
    """Return the same network, its parameters shared, with gradients over all edges: what exact backprop needs."""
    if network.wiring.gradients == "all":
        return network
    twin = copy(network)
    twin.wiring = replace(network.wiring, gradients="all")
    return twin


def _flat(tensors: Mapping[str, Tensor], names: list[str]) -> Tensor:
    return torch.cat([tensors[name].flatten() for name in names])


def _shared_names(network: UnitNetwork | ClipNetwork, unit: int, *groups: Mapping[str, Tensor]) -> list[str]:
    return [name for name in network.unit_parameters(unit) if all(name in group for group in groups)]


def alignment(
    network: UnitNetwork | ClipNetwork, gradients: Mapping[str, Tensor], exact: Mapping[str, Tensor]
) -> dict[int, float]:
    """Return the cosine, in [-1, 1], between each unit's gradient and the exact one; units lacking one are absent.

    One cosine over all of a unit's parameters (methods.md section 3, "alignment" [D]).
    """
    cosines: dict[int, float] = {}
    for unit in range(1, network.depth + 1):
        if names := _shared_names(network, unit, gradients, exact):
            ours, theirs = _flat(gradients, names), _flat(exact, names)
            cosine = torch.nn.functional.cosine_similarity(ours, theirs, dim=0)
            cosines[unit] = cosine.clamp(-1, 1).item()  # rounding may overshoot
    return cosines


def gradient_norm(network: UnitNetwork | ClipNetwork, gradients: Mapping[str, Tensor]) -> dict[int, float]:
    """Return the 2-norm of each unit's gradient; units without one are absent."""
    norms: dict[int, float] = {}
    for unit in range(1, network.depth + 1):
        if names := _shared_names(network, unit, gradients):
            norms[unit] = _flat(gradients, names).norm().item()
    return norms


def weight_change(network: UnitNetwork | ClipNetwork, start: Mapping[str, Tensor]) -> dict[int, float]:
    """Return ||w - w_start|| / ||w_start|| of each unit, for the weights kept in `start`.

    A unit that started at zero (the last one of `predict: change`) has none.
    """
    changes: dict[int, float] = {}
    for unit in range(1, network.depth + 1):
        now = {name: p.detach() for name, p in network.unit_parameters(unit).items()}
        if names := [name for name in now if name in start]:
            before = _flat(start, names).to(next(iter(now.values())))
            if length := before.norm().item():
                changes[unit] = (_flat(now, names) - before).norm().item() / length
    return changes


def gradient_health(
    network: UnitNetwork, gradients: Mapping[str, Tensor], exact: Mapping[str, Tensor], start: Mapping[str, Tensor]
) -> dict[str, float]:
    """Return `alignment/unit_i`, `grad_norm/unit_i` and `weight_change/unit_i` of every unit that has them.

    Args:
        network: its weights now.
        gradients: the rule's, by parameter name.
        exact: those of exact shifted backprop on the same clips.
        start: the weights from which the change is measured.
    """
    figures = {
        "alignment": alignment(network, gradients, exact),
        "grad_norm": gradient_norm(network, gradients),
        "weight_change": weight_change(network, start),
    }
    return {f"{name}/unit_{unit}": value for name, values in figures.items() for unit, value in values.items()}
