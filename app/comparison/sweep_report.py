"""tuning.md of a comparison that sweeps, and its sentences: made from tuning.json's header alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.comparison.estimate import hours
from app.comparison.formats import MISSING, markdown_table, number_text, numbers
from app.comparison.measures import heading, places
from app.comparison.spec import Comparison
from app.comparison.sweep_record import ENDED
from app.comparison.sweep_spec import swept_rows

Choices = Mapping[str, Mapping[str, Any]]
SAMPLERS = {"tpe": "TPE", "nsga2": "NSGA-II"}
STATES = (*ENDED, "retried")


def markdown(comparison: Comparison, header: Mapping[str, Any]) -> str:
    """The whole of tuning.md."""
    choices = {name: header["choices"][name] for name in swept_rows(comparison) if name in header["choices"]}
    versions = ", ".join(f"{name} {version}" for name, version in header["versions"].items())
    lines = [
        f"# {header['name']}\n\n{header['intent']}\n\n    {header['command']}\n",
        f"- Commit: {', '.join(sorted({choice['sweep']['git_sha'] for choice in choices.values()}))}",
        f"- Versions: {versions}",
        f"- Hardware: {header['hardware']}",
        f"- {_budget(comparison, choices)}",
        *([f"- Not tuned: {', '.join(fixed)}"] if (fixed := _fixed(comparison)) else []),
        "\n## Budget\n",
        markdown_table(["row", "trials", *STATES, "runs a trial", "core-time"], list(map(_cost_row, choices.items()))),
        *(_section(comparison, name, choice) for name, choice in choices.items()),
    ]
    return "\n".join(lines)


def sentence(comparison: Comparison, choices: Choices) -> str:
    """What results.md says of its settings: how they were chosen, at what cost, and which rows were not tuned.

    It also says in how many rows the score alone did not choose: on few test clips it has few steps.
    """
    facts = _facts(choices)
    rows = count(len(choices), "row")
    spent = ", ".join(f"{name} {hours(choice['sweep']['cpu_seconds'])}" for name, choice in choices.items())
    shared = sum(len(_equals(choice)) > 1 for choice in choices.values())
    fixed = untuned(comparison, choices)
    return (
        f"the best of {count(facts['trials'], 'trial')} a row ({_sampler(facts)}) by {facts['metric']} on "
        f"{_where(facts)}, {count(facts['runs_a_trial'], 'run')} a trial; in {shared} of {rows} several trials "
        "shared the best score, and the lower loss, then the earlier trial, was chosen; core-time of the trials by "
        f"row: {spent}"
        f"{'; not tuned: ' + ', '.join(fixed) if fixed else ''} (all trials: tuning.json)"
    )


def untuned(comparison: Comparison, choices: Choices) -> list[str]:
    """The rows without a choice of their own: those of `sweep: false`, and those that were not swept yet."""
    return [name for name in comparison.row_names if name not in choices]


def chosen_line(row: str, choice: Mapping[str, Any]) -> str:
    """A row's choice for the terminal."""
    facts = choice["sweep"]
    words = ", ".join(f"{key}={value}" for key, value in choice["overrides"].items())
    failed = facts["states"].get("failed", 0)
    return (
        f"{row}: {words} ({facts['metric']} {_score_text(facts, _best(choice))}, trial {choice['trial']}, "
        f"the best of {facts['trials']}{f', {failed} of which failed' if failed else ''})"
    )


def count(number: int, noun: str) -> str:
    """`1 trial`, `2 trials`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _budget(comparison: Comparison, choices: Choices) -> str:
    facts = _facts(choices)
    return (
        f"Every row: {count(facts['trials'], 'trial')} ({_sampler(facts)}), each the mean of "
        f"{count(facts['runs_a_trial'], 'run')}: {_where(facts)}. Chosen: the best "
        f"{heading(facts['metric'], comparison.better)}, then the lowest loss, then the first trial"
    )


def _facts(choices: Choices) -> Mapping[str, Any]:
    """The facts of one study; in the budget all are alike."""
    found: Mapping[str, Any] = next(iter(choices.values()))["sweep"]
    return found


def _sampler(facts: Mapping[str, Any]) -> str:
    pruner = "" if facts["pruner"] == "none" else f", {facts['pruner']} pruner"
    return f"{SAMPLERS.get(facts['sampler'], facts['sampler'])}{pruner}, seed {facts['seed']}"


def _where(facts: Mapping[str, Any]) -> str:
    parts = [(name, facts[f"{name}s"]) for name in ("fold", "seed") if facts[f"{name}s"]]
    return ", ".join(f"{name}{'s' if len(values) > 1 else ''} {numbers(values)}" for name, values in parts)


def _fixed(comparison: Comparison) -> list[str]:
    swept = swept_rows(comparison)
    return [name for name in comparison.row_names if name not in swept]


def _cost_row(item: tuple[str, Mapping[str, Any]]) -> list[str]:
    name, facts = item[0], item[1]["sweep"]
    states = [str(facts["states"].get(state, 0)) for state in STATES]
    return [name, str(facts["trials"]), *states, str(facts["runs_a_trial"]), hours(facts["cpu_seconds"])]


def _section(comparison: Comparison, name: str, choice: Mapping[str, Any]) -> str:
    facts = choice["sweep"]
    chosen = ", ".join(f"{_short(key)} {_value(value)}" for key, value in choice["overrides"].items())
    equals = [number for number in _equals(choice) if number != choice["trial"]]
    loss = (
        f"\n\nTrial{'s' * (len(equals) > 1)} {numbers(equals)} had the same score: the lower loss, then the earlier "
        "trial, was chosen."
        if equals
        else ""
    )
    title = f"## {name}\n\nChosen: trial {choice['trial']}: {chosen}{loss}\n"
    why = f"\nNo importances: {facts['importances_why_none']}.\n" if facts["importances_why_none"] else ""
    return "\n".join([title, _space_table(facts) + why, _trial_table(comparison, choice)])


def _space_table(facts: Mapping[str, Any]) -> str:
    """What was tried of each setting, and how much of the score's variation goes with it."""
    shares = facts["importances"]
    rows = [
        [_short(key), _tried(parameter), f"{100 * shares[key]:.0f} %" if key in shares else MISSING]
        for key, parameter in facts["space"].items()
    ]
    return markdown_table(["setting", "tried", "importance"], rows)


def _tried(parameter: Mapping[str, Any]) -> str:
    if "choices" in parameter:
        text = ", ".join(_value(choice) for choice in parameter["choices"])
    else:
        step = f" in steps of {parameter['step']:g}" if parameter.get("step") else ""
        text = f"{parameter['low']:g} to {parameter['high']:g}{step}{', log' if parameter.get('log') else ''}"
    conditions = [
        f"{_short(key)} {' or '.join(map(_value, values))}" for key, values in parameter.get("when", {}).items()
    ]
    return f"{text} (with {', '.join(conditions)})" if conditions else text


def _trial_table(comparison: Comparison, choice: Mapping[str, Any]) -> str:
    facts, keys = choice["sweep"], list(choice["sweep"]["space"])
    score = heading(facts["metric"], comparison.better, comparison.predicts_frames)
    lines = [
        [
            str(trial["number"]),
            *(_value(trial["overrides"][key]) if key in trial["overrides"] else MISSING for key in keys),
            _score_text(facts, trial) if trial["score"] is not None else _why_none(trial),
            MISSING if trial["cpu_seconds"] is None else hours(trial["cpu_seconds"]),
            "chosen" if trial["number"] == choice["trial"] else "",
        ]
        for trial in choice["trials"]
    ]
    return markdown_table(["trial", *map(_short, keys), score, "core-time", ""], lines)


def _why_none(trial: Mapping[str, Any]) -> str:
    why = trial.get("error") or trial.get("pruned")
    return f"{trial['state']}: {why}" if why else str(trial["state"])


def _equals(choice: Mapping[str, Any]) -> list[int]:
    """The trials that have the chosen one's score, itself among them."""
    best = _best(choice)["score"]
    return [trial["number"] for trial in choice["trials"] if trial["score"] == best]


def _best(choice: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = next(trial for trial in choice["trials"] if trial["number"] == choice["trial"])
    return found


def _score_text(facts: Mapping[str, Any], trial: Mapping[str, Any]) -> str:
    return f"{trial['score']:.{places(facts['metric'], [trial['score']])}f}"


def _value(value: Any) -> str:
    if isinstance(value, float):
        return number_text(value) if abs(value) >= 100 else f"{value:.3g}"
    return str(value)


def _short(key: str) -> str:
    return key.rsplit("init_args.", 1)[-1]
