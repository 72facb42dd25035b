"""`skip-sideways bench`: step time and memory of every executor and rule, on one network and the same clips.

Rows are timed in interleaved rounds in one process; what counts are the ratios inside a round and CPU time. Below it
only torch, Lightning's family and numpy are needed, so that it runs where no more than these are installed.
"""

import argparse
import json
import os
import platform
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_modules.metrics.head_cost import ModuleCost

BASE = "backprop_shifted"
GOAL = 1.05
COLUMNS = (("step_p50_ms", 1), ("cpu_ms_per_frame", 3), ("wall_ratio", 2), ("cpu_ratio", 2))
HEADER = ("row", "step ms (p50)", "CPU ms / frame", "x backprop, wall", "x backprop, CPU")


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    options = argparse.ArgumentParser(
        prog="skip-sideways bench",
        description=__doc__.split("\n\n")[0],
        epilog="units in several processes, beside other pipelines: skip-sideways bench --stages 2 --help",
    )
    options.add_argument("--network", default="small_cnn", help="a per-frame network (default: %(default)s)")
    options.add_argument("--wiring", default="chain", help="chain, residual, concat, dense, input (default: chain)")
    options.add_argument("--width", type=float, default=1.0, help="multiplies the channels (default: %(default)s)")
    options.add_argument("--depth", type=int, help="number of units, where the network leaves it open")
    options.add_argument(
        "--frames", type=int, nargs="+", default=[16, 64], help="lengths; the first is timed (default: 16 64)"
    )
    options.add_argument("--size", type=int, default=32, help="frame height and width (default: %(default)s)")
    options.add_argument("--batch", type=int, default=8, help="clips in a batch (default: %(default)s)")
    options.add_argument("--rounds", type=int, default=15, help="timed steps of each row (default: %(default)s)")
    options.add_argument("--threads", type=int, default=1, help="CPU threads (default: %(default)s)")
    options.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    options.add_argument("--output", type=Path, help="folder for results.json and results.md")
    return options


def check(options: argparse.Namespace) -> None:
    """Refuse values that make no sense.

    Raises:
        ValueError: what was given, and what is expected.
    """
    for name in ("size", "batch", "rounds", "threads"):
        if (value := getattr(options, name)) < 1:
            raise ValueError(f"--{name} is {value}; it must be at least 1")
    if options.width <= 0:
        raise ValueError(f"--width is {options.width}; it must be above 0")
    import torch

    if options.device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"--device {options.device}, but this torch sees no CUDA device; use --device cpu")


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure every row; each dict holds its times at the first length and its memory at every length."""
    import torch
    from tqdm import tqdm

    from lightning_modules.execution.schedule import shortest_clip
    from lightning_modules.metrics import step_cost
    from lightning_modules.metrics.head_cost import module_costs
    from lightning_modules.metrics.interleaved import interleaved_times
    from lightning_modules.networks import UnitNetwork, build_network

    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    network = build_network(
        options.network, wiring=options.wiring, width=options.width, depth=options.depth, num_classes=10
    ).to(options.device)
    if not isinstance(network, UnitNetwork):
        raise ValueError(f"network {options.network!r} takes whole clips and has one executor; use a per-frame network")
    shortest = shortest_clip(network.wiring)
    if min(options.frames) < shortest:
        raise ValueError(f"--frames {min(options.frames)}: {network.depth} units need clips of at least {shortest}")
    shape = (3, options.size, options.size)
    clips = {t: step_cost.random_clips(options.batch, t, shape, 10, options.device) for t in options.frames}
    timed = clips[options.frames[0]]
    networks = {row.name: step_cost.network_of(network, row) for row in step_cost.ROWS}
    steps = {row.name: step_cost.training_step(networks[row.name], row, timed) for row in step_cost.ROWS}
    device = timed.video_BTCHW.device
    with tqdm(total=options.rounds + 2 + len(steps) * len(clips), unit="round", file=sys.stderr) as bar:
        times = interleaved_times(steps, options.rounds, device, after_round=bar.update)
        results = []
        for row in step_cost.ROWS:
            result = _times_of(row.name, times, timed.frames)
            if row.rule.local:
                result["heads"] = head_shares(module_costs(networks[row.name], shape))
            for length, batch in clips.items():
                result["memory"][str(length)] = vars(step_cost.step_memory(networks[row.name], row, batch))
                bar.update()
            results.append(result)
    return results


def head_shares(costs: "Sequence[ModuleCost]") -> dict[str, float]:
    """Return the number of modules, and what their heads add to the network's multiplications and parameters."""
    return {
        "modules": len(costs),
        "mac_share": sum(c.head_macs for c in costs) / sum(c.macs for c in costs),
        "parameter_share": sum(c.head_parameters for c in costs) / sum(c.parameters for c in costs),
    }


def heads_line(heads: dict[str, float]) -> str:
    """Return a sentence on what the heads of greedy rows cost."""
    return (
        f"greedy: {heads['modules']} modules, whose heads add {100 * heads['mac_share']:.1f} % to the network's "
        f"multiplications and {100 * heads['parameter_share']:.0f} % to its parameters; all figures of greedy rows "
        "are with heads"
    )


def _times_of(name: str, times: dict[str, Any], frames: int) -> dict[str, Any]:
    from lightning_modules.metrics.interleaved import median_ratio
    from lightning_modules.metrics.latency import percentile

    own, base = times[name], times[BASE]
    return {
        "row": name,
        "step_p50_ms": percentile(own.wall_ms, 50),
        "step_p95_ms": percentile(own.wall_ms, 95),
        "cpu_p50_ms": percentile(own.cpu_ms, 50),
        "cpu_ms_per_frame": percentile(own.cpu_ms, 50) / frames,
        "wall_ratio": median_ratio(own.wall_ms, base.wall_ms),
        "cpu_ratio": median_ratio(own.cpu_ms, base.cpu_ms),
        "wall_ms": own.wall_ms,
        "cpu_ms": own.cpu_ms,
        "memory": {},
    }


def provenance(argv: Sequence[str], options: argparse.Namespace) -> dict[str, Any]:
    """Return command, commit, versions and hardware."""
    import torch

    from app.comparison.provenance import code_version
    from app.environment import cpu_model, package_versions

    words = [os.path.relpath(word) if os.path.isabs(word) else word for word in argv]
    device = torch.cuda.get_device_name(options.device) if options.device.startswith("cuda") else cpu_model()
    return {
        "command": shlex.join(["skip-sideways", "bench", *words]),
        "commit": code_version(),
        "device": device,
        "threads": options.threads,
        "python": platform.python_version(),
        "packages": {name: package_versions()[name] for name in ("torch", "lightning", "numpy")},
        "settings": {k: v for k, v in vars(options).items() if k != "output"},
    }


def tables(results: list[dict[str, Any]]) -> list[tuple[tuple[str, ...], list[list[str]]]]:
    """Return the table of times and the table of memory, as header and rows of text."""
    times = [[r["row"], *(f"{r[key]:.{digits}f}" for key, digits in COLUMNS)] for r in results]
    lengths = list(results[0]["memory"])
    header = ["row", *[f"saved MiB, T={t}" for t in lengths]]
    header += [f"T={t} / T={lengths[0]}" for t in lengths[1:]]
    header += [f"state MiB, T={t}" for t in lengths]
    cuda = results[0]["memory"][lengths[0]]["device_peak_mib"] is not None
    header += [f"device peak MiB, T={t}" for t in lengths] if cuda else []
    return [(HEADER, times), (tuple(header), [_memory_row(r, lengths, cuda) for r in results])]


def _memory_row(result: dict[str, Any], lengths: list[str], cuda: bool) -> list[str]:
    memory = [result["memory"][t] for t in lengths]
    saved = [m["saved_tensors_mib"] for m in memory]
    cells = [result["row"], *[f"{value:.2f}" for value in saved], *[f"{value / saved[0]:.2f}" for value in saved[1:]]]
    cells += [f"{m['state_mib']:.2f}" for m in memory]
    return cells + ([f"{m['device_peak_mib']:.1f}" for m in memory] if cuda else [])


def verdict(results: list[dict[str, Any]]) -> str:
    """Return the goal's line: vectorised Sideways against backprop of the same network, by CPU time."""
    ratio = next(r["cpu_ratio"] for r in results if r["row"] == "sideways vectorised")
    word = "met" if ratio <= GOAL else "missed"
    return f"vectorised Sideways step / backprop step of the same network: {ratio:.2f} (CPU time), goal {GOAL}: {word}"


def greedy_lines(results: list[dict[str, Any]]) -> list[str]:
    """Return a line on the heads, and one on the greedy step against backprop; none of tables from before greedy."""
    found = [r for r in results if r["row"] == "greedy vectorised"]
    return [
        line
        for row in found
        for line in (
            heads_line(row["heads"]),
            f"vectorised greedy step / backprop step of the same network: {row['cpu_ratio']:.2f} (CPU time)",
        )
    ]


def markdown(run: dict[str, Any]) -> str:
    """Return results.md."""
    from app.comparison.formats import markdown_table

    settings = ", ".join(f"{key} {value}" for key, value in run["settings"].items() if value is not None)
    packages = ", ".join(f"{name} {version}" for name, version in run["packages"].items())
    head = [
        "# Executors and rules, side by side",
        f"    {run['command']}",
        f"Commit {run['commit']}; Python {run['python']}, {packages}; {run['device']}, {run['threads']} thread(s).",
        f"Settings: {settings}.",
        f"x backprop: median over interleaved rounds of the ratio to `{BASE}` in the same round. "
        "Saved: most bytes that autograd held at one time. State: what the pipeline holds between two ticks.",
    ]
    body = [markdown_table(header, rows).strip() for header, rows in tables(run["rows"])]
    greedy = [f"{line[0].upper()}{line[1:]}." for line in greedy_lines(run["rows"])]
    return "\n\n".join([*head, *body, f"Goal: {verdict(run['rows'])}.", *greedy]) + "\n"


def main(argv: list[str]) -> int:
    """Run the benchmark, in one process or in stages, and return the exit status."""
    if any(word.split("=")[0] == "--stages" for word in argv):
        from app import bench_stages

        return bench_stages.main(argv)
    options = parser().parse_args(argv)
    check(options)
    results = measure(options)
    from app.comparison.formats import plain_table

    print("\n\n".join(plain_table(header, rows) for header, rows in tables(results)))
    print("\n" + "\n".join([verdict(results), *greedy_lines(results)]))
    if options.output:
        run = {**provenance(argv, options), "rows": results}
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / "results.json").write_text(json.dumps(run, indent=1) + "\n")
        (options.output / "results.md").write_text(markdown(run))
        print(f"written: {options.output / 'results.md'}")
    return 0
