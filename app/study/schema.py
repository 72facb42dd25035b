"""A search space checked against the experiment's own classes, before the first trial and not hours later in its log.

Every choice, and the low and high of every range, is tried in a trial in which it is there: the parser reads the
configuration, and data, model and trainer are made of it. No video is read and nothing is written. Data and trainer are
made once where only the model's settings vary. A combination may be refused, and then fails as a trial with its error;
a value that is refused with everything beside it is a mistake.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Any

from app.comparison.overrides import apply_overrides, expand, flatten, nearest
from app.study.parameter import Parameter, contains, is_active, stored_text
from app.study.plan import SEED_KEYS, Plan
from app.study.space import Space
from app.study.trial_config import with_values

if TYPE_CHECKING:
    from app.trainer_cli import SkipSidewaysCLI

LINKED = ("model.init_args.num_classes", "model.init_args.in_channels")
FOLD = "data.init_args.fold"
ATTEMPTS = 24  # other trials in which a refused value is tried
_NEAR = 1.2  # of 2: how alike a key and its guess must be, in all and in their last part
_TYPES = {"int": "a whole number", "float": "a number", "str": "text", "bool": "true or false", "list": "a list"}


def check_space(space: Space, config: Mapping[str, Any]) -> None:
    """Refuse keys that the experiment does not have, and values that no trial of the space could run with.

    `config`: the nested experiment, with or without values for the keys of the space.

    Errors: ValueError with the key, the value, what is wrong and the nearest valid key.
    """
    for parameter in space.parameters:
        _check_meaning(parameter.key)
    with _quiet():
        trials = _Trials(space, config)
        known = trials.known_keys()
        for parameter in space.parameters:
            trials.check_key(parameter, known)
        for parameter in space.parameters:
            _check_number(parameter, known)
            for value in limits(parameter):
                trials.check_value(parameter, value, known)


def defaults(space: Space, config: Mapping[str, Any]) -> dict[str, Any]:
    """The values that the classes give to the keys of the space, by dotted key, where `config` leaves them out.

    Empty where the experiment cannot be read without them.
    """
    with _quiet():
        known = _Trials(space, config).known_keys()
    return {parameter.key: known[parameter.key] for parameter in space.parameters if parameter.key in known}


def with_first(plan: Plan) -> Plan:
    """The plan whose first trial is the experiment as it stands, if that is a point of its space; not for a grid."""
    if plan.sampler == "grid":
        return plan
    return replace(plan, first=plan.space.point(plan.config, defaults(plan.space, plan.config)))


def limits(parameter: Parameter) -> tuple[Any, ...]:
    """The values to try: every choice, or low and high."""
    return parameter.choices if parameter.choices is not None else (parameter.low, parameter.high)


def nearest_key(key: str, known: Iterable[str]) -> str:
    """The end of an error message about an unknown key: the closest one, or what is there beside it.

    >>> nearest_key("model.lr", ["model.init_args.lr", "model.init_args.rule", "trainer.max_steps"])
    "did you mean 'model.init_args.lr'?"
    """
    known = list(known)
    above = [name for name in known if key.startswith(f"{name}.")]
    close = above[0] if above else max(known, key=lambda name: _likeness(key, name), default="")
    if above or (close and _likeness(key, close) >= _NEAR):
        return f"did you mean {close!r}?"
    parent, _, last = key.rpartition(".")
    beside = [name.removeprefix(f"{parent}.") for name in known if parent and name.startswith(f"{parent}.")]
    return nearest(last, beside) if beside else nearest(key.split(".")[0], _first_parts(known))


def _likeness(key: str, name: str) -> float:
    last = (key.rpartition(".")[2], name.rpartition(".")[2])
    return SequenceMatcher(None, key, name).ratio() + SequenceMatcher(None, *last).ratio()


def _first_parts(keys: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(key.split(".")[0] for key in keys))


def _check_meaning(key: str) -> None:
    """Refuse what a trial cannot choose, whatever its value."""
    if key.rpartition(".")[2] == "class_path":
        raise ValueError(
            f"{key}: a class is no setting, as other settings belong to it; sweep each class as a study of its own"
        )
    if key in SEED_KEYS or key == FOLD:
        raise ValueError(
            f"{key}: the best seed or fold is luck and no setting; every trial runs on those of --seeds and --folds"
        )
    if key in LINKED:
        raise ValueError(f"{key}: taken from the data, so a value would have no effect; leave it out")


def _check_number(parameter: Parameter, known: Mapping[str, Any]) -> None:
    """Refuse whole numbers where the class takes others too, which `low: 0, high: 1` hardly means."""
    of_a_class = parameter.key.startswith(("model.", "data."))  # for a Trainer 1 is one batch, and 1.0 all of them
    if of_a_class and parameter.kind == "int" and isinstance(known.get(parameter.key), float):
        low, high, step = parameter.low or 0, parameter.high or 0, parameter.step or 1
        raise ValueError(
            f"{parameter.key}: low: {low}, high: {high} are whole numbers, and so would be all between them; write "
            f"low: {float(low)}, high: {float(high)}, and for whole steps step: {float(step)}"
        )


class _Trials:
    """Makes of a trial what its process would make, and says what is wrong with it."""

    def __init__(self, space: Space, config: Mapping[str, Any]) -> None:
        self._space, self._keys = space, [parameter.key for parameter in space.parameters]
        # Written by --print_config, and not of the parser without a subcommand.
        own = {key: value for key, value in config.items() if key not in ("ckpt_path", "weights_only")}
        self._experiment = with_values(own, self._keys, {})
        self._cli: SkipSidewaysCLI | None = None
        self._rest = ""
        self._own = {key: value for key, value in flatten(expand(own)) if key in self._keys}

    def known_keys(self) -> dict[str, Any]:
        """Every key of the experiment with its value, the classes' defaults among them; none where it can't be read."""
        try:
            return dict(flatten(_parser_only()(run=False, args=self._experiment).plain_config()))
        except Exception:  # a class that needs a value which only the space gives; what else is wrong shows in a trial
            return {}

    def check_key(self, parameter: Parameter, known: Mapping[str, Any]) -> None:
        """Refuse a key that the parser does not take."""
        key = parameter.key
        if not known or any(name == key or name.startswith(f"{key}.") for name in known):
            return
        try:
            _parser_only()(run=False, args=apply_overrides(self._experiment, {key: limits(parameter)[0]}))
        except Exception as error:
            raise ValueError(f"{key} is no key of this experiment; {nearest_key(key, known)}") from error

    def check_value(self, parameter: Parameter, value: Any, known: Mapping[str, Any]) -> None:
        """Refuse a value with which no trial can be made."""
        trials = list(self._trials_with(parameter, value, known))
        first = self._problem(trials[0])
        others = [trial for index, trial in enumerate(trials) if trial not in trials[:index]][1:]
        if not first or any(not self._problem(trial) for trial in others):
            return
        if first == self._problem({}):
            raise ValueError(f"the experiment is refused, whatever the space sets: {first}")
        blamed = self._space[self._to_blame(parameter.key, trials[0], first)]
        value = trials[0][blamed.key]
        beside = self._beside(blamed, trials[0])
        raise ValueError(f"{blamed.key}: {stored_text(value)}: {first}{beside}{_hint(value, first)}")

    def _to_blame(self, key: str, trial: Mapping[str, Any], problem: str) -> str:
        """The key without which a trial would not have this problem: `key`, or else another."""
        for one in (key, *trial):
            if self._problem({other: value for other, value in trial.items() if other != one}) != problem:
                return one
        return key

    def _trials_with(self, parameter: Parameter, value: Any, known: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Trials with one value given: first beside the experiment's own values, then beside others."""
        fixed = {**self._space.conditions(parameter.key), parameter.key: (value,)}
        yield self._trial(fixed, {**known, **self._own}, None)
        for attempt in range(ATTEMPTS):
            yield self._trial(fixed, {}, random.Random(attempt))

    def _trial(
        self, fixed: Mapping[str, tuple[Any, ...]], preferred: Mapping[str, Any], draw: random.Random | None
    ) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for parameter in self._space.parameters:
            if not is_active(parameter, values):
                continue
            valid = fixed.get(parameter.key, limits(parameter))
            own = preferred.get(parameter.key)
            if draw:
                values[parameter.key] = draw.choice(valid)
            elif contains(valid, own) or (parameter.key not in fixed and _holds(parameter, own)):
                values[parameter.key] = own
            else:
                values[parameter.key] = valid[0]
        return values

    def _problem(self, trial: Mapping[str, Any]) -> str:
        """What is wrong with a trial, in words; nothing where it could start."""
        from app.cli import user_message

        try:
            self._make(with_values(self._experiment, self._keys, trial))
        except Exception as error:  # whatever it is, the trial would end with it
            return plain_words(user_message(error))
        return ""

    def _make(self, config: dict[str, Any]) -> None:
        from app.trainer_cli import SkipSidewaysCLI, shortest_clip

        rest = json.dumps(_without_model_settings(config), sort_keys=True, default=str)
        if self._cli is None or rest != self._rest:
            self._cli = None
            self._cli, self._rest = cli, rest = SkipSidewaysCLI(run=False, args=config), rest
            model = cli.model
        else:
            cli = self._cli
            parsed = cli.parser.parse_object(config)
            parsed["data"] = cli.datamodule  # made of the same settings
            model = cli.parser.instantiate(parsed)["model"]
            if hasattr(model, "check_data"):
                model.check_data(cli.datamodule, cli.trainer, training=True)
        frames = getattr(cli.datamodule, "frames", None)
        if isinstance(frames, int) and hasattr(type(cli.datamodule), "min_frames") and frames < shortest_clip(model):
            raise ValueError(f"clips of {frames} frames, and this network needs at least {shortest_clip(model)}")

    def _beside(self, parameter: Parameter, trial: Mapping[str, Any]) -> str:
        """The other values of a trial that make this one be there."""
        needed = self._space.conditions(parameter.key)
        return f" (with {', '.join(f'{key}: {stored_text(trial[key])}' for key in needed)})" if needed else ""


def _holds(parameter: Parameter, value: Any) -> bool:
    try:
        parameter.params_value(value)
    except ValueError:
        return False
    return True


def _without_model_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    return {**config, "model": {key: value for key, value in config["model"].items() if key != "init_args"}}


def plain_words(message: str) -> str:
    """A parser's message without its words for types.

    >>> plain_words("Parser key 'lr': Expected a <class 'float'>. Got value: fast")
    'expected a number'
    """
    found = re.sub(r"^Parser key [\"'][\w.]+[\"']: ", "", message)
    if union := re.search(r"Subtypes: \[(.*?)\] Errors:", found):
        found = f"Expected one of {union[1]}"
    found = re.sub(r"(?:an? )?<class '(?:\w+\.)*(\w+)'>", lambda name: _TYPES.get(name[1], name[1]), found)
    found = re.sub(r"\. Got value: .*$", "", found)
    return re.sub(r"^Expected", "expected", found)


def _hint(value: Any, problem: str) -> str:
    """What the space's author may have meant."""
    if isinstance(value, bool) and "text" in problem:
        words = "'on' or 'yes'" if value else "'off' or 'no'"
        return f"; YAML reads a bare on, yes, off or no as true or false: where text is meant, write {words} in quotes"
    if isinstance(value, float) and value == int(value) and "a whole number" in problem:
        return f"; a whole number is written without a point: {int(value)}"
    return ""


def _parser_only() -> type[SkipSidewaysCLI]:
    """The command line that reads a configuration and makes nothing of it."""
    from app.trainer_cli import SkipSidewaysCLI

    class ParserOnly(SkipSidewaysCLI):
        def instantiate_classes(self) -> None:
            pass

    return ParserOnly


def _quiet() -> Any:
    import app.trainer_cli  # noqa: F401  Lightning sets its loggers' levels when it is imported
    from app.noise import without_noise

    return without_noise(quiet=True)
