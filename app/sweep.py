"""`skip-sideways sweep`: Optuna over an experiment, resumable and parallel, from one YAML file of what may change."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.resumable import resumable

if TYPE_CHECKING:
    from app.study.objectives import Objective
    from app.study.plan import Plan
    from app.study.space import Space

SAMPLERS = ("tpe", "nsga2", "random", "grid")
PRUNERS = ("none", "median", "hyperband")
FOLDER = Path("runs/sweeps")
EXAMPLE = (
    "example: skip-sideways sweep --config app/configs/experiments/digits_direction.yaml "
    "--space app/configs/sweeps/small.yaml --trials 8 --set trainer.max_epochs=1"
)
DESCRIPTION = (
    "Search the settings of an experiment; write report.md, sweep.json, trials.csv and best.yaml, which `fit --config` "
    "runs as is. The same command continues a stopped study; started twice, it is two workers of one study. "
    "Exit code: 0 done, 1 every trial failed, 2 refused, 130 stopped."
)


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser("skip-sideways sweep", description=DESCRIPTION, epilog=EXAMPLE)
    parser.allow_abbrev = False
    parser.add_argument("--config", required=True, type=Path, help="the experiment, a YAML file as for `fit --config`")
    parser.add_argument("--space", required=True, type=Path, help="YAML file: which keys may be what (docs/sweeps.md)")
    parser.add_argument("--trials", required=True, type=int, help="of the study in all, whoever runs them")
    parser.add_argument(
        "--objective",
        nargs="+",
        metavar="METRIC",
        help="as val/top1 or NAME:minimize; several give a Pareto front (default: the task's own validation score)",
    )
    parser.add_argument("--sampler", choices=SAMPLERS, default="tpe", help="what chooses the values (default: tpe)")
    parser.add_argument(
        "--pruner", choices=PRUNERS, default="none", help="what stops poor trials at a validation (default: none)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the sampler (default: 0)")
    parser.add_argument(
        "--folds",
        nargs="+",
        type=int,
        metavar="FOLD",
        help="each trial on all of these (default: the experiment's own)",
    )
    parser.add_argument(
        "--seeds",
        nargs="+",
        type=int,
        metavar="SEED",
        help="each trial with all of these (default: the experiment's own)",
    )
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="in the experiment, as data.init_args.root=/data/UCF-101",
    )
    parser.add_argument(
        "--study", metavar="NAME", help="its name (default: the experiment's and the space's file names)"
    )
    parser.add_argument(
        "--storage",
        metavar="FILE|URL",
        help="journal file, or a database as postgresql://... (default: OUTPUT/study.journal)",
    )
    parser.add_argument("--output", type=Path, help=f"folder of report and best.yaml (default: {FOLDER}/NAME)")
    parser.add_argument("--jobs", type=int, default=1, help="trials at a time, a process each (default: 1)")
    parser.add_argument(
        "--limit-hours", type=float, help="start no trial after so many core-hours of the study (default: no limit)"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the space and what it would cost, run nothing")
    return parser


def main(argv: list[str]) -> int:
    """Run the command; return its exit code."""
    options = build_parser().parse_args(argv)
    return resumable("sweep", "trials", lambda: _sweep(options, argv))


def _sweep(options: argparse.Namespace, argv: Sequence[str]) -> int:
    from app.study.schema import with_first

    plan = make_plan(options, argv)
    check(plan, options.jobs)
    plan = with_first(plan)
    for note in notes(plan, options):
        print(f"note: {note}", file=sys.stderr)
    return _dry_run(plan) if options.dry_run else _run(plan, options.jobs)


def make_plan(options: argparse.Namespace, argv: Sequence[str]) -> Plan:
    """The study that the options ask for. Errors: ValueError with the option or file, and what is valid."""
    from app.comparison.overrides import apply_overrides, check_experiment, given
    from app.comparison.provenance import command_line
    from app.comparison.yaml_file import read_yaml
    from app.study.plan import Plan
    from app.study.space import load_space
    from app.study.storage import shown

    config = apply_overrides(read_yaml(options.config), given(options.set))
    check_experiment(config, str(options.config))
    space = load_space(options.space)
    name = _study_name(options)
    output = options.output or FOLDER / name
    return Plan(
        name=name,
        config=config,
        space=space,
        objectives=_objectives(options.objective, config),
        trials=_trials(options, space),
        output=output,
        storage=options.storage or str(output / "study.journal"),
        experiment=options.config.name,
        command=command_line([shown(word) for word in argv], "sweep"),
        sampler=options.sampler,
        pruner=options.pruner,
        seed=options.seed,
        folds=_numbers("--folds", options.folds) if options.folds else None,
        seeds=_numbers("--seeds", options.seeds or []),
        limit_hours=options.limit_hours,
    )


def _study_name(options: argparse.Namespace) -> str:
    name = options.study or f"{options.config.stem}-{options.space.stem}"
    if "/" in name or name.startswith("."):
        raise ValueError(f"--study {name}: it names a folder too; use no / and no . at its start")
    return name


def _trials(options: argparse.Namespace, space: Space) -> int:
    if options.trials < 1:
        raise ValueError(f"--trials {options.trials}: expected at least 1")
    size = space.size() if options.sampler == "grid" else None
    return options.trials if size is None else min(options.trials, size)


def _numbers(option: str, values: Sequence[int]) -> tuple[int, ...]:
    if len(set(values)) != len(values) or any(value < 0 for value in values):
        raise ValueError(f"{option} {' '.join(map(str, values))}: expected whole numbers from 0, none of them twice")
    return tuple(values)


def _objectives(texts: Sequence[str] | None, config: dict[str, Any]) -> tuple[Objective, ...]:
    from app.study.objectives import read_objectives

    return read_objectives(texts or [default_objective(config["model"]["class_path"])])


def default_objective(class_path: str) -> str:
    """The validation score of a task, as it says itself: val/top1:maximize, or val/mse:minimize of predicted frames."""
    from app.trainer_cli import tasks

    for task in tasks():
        if class_path in (task.__name__, f"{task.__module__}.{task.__name__}"):
            metric, mode = getattr(task, "score_metric", ""), getattr(task, "score_mode", "")
            return f"{metric}:{'maximize' if mode == 'max' else 'minimize'}"
    raise ValueError(f"--objective: {class_path} is no task that ships here, so name a metric that it logs")


def check(plan: Plan, jobs: int) -> None:
    """Refuse before the first trial what no trial could be made of. Errors: ValueError with what to type instead."""
    from app.comparison.check import in_a_comparison
    from app.study.check import check_cells
    from app.study.samplers import check_pruner, make_sampler
    from app.study.schema import check_space

    if jobs < 1:
        raise ValueError(f"--jobs {jobs}: expected at least 1")
    if plan.limit_hours is not None and not 0 < plan.limit_hours < math.inf:
        raise ValueError(f"--limit-hours {plan.limit_hours:g}: expected more than 0")
    check_pruner(plan.pruner, plan.objectives)
    make_sampler(plan.sampler, plan.seed, plan.space, trials=plan.trials)
    try:
        check_space(plan.space, plan.config)
        check_cells(plan)
    except ValueError as error:
        raise ValueError(in_a_comparison(str(error), "In a sweep")) from error


def notes(plan: Plan, options: argparse.Namespace) -> list[str]:
    """What a person should know of a plan that is valid."""
    from app.comparison.overrides import get

    found = []
    if plan.trials < options.trials:
        found.append(f"the grid has {plan.trials} points, so --trials {options.trials} runs {plan.trials} trials")
    for parameter in plan.space.parameters:
        own = get(plan.config, parameter.key)
        if parameter.when and own is not None:
            found.append(
                f"{parameter.key} is {own} in the experiment; trials whose other values leave it out have the class's "
                "default, not this"
            )
    timed = [metric for metric in plan.metrics if metric.startswith(("latency/", "train/"))]
    if timed and options.jobs > 1:
        found.append(
            f"{', '.join(timed)} depends on what else runs: {options.jobs} trials at a time; --jobs 1 is quiet"
        )
    return found


def _dry_run(plan: Plan) -> int:
    from app.study.known import known_study
    from app.study.report import hours, space_text, states, where
    from app.study.storage import shown
    from app.study.summary import summarise

    study, size, runs = known_study(plan), plan.space.size(), len(plan.cells)
    known = summarise(study, plan) if study else None
    facts = {
        "study": plan.name,
        "points": "no end of them" if size is None else f"{size:,}",
        "objectives": ", ".join(f"{each.metric} ({each.direction})" for each in plan.objectives),
        "sampler": f"{plan.sampler}, seed {plan.seed}",
        "pruner": plan.pruner,
        "a trial": f"{runs} run{'s' * (runs > 1)} on {where({'folds': plan.folds or (), 'seeds': plan.seeds})}",
        "trials": f"{plan.trials}, so {plan.trials * runs} runs in all",
        "first trial": "the experiment as it stands" if plan.first else "as the sampler chooses",
        "storage": shown(plan.storage),
        "done so far": f"{states(known)}; {hours(known)}" if known else "nothing: the study is new",
    }
    print(space_text(plan.space.plain()), end="\n\n")
    print("\n".join(f"{name:<13}{text}" for name, text in facts.items()))
    return 0


def _run(plan: Plan, jobs: int) -> int:
    from app.study.execute import run_study
    from app.study.report import terminal
    from app.study.summary import counts

    summary = run_study(plan, jobs)
    print(f"\n{terminal(summary)}\n")
    ended = {state: number for state, number in counts(summary).items() if state != "retried"}
    if plan.limit_hours is not None and sum(ended.values()) < plan.trials:
        print(f"--limit-hours {plan.limit_hours:g} is spent. The same command with more hours continues.")
    if set(ended) == {"failed"}:
        print(
            f"Every trial failed. Next: read {plan.output}/logs, mend the experiment or the space, and sweep anew under"
        )
        print("another name (--study NAME).")
        return 1
    print(f"The report is in {plan.output}/report.md; `skip-sideways dashboard` shows the study on its page Sweep.")
    if summary["best"]:
        print(f"Next: {summary['best']['command']}")
    return 0
