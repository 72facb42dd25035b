"""What a metric's name says: its heading, whether less of it is better, and how many decimals it is written with.

test/top1          accuracy, three decimals
test/mse           of predicted frames, the mean over horizons; as many decimals as its size asks for
test/mse_3         the same at horizon k = 3
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from app.metric_sense import sense

BETTER = ("higher", "lower")
TOP1, MSE = "top1", "mse"
# Of predicted frames, in the order of a report: name to heading. Each is logged as its mean, and as NAME_k.
FRAME_METRICS = {
    "mse": "MSE per pixel",
    "psnr_db": "PSNR dB",
    "ssim": "SSIM",
    "mse_sum": "MSE summed over a frame",
    "lpips": "LPIPS",
    "frechet": "Frechet distance",
}
_AT_HORIZON = re.compile(r"(.+)_(\d+)")
_PLACES, _DIGITS, _MOST_PLACES = 3, 4, 8


def parts(metric: str) -> tuple[str, int | None]:
    """Return a metric's own name and its horizon, None for a mean.

    >>> parts("test/psnr_db_4"), parts("test/mse_sum")
    (('psnr_db', 4), ('mse_sum', None))
    """
    name = metric.rsplit("/", 1)[-1]
    found = _AT_HORIZON.fullmatch(name)
    return (found[1], int(found[2])) if found and found[1] in FRAME_METRICS else (name, None)


def at_horizon(metric: str, horizon: int) -> str:
    """Return the name of a metric at one horizon: test/mse at 2 is test/mse_2."""
    return f"{metric}_{horizon}"


def heading(metric: str, better: str = "higher", frames: bool = True) -> str:
    """Return what a column of the metric is called, and that less is better where it is.

    >>> heading("test/mse", "lower"), heading("test/mse", "lower", frames=False)
    ('MSE per pixel (lower is better)', 'MSE (lower is better)')

    Args:
        metric: its name.
        better: higher or lower.
        frames: whether it is of predicted frames.
    """
    name, horizon = parts(metric)
    text = FRAME_METRICS.get(name, name.replace(TOP1, "top-1")) if frames or name != MSE else "MSE"
    text += "" if horizon is None else f" at k = {horizon}"
    return f"{text} (lower is better)" if better == "lower" else text


def check_sense(key: str, metric: str, better: str) -> None:
    """Refuse a `better` that the metric's name contradicts: a table would then praise the worst row.

    Errors: ValueError with what to write.
    """
    if better not in BETTER:
        raise ValueError(f"better: expected higher or lower, got {better!r}")
    own = sense(metric) or better
    if own != better:
        raise ValueError(f"{key}: {metric} is better where it is {own}, but better says {better}; write {own}")


def places(metric: str, values: Iterable[float]) -> int:
    """Return the decimals of a column: three, or for predicted frames enough for four digits of its smallest value.

    >>> places("test/top1", [0.5]), places("test/mse", [0.0123, 0.2]), places("test/psnr_db", [24.1])
    (3, 5, 2)
    """
    if parts(metric)[0] not in FRAME_METRICS:
        return _PLACES
    sizes = [abs(value) for value in values if value and math.isfinite(value)]
    return min(_MOST_PLACES, max(0, _DIGITS - 1 - math.floor(math.log10(min(sizes))))) if sizes else _PLACES
