"""What modules and heads cost is printed and logged before training, where there is something to say."""

from types import SimpleNamespace

import pytest

from lightning_modules.action_recognition import ActionRecognition
from lightning_modules.callbacks import ModuleCosts, module_costs
from lightning_modules.future_frames import FutureFrames
from lightning_modules.metrics.head_cost import module_costs as counted

DIGITS = SimpleNamespace(channels=1, size=32, frames=20)


@pytest.fixture
def said(monkeypatch):
    """What the callback prints."""
    lines = []
    monkeypatch.setattr(module_costs, "rank_zero_info", lines.append)
    return lines


def logged(model, data=DIGITS, *, rank=0, step=0):
    """Return what the callback logs at the start of a fit: (values, step) of each call."""
    calls = []
    logger = SimpleNamespace(log_metrics=lambda values, step: calls.append((values, step)))
    trainer = SimpleNamespace(is_global_zero=rank == 0, datamodule=data, loggers=[logger], global_step=step)
    ModuleCosts().on_fit_start(trainer, model)
    return calls


def greedy(**options):
    return ActionRecognition(4, in_channels=1, width=0.5, **{"rule": "greedy", **options})


def test_a_line_a_module_is_printed_and_its_figures_are_logged(said):
    model = greedy(modules=[1, 2, 3])
    ((values, step),) = logged(model, step=7)
    costs = counted(model.network, (1, 32, 32))
    assert step == 7
    assert [values[f"cost/macs/module_{j}"] for j in (1, 2, 3)] == [cost.macs for cost in costs]
    assert [values[f"cost/head_parameters/module_{j}"] for j in (1, 2)] == [c.head_parameters for c in costs[:2]]
    assert values["cost/mac_share/module_1"] == costs[0].head_macs / costs[0].macs
    assert "cost/head_macs/module_3" not in values  # its last unit answers
    every = sum(values[f"cost/{name}/module_{j}"] for name in ("parameters", "head_parameters") for j in (1, 2))
    assert every + values["cost/parameters/module_3"] == sum(p.numel() for p in model.network.parameters())
    (text,) = said
    assert text.startswith("modules on a frame of 32 x 32 pixels of 1 channel, and their heads:\n")
    assert [line.split()[0] for line in text.splitlines()[1:]] == ["module", "1", "2", "3", "all"]


def test_a_network_of_clips_is_counted_on_a_clip(said):
    model = greedy(network="cnn3d", modules=2)
    ((values, _),) = logged(model)
    costs = counted(model.network, (20, 1, 32, 32))
    assert values["cost/macs/module_2"] == costs[1].macs
    assert "a clip of 20 frames" in said[0]


@pytest.mark.parametrize(
    ("options", "data", "rank"),
    [
        ({"rule": "sideways"}, DIGITS, 0),
        ({}, SimpleNamespace(channels=1), 0),
        ({}, None, 0),
        ({}, DIGITS, 1),
        ({"network": "cnn3d", "modules": 2}, SimpleNamespace(channels=1, size=32, frames=None), 0),
    ],
    ids=["one loss", "no size", "no data", "another process", "no frames"],
)
def test_nothing_is_said_of_what_is_not_known(options, data, rank, said):
    assert logged(greedy(**options), data, rank=rank) == []
    assert said == []


def test_a_task_of_somebody_elses_is_left_alone(said):
    assert logged(SimpleNamespace()) == []


def test_decoders_of_predicted_frames_are_counted_too(said):
    model = FutureFrames(in_channels=1, wiring="unet", rule="greedy", width=0.5)
    ((values, _),) = logged(model)
    costs = counted(model.network, (1, 32, 32))
    assert [values[f"cost/head_macs/module_{j}"] for j in range(1, 5)] == [cost.head_macs for cost in costs[:4]]
    assert min(cost.head_macs for cost in costs[:4]) > 0
