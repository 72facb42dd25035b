"""Data, model and trainer of a configuration, made as a trial's process would make them; what is made is kept."""

from __future__ import annotations

import json
import re
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from app.trainer_cli import SkipSidewaysCLI

SLOW_S = 5.0  # after which a person is told what takes so long
KEPT = 4  # data modules; one of a large data set lists all its videos
_TYPES = {"int": "a whole number", "float": "a number", "str": "text", "bool": "true or false", "list": "a list"}


class Maker:
    """Says what is wrong with configurations. No video is read and nothing is written.

    A configuration is made once. Data of equal settings are made once, parser and trainer where only the model varies.
    """

    def __init__(self) -> None:
        self._problems: dict[str, str] = {}
        self._data: dict[str, Any] = {}
        self._cli: SkipSidewaysCLI | None = None
        self._rest = ""

    def problem(self, config: Mapping[str, Any]) -> str:
        """What is wrong with a configuration, in words; nothing where a training could start."""
        key = _text(config)
        if key not in self._problems:
            self._problems[key] = _said_by(lambda: self._make(config))
        return self._problems[key]

    def _make(self, config: Mapping[str, Any]) -> None:
        from app.trainer_cli import shortest_clip

        rest = _text({**config, "model": {key: value for key, value in config["model"].items() if key != "init_args"}})
        if self._cli is None or rest != self._rest:
            self._cli = None
            self._cli, self._rest = cli, rest = self._made(config), rest
            model = cli.model
        else:
            cli = self._cli
            parsed = cli.parser.parse_object(dict(config))
            parsed["data"] = cli.datamodule  # made of the same settings
            model = cli.parser.instantiate(parsed)["model"]
            if hasattr(model, "check_data"):
                model.check_data(cli.datamodule, cli.trainer, training=True)
        frames = getattr(cli.datamodule, "frames", None)
        if isinstance(frames, int) and hasattr(type(cli.datamodule), "min_frames") and frames < shortest_clip(model):
            raise ValueError(f"clips of {frames} frames, and this network needs at least {shortest_clip(model)}")

    def _made(self, config: Mapping[str, Any]) -> SkipSidewaysCLI:
        from jsonargparse import Namespace

        from app.trainer_cli import SkipSidewaysCLI

        known, key = self._data, _text(config["data"])

        class WithKnownData(SkipSidewaysCLI):
            def instantiated(self) -> Any:
                if key not in known:
                    data = self.parser.instantiate(Namespace(data=self.config["data"]))["data"]
                    known.update({key: data})
                    known.pop(next(iter(known))) if len(known) > KEPT else None
                settings = self.config.clone()
                settings["data"] = known[key]
                return self.parser.instantiate(settings)

        return WithKnownData(run=False, args=dict(config))


def reading(config: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Read a configuration and make nothing of it: what is wrong, and each dotted key with its value or default."""
    from app.comparison.overrides import flatten
    from app.trainer_cli import SkipSidewaysCLI

    class ParserOnly(SkipSidewaysCLI):
        def instantiate_classes(self) -> None:
            pass

    known: dict[str, Any] = {}
    problem = _said_by(lambda: known.update(flatten(ParserOnly(run=False, args=dict(config)).plain_config())))
    return problem, known


def _said_by(step: Any) -> str:
    from app.cli import user_message

    try:
        step()
    except Exception as error:  # whatever it is, a trial would end with it
        return plain_words(user_message(error))
    return ""


def _text(config: Any) -> str:
    return json.dumps(config, sort_keys=True, default=str)


def plain_words(message: str) -> str:
    """A parser's message without its words for types.

    >>> plain_words("Parser key 'lr': Expected a <class 'float'>. Got value: fast")
    'expected a number'
    """
    found = re.sub(r"^Parser key [\"'][\w.]+[\"']: ", "", message)
    found = re.sub(r"^\w+ '[^']*': (?=expected (?:a |null|true ))", "", found)
    if union := re.search(r"Subtypes: \[(.*?)\] Errors:", found):
        found = f"Expected one of {union[1]}"
    found = re.sub(r"(?:an? )?<class '(?:\w+\.)*(\w+)'>", lambda name: _TYPES.get(name[1], name[1]), found)
    found = re.sub(r"\. Got value: .*$", "", found)
    return re.sub(r"^Expected", "expected", found)


@contextmanager
def said_when_slow(text: str) -> Iterator[None]:
    """Print `text` on stderr if the block takes longer than SLOW_S seconds."""
    timer = threading.Timer(SLOW_S, lambda: print(text, file=sys.stderr, flush=True))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
