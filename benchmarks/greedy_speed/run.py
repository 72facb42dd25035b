"""Decoupled Greedy Learning in two stages beside its peers: two settings one after another.

OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive python benchmarks/greedy_speed/run.py [SETTING ...]

Each setting's table goes to the folder of its name beside this file, the goals' lines of all to results.md.
"""

import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from app.bench_report import goals, greedy_table  # noqa: E402
from app.bench_stages import main as bench  # noqa: E402
from app.comparison.formats import markdown_table  # noqa: E402

COMMON = "--stages 2 --peers --depth 2 --frames 16 --micro 16 --transport shared_memory"
SETTINGS = {
    "two_units_64kib": "--blocks 8 --channels 32 --size 16 --batch 2 --rounds 5",
    "two_units_512kib": "--blocks 2 --channels 32 --size 32 --batch 4 --rounds 5",
}


def main(names: list[str]) -> None:
    """Measure the named settings, or all, and write the summary of those that have been measured."""
    if unknown := set(names) - set(SETTINGS):
        raise SystemExit(f"no setting {', '.join(sorted(unknown))}; expected some of {', '.join(SETTINGS)}")
    for name in names or SETTINGS:
        print(f"\n== {name}", flush=True)
        bench([*COMMON.split(), *SETTINGS[name].split(), "--output", str(HERE / name)])
    (HERE / "results.md").write_text(summary())


def summary() -> str:
    """Return a section for each setting that has results: what greedy's goal and heads say, and the comparisons."""
    sections = ["# Greedy in two stages, by setting"]
    for name in SETTINGS:
        file = HERE / name / "results.json"
        if file.is_file():
            run = json.loads(file.read_text())
            lines = [line for line in goals(run)[0] if line.startswith(("goal 8", "the machine", "greedy"))]
            sections += [
                f"## [{name}]({name}/results.md)",
                f"Commit {run['commit']}; {run['device']}.",
                "\n".join(f"- {line}" for line in lines),
                markdown_table(*greedy_table(run)).strip(),
            ]
    return "\n\n".join(sections) + "\n"


if __name__ == "__main__":
    main(sys.argv[1:])
