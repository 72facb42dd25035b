"""Checkpoint files: written whole or not at all, read as plain data only, and known as our own.

A file is written under another name, forced to the disk and moved into place, so that a kill or a full disk leaves the
last one whole. Each carries a card under the key `skip_sideways`: the MLflow run it belongs to, what network it is, and
the names of its classes.
"""

import errno
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO

CARD = "skip_sideways"
UNFINISHED = ".*.writing"
IDENTITY = (
    *("network", "wiring", "width", "depth", "reach", "pool", "activation", "in_channels", "num_classes"),
    *("horizon", "predict"),
)
MEMORY_IDENTITY = (
    *("input_kind", "memory", "hidden", "layers", "window", "context", "context_width", "predictor_width"),
    *("projections", "encoder", "rule", "detector", "select"),  # a detector has weights of its own
)


class RunCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints atomically, each with `card` (plain values) in it; reads them with weights_only=True."""

    def __init__(self, card: Mapping[str, Any]) -> None:
        self.card = dict(card)

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write the file or raise one clear error, with the file that stood there untouched."""
        try:
            write_atomically({**checkpoint, CARD: self.card}, Path(path))
        except OSError as error:
            raise disk_error(Path(path), error) from error
        except RuntimeError as error:  # torch reports a failed write of its archive so
            if "unexpected pos" not in str(error) and "PytorchStreamWriter" not in str(error):
                raise
            raise disk_error(Path(path), error) from error

    def load_checkpoint(self, path: str | Path, map_location: Any = None, weights_only: bool | None = None) -> Any:
        """Read the file; ValueError where it is missing, broken or foreign."""
        return read_checkpoint(Path(path))


def write_atomically(checkpoint: Mapping[str, Any], path: Path) -> None:
    """Write beside `path`, flush to the disk, then rename over it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.writing")
    try:
        with open(unfinished, "wb") as file:
            torch.save(dict(checkpoint), file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def disk_error(path: Path, error: BaseException) -> ValueError:
    """Return the error for a checkpoint that could not be written."""
    cause = "the disk is full" if getattr(error, "errno", None) == errno.ENOSPC else str(error).splitlines()[0]
    kept = f"The checkpoint of the last interval is whole: {path}." if path.exists() else "There is none yet."
    return ValueError(
        f"A checkpoint could not be written to {path}: {cause}. {kept} Free space (or set --checkpoint.dirpath to "
        "another disk), then run the same command with --ckpt_path last."
    )


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return a checkpoint's contents on the CPU: tensors and plain containers, no code is run.

    ValueError: there is no such file, it is damaged, or it was not written by skip-sideways.
    """
    if not path.is_file():
        raise missing(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        whole = zipfile.is_zipfile(path)
        what = "holds objects other than tensors and plain values" if whole else "is damaged or no checkpoint"
        raise ValueError(f"--ckpt_path {path} {what}.{_expected(path)}") from error
    if not isinstance(content, dict) or CARD not in content or "state_dict" not in content:
        raise ValueError(f"--ckpt_path {path} was not written by skip-sideways.{_expected(path)}")
    return content


def missing(path: Path) -> ValueError:
    """Return the error for a checkpoint file that does not exist."""
    return ValueError(f"--ckpt_path {path}: there is no such file.{_nearby(path)}")


def _expected(path: Path) -> str:
    return f" Expected a file that `skip-sideways fit` wrote, such as runs/NAME/last.ckpt.{_nearby(path)}"


def _nearby(path: Path) -> str:
    """Return a sentence on what could be given instead."""
    others = sorted(p for p in path.parent.glob("*.ckpt") if p != path) or sorted(Path("runs").glob("*/*.ckpt"))
    if others:
        return f" Try --ckpt_path {max(others, key=lambda p: p.stat().st_mtime)}."
    return " Leave --ckpt_path out to start a new run."


def identity(model_init: Mapping[str, Any], **from_data: Any) -> dict[str, Any]:
    """Return what must agree between a checkpoint and a model for the weights to mean the same.

    `from_data`: what a model takes of its data, number of classes and channels.
    """
    known = {**model_init, **from_data}
    if "memory" not in known:
        return {key: known[key] for key in IDENTITY if key in known}
    if known["memory"] == "transformer":
        known["window"] = known["window"] or known["rollout"]
    unused = (
        set()
        if known["input_kind"] == "frames"
        else {"network", "wiring", "width", "depth", "pool", "projections", "encoder"}
    )
    unused |= set() if known["rule"] == "memup" else {"detector", "select"}
    return {key: known[key] for key in (*IDENTITY, *MEMORY_IDENTITY) if key in known and key not in unused}


def check_identity(path: Path, card: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Raise ValueError where the checkpoint holds another network than the one configured."""
    given = card.get("identity", {})
    differing = [key for key in expected if key in given and given[key] != expected[key]]
    if not differing:
        return
    pairs = ", ".join(f"{key} {given[key]} (configured: {expected[key]})" for key in differing)
    from_data = {"num_classes", "in_channels", "input_kind"}
    flags = " ".join(f"--model.{key} {given[key]}" for key in differing if key not in from_data)
    steps = ["Choose the --data it was trained on"] if from_data & set(differing) else []
    steps += [f"Add {flags}"] if flags else []
    raise ValueError(
        f"--ckpt_path {path} holds another network: {pairs}. {'. '.join(steps)}, or leave --ckpt_path out."
    )
