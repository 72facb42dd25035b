"""The tables and verdict lines of `skip-sideways bench --stages`, for the terminal and results.md."""

from collections.abc import Mapping, Sequence
from typing import Any

from app.bench import heads_line
from app.bench_goals import (
    GREEDY_HEADER,
    HEADER,
    ceiling,
    cpu_ratio,
    greedy_beside,
    own_loss,
    rate_ratio,
    rows_with,
    summary,
    verdicts,
)
from app.comparison.formats import MISSING, markdown_table, plain_table

Run = Mapping[str, Any]
Table = tuple[tuple[str, ...], list[list[str]]]
BASE_EXECUTOR = "accumulated"
LEGEND = (
    "Frames: of all clips of the batch. x base: median over interleaved rounds of the ratio to the base in the same "
    "round; CPU time is summed over processes and threads. Updates: optimizer steps for each frame of a clip. Passes: "
    "share of an exact method's unit passes that is done; a clip's first frames fill the pipeline. Tick: from a tick's "
    "start to the next one's, on the slowest stage. Saved: most bytes that autograd held at one time, by process, "
    "parameters left out. Peak: of the process's resident set, with PyTorch itself. Whole: an update's frames at once; "
    "accumulated: one after another. Copies: every process trains the whole network on all frames, and sends nothing; "
    "rates are summed over them, CPU time is over all their frames. Greedy: a module for each stage, heads included; "
    "vectorised in stages, a round goes through its frames several times and its time is that of one, since the first "
    "clip of a run fills the pipeline once."
)


def base_of(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return the row that ratios are to: one-process backprop, one thread, frame by frame, one update a clip."""
    return rows_with(rows, executor=BASE_EXECUTOR, placement="one process", threads=1)[0]


def times_table(run: Run) -> Table:
    """Return rates, CPU time and ticks of every timed row."""
    rows = [row for row in run["rows"] if row["wall_ms"]]
    base = base_of(rows)
    header = ("row", "frames / s", "x base", "CPU ms / frame", "x base, CPU", "updates", "passes", "tick p50 ms", "p95")
    return header, [
        [
            row["row"],
            f"{row['frames_per_second']:.0f}",
            f"{rate_ratio(row, base):.2f}",
            f"{row['cpu_ms_per_frame']:.3f}",
            f"{cpu_ratio(row, base):.2f}",
            f"{row['updates_per_round'] / run['round_frames']:.3g}",
            f"{row['passes']:.2f}",
            *(MISSING if row[key] is None else f"{row[key]:.2f}" for key in ("tick_p50_ms", "tick_p95_ms")),
        ]
        for row in rows
    ]


def memory_table(run: Run) -> Table:
    """Return saved tensors and the process's peak, by process."""
    stages = run["settings"]["stages"]
    header = ["row", *[f"saved MiB, process {n}" for n in range(stages)], *[f"peak MiB, {n}" for n in range(stages)]]
    rows = []
    for row in run["rows"]:
        cells = [f"{value:.3g}" for value in row["saved_mib"]], [f"{value:.0f}" for value in row["peak_mib"]]
        rows.append([row["row"], *(cell for part in cells for cell in [*part, *[MISSING] * (stages - len(part))])])
    return tuple(header), rows


def ticks_table(run: Run) -> Table:
    """Return the tick at which frame 1's own loss reaches each unit."""
    seen = {int(unit): tick for unit, tick in run["own_loss_seen"].items()}
    scheduled = {int(unit): tick for unit, tick in run["own_loss_scheduled"].items()}
    return ("unit", "tick by the schedule", "tick seen"), [
        [str(unit), str(tick), str(seen.get(unit, MISSING))] for unit, tick in scheduled.items()
    ]


def goals(run: Run) -> tuple[list[str], Table]:
    """Return a line for each goal, and the table of all comparisons."""
    settings = run["settings"]
    found = verdicts(run["rows"], settings["frames"], settings["depth"], run["message_kib"], settings["stages"])
    ticks = [{int(unit): tick for unit, tick in run[key].items()} for key in ("own_loss_scheduled", "own_loss_seen")]
    heads = [heads_line(run["greedy_heads"])] if "greedy_heads" in run else []  # none in tables from before greedy
    lines = [*summary(found), own_loss(*ticks), *ceiling(run["rows"]), *heads]
    return lines, (HEADER, [verdict.cells for verdict in found])


def greedy_table(run: Run) -> Table:
    """Return greedy in stages beside backprop, greedy in one process, Sideways, and the fastest schedule."""
    found = [line for frames in run["settings"]["frames"] for line in greedy_beside(run["rows"], frames)]
    return GREEDY_HEADER, found


def terminal(run: Run) -> str:
    """Return everything for the terminal."""
    lines, comparisons = goals(run)
    found = (times_table(run), memory_table(run), ticks_table(run), comparisons, greedy_table(run))
    tables = [plain_table(*table) for table in found if table[1]]
    absent = [f"left out: {line}" for line in run["absent"]]
    return "\n\n".join([*tables, *(["\n".join(absent)] if absent else []), "\n".join(lines)])


def markdown(run: Run) -> str:
    """Return results.md."""
    settings = ", ".join(f"{key} {value}" for key, value in run["settings"].items())
    packages = ", ".join(f"{name} {version}" for name, version in run["packages"].items())
    lines, comparisons = goals(run)
    sections = [
        "# Depth-parallel training beside its peers",
        f"    {run['command']}",
        f"Commit {run['commit']}; {packages}; {run['device']}; one thread a process where no other number stands.",
        f"Settings: {settings}. Messages of {run['message_kib']:g} KiB. Base: [{base_of(run['rows'])['row']}].",
        LEGEND,
        markdown_table(*times_table(run)).strip(),
        markdown_table(*memory_table(run)).strip(),
        "The tick at which the loss of frame 1 reaches each unit:",
        markdown_table(*ticks_table(run)).strip(),
        "The goals. Per pass: as if Sideways had done every unit pass of the exact method. Of the ceiling: Sideways in "
        "stages over copies of the same training without messages, in rate and in CPU time per frame. Goal 8: "
        "greedy in stages, heads included, over backprop in one process without them: the published speed-up.",
        "\n".join(f"- {line}" for line in lines),
        markdown_table(*comparisons).strip(),
    ]
    if (beside := greedy_table(run))[1]:
        sections += [
            "Greedy in stages beside the others. A core each: by the CPU time of the busiest process, as if nobody "
            "waited for another or for a core:",
            markdown_table(*beside).strip(),
        ]
    if run["absent"]:
        sections.append("Left out:\n\n" + "\n".join(f"- {line}" for line in run["absent"]))
    return "\n\n".join(sections) + "\n"
