"""The callbacks that measure a run."""

import time
from types import SimpleNamespace

import pytest
import torch

from lightning_modules.callbacks import StepMemory, StepTime, step_memory
from lightning_modules.callbacks.confusion import confusion_content
from lightning_modules.callbacks.step_time import WARM_UP_STEPS
from lightning_modules.metrics.memory import MIB


class Module(torch.nn.Module):
    def __init__(self, log_gradients_every=0):
        super().__init__()
        self.device = torch.device("cpu")
        self.hparams = {"log_gradients_every": log_gradients_every}
        self.layer = torch.nn.Linear(8, 8)
        self.logged = {}

    def log(self, name, value):
        self.logged[name] = value

    def log_dict(self, values):
        self.logged |= values


BATCH = {"length": torch.tensor([3, 5])}


def run(callback, module, steps, work):
    for i in range(steps):
        callback.on_train_batch_start(None, module, BATCH, i)
        work(i)
        callback.on_train_batch_end(None, module, None, BATCH, i)
    callback.on_train_epoch_end(None, module)
    return module.logged


def test_step_time_leaves_out_warm_up_and_counts_real_frames():
    logged = run(StepTime(), Module(), WARM_UP_STEPS + 4, lambda i: time.sleep(0.1 if i < WARM_UP_STEPS else 0.01))
    assert 10 <= logged["latency/step_p50_ms"] <= logged["latency/step_p95_ms"] < 100
    assert logged["train/frames_per_second"] == pytest.approx(8 * 1000 / logged["latency/step_p50_ms"], rel=0.5)


def test_step_time_leaves_out_steps_that_compare_gradients():
    """The steps that are left out are those that ActionRecognition logs: 1, 3, 5, ... of batches counted from 0."""
    logged = run(StepTime(), Module(2), WARM_UP_STEPS + 6, lambda i: time.sleep(0.1 if i % 2 == 1 else 0.01))
    assert logged["latency/step_p95_ms"] < 100


@pytest.mark.parametrize("callback", [StepTime, StepMemory])
def test_steps_that_prepare_are_not_measured(callback):
    module = Module()
    module.prepares = True

    def work(i):
        module.prepares = i < 4
        module.layer(torch.ones(8 if i < 5 else 64, 8, requires_grad=True)).sum()
        time.sleep(0.1 if i < WARM_UP_STEPS + 5 else 0.01)

    logged = run(callback(), module, WARM_UP_STEPS + 9, work)
    if callback is StepTime:
        assert logged["latency/step_p95_ms"] < 100
    else:
        assert logged["memory/saved_tensors_mib"] >= 64 * 8 * 4 / MIB


def test_step_time_says_nothing_of_warm_up_alone():
    assert run(StepTime(), Module(), WARM_UP_STEPS, lambda i: None) == {}


def test_step_memory_counts_what_autograd_holds_in_one_step():
    module = Module()

    def work(i):
        x = torch.ones(1024, 8) if i == 1 else torch.ones(4096, 8)
        module.layer(x).sum().backward()

    logged = run(StepMemory(), module, 4, work)
    assert logged["memory/saved_tensors_mib"] == pytest.approx(1024 * 8 * 4 / 2**20)
    assert logged["memory/peak_mib"] > 1


@pytest.mark.parametrize(("every", "counted"), [(0, 1), (2, 2), (3, 1)])
def test_step_memory_leaves_out_steps_that_compare_gradients(every, counted):
    module = Module(every)
    logged = run(StepMemory(), module, 4, lambda i: module.layer(torch.ones(1000 + i, 8)).sum().backward())
    assert logged["memory/saved_tensors_mib"] == pytest.approx((1000 + counted) * 8 * 4 / 2**20)


def test_the_peak_leaves_out_steps_that_compare_gradients(monkeypatch):
    """Steps 2 and 4 of five are logged; a peak is what was highest since the last reset."""
    peak = {"now": 0.0}
    monkeypatch.setattr(step_memory, "peak_mib", lambda device: peak["now"])
    monkeypatch.setattr(step_memory, "reset_peak", lambda device: peak.update(now=0.0))

    def work(i):
        peak["now"] = max(peak["now"], [3.0, 50.0, 7.0, 60.0, 5.0][i])

    assert run(StepMemory(), Module(2), 5, work)["memory/peak_mib"] == 7.0


def test_step_memory_takes_its_hooks_away_after_a_failure():
    callback, module = StepMemory(), Module()
    for i in range(2):
        callback.on_train_batch_start(None, module, BATCH, i)
    callback.on_exception(None, module, RuntimeError())
    held = callback._meter.peak_bytes
    module.layer(torch.ones(64, 8)).sum().backward()
    assert callback._meter.peak_bytes == held


def test_confusion_content_is_plain_and_per_class():
    content = confusion_content(torch.tensor([[3, 1, 0], [0, 2, 0], [0, 0, 0]]), ["a", "b", "c"])
    assert content == {
        "class_names": ["a", "b", "c"],
        "matrix": [[3, 1, 0], [0, 2, 0], [0, 0, 0]],
        "per_class_accuracy": [0.75, 1.0, None],
    }


def test_confusion_is_left_out_where_a_task_has_none():
    from lightning_modules.callbacks import ConfusionArtifact

    stored = []
    logger = SimpleNamespace(log_dict=lambda content, name: stored.append(name))
    ConfusionArtifact().on_test_end(SimpleNamespace(loggers=[logger], datamodule=None), Module())
    assert stored == []
