"""How networks are cut into modules, and what is refused."""

from typing import Any

import pytest
import torch

from lightning_modules.execution import PipelineState, check_stream, clip_answers, clip_gradients
from lightning_modules.networks import ClipNetwork, build_network
from lightning_modules.networks.local_modules import LocalModules, cut_into_modules, module_sizes
from lightning_modules.rules import LOCAL, Rule, make_rule
from tests.lightning_modules.execution.greedy_networks import (
    LABELS,
    clips,
    local_network,
)
from tests.lightning_modules.execution.reference import tiny_network


def test_weights_of_a_network_are_those_of_its_seed() -> None:
    """Heads and quantisers are drawn after the network, and change nothing of it."""
    plain = tiny_network(5, "dense").state_dict()
    cuts: list[tuple[tuple[int, ...], dict[str, Any]]] = [((5,), {}), ((1, 4), {}), ((2, 3), {"vq_groups": 2})]
    for sizes, options in cuts:
        cut = local_network(sizes, "dense", **options).state_dict()
        assert all(torch.equal(value, cut[name]) for name, value in plain.items())
        extra = {name.split(".")[2] for name in cut.keys() - plain.keys()}
        assert extra == ({"head", "quantiser"} if options else {"head"} if len(sizes) > 1 else set())


@pytest.mark.parametrize(
    ("modules", "units", "sizes"),
    [
        (None, 6, (1, 1, 1, 1, 2)),
        (None, 1, (1,)),
        (6, 6, (1, 1, 1, 1, 1, 1)),
        (1, 6, (6,)),
        (2, 6, (3, 3)),
        (3, 6, (2, 2, 2)),
        (4, 6, (2, 1, 1, 2)),
        ([4, 2], 6, (4, 2)),
    ],
)
def test_sizes_of_modules(modules: int | list[int] | None, units: int, sizes: tuple[int, ...]) -> None:
    assert module_sizes(modules, units) == sizes


@pytest.mark.parametrize(
    ("network", "options", "says"),
    [
        ("small_cnn", {"modules": 0}, "expected 1 to 6, or a size for each"),
        ("small_cnn", {"modules": 7}, "expected 1 to 6, or a size for each"),
        ("small_cnn", {"modules": [2, 2]}, r"give numbers that add up to 6, such as \[3, 3\]"),
        ("small_cnn", {"modules": [6, 0]}, "at least 1 a module"),
        ("small_cnn", {"modules": []}, r"such as \[6\]"),
        ("small_cnn", {"modules": True}, "expected 1 to 6, or a size for each"),
        ("cnn3d", {"modules": 6}, "modules 6 of a network of 5 blocks; expected 1 to 5, or a size for each"),
        ("cnn3d", {"modules": [3, 2, 1]}, r"have 6 blocks, the network has 5.* such as \[2, 2, 1\]"),
        ("small_cnn", {"head": "mpl"}, "did you mean 'mlp'"),
        ("small_cnn", {"head_width": 0.0}, "give a positive number"),
        ("small_cnn", {"head_width": float("inf")}, "give a positive number"),
        ("small_cnn", {"head_width": float("nan")}, "give a positive number"),
        ("cnn3d", {"head": "decoder"}, "for clips give one of"),
        ("small_cnn", {"vq_codes": 16}, "use vq_groups 1 or more, or leave them out"),
        ("small_cnn", {"modules": 1, "vq_codes": 16}, "use vq_groups 1 or more, or leave them out"),
        ("small_cnn", {"modules": 1, "vq_groups": 2}, "which sends nothing; leave vq_groups out, or use modules 2"),
        ("cnn3d", {"modules": [5], "vq_groups": 2}, "which sends nothing; leave vq_groups out, or use modules 2"),
        ("small_cnn", {"vq_groups": 3}, "expected a divisor of the channels"),
        ("small_cnn", {"vq_groups": 2, "vq_codes": 1}, "expected 2 to 65536"),
        ("small_cnn", {"zero": True}, "belongs to head 'decoder' only"),
    ],
)
def test_cuts_that_make_no_sense_are_refused(network: str, options: dict[str, Any], says: str) -> None:
    made = build_network(network, in_channels=2, num_classes=3, width=0.25)
    with pytest.raises(ValueError, match=says):
        cut_into_modules(made, LocalModules(**options))


@pytest.mark.parametrize(
    ("modules", "sizes"), [(None, (1,) * 5), (5, (1,) * 5), (1, (5,)), (2, (3, 2)), ([2, 3], (2, 3)), ([5], (5,))]
)
def test_modules_of_a_network_of_whole_clips_are_of_blocks(
    modules: int | list[int] | None, sizes: tuple[int, ...]
) -> None:
    """Five blocks: the classifier is not counted, neither in a number nor in a list."""
    network = build_network("cnn3d", in_channels=2, num_classes=3, width=0.25)
    assert isinstance(network, ClipNetwork)
    cut_into_modules(network, LocalModules(modules=modules))
    assert network.sizes == sizes


def test_one_module_has_no_buffer() -> None:
    """One module is legal, and so are its options of heads, which a sweep over modules sets for all."""
    network = local_network((5,), head_width=0.5)
    clip_gradients(network, clips(5), LABELS, rule="greedy")
    with pytest.raises(ValueError, match="has no buffer below it; use replay 0, or modules 2 or more"):
        clip_gradients(network, clips(5), LABELS, rule=make_rule("greedy", replay=2), on_tick=print)


def test_other_gradient_edges_are_refused() -> None:
    network = tiny_network(5, "dense", gradient_edges="newest")
    with pytest.raises(ValueError, match="leave gradient_edges out"):
        cut_into_modules(network, LocalModules())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"rule": "sideways"}, "use rule .greedy., or a network that is not cut"),
        ({"rule": "backprop_frame"}, "use rule .greedy., or a network that is not cut"),
        ({"rule": "greedy_frame", "executor": "pipelined"}, "use executor 'vectorised'"),
        ({"rule": "greedy", "executor": "cuda_graph"}, "use executor 'vectorised' or 'pipelined'"),
        ({"rule": make_rule("greedy", update="frame"), "on_tick": print}, "use 'pipelined'"),
        ({"rule": make_rule("greedy_frame", update="frame"), "on_tick": print}, "update 'clip'"),
        ({"rule": "greedy", "on_tick": print}, "on_tick belongs to update 'frame'"),
        ({"rule": "greedy", "state": PipelineState()}, "use executor 'pipelined'"),
        ({"rule": make_rule("greedy", replay=2), "executor": "pipelined"}, "use executor 'vectorised'"),
    ],
)
def test_combinations_without_sense_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        clip_gradients(local_network((2, 3)), clips(5), LABELS, **options)


@pytest.mark.parametrize("executor", ["vectorised", "pipelined"])
@pytest.mark.parametrize("rule", LOCAL)
def test_updates_of_frames_need_frames(rule: str, executor: str) -> None:
    """What is to be used instead is legal: one refusal, and not a second one."""
    network = build_network("cnn3d", in_channels=2, num_classes=3, width=0.25)
    cut_into_modules(network, LocalModules(modules=2))
    with pytest.raises(ValueError, match="use update 'clip' and executor 'vectorised'"):
        clip_gradients(
            network, clips(4).float(), LABELS, rule=make_rule(rule, update="frame"), executor=executor, on_tick=print
        )
    clip_gradients(network, clips(4).float(), LABELS, rule=make_rule(rule), executor="vectorised")


def test_a_state_of_a_network_of_whole_clips_is_refused() -> None:
    network = build_network("cnn3d", in_channels=2, num_classes=3, width=0.25)
    cut_into_modules(network, LocalModules(modules=2))
    with pytest.raises(ValueError, match="takes whole clips, and keeps none; give each clip without a state"):
        clip_answers(network, clips(4).float(), rule="greedy", state=PipelineState())


def test_a_network_in_one_piece_is_refused() -> None:
    with pytest.raises(ValueError, match="is not cut into modules; give it heads first by"):
        clip_gradients(tiny_network(3, "chain"), clips(5), LABELS, rule="greedy")


@pytest.mark.parametrize("executor", ["vectorised", "pipelined"])
def test_clips_without_an_answer_are_refused(executor: str) -> None:
    with pytest.raises(ValueError, match=r"2 frames gives no output in a pipeline of 3 modules; give at least 3"):
        clip_answers(local_network((2, 1, 2)), clips(2), rule="greedy", executor=executor)


def test_training_on_clips_without_an_answer_is_refused() -> None:
    """All ticks at once; tick by tick they may be the first piece of a stream."""
    with pytest.raises(ValueError, match=r"2 frames gives no output in a pipeline of 3 modules; give at least 3"):
        clip_gradients(local_network((2, 1, 2)), clips(2), LABELS, rule="greedy")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"name": "greedy", "stash": "exact"}, "leave stash out"),
        ({"name": "greedy", "lead": 1}, "belongs to rule 'sideways'"),
        ({"name": "gredy"}, "did you mean 'greedy'"),
        ({"name": "greedy", "max_reuse": 2}, "use replay 1 or more, or leave max_reuse out"),
        ({"name": "greedy", "slow_down": 2.0}, "use replay 1 or more, or leave slow_down out"),
        ({"name": "greedy", "replay_order": "reference"}, "use replay 1 or more, or leave replay_order out"),
        ({"name": "sideways", "replay": 2}, "use rule 'greedy'"),
        ({"name": "greedy", "replay": -1}, "1 or more"),
        ({"name": "greedy", "replay": 2, "update": "frame"}, "use update 'clip'"),
        ({"name": "greedy", "replay": 2, "replay_order": "lifo"}, "expected one of priority-lifo, reference"),
        ({"name": "greedy", "replay": 2, "max_reuse": 0}, "give 1 to draw a minibatch once, or leave it out"),
        ({"name": "greedy", "replay": 2, "slow_down": 0.5}, "has slow-down 0.5; give 1 for a module that works at"),
        ({"name": "greedy", "replay": 2, "slow_down": float("nan")}, "has slow-down nan; give 1 for a module"),
        ({"name": "greedy", "replay": 2, "slow_down": [1.0, 0.5]}, "module 2 has slow-down 0.5"),
        ({"name": "greedy", "replay": 2, "slow_down": []}, "give one number for all modules, or one for each"),
    ],
)
def test_rules_that_make_no_sense_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make_rule(**options)


@pytest.mark.parametrize(
    ("rule", "executor", "says"),
    [
        (make_rule("greedy"), "vectorised", "use --model.executor pipelined"),
        (make_rule("greedy", replay=2), "vectorised", "use --data.stream false, or replay 0"),
    ],
)
def test_streams_that_nobody_goes_on_with_are_refused(rule: Rule, executor: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        check_stream(local_network((2, 3)), rule, executor)
    check_stream(local_network((2, 3)), make_rule("greedy"), "pipelined")
