"""Prediction moments: every p-th step of a rollout and always the last."""

import pytest
import torch

from lightning_modules.memory.moments import prediction_moments


@pytest.mark.parametrize(
    ("rollout", "every", "moments"),
    [
        (10, 5, [4, 9]),
        (10, 7, [6, 9]),
        (10, 4, [3, 7, 9]),
        (20, 10, [9, 19]),
        (3, 1, [0, 1, 2]),
        (1, 1, [0]),
        (3, 3, [2]),
        (3, 100, [2]),
    ],
)
def test_moments_are_those_of_the_public_code(rollout, every, moments):
    found = prediction_moments(rollout, every)
    assert found.dtype == torch.int64
    assert found.tolist() == moments


def test_the_last_step_is_always_a_moment_and_only_once():
    for rollout in range(1, 30):
        for every in range(1, 35):
            found = prediction_moments(rollout, every).tolist()
            assert found == sorted({step for step in range(rollout) if (step + 1) % every == 0} | {rollout - 1})


@pytest.mark.parametrize(("rollout", "every", "named"), [(0, 1, "rollout=0"), (5, 0, "every=0"), (5, -2, "every=-2")])
def test_no_step_is_refused(rollout, every, named):
    with pytest.raises(ValueError, match=f"{named}, expected .* at least 1; give"):
        prediction_moments(rollout, every)
