"""What stands in the header of results.json: command, commit, versions and hardware. No date, no path, no host."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

from app.environment import cpu_model, git_output, package_versions

CODE = ("app", "lightning_modules", "datamodules", "pyproject.toml")
_ROOT = Path(__file__).resolve().parents[2]
_VERSIONS = ("torch", "lightning", "torchmetrics", "numpy")


def code_version(root: Path = _ROOT) -> str:
    """The commit (12 digits) the code runs from, with "-dirty" where tracked code differs from it; or "unknown".

    Only code counts: results that a comparison itself writes into the repository do not make it dirty.
    """
    if not (root / "pyproject.toml").is_file():
        return "unknown"  # installed as a package: a repository around it is another one
    try:
        commit = git_output(root, "rev-parse", "--short=12", "HEAD")
        changed = git_output(root, "status", "--porcelain", "--untracked-files=no", "--", *CODE)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return f"{commit}-dirty" if changed else commit


def hardware() -> str:
    """Processor and number of cores."""
    return f"{cpu_model()}, {os.cpu_count()} cores"


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that can change a result."""
    installed = package_versions()
    return {"python": platform.python_version(), **{name: installed[name] for name in _VERSIONS}}


def command_line(arguments: Sequence[str], command: str = "compare") -> str:
    """The command as a reader would type it: absolute paths become relative to the current folder."""
    words = [os.path.relpath(word) if os.path.isabs(word) else word for word in arguments]
    return shlex.join(["skip-sideways", command, *words])
