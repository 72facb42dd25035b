"""A stream of pieces with the pipeline's state kept between them is the same video as one long clip, to rounding."""

import pytest
import torch
from torch import Tensor

from lightning_modules.execution import PipelineState, clip_gradients, clip_logits
from lightning_modules.execution.clip_loss import ClipSums, cross_entropy, gradient_count
from lightning_modules.execution.pipelined import run_pipelined
from lightning_modules.networks import WIRINGS
from lightning_modules.networks.unit_network import UnitNetwork
from lightning_modules.rules import make_rule
from lightning_modules.rules.rule import Rule
from tests.lightning_modules.execution.reference import moving_video, relative_error, tiny_network

EDGES = [
    *((w, "all") for w in WIRINGS),
    *((w, "newest") for w in ("residual", "concat", "dense")),
    *((w, "shortest") for w in ("concat", "dense")),
]
RULES = {"sideways": make_rule("sideways"), "stash": make_rule("sideways", stash="exact", drain=False)}
LENGTHS = torch.tensor([14, 9, 3])  # the second lane's video ends inside a piece, the third's before the first gradient
LABELS = torch.tensor([0, 2, 1])
EACH_FRAME = torch.randint(3, (3, 14), generator=torch.Generator().manual_seed(1))
DEPTH = 4


def pieces(frames: int, of: int) -> list[slice]:
    return [slice(start, min(start + of, frames)) for start in range(0, frames, of)]


def lengths_in(piece: slice) -> Tensor:
    return (LENGTHS - piece.start).clamp(0, piece.stop - piece.start)


def streamed(network: UnitNetwork, targets: Tensor, rule: Rule, of: int) -> list[ClipSums]:
    """Run a video piece by piece; each time the state has been through its plain form, as in a checkpoint."""
    video, state, found = moving_video(3, 14), PipelineState(), []
    for piece in pieces(14, of):
        here = targets if targets.dim() == 1 else targets[:, piece]
        state = PipelineState.from_state_dict(state.state_dict())
        sums, state = run_pipelined(network, video[:, piece], here, rule, lengths_in(piece), cross_entropy, state)
        found.append(sums)
    assert state.tick == 14
    return found


def added(parts: list[ClipSums]) -> dict[str, Tensor]:
    names = {name: None for part in parts for name in part.gradients}
    return {name: sum(part.gradients[name] for part in parts if name in part.gradients) for name in names}  # type: ignore[misc]


@pytest.mark.parametrize("targets", [LABELS, EACH_FRAME], ids=["labels", "each frame"])
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
@pytest.mark.parametrize(("wiring", "edges"), EDGES)
def test_a_stream_is_the_long_clip(wiring: str, edges: str, rule: Rule, targets: Tensor) -> None:
    """Outputs, the sum of losses and the sums of gradients; pieces of 2 frames are shorter than the pipeline's 4."""
    network = tiny_network(DEPTH, wiring, gradient_edges=edges)
    whole, _ = run_pipelined(network, moving_video(3, 14), targets, rule, LENGTHS, cross_entropy)
    for of in (2, 5):
        parts = streamed(network, targets, rule, of)
        torch.testing.assert_close(torch.stack([part.loss for part in parts]).sum(), whole.loss)
        logits = torch.cat([part.logits_BNK for part in parts if part.logits_BNK.shape[1]], 1)
        torch.testing.assert_close(logits, whole.logits_BNK)
        assert torch.equal(torch.cat([part.valid_BN for part in parts], 1), whole.valid_BN)
        assert relative_error(added(parts), whole.gradients) < 1e-11


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
def test_the_counts_of_pieces_add_up(rule: Rule) -> None:
    wiring = tiny_network(DEPTH, "dense").wiring
    for unit in range(1, DEPTH + 1):
        parts = [gradient_count(rule, wiring, unit, lengths_in(p), start=p.start) for p in pieces(14, 5)]
        assert sum(parts) == gradient_count(rule, wiring, unit, LENGTHS)


def test_a_stream_with_a_step_at_every_tick_is_the_long_clip() -> None:
    """`update: frame`: the same gradients are handed over at the same ticks."""
    network, rule = tiny_network(DEPTH, "dense"), make_rule("sideways", update="frame")
    options = {"rule": rule, "executor": "pipelined"}
    whole, parts, state = [], [], PipelineState()
    clip_gradients(network, moving_video(3, 14), EACH_FRAME, lengths_B=LENGTHS, on_tick=whole.append, **options)  # type: ignore[arg-type]
    for piece in pieces(14, 5):
        clip_gradients(
            network,
            moving_video(3, 14)[:, piece],
            EACH_FRAME[:, piece],
            lengths_B=lengths_in(piece),
            on_tick=parts.append,
            state=state,
            **options,  # type: ignore[arg-type]
        )
    assert len(whole) == len(parts) == 11
    for one, other in zip(whole, parts, strict=True):
        assert relative_error(other, one) < 1e-11


@pytest.mark.parametrize("rule", ["sideways", "backprop_shifted"])
def test_scores_of_a_stream_are_the_long_clips(rule: str) -> None:
    network, state = tiny_network(DEPTH, "dense"), PipelineState()
    whole, valid = clip_logits(network, moving_video(3, 14), rule=rule, lengths_B=LENGTHS)
    parts = [
        clip_logits(network, moving_video(3, 14)[:, piece], rule=rule, lengths_B=lengths_in(piece), state=state)
        for piece in pieces(14, 3)
    ]
    assert parts[0][0].shape == (3, 0, 0), "three frames give no output in a pipeline of four"
    torch.testing.assert_close(torch.cat([logits for logits, _ in parts[1:]], 1), whole)
    assert torch.equal(torch.cat([mask for _, mask in parts], 1), valid)


def test_a_drained_clip_with_a_target_for_each_frame() -> None:
    """While the pipeline is drained there is no output, so no target is asked for beyond the last frame."""
    network, video = tiny_network(DEPTH, "chain"), moving_video(3, 14)
    options = {"rule": make_rule("sideways", stash="exact"), "lengths_B": LENGTHS}
    one, other = (
        clip_gradients(network, video, EACH_FRAME, executor=e, **options) for e in ("vectorised", "pipelined")
    )  # type: ignore[arg-type]
    assert relative_error(other.gradients, one.gradients) < 1e-11


def test_what_makes_no_stream_is_refused() -> None:
    network, video, state = tiny_network(2, "chain"), moving_video(3, 4), PipelineState()
    with pytest.raises(ValueError, match="'backprop_frame', whose network keeps none; give each clip without a state"):
        clip_logits(network, video, rule="backprop_frame", state=state)
    clip_gradients(network, video, LABELS, executor="pipelined", state=state)
    with pytest.raises(ValueError, match="stream whose 4 frames so far had none of their own"):
        clip_gradients(network, video, EACH_FRAME[:, :4], executor="pipelined", state=state)
