"""Clips per CPU second and per second of the clock: our loader beside pytorchvideo's, in interleaved rounds.

    OMP_NUM_THREADS=1 python benchmarks/loader/run.py [--data DIR]

`--data`: the folder of real clips (SKIP_SIDEWAYS_DATA); without it only generated files are read.
Writes results.json and results.md beside this file.
"""

import argparse
import itertools
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE)]

import psutil  # noqa: E402
from contestants import BATCH, CLIP_S, FRAMES, OURS, PYTORCHVIDEO, loader  # noqa: E402
from files import generated_clips, real_clips  # noqa: E402

from app.comparison.formats import markdown_table  # noqa: E402
from app.comparison.provenance import code_version, hardware  # noqa: E402
from app.environment import package_versions  # noqa: E402
from datamodules.decoding import torchcodec_problem  # noqa: E402

ROUNDS, CLIPS = 3, 24
FIRST = (112, 0, "warm")  # size, workers, page cache: with all files
OTHERS = [(112, 0, "cold"), (112, 2, "warm"), (112, 2, "cold"), (64, 0, "warm")]
FILES_OF_OTHERS = ("UCF101 and HMDB51", "generated")
BASELINE = "pytorchvideo, with sound"
AIMS = {"pyav": 3.0, "torchcodec": 3.0, "cache disk": 20.0, "cache memory": 20.0}


def contestant(connection: Any, name: str, folder: Path) -> None:
    """Answer each request for an epoch with [clips, CPU seconds, seconds]; in a process of its own."""
    multiprocessing.set_start_method("fork", force=True)  # of the workers: a spawned process would spawn them
    kept: dict[Any, Any] = {}
    while (setting := connection.recv()) is not None:
        root, paths, size, workers, cache = setting
        if (root, paths, size, workers) not in kept:
            kept = {(root, paths, size, workers): loader(name, root, list(paths), size, workers, folder)}
        batches = kept[root, paths, size, workers]
        if hasattr(batches.sampler, "set_epoch"):
            batches.sampler.set_epoch(getattr(batches.sampler, "epoch", 0) + 1)
        if cache == "cold":
            forget([*(root / path for path in set(paths)), *folder.rglob("*")])
        start, cpu = time.perf_counter(), cpu_seconds()
        clips = sum(len(batch["label"]) for batch in batches)
        connection.send([clips, cpu_seconds() - cpu, time.perf_counter() - start])


def cpu_seconds() -> float:
    """Return the CPU time of this process and its workers so far."""
    workers = psutil.Process().children(recursive=True)
    return time.process_time() + sum(sum(process.cpu_times()[:2]) for process in workers)


def forget(paths: list[Path]) -> None:
    """Drop files from the page cache: the videos, and what the cache on the disk keeps and no process has mapped."""
    for path in paths:
        if path.is_file():
            handle = os.open(path.resolve(), os.O_RDONLY)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(handle)


def measure(processes: list[tuple[str, Any]], setting: tuple[Any, ...]) -> dict[str, list[list[float]]]:
    """Return by contestant, for each round, [clips, CPU seconds, seconds]. A round that fills caches is left out."""
    found: dict[str, list[list[float]]] = {name: [] for name, _ in processes}
    for number in range(ROUNDS + 1):
        shift = number % len(processes)
        for name, connection in processes[shift:] + processes[:shift]:
            connection.send(setting)
            if not connection.poll(300):
                raise TimeoutError(f"{name}, {setting}: no answer in 300 s")
            answer = connection.recv()
            if number:
                found[name].append(answer)
    return found


def rows(times: dict[str, list[list[float]]]) -> list[list[str]]:
    """Return a table line a contestant: rates, spread, and the ratio to the baseline taken within rounds."""
    lines = []
    for name, measured in times.items():
        cpu = [clips / seconds for clips, seconds, _ in measured]
        wall = [clips / seconds for clips, _, seconds in measured]
        ratios = {
            base: statistics.median(
                ours / (clips / seconds) for ours, (clips, seconds, _) in zip(cpu, times[base], strict=True)
            )
            for base in PYTORCHVIDEO
        }
        aim = f"{AIMS[name]:.0f}: {'met' if ratios[BASELINE] >= AIMS[name] else 'missed'}" if name in AIMS else ""
        rate, spread = statistics.median(cpu), f"{min(cpu):,.0f} to {max(cpu):,.0f}"
        against = [f"{ratio:.1f}" for ratio in ratios.values()]
        lines.append(
            [name, f"{rate:,.0f}", spread, f"{rate * FRAMES:,.0f}", f"{statistics.median(wall):,.0f}", *against, aim]
        )
    return lines


def report(results: list[dict[str, Any]], header: str) -> str:
    """Return results.md."""
    columns = (
        "loader", "clips / CPU s", "spread", "frames / CPU s", "clips / s", "x ptv with sound", "x ptv no sound", "aim",
    )  # fmt: skip
    parts = ["# Loading clips", header]
    for result in results:
        title = (
            f"## {result['files']}: {result['size']} pixels, {result['workers']} workers, {result['cache']} page cache"
        )
        parts += [title, markdown_table(columns, rows(result["rounds"])).strip()]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Measure every setting and write the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=os.environ.get("SKIP_SIDEWAYS_DATA"), help="folder of real clips")
    data = parser.parse_args().data
    torchcodec = "not there" if torchcodec_problem() else version("torchcodec")
    names = [*PYTORCHVIDEO, *(name for name in OURS if name != "torchcodec" or torchcodec != "not there")]
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "videos"
        sets = {"generated": generated_clips(root)}
        if data:
            sets = {**real_clips(Path(data), root), **sets}
        about = {
            "command": "OMP_NUM_THREADS=1 python benchmarks/loader/run.py --data DIR",
            "commit": code_version(),
            "versions": {**package_versions(), "torchcodec": torchcodec},
            "hardware": hardware(),
            "files": {name: len(paths) for name, paths in sets.items()},
            "clip": f"{FRAMES} frames, {CLIP_S:.3f} s, batches of {BATCH}, {CLIPS} an epoch, {ROUNDS} rounds",
        }
        with contestants(names, Path(scratch)) as processes:
            results = []
            wanted = [(files, FIRST) for files in sets]
            wanted += [(files, setting) for setting in OTHERS for files in FILES_OF_OTHERS if files in sets]
            for files, (size, workers, cache) in wanted:
                repeated = tuple(itertools.islice(itertools.cycle(sets[files]), CLIPS))
                rounds = measure(processes, (root, repeated, size, workers, cache))
                results.append({"files": files, "size": size, "workers": workers, "cache": cache, "rounds": rounds})
                print(report(results[-1:], ""), flush=True)
                (HERE / "results.json").write_text(json.dumps({"about": about, "results": results}, indent=1) + "\n")
                header = "\n".join(f"- {key}: {value}" for key, value in about.items())
                (HERE / "results.md").write_text(report(results, header))


@contextmanager
def contestants(names: list[str], scratch: Path) -> Iterator[list[tuple[str, Any]]]:
    """Start a process for each contestant and yield the connections to them."""
    context, running = multiprocessing.get_context("spawn"), []
    for number, name in enumerate(names):
        here, there = context.Pipe()
        folder = scratch / f"cache{number}"
        folder.mkdir()
        process = context.Process(target=contestant, args=(there, name, folder))
        process.start()
        running.append((name, here, process))
    try:
        yield [(name, connection) for name, connection, _ in running]
    finally:
        for _, connection, process in running:
            if process.is_alive():
                connection.send(None)
            process.join(10)
            process.kill()


if __name__ == "__main__":
    main()
