import copy

import pytest

from app.study.objectives import read_objective
from app.study.plan import Plan
from app.study.space import read_space

CONFIG = {
    "seed_everything": 0,
    "trainer": {"max_steps": 4},
    "model": {"class_path": "ActionRecognition", "init_args": {"rule": "sideways", "wiring": "chain", "lr": 0.5}},
    "data": {"class_path": "MovingDigits", "init_args": {"frames": 8}},
}
SPACE = {
    "model.init_args.lr": {"low": 1e-4, "high": 1e-1, "log": True},
    "model.init_args.wiring": ["chain", "residual"],
}


@pytest.fixture
def plan_of(tmp_path):
    """Return a function that makes a plan whose files lie in a folder of the test's; random search loads soonest."""

    def make(trials=4, objectives=("val/top1",), space=SPACE, storage=None, **options):
        output = tmp_path / "study"
        return Plan(
            name="toy",
            config=copy.deepcopy(CONFIG),
            space=read_space(space),
            objectives=tuple(map(read_objective, objectives)),
            trials=trials,
            output=output,
            storage=storage or str(output / "study.journal"),
            **{"sampler": "random", **options},
        )

    return make


@pytest.fixture
def trace(tmp_path, monkeypatch):
    """Return a function that reads which trials ran: a list of (trial, fold, process)."""
    path = tmp_path / "trace"
    path.touch()
    monkeypatch.setenv("FAKE_TRACE", str(path))
    return lambda: [tuple(map(int, line.split())) for line in path.read_text().splitlines()]
