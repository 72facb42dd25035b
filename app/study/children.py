"""The MLflow runs of a study's trials: tagged below the study's own run, and marked as what became of them.

A pruned run is FINISHED with the tag `trial_state` = pruned: nothing went wrong. A failed one is FAILED with its error,
also where it failed before it could start an MLflow run.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from app.comparison.worker import one_line
from app.run_layout import SCHEMA_VERSION
from app.tracking import ensure_store, experiment_id, new_client, tracking_uri

ERROR_LENGTH = 500


@dataclass
class Child:
    """One run of a trial. The runner's caller fills in what came of it."""

    tags: dict[str, str]
    run_id: str | None = None
    pruned: str | None = None


class Children:
    """The runs below a study's own run; without `parent_run_id` nothing is tracked."""

    def __init__(self, study: str, parent_run_id: str | None) -> None:
        self.study, self.parent_run_id = study, parent_run_id

    @contextmanager
    def one(self, trial: int) -> Iterator[Child]:
        """Give a run its tags, and mark it when it ends. Errors pass through; one of MLflow's is only a warning."""
        tags = {"kind": "trial", "study": self.study, "trial": str(trial), "trial_state": "running"}
        child = Child(tags)
        try:
            yield child
        except Exception as error:
            cause = error
            self._mark(lambda: self._failed(child, cause))
            raise
        except BaseException:
            self.end_lost({trial})
            raise
        self._mark(lambda: self._ended(child))

    def end_lost(self, trials: set[int]) -> None:
        """End the runs that the processes of these trials left open."""
        self._mark(lambda: self._end_lost(trials))

    def _end_lost(self, trials: set[int]) -> None:
        client, experiment = self._client()
        open_runs = f"tags.`mlflow.parentRunId` = '{self.parent_run_id}' and tags.trial_state = 'running'"
        for run in client.search_runs([experiment], open_runs, max_results=1000):
            if int(run.data.tags["trial"]) in trials:
                client.set_tag(run.info.run_id, "trial_state", "lost")
                client.set_terminated(run.info.run_id, "KILLED")

    def _ended(self, child: Child) -> None:
        if not child.run_id:
            return
        client, _ = self._client()
        client.set_tag(child.run_id, "trial_state", "pruned" if child.pruned else "complete")
        if child.pruned:
            client.set_tag(child.run_id, "mlflow.note.content", f"Pruned {child.pruned}")

    def _failed(self, child: Child, error: Exception) -> None:
        client, experiment = self._client()
        found = [child.run_id] if child.run_id else []
        found = found or [run.info.run_id for run in client.search_runs([experiment], self._query(child.tags["trial"]))]
        if not found:
            tags = {**child.tags, "schema_version": SCHEMA_VERSION, "mlflow.parentRunId": str(self.parent_run_id)}
            found = [client.create_run(experiment, tags=tags, run_name=f"trial {child.tags['trial']}").info.run_id]
        for run_id in found:
            client.set_tag(run_id, "trial_state", "failed")
            client.set_tag(run_id, "error", one_line(error)[:ERROR_LENGTH])
            client.set_terminated(run_id, "FAILED")

    def _query(self, trial: int | str) -> str:
        return (
            f"tags.`mlflow.parentRunId` = '{self.parent_run_id}' and tags.trial = '{trial}' "
            "and tags.trial_state = 'running'"
        )

    def _client(self) -> tuple[Any, str]:
        uri = ensure_store(tracking_uri())
        client = new_client(uri)
        return client, experiment_id(client, uri, self.study)

    def _mark(self, step: Any) -> None:
        if not self.parent_run_id:
            return
        try:
            step()
        except Exception as error:
            warnings.warn(f"the MLflow run of a trial could not be marked: {error}", stacklevel=2)
