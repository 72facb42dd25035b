"""Modules in several stages compute what one process computes; what is quantised is sent as codes.

Stages are threads in the quick tests of the executors, and real processes where the strategy trains.
"""

from itertools import product
from pathlib import Path

import pytest
import torch
from lightning import Trainer
from torch import Tensor
from torch.optim import SGD

from lightning_modules.action_recognition import ActionRecognition
from lightning_modules.execution import clip_answers, clip_gradients
from lightning_modules.execution.placement import Placement, cut
from lightning_modules.execution.stage import Stage, clip_routes, message_bytes
from lightning_modules.networks import UnitNetwork
from lightning_modules.networks.local_modules import LocalModules, cut_into_modules
from lightning_modules.rules import make_rule
from lightning_modules.strategies.balance import (
    given_sizes,
    module_times,
    modules_in_stages,
    report,
    units_in_stages,
)
from lightning_modules.strategies.depth_parallel import DepthParallelStrategy
from tests.lightning_modules.execution.reference import moving_video, relative_error, tiny_network
from tests.lightning_modules.execution.threads import in_stages, own_state
from tests.lightning_modules.strategies.test_depth_parallel import staged
from tests.lightning_modules.strategies.test_depth_parallel import train as run
from tests.lightning_modules.toy_clips import ToyData

LABELS = torch.tensor([0, 2, 1])
RULES = {
    "vectorised": ("greedy", "vectorised"),
    "pipelined": ("greedy", "pipelined"),
    "same frame": ("greedy_frame", "vectorised"),
}
# Units of each module, and of each stage: modules of several units, stages of several modules.
CUTS = [((1, 1, 1, 1), (1, 1, 1, 1)), ((2, 1, 2), (2, 3)), ((1, 1, 2), (2, 2)), ((1, 2, 2), (1, 2, 2))]
VQ = {"vq_groups": 2, "vq_codes": 5, "vq_decay": 0.5}


def modular(modules: tuple[int, ...], wiring: str, *, quantised: bool = False) -> UnitNetwork:
    network = tiny_network(sum(modules), wiring)
    options = VQ if quantised else {}
    cut_into_modules(network, LocalModules(modules=modules, head="mlp", activation="tanh", **options))
    return network.double()


def seen(stage: Stage, video: Tensor) -> Tensor:
    return video if stage.has_video else video.to("meta")


def buffers(network: UnitNetwork) -> dict[str, Tensor]:
    """Codebooks and what belongs to them."""
    return {name: b.double() for name, b in network.named_buffers()}


def own_buffers(copies: list[UnitNetwork], placement: Placement) -> dict[str, Tensor]:
    """Each unit's from the stage in which it works."""
    return {
        name: b
        for copied, units in zip(copies, placement.stages, strict=True)
        for name, b in buffers(copied).items()
        if int(name.split(".")[1]) + 1 in units
    }


def train(network: UnitNetwork, rule: str, executor: str, update: str = "clip", stage: Stage | None = None) -> list:
    """Losses and answers of modules for clips in a row, with a step after each: batch, frames and lengths change."""
    optimizer = SGD(network.parameters(), lr=0.01, momentum=0.5)

    def step(gradients: dict[str, Tensor]) -> None:
        for name, p in network.named_parameters():
            p.grad = gradients.get(name)
        optimizer.step()

    found = []
    for n, (clips, frames) in enumerate([(3, 7), (2, 9), (3, 6)]):
        video = moving_video(clips, frames, seed=n)
        result = clip_gradients(
            network,
            video if stage is None else seen(stage, video),
            LABELS[:clips],
            rule=make_rule(rule, update=update),  # type: ignore[arg-type]
            executor=executor,
            lengths_B=torch.tensor([frames, frames - 2, frames - 1])[:clips] if n else None,
            stage=stage,
            **({"on_tick": step} if update == "frame" else {}),
        )
        if update == "clip":
            step(result.gradients)
        found.append({j: (a.loss.clone(), a.logits_BNK, a.valid_BN) for j, a in result.answers.items()})
        assert (result.loss is None) == (stage is not None and not stage.has_output)
    return found


def check_parity(network: UnitNetwork, sizes: tuple[int, ...], *how: str) -> None:
    placement = cut(network.wiring, sizes)
    stages = in_stages(network, placement, lambda mine, stage: train(mine, *how, stage=stage))
    start = {name: p.detach().clone() for name, p in network.named_parameters()}
    alone = train(network, *how)
    weights = {name: p.detach() for name, p in network.named_parameters()}
    copies = [copied for copied, _ in stages]
    assert relative_error(own_state(copies, placement), weights) < 1e-12
    assert all(not torch.equal(start[name], weights[name]) for name in start)
    if network.quantiser(1):
        assert relative_error(own_buffers(copies, placement), buffers(network)) < 1e-12
        assert network.quantiser(1).version >= len(alone)  # it has learnt
    for n, expected in enumerate(alone):
        of_all = {j: answer for _, found in stages for j, answer in found[n].items()}
        assert sorted(of_all) == list(range(1, network.module_count + 1))
        for module, parts in expected.items():
            for ours, theirs in zip(of_all[module], parts, strict=True):
                torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def parity_cases() -> list:
    cases = []
    wirings = ("chain", "residual", "dense", "input")
    for (w, wiring), (c, sizes), (r, rule), quantised in product(
        enumerate(wirings), enumerate(CUTS), enumerate(RULES), (False, True)
    ):
        quick = (w + c + 2 * r + 3 * quantised) % 6 == 0
        name = f"{wiring}-{sizes}-{rule}-{'codes' if quantised else 'dense'}"
        cases.append(pytest.param(wiring, *sizes, rule, quantised, id=name, marks=() if quick else pytest.mark.slow))
    return cases


@pytest.mark.parametrize(("wiring", "modules", "sizes", "rule", "quantised"), parity_cases())
def test_stages_equal_one_process(
    wiring: str, modules: tuple[int, ...], sizes: tuple[int, ...], rule: str, quantised: bool
) -> None:
    check_parity(modular(modules, wiring, quantised=quantised), sizes, *RULES[rule])


@pytest.mark.parametrize("quantised", [False, True])
@pytest.mark.parametrize("wiring", ["residual", "dense"])
def test_update_frame(wiring: str, quantised: bool) -> None:
    """Weights and codebooks change at every tick, and every message is decoded with the codebook of its own tick."""
    check_parity(modular((1, 2, 1), wiring, quantised=quantised), (1, 2, 1), "greedy", "pipelined", "frame")


@pytest.mark.parametrize("quantised", [False, True])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("wiring", ["dense", "input"])
def test_answers_in_stages(wiring: str, rule: str, quantised: bool) -> None:
    """Evaluation too is about codes: each stage is sent the codebook, for its own copy is an old one."""
    network, video = modular((1, 1, 2), wiring, quantised=quantised), moving_video(3, 9)
    named, executor = RULES[rule]
    train(network, named, executor)
    expected = clip_answers(network, video, rule=named, executor=executor)
    placement = cut(network.wiring, (1, 1, 2))

    def work(mine: UnitNetwork, stage: Stage) -> object:
        for name, buffer in mine.named_buffers():
            if name.endswith("codebook") and int(name.split(".")[1]) + 1 not in stage.units:
                buffer.fill_(torch.nan)
        return clip_answers(mine, seen(stage, video), rule=named, executor=executor, stage=stage)

    results = [result for _, result in in_stages(network, placement, work)]
    assert [r.logits_BNK is None for r in results] == [True, True, False]
    torch.testing.assert_close(results[-1].logits_BNK, expected.logits_BNK)
    answers = {j: answer for r in results for j, answer in r.modules.items()}
    for module, answer in expected.modules.items():
        torch.testing.assert_close(answers[module].logits_BNK, answer.logits_BNK)


@pytest.mark.parametrize("rule", ["vectorised", "pipelined"])
@pytest.mark.parametrize("wiring", ["dense", "input"])
def test_bytes_that_are_sent_are_those_of_the_routes(wiring: str, rule: str) -> None:
    """Counted where they are sent; of codes G * ceil(log2 K) bits a position, and each stage's copy of a codebook."""
    named, executor = RULES[rule]
    video, modules = moving_video(3, 9), (1, 1, 2)
    counted = {}
    for quantised in (False, True):
        network = modular(modules, wiring, quantised=quantised)
        placement = cut(network.wiring, modules)

        def work(mine: UnitNetwork, stage: Stage) -> dict[int, int]:
            clip_gradients(mine, seen(stage, video), LABELS, rule=named, executor=executor, stage=stage)
            assert {u: n for u, n in message_bytes(stage.routes).items() if u in stage.exchange.bytes} == (
                stage.exchange.bytes
            )
            return stage.exchange.bytes

        sent = [result for _, result in in_stages(network, placement, work)]
        counted[quantised] = {unit: count for part in sent for unit, count in part.items()}
        routes = clip_routes(network, placement, video, make_rule(named), executor)
        assert message_bytes(routes) == counted[quantised]
    assert counted[True].get(0) == counted[False].get(0)
    for unit in (1, 2):
        quantiser = network.quantiser(unit)
        channels = [c for c in routes if c.unit == unit and c.kind == "activation"]
        dense, codes = (
            sum(len(routes[c].ticks) * (routes[c].dense or routes[c]).shape.numel() * 8 for c in channels),
            sum(routes[c].nbytes for c in channels),
        )
        assert counted[False][unit] == dense
        assert counted[True][unit] == codes + len(channels) * quantiser.codebook_bytes
        positions = dense / 8 / quantiser.channels
        assert codes * 8 == pytest.approx(positions * quantiser.bits_per_position, rel=0.02)


def test_stages_of_whole_modules() -> None:
    """Three modules of 2, 1 and 2 units, by hand."""
    modules = (2, 1, 2)
    assert units_in_stages([1, 2], modules) == [2, 3]
    assert units_in_stages([2, 1], modules) == [3, 2]
    assert modules_in_stages([2, 3], modules) == [1, 2]
    assert modules_in_stages([1, 4], modules) is None
    assert modules_in_stages([2, 2], modules) is None
    assert given_sizes("3,2", 2, 5, modules) == [3, 2]
    with pytest.raises(ValueError, match=r"\[1, 4\] cuts inside a module: they have \[2, 1, 2\] units.* such as 2,3"):
        given_sizes([1, 4], 2, 5, modules)
    assert report([4.0, 1.0, 2.0], [1, 2], "module").splitlines()[:3] == [
        "stage  modules       ms  share of the period",
        "    0  1           4.00   100 %",
        "    1  2-3         3.00    75 %",
    ]


def test_a_module_is_timed_with_its_head_and_nothing_is_changed() -> None:
    """The lowest module has hundreds of times the last one's work; a wide head on small maps weighs more than these."""
    device = torch.device("cpu")

    def network(width: float) -> UnitNetwork:
        found = tiny_network(4, "concat", width=1.0).float()
        cut_into_modules(found, LocalModules(modules=(1, 2, 1), head="mlp", head_width=width, vq_groups=1, vq_codes=16))
        return found

    small, wide = network(0.25), network(16.0)
    for p in small.unit_parameters(1).values():
        p.requires_grad_(False)  # a module with nothing to learn only answers
    before = {name: x.clone() for name, x in small.state_dict().items()}
    random_state = torch.get_rng_state()
    times = module_times(small, (2, 32, 32), 2, device)
    assert len(times) == 3
    assert times[1] > times[2]
    assert module_times(wide, (2, 32, 32), 2, device)[1] > times[1]
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(x, before[name]) for name, x in small.state_dict().items())
    assert all(p.grad is None for p in small.parameters())
    assert small.quantiser(1).gathered() == 0


@pytest.mark.parametrize(
    ("model", "devices", "options", "says"),
    [
        ({}, 4, {}, r"4 stages for 3 modules of \[1, 1, 2\] units: .* --trainer.devices 3 or fewer"),
        ({"modules": 2}, 2, {"balance": [1, 3]}, r"\[1, 3\] cuts inside a module: they have \[2, 2\] units"),
        ({"vq_groups": 2}, 4, {"stages": 2}, r"vq_groups with 2 replicas, .* use --trainer.devices 2, or"),
        ({"vq_groups": 2}, 2, {"stages": 1}, r"vq_groups with 2 replicas, .* use one device without a strategy"),
        ({"replay": 2}, 4, {"stages": 2}, r"replay buffers with 2 replicas, .* use --trainer.devices 2, or"),
        ({"replay": 2}, 2, {"stages": 1}, r"replay buffers with 2 replicas, .* use one device without a strategy"),
    ],
)
def test_what_cannot_be_placed_is_refused_before_any_process_starts(model, devices, options, says) -> None:
    trainer = Trainer(
        accelerator="cpu",
        devices=devices,
        strategy=DepthParallelStrategy(**options),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    task = ActionRecognition(2, in_channels=1, width=0.25, depth=4, rule="greedy", **model)
    with pytest.raises(ValueError, match=says):
        trainer.fit(task, datamodule=ToyData())


MODELS = {
    "chain": {"executor": "vectorised"},
    "dense codes": {"wiring": "dense", "executor": "vectorised", "vq_groups": 2, "vq_codes": 12, "vq_decay": 0.8},
    "residual codes": {"wiring": "residual", "vq_groups": 1, "vq_codes": 16},
    "update frame": {"wiring": "dense", "update": "frame", "optimizer": "sgd", "vq_groups": 2, "vq_codes": 8},
    "dense": {"wiring": "dense", "modules": 2, "clip_norm": 0.1},
    "same frame": {"rule": "greedy_frame", "wiring": "input", "executor": "vectorised"},
}
QUICK = ("dense codes", "residual codes", "update frame")


def greedy(model: dict, **config: object) -> dict:
    return {"model": {"rule": "greedy", "head": "cnn", **model}, **config}


def without_bytes(figures: dict) -> dict:
    return {name: value for name, value in figures.items() if not name.startswith("bytes_sent/")}


def difference(found: dict, expected: dict, rel: float = 1e-6) -> float:
    """Largest relative error of a weight or of what belongs to a codebook; the figures must be as close."""
    assert without_bytes(found["metrics"]) != found["metrics"]
    assert without_bytes(found["metrics"]) == pytest.approx(without_bytes(expected["metrics"]), rel=rel)
    return relative_error(*({n: w.double() for n, w in result["weights"].items()} for result in (found, expected)))


def check_training(folder: Path, processes: int, names: tuple[str, ...], **config: object) -> None:
    (expected,) = run(folder, *(greedy(MODELS[name], **config) for name in names))
    ways = [{"transport": "process_group"} if name == "update frame" else {} for name in names]
    configs = [staged(greedy(MODELS[n], **config), processes, **way) for n, way in zip(names, ways, strict=True)]
    for results in run(folder, *configs, processes=processes):
        for name, result, one in zip(names, results, expected, strict=True):
            assert difference(result, one) < 1e-12, name
            assert {"train/loss/module_1", "val/top1/module_1", "val/top1/ensemble"} <= result["metrics"].keys()


def test_two_stages_train_as_one_process_does(tmp_path: Path) -> None:
    """Weights, heads, codebooks, and every figure, in both processes, with both transports."""
    check_training(tmp_path, 2, QUICK, trainer={"max_steps": 8}, data={"clips": 8})


@pytest.mark.slow
def test_three_stages_train_as_one_process_does(tmp_path: Path) -> None:
    check_training(tmp_path, 3, tuple(name for name in MODELS if name != "dense"))
    check_training(tmp_path, 2, ("dense", "chain"))


@pytest.mark.slow
def test_predicted_frames_in_stages(tmp_path: Path) -> None:
    """Every stage is told the frames, the targets of its own modules' decoders."""
    config = {"task": "frames", "data": {"frames": 18, "clips": 8}, "trainer": {"max_steps": 8}}
    models = [{"wiring": "unet", "modules": 3}, {"wiring": "input", "modules": 2, "executor": "pipelined"}]
    configs = [{**config, "model": {"rule": "greedy", **model}} for model in models]
    (expected,) = run(tmp_path, *configs)
    for results in run(tmp_path, *(staged(c, 2) for c in configs), processes=2):
        for result, one in zip(results, expected, strict=True):
            assert difference(result, one) < 1e-12


@pytest.mark.slow
def test_replicas_average_heads_too(tmp_path: Path) -> None:
    """Two stages x two replicas are one process with twice the batch: weights, and every module's figures.

    With `update: frame` on clips of unequal length, one in each replica: at its last tick only some replicas have a
    clip left, and all average. A loss in training is there a mean of the replicas' means.
    """
    models = [MODELS["dense"] | {"clip_norm": None}, {"update": "frame", "optimizer": "sgd", "lr": 0.01}]
    data = [{"ragged": False, "clips": 16, "batch_size": 4}, {"ragged": True, "clips": 16, "batch_size": 2}]
    half = [{**d, "batch_size": d["batch_size"] // 2} for d in data]
    whole = [greedy(m, data=d, trainer={"max_steps": 8}) for m, d in zip(models, data, strict=True)]
    halves = [greedy(m, data=d, trainer={"max_steps": 8}) for m, d in zip(models, half, strict=True)]
    (expected,) = run(tmp_path, *whole)
    for (even, ragged), (one, other) in zip(
        run(tmp_path, *(staged(c, 4, stages=2) for c in halves), processes=4), [expected] * 4, strict=True
    ):
        assert difference(even, one) < 1e-12
        for result in (ragged, other):
            result["metrics"] = {name: x for name, x in result["metrics"].items() if not name.startswith("train/")}
        assert difference(ragged, other) < 1e-12


@pytest.mark.slow
def test_a_checkpoint_goes_from_stages_to_one_process_and_back(tmp_path: Path) -> None:
    """Heads and codebooks too: ten updates in two stages, ten more in two, in one, and in stages of another cut."""
    model = MODELS["dense codes"]
    config = greedy(model, trainer={"max_steps": 20, "precision": "32-true"})
    path = str(tmp_path / "ten.ckpt")
    rest = {**config, "ckpt_path": path}
    first = staged({**config, "save": path}, 2, balance=[1, 3])
    for whole, rest_2, other_cut in run(
        tmp_path, first, staged(rest, 2, balance=[1, 3]), staged(rest, 2, balance=[2, 2]), processes=2
    ):
        for name, weight in whole["weights"].items():
            assert torch.equal(rest_2["weights"][name], weight), name
        assert difference(other_cut, whole, 1e-4) < 1e-3
    ((rest_1,),) = run(tmp_path, rest)
    assert difference(whole, rest_1, 1e-4) < 1e-3
    ((whole_1,),) = run(tmp_path, {**config, "save": path})
    (rest_2,), _ = run(tmp_path, staged(rest, 2), processes=2)
    assert difference(rest_2, whole_1, 1e-4) < 1e-3
