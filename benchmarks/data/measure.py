"""Clips per CPU second of the data modules: one process, no workers, one thread.

OMP_NUM_THREADS=1 python benchmarks/data/measure.py          prints the table and writes results.md beside this file
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from app.comparison.provenance import code_version, hardware  # noqa: E402
from datamodules import MovingDigits, Weizmann  # noqa: E402

ROUNDS = 5


def clips_per_cpu_second(dataset: object, clips: int) -> float:
    """Return the median over rounds of clips made a CPU second; the first clip, which fills caches, is not counted."""
    rates = []
    dataset[(0, 0)]  # type: ignore[index]
    for epoch in range(ROUNDS):
        start = time.process_time()
        for index in range(clips):
            dataset[(epoch, index)]  # type: ignore[index]
        rates.append(clips / (time.process_time() - start))
    return sorted(rates)[ROUNDS // 2]


def weizmann(**options: object) -> object:
    """Return the training dataset of fold 0, its cache filled."""
    data = Weizmann(size=32, frames=24, grayscale=True, **options)  # type: ignore[arg-type]
    data.setup("fit")
    return data.train_dataloader().dataset


CASES: dict[str, tuple[Callable[[], object], int]] = {
    "MovingDigits, 32x32, 20 frames": (lambda: MovingDigits().dataset("train"), 300),
    "the same, noise 0.1": (lambda: MovingDigits(noise=0.1).dataset("train"), 300),
    "the same, noise 0.1, clutter 3": (lambda: MovingDigits(noise=0.1, clutter=3).dataset("train"), 300),
    "Weizmann, 32x32, 24 frames, cache memory, running median": (lambda: weizmann(background="median"), 80),
    "Weizmann, 32x32, 24 frames, cache none": (lambda: weizmann(cache="none"), 80),
}


def main() -> None:
    """Measure every case, print the table and write it."""
    lines = ["| dataset | clips per CPU second |", "| --- | ---: |"]
    for name, (make, clips) in CASES.items():
        lines.append(f"| {name} | {clips_per_cpu_second(make(), clips):,.0f} |")
        print(lines[-1], flush=True)
    where = f"- Commit: {code_version()}\n- Hardware: {hardware()}; one thread, no workers, median of {ROUNDS} rounds\n"
    (HERE / "results.md").write_text("# What a clip costs\n\n" + where + "\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
