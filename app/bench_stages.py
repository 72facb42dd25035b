"""`skip-sideways bench --stages N`: depth-parallel training beside its peers, in the same processes.

Sideways and greedy (DGL, a module for each stage) in stages, one process each, beside naive model-parallel and
one-process backprop and, with --peers, the exact pipelines of torch.distributed.pipelining and torchgpipe: the same
units, frames, batch and optimizer, in interleaved rounds. Copies of one process that send nothing show what the
machine has to give. The network has units of equal cost. The machine should have a free core for each stage.
"""

import argparse
import json
import math
import os
import shlex
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_modules.metrics.stage_cost import Contestant, Setting

TRANSPORTS = ("shared_memory", "process_group")


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    options = argparse.ArgumentParser(
        prog="skip-sideways bench",
        description=__doc__.split("\n\n", 1)[1],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add, text = partial(options.add_argument, metavar="N"), argparse.SUPPRESS
    add("--stages", type=int, default=2, help="processes, with as many units each")
    add("--depth", type=int, default=2, help="units")
    add("--wiring", default="chain", metavar="W", help="chain: Sideways; residual, concat, dense: Skip-Sideways")
    add("--blocks", type=int, default=2, help="convolutions in a unit")
    add("--channels", type=int, default=32, help="channels of a message")
    add("--size", type=int, default=32, help="height and width of frames and messages")
    add("--batch", type=int, default=4, help="clips in a batch")
    add("--frames", type=int, nargs="+", default=[16, 64], help="lengths of clips; all rows have the first")
    add("--micro", type=int, nargs="+", default=[2, 8, 16, 64], help="frames an update of exact pipelines")
    options.add_argument("--peers", action="store_true", help="measure exact pipelines too", default=text)
    add(
        "--transport",
        nargs="+",
        default=list(TRANSPORTS),
        choices=TRANSPORTS,
        metavar="X",
        help=f"{', '.join(TRANSPORTS)}; all rows have the first",
    )
    add("--rounds", type=int, default=11, help="timed rounds")
    add("--output", type=Path, metavar="FOLDER", help="folder for results.json and results.md", default=text)
    add("--mlflow", metavar="NAME", help="experiment in which the rows are stored as runs", default=text)
    options.set_defaults(peers=False, output=None, mlflow=None)
    return options


def setting_of(options: argparse.Namespace) -> "Setting":
    """Return the setting that the options describe.

    Raises:
        ValueError: what was given, what is expected.
    """
    from lightning_modules.execution.schedule import shortest_clip
    from lightning_modules.metrics.stage_cost import Setting

    for name in ("stages", "depth", "blocks", "channels", "size", "batch", "rounds"):
        if (value := getattr(options, name)) < 1:
            raise ValueError(f"--{name} is {value}; it must be at least 1")
    if options.stages < 2 or options.depth % options.stages:
        raise ValueError(
            f"--stages {options.stages} with --depth {options.depth}; give at least 2 stages, and a number of units "
            f"that they divide, as --depth {2 * max(options.stages, 2)}. One process: leave --stages out"
        )
    lengths = [*options.frames, *(options.micro if options.peers else [])]
    if min(lengths) < 1:
        raise ValueError(f"--frames {options.frames} --micro {options.micro}; each must be at least 1")
    shape = {name: getattr(options, name) for name in ("stages", "depth", "blocks", "channels", "size", "batch")}
    setting = Setting(**shape, wiring=options.wiring, round_frames=math.lcm(*lengths))
    shortest = shortest_clip(setting.make_wiring())
    if min(options.frames) < shortest:
        raise ValueError(f"--frames {min(options.frames)}: {options.depth} units need clips of at least {shortest}")
    return setting


def contestants_of(options: argparse.Namespace, setting: "Setting") -> tuple[list["Contestant"], list[str]]:
    """Return who takes part, and a line for each peer that cannot."""
    from lightning_modules.metrics.stage_cost import copies_of, our_contestants
    from lightning_modules.metrics.stage_peers import cannot_run, peer_contestants

    found = our_contestants(options.frames, options.transport, round_frames=setting.round_frames)
    absent = dict[str, list[str]]()
    found += copies_of(found)
    for peer in peer_contestants(options.micro) if options.peers else []:
        if why := cannot_run(setting, peer):
            absent.setdefault(f"{peer.executor}: {why}", []).append(f"m={peer.frames}")
        else:
            found.append(peer)
    return found, [f"{who} ({', '.join(lengths)})" for who, lengths in absent.items()]


def measure(options: argparse.Namespace, argv: Sequence[str]) -> dict[str, Any]:
    """Measure everything; return what goes to results.json."""
    from tqdm import tqdm

    from app.bench import head_shares
    from app.bench_rows import rows_of
    from lightning_modules.metrics.own_loss import scheduled_ticks
    from lightning_modules.metrics.stage_bench import WARM_UP, measure_setting

    setting = setting_of(options)
    contestants, absent = contestants_of(options, setting)
    with tqdm(total=options.rounds + WARM_UP, unit="round", file=sys.stderr) as bar:
        found = measure_setting(setting, contestants, options.rounds, after_round=bar.update)
    return {
        **_provenance(options, argv),
        "message_kib": setting.message_kib,
        "round_frames": setting.round_frames,
        "own_loss_scheduled": scheduled_ticks(setting.make_wiring()),
        "own_loss_seen": found.own_loss_ticks,
        "greedy_heads": head_shares(setting.greedy_costs()),
        "absent": absent,
        "rows": rows_of(found),
    }


def _provenance(options: argparse.Namespace, argv: Sequence[str]) -> dict[str, Any]:
    from app.comparison.provenance import code_version, hardware, versions

    words = [os.path.relpath(word) if os.path.isabs(word) else word for word in argv]
    return {
        "command": shlex.join(["skip-sideways", "bench", *words]),
        "commit": code_version(),
        "device": hardware(),
        "packages": versions(),
        "settings": {k: v for k, v in vars(options).items() if k not in ("output", "mlflow")},
    }


def main(argv: list[str]) -> int:
    """Run the benchmark and return the exit status."""
    options = parser().parse_args(argv)
    run = measure(options, argv)
    from app.bench_report import markdown, terminal

    print(terminal(run))
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / "results.json").write_text(json.dumps(run, indent=1) + "\n")
        (options.output / "results.md").write_text(markdown(run))
        print(f"written: {options.output / 'results.md'}")
    if options.mlflow:
        from app.bench_store import store

        print(f"stored: {store(run, options.mlflow)} runs in experiment {options.mlflow!r}; skip-sideways dashboard")
    return 0
