"""Encoder-decoders cut into units: sizes, wirings in time, and the executors' statements on them."""

import pytest
import torch
from torch import Tensor

from lightning_modules.execution import clip_gradients, clip_logits, schedule
from lightning_modules.networks import (
    FRAME_PREDICTORS,
    PREDICTOR_WIRINGS,
    UnitNetwork,
    build_frame_predictor,
    build_network,
    make_wiring,
)
from lightning_modules.rules import make_rule
from tests.lightning_modules.execution.reference import relative_error, shifted_output

UNITS = {"small_autoencoder": 6, "vgg8_autoencoder": 12, "resnet18_autoencoder": 10}


def small(wiring: str, depth: int = 6, **options: object) -> UnitNetwork:
    """A smooth float64 predictor of two channels."""
    torch.manual_seed(0)
    options = {"in_channels": 2, "out_channels": 4, "width": 0.25, "activation": "tanh", **options}
    return build_frame_predictor("small_autoencoder", wiring=wiring, depth=depth, **options).double()  # type: ignore[arg-type]


def clip(frames: int, clips: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(clips, frames, 2, 8, 8, generator=generator, dtype=torch.float64)


def squared(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).square().flatten(1).mean(1)


@pytest.mark.parametrize("wiring", PREDICTOR_WIRINGS)
@pytest.mark.parametrize("name", FRAME_PREDICTORS)
def test_frames_of_the_input_s_size_come_out(name: str, wiring: str) -> None:
    torch.manual_seed(0)
    network = build_frame_predictor(name, wiring=wiring, in_channels=1, out_channels=6, width=0.125)
    multiple = network.frame_multiple
    output = network(torch.rand(2, 1, multiple, 2 * multiple))
    assert output.shape == (2, 6, multiple, 2 * multiple)
    assert network.depth == UNITS[name]
    assert (output[0] - output[1]).abs().max() > 0


@pytest.mark.parametrize("name", FRAME_PREDICTORS)
def test_a_network_that_starts_at_zero_says_zero_and_learns(name: str) -> None:
    network = build_frame_predictor(name, wiring="unet", width=0.125, zero_output=True)
    frames = torch.rand(2, 3, 32, 32)
    assert torch.equal(network(frames), torch.zeros(2, 3, 32, 32))
    network(frames).sub(frames).square().mean().backward()
    last = network.unit_parameters(network.depth).values()
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in last)


def test_unet_of_the_drawn_table() -> None:
    assert make_wiring("unet", 6).sources == ((0,), (1,), (2,), (3,), (4, 2), (5, 1))
    assert make_wiring("unet", 7).sources == ((0,), (1,), (2,), (3,), (4, 3), (5, 2), (6, 1))
    assert make_wiring("unet", 6).path_lengths(6) == {2, 4, 6}
    assert [schedule.lag(make_wiring("unet", 6), unit) for unit in range(1, 7)] == [10, 8, 6, 4, 2, 0]


@pytest.mark.parametrize("depth", [6, 7, 9])
def test_a_unet_s_skips_join_maps_of_one_size(depth: int) -> None:
    network = small("unet", depth)
    frame = clip(1)[:, 0]
    outputs = {0: frame}
    for unit in range(1, depth + 1):
        messages = [outputs[j] for j in network.wiring.sources_of(unit)]
        assert len({m.shape[-2:] for m in messages}) == 1, unit
        outputs[unit] = network.unit(unit)(messages)


def test_frames_that_each_unit_s_messages_have_seen() -> None:
    """A U-Net's skip in the pipeline brings the encoder's map of a *newer* frame than the one that is decoded."""
    wiring, tick = make_wiring("unet", 6), 20
    read = {unit: [(r.source, set(r.frames)) for r in schedule.work(wiring, tick, unit).reads] for unit in range(1, 7)}
    assert read[4] == [(3, {17})]
    assert read[5] == [(4, {16}), (2, {18})]
    assert read[6] == [(5, {15, 17}), (1, {19})]
    assert schedule.frames_read(wiring, 6, tick) == {15, 17, 19}
    assert schedule.newest_frame(wiring, 6, tick) == 19


@pytest.mark.parametrize("rule", ["sideways", "backprop_shifted"])
@pytest.mark.parametrize("wiring", PREDICTOR_WIRINGS)
def test_a_changed_frame_moves_the_outputs_that_have_read_it(wiring: str, rule: str) -> None:
    network, video = small(wiring), clip(9, clips=1)
    outputs, _ = clip_logits(network, video, rule=rule)
    assert outputs is not None
    for frame in range(1, 10):
        other = video.clone()
        other[:, frame - 1] = 1 - other[:, frame - 1]
        moved, _ = clip_logits(network, other, rule=rule)
        assert moved is not None
        for tick in range(6, 10):
            differs = not torch.equal(outputs[0, tick - 6], moved[0, tick - 6])
            assert differs == (frame in schedule.frames_read(network.wiring, 6, tick)), (frame, tick)


@pytest.mark.parametrize("stash", ["none", "exact"])
@pytest.mark.parametrize("wiring", PREDICTOR_WIRINGS)
def test_vectorised_equals_pipelined(wiring: str, stash: str) -> None:
    network, video = small(wiring), clip(13, clips=3)
    targets = torch.cat([video, 1 - video], 2)
    options = {"rule": make_rule("sideways", stash=stash), "lengths_B": torch.tensor([13, 12, 9]), "loss": squared}  # type: ignore[arg-type]
    one, other = (
        clip_gradients(network, video, targets, executor=e, **options)  # type: ignore[arg-type]
        for e in ("vectorised", "pipelined")
    )
    assert relative_error(one.gradients, other.gradients) < 1e-11
    torch.testing.assert_close(one.loss, other.loss)
    torch.testing.assert_close(one.logits_BNK, other.logits_BNK)
    assert one.logits_BNK.shape == (3, 8, 4, 8, 8)


@pytest.mark.parametrize("wiring", PREDICTOR_WIRINGS)
def test_on_a_constant_video_sideways_is_backprop(wiring: str) -> None:
    network = small(wiring)
    video = clip(1).expand(-1, 14, -1, -1, -1)
    targets = clip(2).flatten(1, 2)[:, None].expand(-1, 14, -1, -1, -1)
    found = {
        rule: clip_gradients(network, video, targets, rule=rule, loss=squared)
        for rule in ("sideways", "backprop_shifted", "backprop_frame")
    }
    for rule in ("backprop_shifted", "backprop_frame"):
        assert relative_error(found["sideways"].gradients, found[rule].gradients) < 1e-11
        torch.testing.assert_close(found["sideways"].loss, found[rule].loss)


@pytest.mark.parametrize("wiring", ["chain", "unet"])
def test_shifted_backprop_is_autograd_through_the_shifted_network(wiring: str) -> None:
    network, video = small(wiring), clip(8)
    targets = torch.cat([video, 1 - video], 2)
    outputs = [shifted_output(network, video, 6, n) for n in (1, 2, 3)]
    loss = torch.stack([squared(output, targets[:, n]) for n, output in enumerate(outputs)]).mean()
    expected = torch.autograd.grad(loss, list(network.parameters()))
    names = [name for name, _ in network.named_parameters()]
    ours = clip_gradients(network, video, targets, rule="backprop_shifted", loss=squared)
    assert relative_error(ours.gradients, dict(zip(names, expected, strict=True))) < 1e-11


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: build_frame_predictor("small_autoencodr"), "did you mean 'small_autoencoder'"),
        (lambda: build_frame_predictor("small_cnn"), "gives one answer, not frames; expected one of small_auto"),
        (lambda: build_frame_predictor("small_autoencoder", depth=5), "at least 6 units"),
        (lambda: build_frame_predictor("vgg8_autoencoder", depth=6), "has 12 units, given depth=6"),
        (lambda: build_frame_predictor("resnet18_autoencoder", depth=6), "use network 'small_autoencoder'"),
        (lambda: build_frame_predictor("small_autoencoder", wiring="une"), "did you mean 'unet'"),
        (lambda: build_network("small_autoencoder"), "task FutureFrames"),
        (lambda: build_network("small_cnn", wiring="unet"), "expected one of chain, residual"),
    ],
)
def test_errors_that_teach(call, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        call()
