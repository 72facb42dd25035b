"""Depth-parallel training beside its peers: three settings one after another, about seven minutes on two free cores.

OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive python benchmarks/depth_parallel/run.py [SETTING ...]

Each setting's table goes to the folder of its name beside this file, the goals' lines of all to results.md.
"""

import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from app.bench_report import goals  # noqa: E402
from app.bench_stages import main as bench  # noqa: E402

SETTINGS = {
    "two_units_64kib": "--depth 2 --blocks 8 --channels 32 --size 16 --batch 2 --rounds 13",
    "two_units_512kib": "--depth 2 --blocks 2 --channels 32 --size 32 --batch 4 --rounds 9",
    "four_units_skips_64kib": "--depth 4 --wiring residual --blocks 8 --channels 32 --size 16 --batch 2 --rounds 5 "
    "--micro 2 8 16",
}


def main(names: list[str]) -> None:
    """Measure the named settings, or all, and write the summary of those that have been measured."""
    if unknown := set(names) - set(SETTINGS):
        raise SystemExit(f"no setting {', '.join(sorted(unknown))}; expected some of {', '.join(SETTINGS)}")
    for name in names or SETTINGS:
        print(f"\n== {name}", flush=True)
        bench(["--stages", "2", "--peers", *SETTINGS[name].split(), "--output", str(HERE / name)])
    (HERE / "results.md").write_text(summary())


def summary() -> str:
    """Return a section with the goals' lines for each setting that has results."""
    sections = ["# The goals of depth-parallel training, by setting"]
    for name in SETTINGS:
        file = HERE / name / "results.json"
        if file.is_file():
            run = json.loads(file.read_text())
            lines, _ = goals(run)
            head = f"## [{name}]({name}/results.md)\n\nCommit {run['commit']}; {run['device']}.\n"
            sections.append("\n".join([head, *(f"- {line}" for line in lines)]))
    return "\n\n".join(sections) + "\n"


if __name__ == "__main__":
    main(sys.argv[1:])
