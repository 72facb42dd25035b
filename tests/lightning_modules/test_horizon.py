"""Horizons: newest frames against the clock and against the networks, targets by loops, one scored set for all."""

import re

import pytest
import torch
from torch import Tensor

from lightning_modules import horizon as h
from lightning_modules.execution import clip_gradients, clip_logits, schedule
from lightning_modules.frame_losses import frame_loss
from lightning_modules.networks import PREDICTOR_WIRINGS, build_frame_predictor, make_wiring
from lightning_modules.rules import make_rule

SHIFTED, ORDINARY = make_rule("sideways"), make_rule("backprop_frame")


def clip(frames: int, clips: int = 2, size: int = 8) -> Tensor:
    return torch.rand(clips, frames, 2, size, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_the_drawn_clip() -> None:
    drawn = {
        name: (int(m), int(k)) for name, m, k in re.findall(r"(\w+) +.*Lmin.*\n.*m = (\d), targets (\d)", h.__doc__)
    }
    chain, dense = (int(h.newest_frames(SHIFTED, make_wiring(w, 4), 7)[2]) for w in ("chain", "dense"))
    assert drawn == {"chain": (chain, chain + 1), "dense": (dense, dense + 1)}
    scored = h.scored_outputs(torch.arange(12), torch.tensor([12]), depth=4, horizon=2)[0].nonzero().flatten()
    assert scored.tolist() == [3, 4, 5, 6]


@pytest.mark.parametrize("wiring_name", PREDICTOR_WIRINGS)
@pytest.mark.parametrize("depth", [4, 6, 7])
def test_newest_frames_are_the_clock_s(wiring_name: str, depth: int) -> None:
    wiring = make_wiring(wiring_name, depth)
    clock = [schedule.newest_frame(wiring, depth, tick) - 1 for tick in range(depth, depth + 5)]
    assert h.newest_frames(SHIFTED, wiring, 5).tolist() == clock
    assert h.newest_frames(ORDINARY, wiring, 5).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("rule", ["sideways", "backprop_shifted", "backprop_frame"])
@pytest.mark.parametrize("wiring", PREDICTOR_WIRINGS)
def test_no_output_has_seen_a_frame_newer_than_its_newest(wiring: str, rule: str) -> None:
    """The leak: were the horizon counted from any older frame, a target would be among the frames read."""
    torch.manual_seed(0)
    network = build_frame_predictor("small_autoencoder", wiring=wiring, in_channels=2, width=0.25).double()
    video = clip(10, clips=1)
    outputs, _ = clip_logits(network, video, rule=rule)
    assert outputs is not None
    for n, m in enumerate(h.newest_frames(make_rule(rule), network.wiring, outputs.shape[1]).tolist()):
        newer, same = video.clone(), video.clone()
        newer[:, m + 1 :] = 1 - newer[:, m + 1 :]
        same[:, m] = 1 - same[:, m]
        for changed, moves in ((newer, False), (same, True)):
            moved, _ = clip_logits(network, changed, rule=rule)
            assert moved is not None
            assert torch.equal(moved[:, n], outputs[:, n]) != moves


@pytest.mark.parametrize("horizon", [0, 1, 3])
def test_every_rule_and_wiring_answers_the_scored_frames(horizon: int) -> None:
    depth, lengths = 6, torch.tensor([h.shortest_scored_clip(6, horizon) + extra for extra in (-1, 0, 4)])
    frames = int(lengths.max())
    wanted = [set(), {5}, {5, 6, 7, 8, 9}]
    for rule in (SHIFTED, ORDINARY):
        for name in PREDICTOR_WIRINGS:
            outputs = frames - horizon - (depth - 1 if rule.forward_shift else 0)
            newest = h.newest_frames(rule, make_wiring(name, depth), outputs)
            scored = h.scored_outputs(newest, lengths, depth=depth, horizon=horizon)
            assert [set(newest[row].tolist()) for row in scored] == wanted, (rule.name, name)


@pytest.mark.parametrize("horizon", [0, 1, 3])
@pytest.mark.parametrize("predict", ["change", "frame"])
@pytest.mark.parametrize(("rule", "wiring"), [(SHIFTED, "chain"), (SHIFTED, "unet"), (ORDINARY, "chain")])
def test_targets_are_the_frames_ahead(horizon: int, predict: str, rule: object, wiring: str) -> None:
    video, wires = clip(12), make_wiring(wiring, 6)
    context = 12 - horizon
    newest = h.newest_frames(rule, wires, context - 5 if rule is SHIFTED else context)  # type: ignore[arg-type]
    lengths = torch.full((2,), 12)
    targets = h.training_targets(video, int(newest[0]), lengths, horizon=horizon, predict=predict)
    assert targets.shape == (2, context, 2 * max(horizon, 1), 8, 8)
    frames = h.target_frames(video, newest, horizon)
    means = h.mean_last(video, newest, horizon)
    for n, m in enumerate(newest.tolist()):
        for column, k in enumerate(range(1, horizon + 1) if horizon else [0]):
            base = video[:, m] if predict == "change" and horizon else 0
            assert torch.equal(targets[:, n, 2 * column : 2 * column + 2], video[:, m + k] - base)
            assert torch.equal(frames[:, n, column], video[:, m + k])
            last = [video[:, max(m - back, 0)] for back in range(4)]
            torch.testing.assert_close(means[:, n, column], sum(last) / 4)
    said = h.predicted_frames(targets[:, : len(newest)], video, newest, horizon=horizon, predict=predict)
    torch.testing.assert_close(said, frames)
    assert torch.equal(h.copy_last(video, newest, horizon)[:, :, -1], video[:, newest]), (
        "copy-last says the newest frame at every horizon"
    )


@pytest.mark.parametrize("lead", [0, 2])
def test_a_clip_s_padding_is_no_target(lead: int) -> None:
    """A shorter clip in a batch trains and scores as it does alone, whatever stands in its padding."""
    torch.manual_seed(0)
    network = build_frame_predictor(
        "small_autoencoder", wiring="unet", in_channels=2, out_channels=6, width=0.25
    ).double()
    video, horizon = clip(18, clips=1), 3
    padded = torch.cat([video, torch.full_like(video[:, :4], 9.0)], 1)
    first = int(h.newest_frames(SHIFTED, network.wiring, 1)[0])

    def gradients(given: Tensor) -> object:
        targets = h.training_targets(given, first, torch.tensor([18]), horizon=horizon, predict="change")
        lengths, rule = h.context_lengths(torch.tensor([18]), horizon), make_rule("sideways", lead=lead)
        context = given[:, : given.shape[1] - horizon]
        return clip_gradients(network, context, targets, rule=rule, loss=frame_loss("mse"), lengths_B=lengths)

    alone, together = gradients(video), gradients(padded)
    torch.testing.assert_close(together.loss, alone.loss)  # type: ignore[attr-defined]
    for name, gradient in alone.gradients.items():  # type: ignore[attr-defined]
        torch.testing.assert_close(together.gradients[name], gradient)  # type: ignore[attr-defined]


def test_losses_by_loops() -> None:
    x, y = clip(3, clips=1, size=4)[0], clip(4, clips=1, size=4)[0, 1:]
    for n in range(3):
        d = (x - y)[n]
        down = [abs(float(d[c, i + 1, j] - d[c, i, j])) for c in range(2) for i in range(3) for j in range(4)]
        across = [abs(float(d[c, i, j + 1] - d[c, i, j])) for c in range(2) for i in range(4) for j in range(3)]
        expected = float(d.abs().mean()) + sum(down) / 24 + sum(across) / 24
        assert float(frame_loss("l1_gdl")(x, y)[n]) == pytest.approx(expected)
        assert float(frame_loss("mse")(x, y)[n]) == pytest.approx(float((d**2).mean()))
    base = clip(1, clips=1, size=4)[0]
    for name in ("mse", "l1_gdl"):
        torch.testing.assert_close(frame_loss(name)(x + base, y + base), frame_loss(name)(x, y))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: frame_loss("l1_gd"), "did you mean 'l1_gdl'"),
        (lambda: h.check_horizon(-1, "change"), "or 0 to encode the frame itself"),
        (lambda: h.check_horizon(4, "changes"), "expected one of change, frame"),
    ],
)
def test_errors_that_teach(call, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        call()
