"""Seconds of a training update of the authors' public MemUP code and of `LongMemory`: same sizes, machine and run.

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive python benchmarks/memup_speed/run.py --public FOLDER    three minutes
    python benchmarks/memup_speed/run.py --public FOLDER --quick --output DIR       one stream, to see that it runs

FOLDER is a checkout of the public code, see README.md. Writes results.json and results.md beside this file. A stream is
as many updates as it has rollouts; rows take turns update by update:

    update 1   public memory, public predictor, ours, ours, LSTM      a new stream begins: the detector's pass
    update 2   ours, ours, LSTM, public memory, public predictor      ...
"""

import argparse
import gc
import json
import statistics
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE)]

import torch  # noqa: E402
from clock import Clock  # noqa: E402
from ours import Ours  # noqa: E402
from public_code import COMMIT, PublicCode  # noqa: E402
from sizes import Sizes  # noqa: E402
from torch import nn  # noqa: E402

from app.comparison.formats import markdown_table  # noqa: E402
from app.comparison.provenance import code_version, hardware, versions  # noqa: E402

AIM = 20
PUBLIC = ("public, memory", "public, predictor")
BOTH, OURS, ALONE = "public, both", ("ours, surprise", "ours, entropy"), "LSTM alone"
COMMAND = "OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive python benchmarks/memup_speed/run.py --public FOLDER"
WALL, CPU = 0, 1
Seconds = dict[str, list[float]]


@dataclass
class Row:
    """One training that goes on update by update.

    Args:
        updates: every item is an update.
        clock: that it writes its parts to.
        streams: seconds an update by part, [wall, CPU], a dictionary a measured stream.
    """

    updates: Iterator[None]
    clock: Clock
    streams: list[Seconds] = field(default_factory=list)

    def update(self, share: float) -> None:
        """Do one update, which counts with its share in the last stream's times."""
        next(self.updates)
        for part, spent in self.clock.take().items():
            sums = self.streams[-1].setdefault(part, [0.0, 0.0])
            for kind in (WALL, CPU):
                sums[kind] += spent[kind] * share


def lstm_alone(sizes: Sizes, clock: Clock) -> Iterator[None]:
    """Forward and backward of the memory's LSTM over one rollout, and nothing else: no update can be faster."""
    lstm = nn.LSTM(sizes.symbols, sizes.hidden, sizes.layers)
    steps = torch.rand(sizes.rollout, sizes.lanes, sizes.symbols)
    while True:
        with clock.part("networks: memory forward"):
            out, _ = lstm(steps)
        with clock.part("networks: backward"):
            out.sum().backward()
        lstm.zero_grad()
        yield


def rows_of(public: Path, sizes: Sizes) -> dict[str, Row]:
    """Return every row, ready to train."""
    code = PublicCode(public, sizes, Clock())
    rows = {name: Row(code.updates(name.split(", ")[1]), code.clock) for name in PUBLIC}
    for name in OURS:
        ours = Ours(sizes, name.split(", ")[1], Clock())
        rows[name] = Row(ours.updates(), ours.clock)
    clock = Clock()
    return rows | {ALONE: Row(lstm_alone(sizes, clock), clock)}


def measure(public: Path, sizes: Sizes, streams: int) -> list[dict[str, Any]]:
    """Return what each row took, by stream; the first stream, not counted, warms up.

    Args:
        public: checkout.
        sizes: of the task.
        streams: that are measured.
    """
    rows, updates = rows_of(public, sizes), sizes.rollouts
    names = list(rows)
    gc.collect()
    gc.freeze()  # the public code's many small tensors start collections, which would walk all that is imported here
    for _ in range(streams + 1):
        for row in rows.values():
            row.streams.append({})
        for update in range(updates):
            first = update % len(names)
            for name in names[first:] + names[:first]:
                rows[name].update(1 / updates)
        for name, row in rows.items():
            print(sizes.gap, name, f"{1000 * _sum(row.streams[-1], CPU):.1f} ms", file=sys.stderr, flush=True)
    return [
        {"gap": sizes.gap, "row": name, "updates": updates, "streams": row.streams[1:]} for name, row in rows.items()
    ]


def _sum(parts: Seconds, kind: int, only: str = "") -> float:
    return sum(spent[kind] for part, spent in parts.items() if part.startswith(only))


def _totals(rows: list[dict[str, Any]], kind: int) -> dict[str, list[float]]:
    totals = {row["row"]: [_sum(parts, kind) for parts in row["streams"]] for row in rows}
    return totals | {BOTH: [sum(pair) for pair in zip(*(totals[name] for name in PUBLIC), strict=True)]}


def _ms(values: list[float]) -> str:
    return f"{1000 * statistics.median(values):.1f} ({1000 * min(values):.1f} to {1000 * max(values):.1f})"


def _times(over: list[float], under: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(over, under, strict=True))


def updates_table(rows: list[dict[str, Any]]) -> str:
    """Return the table of an update's time, row by row."""
    cpu, wall = _totals(rows, CPU), _totals(rows, WALL)
    lines = []
    for name in (*PUBLIC, BOTH, *OURS, ALONE):
        ratios = [f"{_times(cpu[of], cpu[name]):.1f}x" for of in (PUBLIC[0], BOTH)]
        lines.append([name, _ms(cpu[name]), _ms(wall[name]), *ratios, f"{_times(wall[BOTH], wall[name]):.1f}x"])
    header = ["row", "CPU ms an update", "wall ms an update", f"less than {PUBLIC[0]}", f"less than {BOTH}"]
    return markdown_table([*header, "the same, wall"], lines)


def kinds_table(rows: list[dict[str, Any]]) -> str:
    """Return the table of kinds of parts: networks, bookkeeping, optimizer."""
    kinds = ("networks", "bookkeeping", "optimizer")
    sums: dict[str, list[float]] = {}
    for row in rows:
        streams = [
            [sum(t[CPU] for part, t in s.items() if part.startswith(kind)) for kind in kinds] for s in row["streams"]
        ]
        sums[row["row"]] = [statistics.median(values) for values in zip(*streams, strict=True)]
    sums[BOTH] = [sum(pair) for pair in zip(*(sums[name] for name in PUBLIC), strict=True)]
    lines = []
    for name in (*PUBLIC, BOTH, *OURS):
        less = [f"{over / under:.1f}x" for over, under in zip(sums[BOTH], sums[name], strict=True)]
        lines.append([name, *(f"{1000 * value:.1f} ({times})" for value, times in zip(sums[name], less, strict=True))])
    return markdown_table(["row", *(f"{kind}, CPU ms (less than {BOTH})" for kind in kinds)], lines)


def parts_table(rows: list[dict[str, Any]]) -> str:
    """Return the table of what an update consists of."""
    lines = []
    for row in rows:
        parts = sorted({part for stream in row["streams"] for part in stream})
        median = {part: statistics.median(s.get(part, [0, 0])[CPU] for s in row["streams"]) for part in parts}
        for part in sorted(parts, key=lambda part: -median[part]):
            lines.append([row["row"], part, f"{1000 * median[part]:.2f}"])
    return markdown_table(["row", "part", "CPU ms an update"], lines)


def verdict(rows: list[dict[str, Any]]) -> str:
    """Return the aim's line."""
    cpu = _totals(rows, CPU)
    said = []
    for name in OURS:
        ratio = _times(cpu[BOTH], cpu[name])
        said.append(f"{name}: {ratio:.1f}x ({'met' if ratio >= AIM else 'missed'})")
    bound = _times(cpu[BOTH], cpu[ALONE])
    return f"CPU time of {BOTH} over ours: {'; '.join(said)}; the aim is {AIM}x. Over the LSTM's alone: {bound:.1f}x."


def report(results: dict[str, Any]) -> str:
    """Return results.md."""
    about = results["about"]
    head = [f"`{about['command']}`", "; ".join([f"commit {about['commit']}", about["hardware"], "1 thread"])]
    head += [
        f"public code at {about['public']}",
        ", ".join(f"{name} {text}" for name, text in about["versions"].items()),
    ]
    parts = ["# MemUP: time of an update", "\n".join(f"- {line}" for line in head)]
    for gap in sorted({row["gap"] for row in results["rows"]}):
        rows = [row for row in results["rows"] if row["gap"] == gap]
        parts += [f"## gap {gap}", f"{rows[0]['updates']} updates a stream; median (least to most) of "]
        parts[-1] += f"{len(rows[0]['streams'])} streams. {verdict(rows)}"
        parts += [updates_table(rows).strip(), kinds_table(rows).strip(), parts_table(rows).strip()]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--public", type=Path, required=True, help="checkout of the public code, see README.md")
    parser.add_argument("--quick", action="store_true", help="one short stream")
    parser.add_argument("--output", type=Path, default=HERE, help="folder of results.json and results.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    plan = {100: 1} if options.quick else {100: 7, 1000: 3}
    about = {"command": COMMAND, "commit": code_version(), "public": COMMIT, "versions": versions()}
    results: dict[str, Any] = {"about": about | {"hardware": hardware()}, "sizes": [], "rows": []}
    options.output.mkdir(parents=True, exist_ok=True)
    for gap, streams in plan.items():
        sizes = Sizes(gap)
        results["sizes"].append(asdict(sizes))
        results["rows"] += measure(options.public, sizes, streams)
        (options.output / "results.json").write_text(json.dumps(results, indent=1) + "\n")
        (options.output / "results.md").write_text(report(results))
    print(report(results))


if __name__ == "__main__":
    main()
