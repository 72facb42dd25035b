import subprocess

from app.comparison.provenance import code_version, command_line


def test_command_names_no_absolute_path(tmp_cwd):
    words = ["--config", str(tmp_cwd / "a b.yaml"), "--seeds", "0", "1"]
    assert command_line(words) == "skip-sideways compare --config 'a b.yaml' --seeds 0 1"
    assert command_line(["--trials", "4"], "sweep") == "skip-sideways sweep --trials 4"


def git(folder, *arguments):
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


def test_only_changed_code_makes_a_commit_dirty(tmp_path):
    (tmp_path / "app").mkdir()
    for name in ("pyproject.toml", "app/a.py", "results.json"):
        (tmp_path / name).write_text("1")
    git(tmp_path, "init")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")
    clean = code_version(tmp_path)
    assert len(clean) == 12
    (tmp_path / "results.json").write_text("2")
    assert code_version(tmp_path) == clean
    (tmp_path / "app/a.py").write_text("2")
    assert code_version(tmp_path) == f"{clean}-dirty"


def test_no_repository(tmp_path):
    assert code_version(tmp_path) == "unknown"
