"""Which direction of a metric is better: the one table of the checkpoints, the comparisons and their workers."""

import re

# By a metric's own name: without stage and baseline before it, and the horizon, or one of several modules, behind it.
SENSE = {"top1": "higher", "top5": "higher", "psnr_db": "higher", "ssim": "higher"}
SENSE |= {"loss": "lower", "mse": "lower", "mse_sum": "lower", "lpips": "lower", "frechet": "lower"}
SENSE |= {"frames_per_second": "higher", "detector_precision": "higher", "detector_recall": "higher"}
COSTS = ("latency", "memory")  # less is better of whatever is measured under these names
_HORIZON = re.compile(r"_\d+$")
_MODULE = re.compile(r"/(module_\d+|ensemble)$")


def sense(metric: str) -> str | None:
    """Return whether more or less of a metric is better, higher or lower; None for one that is not in the table.

    >>> sense("val/top1"), sense("test/copy_last/mse_sum_4"), sense("latency/tick_ms"), sense("frames_seen")
    ('higher', 'lower', 'lower', None)
    >>> sense("test/top1/ensemble"), sense("train/loss/module_1")
    ('higher', 'lower')
    """
    if metric.split("/")[0] in COSTS:
        return "lower"
    return SENSE.get(_HORIZON.sub("", _MODULE.sub("", metric).rsplit("/", 1)[-1]))
