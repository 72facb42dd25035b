"""The pipelined executor on one GPU: each phase of the clock is captured as a CUDA graph, and ticks are replays.

    clip     load 1, replay phase 1 | load 2, replay phase 2 | ... | load L, replay L | load L + 1, replay L + 1 | ...

A small tick is hundreds of kernels of a few microseconds each, and launching them one by one from Python takes longer
than they do. A replay launches all of them at once, and between two replays nothing waits for the device. What
is replayed is `SlotTick`, and all that is tested without a GPU is tested there.

Weights are read where they lie: an optimizer that changes them in place, between clips or (`update: frame`) between
ticks, needs no new capture. Everything here is ours [D].

Shape legend: B clips, T frames, C channels, H and W height and width.
"""

from collections.abc import Hashable
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from lightning_modules.execution.clip_loss import ClipSums, Loss, targets_at
from lightning_modules.execution.pipelined import OnTick
from lightning_modules.execution.slot_tick import SlotTick, run_slots
from lightning_modules.execution.stage import Stage
from lightning_modules.networks.unit_network import UnitNetwork
from lightning_modules.rules.rule import Rule

# Shapes of clips whose graphs are kept for a network: training, its last batch, and two to spare.
_KEPT = 4


class CudaGraphTick:
    """Captures every phase of a tick; calling it with a tick's number replays that tick's phase.

    Graphs share one memory pool: a tick leaves nothing in it, so that they may be replayed in any order.

    Args:
        slots: on a CUDA device. What they hold is overwritten: capture between clips.
    """

    def __init__(self, slots: SlotTick) -> None:
        self.slots = slots
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}
        with torch.cuda.device(slots.device):
            stream = torch.cuda.Stream()
            self._warm_up(stream)
            pool = torch.cuda.graph_pool_handle()
            for phase in slots.phases:
                graph = torch.cuda.CUDAGraph()
                # A data loader's thread may pin memory meanwhile: only this thread must not.
                with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
                    slots(phase)
                self._graphs[phase] = graph

    def _warm_up(self, stream: torch.cuda.Stream) -> None:
        """Do every phase once, off the main stream, so that no library sets itself up during a capture."""
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for phase in self.slots.phases:
                self.slots(phase)
        torch.cuda.current_stream().wait_stream(stream)

    def __call__(self, tick: int) -> None:
        """Do one tick; what it is about was loaded into the slots."""
        self._graphs[self.slots.phase(tick)].replay()


_ticks: WeakKeyDictionary[UnitNetwork, dict[Hashable, CudaGraphTick]] = WeakKeyDictionary()


def check_cuda_graph(network: UnitNetwork, video_BTCHW: Tensor, stage: Stage | None) -> None:
    """Refuse what is not on one GPU.

    Raises:
        ValueError: with what to use instead.
    """
    if stage is not None and len(stage.placement.stages) > 1:
        raise ValueError(
            f"executor 'cuda_graph' over {len(stage.placement.stages)} stages; its graph holds all units: "
            "use executor 'pipelined', or one device"
        )
    devices = {video_BTCHW.device, *(p.device for p in network.parameters())}
    if len(devices) > 1 or video_BTCHW.device.type != "cuda":
        where = ", ".join(sorted(map(str, devices)))
        raise ValueError(
            f"executor 'cuda_graph' with weights and clips on {where}; expected one CUDA device: "
            "use --trainer.accelerator gpu, or executor 'pipelined'"
        )


def run_cuda_graph(
    network: UnitNetwork,
    video_BTCHW: Tensor,
    targets: Tensor,
    rule: Rule,
    lengths_B: Tensor,
    loss: Loss,
    on_tick: OnTick | None = None,
    stage: Stage | None = None,
) -> ClipSums:
    """Return the sums of a clip, as `run_pipelined` does, by replays.

    Graphs are captured at the first clip of a shape, and kept as long as the network lives and its weights stay where
    they are. Inside `torch.autocast` units compute and send in its type; where weights lie with channels last, messages
    do. A loss made anew for each call is captured anew: pass a function that stays.

    Raises:
        ValueError: several devices or stages, or none that is a GPU.
    """
    check_cuda_graph(network, video_BTCHW, stage)
    tick = _tick_for(network, video_BTCHW, targets, loss, lead=rule.lead, sums=on_tick is None)
    return run_slots(tick.slots, tick, video_BTCHW, targets, rule, lengths_B, on_tick)


def _tick_for(
    network: UnitNetwork, video_BTCHW: Tensor, targets: Tensor, loss: Loss, *, lead: int, sums: bool
) -> CudaGraphTick:
    """Return the tick captured for clips like these; the oldest of too many is forgotten."""
    frame_BCHW, targets_B, kind = video_BTCHW[:, 0], targets_at(targets, 1), video_BTCHW.device.type
    autocast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    channels_last = has_channels_last(network)
    given = tuple((t.shape, t.dtype, t.device) for t in (frame_BCHW, targets_B))
    weights = tuple((p.data_ptr(), p.requires_grad) for p in network.parameters())
    key = (given, weights, loss, bool(lead), sums, autocast, channels_last)
    kept = _ticks.setdefault(network, {})
    if key not in kept:
        while len(kept) >= _KEPT:
            del kept[next(iter(kept))]
        slots = SlotTick(
            network,
            loss,
            frame_BCHW,
            targets_B,
            lead=lead,
            sums=sums,
            autocast=autocast,
            channels_last=channels_last,
        )
        kept[key] = CudaGraphTick(slots)
    return kept[key]


def has_channels_last(network: UnitNetwork) -> bool:
    """Return whether any weight lies in memory with channels last, as `network.to(memory_format=...)` leaves it."""
    return any(
        p.dim() == 4 and p.is_contiguous(memory_format=torch.channels_last) and not p.is_contiguous()
        for p in network.parameters()
    )
