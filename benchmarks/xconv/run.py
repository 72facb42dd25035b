"""What sketched activations cost and free, beside exact backprop and activation checkpointing: bytes and CPU time.

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive python benchmarks/xconv/run.py            about ten minutes of a core
    python benchmarks/xconv/run.py --quick --output DIR                                 a few cells, to see that it runs

Writes results.json and results.md beside this file. See cells.py for how each figure is measured.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE)]

from cells import (  # noqa: E402
    PROBES,
    SIZE,
    WAYS,
    WIDTHS,
    Cell,
    Way,
    error_of,
    in_own_process,
    peak_of,
    saved_of,
    times_of,
)

from app.comparison.formats import markdown_table  # noqa: E402
from app.comparison.provenance import code_version, hardware, versions  # noqa: E402
from lightning_modules.layers.probes import MODES  # noqa: E402

AIM = 0.25
EXACT, CHECKPOINT, NORM, BOTH = (
    next(w for w in WAYS if w.name == n) for n in ("exact", "checkpoint", "norm", "xconv + norm")
)
COMMAND = "OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive python benchmarks/xconv/run.py"


@dataclass(frozen=True)
class Plan:
    """Which cells are measured.

    Args:
        base: clips and frames of the table of all ways, and what the others' memory is compared with.
        batches: of clips of the base's frames.
        lengths: of the base's number of clips.
        small: clips and frames where probes and modes are compared.
        shares: of probes.
        modes: at the usual share.
        rounds: of timed steps.
        longest: clips times frames of the largest batch that is timed.
        fits: what must fit in exact backprop's, and by more of what.
    """

    base: tuple[int, int] = (16, 16)
    batches: tuple[int, ...] = (4, 64)
    lengths: tuple[int, ...] = (8, 32)
    small: tuple[int, int] = (4, 8)
    shares: tuple[float, ...] = (0.0625, 0.25)
    modes: tuple[str, ...] = MODES
    rounds: int = 5
    longest: int = 256
    fits: tuple[tuple[str, str], ...] = (("saved_mib", "batch"), ("saved_mib", "frames"), ("peak_mib", "batch"))

    def others(self) -> list[tuple[int, int]]:
        """Return clips and frames of the points beside the base."""
        batch, frames = self.base
        return [(b, frames) for b in self.batches] + [(batch, t) for t in self.lengths]


QUICK = Plan((2, 4), (4,), (), (2, 4), (0.25,), MODES[:2], 1, 8, (("saved_mib", "batch"), ("saved_mib", "frames")))


def memory_rows(
    network: str, ways: Iterable[Way], points: Iterable[tuple[int, int]], plan: Plan
) -> list[dict[str, Any]]:
    """Return a row a way and point: memory, and CPU time where the batch is not too large."""
    rows = []
    for batch, frames in points:
        cells = [Cell(network, way, batch, frames) for way in ways]
        times = in_own_process(times_of, cells, plan.rounds) if batch * frames <= plan.longest else {}
        for cell in cells:
            row = {"network": network, "way": cell.way.name, "batch": batch, "frames": frames}
            row |= in_own_process(saved_of, cell) | {"peak_mib": in_own_process(peak_of, cell, True)}
            row |= times.get(cell.way.name, {})
            if (batch, frames) == plan.base:
                row["peak_as_it_is_mib"] = in_own_process(peak_of, cell, False)
            say(row)
            rows.append(row)
    return rows


def probe_rows(network: str, plan: Plan) -> list[dict[str, Any]]:
    """Return a row a number and kind of probes, all with compact norms: bytes, CPU time and the gradient's error."""
    asked = [(PROBES, mode) for mode in plan.modes] + [(share, BOTH.mode) for share in plan.shares]
    ways = [EXACT] + [Way(f"{mode}, {share:g}", share, BOTH.compact, mode) for share, mode in sorted(asked)]
    cells = [Cell(network, way, *plan.small) for way in ways]
    times = in_own_process(times_of, cells, min(plan.rounds, 3))
    rows = []
    for cell in cells:
        row = {"network": network, "way": cell.way.name, **in_own_process(saved_of, cell), **times[cell.way.name]}
        row["error"] = in_own_process(error_of, cell)
        say(row)
        rows.append(row)
    return rows


def largest(held: Callable[[int], float], limit: float, guess: int) -> tuple[int, float]:
    """Return the largest number that fits a limit, and what it holds; what is held grows about as the number does."""
    fits, fits_not, holds, n = 0, sys.maxsize, 0.0, max(1, guess)
    while fits_not - fits > 1:
        value = held(n)
        if value <= limit:
            fits, holds = n, value
        else:
            fits_not = n
        n = min(max(int(n * limit / value), fits + 1), fits_not - 1)
    return fits, holds


def fit_rows(network: str, rows: list[dict[str, Any]], plan: Plan) -> list[dict[str, Any]]:
    """Return how many clips, and frames of a clip, fit what exact backprop takes at the base, by way."""
    base = {row["way"]: row for row in rows if (row["batch"], row["frames"]) == plan.base}
    found = []
    for kind, side in plan.fits:
        limit = base[EXACT.name][kind]
        for way in (CHECKPOINT, NORM, BOTH):
            cell = Cell(network, way, *plan.base)
            at_base = getattr(cell, side)

            def held(n: int, cell: Cell = cell, side: str = side, kind: str = kind) -> float:
                changed = replace(cell, batch=n) if side == "batch" else replace(cell, frames=n)
                return (
                    in_own_process(saved_of, changed)[kind]
                    if kind == "saved_mib"
                    else in_own_process(peak_of, changed, True)
                )

            most, mib = largest(held, limit, int(at_base * limit / base[way.name][kind]))
            row = {"network": network, "way": way.name, "kind": kind, "side": side, "base": at_base, "most": most}
            found.append(row | {"mib": mib, "limit_mib": limit})
            say(found[-1])
    return found


def say(row: dict[str, Any]) -> None:
    """Print a row as it is measured."""
    values = [f"{value:.3f}" if isinstance(value, float) else str(value) for value in row.values()]
    print("  ".join(values), file=sys.stderr, flush=True)


def _over(row: dict[str, Any], base: dict[str, Any], kind: str, places: int = 2) -> str:
    return f"{row[kind] / base[kind]:.{places}f}"


def _cpu(row: dict[str, Any]) -> list[str]:
    return [f"{row['cpu_ms']:.0f}", f"{row['cpu_ratio']:.2f}"] if "cpu_ms" in row else ["-", "-"]


def parts_table(rows: list[dict[str, Any]]) -> str:
    """Return the table of all ways at one point."""
    base, lines = rows[0], []
    for row in rows:
        less = (row["saved_mib"] - row["clips_mib"]) / (base["saved_mib"] - base["clips_mib"])
        cells = [row["way"], f"{row['saved_mib']:.1f}", _over(row, base, "saved_mib", 3), f"{less:.3f}"]
        for kind in ("peak_mib", "peak_as_it_is_mib"):
            cells += [f"{row[kind]:.0f}", _over(row, base, kind)]
        lines.append(cells + _cpu(row))
    header = ["row", "saved tensors MiB", "x exact", "x exact, clips left out", "peak MiB", "x exact"]
    header += ["peak as it is MiB", "x exact", "CPU ms a step", "x exact"]
    return markdown_table(header, lines)


def sweep_table(rows: list[dict[str, Any]]) -> str:
    """Return the table over batches and lengths."""
    lines = []
    for row in rows:
        same = [r for r in rows if (r["batch"], r["frames"]) == (row["batch"], row["frames"])]
        cells = [row["way"], str(row["batch"]), str(row["frames"])]
        for kind in ("saved_mib", "peak_mib"):
            cells += [f"{row[kind]:.1f}", _over(row, same[0], kind)]
        lines.append(cells + _cpu(row))
    header = [
        "row",
        "clips",
        "frames",
        "saved tensors MiB",
        "x exact",
        "peak MiB",
        "x exact",
        "CPU ms a step",
        "x exact",
    ]
    return markdown_table(header, lines)


def probes_table(rows: list[dict[str, Any]]) -> str:
    """Return the table over modes and numbers of probes."""
    lines = [
        [row["way"], f"{row['saved_mib']:.2f}", _over(row, rows[0], "saved_mib", 3), *_cpu(row), f"{row['error']:.3f}"]
        for row in rows
    ]
    header = ["row", "saved tensors MiB", "x exact", "CPU ms a step", "x exact", "gradient's error"]
    return markdown_table(header, lines)


def _more(row: dict[str, Any]) -> list[str]:
    return [f"{row['most'] / row['base']:.1f}x", f"{row['mib']:.1f}"]


def fit_table(rows: list[dict[str, Any]]) -> str:
    """Return the table of the largest batches and longest clips in the same memory."""
    names = {"saved_mib": "saved tensors", "peak_mib": "peak", "batch": "clips", "frames": "frames of a clip"}
    lines = [
        [
            row["way"],
            names[row["kind"]],
            f"{row['limit_mib']:.1f}",
            names[row["side"]],
            str(row["base"]),
            str(row["most"]),
            *_more(row),
        ]
        for row in rows
    ]
    header = ["row", "same", "exact's MiB", "how many", "exact", "fit", "more by", "MiB of these"]
    return markdown_table(header, lines)


def verdict(rows: list[dict[str, Any]]) -> str:
    """Return the aim's line: saved tensors of sketches and compact norms over exact backprop's."""
    base, both = rows[0], next(row for row in rows if row["way"] == BOTH.name)
    ratios = [
        both["saved_mib"] / base["saved_mib"],
        (both["saved_mib"] - both["clips_mib"]) / (base["saved_mib"] - base["clips_mib"]),
    ]
    said = [f"{ratio:.3f} ({'met' if ratio <= AIM else 'missed'})" for ratio in ratios]
    return f"{BOTH.name}: saved tensors over exact backprop's {said[0]}, clips left out {said[1]}; the aim is {AIM}"


def report(results: dict[str, Any]) -> str:
    """Return results.md."""
    about, plan = results["about"], results["plan"]
    head = [f"`{about['command']}`", "; ".join([f"commit {about['commit']}", about["hardware"], "1 thread"])]
    head.append(", ".join(f"{name} {version}" for name, version in about["versions"].items()))
    parts = ["# Sketched activations: bytes and time", "\n".join(f"- {line}" for line in head)]
    clips, frames = plan["base"]
    for network, width in WIDTHS.items():
        own = {kind: [r for r in results[kind] if r["network"] == network] for kind in ("memory", "probes", "fits")}
        base = [r for r in own["memory"] if [r["batch"], r["frames"]] == [clips, frames]]
        if not base:
            continue
        compared = [r for r in own["memory"] if r["way"] in {w.name for w in (EXACT, CHECKPOINT, NORM, BOTH)}]
        parts += [
            f"## {network}: what each part buys",
            f"Width {width:g}, {clips} clips of {frames} frames, {SIZE} x {SIZE}.",
        ]
        parts += [parts_table(base).strip(), verdict(base) + "."]
        order = sorted(compared, key=lambda r: (r["frames"], r["batch"]))
        parts += [f"## {network}: over batch and clip length", sweep_table(order).strip()]
        parts += [f"## {network}: over probes, with norms in 8 bits"]
        parts += [f"{plan['small'][0]} clips of {plan['small'][1]} frames.", probes_table(own["probes"]).strip()]
        parts += [f"## {network}: in the memory of exact backprop", f"Of {clips} clips of {frames} frames."]
        parts += [fit_table(own["fits"]).strip()]
    return "\n\n".join(parts) + "\n"


def measure(network: str, plan: Plan) -> dict[str, list[dict[str, Any]]]:
    """Measure all cells of a network."""
    rows = memory_rows(network, WAYS, [plan.base], plan)
    rows += memory_rows(network, (EXACT, CHECKPOINT, NORM, BOTH), plan.others(), plan)
    return {"memory": rows, "probes": probe_rows(network, plan), "fits": fit_rows(network, rows, plan)}


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few small cells")
    parser.add_argument("--output", type=Path, default=HERE, help="folder of results.json and results.md")
    options = parser.parse_args()
    about = {"command": COMMAND, "commit": code_version(), "versions": versions(), "hardware": hardware()}
    plan = QUICK if options.quick else Plan()
    results: dict[str, Any] = {"about": about, "plan": asdict(plan), "memory": [], "probes": [], "fits": []}
    options.output.mkdir(parents=True, exist_ok=True)
    for network in WIDTHS:
        for kind, rows in measure(network, plan).items():
            results[kind] += rows
        (options.output / "results.json").write_text(json.dumps(results, indent=1) + "\n")
        (options.output / "results.md").write_text(report(results))
    print(report(results))


if __name__ == "__main__":
    main()
