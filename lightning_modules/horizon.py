"""Which frame an output may be asked for: the horizon counts from the newest frame that can have reached it.

methods.md section 3, "Future frames" [D]. Frame numbers count from 0 within a clip of T frames; D units, Lmin hops on
the shortest path from the frame to the output, K horizons. The network reads the first T - K frames. A clip of T = 12
frames, D = 4, K = 2, the output at the tick of frame 5:

    frame      0   1   2   3   4   5   6   7   8   9  10  11
    chain              n                                            Lmin 4: frame n = 2 is all that has reached it
                       m   1   2                                    m = 2, targets 3 and 4
    dense              n   +   +                                    Lmin 2: the skips have brought 3 and 4
                               m   1   2                            m = 4, targets 5 and 6

So m = i + D - Lmin for the output of nominal frame i. Asked for n + 1, as the chain is, the dense network would only
have to copy what it has seen: a leak that looks like foresight. In the ordinary network all units work on one frame
and m = i.

Rows of a comparison are scored on the same frames: newest frames D - 1 to T - K - D, which every wiring of D units
answers, under every rule. Here 3 to 6.

`horizon` 0 is plain auto-encoding: one column, k = 0, whose target is frame m itself.

Shape legend: B clips, T frames, N outputs, K horizons (1 where `horizon` is 0), C channels, H and W height and width,
O = K * C channels of the network's output, horizon by horizon.
"""

from typing import Literal, get_args

import torch
from torch import Tensor

from lightning_modules.networks.wiring import Wiring
from lightning_modules.rules.rule import Rule

Predict = Literal["change", "frame"]
FRAMES_OF_THE_MEAN = 4


def check_horizon(horizon: int, predict: str) -> None:
    """Refuse a horizon or a form of prediction that does not exist.

    Raises:
        ValueError: with what to use instead.
    """
    if horizon < 0:
        raise ValueError(f"horizon is {horizon}; expected frames ahead, 1 or more, or 0 to encode the frame itself")
    if predict not in get_args(Predict):
        raise ValueError(f"predict {predict!r} is unknown; expected one of {', '.join(get_args(Predict))}")


def horizons(horizon: int) -> list[int]:
    """Return the k of each column of an output: 1..K, or 0 alone for auto-encoding."""
    return list(range(1, horizon + 1)) or [0]


def says_change(horizon: int, predict: str) -> bool:
    """Whether the output is added to the newest frame: never in auto-encoding, where it would be the answer."""
    return predict == "change" and horizon > 0


def newest_frames(rule: Rule, wiring: Wiring, outputs: int) -> Tensor:
    """Return the newest frame (N,) that can have reached each output, in the order of the outputs.

    In the pipeline m = i + D - Lmin for the i-th output, in the ordinary network m = i [D, 3].
    """
    first = wiring.length - wiring.lmin if rule.forward_shift else 0
    return torch.arange(first, first + outputs)


def shortest_scored_clip(depth: int, horizon: int) -> int:
    """Fewest frames of a clip that has a scored frame: 2D - 1 + K [D]."""
    return 2 * depth - 1 + horizon


def context_lengths(lengths_B: Tensor, horizon: int) -> Tensor:
    """Return how many frames of each clip the network reads: all but the last K."""
    return (lengths_B - horizon).clamp_min(0)


def scored_outputs(newest_N: Tensor, lengths_B: Tensor, *, depth: int, horizon: int) -> Tensor:
    """Return the mask (B, N) of outputs with D - 1 <= m <= l - K - D, l the clip's length [D]."""
    newest_1N = newest_N.to(lengths_B.device)[None]
    return (newest_1N >= depth - 1) & (newest_1N <= lengths_B[:, None] - horizon - depth)


def target_frames(video_BTCHW: Tensor, newest_N: Tensor, horizon: int) -> Tensor:
    """Return the frames x[m + k], (B, N, K, C, H, W) [D, 3]."""
    ahead_K = torch.tensor(horizons(horizon))
    return video_BTCHW[:, (newest_N.cpu()[:, None] + ahead_K).to(video_BTCHW.device)]


def training_targets(
    video_BTCHW: Tensor, first_newest: int, lengths_B: Tensor, *, horizon: int, predict: str
) -> Tensor:
    """Return what the network is to say for each nominal frame that it reads, (B, T - K, O, H, W).

    Entries of nominal frames that have no output hold those of the clip's last newest frame with all its targets; only
    a rule's `lead` reads them.

    Args:
        video_BTCHW: whole clips.
        first_newest: newest frame of the first output, `newest_frames(...)[0]`.
        lengths_B: real frames of each clip.
        horizon: K.
        predict: `change` (less x[m]) or `frame`.
    """
    frames = video_BTCHW.shape[1]
    device, clips = video_BTCHW.device, torch.arange(len(video_BTCHW), device=video_BTCHW.device)
    last_B1 = (lengths_B.to(device)[:, None] - 1 - horizon).clamp_min(0)
    newest_BN = torch.minimum(torch.arange(frames - horizon, device=device) + first_newest, last_B1)
    ahead_K = torch.tensor(horizons(horizon), device=device)
    wanted_BNKCHW = video_BTCHW[clips[:, None, None], newest_BN[:, :, None] + ahead_K]
    if says_change(horizon, predict):
        wanted_BNKCHW = wanted_BNKCHW - video_BTCHW[clips[:, None], newest_BN][:, :, None]
    return wanted_BNKCHW.flatten(2, 3)


def predicted_frames(
    output_BNOHW: Tensor, video_BTCHW: Tensor, newest_N: Tensor, *, horizon: int, predict: str
) -> Tensor:
    """Return the frames that a network's outputs mean, (B, N, K, C, H, W): the output, or x[m] + output [D]."""
    frames_BNKCHW = output_BNOHW.unflatten(2, (-1, video_BTCHW.shape[2]))
    if says_change(horizon, predict):
        frames_BNKCHW = frames_BNKCHW + copy_last(video_BTCHW, newest_N, horizon)
    return frames_BNKCHW


def copy_last(video_BTCHW: Tensor, newest_N: Tensor, horizon: int) -> Tensor:
    """Return the baseline that says x[m] at every horizon, (B, N, K, C, H, W)."""
    last_BN1CHW = video_BTCHW[:, newest_N.to(video_BTCHW.device), None]
    return last_BN1CHW.expand(-1, -1, len(horizons(horizon)), -1, -1, -1)


def mean_last(video_BTCHW: Tensor, newest_N: Tensor, horizon: int, frames: int = FRAMES_OF_THE_MEAN) -> Tensor:
    """Return the baseline that says the mean of the last frames up to x[m], (B, N, K, C, H, W).

    Before frame `frames` - 1 the first frame stands in for those that are not there.
    """
    back_F = torch.arange(frames)
    taken_NF = (newest_N.cpu()[:, None] - back_F).clamp_min(0).to(video_BTCHW.device)
    mean_BN1CHW = video_BTCHW[:, taken_NF].mean(2)[:, :, None]
    return mean_BN1CHW.expand(-1, -1, len(horizons(horizon)), -1, -1, -1)
