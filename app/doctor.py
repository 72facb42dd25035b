"""`skip-sideways doctor`: looks at this machine, one line a check, and says what to type where something is wrong.

A check is a function without arguments that yields findings. One that raises has failed: its message is the finding.
`note` is for what the product does without; only `FAIL` makes the exit code 1.
"""

import argparse
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

DISTRIBUTION = "skip-sideways"
MIN_FREE_GIB = 1.0
CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
REPOSITORY = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Finding:
    """One line of the report: `status name: found; type: advice`."""

    status: Literal["ok", "note", "FAIL"]
    name: str
    found: str
    advice: str = ""


Check = Callable[[], Iterator[Finding]]


def check_python() -> Iterator[Finding]:
    """Compare the interpreter with the range that the distribution declares."""
    from importlib.metadata import metadata

    from packaging.specifiers import SpecifierSet

    declared = metadata(DISTRIBUTION)["Requires-Python"]
    version = ".".join(str(part) for part in sys.version_info[:3])
    if SpecifierSet(declared).contains(version):
        yield Finding("ok", "python", f"{version} (declared {declared})")
    else:
        yield Finding("FAIL", "python", f"{version}, expected {declared}", "make clean install PYTHON=python3.11")


def check_packages() -> Iterator[Finding]:
    """Compare every installed dependency with the range that the distribution declares for it."""
    from importlib.metadata import PackageNotFoundError, requires, version

    from packaging.requirements import Requirement

    declared = [Requirement(line) for line in requires(DISTRIBUTION) or []]
    needed = [r for r in declared if r.marker is None or r.marker.evaluate({"extra": ""})]
    torch_range = next((str(r) for r in needed if r.name == "torch"), "torch")
    right = 0
    for requirement in needed:
        # torch stands in the same command, or pip may take a newer torch of several gigabytes.
        install = " ".join(f'"{r}"' for r in dict.fromkeys((torch_range, str(requirement))))
        advice = f"{sys.executable} -m pip install {install}"
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            yield Finding("FAIL", requirement.name, f"not installed, expected {requirement.specifier}", advice)
            continue
        if requirement.specifier.contains(found, prereleases=True):
            right += 1
        else:
            yield Finding("FAIL", requirement.name, f"{found}, expected {requirement.specifier}", advice)
    yield Finding("ok", "packages", f"{right} of {len(needed)} as declared, torch {version('torch')}")


def check_torchvision() -> Iterator[Finding]:
    """Say whether torchvision's compiled part was built for this torch; our repair makes a mismatch bearable."""
    from importlib.metadata import version

    from lightning_modules.compat import ensure_torchvision, torchvision_extension_loads

    pair = f"torchvision {version('torchvision')} beside torch {version('torch')}"
    built_alike = torchvision_extension_loads()
    ensure_torchvision()
    import torchvision.transforms.v2  # noqa: F401  (the import is the test)

    if built_alike:
        yield Finding("ok", "torchvision", f"{pair}: built for each other")
        return
    parts = "transforms, models and datasets work, ops.nms and io do not (nothing here needs them)"
    yield Finding("note", "torchvision", f"{pair}: built for different torches, repaired: {parts}")


def check_decoder() -> Iterator[Finding]:
    """Write a clip, decode it, compare frames with what was written."""
    from app.doctor_video import decode_written_clip

    yield Finding("ok", "decoder", decode_written_clip())


def check_torchcodec() -> Iterator[Finding]:
    """Say which decoder `auto` takes, and whether torchcodec reads the clip as PyAV does."""
    from app.doctor_video import decode_with_torchcodec
    from datamodules.decoding import resolve_decoder, torchcodec_problem

    yield Finding("ok", "decoder auto", f"takes {resolve_decoder('auto')}")
    problem = torchcodec_problem()
    try:
        found = "" if problem else decode_with_torchcodec()
    except Exception as error:
        problem = f"does not work: {_line(error)}"
    if problem:
        yield Finding("note", "torchcodec", f"{problem}; PyAV reads everything without it")
    else:
        yield Finding("ok", "torchcodec", found)


def check_pytorchvideo() -> Iterator[Finding]:
    """Read a clip through pytorchvideo, which nothing on the default path depends on."""
    from app.doctor_video import decode_with_pytorchvideo

    try:
        yield Finding("ok", "pytorchvideo", decode_with_pytorchvideo())
    except Exception as error:
        yield Finding("note", "pytorchvideo", f"does not work ({_line(error)}); everything else does without it")


def check_mlflow() -> Iterator[Finding]:
    """Say whether runs can be stored where MLFLOW_TRACKING_URI, or the default, points."""
    from app.doctor_store import inspect_store
    from app.tracking import tracking_uri

    yield Finding("ok", "mlflow store", inspect_store(tracking_uri()))


def check_devices() -> Iterator[Finding]:
    """Add two numbers on every accelerator, and name it."""
    import torch

    threads = f"{os.cpu_count()} cores, {torch.get_num_threads()} threads"
    yield Finding("ok", "cpu", threads)
    for index in range(torch.cuda.device_count()):
        _add_on(f"cuda:{index}")
        gib = torch.cuda.get_device_properties(index).total_memory / 2**30
        yield Finding("ok", f"cuda:{index}", f"{torch.cuda.get_device_name(index)}, {gib:.0f} GiB")
    if torch.backends.mps.is_available():
        _add_on("mps")
        yield Finding("ok", "mps", "Apple GPU")
    elif not torch.cuda.is_available():
        yield Finding("note", "gpu", "none that this torch can use; everything runs on the CPU")


def check_disk() -> Iterator[Finding]:
    """Compare the free space of the current directory, where runs are written, with the least that is needed."""
    free_gib = shutil.disk_usage(Path.cwd()).free / 2**30
    if free_gib < MIN_FREE_GIB:
        found = f"{free_gib:.2f} GiB free in {Path.cwd()}, expected {MIN_FREE_GIB:.0f} GiB"
        yield Finding("FAIL", "disk", found, "rm -r mlartifacts (if its runs may go), or cd to a larger disk")
    else:
        yield Finding("ok", "disk", f"{free_gib:.0f} GiB free here")


def check_chromium() -> Iterator[Finding]:
    """Look for the browser that one test drives."""
    path = next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)
    if path:
        yield Finding("ok", "chromium", path)
    else:
        yield Finding("note", "chromium", "none found; only the dashboard's browser test needs it and will skip")


def check_data() -> Iterator[Finding]:
    """Look for the folder of real videos; the generated dataset needs none."""
    folder = Path(os.environ.get("SKIP_SIDEWAYS_DATA") or REPOSITORY.parent / "shared" / "data")
    if folder.is_dir():
        yield Finding("ok", "data", f"{folder}: {', '.join(sorted(p.name for p in folder.iterdir() if p.is_dir()))}")
    else:
        found = f"no folder {folder}; MovingDigits needs none, for real videos set SKIP_SIDEWAYS_DATA"
        yield Finding("note", "data", found)


# Each check with its name and what to type when it raises.
CHECKS: dict[str, tuple[Check, str]] = {
    "python": (check_python, f"{sys.executable} -m pip install -e {REPOSITORY}"),
    "packages": (check_packages, f"{sys.executable} -m pip install -e {REPOSITORY}"),
    "torchvision": (check_torchvision, f"{sys.executable} -m pip install -e {REPOSITORY}"),
    "decoder": (check_decoder, f"{sys.executable} -m pip install --force-reinstall --no-deps av"),
    "torchcodec": (check_torchcodec, ""),
    "pytorchvideo": (check_pytorchvideo, ""),
    "mlflow store": (check_mlflow, "unset MLFLOW_TRACKING_URI"),
    "devices": (check_devices, 'CUDA_VISIBLE_DEVICES="" skip-sideways doctor (to go on without the accelerator)'),
    "disk": (check_disk, "cd to a directory that you can write to"),
    "chromium": (check_chromium, ""),
    "data": (check_data, "unset SKIP_SIDEWAYS_DATA"),
}


def examine(checks: dict[str, tuple[Check, str]] | None = None) -> Iterator[Finding]:
    """Yield the findings of every check; an exception becomes a FAIL with the check's own advice."""
    for name, (check, advice) in (checks or CHECKS).items():
        try:
            yield from check()
        except Exception as error:
            yield Finding("FAIL", name, _line(error), getattr(error, "advice", advice))


def _line(error: Exception) -> str:
    """Return the first line of an error's message, or its type where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _add_on(device: str) -> None:
    import torch

    total = (torch.ones(2, device=device) + 1).sum().item()
    if total != 4:
        raise RuntimeError(f"{device} computes (1+1)+(1+1) = {total}")


def render(finding: Finding, *, colour: bool) -> str:
    """Return one aligned line of the report."""
    status = f"{finding.status:<4}"
    if colour:
        status = {"ok": "\033[32m", "note": "\033[33m", "FAIL": "\033[31m"}[finding.status] + status + "\033[0m"
    advice = f"; type: {finding.advice}" if finding.advice else ""
    return f"{status}  {finding.name + ':':<18} {finding.found}{advice}"


def main(argv: list[str]) -> int:
    """Print the report; return 1 if any check failed, else 0."""
    parser = argparse.ArgumentParser(prog=f"{DISTRIBUTION} doctor", description="Check this machine, one line a check.")
    parser.parse_args(argv)
    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    failed = 0
    for finding in examine():
        print(render(finding, colour=colour), flush=True)
        failed += finding.status == "FAIL"
    print(f"\n{failed} failed: do what those lines say, then run doctor again." if failed else "\nNothing is wrong.")
    return 1 if failed else 0
