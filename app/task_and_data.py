"""A configuration's task and data as `fit` makes them, without a run: nothing is stored, nothing is trained."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lightning_modules.compat import ensure_torchvision

ensure_torchvision()

from app.checkpoint_io import CARD, check_identity, identity, read_checkpoint  # noqa: E402
from app.trainer_cli import SkipSidewaysCLI, tell, with_saved_config  # noqa: E402


class TaskAndData(SkipSidewaysCLI):
    """Task and data of a command line of `fit`, with a checkpoint's weights if it names one.

    Args:
        argv: options of `fit`.
        prepare: changes the task's settings before it is made.

    Attributes:
        model: the task.
        datamodule: the data, not set up.

    Raises:
        ValueError: a configuration that makes no sense, or a checkpoint of another network.
    """

    def __init__(self, argv: Sequence[str], prepare: Callable[[Any], None] = lambda settings: None) -> None:
        self.prepare = prepare
        super().__init__("fit", args=["fit", *with_saved_config(list(argv))])

    def before_instantiate_classes(self) -> None:
        """Change the task's settings."""
        self.prepare(self._get(self.config, "model").init_args)

    def instantiate_classes(self) -> None:
        """Make data and task, and load the weights."""
        made = self.instantiated()
        self.datamodule, self.model = self._get(made, "data"), self._get(made, "model")
        tell(self.datamodule, self.model)
        if path := self._get(self.config, "ckpt_path"):
            self._load(path)

    def _load(self, given: str) -> None:
        if given in ("last", "best"):
            raise ValueError(f"--ckpt_path {given}: name the file here, such as --ckpt_path runs/NAME/{given}.ckpt")
        path = Path(given)
        content = read_checkpoint(path)
        check_identity(path, content[CARD], identity(self.model.hparams))
        self.model.load_state_dict(content["state_dict"])

    def _run_subcommand(self, subcommand: str) -> None:
        """Do nothing: all that is wanted is made."""
