"""What memory reads of a step: a symbol as one number of many, a vector as it is, a frame through a network.

    frozen     the network stays as it is: at its random start, or as a checkpoint has it
    detached   it learns from what each frame's own target says (rule backprop_frame); memory sends nothing back
    sideways   the same, learnt by Skip-Sideways: the pipeline's answer about a frame comes D - 1 ticks later, so
               memory works D - 1 ticks behind the newest frame [D]
    joint      memory's gradients go on into the network, through the frames of the rollout and the chosen ones

A frame's features are the network's K answers about it and E random projections of what its last unit reads, which
the frames' own loss leaves alone [D] (weight decay does not, nor does memory with joint): answers alone would hide
whatever no target asks for.

Shape legend: B lanes, N steps, F features, V symbols, C channels, H and W height and width, K answers.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from pickle import UnpicklingError

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.execution import clip_answers, clip_gradients, make_pipeline
from lightning_modules.memory.questions import Question
from lightning_modules.networks.unit_network import UnitNetwork
from lightning_modules.rules import Rule, make_rule

INPUT_KINDS = ("symbols", "vectors", "frames")
FRAME_ENCODERS = ("frozen", "detached", "sideways", "joint")


class Encoder(nn.Module, ABC):
    """From what is seen to features.

    Attributes:
        features: F.
        ahead: steps after a step that are read for its features.
        learns_alone: whether it learns from each step's own target.
        learns_jointly: whether memory's gradients go into it.
        scale: standard deviation of weights that turn the features into numbers around 1.
    """

    features: int
    scale: float = 1.0
    ahead: int = 0
    learns_alone = learns_jointly = False

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Return features (B, N, F) of N + `ahead` steps."""

    def step_by_step(self) -> Callable[[Tensor], Tensor | None]:
        """Return what takes one step (B, ...) after another and gives features (B, F) of the step `ahead` before."""
        return lambda x: self(x[:, None])[:, 0]


class SymbolEncoder(Encoder):
    """One number of V is 1: a memory's own input weights are then the symbols' embedding.

    Args:
        symbols: V.
    """

    def __init__(self, symbols: int) -> None:
        super().__init__()
        self.features = symbols

    def forward(self, x: Tensor) -> Tensor:
        """Return features (B, N, V) of symbols (B, N)."""
        return F.one_hot(x, self.features).float()


class VectorEncoder(Encoder):
    """Vectors as they are, of numbers around 1.

    Args:
        features: F.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.features = features
        self.scale = features**-0.5

    def forward(self, x: Tensor) -> Tensor:
        """Return the vectors (B, N, F)."""
        return x.float()


class FrameEncoder(Encoder):
    """A network of units, frame by frame or as a pipeline.

    Args:
        network: gives `question.outputs` answers and then the projections.
        kind: one of FRAME_ENCODERS.
        question: what a frame's own target asks.
    """

    def __init__(self, network: UnitNetwork, kind: str, question: Question) -> None:
        super().__init__()
        self.network, self.kind, self.question = network, kind, question
        self.features = network.channels[-1]
        self.scale = self.features**-0.5
        self.rule: Rule = make_rule("sideways" if kind == "sideways" else "backprop_frame")
        self.ahead = network.depth - 1 if kind == "sideways" else 0
        self.learns_alone, self.learns_jointly = kind in ("detached", "sideways"), kind == "joint"
        if kind == "frozen":
            network.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Return features (B, N, F) of frames (B, N + ahead, C, H, W), uint8 or floats in [0, 1]."""
        frames = _as_floats(x)
        if self.ahead:
            return self._pipelined(frames)
        with nullcontext() if self.learns_jointly else torch.no_grad():
            return self._normed(self.network(frames.flatten(0, 1)).unflatten(0, frames.shape[:2]))

    def step_by_step(self) -> Callable[[Tensor], Tensor | None]:
        """Return the same for one frame after another: a pipeline does one tick a frame."""
        if not self.ahead:
            return super().step_by_step()
        pipeline = make_pipeline(self.network, self.rule)

        def tick(frame: Tensor) -> Tensor | None:
            outputs = pipeline.infer(_as_floats(frame))
            return None if outputs is None else self._normed(outputs)

        return tick

    @torch.no_grad()
    def _pipelined(self, frames: Tensor) -> Tensor:
        outputs = clip_answers(self.network, frames, rule=self.rule).logits_BNK
        assert outputs is not None
        return self._normed(outputs)

    def _normed(self, outputs: Tensor) -> Tensor:
        """Return features of mean 0 and variance 1: a network that learns beside the memory does not drift from it."""
        return F.layer_norm(outputs, outputs.shape[-1:])

    def own_gradients(self, x: Tensor, targets: Tensor, lengths_B: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of the frames' own targets and the gradients that the rule finds, by parameter name.

        Args:
            x: frames (B, N + ahead, C, H, W).
            targets: of these frames (B, N + ahead).
            lengths_B: frames of each lane that count.
        """
        found = clip_gradients(
            self.network, _as_floats(x), targets, rule=self.rule, lengths_B=lengths_B, loss=self._answers_loss
        )
        assert found.loss is not None
        return found.loss, found.gradients

    def _answers_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self.question.loss(outputs[..., : self.question.outputs], targets)


def _as_floats(x: Tensor) -> Tensor:
    return x.float() / 255 if x.dtype == torch.uint8 else x


def load_encoder(network: UnitNetwork, path: Path) -> None:
    """Load a frame encoder's weights from a checkpoint of action recognition; of its last layer the answers' rows.

    Raises:
        ValueError: no such file, or a checkpoint of another network, with the first weight that does not fit.
    """
    if not path.is_file():
        raise ValueError(f"--model.encoder_ckpt {path}: there is no such file; name a last.ckpt that `fit` wrote")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    except (UnpicklingError, RuntimeError, EOFError, KeyError, TypeError) as error:
        raise ValueError(
            f"--model.encoder_ckpt {path} is no checkpoint ({type(error).__name__}); name a last.ckpt that `fit` wrote"
        ) from error
    given = {name.removeprefix("network."): value for name, value in found.items() if name.startswith("network.")}
    with torch.no_grad():
        for name, own in network.named_parameters():
            value = given.get(name)
            rows = own if value is None or not own.dim() else own[: len(value)]
            last = name.startswith(f"units.{network.depth - 1}.")
            if value is None or value.shape != rows.shape or (len(value) != len(own) and not last):
                has = "nothing" if value is None else tuple(value.shape)
                raise ValueError(
                    f"--model.encoder_ckpt {path}: {name} is {tuple(own.shape)} here and {has} there; give "
                    "--model.network, wiring, width, depth and the data's channels as that run had them (its "
                    "folder holds config.yaml)"
                )
            rows.copy_(value)
