import copy

import pytest

from app.comparison.spec import read_comparison

CONTENT = {
    "name": "toy",
    "intent": "A comparison that costs nothing",
    "experiment": {
        "seed_everything": 0,
        "trainer": {"max_steps": 4},
        "model": {"class_path": "ActionRecognition", "init_args": {"rule": "good", "wiring": "dense"}},
        "data": {"class_path": "MovingDigits", "init_args": {"frames": 8}},
    },
    "control": "exact",
    "frozen": "frozen",
    "exact": "exact",
    "folds": [0, 1, 2, 3],
    "seeds": [0, 1],
    "tuning_folds": [0],
    "rows": [
        {"name": "frozen", "overrides": {"model.init_args.rule": "frozen"}},
        {"name": "sideways", "overrides": {"model": {"init_args": {"rule": "sideways", "wiring": "chain"}}}},
        {"name": "skip"},
        {"name": "exact", "overrides": {"model.init_args.rule": "exact"}},
    ],
}


@pytest.fixture
def content():
    return copy.deepcopy(CONTENT)


@pytest.fixture
def comparison(content):
    return read_comparison(content)
