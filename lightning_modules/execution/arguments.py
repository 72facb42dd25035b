"""What the executors can be given: refuses what makes no sense before any work is done, and says what to use instead.

Shape legend: B clips, T frames, C channels, H and W height and width.
"""

import torch
from torch import Tensor

from lightning_modules.execution.pipeline_state import PipelineState
from lightning_modules.execution.schedule import shortest_clip
from lightning_modules.execution.stage import Stage
from lightning_modules.execution.work_schedule import WorkSchedule
from lightning_modules.networks.clip_network import ClipNetwork
from lightning_modules.networks.unit_network import UnitNetwork
from lightning_modules.rules import Rule

EXECUTORS = ("vectorised", "pipelined", "cuda_graph")


def check_combination(network: UnitNetwork | ClipNetwork, rule: Rule, executor: str) -> None:
    """Refuse a network, rule and executor that make no sense together.

    Raises:
        ValueError: with what to type instead.
    """
    if executor not in EXECUTORS:
        raise ValueError(f"executor {executor!r} is unknown; expected one of {', '.join(EXECUTORS)}")
    if rule.local and not network.is_local:
        raise ValueError(
            f"rule {rule.name!r} with a network that is not cut into modules; give it heads first by "
            "networks.local_modules.cut_into_modules(network, LocalModules())"
        )
    if network.is_local and not rule.local:
        raise ValueError(
            f"rule {rule.name!r} with a network that is cut into modules with losses of their own; use rule 'greedy', "
            "or a network that is not cut"
        )
    if not rule.local and rule.whole_clip != isinstance(network, ClipNetwork):
        what = "takes whole clips" if isinstance(network, ClipNetwork) else "is cut into per-frame units"
        use = "'backprop'" if isinstance(network, ClipNetwork) else "'backprop_frame', 'backprop_shifted' or 'sideways'"
        raise ValueError(f"rule {rule.name!r} with a network that {what}; use rule {use}")
    if rule.update == "frame" and isinstance(network, ClipNetwork):
        raise ValueError(
            "update 'frame' with a network that takes whole clips; use update 'clip' and executor 'vectorised'"
        )
    if executor != "vectorised" and not rule.pipelines:
        if rule.local:
            why = "whose buffers hold whole clips" if rule.replay else "all of whose modules work on the same frame"
            raise ValueError(f"rule {rule.name!r}, {why}, with executor {executor!r}; use executor 'vectorised'")
        raise ValueError(
            f"rule {rule.name!r} waits for the whole clip and cannot be pipelined; use executor 'vectorised', "
            "or rule 'sideways' with stash 'exact' for exact gradients without waiting"
        )
    if executor == "pipelined" and isinstance(network, ClipNetwork):
        raise ValueError("executor 'pipelined' with a network that takes whole clips; use executor 'vectorised'")
    if executor == "cuda_graph" and not rule.forwards_gradients:
        if rule.local:
            raise ValueError(f"executor 'cuda_graph' with rule {rule.name!r}; use executor 'vectorised' or 'pipelined'")
        raise ValueError(
            "executor 'cuda_graph' with stash 'exact', whose past inputs have no fixed place; use executor 'pipelined'"
        )
    if rule.replay:
        if network.module_count == 1:
            raise ValueError(
                f"replay {rule.replay.size} with one module, which has no buffer below it; use replay 0, or modules 2 "
                "or more"
            )
        WorkSchedule(rule.replay.slow_downs_of(network.module_count), 0, modules=network.module_count)
    if rule.local and not rule.pipelines and rule.update == "frame":
        raise ValueError(
            f"update 'frame' with rule {rule.name!r}, whose modules work on all frames together; use update 'clip', or "
            "rule 'greedy' with executor 'pipelined'"
        )
    if executor == "vectorised" and rule.pipelines and rule.update == "frame":
        raise ValueError("update 'frame' changes weights at every tick; executor 'vectorised' cannot: use 'pipelined'")


def check_state(rule: Rule, executor: str, state: PipelineState | None) -> None:
    """Refuse a state to go on from where it would be left unread, or where draining has emptied the pipeline.

    Raises:
        ValueError: with what to use instead.
    """
    if state is None:
        return
    _check_no_lead(rule)
    if executor != "pipelined":
        raise ValueError(f"a state with executor {executor!r}, which holds none; use executor 'pipelined'")
    if rule.drains:
        raise ValueError(
            "a state with stash 'exact' and drain=True, which empties the pipeline at the end of each clip; "
            "use drain=False for clips that continue a stream"
        )


def _check_no_lead(rule: Rule) -> None:
    if rule.lead:
        raise ValueError(
            f"a stream with lead={rule.lead}: the targets of later frames are in the next piece; use lead 0, or clips"
        )


def check_keeps_state(network: UnitNetwork | ClipNetwork, rule: Rule) -> None:
    """Refuse to go on from a state with a network that holds nothing between two frames, or two clips.

    Raises:
        ValueError: with what to do instead.
    """
    if isinstance(network, ClipNetwork):
        raise ValueError(
            "a state with a network that takes whole clips, and keeps none; give each clip without a state"
        )
    if not rule.forward_shift:
        raise ValueError(f"a state with rule {rule.name!r}, whose network keeps none; give each clip without a state")


def check_stream(network: UnitNetwork | ClipNetwork, rule: Rule, executor: str) -> None:
    """Refuse to train on streams, videos as consecutive clips, where nothing is kept from one clip to the next.

    Per-frame backprop has nothing to keep: it may.

    Raises:
        ValueError: with the reason, and what to use instead.
    """
    if isinstance(network, ClipNetwork):
        raise ValueError(
            "stream with a network that takes whole clips, and keeps nothing between them; use --data.stream false, "
            "or a network that is cut into units"
        )
    if rule.replay:
        raise ValueError(
            "stream with replay buffers, which give clips in another order; use --data.stream false, or replay 0"
        )
    if not rule.forward_shift:
        return
    _check_no_lead(rule)
    if not rule.pipelines:
        raise ValueError(
            f"stream with rule {rule.name!r}, which goes back through time over the whole clip, and so would over the "
            "whole video; use --data.stream false, or for exact gradients --model.rule sideways --model.stash exact "
            "--model.drain false --model.executor pipelined"
        )
    if executor != "pipelined":
        raise ValueError(f"stream with executor {executor!r}, which keeps no state; use --model.executor pipelined")
    if rule.drains:
        raise ValueError(
            "stream with stash 'exact' and drain true, which empties the pipeline at the end of each clip; "
            "use --model.drain false"
        )


def check_stage(network: UnitNetwork | ClipNetwork, stage: Stage | None, state: PipelineState | None = None) -> None:
    """Refuse a stage of another network's placement, of a network that is not cut, or with a stream's state.

    Raises:
        ValueError: with what to use instead.
    """
    if stage is None:
        return
    if isinstance(network, ClipNetwork):
        raise ValueError("a network that takes whole clips is one unit and cannot be cut into stages; use one device")
    if stage.placement.wiring != network.wiring:
        raise ValueError(
            f"a placement of wiring {stage.placement.wiring.name!r} with {stage.placement.wiring.depth} units, for a "
            f"network of wiring {network.wiring.name!r} with {network.depth}; cut the network's own wiring"
        )
    if (ends := {units[-1] for units in stage.placement.stages}) - _module_ends(network):
        raise ValueError(
            f"stages that end with units {sorted(ends)}, and modules that end with {sorted(_module_ends(network))}: a "
            "module works in one stage; cut between modules"
        )
    if state is not None and len(stage.placement.stages) > 1:
        raise ValueError("a state to go on from, over several stages; streams of clips need one process: use one stage")


def _module_ends(network: UnitNetwork) -> set[int]:
    """Return the last unit of each module; all units where there are none."""
    modules = range(1, network.module_count + 1)
    return {network.module_units(j)[-1] for j in modules} or set(range(1, network.depth + 1))


def check_gives_output(network: UnitNetwork, rule: Rule, frames: int) -> None:
    """Refuse a clip that ends before the pipeline's first output.

    Raises:
        ValueError: with the number of frames from which every unit gets a gradient.
    """
    if rule.forward_shift and frames < network.wiring.length:
        parts = "modules" if network.wiring.modules else "units"
        raise ValueError(
            f"a clip of {frames} frames gives no output in a pipeline of {network.wiring.length} {parts}; "
            f"give at least {shortest_clip(network.wiring)} frames, so that every unit gets a gradient"
        )


def clip_lengths(video_BTCHW: Tensor, lengths_B: Tensor | None) -> Tensor:
    """Return the number of real frames of each clip, (B,) int64: all T where no lengths are given.

    Raises:
        ValueError: a video that is no (B, T, C, H, W), or lengths that are not one number from 0 to T for each clip.
    """
    if video_BTCHW.dim() != 5:
        raise ValueError(
            f"video of shape {tuple(video_BTCHW.shape)}; expected (B, T, C, H, W): one clip is video[None]"
        )
    clips, frames = video_BTCHW.shape[:2]
    if lengths_B is None:
        return torch.full((clips,), frames, device="cpu" if video_BTCHW.is_meta else video_BTCHW.device)
    if lengths_B.shape != (clips,) or not bool(((lengths_B >= 0) & (lengths_B <= frames)).all()):
        raise ValueError(f"lengths {lengths_B.tolist()}; expected a number of frames from 0 to {frames}, {clips} times")
    return lengths_B


def check_targets(video_BTCHW: Tensor, targets: Tensor) -> None:
    """Refuse targets that are neither one a clip nor one a frame.

    Raises:
        ValueError: with the shapes expected.
    """
    clips, frames = video_BTCHW.shape[:2]
    if targets.shape[:2] not in ((clips,), (clips, frames)):
        raise ValueError(
            f"targets of shape {tuple(targets.shape)} for {clips} clips of {frames} frames; "
            f"expected labels ({clips},), or a target for each frame ({clips}, {frames}, ...)"
        )
