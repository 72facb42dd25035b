"""Test metrics against the horizon k: each run, copy-last and mean-last. No Streamlit, no MLflow.

The runs' own metrics: `test/mse_1`, `test/psnr_db_4`, `test/copy_last/ssim_2`, ... over their whole test set.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import altair as alt
import pandas as pd

from dashboard.palette import COLOURS, Palette

METRICS = {
    "psnr_db": "PSNR (dB), higher is better",
    "mse": "MSE per pixel, lower is better",
    "ssim": "SSIM, higher is better",
    "mse_sum": "MSE summed over a frame, lower is better",
}
BASELINES = {"copy_last": "copy last frame", "mean_last": "mean of last frames"}
HEIGHT_PX = 300
_BASELINE_DASH = {"copy last frame": [1, 3], "mean of last frames": [5, 3, 1, 3]}
_BASELINE_SHAPE = {"copy last frame": "cross", "mean of last frames": "triangle-down"}
_BASELINE_COLOUR = {"copy last frame": COLOURS["copy_last"], "mean of last frames": COLOURS["mean_last"]}


def by_horizon(metrics: Mapping[str, float], metric: str, baseline: str = "") -> dict[int, float]:
    """Return {k: value} of a run's metric, or of its baseline's; without values that are not finite."""
    prefix = f"test/{baseline}/" if baseline else "test/"
    pattern = re.compile(rf"{re.escape(prefix + metric)}_(\d{{1,4}})", re.ASCII)
    found = {int(match[1]): value for key, value in metrics.items() if (match := pattern.fullmatch(key))}
    return {k: value for k, value in sorted(found.items()) if math.isfinite(value)}


def table(runs: Mapping[str, tuple[str, str, Mapping[str, float]]], metric: str) -> pd.DataFrame:
    """Return `label`, `line`, `k`, `value` of runs ({label: (line, fold, metrics)}) and of the baselines.

    Runs of several folds are scored on different frames: a baseline has a line a fold then, the mean over its runs.
    """
    records = [
        {"label": label, "line": line, "k": k, "value": value}
        for label, (line, _, metrics) in runs.items()
        for k, value in by_horizon(metrics, metric).items()
    ]
    folds = sorted({fold for _, fold, _ in runs.values()})
    for baseline, title in BASELINES.items():
        for fold in folds:
            each = pd.DataFrame(
                [by_horizon(metrics, metric, baseline) for _, own, metrics in runs.values() if own == fold]
            )
            label = title if len(folds) == 1 else f"{title} · fold {fold}"
            records += [{"label": label, "line": title, "k": k, "value": mean} for k, mean in each.mean().items()]
    return pd.DataFrame(records, columns=["label", "line", "k", "value"])


def chart(points: pd.DataFrame, palette: Palette, metric: str) -> alt.LayerChart:
    """Return a line a run over k, the baselines dashed in grey."""
    labels = points.drop_duplicates("label")
    domain = labels["label"].tolist()
    colours = [_BASELINE_COLOUR.get(line) or palette.colour(line) for line in labels["line"]]
    dashes = [_BASELINE_DASH.get(line) or palette.dash(line) for line in labels["line"]]
    shapes = [_BASELINE_SHAPE.get(line) or palette.shape(line) for line in labels["line"]]
    legend = alt.Legend(title=None, orient="bottom", columns=1, labelLimit=320, symbolSize=90, symbolStrokeWidth=0)
    base = alt.Chart(points).encode(
        x=alt.X("k:O", title="Frames ahead (k)", axis=alt.Axis(labelAngle=0)),
        y=alt.Y("value:Q", title=METRICS[metric], scale=alt.Scale(zero=False, nice=True)),
        color=alt.Color("label:N", scale=alt.Scale(domain=domain, range=colours), legend=legend),
        tooltip=[alt.Tooltip("label:N", title="run"), alt.Tooltip("k:O"), alt.Tooltip("value:Q", format=".4~g")],
    )
    line = base.mark_line(strokeWidth=2).encode(
        strokeDash=alt.StrokeDash("label:N", scale=alt.Scale(domain=domain, range=dashes), legend=None)
    )
    marks = base.mark_point(filled=True, size=60, opacity=1).encode(
        shape=alt.Shape("label:N", scale=alt.Scale(domain=domain, range=shapes), legend=None)
    )
    return (line + marks).properties(width="container", height=HEIGHT_PX + 20 * len(domain))
