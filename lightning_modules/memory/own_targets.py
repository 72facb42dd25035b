"""What a rollout's steps ask by themselves, without memory: a frame encoder and a local model learn from it.

Shape legend: B lanes, N steps of the rollout.
"""

from typing import Any

import torch
from torch import Tensor

from lightning_modules.memory.encoders import FrameEncoder
from lightning_modules.memory.local_model import LocalModel
from lightning_modules.memory.questions import Question
from lightning_modules.memory.reading import Steps


def teach_encoder(
    encoder: FrameEncoder, lanes: Any, start_B: Tensor, length_B: Tensor, steps: int, device: torch.device
) -> Tensor:
    """Write the gradients of the frames' own targets to the encoder's parameters; return the loss.

    Args:
        encoder: learns alone.
        lanes: streams side by side.
        start_B: first step of the rollout, int64 on the CPU.
        length_B: its steps, the same; 0 where a lane's stream is over.
        steps: N.
        device: where to work.
    """
    x, y = lanes.read(start_B[:, None] + torch.arange(steps + encoder.ahead))
    beyond_B = (lanes.lengths_B - start_B).clamp(0, steps + encoder.ahead) * (length_B > 0)
    x, y, beyond_B = (part.to(device) for part in (x, y, beyond_B))
    loss, gradients = encoder.own_gradients(x, y, beyond_B)
    for name, p in encoder.network.named_parameters():
        p.grad = gradients.get(name)
    return loss.detach()


def local_loss(model: LocalModel, question: Question, run: Steps, length_B: Tensor) -> tuple[Tensor, Tensor]:
    """Return a local model's mean loss over the rollout's steps that ask something, and their number; 0 of none."""
    outputs = model(run.features.detach())
    device = outputs.device
    steps = torch.arange(outputs.shape[1], device=device)
    valid_BN = run.inside & (steps < length_B.to(device)[:, None]) & question.is_asked(run.targets)
    asked = valid_BN.sum()
    return (question.local_loss(outputs, run.targets) * valid_BN).sum() / asked.clamp_min(1), asked
