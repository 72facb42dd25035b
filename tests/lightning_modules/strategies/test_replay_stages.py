"""Stages that train without waiting for one another: what they send, the pace of the batches, and real runs.

No test counts seconds: a stage that is slow is held in the middle of an update until the others have gone on for many
batches. Had anyone waited for it, no process would come further.
"""

import os
import re
import signal
import socket
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning import Callback, Trainer, seed_everything
from lightning.pytorch.accelerators import CPUAccelerator, CUDAAccelerator
from lightning.pytorch.callbacks import ModelCheckpoint, Timer
from torch.distributed import HashStore

from lightning_modules.action_recognition import ActionRecognition
from lightning_modules.execution import ReplayMemory, clip_gradients
from lightning_modules.execution.placement import cut
from lightning_modules.execution.stage import Stage
from lightning_modules.execution.team import Team
from lightning_modules.future_frames import FutureFrames
from lightning_modules.rules import Replay, make_rule
from lightning_modules.strategies.asynchronous import check_asynchronous
from lightning_modules.strategies.depth_parallel import DepthParallelStrategy
from lightning_modules.strategies.parcels import unwrapped, wrapped
from lightning_modules.strategies.replay_link import ReplayLink
from lightning_modules.strategies.stage_batches import StageBatches
from tests.lightning_modules.execution.test_replayed import Sgd, batches, network, weights
from tests.lightning_modules.strategies.processes import mark, running
from tests.lightning_modules.strategies.train_script import MODEL, TRAINER
from tests.lightning_modules.toy_clips import ToyData


def alive() -> None:
    """No watchdog."""


def links(stages: int, kind: type[ReplayLink] = ReplayLink, **options) -> list[ReplayLink]:
    """Return the links of all stages in one process: mailboxes do not mind."""
    store = HashStore()
    return [kind(store, index, stages, index + 1, alive, **options) for index in range(stages)]


# -- what is sent -------------------------------------------------------------------------------------------------


def test_a_parcel_comes_out_as_it_went_in() -> None:
    content = [
        {"messages": {2: torch.rand(2, 3), 0: {"packed": torch.arange(5, dtype=torch.uint8)}}, "frames": 9},
        ("text", None, True, 1.5, [torch.Size((4, 3)), torch.bfloat16], (), {"nested": {}}),
    ]
    found = unwrapped(wrapped(content))
    assert torch.equal(found[0]["messages"][2], content[0]["messages"][2])
    assert torch.equal(found[0]["messages"][0]["packed"], torch.arange(5, dtype=torch.uint8))
    assert list(found[0]["messages"]) == [2, 0]
    assert (found[0]["frames"], found[1]) == (9, content[1])
    assert [type(part) for part in found[1]] == [type(part) for part in content[1]]
    assert type(found[1][4][0]) is torch.Size


def test_a_parcel_of_unknown_things_is_refused() -> None:
    with pytest.raises(TypeError, match="a Replay cannot be sent"):
        wrapped({"x": [Replay(1)]})


# -- the pace -----------------------------------------------------------------------------------------------------


def test_the_first_stages_batches_set_the_pace() -> None:
    low, high = links(2)
    assert not high.is_over()
    with low.batch():
        assert (low.now, low.is_over()) == (1, False)
        low.outgoing(low.now, {"x": torch.tensor(1.0)})
    with high.batch():
        assert high.is_over()
        assert high.now == 2
    with low.batch():
        low.outgoing(low.now, {"x": torch.tensor(2.0)})
        with high.batch():
            assert not high.is_over()  # the first stage is in its second batch, and so are we
            assert [(number, float(c["x"])) for number, c in high.incoming()] == [(1, 1.0), (2, 2.0)]
            low.end_batch()  # before it meets the others
            assert high.is_over()
    for _ in range(3):
        with low.batch():
            pass
    for late in range(3):
        with high.batch():
            assert high.is_over(), late
    with high.batch():
        assert not high.is_over()
    assert high.now == 6
    for link in (low, high):
        link.close()


def test_a_batch_without_clips_is_over_too() -> None:
    """The task trains on nothing, and does not come to its link; the others must not wait for it."""
    low, high = links(2)
    with low.batch():
        pass
    with high.batch():
        assert high.is_over()
    for link in (low, high):
        link.close()


def test_watchdogs_are_told_of_updates_but_not_of_rests() -> None:
    said: list[object] = []
    low, high = links(2, on_update=lambda *at: said.append(at), on_batch_end=lambda: said.append("end"))
    with low.batch():
        pass
    said.clear()
    for _ in range(2):
        with high.batch():
            high.incoming()
            high.rest()
            high.incoming()
            high.incoming()
    assert said == [(1, 1), (1, 1), (2, 1), "end", (1, 2), (1, 2), (2, 2), "end"]
    for link in (low, high):
        link.close()


def test_the_first_stage_gets_the_newest_figures_without_waiting() -> None:
    low, middle, high = links(3)
    assert low.newest_figures(low.own_figures({"loss": torch.tensor(1.0)})) == {
        "loss": 1, "sent/module_1": 0, "dropped/module_1": 0, "minibatch_bytes/module_1": 0,
    }  # fmt: skip
    for value in range(5):
        assert high.newest_figures(high.own_figures({"top": value})) == {}
    middle.newest_figures(middle.own_figures({"middle": 7.0}))
    high.newest_figures(high.own_figures({}))  # in a batch for which it is late
    found = low.newest_figures(low.own_figures({"loss": 2.0}))
    assert (found["loss"], found["top"], found["middle"], found["sent/module_2"]) == (2, 4, 7, 0)
    assert low.newest_figures(low.own_figures({})) == found
    for link in (low, middle, high):
        link.close()


class OneUpdate(ReplayLink):
    """A link under which every stage does one update a batch, to compare with one process."""

    def is_over(self) -> bool:
        return self._updates > 0 or self._rested

    def rest(self) -> None:
        self._rested = True

    def batch(self):
        self._rested = False
        return super().batch()


@pytest.mark.parametrize(
    ("wiring", "sizes", "codes"),
    [
        ("chain", (1, 1, 1), 0),
        ("dense", (1, 1, 1), 8),
        ("dense", (2, 1), 0),
        ("input", (1, 2), 8),
        ("input", (1, 1, 1), 0),
    ],
)
def test_stages_in_step_are_one_process_bit_for_bit(wiring, sizes, codes) -> None:
    """Skips over stages, modules that share a stage, and codes: three modules, the highest stage first."""
    quantised = {"vq_groups": 2, "vq_codes": codes} if codes else {}
    rule, data = make_rule("greedy", replay=2), batches(6)
    alone, memory = network(wiring, **quantised), ReplayMemory()
    for video, labels, lengths in data:
        clip_gradients(alone, video, labels, rule=rule, lengths_B=lengths, memory=memory, on_tick=Sgd(alone))

    nets = [network(wiring, **quantised) for _ in sizes]
    units = [sum(nets[0].wiring.modules[sum(sizes[:s]) : sum(sizes[: s + 1])]) for s in range(len(sizes))]
    ends = links(len(sizes), OneUpdate)
    stages = [Stage(cut(nets[0].wiring, units), s, replay=ends[s]) for s in range(len(sizes))]
    memories = [ReplayMemory() for _ in sizes]
    none = (torch.zeros(0, 1, 1, 1, 1).double(), torch.zeros(0).long(), torch.zeros(0).long())
    for batch in data:
        for s in reversed(range(len(sizes))):
            video, labels, lengths = none if s else batch
            options = {"rule": rule, "lengths_B": lengths, "memory": memories[s], "stage": stages[s]}
            with ends[s].batch():
                clip_gradients(nets[s], video, labels, on_tick=Sgd(nets[s]), **options)
    expected = weights(alone)
    for net, stage in zip(nets, stages, strict=True):
        names = tuple(f"units.{unit - 1}." for unit in stage.units)
        found = {name: tensor for name, tensor in weights(net).items() if name.startswith(names)}
        assert found
        assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())
    updates = {j: count for m in memories for j, count in m.updates().items()}
    assert updates == memory.updates() == {1: 6, 2: 5, 3: 4}
    for link in ends:
        link.close()


def test_batches_without_letters_wait_for_nobody() -> None:
    class NoLetters:
        address = "1"

        def read(self, *_: str) -> None:
            raise AssertionError("nobody writes")

    apart = True
    loader = StageBatches([1, 2, 3], NoLetters(), [], "0", "topic", without_letters=lambda: apart)
    assert [(len(batch["label"]), len(batch["length"])) for batch in loader] == [(0, 0)] * 3
    first = StageBatches([1, 2, 3], SimpleNamespace(address="0"), ["1"], "0", "topic", without_letters=lambda: apart)
    assert list(first) == [1, 2, 3]
    apart = False
    with pytest.raises(AssertionError, match="nobody writes"):
        next(iter(loader))


# -- what is refused ----------------------------------------------------------------------------------------------


def trainer_of(**options) -> SimpleNamespace:
    return SimpleNamespace(**{"accelerator": CPUAccelerator(), "num_nodes": 1, "callbacks": [], **options})


@pytest.mark.parametrize(
    ("trainer", "replay", "said"),
    [
        ({}, Replay(2, slow_downs=(1.0, 2.0)), r"slow_down \[1.0, 2.0\] in 2 stages.*leave slow_down out"),
        ({"accelerator": CUDAAccelerator()}, Replay(2), "on CUDAAccelerator.*use --trainer.accelerator cpu"),
        ({"num_nodes": 2}, Replay(2), "on 2 hosts of .*use --trainer.devices 1"),
    ],
)
def test_what_stages_that_do_not_wait_cannot_do(trainer, replay, said) -> None:
    with pytest.raises(ValueError, match=said):
        check_asynchronous(trainer_of(**trainer), replay, 2)


@pytest.mark.parametrize(
    "callback", [Timer("00:00:01:00"), ModelCheckpoint(train_time_interval=Timer("00:00:01:00")._duration)]
)
def test_what_makes_all_stages_wait_is_said(callback) -> None:
    with pytest.warns(UserWarning, match="wait for the slowest one; use max_epochs or max_steps"):
        check_asynchronous(trainer_of(callbacks=[callback]), Replay(1), 2)
    check_asynchronous(trainer_of(callbacks=[ModelCheckpoint()]), Replay(1, slow_downs=(1.0,)), 2)


# -- real runs ----------------------------------------------------------------------------------------------------

GREEDY = {
    "rule": "greedy",
    "executor": "vectorised",
    "replay": 4,
    "optimizer": "sgd",
    "lr": 0.1,
    "schedule": "constant",
}
THREE = {**GREEDY, "modules": [2, 1, 1], "max_reuse": 40}
TWO = {**GREEDY, "modules": 2}


def run(index, store, folder, stages, *jobs) -> list[dict]:
    """Do jobs of this file in a process of a run, as torchrun would start it."""
    if index == 0:
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            store.set("port", str(found.getsockname()[1]))
    ranks = {"RANK": index, "LOCAL_RANK": index, "WORLD_SIZE": stages, "LOCAL_WORLD_SIZE": stages, "GROUP_RANK": 0}
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": store.get("port").decode(), "TORCHELASTIC_RUN_ID": "test"}
    os.environ.update({name: str(value) for name, value in (ranks | where).items()})
    torch.set_num_threads(1)
    return [globals()[job](index, folder) for job in jobs]


def train(model, data=None, *, stages=2, ckpt_path=None, callbacks=(), strategy=None, **trainer) -> dict:
    """Train, and return what is known at the end."""
    seed_everything(0, verbose=False)
    options = {**TRAINER, "precision": "32-true", "devices": stages, "callbacks": list(callbacks), **trainer}
    if data is None:
        data, options["limit_val_batches"] = ToyData(clips=64, frames=6), 0
    if stages > 1:
        options["strategy"] = DepthParallelStrategy(
            **strategy or {"balance": [sum(model.network.wiring.modules[:1]), *model.network.wiring.modules[1:]]}
        )
    fit = Trainer(**options)
    fit.fit(model, datamodule=data, ckpt_path=ckpt_path)
    metrics = {name: float(value) for name, value in fit.callback_metrics.items()}
    return {"metrics": metrics, "steps": fit.global_step, "weights": arrays(model)}


def arrays(model) -> dict[str, np.ndarray]:
    return {name: w.detach().numpy().copy() for name, w in model.network.state_dict().items()}


class Held(Callback):
    """Counts a stage's updates, and holds its second one until all of some marks are there."""

    def __init__(self, folder: Path, unit: int, *, until: tuple[str, ...] = (), marks: int = 10**6) -> None:
        self.folder, self.unit, self.until, self.marks, self.updates = folder, unit, until, marks, 0

    def on_train_start(self, trainer, pl_module) -> None:
        pl_module.network.unit(self.unit).register_forward_pre_hook(self.work)

    def work(self, *_: object) -> None:
        self.updates += torch.is_grad_enabled()
        if self.updates == self.marks:
            mark(self.folder, f"{self.marks} updates of unit {self.unit}")
        if self.updates == 2:
            while not all((self.folder / name).exists() for name in self.until):
                time.sleep(0.01)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        mark(self.folder, f"batch {batch_idx + 1} of rank {trainer.global_rank}")


def held_in_the_middle(index, folder) -> dict:
    """The second of three stages stands still from its second update on, for twelve batches of the first."""
    until = ("batch 12 of rank 0", "30 updates of unit 4")
    held = {
        0: Held(folder, 1),
        1: Held(folder, 3, until=until),
        2: Held(folder, 4, marks=30),
    }[index]
    model = ActionRecognition(**{**MODEL, **THREE})
    return {**train(model, stages=3, callbacks=[held], max_epochs=2, max_steps=-1), "updates": held.updates}


@pytest.mark.timeout(240)
def test_a_stage_that_stands_still_keeps_nobody_from_work(tmp_path) -> None:
    with running(tmp_path, 3, run, tmp_path, 3, "held_in_the_middle") as group:
        low, middle, high = (results[0] for results in group.results(200))
    metrics = low["metrics"]
    assert [low["steps"], middle["steps"], high["steps"]] == [32, 32, 32]
    assert (metrics["updates/module_1"], metrics["sent/module_1"]) == (32, 32)
    assert low["updates"] == 32
    assert high["updates"] >= 30  # of which all but a few while the one below stood still
    assert [metrics["updates/module_2"], metrics["updates/module_3"]] == [middle["updates"], high["updates"]]
    assert metrics["dropped/module_1"] >= 12 - 2 - 4 - 1
    assert metrics["minibatch_bytes/module_1"] > 4 * 6 * 64
    for other in (middle, high):
        assert other["metrics"] == metrics
        assert all(np.array_equal(other["weights"][name], w) for name, w in low["weights"].items())
    assert metrics["frames_seen"] == 32 * 4 * 6
    assert {"train/loss", "train/top1", "train/loss/module_1", "train/loss/module_2"} <= set(metrics)


def quantised_frames(index, folder) -> dict:
    """Frames as targets travel with the minibatches, and messages as codes."""
    options = {"in_channels": 1, "width": 0.25, "horizon": 1, "vq_groups": 2, "vq_codes": 16}
    return train(
        FutureFrames(**options, **TWO), ToyData(clips=24, frames=12), val_check_interval=3, max_epochs=2, max_steps=-1
    )


class SaveAt(Callback):
    """Writes a checkpoint in the middle of an epoch; keeps the weights of before, and what memory there was."""

    def __init__(self, step: int, path: Path) -> None:
        self.step, self.path, self.weights = step, path, {}

    def on_train_batch_end(self, trainer, pl_module, *_: object) -> None:
        if trainer.global_step == self.step:
            self.weights = arrays(pl_module)
            trainer.save_checkpoint(self.path)


def classifier() -> ActionRecognition:
    return ActionRecognition(**{**MODEL, **TWO, "vq_groups": 2, "vq_codes": 16})


def saved(index, folder) -> dict:
    save = SaveAt(10, folder / "ten.ckpt")
    return {**train(classifier(), callbacks=[save], max_steps=12), "saved": save.weights}


def resumed(index, folder) -> dict:
    return train(classifier(), ckpt_path=folder / "ten.ckpt", max_steps=20)


@pytest.mark.timeout(240)
def test_checkpoints_validation_and_targets_of_asynchronous_stages(tmp_path) -> None:
    with running(tmp_path, 2, run, tmp_path, 2, "saved", "resumed", "quantised_frames") as group:
        low, high = group.results(200)
    whole = torch.load(tmp_path / "ten.ckpt", weights_only=True)
    counts = whole["video_task"]["replay"]
    assert (counts["updates"][1], counts["step"], counts["buffers"]) == (10, 10, {})
    for rank, units in ((low, (0, 1)), (high, (2, 3))):
        own = {n: w for n, w in rank[0]["saved"].items() if n.startswith(tuple(f"units.{u}." for u in units))}
        assert len(own) > 4
        assert all(np.array_equal(whole["state_dict"][f"network.{name}"].numpy(), w) for name, w in own.items())
    assert low[0]["metrics"]["updates/module_2"] >= counts["updates"][2] > 0

    again = low[1]
    assert (again["steps"], again["metrics"]["updates/module_1"]) == (20, 20)
    assert again["metrics"]["updates/module_2"] > counts["updates"][2]
    assert again["metrics"]["frames_seen"] == 20 * 4 * 6
    alone = train(classifier(), stages=1, ckpt_path=tmp_path / "ten.ckpt", max_steps=20)
    assert (alone["steps"], alone["metrics"]["updates/module_1"]) == (20, 20)
    assert alone["metrics"]["updates/module_2"] == counts["updates"][2] + 9  # the buffers begin empty

    for first, second in zip(low, high, strict=True):
        assert first["metrics"] == second["metrics"]
        assert all(np.array_equal(second["weights"][name], w) for name, w in first["weights"].items())
    frames = low[2]["metrics"]
    assert frames["updates/module_1"] == 12
    assert 0 < frames["val/mse"] < 1
    assert frames["perplexity/unit_3"] > 1
    assert frames["train/loss"] == frames["train/loss/module_2"]


# -- ends ---------------------------------------------------------------------------------------------------------


class Trouble(Callback):
    """Does something to the second stage in its fifth update."""

    def __init__(self, what) -> None:
        self.what, self.updates = what, 0

    def on_train_start(self, trainer, pl_module) -> None:
        if trainer.global_rank == 1:
            pl_module.network.unit(4).register_forward_pre_hook(self.work)

    def work(self, *_: object) -> None:
        self.updates += torch.is_grad_enabled()
        self.what(self.updates)


def stuck(update: int) -> None:
    time.sleep(60 * (update == 5))


def broken(update: int) -> None:
    if update == 5:
        raise KeyError("a bug of ours")


def slow(update: int) -> None:
    time.sleep(0.7)


def trains_on(index, folder, what=lambda update: None, stall_s=5.0, **trainer) -> dict:
    callbacks = [Held(folder, 4 * index + 1 - index), Trouble(what)]
    strategy = {"balance": [2, 2], "stall_s": stall_s}
    model = ActionRecognition(**{**MODEL, **TWO, "max_reuse": 2})
    return train(model, callbacks=callbacks, strategy=strategy, **{"max_epochs": 10**4, "max_steps": -1, **trainer})


def gets_stuck(index, folder) -> dict:
    return trains_on(index, folder, stuck, stall_s=0.3)


def breaks(index, folder) -> dict:
    return trains_on(index, folder, broken)


def is_slow(index, folder) -> dict:
    """An update takes twice as long as a tick may."""
    return trains_on(index, folder, slow, stall_s=0.3, max_epochs=2)


WHO = ("stage 0 (rank 0, units 1-2)", "stage 1 (rank 1, units 3-4)")


@pytest.mark.slow
@pytest.mark.timeout(150)
@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("how", ["SIGKILL", "SIGSTOP"])
def test_a_stage_that_dies_or_stops_ends_the_other(how, victim, tmp_path) -> None:
    with running(tmp_path, 2, run, tmp_path, 2, "trains_on") as group:
        group.wait_for(f"batch 5 of rank {victim}")
        time.sleep(1.5)  # a beat or more, which tells the other where it is
        group.send_signal(victim, signal.Signals[how])
        outcome = group.join(40, but=victim)[1 - victim]
    said = outcome.error + outcome.stderr
    assert outcome.exitcode
    assert re.search(re.escape(WHO[victim]) + r" died( or was stopped)? at about update \d+ of batch \d+", said), said


@pytest.mark.slow
@pytest.mark.timeout(150)
@pytest.mark.parametrize(
    ("job", "said"),
    [
        ("gets_stuck", r" stalled at (about )?update \d+ of batch \d+ \([3-9]\.\d s in one update\)"),
        ("breaks", r" raised KeyError: 'a bug of ours' at (about )?update \d+ of batch \d+"),
    ],
)
def test_a_stage_that_gets_stuck_or_breaks_ends_the_other(job, said, tmp_path) -> None:
    with running(tmp_path, 2, run, tmp_path, 2, job) as group:
        first, second = group.join(100)
    assert re.search(re.escape(WHO[1]) + said, first.error + first.stderr), (first, second)
    assert first.exitcode
    assert second.exitcode


@pytest.mark.slow
@pytest.mark.timeout(150)
def test_a_slow_stage_has_not_stalled(tmp_path) -> None:
    with running(tmp_path, 2, run, tmp_path, 2, "is_slow") as group:
        (first,), _ = group.results(100)
    assert first["metrics"]["updates/module_1"] == 32
    assert 2 <= first["metrics"]["updates/module_2"] < 32


def test_a_last_batch_that_cannot_be_decoded_meets_the_other_stages_all_the_same(monkeypatch) -> None:
    """They end their epoch there, and wait for the first stage's figures."""
    met = []

    class First(Team):
        is_asynchronous = True

        def newest_figures(self, own, *, meet):
            met.append(meet)
            return own

    task = ActionRecognition(num_classes=2, in_channels=1, depth=3, rule="greedy", replay=2)
    task.team = First()
    monkeypatch.setattr(task, "_train_on_nothing", lambda batch_idx: None)
    monkeypatch.setattr(task, "_figures_are_due", lambda: True)
    monkeypatch.setattr(task, "_is_last_batch", lambda: True)
    monkeypatch.setattr(task, "log_dict", lambda figures: None)
    empty = {"video": torch.empty(0, 9, 1, 8, 8), "label": torch.empty(0, dtype=torch.long)}
    task.training_step(empty, 7)
    assert met == [True]
