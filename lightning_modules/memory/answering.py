"""What a memory says at the scored steps of whole streams, each from its own memory.

    stream   |--piece--|--piece--|--piece--|      read once, in pieces; only the answers are kept
    answers        a        a            a

Shape legend: B lanes, A answers (steps that are scored), K outputs.
"""

from typing import Any

import torch
from torch import Tensor

from lightning_modules.memory.encoders import Encoder
from lightning_modules.memory.memory_network import MemoryNetwork
from lightning_modules.memory.questions import Question
from lightning_modules.memory.reading import PIECE, read_pieces


@torch.no_grad()
def answers_of(
    network: MemoryNetwork, encoder: Encoder, question: Question, lanes: Any, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return what is said at the scored steps: outputs (B, A, K) and targets (B, A).

    Where a lane has fewer scored steps the target asks nothing.

    Args:
        network: memory, local context and predictor.
        encoder: gives the features.
        question: what is asked.
        lanes: streams side by side.
        device: where to work.
    """
    answers_BA = lanes.answers_BA
    given_BA = answers_BA >= 0
    _, targets_BA = lanes.read(answers_BA.masked_fill(~given_BA, -1))
    out_BAK = torch.zeros(*answers_BA.shape, question.outputs, device=device)
    before = network.context.window - 1
    state: Any = None
    for start, run in read_pieces(encoder, lanes, PIECE, device, before):
        if state is None:
            state = network.memory.initial(len(answers_BA), run.features)
        outputs, _, state = network.at_each_step(run.features, state)
        lane, answer = ((answers_BA >= start) & (answers_BA < start + run.targets.shape[1]) & given_BA).nonzero(
            as_tuple=True
        )
        out_BAK[lane, answer] = outputs[lane, answers_BA[lane, answer] - start].float()
    return out_BAK, targets_BA.to(device)


def rows_of(lanes: Any, outputs_BAK: Tensor, targets_BA: Tensor) -> dict[str, Any]:
    """Return a row for each scored step: `clip_id` (stream@step), `label`, and scores (rows, K).

    Args:
        lanes: streams side by side.
        outputs_BAK: what is said; scores are probabilities, of numbers the number itself.
        targets_BA: what is right.
    """
    lane, answer = (lanes.answers_BA >= 0).nonzero(as_tuple=True)
    names = [
        f"{lanes.ids[i]}@{int(lanes.answers_BA[i, j])}" for i, j in zip(lane.tolist(), answer.tolist(), strict=True)
    ]
    outputs = outputs_BAK[lane, answer]
    scores = outputs.softmax(-1) if outputs.shape[-1] > 1 else outputs
    return {"clip_id": names, "label": targets_BA[lane, answer].cpu(), "scores": scores.cpu()}
