"""A Lightning logger that writes to MLflow in batches, so that logging costs next to nothing while a run trains.

One call to MLflow costs 26 ms on SQLite and 100 ms with four writers; a batch of a thousand values costs 0.2 s. So
values are collected and written every few seconds and when the run ends or fails. A resumed run recomputes what came
after its checkpoint; values that the store already has are not written twice.
"""

import json
import tempfile
import time
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch.loggers.logger import Logger, rank_zero_experiment
from lightning.pytorch.utilities.rank_zero import rank_zero_only, rank_zero_warn

from app.tracking import ensure_store, experiment_id, new_client, tracking_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient

METRICS_A_CALL = 1000  # MLflow's limits for one log_batch
PARAMS_A_CALL = 100
TEXT_LIMIT = 500
STATUS = {"success": "FINISHED", "finished": "FINISHED", "failed": "FAILED"}


class RunLogger(Logger):
    """One MLflow run: created on first use or, given `run_id`, continued.

    `experiment_name`, `run_name`: as shown in MLflow. `tags`: text values set when the run starts.
    `flush_every_s`: longest time in seconds that a value waits before it is written.
    `skip_known_steps`: leave out values of steps that a continued run already has.
    """

    def __init__(
        self,
        experiment_name: str = "default",
        run_name: str | None = None,
        tags: Mapping[str, str] | None = None,
        run_id: str | None = None,
        uri: str | None = None,
        flush_every_s: float = 10.0,
        skip_known_steps: bool = False,
    ) -> None:
        super().__init__()
        self.uri = uri or tracking_uri()
        self.experiment_name, self.run_name, self.tags = experiment_name, run_name, dict(tags or {})
        self.flush_every_s = flush_every_s
        self.outcome: str | None = None  # "KILLED" where the run was stopped from outside
        self.latest: dict[str, float] = {}  # the last value of each metric, as logged in this process
        self._skip_known_steps = skip_known_steps
        self._run_id = run_id
        self._client: MlflowClient | None = None
        self._buffer: list[tuple[str, float, int, int]] = []  # key, value, timestamp_ms, step
        self._last_step: dict[str, int] = {}  # of each key, before this process continued the run
        self._known_params: set[str] = set()
        self._flushed_at = time.monotonic()

    @property
    def name(self) -> str:
        """The experiment's name."""
        return self.experiment_name

    @property
    def version(self) -> str | None:
        """The run's id, None before the run has started."""
        return self._run_id

    @property
    def run_id(self) -> str:
        """The run's id; starts the run if it has not started."""
        _ = self.experiment
        assert self._run_id is not None
        return self._run_id

    @property
    @rank_zero_experiment
    def experiment(self) -> "MlflowClient":
        """The MLflow client; the first access starts or continues the run."""
        if self._client is None:
            self._client = new_client(ensure_store(self.uri))
            self._continue_run() if self._run_id else self._start_run()
        return self._client

    def _start_run(self) -> None:
        assert self._client is not None
        experiment = experiment_id(self._client, self.uri, self.experiment_name)
        self._run_id = self._client.create_run(experiment, tags=self.tags, run_name=self.run_name).info.run_id

    def _continue_run(self) -> None:
        from mlflow.exceptions import MlflowException

        assert self._client is not None
        assert self._run_id is not None
        try:
            run = self._client.get_run(self._run_id)
        except MlflowException as error:
            raise ValueError(
                f"The checkpoint belongs to MLflow run {self._run_id}, which is not in the store {self.uri}. Point "
                "MLFLOW_TRACKING_URI at the store it was trained with, or add --trainer.logger false."
            ) from error
        self._known_params = set(run.data.params)
        for key in run.data.metrics if self._skip_known_steps else ():
            self._last_step[key] = max(m.step for m in self._client.get_metric_history(self._run_id, key))
        self._client.update_run(self._run_id, status="RUNNING")

    @rank_zero_only
    def log_params(self, params: Mapping[str, Any]) -> None:
        """Store parameters; ones the run already has are left as they are (MLflow's never change)."""
        from mlflow.entities import Param

        client = self.experiment
        new = [Param(k, str(v)[:TEXT_LIMIT]) for k, v in params.items() if k not in self._known_params]
        for start in range(0, len(new), PARAMS_A_CALL):
            client.log_batch(self.run_id, params=new[start : start + PARAMS_A_CALL])
        self._known_params.update(params)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace | None = None, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the command line stores the whole configuration, see `app.run_layout`."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Collect values of one step; they are written by `flush`, at the latest `flush_every_s` later."""
        now_ms, step = int(time.time() * 1000), step or 0
        for key, value in metrics.items():
            if key == "epoch":
                continue
            self.latest[key] = float(value)
            if step > self._last_step.get(key, -1):
                self._buffer.append((key, float(value), now_ms, step))
        if len(self._buffer) >= METRICS_A_CALL or time.monotonic() - self._flushed_at > self.flush_every_s:
            self.try_flush()

    def log_ahead(self, metrics: Mapping[str, Any], step: int) -> None:
        """Collect values of a step that Lightning will log a second time, and leave out that second time."""
        self.log_metrics({key: float(value) for key, value in metrics.items()}, step)
        for key in metrics:
            self._last_step[key] = max(step, self._last_step.get(key, -1))

    def try_flush(self) -> None:
        """Flush; on failure keep the values for the next time, since a lost store must not end a running training."""
        try:
            self.flush()
        except Exception as error:
            self._flushed_at = time.monotonic()
            rank_zero_warn(f"Metrics are kept in memory, the store {self.uri} did not take them: {error}")

    @rank_zero_only
    def flush(self) -> None:
        """Write all collected values. Raises what MLflow raises; the values not yet written are kept."""
        from mlflow.entities import Metric

        client = self.experiment
        while self._buffer:
            chunk = self._buffer[:METRICS_A_CALL]
            client.log_batch(self.run_id, metrics=[Metric(k, v, t, s) for k, v, t, s in chunk])
            del self._buffer[: len(chunk)]
        self._flushed_at = time.monotonic()

    @property
    def started(self) -> bool:
        """Whether this process has started or continued the run."""
        return self._client is not None

    def run_exists(self) -> bool:
        """Return whether the run to continue is in the store."""
        from mlflow.exceptions import MlflowException

        try:
            new_client(ensure_store(self.uri)).get_run(self._run_id or "")
        except MlflowException:
            return False
        return True

    def continue_run_with(self, tag: str, value: str) -> None:
        """Continue the experiment's newest run that has this tag; a new run starts where there is none."""
        client = new_client(ensure_store(self.uri))
        experiment = client.get_experiment_by_name(self.experiment_name)
        if experiment is None:
            return
        found = client.search_runs([experiment.experiment_id], f"tags.{tag} = '{value}'", max_results=1)
        self._run_id = found[0].info.run_id if found else None

    def try_tag(self, key: str, value: str) -> None:
        """Set one tag, or warn where the store does not take it: for use while another error is on its way."""
        try:
            self.set_tag(key, value)
        except Exception as error:
            rank_zero_warn(f"The tag {key}={value} could not be stored in {self.uri}: {error}")

    @rank_zero_only
    def set_tag(self, key: str, value: str) -> None:
        """Set one tag of the run."""
        self.experiment.set_tag(self.run_id, key, value)

    @rank_zero_only
    def log_text(self, text: str, artifact_file: str) -> None:
        """Store text as an artifact of that name."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / Path(artifact_file).name
            path.write_text(text, encoding="utf-8")
            self.experiment.log_artifact(
                self.run_id, str(path), str(Path(artifact_file).parent).replace(".", "") or None
            )

    def log_dict(self, content: Mapping[str, Any], artifact_file: str) -> None:
        """Store plain values as a JSON artifact of that name."""
        self.log_text(json.dumps(content, indent=2, sort_keys=True), artifact_file)

    @rank_zero_only
    def log_folder(self, local: str | Path, artifact_path: str) -> None:
        """Store every file below a folder as artifacts below `artifact_path`."""
        self.experiment.log_artifacts(self.run_id, str(local), artifact_path)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write what is left and end the run: FINISHED, FAILED, or KILLED where `outcome` says so.

        ValueError: the store does not take the last values (a warning where another error is on its way).
        """
        if self._client is None:
            return
        try:
            self.flush()
            self._client.set_terminated(self.run_id, self.outcome or STATUS.get(status, "FINISHED"))
        except Exception as error:
            message = (
                f"{len(self._buffer)} values could not be written to the store {self.uri} ({error}). Checkpoints "
                "are whole. Free space or restore the store, then run the same command with --ckpt_path last."
            )
            if status == "failed":
                rank_zero_warn(message)
                return
            raise ValueError(message) from error
