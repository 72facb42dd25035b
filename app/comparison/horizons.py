"""The tables of predicted frames: each metric at each horizon, what it is beside copying the newest frame, the rest.

row            | k = 1 | k = 2 | k = 3 | mean          one table for MSE, PSNR, SSIM (and LPIPS where measured)
sideways       |  ...
copy_last      |  ...
"""

from __future__ import annotations

from collections.abc import Sequence

from app.comparison.baselines import COPY_LAST, is_baseline
from app.comparison.formats import markdown_table, mean_text, percent_text
from app.comparison.measures import FRAME_METRICS, at_horizon, parts, places
from app.comparison.protocols import protocol_line
from app.comparison.spec import Comparison
from app.comparison.statistics import Interval, MeanStd, mean_std, relative_difference
from app.comparison.summary import Records, row_values
from app.comparison.variants import MARK, partner
from app.metric_sense import SENSE

PER_HORIZON = ("mse", "psnr_db", "ssim", "lpips")
MEANS = ("mse_sum", "frechet")


def frame_tables(comparison: Comparison, records: Records, rows: Sequence[str]) -> list[str]:
    """Return the sections, in their order; none where no run predicted frames. `records`: with the baselines."""
    tables = [_table(comparison, records, rows, name) for name in PER_HORIZON]
    tables.insert(1, _beside_copy(comparison, records, rows))
    return [*tables, _means(comparison, records, rows)]


def horizons(records: Records, name: str) -> list[int]:
    """Return the horizons at which any run has the metric, ascending."""
    metrics = {metric for record in records.values() for metric in record["metrics"]}
    found = {parts(metric) for metric in metrics if metric.startswith("test/") and metric.count("/") == 1}
    return sorted(k for own, k in found if own == name and k is not None)


def _table(comparison: Comparison, records: Records, rows: Sequence[str], name: str) -> str:
    steps, metric = horizons(records, name), f"test/{name}"
    if not steps:
        return ""
    metrics = [*(at_horizon(metric, k) for k in steps), metric]
    table = {row: [_mean(comparison, records, row, one) for one in metrics] for row in rows}
    digits = places(metric, [value.mean for values in table.values() for value in values if value])
    lines = [[row, *(mean_text(value, digits) for value in values)] for row, values in table.items()]
    headings = ["row", *(f"k = {k}" for k in steps), "mean"]
    better = SENSE[name]
    table_text = markdown_table(headings, lines) + f"\n{protocol_line(records, name)}"
    return f"## {FRAME_METRICS[name]} per horizon ({better} is better)\n\n" + table_text


def _beside_copy(comparison: Comparison, records: Records, rows: Sequence[str]) -> str:
    steps = horizons(records, "mse")
    if not steps or not any(is_baseline(row) for row in rows):
        return ""
    metrics = [*(at_horizon("test/mse", k) for k in steps), "test/mse"]
    others = [row for row in rows if row.split(MARK, 1)[0] != COPY_LAST]
    lines = [[row, *(percent_text(_to_copy(comparison, records, row, one)) for one in metrics)] for row in others]
    headings = ["row", *(f"k = {k}" for k in steps), "mean"]
    title = f"## MSE against {COPY_LAST}, per horizon, in % [95 %] (below 0: better)\n\n"
    return title + markdown_table(headings, lines)


def _means(comparison: Comparison, records: Records, rows: Sequence[str]) -> str:
    """Return the metrics that have no table of their own, as means over the horizons."""
    columns, headings, notes = [], [], ""
    for name in MEANS:
        values = [_mean(comparison, records, row, f"test/{name}") for row in rows]
        if any(values):
            digits = places(f"test/{name}", [value.mean for value in values if value])
            columns.append([mean_text(value, digits) for value in values])
            headings.append(f"{FRAME_METRICS[name]} ({SENSE[name]} is better)")
            notes += f"\n{protocol_line(records, name)}"
    if not columns:
        return ""
    lines = [list(line) for line in zip(rows, *columns, strict=True)]
    return "## Further metrics, mean over horizons\n\n" + markdown_table(["row", *headings], lines) + notes


def _mean(comparison: Comparison, records: Records, row: str, metric: str) -> MeanStd | None:
    values = row_values(comparison, records, row, reporting=True, metric=metric)
    return mean_std(values) if values else None


def _to_copy(comparison: Comparison, records: Records, row: str, metric: str) -> Interval | None:
    own = row_values(comparison, records, row, reporting=True, metric=metric)
    return relative_difference(
        own, row_values(comparison, records, partner(row, COPY_LAST), reporting=True, metric=metric)
    )
