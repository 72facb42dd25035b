"""What a person sees while a study runs: one bar over its trials, and a line for each that has ended."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from app.comparison.estimate import hours
from app.comparison.progress import bar
from app.study.plan import Plan

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial


class Progress:
    """A bar on a terminal's stderr; without a terminal the lines alone. Use as a context manager."""

    def __init__(self, plan: Plan, study: Study) -> None:
        from app.study.storage import counting

        self._plan = plan
        self._ended = len([t for t in counting(study.get_trials(deepcopy=False)) if t.state.is_finished()])
        self._bar = bar(max(plan.trials, self._ended), self._ended, "trial")

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    def beat(self, trials: list[FrozenTrial]) -> None:
        """Redraw the clock, with how many trials run now."""
        running = len([trial for trial in trials if trial.state.name == "RUNNING"])
        self._bar.set_postfix_str(f"{running} running", refresh=False)
        self._bar.refresh()

    def wait_for(self, running: list[FrozenTrial]) -> None:
        """Say that only other commands' trials are left."""
        listed = ", ".join(f"{trial.number} ({trial.user_attrs.get('worker', 'just begun')})" for trial in running)
        self.say(f"Waiting for other workers: trial {listed}. Ctrl-C leaves them to it.")

    def say(self, sentence: str) -> None:
        """Print a line above the bar."""
        self._bar.clear()
        print(sentence, file=sys.stderr, flush=True)

    def ended(self, number: int, summary: Mapping[str, Any]) -> None:
        """A trial ended; `summary` is the study's, with it."""
        trial = next((trial for trial in summary["trials"] if trial["number"] == number), None)
        if trial is None:  # one too many
            return
        self.say(_line(trial, self._plan, summary))
        if trial["state"] != "retried":
            self._bar.update(1)


def _line(trial: Mapping[str, Any], plan: Plan, summary: Mapping[str, Any]) -> str:
    took = f" ({hours(trial['seconds'])})" if trial["seconds"] is not None else ""
    values = ", ".join(f"{key.rsplit('.', 1)[-1]}={_short(value)}" for key, value in trial["params"].items())
    best = summary["best"] and summary["best"]["trial"] == trial["number"]
    what = {
        "complete": lambda: ", ".join(
            f"{metric} {value:.4g}" for metric, value in zip(plan.metrics, trial["values"], strict=True)
        ),
        "pruned": lambda: f"pruned {trial['pruned']}",
        "failed": lambda: f"FAILED: {trial['error']}",
        "retried": lambda: "its worker died; it is run again",
    }.get(trial["state"], lambda: str(trial["state"]))()
    return f"trial {trial['number']}: {what}{took}{'  best so far' if best else ''}  {values}"


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
