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
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE)]

import psutil  # noqa: E402
from contestants import BATCH, CLIP_S, FRAMES, OURS, PYTORCHVIDEO, loader  # noqa: E402
from files import generated_clips, real_clips  # noqa: E402

from app.comparison.formats import markdown_table  # noqa: E402
from app.comparison.provenance import code_version, hardware, versions  # noqa: E402
from app.environment import package_versions  # noqa: E402

ROUNDS, EPOCHS, CACHED_EPOCHS = 5, 2, 40
SETTINGS = [  # size, workers, page cache
    (112, 0, "warm"),
    (112, 0, "cold"),
    (112, 2, "warm"),
    (112, 2, "cold"),
    (64, 0, "warm"),
]
BASELINE = "pytorchvideo, with sound"
AIMS = {"pyav": 3.0, "torchcodec": 3.0, "cache disk": 20.0, "cache memory": 20.0}


def contestant(connection: Any, name: str, root: Path, paths: list[str], size: int, workers: int, folder: Path) -> None:
    """Answer each request for epochs with (clips, CPU seconds, seconds); its own process, its worker processes in it."""
    batches, epoch = loader(name, root, paths, size, workers, folder), itertools.count()
    while (epochs := connection.recv()) is not None:
        start, cpu, clips = time.perf_counter(), cpu_seconds(), 0
        for _ in range(epochs):
            if hasattr(batches.sampler, "set_epoch"):
                batches.sampler.set_epoch(next(epoch))
            clips += sum(len(batch["label"]) for batch in batches)
        connection.send((clips, cpu_seconds() - cpu, time.perf_counter() - start))


def cpu_seconds() -> float:
    """Return the CPU time of this process and its workers so far."""
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def forget(root: Path, paths: list[str], folder: Path) -> None:
    """Drop the files from the page cache: the videos and what the disk cache keeps."""
    for path in [*(root / path for path in paths), *(path for path in folder.rglob("*") if path.is_file())]:
        handle = os.open(path.resolve(), os.O_RDONLY)
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def measure(
    root: Path, paths: list[str], size: int, workers: int, cache: str, names: list[str], say: Callable[[str], None]
) -> dict[str, list[list[float]]]:
    """Return by contestant, for each round, [clips, CPU seconds, seconds]."""
    context, found = multiprocessing.get_context("spawn"), {name: [] for name in names}
    with tempfile.TemporaryDirectory() as scratch:
        folder, processes = Path(scratch), []
        for name in names:
            here, there = context.Pipe()
            process = context.Process(target=contestant, args=(there, name, root, paths, size, workers, folder))
            process.start()
            processes.append((name, here, process))
        for number in range(ROUNDS + 1):
            shift = number % len(names)
            for name, connection, _ in processes[shift:] + processes[:shift]:
                if cache == "cold":
                    forget(root, paths, folder)
                warm_up = number == 0
                cached = name.startswith("cache") and cache == "warm"
                connection.send(1 if warm_up else CACHED_EPOCHS if cached else EPOCHS)
                if not connection.poll(300):
                    raise TimeoutError(f"{name}, {workers} workers: no answer in 300 s")
                answer = connection.recv()
                if not warm_up:
                    found[name].append(answer)
            say(f"{root.name} {size} {workers} workers {cache}: round {number} of {ROUNDS}")
        for _, connection, process in processes:
            connection.send(None)
            process.join(30)
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
        lines.append([name, f"{rate:,.0f}", spread, f"{rate * FRAMES:,.0f}", f"{statistics.median(wall):,.0f}", *against, aim])
    return lines


def report(results: list[dict[str, Any]], header: str) -> str:
    """Return results.md."""
    columns = (
        "loader", "clips / CPU s", "spread", "frames / CPU s", "clips / s", "x ptv with sound", "x ptv no sound", "aim",
    )  # fmt: skip
    parts = ["# Loading clips", header]
    for result in results:
        title = f"## {result['files']} files, {result['size']} pixels, {result['workers']} workers, {result['cache']} page cache"
        parts += [title, markdown_table(columns, rows(result["rounds"])).strip()]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Measure every setting and write the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=os.environ.get("SKIP_SIDEWAYS_DATA"), help="folder of real clips")
    data = parser.parse_args().data
    from datamodules.decoding import torchcodec_problem

    names = [*PYTORCHVIDEO, *(name for name in OURS if name != "torchcodec" or not torchcodec_problem())]
    results = []
    with tempfile.TemporaryDirectory() as scratch:
        folders = {"generated": generated_clips(Path(scratch) / "generated")}
        if data:
            folders = {"real": real_clips(data, Path(scratch) / "real"), **folders}
        for (size, workers, cache), (files, paths) in itertools.product(SETTINGS, folders.items()):
            rounds = measure(Path(scratch) / files, paths, size, workers, cache, names, lambda line: print(line, flush=True))
            results.append({"files": files, "size": size, "workers": workers, "cache": cache, "rounds": rounds})
    about = {
        "command": "OMP_NUM_THREADS=1 python benchmarks/loader/run.py --data DIR",
        "commit": code_version(),
        "versions": {**versions(), **package_versions(), "torchcodec": "not there" if torchcodec_problem() else _torchcodec()},
        "hardware": hardware(),
        "files": {name: len(paths) for name, paths in folders.items()},
        "clip": f"{FRAMES} frames, {CLIP_S:.3f} s; batches of {BATCH}; {ROUNDS} rounds",
    }
    (HERE / "results.json").write_text(json.dumps({"about": about, "results": results}, indent=1) + "\n")
    text = report(results, "\n".join(f"- {key}: {value}" for key, value in about.items()))
    (HERE / "results.md").write_text(text)
    print(text)


def _torchcodec() -> str:
    from importlib.metadata import version

    return version("torchcodec")


if __name__ == "__main__":
    main()
