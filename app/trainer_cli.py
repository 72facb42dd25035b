"""`fit`, `validate`, `test` and `predict`: LightningCLI with our defaults, tracking and checkpoints."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_modules.compat import ensure_torchvision

ensure_torchvision()

from lightning.pytorch import LightningDataModule, LightningModule, Trainer  # noqa: E402
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI  # noqa: E402

from app.checkpoint_io import CARD, missing, read_checkpoint  # noqa: E402
from app.checkpoints import RunCheckpoint  # noqa: E402
from app.noise import without_noise  # noqa: E402
from app.one_video import OneVideo, remembered  # noqa: E402
from app.parser import LongStreamsParser, PlainParser, given_class  # noqa: E402
from app.run import Run, RunConfig  # noqa: E402

TRAINER_DEFAULTS: dict[str, Any] = {
    "default_root_dir": "runs",
    "use_distributed_sampler": False,  # our samplers know their replica; another would break resuming
    "num_sanity_val_steps": 0,
    "log_every_n_steps": 10,
}


PARSER_OPTIONS: dict[str, Any] = {
    "model_class": LightningModule,
    "datamodule_class": LightningDataModule,
    "subclass_mode_model": True,
    "subclass_mode_data": True,
    "save_config_callback": RunConfig,
    "save_config_kwargs": {"save_to_log_dir": False},
    "trainer_class": Trainer,
    "trainer_defaults": TRAINER_DEFAULTS,
    "seed_everything_default": 0,
    "parser_class": PlainParser,
    # Part of an option's name would be taken for the whole, today, and no longer when a second one shares it.
    "parser_kwargs": {"prog": "skip-sideways", "allow_abbrev": False},
    "auto_configure_optimizers": False,
    "load_from_checkpoint_support": False,  # it would put objects into the checkpoint
}


class SkipSidewaysCLI(LightningCLI):
    """LightningCLI for one subcommand, so that only its options are built.

    Args:
        only: the subcommand whose options to build.
        tags: run layout tags that the caller sets (a comparison's row and name).
        experiment_name: MLflow experiment, before `--experiment` and the data set's name.
        parent_run_id: MLflow run above this one.
        args: as LightningCLI's.
        run: whether to run the subcommand.

    """

    def __init__(
        self,
        only: str = "fit",
        *,
        tags: Mapping[str, str] | None = None,
        experiment_name: str | None = None,
        parent_run_id: str | None = None,
        args: Any = None,
        run: bool = True,
    ) -> None:
        self.only = only
        self.tags, self.experiment_name, self.parent_run_id = dict(tags or {}), experiment_name, parent_run_id
        import_classes()
        self.task = task_path(given_class(args, "model"))
        remembers = {"parser_class": LongStreamsParser} if self.task.endswith(".LongMemory") else {}
        super().__init__(args=args, run=run, **PARSER_OPTIONS | remembers)

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """Return the one subcommand that was asked for and the arguments of the Trainer's method to leave out."""
        # weights_only: a checkpoint is always read as plain data. return_predictions: they are written, not kept.
        always = {"model", "datamodule", "weights_only", "verbose", "return_predictions"}
        loaders = {"fit": {"train_dataloaders", "val_dataloaders"}}
        return {self.only: always | loaders.get(self.only, {"dataloaders"})}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add our groups, defaults and links."""
        parser.add_lightning_class_args(RunCheckpoint, "checkpoint")
        parser.add_argument(
            "--experiment", type=str | None, default=None, help="MLflow experiment (default: the data set's name)"
        )
        if self.only == "predict":
            parser.add_argument(
                "--output",
                type=str | None,
                default=None,
                help="where predictions are written: a table (default: predictions.csv), of predicted frames a folder "
                "(default: predictions)",
            )
            parser.add_argument(
                "--video", type=str | None, default=None, help="read this one file to its end, not the data set's clips"
            )
            parser.add_argument(
                "--every",
                type=float | None,
                default=None,
                help="with --video: seconds a row of the table (default 0.5; 0: all)",
            )
            parser.add_argument(
                "--top_k", type=int | None, default=None, help="classes listed in each row of the table (default: 5)"
            )
        # Of another default, an option that both tasks have would keep its value: small_cnn for a network of frames.
        parser.set_defaults({"model": {"class_path": self.task}})
        parser.link_arguments("data.num_classes", "model.init_args.num_classes", apply_on="instantiate")
        parser.link_arguments("data.channels", "model.init_args.in_channels", apply_on="instantiate")
        parser.link_arguments("data.input_kind", "model.init_args.input_kind", apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the given arguments; what stands on this process's command line is not ours to look at."""
        self.config = parser.parse_object(args) if isinstance(args, Mapping) else parser.parse_args(args)

    def _parse_ckpt_path(self) -> None:
        """Leave the configuration as given: Lightning would load the file before ours is checked, see `Run`."""

    def before_instantiate_classes(self) -> None:
        """Let `predict --video` do without the data set, where the checkpoint tells what is needed of it."""
        path = self._get(self.config, "ckpt_path")
        if not self._get(self.config, "video") or path in (None, "last", "best"):
            return
        if data := remembered(read_checkpoint(Path(path))[CARD], self._get(self.config, "data")):
            self.config[self.only]["data"] = data

    def instantiate_classes(self) -> None:
        """Make data, model and trainer, with the run that is tracked between them."""
        self.config_init = self.instantiated()
        self.datamodule = self._get(self.config_init, "data")
        self.model = self._get(self.config_init, "model")
        tell(self.datamodule, self.model)
        self.tracked = Run(self)
        video = self._get(self.config, "video")
        if video and hasattr(self.model, "rollout"):
            raise ValueError(
                f"--video {video} with {type(self.model).__name__}, which is asked at steps that the data names, and a "
                "file names none; leave --video out to predict the data's test streams"
            )
        self.video = OneVideo(self.datamodule, Path(video), self.model.min_scored_frames) if video else None
        self.trainer = self.instantiate_trainer()
        if self.video and getattr(self.trainer.strategy, "makes_a_team", False):
            raise ValueError(
                "--video with --trainer.strategy depth_parallel: one video is read in one process; leave it out"
            )
        if hasattr(self.model, "check_data"):
            self.model.check_data(self.datamodule, self.trainer, training=self.only == "fit")
        self.tracked.attach(self.trainer)

    def instantiated(self) -> Any:
        """Return the configuration with objects in the place of their classes and settings."""
        return self.parser.instantiate(self.config)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Make the trainer with the run's logger, checkpoint writer and callbacks."""
        chosen = {**self._get(self.config_init, "trainer"), **kwargs}
        callbacks = [] if chosen.get("enable_checkpointing") is False else [self._get(self.config_init, "checkpoint")]
        trainer = self._instantiate_trainer(self.tracked.trainer_arguments(chosen), callbacks)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, RunConfig):
                callback.tracked = self.tracked
        return trainer

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        kwargs = super()._prepare_subcommand_kwargs(subcommand)
        kwargs["ckpt_path"] = self.tracked.ckpt_path
        if subcommand == "test" and getattr(self.model, "frame_targets", False):
            kwargs["verbose"] = False  # `FrameTable` prints the figures
        if subcommand == "predict":
            kwargs["return_predictions"] = False
            if self.video:
                del kwargs["datamodule"]
                clips = getattr(self.model, "frame_targets", False)
                kwargs["dataloaders"] = self.video.clip_loader() if clips else self.video.loader()
        return kwargs

    def plain_config(self) -> dict[str, Any]:
        """Return the whole configuration as plain values, without the values that links fill in."""
        import yaml

        config = yaml.safe_load(self.parser.dump(self.config, skip_unset=False))
        return config[self.subcommand] if self.subcommand else config


def import_classes() -> None:
    """Import every task, data set and strategy, so that short names are known."""
    import datamodules  # noqa: F401
    import lightning_modules.strategies.depth_parallel  # noqa: F401

    tasks()


def tasks() -> list[type[LightningModule]]:
    """Return the tasks that ship here, the default first."""
    from lightning_modules.action_recognition import ActionRecognition
    from lightning_modules.future_frames import FutureFrames
    from lightning_modules.long_memory import LongMemory

    return [ActionRecognition, FutureFrames, LongMemory]


def task_path(name: str | None = None) -> str:
    """Return the class path of a task by its name or path; the default task's where it is none of ours."""
    paths = [f"{task.__module__}.{task.__name__}" for task in tasks()]
    return next((path for path in paths if name in (path, path.rsplit(".", 1)[-1])), paths[0])


def tell(data: Any, model: LightningModule) -> None:
    """Tell the data what the task asks of it: frames of the shortest clips, steps of a long stream's rollout.

    Raises:
        ValueError: long streams for a task that takes clips.
    """
    if hasattr(data, "input_kind") and not hasattr(model, "rollout"):
        raise ValueError(
            f"{type(data).__name__} gives long streams, and {type(model).__name__} learns from clips; add --model "
            "LongMemory, or give --data MovingDigits"
        )
    data.min_frames = shortest_clip(model)
    data.min_scored_frames = getattr(model, "min_scored_frames", None)
    if (rollout := getattr(model, "rollout", None)) is not None:
        data.rollout = rollout


def shortest_clip(model: LightningModule) -> int:
    """Return the frames a clip needs for one valid gradient at the first unit: 2D-1 for D units (methods.md 2)."""
    if (given := getattr(model, "min_frames", None)) is not None:
        return int(given)
    depth = getattr(getattr(model, "network", None), "depth", 1)
    return 2 * int(depth) - 1


def with_saved_config(argv: list[str]) -> list[str]:
    """Return `argv` preceded by the configuration saved beside its checkpoint, where it names no configuration.

    ValueError: it names a checkpoint file that does not exist, is broken or foreign, or has no configuration beside it.
    """
    given = {argument.split("=", 1)[0] for argument in argv}
    path = given_value(argv, "--ckpt_path")
    if path is None or path in ("last", "best") or given & {"-c", "--config", "--model", "--data"}:
        return argv
    if not Path(path).is_file():
        raise missing(Path(path))
    saved = Path(path).parent / "config.yaml"
    if saved.is_file():
        return ["--config", str(saved), *argv]
    read_checkpoint(Path(path))  # a file that is no checkpoint of ours is the likelier mistake
    raise ValueError(
        f"--ckpt_path {path}: no config.yaml stands beside it; copy its run's there, or add --config FILE."
    )


def given_value(argv: list[str], option: str) -> str | None:
    """Return the value of `option`, given as `--option value` or `--option=value`; None where it is absent."""
    for i, argument in enumerate(argv):
        if argument.startswith(f"{option}="):
            return argument.split("=", 1)[1]
        if argument == option and i + 1 < len(argv):
            return argv[i + 1]
    return None


def run_subcommand(name: str, argv: list[str]) -> int:
    """Run one of Lightning's subcommands with its options and return the exit status."""
    with without_noise():
        cli = SkipSidewaysCLI(name, args=[name, *with_saved_config(argv)])
    if name == "fit" and cli.trainer.is_global_zero and not cli.trainer.fast_dev_run:  # type: ignore[attr-defined]
        print(cli.tracked.next_step())
    return 0
