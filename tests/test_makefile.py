"""The Makefile's set-up of `.venv`, with a stand-in for Python so that nothing is installed."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")

# Stands for the system's Python: notes what it is asked, and makes a venv of one file.
FAKE_PYTHON = """#!/bin/sh
echo "$@" >> calls
case "$1 $2" in
  "-c "*ensurepip*) exit $NO_ENSUREPIP ;;
  "-c "*version_info*) exit $TOO_OLD ;;
  "-c "*cuda*) echo "torch: no such module" >&2; exit $NO_GPU ;;
  "--version "*) echo "Python 3.9.2" ;;
  "-m venv")
    [ "$3" = --clear ] && rm -rf .venv
    mkdir -p .venv/bin
    cp venv-python .venv/bin/python
    chmod +x .venv/bin/python ;;
esac
"""


# Stands for the venv's Python: `-c` works, and pip does what $PIP_RESULT says.
FAKE_VENV_PYTHON = """#!/bin/sh
[ "$1" = -c ] && exit 0
echo "pip $*" >> calls
echo "the reason"
exit $PIP_RESULT
"""


@pytest.fixture
def checkout(tmp_path):
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(REPOSITORY / name, tmp_path)
    for name, text in (("python", FAKE_PYTHON), ("venv-python", FAKE_VENV_PYTHON)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    return tmp_path


def make(checkout, *arguments, python="./python", **environment):
    defaults = {"NO_ENSUREPIP": "0", "TOO_OLD": "0", "PIP_RESULT": "0", "NO_GPU": "0"}
    # A make above us (`make test`) must not hand its own flags and variables down.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(
        ["make", *arguments, f"PYTHON={python}"],
        cwd=checkout,
        env={**inherited, **defaults, **environment},
        capture_output=True,
        text=True,
        timeout=30,
    )


def calls(checkout, start):
    return [line for line in (checkout / "calls").read_text().splitlines() if line.startswith(start)]


@pytest.mark.parametrize(
    ("python", "environment", "said"),
    [
        ("absent-python", {}, "no 'absent-python' here: install Python 3.11 or newer"),
        ("./python", {"TOO_OLD": "1"}, "Python 3.9.2 is too old, expected 3.11 or newer: type 'make PYTHON="),
        ("./python", {"NO_ENSUREPIP": "1"}, "type 'sudo apt-get install python3-venv'"),
    ],
)
def test_an_unusable_python_gives_one_line_and_no_venv(checkout, python, environment, said):
    done = make(checkout, "install", python=python, **environment)
    assert done.returncode != 0
    ours = [line for line in done.stderr.splitlines() if "***" not in line]
    assert len(ours) == 1, done.stderr
    assert said in ours[0]
    assert not (checkout / ".venv").exists()


def test_the_real_version_check_passes_this_python_and_refuses_an_old_one(checkout):
    (line,) = [line for line in (checkout / "Makefile").read_text().splitlines() if "sys.version_info <" in line]
    code = line.split("-c '")[1].split("'")[0].replace("$(REQUIRED_PYTHON)", "3.11")
    old = code.replace("sys.version_info", "(3, 10, 9)")
    for program, expected in ((code, False), (old, True)):
        with pytest.raises(SystemExit) as ended:
            exec(program, {})
        assert ended.value.code is expected


def test_the_install_is_done_once_and_again_when_pyproject_changes(checkout):
    for _ in range(2):
        assert make(checkout, "install").returncode == 0
    assert len(calls(checkout, "pip")) == 1
    assert "-e .[dev]" in calls(checkout, "pip")[0]
    later = (checkout / ".venv" / ".installed").stat().st_mtime + 10
    os.utime(checkout / "pyproject.toml", (later, later))
    assert make(checkout, "install").returncode == 0
    assert len(calls(checkout, "pip")) == 2
    assert len(calls(checkout, "-m venv")) == 1, "a whole venv is kept"


def test_a_failed_install_says_why_and_starts_again_from_nothing(checkout):
    failed = make(checkout, "install", PIP_RESULT="1")
    assert failed.returncode != 0
    assert "the reason" in failed.stderr
    assert "type 'make install' again" in failed.stderr
    assert not (checkout / ".venv" / ".installed").exists()
    (checkout / ".venv" / "half").touch()
    assert make(checkout, "install").returncode == 0
    assert not (checkout / ".venv" / "half").exists()


def test_someone_elses_venv_is_used_and_not_cleared(checkout):
    assert make(checkout, "install").returncode == 0
    (checkout / ".venv" / ".installed").unlink()
    (checkout / ".venv" / "theirs").touch()
    assert make(checkout, "install").returncode == 0
    assert (checkout / ".venv" / "theirs").exists()


@pytest.mark.parametrize(("dashboard", "commands"), [("0", ["compare"]), ("1", ["compare", "dashboard"])])
def test_demo_compares_then_serves_and_says_what_is_next(checkout, dashboard, commands):
    assert make(checkout, "install").returncode == 0
    program = checkout / ".venv" / "bin" / "skip-sideways"
    program.write_text("#!/bin/sh\necho ran $1\n")
    program.chmod(0o755)
    done = make(checkout, "demo", f"DASHBOARD={dashboard}")
    lines = done.stdout.splitlines()
    assert [line.split()[1] for line in lines if line.startswith("ran")] == commands
    assert sum(line.startswith("Next: ") for line in lines) == 1
    assert lines[-1].startswith("Next: ") == (dashboard == "0")


def test_demo_fails_where_the_comparison_fails(checkout):
    assert make(checkout, "install").returncode == 0
    program = checkout / ".venv" / "bin" / "skip-sideways"
    program.write_text("#!/bin/sh\nexit 3\n")
    program.chmod(0o755)
    done = make(checkout, "demo", "DASHBOARD=0")
    assert done.returncode != 0
    assert "Next" not in done.stdout


@pytest.mark.parametrize(("python", "no_gpu"), [("./python", "1"), ("absent-python", "0")])
def test_without_a_gpu_its_benchmark_ends_with_one_line(checkout, python, no_gpu):
    done = make(checkout, "bench-gpu", python=python, NO_GPU=no_gpu)
    assert done.returncode != 0
    ours = [line for line in done.stderr.splitlines() if "***" not in line]
    assert ours == [
        f"make: {python} has no torch that sees a CUDA device: on a machine with one, "
        "type 'make bench-gpu GPU_PYTHON=/path/to/python3'"
    ]
    assert done.stdout == ""
    assert not (checkout / ".venv").exists()


def test_with_a_gpu_it_is_tested_and_then_measured(checkout):
    assert make(checkout, "bench-gpu").returncode == 0
    assert calls(checkout, "-m") == [
        "-m pytest tests/lightning_modules/execution/test_cuda_tick.py",
        "-m app.cli bench --device cuda --network vgg8 --batch 4 --size 112 --frames 16 64 --output benchmarks/gpu",
    ]
    assert (REPOSITORY / "tests/lightning_modules/execution/test_cuda_tick.py").is_file()
