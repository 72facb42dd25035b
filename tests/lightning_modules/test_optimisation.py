"""How weights change: rates by lag, a group per unit, clipping per unit, accumulation, units without a gradient."""

import math

import pytest
import torch

from lightning_modules.networks import build_network
from lightning_modules.optimisation import (
    LAG_SCALINGS,
    clip_per_unit,
    lag_factor,
    make_optimizer,
    make_scheduler,
    parameter_groups,
    planned_updates,
    set_gradients,
)


def network(**options):
    torch.manual_seed(0)
    return build_network("small_cnn", num_classes=3, width=0.25, in_channels=1, **options).double()


def random_gradients(module, units=None):
    chosen = (
        module.named_parameters() if units is None else (x for u in units for x in module.unit_parameters(u).items())
    )
    return {name: torch.randn_like(p) for name, p in chosen}


@pytest.mark.parametrize(
    ("scaling", "strength", "frames", "factor"),
    [
        ("off", 3.0, 8, 1.0),
        ("lower", 0.1, 0, 1.0),
        ("lower", 0.1, 2, 0.1),
        ("lower", 0.1, 10, 0.1),
        ("inverse", 0.5, 0, 1.0),
        ("inverse", 0.5, 4, 1 / 3),
        ("exponential", 0.25, 0, 1.0),
        ("exponential", 0.25, 8, math.exp(-2)),
    ],
)
def test_lag_laws(scaling, strength, frames, factor):
    assert lag_factor(scaling, strength, frames) == pytest.approx(factor)


def test_lag_law_errors():
    with pytest.raises(ValueError, match="expected one of off, lower, inverse, exponential"):
        lag_factor("linear", 1.0, 2)
    with pytest.raises(ValueError, match="must not be negative"):
        lag_factor("inverse", -1.0, 2)


@pytest.mark.parametrize("scaling", LAG_SCALINGS)
def test_one_group_per_unit_scaled_by_its_lag(scaling):
    net = network(wiring="dense")
    groups = parameter_groups(net, 0.5, scaling, 0.2)
    assert [g["name"] for g in groups] == [f"unit_{i}" for i in range(1, 7)]
    for unit, group in enumerate(groups, start=1):
        assert [id(p) for p in group["params"]] == [id(p) for p in net.unit_parameters(unit).values()]
        assert group["lr"] == pytest.approx(0.5 * lag_factor(scaling, 0.2, 2 * (6 - unit)))


def test_newest_edges_shorten_the_lag_of_the_rate():
    rates = [g["lr"] for g in parameter_groups(network(wiring="concat", gradient_edges="newest"), 1.0, "inverse", 1.0)]
    assert rates[-1] == 1.0
    assert rates[0] > 1 / 11


def test_frozen_units_have_no_group():
    net = network()
    for p in net.unit_parameters(2).values():
        p.requires_grad_(False)
    assert [g["name"] for g in parameter_groups(net, 1.0, "off", 1.0)] == [f"unit_{i}" for i in (1, 3, 4, 5, 6)]


def test_clipping_is_per_unit():
    net = network()
    optimizer = make_optimizer("sgd", parameter_groups(net, 0.1, "off", 1.0), 0.1, 0.0, 0.0)
    gradients = random_gradients(net)
    for name in net.unit_parameters(1):
        gradients[name] *= 1e-4
    small = {name: gradients[name].clone() for name in net.unit_parameters(1)}
    set_gradients(net, gradients)
    clip_per_unit(optimizer, 0.5)
    norms = [torch.cat([p.grad.flatten() for p in g["params"]]).norm().item() for g in optimizer.param_groups]
    assert norms[0] < 0.5
    assert all(torch.equal(net.unit_parameters(1)[name].grad, g) for name, g in small.items())
    assert norms[1:] == pytest.approx([0.5] * 5, rel=1e-4)


def test_accumulated_gradients_are_the_mean():
    net = network()
    batches = [random_gradients(net) for _ in range(3)]
    for number, gradients in enumerate(batches, start=1):
        set_gradients(net, gradients, batches=number)
        for name, p in net.named_parameters():
            mean = torch.stack([b[name] for b in batches[:number]]).mean(0)
            torch.testing.assert_close(p.grad, mean, rtol=1e-14, atol=1e-14)


def test_a_batch_without_a_units_gradient_counts_as_zero_in_the_mean():
    net = network()
    only_last, everything = random_gradients(net, units=[6]), random_gradients(net)
    for first, second in ((only_last, everything), (everything, only_last)):
        set_gradients(net, first)
        set_gradients(net, second, batches=2)
        for name, p in net.unit_parameters(1).items():
            torch.testing.assert_close(p.grad, everything[name] / 2)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_unit_without_gradient_is_not_moved(name):
    """Neither momentum nor weight decay may move it."""
    net = network()
    optimizer = make_optimizer(name, parameter_groups(net, 0.1, "off", 1.0), 0.1, 0.1, 0.9)
    set_gradients(net, random_gradients(net))
    optimizer.step()
    before = {n: p.detach().clone() for n, p in net.named_parameters()}
    set_gradients(net, random_gradients(net, units=[5, 6]))
    optimizer.step()
    moved = {
        unit for unit in range(1, 7) if any(not torch.equal(p, before[n]) for n, p in net.unit_parameters(unit).items())
    }
    assert moved == {5, 6}


@pytest.mark.parametrize(
    ("batches", "accumulate", "epochs", "max_steps", "updates"),
    [
        (5, 1, 3, -1, 15),
        (5, 2, 10, -1, 30),  # an epoch's last update has one batch
        (4, 2, 10, -1, 20),
        (5, 1, 3, 7, 7),
        (5, 2, 1, 7, 3),
        (float("inf"), 1, None, 9, 9),
        (float("inf"), 1, 3, -1, None),
        (5, 1, -1, -1, None),
        (5, 1, None, 4, 4),
    ],
)
def test_planned_updates(batches, accumulate, epochs, max_steps, updates):
    assert planned_updates(batches, accumulate, epochs, max_steps) == updates


def rates(name, steps):
    optimizer = make_optimizer("sgd", parameter_groups(network(), 0.1, "lower", 0.5), 0.1, 0.0, 0.9)
    scheduler = make_scheduler(name, optimizer, steps)
    found = []
    for _ in range(steps):
        found.append([g["lr"] for g in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize("name", ["onecycle", "cosine", "constant"])
def test_schedules_keep_the_ratio_between_units(name):
    for of_units in rates(name, 20):
        assert of_units[0] == pytest.approx(0.5 * of_units[-1])


def test_schedules():
    last_unit = {name: [r[-1] for r in rates(name, 20)] for name in ("onecycle", "cosine", "constant")}
    assert last_unit["constant"] == [0.1] * 20
    assert max(last_unit["onecycle"]) == pytest.approx(0.1, rel=0.05)
    assert last_unit["onecycle"][0] < 0.01
    assert last_unit["onecycle"][-1] < 0.01
    assert last_unit["cosine"][0] == 0.1
    assert last_unit["cosine"] == sorted(last_unit["cosine"], reverse=True)


def test_unknown_names():
    groups = parameter_groups(network(), 0.1, "off", 1.0)
    with pytest.raises(ValueError, match="expected one of adamw, sgd"):
        make_optimizer("adam", groups, 0.1, 0.0, 0.9)
    with pytest.raises(ValueError, match="expected one of onecycle, cosine, constant"):
        make_scheduler("linear", make_optimizer("sgd", groups, 0.1, 0.0, 0.9), 10)
