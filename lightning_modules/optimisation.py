"""How weights change: one optimizer with a parameter group per unit, learning rates scaled by lag, clipping per unit.

Clipping and accumulation are ours, not the Trainer's, so that they mean the same under every rule: Lightning offers
neither with manual optimisation.
"""

from collections.abc import Iterable, Mapping, Sequence
from math import exp, inf

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler, OneCycleLR

from lightning_modules.execution.schedule import lag
from lightning_modules.networks import ClipNetwork, UnitNetwork

OPTIMIZERS = ("adamw", "sgd")
SCHEDULES = ("onecycle", "cosine", "constant")
LAG_SCALINGS = ("off", "lower", "inverse", "exponential")
MOMENTUM = 0.9
LAG_STRENGTH = 1.0


def _check_name(what: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        raise ValueError(f"{what} {name!r} is unknown; expected one of {', '.join(known)}")


def check_names(*, optimizer: str, schedule: str) -> None:
    """Refuse unknown names.

    Raises:
        ValueError: with those that are known.
    """
    _check_name("optimizer", optimizer, OPTIMIZERS)
    _check_name("schedule", schedule, SCHEDULES)


def check_settings(
    network: UnitNetwork | ClipNetwork,
    *,
    optimizer: str,
    momentum: float,
    schedule: str,
    lag_scaling: str,
    lag_strength: float,
) -> None:
    """Refuse unknown names, and values that were chosen but can have no effect; the defaults always pass.

    Raises:
        ValueError: with what to type instead.
    """
    check_names(optimizer=optimizer, schedule=schedule)
    lag_factor(lag_scaling, lag_strength, 0)
    if momentum != MOMENTUM and optimizer != "sgd":
        raise ValueError(
            f"momentum {momentum} with optimizer {optimizer!r}, which takes none; use optimizer 'sgd', "
            "or leave momentum out"
        )
    if lag_strength != LAG_STRENGTH and lag_scaling == "off":
        raise ValueError(
            f"lag_strength {lag_strength} with lag_scaling 'off', which uses none; use lag_scaling 'lower', 'inverse' "
            "or 'exponential', or leave lag_strength out"
        )
    if lag_scaling != "off" and (network.is_local or isinstance(network, ClipNetwork)):
        what = "a network that takes whole clips and" if isinstance(network, ClipNetwork) else "a greedy rule, which"
        raise ValueError(f"lag_scaling {lag_scaling!r} with {what} has no lag; leave lag_scaling out")


def lag_factor(scaling: str, strength: float, frames: int) -> float:
    """Return what a unit's learning rate is multiplied by, given its lag in frames [D].

    `off`: 1. `lower`: `strength` for every unit with a lag, 1 without. `inverse`: 1 / (1 + strength x lag).
    `exponential`: exp(-strength x lag).

    Raises:
        ValueError: an unknown law or a negative strength.
    """
    _check_name("lag_scaling", scaling, LAG_SCALINGS)
    if strength < 0:
        raise ValueError(f"lag_strength is {strength}; it must not be negative")
    if scaling == "lower":
        return strength if frames else 1.0
    if scaling == "inverse":
        return 1 / (1 + strength * frames)
    return exp(-strength * frames) if scaling == "exponential" else 1.0


def freeze_all_but(network: UnitNetwork | ClipNetwork, units: str | Sequence[int]) -> None:
    """Leave every unit but the named ones at its random start.

    Args:
        network: its other units' parameters lose `requires_grad`.
        units: `all`, `last`, or unit numbers counted from 1.

    Raises:
        ValueError: a name or number that the network does not have.
    """
    numbers = (
        {"all": range(1, network.depth + 1), "last": [network.depth]}.get(units) if isinstance(units, str) else units
    )
    if not numbers or not all(1 <= unit <= network.depth for unit in numbers):
        raise ValueError(f"train_units {units!r}; expected 'all' or 'last', or some of the units 1 to {network.depth}")
    if units == "last" and isinstance(network, ClipNetwork):
        raise ValueError("train_units 'last' with a network that takes whole clips and is one unit; use 'all'")
    for unit in set(range(1, network.depth + 1)) - set(numbers):
        for p in network.unit_parameters(unit).values():
            p.requires_grad_(False)


def parameter_groups(
    network: UnitNetwork | ClipNetwork, lr: float, scaling: str, strength: float
) -> list[dict[str, object]]:
    """Return one optimizer group per unit that has trainable parameters, each with its own learning rate."""
    groups: list[dict[str, object]] = []
    for unit in range(1, network.depth + 1):
        trainable = [p for p in network.unit_parameters(unit).values() if p.requires_grad]
        if trainable:
            frames = 0 if isinstance(network, ClipNetwork) else lag(network.wiring, unit)
            factor = lag_factor(scaling, strength, frames)
            groups.append({"params": trainable, "lr": lr * factor, "name": f"unit_{unit}"})
    return groups


def make_optimizer(
    name: str, groups: list[dict[str, object]], lr: float, weight_decay: float, momentum: float
) -> Optimizer:
    """Return `adamw` or `sgd` over the groups.

    Raises:
        ValueError: an unknown name.
    """
    _check_name("optimizer", name, OPTIMIZERS)
    if name == "adamw":
        return AdamW(groups, lr=lr, weight_decay=weight_decay)
    return SGD(groups, lr=lr, weight_decay=weight_decay, momentum=momentum)


def make_scheduler(name: str, optimizer: Optimizer, steps: int) -> LRScheduler:
    """Return a learning-rate schedule over `steps` updates: `onecycle`, `cosine` or `constant`.

    Raises:
        ValueError: an unknown name.
    """
    _check_name("schedule", name, SCHEDULES)
    if name == "onecycle":
        peaks = [group["lr"] for group in optimizer.param_groups]
        return OneCycleLR(optimizer, max_lr=peaks, total_steps=max(steps, 1) + 1, cycle_momentum=False)
    if name == "cosine":
        return CosineAnnealingLR(optimizer, T_max=max(steps, 1))
    return LambdaLR(optimizer, lambda _: 1.0)


def planned_updates(batches: float, accumulate: int, epochs: int | None, max_steps: int) -> int | None:
    """Return how many updates a fit makes; None where nothing limits it.

    Args:
        batches: training batches of an epoch; infinite where unknown.
        accumulate: batches that make an update; an epoch's last update may have fewer.
        epochs: most epochs; None or -1 for no limit.
        max_steps: most updates; -1 for no limit.
    """
    limits = [float(max_steps)] if max_steps >= 0 else []
    if epochs is not None and epochs >= 0 and batches != inf:
        limits.append(float(-(-int(batches) // accumulate) * epochs))
    return int(min(limits)) if limits else None


def set_gradients(module: nn.Module, gradients: Mapping[str, Tensor], *, batches: int = 1) -> None:
    """Write gradients to the parameters' `.grad`; a parameter without one gets None, so that no optimizer moves it.

    Args:
        module: its parameters' names are the keys of `gradients`.
        gradients: by parameter name.
        batches: with n > 1, `.grad` holds the mean of n - 1 batches, and becomes the mean of n.
    """
    for name, p in module.named_parameters():
        new = gradients.get(name)
        if batches == 1:
            p.grad = new
        elif new is not None or p.grad is not None:
            parts = [part for part in (new, None if p.grad is None else p.grad * (batches - 1)) if part is not None]
            p.grad = sum(parts[1:], parts[0]) / batches


def clip_per_unit(optimizer: Optimizer, max_norm: float) -> None:
    """Scale each unit's gradient to at most `max_norm` (2-norm). Per unit, since units do not wait for one another."""
    for group in optimizer.param_groups:
        parameters: Iterable[nn.Parameter] = [p for p in group["params"] if p.grad is not None]
        torch.nn.utils.clip_grad_norm_(parameters, max_norm)
