"""The facts of methods.md sections 2 and 3 about Sideways and Skip-Sideways, in float64."""

import pytest
import torch
from torch import Tensor

from lightning_modules.execution import clip_gradients, clip_logits, schedule
from lightning_modules.networks import WIRINGS, UnitNetwork, make_wiring
from lightning_modules.networks.blocks import head_unit
from lightning_modules.rules import make_rule
from tests.lightning_modules.execution.reference import (
    Reference,
    moving_video,
    relative_error,
    shifted_output,
    tiny_network,
)

FRAME = make_rule("sideways", update="frame")
LABELS = torch.tensor([0, 2])
# Wiring `input` with newest edges gives its lower units nothing and is refused: see test_wirings.py.
EDGES = [
    *((w, "all") for w in WIRINGS),
    *((w, "newest") for w in WIRINGS if w != "input"),
    *((w, "shortest") for w in WIRINGS if w != "chain"),
]


def gradients_by_tick(network: UnitNetwork, video: Tensor, labels: Tensor = LABELS) -> list[dict[str, Tensor]]:
    """Every tick's mean pseudo-gradients, at weights that nobody changes; entry 0 is tick D, the first with a loss."""
    seen: list[dict[str, Tensor]] = []
    clip_gradients(network, video, labels, rule=FRAME, executor="pipelined", on_tick=lambda g: seen.append(dict(g)))
    return seen


def of_unit(network: UnitNetwork, unit: int, gradients: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: gradients[name] for name in network.unit_parameters(unit) if name in gradients}


@pytest.mark.parametrize(("wiring", "gradient_edges"), EDGES)
@pytest.mark.parametrize("depth", [2, 3, 4, 5, 6])
def test_constant_video_gives_backprop_at_every_tick_from_the_first(
    wiring: str, depth: int, gradient_edges: str
) -> None:
    network = tiny_network(depth, wiring, gradient_edges=gradient_edges)
    frames = 2 * depth + 1
    video = moving_video(2, 1).expand(-1, frames, -1, -1, -1)
    exact = clip_gradients(network, video[:, :1], LABELS, rule="backprop_frame").gradients
    for index, gradients in enumerate(gradients_by_tick(network, video)):
        tick = depth + index
        for unit in range(1, depth + 1):
            ours = of_unit(network, unit, gradients)
            assert bool(ours) == (tick >= schedule.first_gradient_tick(network.wiring, unit)), (tick, unit)
            if ours:
                assert relative_error(ours, of_unit(network, unit, exact)) < 1e-11, (tick, unit)


@pytest.mark.parametrize("depth", [2, 3, 5])
def test_explicit_lag_formula_on_a_chain(depth: int) -> None:
    """pg_i^t = dl(f_D) J_D(f_D) ... J_k(f_k) ... df_i/dth(f_i), with f_k = t - 2k + i + 1."""
    network, video = tiny_network(depth, "chain"), moving_video(2, 2 * depth + 3)

    def unit_input(unit: int, frame: int) -> Tensor:
        x = video[:, frame - 1]
        for below in range(1, unit):
            x = network.unit(below)([x])
        return x.detach().requires_grad_()

    ticks = gradients_by_tick(network, video)
    for unit in range(1, depth + 1):
        for tick in range(2 * depth - unit, video.shape[1] + 1):
            x = unit_input(depth, tick - 2 * depth + unit + 1)
            output = network.unit(depth)([x])
            upstream = torch.nn.functional.cross_entropy(output, LABELS, reduction="sum")
            for k in range(depth - 1, unit - 1, -1):
                (message,) = torch.autograd.grad(upstream, x)
                x = unit_input(k, tick - 2 * k + unit + 1)
                upstream = (network.unit(k)([x]) * message).sum()
            parameters = network.unit_parameters(unit)
            expected = torch.autograd.grad(upstream, list(parameters.values()))
            expected_mean = {n: g / len(LABELS) for n, g in zip(parameters, expected, strict=True)}
            assert relative_error(of_unit(network, unit, ticks[tick - depth]), expected_mean) < 1e-12, (unit, tick)


@pytest.mark.parametrize("gradient_edges", ["all", "newest", "shortest"])
@pytest.mark.parametrize("wiring", ["residual", "concat", "dense"])
def test_skip_wirings_follow_the_message_recursion(wiring: str, gradient_edges: str) -> None:
    network, video = tiny_network(4, wiring, gradient_edges=gradient_edges), moving_video(2, 11)
    reference = Reference(network, video, LABELS)
    for index, gradients in enumerate(gradients_by_tick(network, video)):
        for unit in range(1, 5):
            if ours := of_unit(network, unit, gradients):
                expected = {n: g / 2 for n, g in reference.pseudo_gradient(unit, 4 + index).items()}
                assert relative_error(ours, expected) < 1e-12, (index, unit)


@pytest.mark.parametrize("wiring", ["chain", "concat", "dense"])
def test_error_is_first_order_in_the_frame_difference(wiring: str) -> None:
    network = tiny_network(4, wiring)

    def errors(step: float) -> list[float]:
        video = moving_video(2, 12, step=step)
        ours = clip_gradients(network, video, LABELS, rule="sideways").gradients
        # The reference of a single step: backprop on the frame that all paths converge to as the step goes to zero.
        exact = clip_gradients(network, moving_video(2, 1), LABELS, rule="backprop_frame").gradients
        return [
            relative_error(of_unit(network, u, ours), of_unit(network, u, exact)) for u in range(1, network.depth + 1)
        ]

    for large, small in zip(errors(2e-4), errors(1e-4), strict=True):
        assert large / small == pytest.approx(2, rel=0.02)


@pytest.mark.parametrize("depth", [2, 4])
@pytest.mark.parametrize("wiring", WIRINGS)
def test_number_of_gradients(wiring: str, depth: int) -> None:
    network, frames = tiny_network(depth, wiring), 2 * depth + 3
    ticks = gradients_by_tick(network, moving_video(2, frames))
    for unit in range(1, depth + 1):
        counted = sum(bool(of_unit(network, unit, g)) for g in ticks)
        assert counted == frames - 2 * depth + unit + 1


def test_a_clip_too_short_for_the_lower_units_gives_them_no_gradient() -> None:
    network = tiny_network(4, "concat")
    gradients = clip_gradients(network, moving_video(2, 5), LABELS, rule="sideways").gradients
    # First gradients come at ticks 2D - i: 4, 5, 6, 7 for units 4, 3, 2, 1.
    assert [bool(of_unit(network, unit, gradients)) for unit in (1, 2, 3, 4)] == [False, False, True, True]


@pytest.mark.parametrize("wiring", WIRINGS)
def test_pipelined_inference_is_the_network_with_shifted_shortcuts(wiring: str) -> None:
    depth, frames = 4, 9
    network, video = tiny_network(depth, wiring), moving_video(2, frames)
    with torch.no_grad():
        expected = torch.stack([shifted_output(network, video, depth, n) for n in range(1, frames - depth + 2)], dim=1)
    for executor in ("vectorised", "pipelined"):
        logits, valid = clip_logits(network, video, rule="sideways", executor=executor)
        assert valid.all()
        torch.testing.assert_close(logits, expected, rtol=1e-12, atol=1e-12)


def test_a_chain_at_test_time_is_the_per_frame_network_delayed() -> None:
    network, video = tiny_network(5, "chain"), moving_video(2, 9)
    pipelined, _ = clip_logits(network, video, rule="sideways", executor="pipelined")
    per_frame, _ = clip_logits(network, video, rule="backprop_frame")
    torch.testing.assert_close(pipelined, per_frame[:, : 9 - 4])


def test_one_unit_is_backprop() -> None:
    torch.manual_seed(0)
    single = UnitNetwork([head_unit(3, "avg")], make_wiring("chain", 1), in_channels=2).double()
    video = moving_video(2, 4)
    for executor in ("vectorised", "pipelined"):
        ours = clip_gradients(single, video, LABELS, rule="sideways", executor=executor)
        exact = clip_gradients(single, video, LABELS, rule="backprop_frame")
        assert relative_error(ours.gradients, exact.gradients) < 1e-13
        torch.testing.assert_close(ours.loss, exact.loss)
