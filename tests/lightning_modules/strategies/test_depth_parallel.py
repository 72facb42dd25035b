"""The strategy in real processes: the same weights and figures as one process, whatever the stages and replicas."""

import atexit
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.lightning_modules.strategies.processes import running

SCRIPT = Path(__file__).parent / "train_script.py"
MODELS = {
    "chain": {"wiring": "chain"},
    "residual": {"wiring": "residual"},
    "concat": {"wiring": "concat"},
    "dense": {"wiring": "dense"},
    "newest, clipped": {"wiring": "dense", "gradient_edges": "newest", "clip_norm": 0.1},
    "update frame": {"wiring": "dense", "update": "frame", "optimizer": "sgd"},
    "stash": {"wiring": "concat", "stash": "exact"},
    "backprop shifted": {"wiring": "dense", "rule": "backprop_shifted", "executor": "vectorised"},
    "backprop frame": {"wiring": "residual", "rule": "backprop_frame", "executor": "vectorised", "accumulate": 2},
}
EVEN = {"ragged": False}
REPLICATED = {
    "dense": {"wiring": "dense"},
    "update frame": {"wiring": "residual", "update": "frame", "optimizer": "sgd", "lr": 0.01},
}


def train(folder: Path, *configs: dict, processes: int = 1) -> list[list[dict]]:
    """Run the script; return what each process found for each configuration. The script starts the further ones."""
    with running(folder, 1, run_script, folder, *map(json.dumps, configs)) as group:
        group.results(240)
    return [torch.load(f"{folder / 'out.pt'}.{rank}", weights_only=False) for rank in range(processes)]


def run_script(index, store, folder: Path, *configs: str) -> None:
    os.chdir(folder)
    sys.argv = [str(SCRIPT), str(folder / "out.pt"), *configs]
    runpy.run_path(str(SCRIPT), run_name="__main__")
    atexit._run_exitfuncs()  # a process of `multiprocessing` ends without them; one waits for the further processes


def start(folder: Path, *configs: dict, command: tuple[str, ...]) -> subprocess.Popen:
    return subprocess.Popen(
        [*command, str(SCRIPT), str(folder / "out.pt"), *map(json.dumps, configs)],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def staged(config: dict, devices: int, **strategy: object) -> dict:
    return {**config, "trainer": {**config.get("trainer", {}), "devices": devices}, "strategy": strategy}


def error(found: dict, expected: dict, figures: float = 1e-6) -> float:
    """Largest relative error of a weight; and the figures must be as close."""
    assert found["metrics"] == pytest.approx(expected["metrics"], rel=figures)
    weights = expected["weights"]
    return max(float((found["weights"][name] - w).norm() / w.norm()) for name, w in weights.items())


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    (results,) = train(folder, *({"model": model} for model in MODELS.values()))
    return dict(zip(MODELS, results, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
def test_stages_train_as_one_process_does(alone, tmp_path, processes):
    """Eighteen updates in float64, so that the last is no logging step; every rank ends with the same of everything."""
    ranks = train(tmp_path, *(staged({"model": m}, processes) for m in MODELS.values()), processes=processes)
    for results in ranks:
        for name, result in zip(MODELS, results, strict=True):
            assert error(result, alone[name]) < 1e-12, name


def test_two_stages_train_as_one_process_does(tmp_path):
    """The quick one: one wiring with skips, eight updates, in float64, float32 and bfloat16."""
    configs = [
        {"model": MODELS["dense"], "trainer": {"max_steps": 8, "precision": precision}}
        for precision in ("64-true", "32-true", "bf16-mixed")
    ]
    configs[0]["data"] = {"validated": False}
    configs[1]["data"] = {"as_bytes": True}
    (expected,) = train(tmp_path, *configs)
    for results in train(tmp_path, *(staged(config, 2) for config in configs), processes=2):
        for result, one, bound in zip(results, expected, (1e-12, 1e-4, 0.1), strict=True):
            assert error(result, one, figures=0.1 if bound == 0.1 else 1e-4) < bound


@pytest.mark.slow
def test_replicas_of_stages_train_as_one_process_on_all_clips(tmp_path):
    """2 stages x 2 replicas with batch 2, and 4 replicas with batch 1, are one process with batch 4."""
    whole = [{"model": m, "data": {**EVEN, "batch_size": 4}} for m in REPLICATED.values()]
    halves = [staged({"model": m, "data": {**EVEN, "batch_size": 2}}, 4, stages=2) for m in REPLICATED.values()]
    quarter = staged({"model": REPLICATED["dense"], "data": {**EVEN, "batch_size": 1}}, 4, stages=1)
    (expected,) = train(tmp_path, *whole)
    for results in train(tmp_path, *halves, quarter, processes=4):
        for result, one in zip(results, [*expected, expected[0]], strict=True):
            assert error(result, one) < 1e-12


@pytest.mark.slow
def test_frames_of_replicas_with_clips_of_unequal_length(tmp_path):
    """The common axis counts every replica's own frames."""
    config = {"model": MODELS["chain"], "trainer": {"max_steps": 6}}
    ((one,),) = train(tmp_path, {**config, "data": {"batch_size": 4}})
    for (result,) in train(tmp_path, staged({**config, "data": {"batch_size": 2}}, 2, stages=1), processes=2):
        assert result["metrics"]["frames_seen"] == one["metrics"]["frames_seen"]


@pytest.mark.slow
def test_checkpoint_of_four_stages_loads_anywhere_and_resumes_exactly(tmp_path):
    """Saved after ten of twenty updates in four stages: goes on bit for bit in four, and as well in two or without."""
    # In float32: Lightning loads weights before it makes a module float64, and would round them.
    config = {"model": MODELS["concat"], "trainer": {"max_steps": 20, "precision": "32-true"}}
    rest = {**config, "ckpt_path": str(tmp_path / "ten.ckpt")}
    balance = {"balance": [1, 1, 1, 1]}
    first = staged({**config, "save": rest["ckpt_path"]}, 4, **balance)
    for whole, rest_4 in train(tmp_path, first, staged(rest, 4, **balance), processes=4):
        for name, weight in whole["weights"].items():
            assert torch.equal(rest_4["weights"][name], weight), name
    ((rest_1,),) = train(tmp_path, rest)
    ((rest_2,), _) = train(tmp_path, staged(rest, 2), processes=2)
    assert error(rest_1, whole, figures=1e-4) < 1e-4
    assert error(rest_2, whole, figures=1e-4) < 1e-4


@pytest.mark.slow
def test_two_machines_under_torchrun(tmp_path):
    """Two launches of torchrun with one process each, as on two machines, on the loopback address."""
    config = {"model": MODELS["residual"], "trainer": {"max_steps": 10}}
    ((expected,),) = train(tmp_path, config)
    two = staged({**config, "trainer": {"max_steps": 10, "num_nodes": 2}}, 1, transport="process_group")
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=1")
    where = ("--master_addr=127.0.0.1", f"--master_port={free_port()}")
    runs = [start(tmp_path, two, command=(*torchrun, f"--node_rank={n}", *where)) for n in range(2)]
    for run in runs:
        output, _ = run.communicate(timeout=240)
        assert run.returncode == 0, output
    for rank in range(2):
        (result,) = torch.load(f"{tmp_path / 'out.pt'}.{rank}", weights_only=False)
        assert error(result, expected) < 1e-12


def free_port() -> int:
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
