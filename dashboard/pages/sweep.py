"""Sweep: one study, that is which values were tried, what they gave, and the command that runs the best.

study  ->  facts, progress  ->  Pareto front | best trial  ->  history, importances  ->  parallel coordinates
       ->  values over validations  ->  all trials, errors
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd
import streamlit as st

from dashboard import (
    cached,
    empty,
    links,
    run_facts,
    sweep_charts,
    sweep_history,
    sweep_parallel,
    sweep_reading,
    sweep_tables,
)
from dashboard.chosen_runs import GOING
from dashboard.names import code
from dashboard.plain import sentence
from dashboard.runs import OTHER_STUDIES, StoreMissing, StoreUnreachable
from dashboard.sweep_reading import NotYet
from dashboard.sweep_space import short
from dashboard.sweep_study import COUNTED, STATES, Study, Trial

if TYPE_CHECKING:
    from streamlit.delta_generator import DeltaGenerator

SHOWN_ERRORS = 5
SHOWN_NUMBERS = 20
_ENDED_EARLY = {"KILLED": "was stopped before its end", "FAILED": "failed"}


def draw(uri: str) -> None:
    """Draw the page for the store at `uri`."""
    heading()
    try:
        studies = cached.studies(uri)
        if studies.empty:
            empty.no_study("The store has no study (a run of tag `kind` = `sweep`)" + unread(uri), uri)
        else:
            draw_chosen(uri, studies)
    except StoreMissing as reason:
        empty.no_study(str(reason), uri)
    except StoreUnreachable as reason:
        empty.no_answer(str(reason), uri)


def unread(uri: str) -> str:
    """Return the end of a sentence: the studies that the store has in another version of the run layout."""
    found = {what: number for what, number in cached.left_out(uri).items() if what.startswith(OTHER_STUDIES)}
    if not found:
        return "."
    return " that can be read: " + "; ".join(f"{number:,} {what}" for what, number in found.items()) + "."


def heading() -> None:
    """Draw the title and the button that reads the store and the studies again."""
    left, right = st.columns([8, 1], vertical_alignment="bottom")
    left.title("Sweep", anchor=False)
    if right.button("Reload", icon=":material/refresh:", width="stretch", help="Read the store again"):
        cached.forget()
        sweep_reading.forget()


def titles_of(studies: pd.DataFrame) -> dict[str, str]:
    """Return {run id: title}, the newest first; a name that several have with its start and the run's id."""
    twice = studies["name"].duplicated(keep=False)
    started = studies["started"].dt.strftime("%Y-%m-%d %H:%M UTC").fillna("not started")
    told = studies["name"] + " · " + started + " · " + studies["run_id"].str[:8]
    return dict(zip(studies["run_id"], studies["name"].where(~twice, told), strict=True))


def draw_chosen(uri: str, studies: pd.DataFrame) -> None:
    """Draw the choice of a study and its parts."""
    asked = links.asked("study")
    if asked and not studies["run_id"].isin(asked).any():
        st.warning(f"The study {code(asked[0])} of the address is not in this store; here is another one.")
    columns = st.columns([3, 2, 1], vertical_alignment="bottom")
    with columns[0]:
        resets = ["objective", "across", "upright", "log"]
        run_id = links.choose("Study", titles_of(studies), "study", resets=resets)
    run = studies[studies["run_id"] == run_id].iloc[0]
    study = sweep_reading.study_of(uri, run_id, run["ended"])
    if isinstance(study, NotYet) and run["status"] in GOING:
        st.info(f"There is nothing to show before the first trial has ended; the page looks again. {sentence(study)}")
    elif isinstance(study, str) and run["status"] in GOING:
        st.info(f"This study cannot be shown now; the page looks again. {sentence(study)}")
    elif isinstance(study, str):
        st.warning(f"This study cannot be shown: {sentence(study)}")
    else:
        draw_study(study, run, columns[1:])
    if run["status"] in GOING:
        sweep_reading.follow(uri, run_id, study)


def draw_study(study: Study, run: pd.Series, beside: Sequence[DeltaGenerator]) -> None:
    """Draw every part of a study. `beside`: the two places for the choices of objective and scale."""
    draw_head(study, run)
    for said in study.left_out:
        st.warning(sentence(said))
    if not study.trials:
        st.info("No trial has begun yet.")
        return
    none = not study.complete()
    if none:
        draw_errors(study)
    if len(study.objectives) > 1:
        draw_front(study)
    objective, log = choose_objective(study, *beside)
    left, right = st.columns([5, 4], gap="large")
    with left:
        draw_best(study)
    with right:
        draw_importances(study, objective)
    draw_history(study, objective, log=log)
    draw_parallel(study, objective, log=log)
    draw_curves(study)
    draw_trials(study, objective)
    if not none:
        draw_errors(study)


def draw_head(study: Study, run: pd.Series) -> None:
    """Draw what the study is, how far it is, and how to go on with one that ended early."""
    facts: dict[str, str] = {}
    for objective in study.objectives:
        way = "Minimised" if objective.lower else "Maximised"
        facts[way] = f"{facts[way]}, {objective.metric}" if way in facts else objective.metric
    facts |= study.facts
    if study.cpu_seconds is not None:
        facts["Core-time"] = core_time(study.cpu_seconds)
    facts["Began"] = "–" if pd.isna(run["started"]) else f"{run['started']:%Y-%m-%d %H:%M} UTC"
    st.html(run_facts.description(facts))
    counts = study.counts()
    done = sum(counts.get(state, 0) for state in COUNTED)
    listed = ", ".join(f"{number:,} {state}" for state, number in counts.items())
    text = f"{done:,} of {study.asked:,} trials" + (f": {listed}" if listed else "")
    if run["status"] in GOING:
        st.progress(min(done / max(study.asked, 1), 1.0), text=text)
    else:
        st.markdown(text)
    draw_end(study, run["status"], done)


def draw_end(study: Study, status: str, done: int) -> None:
    """Draw how a study ended, and the command that goes on with it where trials are missing."""
    going, missing = status in GOING, done < study.asked
    if status in _ENDED_EARLY:
        st.warning(f"The study {_ENDED_EARLY[status]}.", icon=":material/cancel:")
    elif not going and missing:
        st.info("The study ended before all its trials had run, as with `--limit-hours`.")
    if going:
        said = "If no worker runs it any more, this goes on with it, from the folder it was started in:"
    else:
        said = "To go on with it, from the folder it was started in:"
    if going or missing:
        draw_command(study.command, ("skip-sideways", "sweep"), said)


def core_time(seconds: float) -> str:
    """Return core-seconds in hours, minutes or seconds."""
    if seconds >= 3600:
        return f"{seconds / 3600:,.1f} core-hours"
    return f"{seconds / 60:.1f} core-minutes" if seconds >= 60 else f"{seconds:.0f} core-seconds"


def draw_command(command: str, begins: tuple[str, ...], said: str) -> None:
    """Draw a command to copy, quoted anew; nothing else than one of this program's own is offered to be copied."""
    try:
        words = shlex.split(command)
    except ValueError:
        words = []
    if tuple(words[: len(begins)]) != begins:
        if command:
            st.caption(f"The command that the study stored is none of `{' '.join(begins)}`, so it is not shown.")
        return
    st.markdown(said)
    st.code(shlex.join(words), language="bash", wrap_lines=True)


def draw_front(study: Study) -> None:
    """Draw the Pareto front of two objectives, and as a table the trials that nothing beats."""
    st.subheader("Pareto front", anchor=False)
    if not study.complete():
        st.info("No trial has a value of every objective yet.")
        return
    metrics = [objective.metric for objective in study.objectives]
    across, upright = metrics[1], metrics[0]
    if len(metrics) > 2:
        left, right = st.columns(2)
        with left:
            across = links.choose("Across", metrics, "across", default=across)
        with right:
            upright = links.choose("Upright", [each for each in metrics if each != across], "upright")
    places = metrics.index(across), metrics.index(upright)
    log = [study.objectives[place].lower and sweep_history.spans_decades(study, place) for place in places]
    st.altair_chart(sweep_charts.front(study, *places, log=log), key="front_chart")
    further = " of all objectives; the dotted line is the front of the two shown" if len(metrics) > 2 else ""
    st.caption(
        "A point is a complete trial. Filled, with their numbers: the Pareto front"
        f"{further}, that is the trials that no other beats in one objective without losing in another."
    )
    draw_table(study, sweep_tables.front(study), "front_table")


def draw_best(study: Study) -> None:
    """Draw the best trial: its values, its parameters, its command."""
    best = study.best
    if best is None:
        st.subheader("Best trial", anchor=False)
        ended = not any(study.counts().get(state) for state in ("running", "waiting"))
        st.info("No trial completed." if ended else "No trial is complete yet, so there is no best one.")
        return
    by = f" (the best by {code(study.objectives[0].metric)})" if len(study.objectives) > 1 else ""
    st.subheader(f"Best trial: {best.trial}", anchor=False)
    values = zip(study.objectives, best.values, strict=True)
    st.markdown(
        " · ".join(f"{code(objective.metric)} **{sentence(short(value))}**" for objective, value in values) + by
    )
    st.caption(chosen_on(study))
    draw_command(best.command, ("skip-sideways", "fit"), "To train it, from the folder the study was started in:")
    st.dataframe(sweep_tables.parameters(best.params, study), hide_index=True, key="best_table", placeholder="–")


def chosen_on(study: Study) -> str:
    """Return what the best value is not: a result; and how many trials share it."""
    complete, best = study.complete(), study.best
    on = ", ".join(
        f"{word if ',' in numbers else word[:-1]} {code(numbers)}"
        for word, title in (("folds", "Folds"), ("seeds", "Seeds of a trial"))
        if (numbers := study.facts.get(title))
    )
    said = f"Chosen on {on or 'the fold and seed of the experiment'} as the best of {len(complete):,} complete "
    said += f"{'trial' if len(complete) == 1 else 'trials'}, so no result: test it where nothing was chosen."
    same = sum(trial.values == best.values for trial in complete) if best else 0
    return said + (f" {same:,} trials share this value." if same > 1 else "")


def choose_objective(study: Study, first: DeltaGenerator, second: DeltaGenerator) -> tuple[int, bool]:
    """Draw the choice of an objective, where there are several, and of the scale, where values span decades.

    What is minimised opens on the logarithmic scale: of a score, small values are only bad ones.
    """
    metrics = [objective.metric for objective in study.objectives]
    if len(metrics) > 1:
        with first:
            metric = links.choose("Objective shown", metrics, "objective")
    else:
        links.absent("objective")
        metric = metrics[0]
    objective = metrics.index(metric)
    if not sweep_history.spans_decades(study, objective):
        links.absent("log")
        return objective, False
    with second:
        return objective, links.switch("Log scale", "log", default=study.objectives[objective].lower)


def draw_history(study: Study, objective: int, *, log: bool) -> None:
    """Draw the value of each trial and the best so far."""
    st.subheader("History", anchor=False)
    table = sweep_history.table(study, objective)
    if table.empty:
        st.info("No trial has begun yet.")
        return
    st.altair_chart(sweep_history.chart(study, objective, log=log), key="history_chart")
    st.caption(sweep_history.caption(study.counts(), edge=bool(table["value"].isna().any())))


def draw_importances(study: Study, objective: int) -> None:
    """Draw what each parameter matters to an objective, or why that is not known."""
    st.subheader("Importances", anchor=False)
    metric = study.objectives[objective].metric
    shares = study.importances.get(metric)
    if not shares:
        reason = study.why_no_importances or "the study stored none"
        st.info(f"No importances of {code(metric)}: {sentence(reason)}.")
        return
    st.altair_chart(sweep_charts.importances(dict(shares), metric), key="importances_chart")
    st.caption(
        "Shares of 100 % by PED-ANOVA: how far a key's values in the best tenth of the trials differ from those in all "
        f"{study.importance_trials.get(metric, 0):,} complete trials. They say what mattered within this space, and "
        "little where trials are few."
    )


def draw_parallel(study: Study, objective: int, *, log: bool) -> None:
    """Draw the parallel coordinates."""
    st.subheader("Parallel coordinates", anchor=False)
    complete = study.complete()
    if not complete or not any(trial.params for trial in complete):
        st.info("No complete trial with parameters yet.")
        return
    st.altair_chart(sweep_parallel.chart(study, objective, log=log), key="parallel_chart")
    shown = len(sweep_parallel.drawn(study, objective))
    said = f"A line is a complete trial, from its parameters down to {code(study.objectives[objective].metric)}."
    said += f" Dark is good; the best, trial {study.ranked(objective)[0].number}, is bold."
    if any(set(study.parameters) - set(trial.params) for trial in complete):
        said += " At `–`: trials that do not have the parameter."
    if shown < len(complete):
        said += f" The best {shown:,} of {len(complete):,} trials."
    st.caption(said + sweep_parallel.left_out(study, objective))


def draw_curves(study: Study) -> None:
    """Draw what trials reported while they ran, where any did more than once."""
    reporting = sweep_charts.reporting(study)
    if max((len(trial.steps) for trial in reporting), default=0) < 2:
        return
    st.subheader("Values over validations", anchor=False)
    st.altair_chart(sweep_charts.curves(study), key="curves_chart")
    st.caption(curves_caption(study, reporting))


def curves_caption(study: Study, shown: list[Trial]) -> str:
    """Return how to read the chart; names only what it shows."""
    states = Counter(trial.state for trial in shown)
    said = "A line is a trial: its value at each validation, over several folds the mean so far. A marker stands at "
    said += "its last; pruned ones end early." if states["pruned"] else "its last."
    if study.best and any(trial.number == study.best.trial for trial in shown):
        said += " Bold: the best."
    every = Counter(trial.state for trial in study.trials if trial.steps)
    if len(shown) < every.total():
        counted = ", ".join(f"{states[state]:,} of {every[state]:,} {state}" for state in STATES if every[state])
        said += f" Shown are {counted}: of the complete the best, of the others the newest."
    return said


def draw_trials(study: Study, objective: int) -> None:
    """Draw all trials as a table, and the button that saves them."""
    st.subheader("All trials", anchor=False)
    listed = sweep_tables.ordered(study, objective)
    draw_table(study, sweep_tables.trials(study, listed)[0].dropna(axis="columns", how="all"), "trials_table")
    st.caption("The best first; a click on a column's head sorts by it.")
    st.download_button("Download csv", sweep_tables.csv(study, listed), sweep_tables.file_name(study), key="trials_csv")


def draw_table(study: Study, table: pd.DataFrame, key: str) -> None:
    """Draw a table of `sweep_tables.trials` under the titles of its columns."""
    titles = sweep_tables.trials(study, [])[1]
    config: dict[str, Any] = {
        name: st.column_config.NumberColumn(titles[name], format=_format(name))
        if table[name].dtype.kind in "fi"
        else st.column_config.TextColumn(titles[name])
        for name in table
    }
    st.dataframe(table, hide_index=True, column_config=config, key=key, placeholder="–")


def _format(name: str) -> str:
    return {"number": "%d", "seconds": "%.0f", "cpu_seconds": "%.0f"}.get(name, "%.4g")


def draw_errors(study: Study) -> None:
    """Draw the errors of failed trials as they stand, each once."""
    found = sweep_tables.errors(study)
    if not found:
        return
    st.subheader("Errors", anchor=False)
    for error, numbers in list(found.items())[:SHOWN_ERRORS]:
        named = ", ".join(map(str, numbers[:SHOWN_NUMBERS])) + (" …" if len(numbers) > SHOWN_NUMBERS else "")
        st.markdown(f"{'Trial' if len(numbers) == 1 else 'Trials'} {named}:")
        st.code(error, language=None, wrap_lines=True)
    if len(found) > SHOWN_ERRORS:
        st.caption(f"{len(found) - SHOWN_ERRORS:,} other errors stand in the table of all trials.")
