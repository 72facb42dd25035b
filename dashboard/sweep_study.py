"""A study as its artifact `sweep.json` has it, checked and bounded: trials, objectives, space. No Streamlit, no MLflow.

    sweep.json  ->  read_study  ->  Study: clean texts, finite numbers, at most MOST_TRIALS trials

The file is somebody else's. A part that is not what it should be is left out and counted; where nothing can be shown,
Unreadable says in one sentence why.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from dashboard.names import clean
from dashboard.plain import LONGEST
from dashboard.sweep_space import Parameter, Value, number_of, read_parameter, value_of

ARTIFACT = "sweep.json"
SCHEMA_VERSION = 1
MOST_TRIALS = 2_000
MOST_OBJECTIVES = 6
MOST_PARAMETERS = 40
MOST_STEPS = 200  # of one trial; beyond, every n-th
MOST_RUNS = 20  # run ids of one trial
MOST_LISTED = 50  # of a list of folds or seeds
LONGEST_COMMAND = 4_000
STATES = ("complete", "pruned", "failed", "running", "waiting", "retried")
COUNTED = ("complete", "pruned", "failed")  # towards the trials asked
_LARGEST_NUMBER = 10**9


class Unreadable(ValueError):  # noqa: N818 - reads as a sentence
    """A sweep.json that holds no study; the message says what is wrong."""


@dataclass(frozen=True)
class Objective:
    """What a study makes as large or as small as it can: a metric, and whether less of it is better."""

    metric: str
    lower: bool

    @property
    def title(self) -> str:
        """Return the metric and which way is better, in words."""
        return f"{self.metric} ({'less' if self.lower else 'more'} is better)"


@dataclass(frozen=True)
class Trial:
    """One choice of values. `values`: one an objective, empty unless it is complete.

    `steps`: (validation from 1, value) of what it reported.
    """

    number: int
    state: str
    params: Mapping[str, Value]
    values: tuple[float, ...] = ()
    steps: tuple[tuple[int, float], ...] = ()
    started: str = ""
    seconds: float | None = None
    cpu_seconds: float | None = None
    run_ids: tuple[str, ...] = ()
    error: str = ""
    pruned: str = ""
    retry_of: int | None = None
    worker: str = ""

    def last(self, objective: int) -> float | None:
        """Return its value of an objective, or where it has none and reports the first, the last it reported."""
        if self.values:
            return self.values[objective]
        return self.steps[-1][1] if self.steps and objective == 0 else None


@dataclass(frozen=True)
class Best:
    """The best trial and the command that runs its configuration."""

    trial: int
    values: tuple[float, ...]
    params: Mapping[str, Value]
    command: str


@dataclass(frozen=True)
class Study:
    """One sweep. `importances`: {metric: {key: share}}, `importance_trials`: {metric: of how many trials}.

    `left_out`: sentences on what of the file is not shown.
    """

    name: str
    facts: Mapping[str, str]
    command: str
    asked: int
    objectives: tuple[Objective, ...]
    parameters: Mapping[str, Parameter]
    importances: Mapping[str, Mapping[str, float]]
    why_no_importances: str
    best: Best | None
    front: tuple[int, ...]
    cpu_seconds: float | None
    trials: tuple[Trial, ...]
    left_out: tuple[str, ...] = ()
    importance_trials: Mapping[str, int] = field(default_factory=dict)

    def counts(self) -> dict[str, int]:
        """Return how many trials are in each state, in the order of STATES, without empty ones."""
        found = Counter(trial.state for trial in self.trials)
        return {state: found[state] for state in STATES if found[state]}

    def complete(self) -> list[Trial]:
        """Return the trials with a value of every objective."""
        return [trial for trial in self.trials if trial.values]

    def ranked(self, objective: int) -> list[Trial]:
        """Return the complete trials, the best by an objective first; of equal ones the study's own best."""
        sign = 1 if self.objectives[objective].lower else -1
        best = self.best.trial if self.best else None
        return sorted(
            self.complete(),
            key=lambda trial: (sign * trial.values[objective], trial.number != best, trial.number),
        )


def read_study(content: Mapping[str, Any]) -> Study:
    """Return the study of a parsed sweep.json. Raises Unreadable."""
    version = content.get("schema_version")
    if version != SCHEMA_VERSION or isinstance(version, bool):
        raise Unreadable(
            f"{ARTIFACT} is of schema version {clean(version)}, this dashboard reads {SCHEMA_VERSION}: "
            "read it with the version of skip-sideways that wrote it."
        )
    objectives = _objectives(content.get("objectives"))
    given = _list(content.get("trials"))
    best, front = _best(content.get("best"), len(objectives)), _numbers(content.get("front"))
    trials = _trials(_kept(given, {*front, *([best.trial] if best else [])}), len(objectives))
    keys = _keys(content.get("space"), trials)
    kept = keys[:MOST_PARAMETERS]
    space = {clean(key): plain for key, plain in _dict(content.get("space")).items()}
    return Study(
        name=_text(content.get("study")) or "unnamed study",
        facts=_facts(content),
        command=_command(content.get("command")),
        asked=int(_count(content.get("trials_asked")) or len(trials)),
        objectives=objectives,
        parameters={key: read_parameter(key, space.get(key), _seen(trials, key)) for key in kept},
        importances=_importances(content.get("importances")),
        why_no_importances=_text(content.get("importances_why_none")),
        best=best,
        front=front,
        cpu_seconds=number_of(content.get("cpu_seconds")),
        trials=trials,
        left_out=tuple(_left_out(len(given), trials, len(keys))),
        importance_trials=_importance_trials(content.get("importances")),
    )


def _objectives(given: object) -> tuple[Objective, ...]:
    found: dict[str, Objective] = {}
    for entry in _list(given)[:MOST_OBJECTIVES]:
        metric, direction = _text(_dict(entry).get("metric")), _dict(entry).get("direction")
        if metric and direction in ("maximize", "minimize"):
            found.setdefault(metric, Objective(metric, direction == "minimize"))
    if not found or len(found) != len(_list(given)):
        raise Unreadable(
            f"{ARTIFACT} does not name 1 to {MOST_OBJECTIVES} objectives, each a metric and maximize or minimize."
        )
    return tuple(found.values())


def _numbers(given: object) -> tuple[int, ...]:
    return tuple(number for number in map(_count, _list(given)[:MOST_TRIALS]) if number is not None)


def _kept(given: list[Any], wanted: set[int]) -> list[Any]:
    """Return at most MOST_TRIALS of the entries: those whose numbers are wanted, then the first."""
    if len(given) <= MOST_TRIALS:
        return given
    return sorted(given, key=lambda entry: _count(_dict(entry).get("number")) not in wanted)[:MOST_TRIALS]


def _trials(given: list[Any], objectives: int) -> tuple[Trial, ...]:
    found: dict[int, Trial] = {}
    for entry in given:
        trial = _trial(_dict(entry), objectives)
        if trial is not None:
            found.setdefault(trial.number, trial)
    return tuple(found[number] for number in sorted(found))


def _trial(entry: Mapping[str, Any], objectives: int) -> Trial | None:
    number, state = _count(entry.get("number")), entry.get("state")
    if number is None or state not in STATES:
        return None
    return Trial(
        number=number,
        state=state,
        params=_params(entry.get("params")),
        values=_values(entry.get("values"), objectives) if state == "complete" else (),
        steps=_steps(entry.get("steps")),
        started=_time(entry.get("started")),
        seconds=number_of(entry.get("seconds")),
        cpu_seconds=number_of(entry.get("cpu_seconds")),
        run_ids=tuple(clean(run_id) for run_id in _list(entry.get("run_ids"))[:MOST_RUNS] if isinstance(run_id, str)),
        error=_long_text(entry.get("error")),
        pruned=_text(entry.get("pruned")),
        retry_of=_count(entry.get("retry_of")),
        worker=_text(entry.get("worker")),
    )


def _params(given: object) -> dict[str, Value]:
    return {clean(key): value_of(value) for key, value in list(_dict(given).items())[:MOST_PARAMETERS]}


def _values(given: object, objectives: int) -> tuple[float, ...]:
    """Return a value an objective; none of them where one is missing or not finite."""
    found = [number for number in map(number_of, _list(given)[:objectives]) if number is not None]
    return tuple(map(float, found)) if len(found) == objectives else ()


def _steps(given: object) -> tuple[tuple[int, float], ...]:
    pairs = [pair for pair in _list(given) if isinstance(pair, list) and len(pair) == 2]
    found = {step: number_of(value) for step, value in pairs if _count(step) is not None}
    kept = sorted((step + 1, float(value)) for step, value in found.items() if value is not None)
    return tuple(_thinned(kept))


def _thinned(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """Return at most about MOST_STEPS of the points, the last one among them."""
    every = -(-len(points) // MOST_STEPS) or 1
    return points[::-1][::every][::-1]


def _keys(space: object, trials: Iterable[Trial]) -> list[str]:
    """Return the parameters' keys: those of the space in its order, then what the trials have besides."""
    return list(dict.fromkeys([*map(clean, _dict(space)), *(key for trial in trials for key in trial.params)]))


def _seen(trials: Iterable[Trial], key: str) -> list[Value]:
    return [trial.params[key] for trial in trials if key in trial.params]


def _importances(given: object) -> dict[str, dict[str, float]]:
    found = {}
    for entry in _list(given)[:MOST_OBJECTIVES]:
        shares = {clean(key): number_of(share) for key, share in list(_dict(_dict(entry).get("values")).items())}
        known = {key: float(share) for key, share in shares.items() if share is not None and share >= 0}
        ordered = sorted(known.items(), key=lambda pair: (-pair[1], pair[0]))[:MOST_PARAMETERS]
        if ordered:
            found[_text(_dict(entry).get("metric"))] = dict(ordered)
    return found


def _importance_trials(given: object) -> dict[str, int]:
    entries = [_dict(entry) for entry in _list(given)[:MOST_OBJECTIVES]]
    return {_text(entry.get("metric")): _count(entry.get("trials")) or 0 for entry in entries}


def _best(given: object, objectives: int) -> Best | None:
    entry = _dict(given)
    trial, values = _count(entry.get("trial")), _values(entry.get("values"), objectives)
    if trial is None or not values:
        return None
    return Best(trial, values, _params(entry.get("params")), _command(entry.get("command")))


def _facts(content: Mapping[str, Any]) -> dict[str, str]:
    facts = {
        "Experiment": _text(content.get("experiment")),
        "Sampler": _text(content.get("sampler")),
        "Pruner": _text(content.get("pruner")),
        "Seed": _text(content.get("seed")),
        "Folds": _listed(content.get("folds")),
        "Seeds of a trial": _listed(content.get("seeds")),
    }
    return {title: text for title, text in facts.items() if text}


def _listed(given: object) -> str:
    return clean(", ".join(_text(value) for value in _list(given)[:MOST_LISTED]))


def _left_out(given: int, trials: tuple[Trial, ...], keys: int) -> list[str]:
    said = []
    if given > MOST_TRIALS:
        said.append(f"{ARTIFACT} lists {given:,} trials; {MOST_TRIALS:,} are shown: the best, the front and the first.")
    broken = min(given, MOST_TRIALS) - len(trials)
    if broken:
        said.append(f"{broken:,} entries of {ARTIFACT} are no trials with a number and state of their own; left out.")
    without = sum(trial.state == "complete" and not trial.values for trial in trials)
    if without:
        said.append(f"{without:,} complete trials have no finite value of every objective; they are in no chart.")
    if keys > MOST_PARAMETERS:
        said.append(f"{keys:,} parameters; the first {MOST_PARAMETERS} are shown.")
    return said


def _dict(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: object) -> str:
    return clean(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else ""


def _time(value: object) -> str:
    """Return a time as UTC to the second; what is none as it stands."""
    try:
        return f"{datetime.fromisoformat(str(value)).astimezone(UTC):%Y-%m-%d %H:%M:%S}"
    except (ValueError, OverflowError):
        return _text(value)


def _long_text(value: object) -> str:
    if not isinstance(value, str):
        return ""
    shown = "".join(sign if sign.isprintable() else " " for sign in value[:LONGEST])
    return shown.strip() + ("…" if len(value) > LONGEST else "")


def _command(value: object) -> str:
    """Return a command whole, or nothing: a part of one is another command."""
    return value if isinstance(value, str) and len(value) <= LONGEST_COMMAND and value.isprintable() else ""


def _count(value: object) -> int | None:
    return value if type(value) is int and 0 <= value < _LARGEST_NUMBER else None
