"""How fast the dashboard is over a real history: 300 runs x 1,000 points x 10 metrics in SQLite, seen by Chromium.

    store (built once) -> `skip-sideways dashboard` -> headless Chromium: open, open again, filter, each other page

`python benchmarks/dashboard/run.py` writes results.json and results.md here. The store is made in --folder (0.6 GB) and
kept there for the next time.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import socket
import sqlite3
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from playwright.sync_api import Page

HERE = Path(__file__).resolve().parent
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ROWS = {
    "frozen": ("backprop_shifted", "residual", 0.62),
    "sideways": ("sideways", "chain", 0.80),
    "skip-sideways": ("sideways", "residual", 0.88),
    "skip-sideways dense": ("sideways", "dense", 0.87),
    "exact": ("backprop_shifted", "residual", 0.90),
}
DATASETS, FOLDS, SEEDS = ("moving_digits", "weizmann"), 3, 10
POINTS = 1000
CURVES = (
    "frames_seen", "train/loss", "train/top1", "val/loss", "val/top1",
    "alignment/unit_0", "alignment/unit_1", "alignment/unit_2", "grad_norm/unit_0", "grad_norm/unit_1",
)  # fmt: skip
RESULTS = {"latency/tick_ms": 2.0, "train/frames_per_second": 2000.0, "memory/peak_mib": 512.0}
GRID = "[data-testid=stDataFrame] canvas table td"
ONE_ROW = "document.querySelector('[data-testid=stDataFrame] canvas table')?.querySelectorAll('tbody tr').length === 1"
BOUNDS_S = {"first page": 3.0, "filter": 1.0}


def main() -> None:
    """Measure, print and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/dashboard_history"), help="where the store is made")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    store = options.folder / "mlflow.db"
    if not store.exists():
        build(store)
    found = measure(store, options.repeats)
    (HERE / "results.json").write_text(json.dumps(found, indent=2) + "\n")
    (HERE / "results.md").write_text(report(found))
    print(report(found))


def build(store: Path) -> None:
    """Make the store: runs, tags and last values by MLflow's client, the points of the curves by SQL (minutes less)."""
    from mlflow import MlflowClient
    from mlflow.entities import Metric

    store.parent.mkdir(parents=True, exist_ok=True)
    unfinished = store.with_suffix(".unfinished")
    unfinished.unlink(missing_ok=True)
    client = MlflowClient(f"sqlite:///{unfinished}")
    names = []
    for dataset in DATASETS:
        experiment = client.create_experiment(dataset, artifact_location="mlartifacts")
        for row, (rule, wiring, top1) in ROWS.items():
            for fold in range(FOLDS):
                for seed in range(SEEDS):
                    tags = {
                        "kind": "run", "schema_version": "1", "row": row, "rule": rule, "wiring": wiring,
                        "network": "small_cnn", "task": "action_recognition", "dataset": dataset, "split": "generated",
                        "fold": str(fold), "seed": str(seed), "data_hash": f"{dataset}{fold}", "comparison": "history",
                        "update": "clip", "stash": "none", "executor": "vectorised", "device": "cpu",
                    }  # fmt: skip
                    run_id = client.create_run(experiment, tags=tags).info.run_id
                    score = top1 + 0.01 * fold + 0.002 * seed
                    last = dict.fromkeys(CURVES, score) | RESULTS | {"test/top1": score, "test/loss": 1 - score}
                    values = [Metric(name, value, 0, POINTS) for name, value in last.items()]
                    params = {f"option_{number}": str(number) for number in range(40)}
                    client.log_batch(run_id, metrics=values)
                    for name, value in params.items():
                        client.log_param(run_id, name, value, synchronous=True)
                    client.set_terminated(run_id)
                    names.append(run_id)
    with contextlib.closing(sqlite3.connect(unfinished)) as connection:
        columns = "(key, value, timestamp, run_uuid, step, is_nan)"
        for number, run_id in enumerate(names):
            points = (
                (key, (step + number % 7) / POINTS, step, run_id, step, False)
                for key in CURVES
                for step in range(POINTS)
            )
            connection.executemany(f"INSERT INTO metrics {columns} VALUES (?, ?, ?, ?, ?, ?)", points)
        connection.commit()
    unfinished.rename(store)


@contextlib.contextmanager
def served(store: Path) -> Iterator[tuple[str, psutil.Process]]:
    """Serve the dashboard over the store; yield its address, as soon as it answers, and its process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    code = "import sys; from app.dashboard import main; sys.exit(main(sys.argv[1:]))"
    arguments = ["--port", str(port), "--no-browser", "--tracking-uri", f"sqlite:///{store}"]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.DEVNULL, cwd=HERE.parent.parent
    )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/_stcore/health", timeout=1):
                break
            time.sleep(0.1)
        yield address, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


def measure(store: Path, repeats: int) -> dict:
    """Return the times in seconds of each thing a person does, each with a fresh server, and its memory in MiB."""
    from playwright.sync_api import sync_playwright

    times: dict[str, list[float]] = {}
    memory_mib: dict[str, list[float]] = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        for _ in range(repeats):
            begun = time.perf_counter()
            with served(store) as (address, server):
                page = browser.new_page(viewport={"width": 1280, "height": 1400})
                times.setdefault("command answers", []).append(time.perf_counter() - begun)
                visit(page, address, server, times, memory_mib)
                whole = times["command answers"][-1] + times["first page"][-1]
                times.setdefault("command to first page", []).append(whole)
        browser.close()
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True, cwd=HERE
    )
    return {
        "runs": len(DATASETS) * len(ROWS) * FOLDS * SEEDS,
        "points": POINTS,
        "metrics": len(CURVES),
        "store_mib": round(store.stat().st_size / 2**20),
        "seconds": {name: [round(value, 2) for value in values] for name, values in times.items()},
        "memory_mib": {name: round(max(values)) for name, values in memory_mib.items()},
        "load_per_core": round(os.getloadavg()[0] / (os.cpu_count() or 1), 1),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "commit": commit.stdout.strip(),
    }


def visit(page: Page, address: str, server: psutil.Process, times: dict, memory_mib: dict) -> None:
    """Open the dashboard, open it again, filter, and open each other page, as a person does."""

    def timed(name: str, act: Callable[[], object], wait: Callable[[], object]) -> None:
        start = time.perf_counter()
        act()
        wait()
        times.setdefault(name, []).append(time.perf_counter() - start)

    def remember(name: str) -> None:
        memory_mib.setdefault(name, []).append(server.memory_info().rss / 2**20)

    def table() -> None:
        page.wait_for_selector(GRID, state="attached", timeout=120_000)

    timed("first page", lambda: page.goto(address), table)
    timed("first page again", page.reload, table)
    page.locator(".st-key-rows input").click()
    option = page.get_by_role("option", name="sideways", exact=True)
    option.wait_for()
    timed("filter", option.click, lambda: page.wait_for_function(ONE_ROW))
    page.keyboard.press("Escape")  # closes the list, behind which nothing can be clicked
    remember("after Compare")
    for title in ("Accuracy against cost", "Predicted frames", "Learning", "Run"):
        link = page.get_by_role("link", name=title, exact=True)
        timed(title, link.click, lambda title=title: idle(page, title))
    remember("after every page")
    page.close()


def idle(page: Page, title: str) -> None:
    """Wait until a page has drawn everything."""
    page.wait_for_selector(f"h1:has-text('{title}')", timeout=120_000)
    page.wait_for_selector("[data-testid=stApp][data-test-script-state=notRunning]", timeout=120_000)


def report(found: dict) -> str:
    """Return the table of results.md."""
    size = f"{found['runs']} runs x {found['points']:,} points x {found['metrics']} metrics"
    machine = f"{found['cores']} cores, load {found['load_per_core']} a core, Python {found['python']}"
    lines = [
        f"{size}, {found['store_mib']} MiB SQLite; {machine}, commit {found['commit']}",
        "",
        "| what | median s | worst s | bound s |",
        "| --- | --- | --- | --- |",
    ]
    for name, values in found["seconds"].items():
        bound = BOUNDS_S.get(name, "")
        lines.append(f"| {name} | {statistics.median(values):.2f} | {max(values):.2f} | {bound} |")
    lines += ["", "| the server's memory | MiB |", "| --- | --- |"]
    lines += [f"| {name} | {value} |" for name, value in found["memory_mib"].items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
