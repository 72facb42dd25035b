"""A study's trials and parameters as tables and as a csv file. No Streamlit, no MLflow."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pandas as pd

from dashboard.names import cell
from dashboard.sweep_names import short_names
from dashboard.sweep_space import Value, exact, six
from dashboard.sweep_study import STATES, Study, Trial

FEWEST_NUMBERS = "float64"


def parameters(params: Mapping[str, Value], study: Study) -> pd.DataFrame:
    """Return `Parameter`, `Value` and `Searched` of the best trial, in the order of the space."""
    keys = [key for key in study.parameters if key in params] + [key for key in params if key not in study.parameters]
    searched = {key: parameter.searched for key, parameter in study.parameters.items()}
    rows = [(key, six(params[key]), searched.get(key, "")) for key in keys]
    return pd.DataFrame(rows, columns=["Parameter", "Value", "Searched"])


def ordered(study: Study, objective: int) -> list[Trial]:
    """Return all trials: the complete, best first; then the others by state and number."""
    ranked = study.ranked(objective)
    first = {trial.number for trial in ranked}
    rest = [trial for trial in study.trials if trial.number not in first]
    return ranked + sorted(rest, key=lambda trial: (STATES.index(trial.state), trial.number))


def trials(study: Study, listed: list[Trial]) -> tuple[pd.DataFrame, dict[str, str]]:
    """Return a line a trial, and the title of each column: values and parameters have columns v0, p0 and so on.

    A parameter whose values are all numbers is one of numbers, so that it sorts by size.
    """
    names = short_names(study.parameters)
    titles = {"number": "Trial", "state": "State"}
    titles |= {f"v{place}": objective.metric for place, objective in enumerate(study.objectives)}
    titles |= {f"p{place}": names[key] for place, key in enumerate(study.parameters)}
    titles |= {"reported": "Last reported", "seconds": "Time (s)", "cpu_seconds": "Core-time (s)", "note": "Note",
               "started": "Started (UTC)", "worker": "Worker", "run_ids": "Runs"}  # fmt: skip
    found = pd.DataFrame([_row(trial, study) for trial in listed], columns=list(titles))
    numbers = [name for name in titles if name[0] == "v" or name in ("reported", "seconds", "cpu_seconds")]
    found = found.astype(dict.fromkeys(numbers, FEWEST_NUMBERS))
    for place in range(len(study.parameters)):
        found[f"p{place}"] = _column(found[f"p{place}"])
    if study.objectives and len(study.objectives) > 1:
        found = found.drop(columns="reported")
    return found, titles


def _row(trial: Trial, study: Study) -> dict[str, object]:
    values = {f"v{place}": value for place, value in enumerate(trial.values)}
    params = {f"p{place}": trial.params.get(key) for place, key in enumerate(study.parameters)}
    reported = None if trial.values or not trial.steps else trial.steps[-1][1]
    texts = {"note": _note(trial), "started": trial.started, "worker": trial.worker, "run_ids": " ".join(trial.run_ids)}
    times = {"seconds": trial.seconds, "cpu_seconds": trial.cpu_seconds}
    said = {name: text or None for name, text in texts.items()}
    return {"number": trial.number, "state": trial.state, **values, **params, "reported": reported, **times, **said}


def _note(trial: Trial) -> str:
    again = "" if trial.retry_of is None else f"trial {trial.retry_of} again"
    return "; ".join(filter(None, (again, trial.error, trial.pruned)))


def _column(given: pd.Series) -> pd.Series:
    """Return a column of numbers where all are, else one of texts."""
    known = given.dropna()
    if len(known) and not any(isinstance(value, str) for value in known):
        return given.astype("float64")
    return given.map(lambda value: None if value is None or value != value else exact(value)).astype(object)


def csv(study: Study, listed: list[Trial]) -> str:
    """Return the trials as csv with every number in full and every key; no cell is a spreadsheet's formula."""
    found, titles = trials(study, listed)
    full = titles | {f"p{place}": key for place, key in enumerate(study.parameters)}
    heads = [str(cell(full[name])) for name in found]
    return found.map(cell).set_axis(heads, axis="columns").to_csv(index=False)


def file_name(study: Study) -> str:
    """Return a name for the csv file of plain characters."""
    return f"{re.sub(r'[^A-Za-z0-9_-]+', '-', study.name).strip('-')[:60] or 'study'}-trials.csv"


def front(study: Study) -> pd.DataFrame:
    """Return the trials on the front of all objectives with their parameters, the best by the first objective first."""
    listed = [trial for trial in study.ranked(0) if trial.number in study.front]
    found, _ = trials(study, listed)
    kept = [name for name in found if name == "number" or re.fullmatch(r"[vp][0-9]+", name)]
    return found[kept].dropna(axis="columns", how="all")


def errors(study: Study) -> dict[str, list[int]]:
    """Return the different errors of failed trials with the numbers of these trials."""
    found: dict[str, list[int]] = {}
    for trial in study.trials:
        if trial.state in ("failed", "retried") and trial.error:
            found.setdefault(trial.error, []).append(trial.number)
    return found
