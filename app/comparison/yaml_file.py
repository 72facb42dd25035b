"""Reading YAML as LightningCLI's users expect it: `1e-3` is a number, a key given twice is an error."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2 floats (PyYAML reads `1e-3` as a string) and without duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise ValueError(f"line {key_node.start_mark.line + 1}: key {key!r} is given twice; keep one")
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][-+]?\d+)?$"),
    list("-+0123456789."),
)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping a YAML file holds.

    Errors: ValueError naming the file, for a missing file, a folder, broken YAML (with line and column), or anything
    but a mapping.
    """
    if path.is_dir():
        inside = sorted(file.name for file in path.glob("*.yaml"))
        raise ValueError(f"{path} is a folder; name a YAML file in it: {', '.join(inside) or 'it holds none'}")
    if not path.is_file():
        siblings = sorted(file.name for file in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        raise ValueError(f"{path}: no such file; {path.parent} holds {', '.join(siblings) or 'no YAML file'}")
    try:
        content = yaml.load(path.read_text(), Loader=_Loader)
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{path}: {_in_one_line(error)}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a mapping of keys to values, got {type(content).__name__}")
    return content


def _in_one_line(error: Exception) -> str:
    """A parser's error without its extract of the file."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        mark = error.problem_mark
        context = f", {error.context}" if error.context else ""
        return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}{context}"
    return " ".join(str(error).split())
