"""Local losses: what methods.md section 4 demands, against references written out in greedy_reference.py."""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import pytest
import torch
from torch import Tensor

from lightning_modules.execution import clip_gradients
from lightning_modules.networks import WIRINGS, ClipNetwork, UnitNetwork, build_frame_predictor, build_network
from lightning_modules.networks.local_modules import LocalModules, cut_into_modules
from tests.lightning_modules.execution.greedy_networks import (
    CLOCKS,
    CUTS,
    LABELS,
    clips,
    frame_targets,
    local_network,
)
from tests.lightning_modules.execution.greedy_reference import (
    Cut,
    GreedyReference,
    one_clip_graph,
    one_graph,
    squared,
)
from tests.lightning_modules.execution.reference import moving_video, relative_error, tiny_network

# What each module learns from


@pytest.mark.parametrize("executor", ["vectorised", "pipelined"])
@pytest.mark.parametrize("wiring", WIRINGS)
def test_a_loss_reaches_its_own_module_alone(wiring: str, executor: str) -> None:
    """From the very answers that the executor compares: no parameter of another module has a gradient, nor a zero."""
    network, reached = local_network((2, 1, 2), wiring), list[set[int]]()
    cut = Cut((2, 1, 2))
    module_of = {name: cut.module(1 + int(name.split(".")[1])) for name, _ in network.named_parameters()}

    def loss(answer: Tensor, labels: Tensor) -> Tensor:
        found = torch.autograd.grad(answer.sum(), list(network.parameters()), allow_unused=True, retain_graph=True)
        reached.append({module_of[name] for name, g in zip(module_of, found, strict=True) if g is not None})
        return torch.nn.functional.cross_entropy(answer, labels, reduction="none")

    result = clip_gradients(network, clips(4), LABELS, rule="greedy", executor=executor, loss=loss)
    # Module j answers at 5 - j of the ticks, or at all of them at once.
    expected = {"vectorised": [1, 2, 3], "pipelined": [1, 1, 2, 1, 2, 3, 1, 2, 3]}
    assert reached == [{module} for module in expected[executor]]
    assert result.gradients.keys() == module_of.keys()


@pytest.mark.parametrize("wiring", WIRINGS)
@pytest.mark.parametrize("rule", CLOCKS)
@pytest.mark.parametrize("sizes", CUTS, ids=str)
def test_the_loop_is_one_graph_of_detached_modules(sizes: tuple[int, ...], rule: str, wiring: str) -> None:
    """Bit for bit, in double and single precision, with clips of different lengths: the second never reaches tick 4."""
    for dtype in (torch.float64, torch.float32):
        network, lengths = local_network(sizes, wiring, dtype=dtype), torch.tensor([7, 3, 6])
        video = clips(7).to(dtype)
        ours = clip_gradients(network, video, LABELS, rule=rule, lengths_B=lengths)
        gradients, losses = one_graph(network, sizes, video, LABELS, lengths, CLOCKS[rule])
        assert ours.gradients.keys() == gradients.keys() == dict(network.named_parameters()).keys()
        assert [n for n, g in gradients.items() if not torch.equal(ours.gradients[n], g)] == []
        assert {j: a.loss.item() for j, a in ours.answers.items()} == {j: x.item() for j, x in losses.items()}
        assert ours.loss is not None
        assert torch.equal(ours.loss, losses[len(sizes)])


@pytest.mark.parametrize(("wiring", "sizes"), [("residual", (2, 1, 2)), ("dense", (1, 1, 1, 2)), ("input", (1, 4))])
@pytest.mark.parametrize(
    ("rule", "executor"), [("greedy", "vectorised"), ("greedy", "pipelined"), ("greedy_frame", "vectorised")]
)
def test_gradients_are_those_of_the_recursion(rule: str, executor: str, wiring: str, sizes: tuple[int, ...]) -> None:
    """Tick by tick and unit by unit, each clip alone in the loss: the meaning of `one_graph` too."""
    network, lengths = local_network(sizes, wiring), torch.tensor([6, 2, 5])
    reference = GreedyReference(network, sizes, clips(6), LABELS, lengths, clock=CLOCKS[rule])
    ours = clip_gradients(network, clips(6), LABELS, rule=rule, executor=executor, lengths_B=lengths)
    assert relative_error(ours.gradients, reference.gradients()) < 1e-12
    for module, loss in reference.losses().items():
        assert ours.answers[module].loss.item() == pytest.approx(loss.item(), rel=1e-12)
        assert int(ours.answers[module].valid_BN.sum()) == len(reference.pairs(module))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("rule", CLOCKS)
@pytest.mark.parametrize("wiring", WIRINGS)
def test_one_module_is_frame_backprop(wiring: str, rule: str, dtype: torch.dtype) -> None:
    """J = 1, bit for bit: gradients, loss and outputs, at every tick."""
    lengths, video = torch.tensor([5, 2, 4]), clips(5).to(dtype)
    exact = clip_gradients(tiny_network(5, wiring).to(dtype), video, LABELS, rule="backprop_frame", lengths_B=lengths)
    ours = clip_gradients(local_network((5,), wiring, dtype=dtype), video, LABELS, rule=rule, lengths_B=lengths)
    assert ours.gradients.keys() == exact.gradients.keys()
    assert [name for name, g in exact.gradients.items() if not torch.equal(ours.gradients[name], g)] == []
    assert torch.equal(ours.loss, exact.loss)  # type: ignore[arg-type]
    assert torch.equal(ours.logits_BNK, exact.logits_BNK)
    assert torch.equal(ours.valid_BN, exact.valid_BN)


def test_one_module_of_a_predictor_is_frame_backprop() -> None:
    """The same with a target for each frame, on the wiring that only predictors have."""
    torch.manual_seed(0)
    plain = build_frame_predictor("small_autoencoder", wiring="unet", in_channels=2, out_channels=2, width=0.25)
    given = {"video_BTCHW": clips(4), "targets": frame_targets(4), "loss": squared}
    exact = clip_gradients(plain.double(), rule="backprop_frame", **given)  # type: ignore[arg-type]
    cut_into_modules(plain, LocalModules(modules=1, head="decoder"))
    ours = clip_gradients(plain, rule="greedy", **given)  # type: ignore[arg-type]
    assert ours.gradients.keys() == exact.gradients.keys()
    assert all(torch.equal(ours.gradients[name], g) for name, g in exact.gradients.items())


# Networks of whole clips


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(("sizes", "layers"), [((2, 2, 1), (6, 12, 15)), ((1, 4), (3, 15)), ((1, 1, 3), (3, 6, 15))])
def test_modules_of_a_3d_network_are_one_graph(
    sizes: tuple[int, ...], layers: tuple[int, ...], dtype: torch.dtype
) -> None:
    """Five blocks of three layers; the classifier is with the last. Bit for bit."""
    torch.manual_seed(0)
    network = build_network("cnn3d", in_channels=2, num_classes=3, width=0.25, activation="tanh")
    assert isinstance(network, ClipNetwork)
    cut_into_modules(network, LocalModules(modules=list(sizes), head="cnn", activation="tanh"))
    video = clips(4).to(dtype)
    ours = clip_gradients(network.to(dtype), video, LABELS, rule="greedy")
    runs = [range(*ends) for ends in zip((0, *layers), layers, strict=False)]
    expected = one_clip_graph(network, runs, video, LABELS)
    assert ours.gradients.keys() == expected.keys()
    assert [name for name, g in expected.items() if not torch.equal(ours.gradients[name], g)] == []


def test_clips_of_different_lengths_go_through_a_3d_network_without_padding() -> None:
    torch.manual_seed(0)
    network = build_network("cnn3d", in_channels=2, num_classes=3, width=0.25)
    cut_into_modules(network, LocalModules(modules=3, head="mlp"))
    network.double()
    video, lengths = clips(6), torch.tensor([3, 6, 3])
    video[0, 3:] = 1e3
    together = clip_gradients(network, video, LABELS, rule="greedy", lengths_B=lengths)
    short = clip_gradients(network, video[[0, 2], :3], LABELS[[0, 2]], rule="greedy")
    long = clip_gradients(network, video[1:2], LABELS[1:2], rule="greedy")
    expected = {n: (2 * short.gradients[n] + long.gradients[n]) / 3 for n in short.gradients}
    assert relative_error(together.gradients, expected) < 1e-12
    for module, answer in together.answers.items():
        parts = short.answers[module].logits_BNK, long.answers[module].logits_BNK
        torch.testing.assert_close(answer.logits_BNK, torch.stack([parts[0][0], parts[1][0], parts[0][1]]))


def test_one_module_of_a_3d_network_is_backprop() -> None:
    torch.manual_seed(0)
    network = build_network("cnn3d", in_channels=2, num_classes=3, width=0.25)
    exact = clip_gradients(network, clips(4).float(), LABELS, rule="backprop")
    cut_into_modules(network, LocalModules(modules=1))
    ours = clip_gradients(network, clips(4).float(), LABELS, rule="greedy")
    assert ours.gradients.keys() == exact.gradients.keys()
    assert all(torch.equal(ours.gradients[name], g) for name, g in exact.gradients.items())


def test_modules_of_x3d_are_one_graph_with_one_batch_of_statistics() -> None:
    """The published 3D network in two modules; its BatchNorms see each batch once."""
    torch.manual_seed(0)
    network = build_network("x3d", in_channels=2, num_classes=3, width=0.5)
    assert isinstance(network, ClipNetwork)
    cut_into_modules(network, LocalModules(modules=[2, 3], head="mlp"))
    video = moving_video(2, 4, size=32).float()
    ours = clip_gradients(network, video, LABELS[:2], rule="greedy")
    steps = {int(m.num_batches_tracked) for m in network.modules() if isinstance(m, torch.nn.BatchNorm3d)}  # type: ignore[arg-type]
    assert steps == {1}
    expected = one_clip_graph(network, [range(2), range(2, len(network.blocks))], video, LABELS[:2])
    assert ours.gradients.keys() == expected.keys()
    assert [name for name, g in expected.items() if not torch.equal(ours.gradients[name], g)] == []


# Memory


class SavedBytes:
    """Counts what autograd keeps for backward: now, and at most so far; parameters are not counted."""

    def __init__(self, network: torch.nn.Module) -> None:
        self.now = self.peak = 0
        self._own = {p.data_ptr() for p in network.parameters()}

    @contextmanager
    def counted(self) -> Iterator["SavedBytes"]:
        with torch.autograd.graph.saved_tensors_hooks(self._pack, lambda kept: kept.tensor):
            yield self

    def _pack(self, tensor: Tensor) -> "_Kept":
        kept = _Kept(tensor)
        if tensor.data_ptr() not in self._own:
            self._count(tensor.nbytes)
            weakref.finalize(kept, self._count, -tensor.nbytes)
        return kept

    def _count(self, number: int) -> None:
        self.now += number
        self.peak = max(self.peak, self.now)


class _Kept:
    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def peak_of(network: UnitNetwork | ClipNetwork, work: Callable[[], object]) -> int:
    with SavedBytes(network).counted() as saved:
        work()
    assert saved.now == 0
    return saved.peak


@pytest.mark.parametrize("executor", ["vectorised", "pipelined"])
@pytest.mark.parametrize("wiring", ["chain", "dense"])
def test_memory_is_that_of_the_largest_module(wiring: str, executor: str) -> None:
    """Each module's own graph, made by hand, is weighed; greedy's peak is their maximum, frame backprop's their sum."""
    sizes, frames = (2, 1, 2), 6
    network, video = local_network(sizes, wiring), clips(frames)
    peak = peak_of(network, lambda: clip_gradients(network, video, LABELS, rule="greedy", executor=executor))
    alone = {}
    together = {0: video.transpose(0, 1)} if executor == "vectorised" else {0: video.transpose(0, 1)[:1]}
    for module in (1, 2, 3):
        first = module
        ticks = frames - first + 1 if executor == "vectorised" else 1
        messages = {j: together[j][-ticks - (j > 0) :][:ticks].flatten(0, 1) for j in network.module_sources(module)}

        def work(module: int = module, messages: dict[int, Tensor] = messages, ticks: int = ticks) -> None:
            outputs, answer = network.module_forward(module, messages)
            together.update({unit: output.detach().unflatten(0, (ticks, 3)) for unit, output in outputs.items()})
            losses = torch.nn.functional.cross_entropy(answer, LABELS.repeat(ticks), reduction="none")
            total = (losses * torch.ones_like(losses)).sum()
            torch.autograd.grad(total, [p for _, p in network.named_parameters()], allow_unused=True)

        if executor == "pipelined":
            messages = {j: m[:3] for j, m in messages.items()}
        alone[module] = peak_of(network, work)
    assert peak == max(alone.values())
    assert peak < 0.75 * sum(alone.values())


def test_a_module_s_memory_does_not_grow_with_the_number_of_modules() -> None:
    """Ten units of one size in 2, 5 and 10 modules: the peak falls with the module's share; backprop holds all."""
    peaks = {}
    for modules in (1, 2, 5, 10):
        torch.manual_seed(0)
        network = build_network("small_cnn", in_channels=2, num_classes=3, width=0.25, depth=11)
        assert isinstance(network, UnitNetwork)
        cut_into_modules(network, LocalModules(modules=modules, head="mlp", head_width=0.01))
        video = moving_video(2, 10, size=64).float()
        peaks[modules] = peak_of(network, partial(clip_gradients, network, video, LABELS[:2], rule="greedy"))
    assert peaks[10] < peaks[5] < peaks[2] < peaks[1]
