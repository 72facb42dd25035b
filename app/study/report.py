"""A study in words: report.md, the lines in the terminal and the table of trials, all made from the summary alone.

The same summary gives the same text. No date, no host.
"""

from __future__ import annotations

import csv
import io
import json
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from app.comparison.estimate import hours as duration
from app.comparison.formats import MISSING, markdown_table, numbers, plain_table
from app.study.summary import counts

Summary = Mapping[str, Any]
WIDTH = 100  # of the terminal
SHOWN, TOP, BAR = 5, 10, 20
FRONT = "Pareto front: no other trial is at least as good in every objective and better in one"


def markdown(summary: Summary) -> str:
    """Return the whole of report.md."""
    sections = [
        f"# Sweep {summary['study']}\n",
        f"    {summary['command']}\n",
        _headline(summary),
        _best(summary),
        _importances(summary),
        _front(summary),
        _top(summary),
        _failed(summary),
        _space(summary),
    ]
    return "\n".join(section for section in sections if section)


def terminal(summary: Summary) -> str:
    """Return the best trials, or of several objectives the front, with what they say; no line is wider than 100."""
    by_number = {trial["number"]: trial for trial in summary["trials"]}
    several = len(summary["objectives"]) > 1
    shown = summary["front"] if several else [trial["number"] for trial in ranked(summary)]
    lines = [f"{summary['study']}: {states(summary)}; {hours(summary)}"]
    if shown:
        lines += [
            "",
            FRONT if several else "Best trials",
            _trial_lines(summary, [by_number[number] for number in shown[:SHOWN]]),
        ]
        lines += [f"... and {len(shown) - SHOWN} more"] if len(shown) > SHOWN else []
    for entry in summary["importances"]:
        words = ", ".join(
            f"{short(key, summary['space'])} {100 * share:.0f} %" for key, share in entry["values"].items()
        )
        lines.append(f"Importance for {entry['metric']}: {words}")
    errors = failures(summary)
    lines += [f"Failed: {named(trials)}: {error}" for error, trials in list(errors.items())[:SHOWN]]
    lines += [f"... and {len(errors) - SHOWN} errors more"] if len(errors) > SHOWN else []
    if summary["best"]:
        lines += ["", caution(summary)]
    return "\n".join(_fitted(line) for line in "\n".join(lines).splitlines())


def trials_csv(summary: Summary) -> str:
    """Return one line a trial: number, state, each objective, each key of the space, times, error."""
    metrics, keys = [each["metric"] for each in summary["objectives"]], list(summary["space"])
    last = ["seconds", "cpu_seconds", "retry_of", "pruned", "error", "run_ids"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["number", "state", *metrics, *keys, *last])
    for trial in summary["trials"]:
        values = trial["values"] or [None] * len(metrics)
        params = [_cell(trial["params"].get(key)) if key in trial["params"] else "" for key in keys]
        rest = [*(trial[key] for key in last[:-1]), " ".join(trial["run_ids"])]
        writer.writerow([trial["number"], trial["state"], *values, *params, *rest])
    return text.getvalue()


def ranked(summary: Summary) -> list[Mapping[str, Any]]:
    """Return the complete trials, best by the first objective first; the best is the one that the summary names."""
    sign = -1.0 if summary["objectives"][0]["direction"] == "maximize" else 1.0
    best = summary["best"] and summary["best"]["trial"]
    complete = [trial for trial in summary["trials"] if trial["values"] and None not in trial["values"]]
    return sorted(complete, key=lambda trial: (sign * trial["values"][0], trial["number"] != best, trial["number"]))


def states(summary: Summary) -> str:
    """Return how many trials are in each state: `32 complete, 6 pruned, 2 failed of 40 trials`."""
    words = ", ".join(f"{number} {state}" for state, number in counts(summary).items())
    return f"{words or 'none'} of {summary['trials_asked']} trials"


def hours(summary: Summary) -> str:
    """Return what all runs took of one core: `12 min of core time`."""
    return f"{duration(summary['cpu_seconds'])} of core time"


def caution(summary: Summary) -> str:
    """Return the sentence that says what the numbers are not: a result."""
    complete = counts(summary).get("complete", 0)
    metrics = " and ".join(each["metric"] for each in summary["objectives"])
    tested = [each["metric"] for each in summary["objectives"] if each["metric"].startswith("test/")]
    if tested:
        return (
            f"{metrics} on {where(summary)}: the best of {complete} trials is an optimistic figure, since it was "
            "chosen on these clips; report it on other folds."
        )
    return (
        f"{metrics} on {where(summary)}: chosen there as the best of {complete} trials, so not a result; report the "
        "test of best.yaml, on folds that chose nothing where the data has folds."
    )


def where(summary: Summary) -> str:
    """Return the folds and seeds on which trials ran: `folds 0, 1, seed 0`."""
    parts = [
        f"{word if len(values) == 1 else word + 's'} {numbers(values)}"
        for word, values in (("fold", summary["folds"]), ("seed", summary["seeds"]))
        if values
    ]
    return ", ".join(parts) or "the experiment's own fold and seed"


def space_rows(space: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """Return (key, what it may be, when it is there) of a space in its plain form."""
    return [[key, _domain(plain), _condition(plain.get("when", {}))] for key, plain in space.items()]


def figure(value: float | None) -> str:
    """Return a number with four significant digits, whole from 1000 on."""
    if value is None:
        return MISSING
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def short(key: str, keys: Iterable[str] = ()) -> str:
    """Return a key without its section, or whole where another of `keys` would read the same.

    >>> short("model.init_args.lr"), short("data.init_args.size", ["data.init_args.size", "model.init_args.size"])
    ('lr', 'data.init_args.size')
    """
    last = key.rsplit("init_args.", 1)[-1]
    return key if any(other != key and other.rsplit("init_args.", 1)[-1] == last for other in keys) else last


def settings(params: Mapping[str, Any]) -> str:
    """Return a trial's values in words: `lr 0.0061, wiring concat`."""
    return ", ".join(f"{short(key, params)} {_word(value)}" for key, value in params.items())


def objective_text(summary: Summary, values: Sequence[float | None]) -> str:
    """Return a trial's values with their names: `val/top1 0.91, latency/tick_ms 3.2`."""
    pairs = zip(summary["objectives"], values, strict=True)
    return ", ".join(f"{each['metric']} {figure(value)}" for each, value in pairs)


def failures(summary: Summary) -> dict[str, list[Mapping[str, Any]]]:
    """Return the failed trials by their error, which is one line."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for trial in summary["trials"]:
        if trial["state"] == "failed":
            found.setdefault(" ".join((trial["error"] or "no reason is known").split()), []).append(trial)
    return found


def named(trials: Sequence[Mapping[str, Any]]) -> str:
    """Return `trial 3`, or `trials 3, 5`."""
    return f"trial{'s' * (len(trials) > 1)} {numbers([trial['number'] for trial in trials])}"


def space_text(space: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the space as a table for the terminal."""
    lines = [["key", "values", "only where"], *space_rows(space)]
    widths = [max(len(line[column]) for line in lines) for column in range(3)]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def _headline(summary: Summary) -> str:
    objectives = ", ".join(f"{each['metric']} ({each['direction']})" for each in summary["objectives"])
    rows = [
        ["experiment", summary["experiment"] or MISSING],
        ["objectives" if len(summary["objectives"]) > 1 else "objective", objectives],
        ["sampler, pruner", f"{summary['sampler']} (seed {summary['seed']}), {summary['pruner']}"],
        ["a trial's runs", f"{where(summary)}; its value is their mean"],
        ["trials", states(summary)],
        ["all runs", hours(summary)],
    ]
    return _words_table(["study", summary["study"]], rows)


def _best(summary: Summary) -> str:
    best = summary["best"]
    if best is None:
        return "## Best trial\n\nNo trial is complete yet.\n"
    title = "## Best trial" if len(summary["objectives"]) == 1 else "## Best trial by the first objective"
    rows = [[key, _word(value)] for key, value in best["params"].items()]
    text = f"Trial {best['trial']}: {objective_text(summary, best['values'])}\n"
    table = _words_table(["key", "value"], rows)
    return "\n".join([f"{title}\n", text, table, f"    {best['command']}\n", f"{caution(summary)}\n"])


def _importances(summary: Summary) -> str:
    lines = ["## What mattered\n"]
    for entry in summary["importances"]:
        rows = [[key, f"{100 * share:.0f} %", "█" * round(BAR * share)] for key, share in entry["values"].items()]
        lines += [f"{entry['metric']}, over {entry['trials']} complete trials:\n"]
        lines += [markdown_table(["key", "importance", ""], rows)]
    if summary["importances_why_none"]:
        lines += [f"No importances: {summary['importances_why_none']}.\n"]
    if summary["importances"]:
        lines += [
            "Shares of 100 % by PED-ANOVA: how far a key's values in the best tenth of the trials differ from those in "
            "all of them. They say what mattered within this space, and little where trials are few.\n"
        ]
    return "\n".join(lines)


def _front(summary: Summary) -> str:
    if len(summary["objectives"]) < 2 or not summary["front"]:
        return ""
    trials = {trial["number"]: trial for trial in summary["trials"]}
    note = "No other trial is at least as good in every objective and better in one; `front/` has a file for each.\n"
    table = _trial_table(summary, [trials[number] for number in summary["front"]])
    return "\n".join(["## Pareto front\n", note, table])


def _top(summary: Summary) -> str:
    trials = ranked(summary)
    if not trials:
        return ""
    by = f" by {summary['objectives'][0]['metric']}" if len(summary["objectives"]) > 1 else ""
    shown = f"the {TOP} best of {len(trials)}" if len(trials) > TOP else f"all {len(trials)}"
    return f"## Complete trials{by}: {shown}\n\n" + _trial_table(summary, trials[:TOP])


def _trial_table(summary: Summary, trials: Sequence[Mapping[str, Any]]) -> str:
    keys = list(summary["space"])
    header = ["trial", *(each["metric"] for each in summary["objectives"]), *(short(key, keys) for key in keys)]
    rows = [
        [
            str(trial["number"]),
            *(figure(value) for value in trial["values"]),
            *(_word(trial["params"][key]) if key in trial["params"] else MISSING for key in keys),
        ]
        for trial in trials
    ]
    return markdown_table(header, rows)


def _failed(summary: Summary) -> str:
    lines = [
        f"- {named(trials).capitalize()}: {error}\n"
        + "".join(f"    - {trial['number']}: {settings(trial['params'])}\n" for trial in trials)
        for error, trials in failures(summary).items()
    ]
    return "## Failed trials\n\n" + "".join(lines) if lines else ""


def _space(summary: Summary) -> str:
    return "## Space\n\n" + _words_table(["key", "values", "only where"], space_rows(summary["space"]))


def _words_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns are words, and so begin at the left."""
    return markdown_table(header, rows).replace(" ---: ", " --- ", len(header) - 1)


def _domain(plain: Mapping[str, Any]) -> str:
    if "choices" in plain:
        return ", ".join(_word(choice) for choice in plain["choices"])
    step = f", steps of {_number(plain['step'])}" if plain.get("step") is not None else ""
    return f"{_number(plain['low'])} to {_number(plain['high'])}{step}{', log' if plain.get('log') else ''}"


def _condition(when: Mapping[str, Sequence[Any]]) -> str:
    return "; ".join(f"{short(key)} is {' or '.join(_word(value) for value in values)}" for key, values in when.items())


def _number(value: float) -> str:
    return f"{value:g}"


def _word(value: Any) -> str:
    """Return a setting's value: a number with four digits, text as it is, anything else as JSON."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _cell(value: Any) -> Any:
    return value if isinstance(value, str | int | float) and not isinstance(value, bool) else json.dumps(value)


def _trial_lines(summary: Summary, trials: Sequence[Mapping[str, Any]]) -> str:
    header = ["trial", *(each["metric"] for each in summary["objectives"])]
    rows = [[str(trial["number"]), *(figure(value) for value in trial["values"])] for trial in trials]
    table = plain_table(header, rows).splitlines()
    last = ["settings", "--------", *(settings(trial["params"]) for trial in trials)]
    width = max(len(line) for line in table)
    return "\n".join(f"{line:<{width}}  {words}" for line, words in zip(table, last, strict=True))


def _fitted(line: str) -> str:
    """Return a line, wrapped where it is a sentence and cut where it is a row of a table."""
    if len(line) <= WIDTH:
        return line
    if "  " in line:
        return line[: WIDTH - 1] + "…"
    return textwrap.fill(line, WIDTH, break_long_words=True, break_on_hyphens=False)
