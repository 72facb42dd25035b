"""Losses of predicted frames, a value for each prediction.

Shape legend: N predictions, O channels of all horizons (K * C, horizon by horizon), H and W height and width.
"""

from difflib import get_close_matches

from torch import Tensor

from lightning_modules.execution.clip_loss import Loss


def mse(output_NOHW: Tensor, target_NOHW: Tensor) -> Tensor:
    """Return the mean squared error (N,) over horizons, channels and pixels."""
    return (output_NOHW - target_NOHW).square().flatten(1).mean(1)


def l1_gdl(output_NOHW: Tensor, target_NOHW: Tensor) -> Tensor:
    """Return the mean absolute error plus the gradient difference loss, (N,).

    The latter (Mathieu et al. 2016, arXiv 1511.05440, alpha 1 [P]) compares the sizes of neighbours' differences,

        | |y[h, w] - y[h-1, w]| - |x[h, w] - x[h-1, w]| |   and the same along w,

    so that a sharp edge costs less than a blurred one. Sizes need whole frames, not changes: a blurred change has other
    edges than a blurred frame. What is compared here are therefore differences with their sign [D],

        | (y - x)[h, w] - (y - x)[h-1, w] |,

    the same number whether y and x are frames or both changes from one frame, and never smaller than the above. Each of
    the two directions is a mean over its own differences; the two are added.
    """
    error_NOHW = output_NOHW - target_NOHW
    down, across = error_NOHW.diff(dim=-2).abs(), error_NOHW.diff(dim=-1).abs()
    return sum((part.flatten(1).mean(1) for part in (down, across)), error_NOHW.abs().flatten(1).mean(1))


FRAME_LOSSES: dict[str, Loss] = {"mse": mse, "l1_gdl": l1_gdl}


def frame_loss(name: str) -> Loss:
    """Return a loss by name, from (N, O, H, W) outputs and targets to (N,).

    Raises:
        ValueError: an unknown name.
    """
    if name not in FRAME_LOSSES:
        near = get_close_matches(name, FRAME_LOSSES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"loss {name!r} is unknown; expected one of {', '.join(FRAME_LOSSES)}{hint}")
    return FRAME_LOSSES[name]
