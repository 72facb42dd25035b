"""The option parser of the trainer's commands: an option that is not understood gives one sentence, not a screenful."""

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import yaml
from jsonargparse._typehints import get_all_subclass_paths
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.cli import LightningArgumentParser

# jsonargparse tries `data` as a data module and as None and reports both; only the first was meant.
_UNION = re.compile(r"Errors:\s*- (?P<cause>.*?)\s*- Expected a <class 'NoneType'>", re.DOTALL)

# What it says of an option that takes one of several plain types names neither the option nor the value.
_PLAIN_UNION = re.compile(
    r'Parser key "(?P<key>\w+)":\s*Does not validate against any of the Union subtypes\s*Subtypes: \[(?P<types>.*)\]\s*'
    r"Errors:.*Given value: (?P<value>.*)$",
    re.DOTALL,
)
_PLAIN_TYPES = {
    "<class 'int'>": "a whole number",
    "<class 'float'>": "a number",
    "<class 'str'>": "a name",
    "<class 'bool'>": "true or false",
    "list[int]": "a list of whole numbers",
    "list[float]": "a list of numbers",
    "<class 'NoneType'>": "null",
}


def given_class(args: Any, section: str) -> str | None:
    """Return the class that a command line or a configuration names for a section; the last one counts.

    >>> given_class(["fit", "--model", "FutureFrames", "--model.horizon", "2"], "model")
    'FutureFrames'
    >>> given_class({"model": {"class_path": "FutureFrames"}}, "model")
    'FutureFrames'
    """
    if isinstance(args, Mapping):
        return _class_of(args.get(section))
    found = None
    pairs = [argument.split("=", 1) for argument in args or []]
    for i, (option, *value) in enumerate(pairs):
        given = value[0] if value else (args[i + 1] if i + 1 < len(args) else "")
        if option in ("-c", "--config"):
            found = _class_of(_loaded(given).get(section)) or found
        elif option in (f"--{section}", f"--{section}.class_path"):
            found = _class_of(_loaded(given) or given) or found
    return found


def _class_of(value: Any) -> str | None:
    name = value.get("class_path") if isinstance(value, Mapping) else value
    return str(name) if name else None


def _loaded(path: str) -> dict[str, Any]:
    """Return a YAML file's content; nothing where there is no such file, which the parser will say."""
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}


def plain_message(message: str) -> str:
    """Return the part of a parser's message that the user can act on, in one line.

    >>> plain_message("Subtypes: [A, None] Errors: - there is no such folder - Expected a <class 'NoneType'> Given: 3")
    'there is no such folder'
    >>> plain_message('Parser key "n": Does not validate against any of the Union subtypes '
    ...               "Subtypes: [<class 'int'>, <class 'NoneType'>] Errors: - ... Given value: two")
    "n 'two': expected a whole number or null"
    """
    if found := _PLAIN_UNION.search(message):
        types = [_PLAIN_TYPES.get(name) for name in found["types"].split(", ")]
        if all(types):
            *first, last = map(str, types)
            expected = f"{', '.join(first)} or {last}" if first else last
            return f"{found['key']} {found['value'].strip()!r}: expected {expected}"
    found = _UNION.search(message)
    text = found["cause"] if found else message
    return " ".join(text.split())


class PlainParser(LightningArgumentParser):
    """LightningArgumentParser that raises ValueError where its parents print the usage and exit.

    Attributes:
        examples: data that the task takes, for who gave none.
    """

    examples = "MovingDigits (generated), VideoFolder, UCF101"

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise ValueError with what was wrong and what to type."""
        if isinstance(ex, _ExplainedError):  # by the subcommand's parser
            raise ex
        raise _ExplainedError(self._explained(message) or f"{plain_message(message)}{self._advice(message)}") from ex

    def _explained(self, message: str) -> str | None:
        """Return our own sentence for what users meet first, None for any other message."""
        if re.search(r"arguments are required: (\w+\.)?data\b", message):
            return f"no data was given: add --data {self.examples}, ..., or --config FILE."
        if found := re.search(
            r"arguments are required: ([\w, ]+?)\n.*class_path='(?:\w+\.)*(\w+)'", message, re.DOTALL
        ):
            needed = " ".join(f"--data.{name} ..." for name in found[1].split(", "))
            return f"--data {found[2]} needs more: add {needed}"
        if found := re.search(r"\"config\": File does not exist: '([^']+)'", message):
            return f"--config: there is no file {found[1]}; expected a YAML file such as `fit --print_config` writes."
        return None

    def _advice(self, message: str) -> str:
        """Return a sentence with what was probably meant."""
        if found := re.search(r"unrecognized arguments: (--[^ =]+)", message, re.IGNORECASE):
            known = [option for action in self._actions for option in action.option_strings]
            return _did_you_mean(found[1], known)
        if found := re.search(r"Option '(\w+)' is not accepted", message):  # said by the parser of a class
            known = [action.dest for action in self._actions if action.dest != "help"]
            return _did_you_mean(found[1], known) if known else f". Name the class, as --data {self.examples}"
        if found := re.search(r"Group '(\w+)' does not accept option '(\w+)'", message):
            group = f"{found[1]}."
            return _did_you_mean(
                found[2], [a.dest.removeprefix(group) for a in self._actions if a.dest.startswith(group)]
            )
        if found := re.search(r"dot import path string: (\w+)", message):
            return f". There is no class of that name{_did_you_mean(found[1], _class_names())}"
        return ""


class LongStreamsParser(PlainParser):
    """The parser where the task is a long memory."""

    examples = "CuedVideo (generated), CopySequences, ArrayStreams"


class _ExplainedError(ValueError):
    """An error that already says what to type."""


def _class_names() -> list[str]:
    """Return the short names of the models and data sets that ship here; your own class is named by its path."""
    return sorted(
        path.rsplit(".", 1)[-1]
        for base in (LightningModule, LightningDataModule)
        for path in get_all_subclass_paths(base)
        if path.startswith(("lightning_modules.", "datamodules."))
    )


def _did_you_mean(given: str, known: list[str]) -> str:
    near = sorted((name for name in known if name.startswith(given)), key=len) or difflib.get_close_matches(
        given, known, n=1
    )
    return f". Did you mean {near[0]}?" if near else f". Expected one of {', '.join(known)}" if len(known) < 40 else ""
