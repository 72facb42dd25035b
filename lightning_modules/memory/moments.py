"""The steps of a rollout from whose memory predictions are made (methods.md section 6).

rollout of 10 steps, every 4:    0  1  2 [3] 4  5  6 [7] 8 [9]
"""

import torch
from torch import Tensor


def prediction_moments(rollout: int, every: int) -> Tensor:
    """Return the prediction moments of a rollout, ascending, counted from its first step: (M,) int64 [C].

    Args:
        rollout: steps of the rollout.
        every: the last of so many steps is a moment; the rollout's last step always is. Beyond the rollout's length
            it alone is.

    Raises:
        ValueError: a rollout or an interval of no step.
    """
    for name, value in (("rollout", rollout), ("every", every)):
        if value < 1:
            raise ValueError(f"{name}={value}, expected a number of steps of at least 1; give {name}=1 or more")
    steps = [*range(every - 1, rollout, every)]
    return torch.tensor(steps if rollout % every == 0 else [*steps, rollout - 1])
