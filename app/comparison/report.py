"""results.md and the table in the terminal, made from the records alone: the same records give the same text."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from app.comparison import fairness
from app.comparison.baselines import COPY_LAST, disagreements, is_baseline, with_baselines
from app.comparison.bounds import Bound
from app.comparison.formats import (
    MISSING,
    interval_text,
    markdown_table,
    mean_text,
    number_text,
    numbers,
    percent_text,
    plain_table,
)
from app.comparison.grid import is_reporting
from app.comparison.horizons import frame_tables
from app.comparison.measures import MSE, parts
from app.comparison.measures import heading as metric_heading
from app.comparison.measures import places as decimals
from app.comparison.overrides import flatten
from app.comparison.protocols import different_protocols
from app.comparison.spec import Comparison, Row
from app.comparison.statistics import FALL_BACK, mean_std
from app.comparison.summary import Claim, Records, RowSummary, claims, current, row_values, summarise
from app.comparison.tested import mixtures, tested_on
from app.comparison.variants import partner

# (metric, heading, whether other processes on the machine disturb it)
COSTS = (
    ("train/frames_per_second", "train frames/s", True),
    ("latency/step_p50_ms", "step p50 ms", True),
    ("latency/step_p95_ms", "step p95 ms", True),
    ("memory/saved_tensors_mib", "saved tensors MiB", False),
    ("memory/peak_mib", "peak MiB", False),
    ("latency/tick_ms", "tick ms", True),
)
TERMINAL_COSTS = (
    ("latency/step_p50_ms", "step ms"),
    ("memory/saved_tensors_mib", "saved MiB"),
    ("latency/tick_ms", "tick ms"),
)
UNIT_TABLES = (("alignment/", "Alignment with the exact gradient"), ("weight_change/", "Relative weight change"))
MARK = " †"
FRAME_NOTES = (
    "Horizons k count from the newest frame that can have reached the output, whatever the network's Lmin (hops of the "
    "shortest path), so no row has seen a target; all rows are scored on the same frames, predictions cut to [0, 1]. "
    "In an ordinary network (rule backprop_frame) that frame is the one it works on, and Lmin has no part in it.",
    f"{COPY_LAST}: that newest frame again. mean_last: the mean of the last four frames up to and with it. Every run "
    "scores both on its own frames; rows of a fold and seed must agree on them.",
    "Differences in %: the mean paired difference divided by the mean of what it is compared with, drawn together.",
)


def markdown(comparison: Comparison, header: Mapping[str, Any], records: Records) -> str:
    """The whole of results.md."""
    valid = current(comparison, records)
    shown = with_baselines(valid)
    rows = summarise(comparison, shown)
    not_tuned = header.get("not_tuned", [])
    sections = [
        f"# {comparison.name}\n\n{comparison.intent}\n",
        _provenance(comparison, header, valid),
        "## Results\n",
        _main_table(comparison, rows, _parallel(valid), _has_tuning_runs(comparison, valid), not_tuned),
        _notes(comparison, rows, _parallel(valid), header),
        _claims(comparison, shown, not_tuned),
        *frame_tables(comparison, shown, [row.name for row in rows]),
        _fold_table(comparison, shown, rows),
        *(_unit_table(rows, prefix, title) for prefix, title in UNIT_TABLES),
        _settings_table(comparison),
        _left_out(comparison, records, valid),
    ]
    return "\n".join(section for section in sections if section)


def terminal(comparison: Comparison, records: Records, not_tuned: Collection[str] = ()) -> str:
    """The main columns as plain text, to fit a terminal, and below them what was tested on.

    `not_tuned`: the rows that are marked so, where others were tuned.
    """
    valid = current(comparison, records)
    split = _has_tuning_runs(comparison, valid)
    rows = summarise(comparison, with_baselines(valid))
    places, frames = _places(comparison, rows), comparison.predicts_frames
    score = metric_heading(comparison.metric, frames=comparison.predicts_frames)
    columns = ["row", "runs", score, *([f"{score} all"] if split else []), "minus control", "verdict"]
    columns += ["against copy_last"] if frames else []
    lines = [
        [
            fairness.marked(row.name, not_tuned),
            str(row.runs),
            mean_text(row.reported, places),
            *([mean_text(row.overall, places)] if split else []),
            percent_text(row.relative) if frames else interval_text(row.difference, places=places),
            row.verdict,
            *([percent_text(row.to_copy)] if frames else []),
            _gap(comparison, row, short=True),
            *(number_text(row.costs.get(metric)) for metric, _ in TERMINAL_COSTS),
        ]
        for row in rows
    ]
    columns += ["gap"]
    below = [f"{fairness.MARK.strip()}: not tuned, as other rows were"] if not_tuned else []
    below += [*tested_on(valid), *(f"Warning, not the same test: {sentence}" for sentence in _mixtures(valid))]
    return "\n".join([plain_table(columns + [heading for _, heading in TERMINAL_COSTS], lines), *below])


def _provenance(comparison: Comparison, header: Mapping[str, Any], records: Records) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in header.get("versions", {}).items())
    commits = sorted({str(record["git_sha"]) for record in records.values()})
    reporting = "all folds and seeds"
    if comparison.tuning_folds:
        reporting = f"all folds but {numbers(comparison.tuning_folds)}, on which the settings were chosen"
    elif comparison.tuning_seeds:
        reporting = f"all seeds but {numbers(comparison.tuning_seeds)}, on which the settings were chosen"
    seconds = sum(float(record["cpu_seconds"]) for record in records.values())
    return "\n".join(
        [
            f"    {header.get('command', 'skip-sideways compare')}\n",
            f"- Commit: {', '.join(commits) or MISSING}",
            f"- Versions: {versions or MISSING}",
            f"- Hardware: {header.get('hardware', MISSING)}; one thread a run, {_parallel(records)} at a time",
            f"- Folds: {numbers(sorted({key[1] for key in records}))}; "
            f"seeds: {numbers(sorted({key[2] for key in records}))}; {len(records)} runs, "
            f"{seconds / 3600:.2f} core-hours",
            f"- Reported: {reporting}",
            *(f"- {line}" for line in tested_on(records)),
            *(f"- **Not the same test**: {sentence}" for sentence in _mixtures(records)),
            f"- Settings: {header.get('tuning') or 'as the file gives them'}",
            "",
        ]
    )


def _mixtures(records: Records) -> list[str]:
    return [*mixtures(records), *disagreements(records), *different_protocols(records)]


def _places(comparison: Comparison, rows: list[RowSummary]) -> int:
    means = (value.mean for row in rows for value in (row.reported, row.overall) if value)
    return decimals(comparison.metric, means)


def _main_table(
    comparison: Comparison, rows: list[RowSummary], jobs: int, split: bool, not_tuned: Collection[str]
) -> str:
    frames = comparison.predicts_frames
    score = metric_heading(comparison.metric, comparison.better, frames)
    headings = ["row", "rule", "wiring", "network", *(["Lmin"] if frames else []), "runs (folds x seeds)"]
    headings += [f"{score}, reported" if split else score] + ([f"{score}, all"] if split else [])
    headings += [f"minus {_control(comparison)} [95 %]"]
    headings += [f"against {_control(comparison)} in % [95 %]"] if frames else []
    headings += ["verdict"]
    headings += ["against copy_last in % [95 %]", "verdict, copy_last"] if frames else []
    headings += ["gap recovered [95 %]", "unstable"]
    headings += [heading + (MARK if disturbed and jobs > 1 else "") for _, heading, disturbed in COSTS]
    places = _places(comparison, rows)
    names = [fairness.marked(row.name, not_tuned) for row in rows]
    return markdown_table(
        headings,
        [[name, *_main_row(comparison, row, split, places)] for name, row in zip(names, rows, strict=True)],
    )


def _main_row(comparison: Comparison, row: RowSummary, split: bool, places: int) -> list[str]:
    """A row's cells after its name."""
    frames = comparison.predicts_frames
    return [
        *(str(row.facts[key]) for key in ("rule", "wiring", "network")),
        *([row.lmin or MISSING] if frames else []),
        f"{row.runs} ({row.folds} x {row.seeds})",
        mean_text(row.reported, places),
        *([mean_text(row.overall, places)] if split else []),
        interval_text(row.difference, places=places),
        *([percent_text(row.relative)] if frames else []),
        row.verdict,
        *([percent_text(row.to_copy), row.copy_verdict or MISSING] if frames else []),
        _gap(comparison, row),
        MISSING if row.unstable is None else f"{100 * row.unstable:.0f} %",
        *(number_text(row.costs.get(metric)) for metric, _, _ in COSTS),
    ]


def _gap(comparison: Comparison, row: RowSummary, *, short: bool = False) -> str:
    ends = partner(row.name, comparison.frozen), partner(row.name, comparison.exact)
    if None in ends or row.name in ends or is_baseline(row.name):
        return MISSING
    if row.gap is None:
        return "not defined"
    return f"{row.gap.estimate:.2f}" if short else interval_text(row.gap, signed=False)


def _notes(comparison: Comparison, rows: list[RowSummary], jobs: int, header: Mapping[str, Any]) -> str:
    over = sorted({row.reported.std_over for row in rows if row.reported and row.reported.std_over})
    lines = [
        "Seeds are averaged within each fold first; the mean is over the fold means. "
        + (f"± is the standard deviation (n-1) over {' or '.join(over)}." if over else "One run a row: no spread."),
        f"Differences are paired over the (fold, seed) pairs that a row shares with {comparison.control}; intervals "
        "are 95 % percentile bootstrap, folds resampled first, then seeds (one fold: seeds). "
        '"undecided": the interval spans 0, or fewer than 3 folds (or, with one fold, seeds) were run.',
    ]
    units = [row.difference.units for row in rows if row.difference and row.difference.low is not None]
    if units and min(units) < 6:
        lines.append(f"With {min(units)} folds (or seeds) to resample, the interval is narrower than its name says.")
    if comparison.frozen and comparison.exact:
        lines.append(
            f"Gap recovered: (row - {comparison.frozen}) / ({comparison.exact} - {comparison.frozen}) on shared pairs; "
            f"not defined where {comparison.exact} does not clearly beat {comparison.frozen}."
        )
    if comparison.sweep and header.get("tuning"):
        lines += fairness.notes(comparison, header.get("not_tuned", []))
    if comparison.predicts_frames:
        lines += FRAME_NOTES
    lines.append(
        "Costs are medians over runs; peak: the largest, of the whole process with its libraries (GPU: of the device); "
        "tick: one frame, batch 1, inference."
    )
    lines.append(
        f"unstable: share of runs that diverged (a loss is not finite{_loss_limit(comparison)}) or fell back (the last "
        f"{_fall(comparison)} the run's best). Failed cells are in no number."
    )
    if jobs > 1:
        lines.append(f"†: measured while {jobs} runs shared the machine; compare within this table alone.")
    return "\n".join(f"- {line}" for line in lines) + "\n"


def _control(comparison: Comparison) -> str:
    return f"{comparison.control} of the same variant" if comparison.variants else comparison.control


def _fall(comparison: Comparison) -> str:
    if comparison.predicts_frames or parts(comparison.metric)[0] == MSE:
        return f"val/mse is more than {100 * FALL_BACK:g} % above"
    return f"val/top1 is more than {FALL_BACK:g} below"


def _loss_limit(comparison: Comparison) -> str:
    return "" if comparison.diverged_above is None else f", or test/loss above {comparison.diverged_above:g}"


def _claims(comparison: Comparison, records: Records, not_tuned: Collection[str]) -> str:
    answers = claims(comparison, records)
    if not answers:
        return ""

    def sentence(bound: Bound) -> str:
        mark = fairness.MARK if fairness.is_unfair(comparison, bound, not_tuned) else ""
        return bound.sentence(comparison.metric) + mark

    rows = [[sentence(each.bound), _claim_text(comparison, records, each), each.answer] for each in answers]
    return "## Claims\n\n" + markdown_table(["claim", "value [95 %]", "answer"], rows)


def _claim_text(comparison: Comparison, records: Records, claim: Claim) -> str:
    if claim.bound.relative:
        return percent_text(claim.interval)
    metric = claim.bound.metric or comparison.metric
    sizes = row_values(comparison, records, claim.bound.row, reporting=True, metric=metric).values()
    return interval_text(claim.interval, signed=False, places=decimals(metric, sizes))


def _fold_table(comparison: Comparison, records: Records, rows: list[RowSummary]) -> str:
    folds = sorted({fold for _, fold, _ in records})
    seeds = sorted({seed for _, _, seed in records})
    by_fold = len(folds) > 1
    if not by_fold and len(seeds) < 2:
        return ""
    columns = folds if by_fold else seeds
    word = "fold" if by_fold else "seed"

    def heading(value: int) -> str:
        chosen_on = comparison.tuning_folds if by_fold else comparison.tuning_seeds
        return f"{word} {value}" + (" (tuning)" if value in chosen_on else "")

    lines = []
    places = _places(comparison, rows)
    for row in rows:
        values = row_values(comparison, records, row.name, reporting=False)
        groups = [{pair: v for pair, v in values.items() if pair[0 if by_fold else 1] == c} for c in columns]
        lines.append([row.name, *(f"{mean_std(group).mean:.{places}f}" if group else MISSING for group in groups)])
    title = "## Per fold (mean over seeds)" if by_fold else "## Per seed"
    return f"{title}\n\n" + markdown_table(["row", *(heading(column) for column in columns)], lines)


def _unit_table(rows: list[RowSummary], prefix: str, title: str) -> str:
    names = sorted({name for row in rows for name in row.units if name.startswith(prefix)}, key=_unit_number)
    if not names:
        return ""
    lines = [[row.name, *(number_text(row.units.get(name)) for name in names)] for row in rows if row.units]
    headings = ["row", *(name.removeprefix(prefix).replace("_", " ") for name in names)]
    return f"## {title}: last logged, mean over runs\n\n" + markdown_table(headings, lines)


def _unit_number(name: str) -> tuple[int, str]:
    digits = name.rsplit("_", 1)[-1]
    return (int(digits), name) if digits.isdigit() else (0, name)


def _settings_table(comparison: Comparison) -> str:
    def words(row: Row) -> str:
        texts = [f"{_short(key)} {value}" for key, value in flatten(row.overrides)]
        texts += [f"{_short(key)} x {factor:g}" for key, factor in row.scale.items()]
        return ", ".join(texts) or "the experiment's own"

    lines = [[row.name, words(row)] for row in comparison.rows]
    whole = "The whole configuration of each row stands in results.json, header.configs.\n"
    return "## Settings\n\n" + markdown_table(["row", "differs from the experiment in"], lines) + "\n" + whole


def _short(key: str) -> str:
    return key.rsplit("init_args.", 1)[-1]


def _left_out(comparison: Comparison, records: Records, valid: Records) -> str:
    failed = [
        f"- {row}, fold {fold}, seed {seed}: {record.get('error')}"
        for (row, fold, seed), record in sorted(valid.items())
        if record["status"] != "ok"
    ]
    stale = [f"- {row}, fold {fold}, seed {seed}" for row, fold, seed in sorted(set(records) - set(valid))]
    text = "## Failed cells\n\n" + "\n".join(failed) + "\n" if failed else ""
    if stale:
        text += "## Not in the table: run with another configuration, or of a row that is gone\n\n"
        text += "\n".join(stale) + "\n"
    return text


def _has_tuning_runs(comparison: Comparison, records: Records) -> bool:
    """Whether the table holds runs on tuning folds or seeds, so that the mean over all is another number."""
    return any(not is_reporting(comparison, fold, seed) for _, fold, seed in records)


def _parallel(records: Records) -> int:
    return max((int(record.get("jobs", 1)) for record in records.values()), default=1)
