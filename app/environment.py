"""What a number was measured on: versions, hardware, threads and the commit, as every run stores them."""

import os
import platform
import subprocess
import sys
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "torch",
    "torchvision",
    "lightning",
    "torchmetrics",
    "jsonargparse",
    "numpy",
    "av",
    "mlflow",
    "pytorchvideo",
)
_SOURCE = Path(__file__).resolve().parent.parent


@lru_cache
def git_state(folder: Path = _SOURCE) -> tuple[str, bool]:
    """Return (commit, dirty) of the checkout this code runs from; ("unknown", False) where there is none.

    Asked once a process: a later commit is not the code that runs.
    """
    try:
        return git_output(folder, "rev-parse", "HEAD"), bool(
            git_output(folder, "status", "--porcelain", "--untracked-files=no")
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown", False


def git_output(folder: Path, *arguments: str) -> str:
    """Return what git prints in a folder. Errors: OSError or SubprocessError where git fails."""
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True, timeout=10
    )
    return done.stdout.strip()


def cpu_model() -> str:
    """Return the processor's name."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def package_versions() -> dict[str, str]:
    """Return the installed versions of the packages that can change a result."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def environment() -> dict[str, Any]:
    """Return the contents of `environment.json`: plain values only."""
    import torch

    commit, dirty = git_state()
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "cpu": cpu_model(),
        "cpu_count": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS"),
        "gpus": gpus,
        "cuda": torch.version.cuda,
        "git_sha": commit,
        "git_dirty": dirty,
        "packages": package_versions(),
    }
