"""What a run says of itself, as plain tables and an escaped list. No Streamlit, no MLflow."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

import pandas as pd

from dashboard.names import clean

SETTINGS = {
    "row": "Row", "task": "Task", "rule": "Rule", "wiring": "Wiring", "network": "Network", "lmin": "Lmin",
    "horizon": "Horizon", "update": "Update", "stash": "Stash", "executor": "Executor", "stages": "Stages",
    "gap": "Gap", "detector": "Detector", "encoder": "Encoder", "dataset": "Data set", "split": "Split",
    "fold": "Fold", "seed": "Seed", "views": "Views", "data_found": "Videos found",
    "data_expected": "Videos expected", "device": "Device", "torch": "PyTorch", "git_sha": "Commit",
    "comparison": "Comparison", "run_name": "Run's folder",
}  # fmt: skip
MOST_METRICS = 1000
STYLE = """<style>
.facts {display: grid; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); gap: .5rem 1rem;
  margin: 0 !important; padding: 0 !important}
.facts dt {color: #595959; font-size: .8rem}
.facts dd, .facts dt {margin: 0 !important; overflow-wrap: anywhere}
</style>"""


def settings(tags: Mapping[str, str]) -> dict[str, str]:
    """Return {title: value} of the run layout's tags that are not empty."""
    return {title: clean(tags[name]) for name, title in SETTINGS.items() if tags.get(name)}


def description(facts: Mapping[str, str]) -> str:
    """Return an HTML description list; texts may hold anything."""
    pairs = "".join(f"<div><dt>{escape(title)}</dt><dd>{escape(text)}</dd></div>" for title, text in facts.items())
    return f'{STYLE}<dl class="facts">{pairs}</dl>'


def metric_table(metrics: Mapping[str, float]) -> pd.DataFrame:
    """Return `metric`, `value` of a run's last values, by name."""
    named = sorted((clean(name), value) for name, value in metrics.items())[:MOST_METRICS]
    return pd.DataFrame(named, columns=["metric", "value"])


def times(started: pd.Timestamp, ended: pd.Timestamp) -> list[str]:
    """Return when a run started and ended, and how long it took, as texts."""
    said = [
        f"{word} {time:%Y-%m-%d %H:%M} UTC" for word, time in (("Started", started), ("ended", ended)) if time == time
    ]
    if len(said) == 2:
        said.append(f"{(ended - started).total_seconds():,.0f} s")
    return said


def one_line(text: str) -> str:
    """Return text without control characters, whole: a command must not lose a part of a name."""
    return "".join(c for c in text if c.isprintable())
