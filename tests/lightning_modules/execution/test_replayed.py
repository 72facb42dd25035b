"""Asynchronous modules in one process: what they learn from, when, and what their buffers hold."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from lightning_modules.execution import ReplayMemory, clip_gradients
from lightning_modules.execution.placement import cut
from lightning_modules.execution.stage import Stage
from lightning_modules.execution.work_schedule import WorkSchedule
from lightning_modules.networks import UnitNetwork, build_network
from lightning_modules.networks.local_modules import LocalModules, cut_into_modules
from lightning_modules.rules import make_rule

MODULES = 3


def network(wiring: str = "chain", name: str = "small_cnn", **options: int) -> UnitNetwork:
    torch.manual_seed(0)
    kind = {"wiring": wiring} if name == "small_cnn" else {}
    made = build_network(name, in_channels=1, num_classes=4, width=0.5, **kind)
    cut_into_modules(made, LocalModules(MODULES, **options))
    return made.double()  # type: ignore[return-value]


def batches(count: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    torch.manual_seed(1)
    lengths = torch.tensor([9, 7, 8])
    return [(torch.rand(3, 9, 1, 32, 32).double(), torch.randint(0, 4, (3,)), lengths) for _ in range(count)]


class Sgd:
    """Changes weights at once, and remembers which parameters changed in which call."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.module, self.changed = module, list[set[str]]()

    @torch.no_grad()
    def __call__(self, gradients: Mapping[str, Tensor]) -> None:
        self.changed.append(set(gradients))
        for name, p in self.module.named_parameters():
            if name in gradients:
                p -= 0.1 * gradients[name]


def weights(net: UnitNetwork) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


def of_module(net: UnitNetwork, module: int, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    prefixes = tuple(f"units.{unit - 1}." for unit in net.module_units(module))
    return {name: tensor for name, tensor in state.items() if name.startswith(prefixes)}


@pytest.mark.parametrize("wiring", ["chain", "dense", "input"])
@pytest.mark.parametrize("codes", [0, 8])
def test_one_minibatch_and_no_slow_module_is_the_synchronous_form_once_warm(wiring: str, codes: int) -> None:
    quantised = {"vq_groups": 2, "vq_codes": codes} if codes else {}
    synchronous, asynchronous = network(wiring, **quantised), network(wiring, **quantised)
    after = []
    for video, labels, lengths in batches(5):
        Sgd(synchronous)(clip_gradients(synchronous, video, labels, rule="greedy", lengths_B=lengths).gradients)
        after.append(weights(synchronous))
    memory, rule = ReplayMemory(), make_rule("greedy", replay=1)
    for step, (video, labels, lengths) in enumerate(batches(5)):
        clip_gradients(
            asynchronous, video, labels, rule=rule, lengths_B=lengths, memory=memory, on_tick=Sgd(asynchronous)
        )
        for module in range(1, MODULES + 1):
            if (then := step - module + 1) >= 0:
                now = of_module(asynchronous, module, weights(asynchronous))
                torch.testing.assert_close(now, of_module(asynchronous, module, after[then]), rtol=0, atol=1e-12)


def test_networks_of_whole_clips_learn_from_buffers_too() -> None:
    synchronous, asynchronous = network(name="cnn3d"), network(name="cnn3d")
    given = batches(4)
    after = []
    for video, labels, lengths in given:
        Sgd(synchronous)(clip_gradients(synchronous, video, labels, rule="greedy", lengths_B=lengths).gradients)
        after.append(weights(synchronous))
    memory, rule = ReplayMemory(), make_rule("greedy", replay=1)
    for video, labels, lengths in given:
        clip_gradients(
            asynchronous, video, labels, rule=rule, lengths_B=lengths, memory=memory, on_tick=Sgd(asynchronous)
        )
    first = list(asynchronous.unit_parameters(1))
    last = list(asynchronous.unit_parameters(MODULES))
    for names, then in ((first, -1), (last, -MODULES)):
        for name in names:
            torch.testing.assert_close(asynchronous.state_dict()[name], after[then][name], rtol=0, atol=1e-12)


def test_a_slow_module_leaves_out_steps_and_the_others_do_not() -> None:
    net = network()
    memory, rule, sgd = ReplayMemory(), make_rule("greedy", replay=4, slow_down=[1, 3, 1]), Sgd(net)
    steps = 40
    for video, labels, lengths in batches(1) * steps:
        clip_gradients(net, video, labels, rule=rule, lengths_B=lengths, memory=memory, on_tick=sgd)
    figures = memory.figures()
    assert figures["updates/module_1"] == steps
    assert 5 <= figures["updates/module_2"] <= 22
    # The third module does not wait for the second: it draws minibatches again.
    assert figures["updates/module_3"] >= steps - 10
    assert figures["buffer/reuse/module_3"] > figures["buffer/reuse/module_2"]
    names = {j: set(net.unit_parameters(net.module_units(j)[0])) for j in range(1, MODULES + 1)}
    assert sum(bool(names[2] & changed) for changed in sgd.changed) == figures["updates/module_2"]


@pytest.mark.parametrize("stage", [None, 0], ids=["one process", "a stage"])
@pytest.mark.parametrize(
    ("slow_down", "expected"),
    [(1.0, [1.0] * 3), (2.0, [2.0] * 3), ([1.0, 1.0, 1.0], [1.0] * 3), ([1, 3, 1], [1, 3, 1])],
)
def test_slow_downs_are_for_all_modules_or_for_each(
    slow_down: float | list[float], expected: list[float], stage: int | None
) -> None:
    """In a stage too, whose schedule is of all modules; who works is what the schedule of `expected` says."""
    net, memory, rule = network(), ReplayMemory(), make_rule("greedy", replay=2, slow_down=slow_down)
    schedule = WorkSchedule(expected, memory.seed)
    placement = cut(net.wiring, (4, 2))
    given = {} if stage is None else {"stage": Stage(placement, stage)}
    assert net.module_units(2)[-1] == 4
    for step, (video, labels, lengths) in enumerate(batches(6)):
        found = clip_gradients(
            net, video, labels, rule=rule, lengths_B=lengths, memory=memory, on_tick=Sgd(net), **given
        )
        works = schedule.works(step + 1)
        assert (1 in found.answers) == works[0]


@pytest.mark.parametrize("slow_down", [[2.0], [1.0, 1.0], [1.0] * 4])
def test_a_list_of_slow_downs_is_one_for_each(slow_down: list[float]) -> None:
    video, labels, _ = batches(1)[0]
    with pytest.raises(ValueError, match=f"{len(slow_down)} slow-downs were given for 3 modules; give one for each"):
        clip_gradients(network(), video, labels, rule=make_rule("greedy", replay=2, slow_down=slow_down), on_tick=print)


def test_max_reuse_lets_a_module_rest() -> None:
    net = network()
    memory = ReplayMemory()
    rule = make_rule("greedy", replay=2, slow_down=[1, 3, 1], max_reuse=1)
    for video, labels, lengths in batches(1) * 20:
        clip_gradients(net, video, labels, rule=rule, lengths_B=lengths, memory=memory, on_tick=Sgd(net))
    figures = memory.figures()
    assert figures["updates/module_3"] <= figures["updates/module_2"]
    assert figures["buffer/idle/module_3"] > 0
    assert figures["buffer/reuse/module_3"] <= 1


def test_what_was_asked_is_about_the_minibatch_that_was_drawn() -> None:
    net = network()
    memory, rule = ReplayMemory(), make_rule("greedy", replay=1)
    given = batches(MODULES)
    for video, labels, lengths in given:
        result = clip_gradients(net, video, labels, rule=rule, lengths_B=lengths, memory=memory, on_tick=Sgd(net))
    assert result.targets is not None
    assert result.targets.tolist() == given[0][1].tolist()
    assert result.loss is not None
    assert set(result.answers) == {1, 2, 3}


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_buffers_of_quantised_messages_are_smaller_by_the_stated_factor(groups: int) -> None:
    """float64 messages of C channels hold 64 C bits a position, codes of K = 256 hold 8 G; codebooks come on top."""
    held = {}
    for options in ({}, {"vq_groups": groups, "vq_codes": 256}):
        net = network(**options)
        memory, rule = ReplayMemory(), make_rule("greedy", replay=3)
        for video, labels, lengths in batches(5):
            # A rule that learns nothing: the codebook's versions are then all that changes.
            clip_gradients(net, video, labels, rule=rule, lengths_B=lengths, memory=memory, on_tick=lambda g: None)
        (sent,) = net.module_outputs(1)
        channels = net.channels[sent]
        quantiser = net.quantiser(sent)
        codebooks = 0 if quantiser is None else 3 * quantiser.codebook_bytes
        small = 3 * (labels.nbytes + torch.arange(3).nbytes) + lengths.nbytes  # the same lengths in every batch
        held[bool(options)] = memory.figures()["buffer/bytes/module_2"] - codebooks - small
    assert held[False] / held[True] == 64 * channels / (8 * groups)


def test_memory_survives_a_checkpoint(tmp_path) -> None:  # type: ignore[no-untyped-def]
    rule = make_rule("greedy", replay=3, slow_down=[1, 1.5, 1.2])
    given = batches(8)
    whole = network(vq_groups=2, vq_codes=8)
    memory = ReplayMemory()
    for video, labels, lengths in given:
        clip_gradients(whole, video, labels, rule=rule, lengths_B=lengths, memory=memory, on_tick=Sgd(whole))
    stopped = network(vq_groups=2, vq_codes=8)
    first = ReplayMemory()
    for video, labels, lengths in given[:4]:
        clip_gradients(stopped, video, labels, rule=rule, lengths_B=lengths, memory=first, on_tick=Sgd(stopped))
    torch.save({"weights": stopped.state_dict(), "replay": first.state_dict()}, tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    continued, second = network(vq_groups=2, vq_codes=8), ReplayMemory()
    continued.load_state_dict(state["weights"])
    second.load_state_dict(state["replay"])
    for video, labels, lengths in given[4:]:
        clip_gradients(continued, video, labels, rule=rule, lengths_B=lengths, memory=second, on_tick=Sgd(continued))
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, continued.state_dict()[name]), name


def test_a_buffer_of_another_size_is_refused() -> None:
    net, (video, labels, lengths) = network(), batches(1)[0]
    memory = ReplayMemory()
    for _ in range(3):
        rule = make_rule("greedy", replay=2)
        clip_gradients(net, video, labels, rule=rule, lengths_B=lengths, memory=memory, on_tick=Sgd(net))
    other = ReplayMemory()
    other.load_state_dict(memory.state_dict())
    rule = make_rule("greedy", replay=4)
    with pytest.raises(ValueError, match="start a new run without --ckpt_path"):
        clip_gradients(net, video, labels, rule=rule, lengths_B=lengths, memory=other, on_tick=Sgd(net))
