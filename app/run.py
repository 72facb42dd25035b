"""One launch of the trainer as a tracked run: its name and folder, the MLflow run it is, the checkpoint it starts from.

--ckpt_path     fit                                           validate, test
(none)          new MLflow run                                refused: which weights?
last, best      runs/<name>/last.ckpt, same MLflow run        same MLflow run
FILE            same MLflow run if FILE is of this run,       same MLflow run if scored on the same (see evaluation.py),
                else a new one that names its origin          else one of kind `evaluation`, with tags of its own
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import SaveConfigCallback

from app.checkpoint_io import CARD, RunCheckpointIO, check_identity, identity, read_checkpoint
from app.checkpoints import BEST, LAST, RUN_FILE, RunCheckpoint
from app.environment import environment, git_state
from app.evaluation import evaluation_id, refuse_seen_videos, same_score, scored_arguments
from app.kept_state import RandomState
from app.one_video import remember
from app.outcome import Outcome
from app.parameter_count import ParameterCount
from app.predicted_frames import FrameTable, PredictedFrames
from app.run_layout import KEYS, flat, init_args, run_layout, run_name
from app.run_logger import RunLogger
from lightning_modules.callbacks import (
    ChosenSteps,
    ClockArtifact,
    ConfusionArtifact,
    FrameProtocol,
    ModuleCosts,
    SkippedClips,
    StepMemory,
    StepTime,
    TickLatency,
)

if TYPE_CHECKING:
    from app.trainer_cli import SkipSidewaysCLI

DEFAULT_EPOCHS = 10


class Run:
    """What one launch is called, continues and stores. Made by `SkipSidewaysCLI` between its model and its trainer."""

    def __init__(self, cli: "SkipSidewaysCLI") -> None:
        self.cli, self.subcommand = cli, cli.subcommand or "fit"
        self.config = cli.plain_config()
        self.layout = self._layout("cpu")
        self.name = run_name(self.layout, self.config)
        self.identity = self._identity()
        self.scored = scored_arguments(init_args(self.config["data"]))
        self.checkpoint: RunCheckpoint = cli._get(cli.config_init, "checkpoint")
        root = cli._get(cli.config_init, "trainer").get("default_root_dir") or "runs"
        self.folder = Path(self.checkpoint.dirpath or Path(root) / self.name)
        self.checkpoint.dirpath = str(self.folder)
        self.ckpt_path = self._resolve(self._given_ckpt_path())
        self.step = 0  # updates behind the weights to start from
        self.card = self._checked_card()
        self.logger: RunLogger | None = None
        self.evaluation = ""  # what a score belongs to that is not the run's own

    def _layout(self, device: str) -> dict[str, str]:
        cli = self.cli
        made = run_layout(
            self.config, data=cli.datamodule, model=cli.model, device=device, commit=git_state()[0],
            torch_version=torch.__version__,
        )  # fmt: skip
        return made | cli.tags

    def _identity(self) -> dict[str, Any]:
        data, linked = self.cli.datamodule, {"num_classes": "num_classes", "channels": "in_channels"}
        linked["input_kind"] = "input_kind"
        taken = {to: getattr(data, name, None) for name, to in linked.items() if to in self.cli.model.hparams}
        return identity(init_args(self.config["model"]), **taken)

    def _given_ckpt_path(self) -> str | None:
        given = self.cli._get(self.cli.config, "ckpt_path") if self.cli.subcommand else None
        if given is None and self.subcommand != "fit":
            raise ValueError(
                f"{self.subcommand} needs the weights to use: add --ckpt_path runs/NAME/last.ckpt (a file that "
                "`skip-sideways fit` wrote; its configuration is then taken from beside it), or --ckpt_path best."
            )
        return given

    def _resolve(self, given: str | None) -> Path | None:
        """Return the file to start from. `last` without a file, but with a started run, starts that run again."""
        if given not in ("last", "best"):
            return Path(given) if given else None
        path = self.folder / (LAST if given == "last" else BEST)
        if path.exists() or (given == "last" and self.subcommand == "fit" and self._started_run()):
            return path if path.exists() else None
        raise ValueError(
            f"--ckpt_path {given}: this configuration has no checkpoint yet (looked for {path}). Repeat the options "
            "of the run to continue (its folder holds config.yaml), name a file, or leave --ckpt_path out to start."
        )

    def _started_run(self) -> str | None:
        note = self.folder / RUN_FILE
        return json.loads(note.read_text(encoding="utf-8"))["run_id"] if note.exists() else None

    def _checked_card(self) -> dict[str, Any]:
        if self.ckpt_path is None:
            return {}
        content = read_checkpoint(self.ckpt_path)
        card, self.step = content[CARD], int(content.get("global_step", 0))
        check_identity(self.ckpt_path, card, self.identity)
        if self.subcommand in ("validate", "test"):
            names = getattr(self.cli.datamodule, "class_names", [])
            refuse_seen_videos(self.ckpt_path, card, self.layout, self.scored, names, self.subcommand)
        if self.subcommand == "fit" and "optimizer_states" not in content:
            raise ValueError(
                f"--ckpt_path {self.ckpt_path} holds weights only, so training can't go on from it. "
                f"Use the run's {LAST}."
            )
        return card

    def trainer_arguments(self, chosen: Mapping[str, Any]) -> dict[str, Any]:
        """Return the trainer's arguments with our logger, checkpoint writer and callbacks beside the user's."""
        arguments = dict(chosen)
        _refuse_automatic(arguments, accumulates="accumulate" in self.cli.model.hparams)
        if arguments.get("logger") in (None, True):
            self.logger = self._make_logger()
            arguments["logger"] = self.logger or False
        if arguments.get("max_epochs") is None and arguments.get("max_time") is None:
            arguments["max_epochs"] = DEFAULT_EPOCHS if arguments.get("max_steps", -1) == -1 else -1
        self.io = RunCheckpointIO(
            {
                "schema": 1,
                "run_name": self.name,
                "identity": self.identity,
                "layout": self.layout,
                "scored": self.scored,
                "data": remember(self.cli.datamodule),
            }
        )
        arguments["plugins"] = [*_as_list(arguments.get("plugins")), self.io]
        arguments["callbacks"] = [
            *_as_list(arguments.get("callbacks")),
            RandomState(),
            Outcome(),
            *_measures(),
        ]
        if arguments.get("enable_model_summary") is not False:
            arguments |= {"enable_model_summary": False, "callbacks": [*arguments["callbacks"], ParameterCount()]}
        if self.subcommand == "predict":
            from app.predictions import predictions_of

            arguments["callbacks"].append(predictions_of(self.cli))
            if self.cli.video:
                arguments["enable_progress_bar"] = False  # the rows that appear show how far it is
        return arguments

    def _make_logger(self) -> RunLogger | None:
        if self.subcommand == "predict":
            return None
        fit = self.subcommand == "fit"
        experiment = self.cli.experiment_name or self.cli._get(self.cli.config, "experiment") or self.layout["dataset"]
        run_id = self._run_to_continue()
        logger = RunLogger(experiment, self.name, run_id=run_id, skip_known_steps=fit)
        if not fit and not (run_id and logger.run_exists()):
            self.evaluation = evaluation_id(self.card, self.step, self.layout, self.scored)
            logger = RunLogger(experiment, self.name)
            logger.continue_run_with("evaluation", self.evaluation)
        return logger

    def _run_to_continue(self) -> str | None:
        if self.subcommand != "fit":
            return self.card.get("run_id") if same_score(self.card, self.layout, self.scored) else None
        if self.ckpt_path is None:
            return self._started_run() if self._given_ckpt_path() == "last" else None
        return self.card.get("run_id") if self.card.get("run_name") == self.name else None

    def attach(self, trainer: pl.Trainer) -> None:
        """Give the logger its tags, now that the trainer has chosen the device."""
        device = trainer.strategy.root_device
        self.layout = self._layout(torch.cuda.get_device_name(device) if device.type == "cuda" else str(device))
        if (stages := getattr(trainer.strategy, "stages", 1)) > 1:
            self.layout |= {"stages": str(stages), "executor": self.cli.model.executor}
        self.io.card["layout"] = self.layout
        if self.logger is None:
            return
        tags = {"kind": "run" if self.subcommand == "fit" else "evaluation", **self.layout, "run_name": self.name}
        if self.cli.parent_run_id:
            tags["mlflow.parentRunId"] = self.cli.parent_run_id
        if self.card.get("run_id"):
            tags["origin_run_id"] = self.card["run_id"]
        if self.evaluation:
            tags["evaluation"] = self.evaluation
        self.logger.tags = tags

    def store_setting(self, yaml_text: str) -> None:
        """Write the configuration to the run's folder and everything that describes the run to MLflow."""
        if self.subcommand == "fit":
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "config.yaml").write_text(yaml_text, encoding="utf-8")
        if self.logger is None or self.subcommand != "fit":
            return
        self.io.card["run_id"] = self.checkpoint.run_id = self.logger.run_id
        self.logger.log_params(
            {key: self.layout[key] for key in KEYS} | flat({k: self.config[k] for k in ("model", "data", "trainer")})
        )
        self.logger.log_text(yaml_text, "config.yaml")
        self.logger.log_dict(environment(), "environment.json")

    def next_step(self) -> str:
        """Return the line that says what to do after a fit."""
        last = self.folder / LAST
        if not last.exists():
            return "Done. Compare runs with `skip-sideways dashboard`."
        return f"Done. Next: `skip-sideways test --ckpt_path {last}`, or compare runs with `skip-sideways dashboard`."


class RunConfig(SaveConfigCallback):
    """Stores the configuration as YAML where the run's checkpoints are and as an artifact of its MLflow run."""

    tracked: Run | None = None

    def save_config(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Called once, on rank zero, before data is set up."""
        if self.tracked is not None:
            self.tracked.store_setting(self.parser.dump(self.config, skip_unset=False))


def _refuse_automatic(chosen: Mapping[str, Any], *, accumulates: bool) -> None:
    """Raise ValueError for the Trainer's own clipping and accumulation, which know nothing of training rules.

    Args:
        chosen: the Trainer's arguments.
        accumulates: whether the task can.
    """
    if chosen.get("gradient_clip_val"):
        value = chosen["gradient_clip_val"]
        raise ValueError(
            f"--trainer.gradient_clip_val {value} has no meaning here; add --model.clip_norm {value} instead."
        )
    if (every := chosen.get("accumulate_grad_batches", 1)) != 1:
        instead = (
            f"add --model.accumulate {every} instead" if accumulates else "leave it out: a batch is an update here"
        )
        raise ValueError(f"--trainer.accumulate_grad_batches {every}: {instead}.")


def _measures() -> list[Callback]:
    measured = [ModuleCosts(), StepTime(), StepMemory(), TickLatency(), SkippedClips()]
    return [
        *measured,
        ClockArtifact(),
        ConfusionArtifact(),
        ChosenSteps(),
        FrameProtocol(),
        PredictedFrames(),
        FrameTable(),
    ]


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]
