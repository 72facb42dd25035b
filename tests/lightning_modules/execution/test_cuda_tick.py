"""Graphs are captured once for each shape and kept no longer than the network; on a GPU, replays equal eager ticks."""

import gc
import weakref
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from lightning_modules.execution import PipelineState, clip_gradients, clip_logits, cuda_tick
from lightning_modules.execution.clip_loss import ClipSums, cross_entropy
from lightning_modules.execution.cuda_tick import CudaGraphTick, check_cuda_graph, has_channels_last, run_cuda_graph
from lightning_modules.execution.pipelined import run_pipelined
from lightning_modules.execution.placement import cut
from lightning_modules.execution.slot_tick import SlotTick
from lightning_modules.execution.stage import Stage
from lightning_modules.networks import WIRINGS, UnitNetwork
from lightning_modules.rules import make_rule
from tests.lightning_modules.execution.reference import moving_video, relative_error, tiny_network

pytestmark = pytest.mark.timeout(120)
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: graphs cannot be captured")
LABELS = torch.tensor([0, 2, 1])
SIDEWAYS = make_rule("sideways")


class Eager:
    """Stands for a captured tick: does the first tick of the phase, as a replay would."""

    made = 0

    def __init__(self, slots: SlotTick) -> None:
        Eager.made += 1
        self.slots = slots

    def __call__(self, tick: int) -> None:
        self.slots(self.slots.phase(tick))


@pytest.fixture
def without_cuda(monkeypatch) -> Iterator[None]:
    """Let everything but capture and replay run on a CPU."""
    monkeypatch.setattr(cuda_tick, "CudaGraphTick", Eager)
    monkeypatch.setattr(cuda_tick, "check_cuda_graph", lambda *_: None)
    Eager.made = 0
    yield
    cuda_tick._ticks.clear()


def both(network: UnitNetwork, video: Tensor, lengths: Tensor | None = None) -> tuple[ClipSums, ClipSums]:
    lengths = torch.full((len(video),), video.shape[1]) if lengths is None else lengths
    given = [t.to(video.device) for t in (LABELS[: len(video)], lengths)]
    ours = run_cuda_graph(network, video, given[0], SIDEWAYS, given[1], cross_entropy)
    theirs, _ = run_pipelined(network, video, given[0], SIDEWAYS, given[1], cross_entropy)
    return ours, theirs


@pytest.mark.usefixtures("without_cuda")
def test_a_shape_is_captured_once_and_weights_may_change_in_place() -> None:
    network = tiny_network(3, "concat")
    for seed in range(3):
        ours, theirs = both(network, moving_video(3, 8 + seed, seed=seed))
        assert relative_error(ours.gradients, theirs.gradients) < 1e-12
        with torch.no_grad():
            for p in network.parameters():
                p.mul_(0.9)
    assert Eager.made == 1


@pytest.mark.usefixtures("without_cuda")
@pytest.mark.parametrize("change", ["batch", "size", "weights moved", "unit frozen", "autocast", "update frame"])
def test_what_a_graph_depends_on_is_captured_anew(change: str) -> None:
    network, video = tiny_network(3, "concat").float(), moving_video(3, 8).float()
    both(network, video)
    if change == "batch":
        both(network, video[:2])
    elif change == "size":
        both(network, moving_video(3, 8, size=16).float())
    elif change == "weights moved":
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        both(network, video)
    elif change == "unit frozen":
        for p in network.unit_parameters(1).values():
            p.requires_grad_(False)
        both(network, video)
    elif change == "autocast":
        with torch.autocast("cpu", torch.bfloat16):
            both(network, video)
    else:
        lengths = torch.full((3,), 8)
        run_cuda_graph(network, video, LABELS, SIDEWAYS, lengths, cross_entropy, on_tick=lambda _: None)
    assert Eager.made == 2
    both(network, video)
    assert Eager.made == 2  # both are kept


@pytest.mark.usefixtures("without_cuda")
def test_graphs_of_a_few_shapes_are_kept_and_none_of_a_dead_network() -> None:
    network = tiny_network(2, "chain")
    for size in (8, 16, 24, 32, 40):
        both(network, moving_video(1, 4, size=size))
    assert len(cuda_tick._ticks[network]) == 4
    both(network, moving_video(1, 4, size=8))
    assert Eager.made == 6
    gone = weakref.ref(network)
    del network
    gc.collect()
    assert gone() is None
    assert len(cuda_tick._ticks) == 0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"rule": make_rule("sideways", stash="exact")}, r"stash 'exact'.*use executor 'pipelined'"),
        ({"rule": "backprop_shifted"}, r"cannot be pipelined; use executor 'vectorised'"),
        ({"state": PipelineState()}, r"holds none; use executor 'pipelined'"),
        ({}, r"weights and clips on cpu; .*--trainer\.accelerator gpu, or executor 'pipelined'"),
    ],
)
def test_what_cannot_be_captured_is_refused(options: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        clip_gradients(tiny_network(3, "chain"), moving_video(3, 9), LABELS, executor="cuda_graph", **options)  # type: ignore[arg-type]


def test_several_stages_are_refused() -> None:
    network = tiny_network(4, "chain")
    stage = Stage(cut(network.wiring, (2, 2)))
    with pytest.raises(ValueError, match="over 2 stages"):
        check_cuda_graph(network, moving_video(3, 9), stage)


@pytest.mark.usefixtures("without_cuda")
def test_it_is_an_executor_like_the_others() -> None:
    network, video, lengths = tiny_network(3, "dense"), moving_video(3, 9), torch.tensor([9, 7, 9])
    ours, theirs = (
        clip_gradients(network, video, LABELS, executor=e, lengths_B=lengths) for e in ("cuda_graph", "pipelined")
    )
    assert relative_error(ours.gradients, theirs.gradients) < 1e-12
    torch.testing.assert_close(ours.loss, theirs.loss)
    outputs = [clip_logits(network, video, rule="sideways", executor=e)[0] for e in ("cuda_graph", "pipelined")]
    assert torch.equal(outputs[0], outputs[1])


def test_the_layout_of_weights_is_seen() -> None:
    network = tiny_network(3, "concat")
    assert not has_channels_last(network)
    assert has_channels_last(network.to(memory_format=torch.channels_last))  # type: ignore[call-overload]


# On a GPU


@pytest.fixture
def exact_float32() -> Iterator[None]:
    """Without the 10-bit products that a GPU makes of float32."""
    backends = torch.backends.cudnn.conv, torch.backends.cuda.matmul
    before = [backend.fp32_precision for backend in backends]
    for backend in backends:
        backend.fp32_precision = "ieee"
    yield
    for backend, precision in zip(backends, before, strict=True):
        backend.fp32_precision = precision


def on_gpu(wiring: str, depth: int = 4, frames: int = 12, **options: object) -> tuple[UnitNetwork, Tensor]:
    network = tiny_network(depth, wiring, width=1.0, **options)
    return network.float().cuda(), moving_video(3, frames, size=32).float().cuda()


@needs_cuda
@pytest.mark.usefixtures("exact_float32")
@pytest.mark.parametrize("ragged", [False, True], ids=["whole", "ragged"])
@pytest.mark.parametrize("wiring", WIRINGS)
def test_replays_equal_eager_ticks(wiring: str, ragged: bool) -> None:
    """Several clips and lengths with one capture, and weights that change between them."""
    network, _ = on_gpu(wiring)
    for seed, frames in enumerate((12, 9, 4)):
        video = moving_video(3, frames, size=32, seed=seed).float().cuda()
        ours, theirs = both(network, video, torch.tensor([frames, frames - 2, frames - 3]) if ragged else None)
        assert relative_error(ours.gradients, theirs.gradients) < 1e-4
        torch.testing.assert_close(ours.logits_BNK, theirs.logits_BNK, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(ours.loss, theirs.loss, rtol=1e-4, atol=1e-5)
        with torch.no_grad():
            for p in network.parameters():
                p.mul_(0.9)
    assert len(cuda_tick._ticks[network]) == 1


@needs_cuda
@pytest.mark.usefixtures("exact_float32")
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW], ids=["sgd", "adamw"])
def test_update_frame_between_replays(optimizer: type[torch.optim.Optimizer]) -> None:
    rule, weights, lengths = make_rule("sideways", update="frame"), [], torch.tensor([12, 10, 12]).cuda()
    for run in (run_cuda_graph, run_pipelined):
        network, video = on_gpu("concat")
        steps = optimizer(network.parameters(), lr=1e-3, fused=True)  # type: ignore[call-arg]

        def on_tick(gradients, network=network, steps=steps) -> None:
            for name, p in network.named_parameters():
                p.grad = gradients.get(name)
            steps.step()

        run(network, video, LABELS.cuda(), rule, lengths, cross_entropy, on_tick=on_tick)
        weights.append({name: p.detach().clone() for name, p in network.named_parameters()})
    # AdamW's first steps are the signs of gradients: where one is near 0, rounding decides.
    assert relative_error(weights[0], weights[1]) < (1e-4 if optimizer is torch.optim.SGD else 1e-2)


@needs_cuda
def test_no_tick_waits_for_the_device() -> None:
    network, video = on_gpu("dense")
    lengths, labels = torch.tensor([12, 12, 10]).cuda(), LABELS.cuda()

    def clip() -> None:
        run_cuda_graph(network, video, labels, SIDEWAYS, lengths, cross_entropy)

    clip()  # captures, which waits
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        clip()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()


@needs_cuda
def test_bfloat16_and_channels_last_run_and_are_close() -> None:
    network, video = on_gpu("concat")
    exact, _ = run_pipelined(network, video, LABELS.cuda(), SIDEWAYS, torch.full((3,), 12).cuda(), cross_entropy)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    with torch.autocast("cuda", torch.bfloat16):
        for _ in range(2):
            ours, _ = both(network, video)
    ((key, tick),) = cuda_tick._ticks[network].items()
    assert torch.bfloat16 in key  # type: ignore[operator]
    assert tick.slots._activations[0][1].is_contiguous(memory_format=torch.channels_last)
    assert relative_error(ours.gradients, exact.gradients) < 0.1
    torch.testing.assert_close(ours.loss, exact.loss, rtol=0.02, atol=0)


@needs_cuda
def test_a_capture_holds_while_a_thread_pins_memory() -> None:
    """A data loader's thread does; in capture mode `global` that breaks the capture, or the loader."""
    import threading

    stop, failed = threading.Event(), []

    def pin() -> None:
        try:
            while not stop.is_set():
                torch.empty(1 << 20).pin_memory()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=pin, daemon=True)
    thread.start()
    try:
        network, video = on_gpu("chain")
        both(network, video)
    finally:
        stop.set()
        thread.join(30)
    assert not failed


@needs_cuda
def test_device_memory_does_not_grow_with_the_clip() -> None:
    network, _ = on_gpu("chain", depth=6)
    peaks = []
    for frames in (16, 16, 64):
        video, lengths = torch.rand(3, frames, 2, 64, 64, device="cuda"), torch.full((3,), frames, device="cuda")
        torch.cuda.synchronize()
        held = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run_cuda_graph(network, video, LABELS.cuda(), SIDEWAYS, lengths, cross_entropy)
        peaks.append(torch.cuda.max_memory_allocated() - held)
        del video
    # Outputs and losses, some bytes a tick, are all that grows.
    assert peaks[2] - peaks[1] < 1 << 20


@needs_cuda
def test_dropout_differs_from_tick_to_tick() -> None:
    """A replay draws anew: random state is not frozen into the graph."""
    network, video = on_gpu("chain", depth=3)
    network.unit(1).body = nn.Sequential(network.unit(1).body, nn.Dropout(0.5))
    still = video[:, :1].expand_as(video).contiguous()
    ours = run_cuda_graph(network, still, LABELS.cuda(), SIDEWAYS, torch.full((3,), 12).cuda(), cross_entropy)
    assert not torch.equal(ours.logits_BNK[:, 6], ours.logits_BNK[:, 8])


@needs_cuda
def test_every_phase_is_captured_once() -> None:
    network, video = on_gpu("residual", depth=3)
    slots = SlotTick(network, cross_entropy, video[:, 0], LABELS.cuda())
    assert set(CudaGraphTick(slots)._graphs) == set(slots.phases)
