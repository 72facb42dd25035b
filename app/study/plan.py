"""What a study is: experiment, space, objectives and budget; and what may not change while it goes on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.comparison.overrides import WITHOUT_EFFECT, apply_overrides, differences, expand, flatten, get
from app.study.objectives import Objective
from app.study.space import Space
from app.study.trial_config import with_values

SCHEMA_VERSION = 1
SEED_KEYS = ("seed_everything", "data.init_args.seed")


@dataclass(frozen=True)
class Plan:
    """One study.

    `config`: the nested fit configuration, complete but for what the space sets. `experiment`: its file's name, for
    people. `trials`: how many the study shall have in all. A trial runs on every fold and seed and its value is the
    mean; without `folds` (None) or `seeds` (empty) the configuration's own. `storage`: a journal file or a database's
    URL. `limit_hours`: no trial starts after that many core-hours of the whole study. `grace_s`: seconds of silence
    after which a worker counts as dead. `first`: Optuna's parameters of the first trial (see `schema.with_first`); None
    leaves it to the sampler.
    """

    name: str
    config: Mapping[str, Any]
    space: Space
    objectives: tuple[Objective, ...]
    trials: int
    output: Path
    storage: str
    experiment: str = ""
    command: str = "skip-sideways sweep"
    sampler: str = "tpe"
    pruner: str = "none"
    seed: int = 0
    folds: tuple[int, ...] | None = None
    seeds: tuple[int, ...] = ()
    fold_key: str = "data.init_args.fold"
    seed_keys: tuple[str, ...] = SEED_KEYS
    limit_hours: float | None = None
    grace_s: int = 120
    first: Mapping[str, Any] | None = None

    @property
    def cells(self) -> list[tuple[int, int]]:
        """(fold, seed) of each run of a trial, in the order they run."""
        folds = self.folds if self.folds is not None else (int(get(self.config, self.fold_key, 0) or 0),)
        seeds = self.seeds or (int(get(self.config, self.seed_keys[0], 0) or 0),)
        return [(fold, seed) for seed in seeds for fold in folds]

    @property
    def metrics(self) -> tuple[str, ...]:
        """The objectives' metrics."""
        return tuple(objective.metric for objective in self.objectives)

    @property
    def tests(self) -> bool:
        """Whether a trial needs the test after its training: the latency of a tick is measured there too."""
        return any(metric.startswith("test/") or metric == "latency/tick_ms" for metric in self.metrics)

    @property
    def monitor(self) -> str:
        """What a trial reports after each validation: the first objective, as the validation logs it."""
        return f"val/{self.metrics[0].rsplit('/', 1)[-1]}"

    def run_config(self, values: Mapping[str, Any], fold: int, seed: int) -> dict[str, Any]:
        """The fit configuration of one run: the values of the trial, then its fold and seed where the study has any."""
        settings = {self.fold_key: fold} if self.folds is not None else {}
        if self.seeds:
            settings |= dict.fromkeys(self.seed_keys, seed)
        return apply_overrides(with_values(self.config, self.space.plain(), values), settings)

    def fingerprint(self) -> dict[str, Any]:
        """What must stay the same for trials to belong to one study, as plain values."""
        return {
            "schema_version": SCHEMA_VERSION,
            "config": {key: value for key, value in flatten(expand(self.config)) if key not in WITHOUT_EFFECT},
            "space": self.space.plain(),
            "objectives": [f"{each.metric}:{each.direction}" for each in self.objectives],
            "sampler": self.sampler,
            "pruner": self.pruner,
            "seed": self.seed,
            "cells": [list(cell) for cell in self.cells],
        }

    def check_same(self, known: Mapping[str, Any]) -> None:
        """Refuse to go on with a study that was begun otherwise. Errors: ValueError with what differs."""
        lines = differences(known, self.fingerprint())
        if lines:
            raise ValueError(
                f"study {self.name!r} in {self.storage} was begun with other settings:\n  "
                + "\n  ".join(lines)
                + "\nGive the new study a name (--study NAME), or undo the change."
            )
