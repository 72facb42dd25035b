"""Does memory stay flat as streams get longer? Bytes and CPU time of updates and of inference, over the gap.

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive python benchmarks/memup_memory/run.py          six minutes of a core
    python benchmarks/memup_memory/run.py --quick --output DIR                               to see that it runs

Writes results.json and results.md beside this file. See stream_cells.py for how each figure is measured.
"""

import argparse
import json
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE), str(HERE.parent / "xconv")]

from cells import in_own_process  # noqa: E402
from inference_cells import inference_of  # noqa: E402
from stream_cells import (  # noqa: E402
    COPY,
    DETECTOR_UPDATES,
    DISK,
    ENTROPY,
    FULL,
    SURPRISE,
    TRANSFORMER,
    VIDEO,
    WAYS,
    Cell,
    Way,
    memory_of,
    times_of,
    write_streams,
)

from app.comparison.formats import markdown_table  # noqa: E402
from app.comparison.provenance import code_version, hardware, versions  # noqa: E402

FLAT = 0.05
COMMAND = "OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive python benchmarks/memup_memory/run.py"
FLAT_WAYS = tuple(way.name for way in (ENTROPY, SURPRISE))


@dataclass(frozen=True)
class Plan:
    """Which cells are measured.

    Args:
        gaps: of every cell but those of `longest`.
        longest: one more gap, for `far`.
        small: gap at which a process warms up: more steps than are read at once.
        far: data and ways, by name, that are measured there.
        left_out: data and ways, by name, that are not measured.
        lanes: streams side by side, by data.
        compared: the two gaps between which memory should be flat.
        updates: before the peak is taken, and as many are timed.
        budget_mib: for full backprop.
        inference: memories, by the way they are trained.
        ways: of every cell but those of `longest`.
    """

    gaps: tuple[int, ...] = (50, 500, 5000)
    longest: int = 50_000
    small: int = 200
    far: tuple[tuple[str, str], ...] = ((COPY, ENTROPY.name),)
    left_out: tuple[tuple[str, str], ...] = ((DISK, TRANSFORMER.name), (DISK, FULL.name))
    lanes: tuple[tuple[str, int], ...] = ((COPY, 32), (VIDEO, 16), (DISK, 16))
    compared: tuple[int, int] = (500, 5000)
    updates: int = 10
    budget_mib: float = 1024.0
    inference: tuple[str, ...] = (ENTROPY.name, TRANSFORMER.name)
    ways: tuple[Way, ...] = WAYS

    def points(self) -> list[tuple[str, int, int, Way]]:
        """Return data, lanes, gap and way of every cell."""
        usual = [
            (data, lanes, gap, way)
            for data, lanes in self.lanes
            for way in self.ways
            for gap in self.gaps
            if (data, way.name) not in self.left_out
        ]
        lanes_of = dict(self.lanes)
        ways = {way.name: way for way in WAYS}
        return usual + [(data, lanes_of[data], self.longest, ways[name]) for data, name in self.far]


QUICK = Plan(
    gaps=(20, 60),
    longest=120,
    small=30,
    far=((COPY, ENTROPY.name),),
    left_out=(),
    lanes=((COPY, 4), (DISK, 2)),
    compared=(20, 60),
    updates=2,
    inference=(ENTROPY.name,),
    ways=(ENTROPY, SURPRISE, FULL),
)


def update_row(cell: Cell, plan: Plan) -> dict[str, Any]:
    """Return what an update of a cell takes."""
    updates = 2 - DETECTOR_UPDATES if cell.way.whole else plan.updates
    row = {"data": cell.data, "way": cell.way.name, "gap": cell.gap, "lanes": cell.lanes}
    memory = in_own_process(memory_of, cell, plan.small, updates, plan.budget_mib)
    if memory is None:
        return row | {"fits": False}
    return row | {"fits": True} | memory | in_own_process(times_of, cell, updates)


def inference_row(cell: Cell, plan: Plan) -> dict[str, Any]:
    """Return what inference takes, a frame."""
    memory = "transformer" if cell.way is TRANSFORMER else cell.way.memory
    row = {"data": cell.data, "memory": memory, "gap": cell.gap}
    for step_by_step in (False, True):
        row |= in_own_process(inference_of, cell, plan.small, step_by_step)
    return row


def measure(plan: Plan, folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of updates and of inference.

    Args:
        plan: what is measured.
        folder: for the streams on disk.
    """
    for gap in {plan.small, *plan.gaps}:
        in_own_process(write_streams, folder, gap, dict(plan.lanes)[DISK])
    rows: dict[str, list[dict[str, Any]]] = {"updates": [], "inference": []}
    for data, lanes, gap, way in plan.points():
        cell = Cell(data, way, gap, lanes, folder)
        rows["updates"].append(say(update_row(cell, plan)))
        if way.name in plan.inference:
            rows["inference"].append(say(inference_row(cell, plan)))
    return rows


def say(row: dict[str, Any]) -> dict[str, Any]:
    """Print a row as it is measured, and return it."""
    values = [f"{value:.3f}" if isinstance(value, float) else str(value) for value in row.values()]
    print("  ".join(values), file=sys.stderr, flush=True)
    return row


def _gaps(rows: list[dict[str, Any]]) -> list[int]:
    return sorted({row["gap"] for row in rows})


def _cell(row: dict[str, Any] | None, kind: str, places: int, budget_mib: float = 0) -> str:
    if row is None:
        return "-"
    if not row.get("fits", True):
        return f"> {budget_mib:,.0f}" if kind.endswith("ib") else "-"
    return f"{row[kind]:,.{places}f}" if row.get(kind) is not None else "-"


def over_gaps(rows: list[dict[str, Any]], name: str, kinds: dict[str, str], places: int, plan: Plan) -> str:
    """Return a table with a line a row and kind, and a column a gap.

    Args:
        rows: of one data.
        name: key of the row's name.
        kinds: keys of figures, with what they are called.
        places: after the point.
        plan: whose gaps are compared in the last column.
    """
    found = {(row[name], row["gap"]): row for row in rows}
    lines = []
    for way in dict.fromkeys(row[name] for row in rows):
        for kind, called in kinds.items():
            cells = [_cell(found.get((way, gap)), kind, places, plan.budget_mib) for gap in _gaps(rows)]
            short, long = (found.get((way, gap), {}).get(kind) for gap in plan.compared)
            lines.append([way, called, *cells, f"{long / short:.2f}x" if short and long else "-"])
    lines = [line for line in lines if not set(line[2:-1]) <= {"-", "0.00"}]
    header = [name, "figure", *(f"gap {gap:,}" for gap in _gaps(rows))]
    return markdown_table([*header, "{1:,} over {0:,}".format(*plan.compared)], lines)


def growths(rows: list[dict[str, Any]], plan: Plan) -> dict[str, float]:
    """Return by how much the peak grows between the compared gaps, of the ways whose memory should be flat."""
    peaks = {(row["data"], row["way"], row["gap"]): row["peak_mib"] for row in rows if row["fits"]}
    short, long = plan.compared
    return {
        f"{data}, {way}": peaks[data, way, long] / peaks[data, way, short] - 1
        for data, _ in plan.lanes
        for way in FLAT_WAYS
    }


def verdict(rows: list[dict[str, Any]], plan: Plan) -> str:
    """Return the aim's line."""
    said = [
        f"{name}: {100 * growth:+.1f} % ({'flat' if growth <= FLAT else 'not flat'})"
        for name, growth in growths(rows, plan).items()
    ]
    short, long = plan.compared
    return f"Peak at gap {long:,} over gap {short:,}: {'; '.join(said)}. Flat: at most {100 * FLAT:.0f} % more."


MEMORY = {
    "peak_mib": "peak MiB",
    "saved_mib": "saved tensors MiB",
    "carried_kib": "carried to the next update KiB",
    "file_mib": "pages of mapped files MiB",
}
TIMES = {"update_ms": "update", "detector_ms": "and detector's share", "choice_ms": "a choice in the update"}
INFERENCE = {
    "answers_mib": "whole: peak MiB",
    "frame_us": "whole: CPU us a step",
    "watcher_mib": "step by step: peak MiB",
    "held_kib": "step by step: held KiB",
    "tick_us": "step by step: CPU us a step",
}


def report(results: dict[str, Any], plan: Plan) -> str:
    """Return results.md."""
    about, rows = results["about"], results["updates"]
    head = [f"`{about['command']}`", "; ".join([f"commit {about['commit']}", about["hardware"], "1 thread"])]
    head.append(", ".join(f"{name} {version}" for name, version in about["versions"].items()))
    head.append("CPU times, of a machine that other programs ran on too")
    parts = ["# MemUP: memory over the gap", "\n".join(f"- {line}" for line in head)]
    parts.append(verdict(rows, plan))
    for data, lanes in plan.lanes:
        own = [row for row in rows if row["data"] == data]
        watched = [row for row in results["inference"] if row["data"] == data]
        parts += [f"## {data}: memory of an update", f"{lanes} lanes."]
        parts += [over_gaps(own, "way", MEMORY, 2, plan).strip()]
        parts += [f"## {data}: CPU ms of an update", over_gaps(own, "way", TIMES, 1, plan).strip()]
        parts += [f"## {data}: inference, one stream", over_gaps(watched, "memory", INFERENCE, 1, plan).strip()]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few small cells")
    parser.add_argument("--output", type=Path, default=HERE, help="folder of results.json and results.md")
    options = parser.parse_args()
    plan = QUICK if options.quick else Plan()
    about = {"command": COMMAND, "commit": code_version(), "versions": versions(), "hardware": hardware()}
    with tempfile.TemporaryDirectory() as folder:
        results: dict[str, Any] = {"about": about, "plan": asdict(plan), **measure(plan, Path(folder))}
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (options.output / "results.md").write_text(report(results, plan))
    print(report(results, plan))


if __name__ == "__main__":
    main()
