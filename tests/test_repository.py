"""The rules of the house that a tool can check: metadata that agrees, who may import whom, no path of a machine."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGES = ("app", "lightning_modules", "datamodules", "dashboard")
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
CORE = ("networks", "layers", "rules", "execution", "memory")
# What Lightning does not know of: `strategies` holds its strategy and launcher beside parts that need torch alone.
STRATEGY = ("asynchronous.py", "depth_parallel.py", "launcher.py")
MODEL_SIDE_IMPORTS = {"torch", "lightning", "torchmetrics", "torchvision", "numpy", "lightning_modules"}


def tracked_files():
    done = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git checkout: what is tracked cannot be told")
    return [path for name in done.stdout.split("\0") if name and (path := REPOSITORY / name).is_file()]


def sources(*folders):
    return [path for folder in folders for path in sorted((REPOSITORY / folder).rglob("*.py"))]


def imported(tree, *, everywhere):
    """Names of the modules that a file imports; without `everywhere` only what runs when the file is imported."""
    found, waiting = set(), list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide who imports whom"
            found.add(node.module)
        if everywhere or not runs_later(node):
            waiting.extend(ast.iter_child_nodes(node))
    return found


def runs_later(node):
    """Whether the code in `node` does not run when its file is imported."""
    if isinstance(node, ast.If):
        return "TYPE_CHECKING" in ast.unparse(node.test)
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)


def import_offences(paths, allowed, *, everywhere=False):
    """Imports of `paths` for which `allowed(module)` is false, as readable lines."""
    return [
        f"{path.relative_to(REPOSITORY)} imports {module}"
        for path in paths
        for module in sorted(imported(ast.parse(path.read_text()), everywhere=everywhere))
        if module.split(".")[0] not in sys.stdlib_module_names and not allowed(module)
    ]


def in_packages(*names):
    return lambda module: any(module == name or module.startswith(f"{name}.") for name in names)


def not_in_packages(*names):
    return lambda module: not in_packages(*names)(module)


# Metadata


def test_every_package_on_disk_is_listed():
    on_disk = {
        str(path.parent.relative_to(REPOSITORY)).replace("/", ".")
        for package in PACKAGES
        for path in (REPOSITORY / package).rglob("*.py")
    }
    assert sorted(PROJECT["tool"]["setuptools"]["packages"]) == sorted(on_disk)


def test_every_configuration_file_is_packaged():
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["app"]
    packaged = {path for pattern in patterns for path in (REPOSITORY / "app").glob(pattern)}
    assert set((REPOSITORY / "app" / "configs").rglob("*.yaml")) <= packaged


def test_the_seven_packages_of_the_card_are_dependencies():
    names = {re.match(r"[\w-]+", line).group() for line in PROJECT["project"]["dependencies"]}
    assert {"lightning", "torch", "torchmetrics", "pytorchvideo", "streamlit", "optuna", "mlflow"} <= names


def test_conda_installs_what_the_makefile_installs():
    environment = yaml.safe_load((REPOSITORY / "environment.yml").read_text())
    assert environment["channels"] == ["conda-forge"]
    *conda, pip = environment["dependencies"]
    assert [re.match(r"[\w-]+", line).group() for line in conda] == ["python", "pip", "ffmpeg"]
    assert conda[0] == "python" + PROJECT["project"]["requires-python"]
    assert conda[1:] == ["pip", "ffmpeg"], "versions stand in pyproject.toml alone"
    makefile = (REPOSITORY / "Makefile").read_text()
    (installed,) = re.findall(r"pip install .*(-e \S+)", makefile)
    assert pip == {"pip": [installed.replace("'", "")]}


def test_the_makefile_has_the_targets_that_the_documents_name():
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    assert {"demo", "test", "test-slow", "lint", "doctor", "clean", "install"} <= targets
    for document in REPOSITORY.glob("*.md"):
        named = set(re.findall(r"`make ([a-z-]+)", document.read_text()))
        assert named <= targets, f"{document.name} names make targets that do not exist"


def test_ci_runs_the_tests_once():
    script = (REPOSITORY / ".ci" / "run").read_text()
    assert len(re.findall(r"^[^#\n]*\bmake test\b", script, re.MULTILINE)) == 1
    assert "pytest" not in re.sub(r"#.*", "", script)


def test_the_licence_is_apache_2():
    text = (REPOSITORY / "LICENSE").read_text()
    assert PROJECT["project"]["license"] == "Apache-2.0"
    assert "Apache License\n                           Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert len(text.split()) > 1500


def test_the_citation_file_agrees_with_the_project():
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == PROJECT["project"]["version"]
    assert citation["license"] == PROJECT["project"]["license"]
    assert {"title", "message", "authors"} <= set(citation)
    for reference in citation["references"]:
        assert {"type", "title", "authors"} <= set(reference)
        assert all("family-names" in author or "name" in author for author in reference["authors"])


# Files


def test_no_tracked_file_names_a_path_of_a_machine():
    roots = "|".join(("work", "root", "home", "Users"))
    machine_path = re.compile(rf"(?<![\w.$}})~/-])/(?:{roots})/[\w.-]+")
    found = []
    for path in tracked_files():
        try:
            lines = path.read_text().splitlines()
        except UnicodeDecodeError:
            continue
        name = path.relative_to(REPOSITORY)
        found += [f"{name}:{n}: {m.group()}" for n, line in enumerate(lines, 1) if (m := machine_path.search(line))]
    assert found == []


@pytest.mark.parametrize(
    "path", sorted((REPOSITORY / "app" / "configs").rglob("*.yaml")), ids=lambda p: str(p.relative_to(REPOSITORY))
)
def test_a_configuration_starts_with_its_intent_and_parses(path):
    first = path.read_text().splitlines()[0]
    assert re.match(r"# \w.{10,}", first), "start with one comment line that says what the file is for"
    assert isinstance(yaml.safe_load(path.read_text()), dict)


def test_every_source_file_says_what_it_is():
    silent = [
        str(path.relative_to(REPOSITORY))
        for path in sources(*PACKAGES)
        if path.name != "__init__.py" and not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert silent == []


# Who may import whom


def test_model_code_imports_only_what_a_gpu_machine_has():
    """`bench` and all under it must run where only torch, lightning, torchmetrics, torchvision and numpy are."""
    assert import_offences(sources("lightning_modules"), in_packages(*MODEL_SIDE_IMPORTS)) == []


def test_networks_rules_and_executors_import_only_torch():
    folders = [f"lightning_modules/{name}" for name in CORE]
    parts = [path for path in sources("lightning_modules/strategies") if path.name not in STRATEGY]
    assert import_offences([*sources(*folders), *parts], in_packages("torch", "lightning_modules")) == []


def test_nothing_in_lightning_modules_names_a_dataset():
    classes = {
        node.name
        for path in sources("datamodules")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    }
    assert classes, "found no class in datamodules"
    offences = [
        f"{path.relative_to(REPOSITORY)}: {name}"
        for path in sources("lightning_modules")
        for name in sorted(classes)
        if re.search(rf"\b{name}\b", path.read_text())
    ]
    assert offences == []
    assert import_offences(sources("lightning_modules"), not_in_packages("datamodules", "app"), everywhere=True) == []


def test_datamodules_know_no_network():
    """The torchvision repair is the one file of the model side that every package may import."""
    offences = import_offences(sources("datamodules"), not_in_packages("lightning_modules", "app"), everywhere=True)
    assert [line for line in offences if not line.endswith("lightning_modules.compat")] == []


def test_the_dashboard_only_reads_runs():
    forbidden = not_in_packages("lightning_modules", "datamodules", "lightning", "pytorch_lightning", "torch")
    assert import_offences(sources("dashboard"), forbidden, everywhere=True) == []


def test_the_import_rules_can_fail(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "REPOSITORY", tmp_path)
    bad = tmp_path / "bad.py"
    bad.write_text(
        "import os\nimport torch.nn\nclass A:\n    import mlflow\n"
        "def f():\n    import streamlit\n"
        "if TYPE_CHECKING:\n    import pandas\n"
    )
    assert import_offences([bad], in_packages("torch")) == ["bad.py imports mlflow"]
    everywhere = import_offences([bad], not_in_packages("streamlit", "pandas"), everywhere=True)
    assert everywhere == ["bad.py imports pandas", "bad.py imports streamlit"]
