"""best.yaml: the experiment with the best trial's values, as `skip-sideways fit --config` takes it.

Of several objectives also front/trial-NN.yaml for each trial of the front.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from app.study.plan import Plan
from app.study.report import objective_text, where
from app.study.summary import BEST
from app.study.trial_config import with_values

FRONT = "front"


def best_config(plan: Plan, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the experiment with a trial's values; fold and seed are its own, the checkpoints' folder nobody's."""
    config = with_values(plan.config, plan.space.plain(), params)
    checkpoint = config.get("checkpoint")
    if isinstance(checkpoint, dict):
        checkpoint.pop("dirpath", None)
        if not checkpoint:
            del config["checkpoint"]
    return config


def write_best(plan: Plan, summary: Mapping[str, Any]) -> list[Path]:
    """Write the best trial's file, and the front's, into the study's folder; return their paths.

    Files of trials that have left the front are removed. Nothing is written before a trial is complete.
    """
    if summary["best"] is None:
        return []
    trials = {trial["number"]: trial for trial in summary["trials"]}
    best = trials[summary["best"]["trial"]]
    several = len(summary["objectives"]) > 1
    first = summary["objectives"][0]["metric"]
    title = f"The trial of the Pareto front that is best by {first}" if several else "The best trial"
    paths = [_write(plan.output / BEST, plan, summary, best, title)]
    if several:
        paths += [
            _write(
                plan.output / FRONT / f"trial-{number:02d}.yaml", plan, summary, trials[number], "On the Pareto front"
            )
            for number in summary["front"]
        ]
        for path in (plan.output / FRONT).glob("trial-*.yaml"):
            if path not in paths:
                path.unlink(missing_ok=True)
    return paths


def _write(path: Path, plan: Plan, summary: Mapping[str, Any], trial: Mapping[str, Any], title: str) -> Path:
    """Write a trial's configuration so that a reader, or a kill, meets the old file or the new one, never a part."""
    head = [
        f"{title} of study {summary['study']}: trial {trial['number']} of {len(summary['trials'])}, "
        f"{objective_text(summary, trial['values'])}",
        f"Chosen on {where(summary)}; this file has the fold and seed of {summary['experiment'] or 'the experiment'}.",
        f"Made by: {summary['command']}",
    ]
    comments = "".join(f"# {' '.join(line.split())}\n" for line in head)
    config = best_config(plan, trial["params"])
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    unfinished.write_text(comments + yaml.safe_dump(config, sort_keys=False, allow_unicode=True), encoding="utf-8")
    os.replace(unfinished, path)
    return path
