"""The README's numbers are the benchmarks' numbers, and its Python example runs."""

import re
import subprocess
import sys

BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)


def test_tables_are_what_the_benchmarks_give(repository) -> None:
    script = repository / "benchmarks" / "readme_tables.py"
    done = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_python_example_runs(repository, tmp_cwd) -> None:
    examples = BLOCK.findall((repository / "README.md").read_text())
    assert examples
    for example in examples:
        done = subprocess.run([sys.executable, "-c", example], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_links_to_files_lead_somewhere(repository) -> None:
    text = (repository / "README.md").read_text()
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (repository / target).exists(), target
