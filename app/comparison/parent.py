"""The MLflow parent run of a comparison or a study: made once, found again by its id, and given files as artifacts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from app.tracking import ensure_store, experiment_id, new_client, tracking_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient

SCHEMA_VERSION = "1"
NAMED = {"comparison": "comparison", "sweep": "study"}  # kind to the tag that holds its name


class ParentRun:
    """A parent run, continued where `run_id` is still in the store, else created. `kind`: one of NAMED.

    Errors: ValueError from `app.tracking` where the store can't be used.
    """

    def __init__(self, name: str, run_id: str | None, tags: Mapping[str, str], kind: str = "comparison") -> None:
        self.kind = kind
        uri = ensure_store(tracking_uri())
        self._client: MlflowClient = new_client(uri)
        self._experiment = experiment_id(self._client, uri, name)
        self.run_id = run_id if run_id and self._continue(run_id) else self._create(name, tags)

    def _continue(self, run_id: str) -> bool:
        from mlflow.exceptions import MlflowException

        try:
            run = self._client.get_run(run_id)
        except MlflowException:
            return False
        if run.info.lifecycle_stage != "active":
            return False
        self._client.update_run(run_id, status="RUNNING")
        return True

    def _create(self, name: str, tags: Mapping[str, str]) -> str:
        own = {"kind": self.kind, NAMED[self.kind]: name, "schema_version": SCHEMA_VERSION, **tags}
        return str(self._client.create_run(self._experiment, tags=own, run_name=name).info.run_id)

    def store(self, artifacts: list[Path]) -> None:
        """Store those of the files that are there as artifacts."""
        for path in artifacts:
            if path.is_file():
                self._client.log_artifact(self.run_id, str(path))

    def finish(self, status: str, artifacts: list[Path]) -> None:
        """Store the artifacts, end children whose process was stopped as KILLED, and end the run with `status`."""
        self.store(artifacts)
        self._end_children()
        self._client.set_terminated(self.run_id, status)

    def _end_children(self) -> None:
        query = f"tags.`mlflow.parentRunId` = '{self.run_id}' and attributes.status = 'RUNNING'"
        for run in self._client.search_runs([self._experiment], filter_string=query, max_results=1000):
            self._client.set_terminated(run.info.run_id, "KILLED")
