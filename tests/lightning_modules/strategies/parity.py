"""Gradients of stages in real processes, for several clips in a row, beside one process's."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from lightning_modules.execution import clip_gradients
from lightning_modules.execution.placement import cut
from lightning_modules.execution.stage import Stage
from lightning_modules.rules import make_rule
from tests.lightning_modules.execution.reference import moving_video, relative_error, tiny_network
from tests.lightning_modules.strategies.processes import running

# Batch, frames and frame size change from clip to clip: buffers are used anew, and made anew where messages grow.
CLIPS = [(2, 12, 8), (3, 10, 8), (1, 14, 8), (2, 12, 12), (3, 10, 8)]
# Wiring, rule, stash, units of each stage: skips that span stages, and skips within one.
CASES = {
    2: [
        ("dense", "sideways", "none", (2, 3)),
        ("residual", "sideways", "exact", (3, 1)),
        ("input", "backprop_frame", "none", (2, 2)),
    ],
    4: [
        ("residual", "sideways", "none", (1, 1, 2, 1)),
        ("dense", "sideways", "exact", (1, 1, 1, 1)),
    ],
}


def clips_of(wiring: str, rule: str, stash: str, sizes: tuple[int, ...]) -> list[tuple]:
    network = tiny_network(sum(sizes), wiring)
    chosen = make_rule(rule, stash=stash) if rule == "sideways" else make_rule(rule)
    executor = "pipelined" if rule == "sideways" else "vectorised"
    return [
        (network, moving_video(clips, frames, size, seed=n), torch.arange(clips) % 3, chosen, executor)
        for n, (clips, frames, size) in enumerate(CLIPS)
    ]


def _stage(index, store, cases, make):
    """This stage's gradients for every case and clip; each case has an exchange of its own, with the same store."""
    found: list[Any] = []
    for case in cases:
        exchange = make(store, index, len(case[-1]))
        found.append([])
        for network, video, labels, chosen, executor in clips_of(*case):
            stage = Stage(cut(network.wiring, case[-1]), index, exchange)
            mine = video if stage.has_video else video.to("meta")
            result = clip_gradients(network, mine, labels, rule=chosen, executor=executor, stage=stage)
            found[-1].append({name: g.clone().numpy() for name, g in result.gradients.items()})
        exchange.close()
    return found


def check_gradients(folder: Path, stages: int, make: Callable[..., Any]) -> None:
    """Every stage's gradients, with exchanges from `make(store, index, stages)`, equal one process's to 1e-12."""
    with running(folder, stages, _stage, CASES[stages], make) as group:
        results = group.results()
    for c, case in enumerate(CASES[stages]):
        for n, (network, video, labels, chosen, executor) in enumerate(clips_of(*case)):
            one = clip_gradients(network, video, labels, rule=chosen, executor=executor).gradients
            found = {name: torch.from_numpy(g) for stage in results for name, g in stage[c][n].items()}
            assert relative_error(found, one) < 1e-12
