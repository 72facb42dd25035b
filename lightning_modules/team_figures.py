"""Figures of a training batch that several processes found together: replicas on other clips, stages of other modules.

replicas   mean_of_replicas      the same figures of other clips
stages     losses_of_modules     each stage's modules have losses of their own
           codebook_figures_of   and codebooks that learn there
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from lightning_modules.execution.clip_loss import Answer
from lightning_modules.execution.greedy import stage_modules
from lightning_modules.execution.team import Team
from lightning_modules.metrics.codebooks import codebook_figures
from lightning_modules.networks import ClipNetwork, UnitNetwork


def mean_of_replicas(team: Team, names: Iterable[str], values_N: Tensor) -> dict[str, Tensor]:
    """Return the mean of N values over processes that worked on other clips, by name."""
    replicas = team.from_all_clips(values_N)
    return dict(zip(names, torch.stack(replicas).mean(0), strict=True))


def own_losses(answers: Mapping[int, Answer]) -> dict[str, Tensor]:
    """Return `train/loss/module_j` of the modules that have worked here."""
    return {f"train/loss/module_{j}": answer.loss for j, answer in answers.items()}


def losses_of_modules(team: Team, answers: Mapping[int, Answer]) -> dict[str, Tensor]:
    """Return the losses of all modules, in whatever stage they work; none where there is one loss."""
    if not answers:
        return {}
    losses = own_losses(answers)
    own = mean_of_replicas(team, losses, torch.stack([*losses.values()]).cpu())
    return {name: loss for part in team.from_all_stages(own) for name, loss in part.items()}


def codebook_figures_of(team: Team, network: UnitNetwork | ClipNetwork, *, quantised: bool) -> dict[str, Any]:
    """Return the figures of all codebooks, each from the stage in which it learns.

    Args:
        team: the processes.
        network: that learns.
        quantised: whether any stage has codebooks.
    """
    own = codebook_figures(network, stage_modules(network, team.stage))
    parts = team.from_all_stages(own) if quantised else [own]
    return {name: value for part in parts for name, value in part.items()}
