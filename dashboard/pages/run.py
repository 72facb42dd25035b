"""Run: everything one run stored of itself: how it ended, configuration, machine, modules, stages, clock, mistakes.

Each part is read when it is there; where it is not, the page names the artifact that is missing.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping

import pandas as pd
import streamlit as st
import yaml

from dashboard import (
    cached_artifacts,
    chosen_runs,
    clock_chart,
    confusion,
    histories,
    links,
    module_curves,
    run_curves,
    run_facts,
)
from dashboard.artifacts import ArtifactError
from dashboard.cached_artifacts import RunFacts
from dashboard.clock_chart import NoClock
from dashboard.confusion import NoMatrix
from dashboard.names import code
from dashboard.pages.learning import curve
from dashboard.plain import sentence

FUTURE_FRAMES = "future_frames"
ENDED_EARLY = ("FAILED", "KILLED")
STATUS = {  # icon and words for each of MLflow's
    "FINISHED": (":material/check_circle:", "finished"),
    "RUNNING": (":material/autorenew:", "running"),
    "FAILED": (":material/error:", "failed"),
    "KILLED": (":material/cancel:", "stopped before its end"),
    "SCHEDULED": (":material/schedule:", "waiting to start"),
}


def draw(uri: str) -> None:
    """Draw the page for the store at `uri`."""
    chosen_runs.for_store(uri, "Run", lambda runs: draw_runs(uri, runs))


def draw_runs(uri: str, runs: pd.DataFrame) -> None:
    """Draw the choice of one run, then its parts."""
    asked = links.asked("run")
    if asked and not runs["run_id"].isin(asked).any():
        st.warning(f"The run {code(asked[0])} of the address is not in this store; here is another one.")
    runs = of_asked_run(runs)
    scope = chosen_runs.choose_scope(runs)
    listed = scope.sort_values("label", kind="stable")
    titles = dict(zip(listed["run_id"], listed["label"], strict=True))
    newest = scope.sort_values("started", kind="stable")["run_id"].iloc[-1]
    run_id = links.choose("Run", titles, "run", default=newest)
    run = listed[listed["run_id"] == run_id].iloc[0]
    facts = cached_artifacts.facts(uri, run_id, run["ended"])
    draw_state(run, facts)
    draw_resume(uri, run, facts)
    left, right = st.columns(2, gap="large")
    with left:
        st.subheader("What it is", anchor=False)
        st.html(run_facts.description(run_facts.settings(facts.tags)))
    with right:
        st.subheader("Last values", anchor=False)
        if facts.metrics:
            st.dataframe(run_facts.metric_table(facts.metrics), hide_index=True, height=320, key="metrics_table")
        else:
            st.info("This run has logged nothing yet.")
    if module_curves.figures(facts.metrics):
        part("Modules", lambda: draw_modules(uri, run, facts))
    if run["task"] != FUTURE_FRAMES:  # which has no classes
        part("Confusion matrix", lambda: draw_confusion(uri, run))
    part("Stages and clock", lambda: draw_clock(uri, run))
    part("Configuration", lambda: draw_text(uri, run, "config.yaml", "yaml"))
    part("Environment", lambda: draw_text(uri, run, "environment.json", "json"))


def of_asked_run(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs of the data set and comparison of the run in the address, where that is all that it names."""
    asked = links.asked("run")
    found = runs[runs["run_id"].isin(asked)]
    if found.empty or links.asked("dataset") or links.asked("comparison"):
        return runs
    same = runs["comparison"].fillna("") == (found["comparison"].fillna("").iloc[0])
    return runs[(runs["dataset"] == found["dataset"].iloc[0]) & same]


def part(title: str, draw_it: Callable[[], None]) -> None:
    """Draw one part under its title, or which artifact it lacks."""
    st.subheader(title, anchor=False)
    try:
        draw_it()
    except (ArtifactError, NoClock, NoMatrix) as reason:
        st.info(sentence(str(reason)))


def draw_state(run: pd.Series, facts: RunFacts) -> None:
    """Draw how the run stands, with its error where it failed."""
    icon, words = STATUS.get(run["status"], (":material/help:", "in an unknown state"))
    times = " · ".join(run_facts.times(run["started"], run["ended"]))
    shown = {"FAILED": st.error, "KILLED": st.warning, "FINISHED": st.success}.get(run["status"], st.info)
    shown(f"This run {'is' if run['status'] in ('RUNNING', 'SCHEDULED') else 'has'} **{words}**. {times}", icon=icon)
    if facts.tags.get("error"):
        st.markdown("Its error:")
        st.code(facts.tags["error"][:2000], language=None, wrap_lines=True)


def draw_resume(uri: str, run: pd.Series, facts: RunFacts) -> None:
    """Draw the commands that go on with the run, or test it, from where its configuration says its checkpoints are."""
    given = run_folder(_configuration(uri, run), facts.tags)
    if given is None:
        return
    folder = shlex.quote(given)
    where = ", from the folder it was started in:"
    if run["status"] == "FINISHED":
        st.markdown(f"To test it again{where}")
        st.code(f"skip-sideways test --ckpt_path {folder}/last.ckpt", language="bash")
        return
    st.markdown(
        f"To continue it{where}" if run["status"] in ENDED_EARLY else f"If it was killed, to continue it{where}"
    )
    st.code(f"skip-sideways fit --config {folder}/config.yaml --ckpt_path last", language="bash")


def _configuration(uri: str, run: pd.Series) -> str:
    try:
        return cached_artifacts.text(uri, run["run_id"], "config.yaml", run["ended"])
    except ArtifactError:
        return ""


def run_folder(config: str, tags: Mapping[str, str]) -> str | None:
    """Return the folder of a run's checkpoints: what its config.yaml names, else its name in the trainer's root.

    None where it cannot be known: a comparison keeps its runs beside its results.
    """
    try:
        read = yaml.safe_load(config) or {}
        named = (read.get("checkpoint") or {}).get("dirpath")
        root = (read.get("trainer") or {}).get("default_root_dir") or "runs"
    except (yaml.YAMLError, AttributeError, ValueError, RecursionError):
        named, root = None, "runs"
    if isinstance(named, str) and named:
        return run_facts.one_line(named)
    if tags.get("comparison") or not tags.get("run_name"):
        return None
    return f"{run_facts.one_line(str(root))}/{run_facts.one_line(tags['run_name'])}"


def draw_modules(uri: str, run: pd.Series, facts: RunFacts) -> None:
    """Draw a figure of each module over training, and the last values of all their figures."""
    named = module_curves.with_curves(module_curves.figures(facts.metrics))
    if named:
        left, right = st.columns(2)
        with left:
            figure = links.choose("Figure of each module", named, "module_figure", default=next(iter(named)))
        with right:
            axis = links.choose("Against", histories.AXES, "axis")
        keys = module_curves.keys_of(facts.metrics, figure)
        points = run_curves.drawn({label: curve(uri, run, key, axis) for label, key in keys.items()})
        if points.empty:
            st.info(f"This run has no values of {code(figure)} that are finite numbers, or not on this axis.")
        else:
            st.altair_chart(
                module_curves.chart(points, figure, axis),
                key="modules_chart",
                alt=f"{named[figure]} of {len(keys)} modules; their last values are in the table.",
            )
    st.dataframe(module_curves.table(facts.metrics), hide_index=True, key="modules_table", placeholder="–")
    st.caption(
        "Last values. Each module has a loss of its own; `ensemble`: the weighted mean of all modules' answers. "
        "`cost`: multiply-accumulates and parameters of a module and of its head, and the head's share."
    )


def draw_confusion(uri: str, run: pd.Series) -> None:
    """Draw the confusion matrix and the table of classes."""
    names, counts = confusion.read_matrix(
        cached_artifacts.json_object(uri, run["run_id"], "confusion.json", run["ended"])
    )
    left, right = st.columns([3, 2], gap="large")
    classes = confusion.per_class(names, counts)
    drawn = confusion.drawn_classes(counts)
    with left:
        st.altair_chart(
            confusion.chart(names, counts),
            key="confusion_chart",
            alt=f"Confusion matrix of {len(drawn)} classes; the table of classes has the accuracy of each.",
        )
        if len(drawn) < len(names):
            st.caption(f"The {len(drawn)} of {len(names)} classes with most mistakes.")
    with right:
        st.dataframe(
            classes,
            hide_index=True,
            key="classes_table",
            placeholder="–",
            column_config={"accuracy": st.column_config.NumberColumn(format="%.3f"), "times": "times"},
        )
        st.caption("For each class: its test videos, their accuracy, and the class they are most often taken for.")


def draw_clock(uri: str, run: pd.Series) -> None:
    """Draw which frame each unit reads at each tick, and what the clock says of the units."""
    clock = cached_artifacts.json_object(uri, run["run_id"], "clock.json", run["ended"])
    st.html(clock_chart.clock_table(clock))
    st.caption(
        "Rows are units, columns are ticks; a number is the frame, from 1, that the unit's output or arriving gradient "
        "is about. `2–4`: along skips frame 4 has reached it as well. Stages are processes, numbered from the input."
    )
    st.html(run_facts.description(clock_chart.facts(clock)))


def draw_text(uri: str, run: pd.Series, path: str, language: str) -> None:
    """Draw a text artifact as it stands."""
    content = cached_artifacts.text(uri, run["run_id"], path, run["ended"])
    with st.expander(f"Show {code(path)}"):
        st.code(content, language=language, height=400)
    st.caption(f"Artifact {code(path)} of run {code(run['run_id'])}")
