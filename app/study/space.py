"""The search space: dotted keys of the configuration, what each may be, and which are there only with another's value.

    model.init_args.lr: {low: 1.0e-4, high: 1.0e-1, log: true}       a number; whole where low, high and step are
    model.init_args.wiring: [chain, residual]                        one of these
    model.init_args.lag_strength:                                    there only where lag_scaling has one of these
      low: 0.5
      high: 4.0
      when: {model.init_args.lag_scaling: [inverse, exponential]}

In a trial without a key the class's default holds, whatever the experiment says.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.comparison.overrides import get, nearest
from app.comparison.yaml_file import read_yaml

if TYPE_CHECKING:
    import optuna

RANGE_FIELDS = ("low", "high", "step", "log", "when")
CHOICE_FIELDS = ("choices", "when")
FIELDS = ("low", "high", "step", "log", "choices", "when")
_ABSENT = object()


@dataclass(frozen=True)
class Parameter:
    """What one key of the configuration may be: a range (low and high belong to it) or choices.

    `when`: for each other key the values with which this one is there; all must hold.
    """

    key: str
    low: float | None = None
    high: float | None = None
    step: float | None = None
    log: bool = False
    choices: tuple[Any, ...] | None = None
    when: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """float, int or choice."""
        if self.choices is not None:
            return "choice"
        return "int" if all(type(value) is int for value in (self.low, self.high, self.step or 1)) else "float"

    def plain(self) -> dict[str, Any]:
        """The parameter as its YAML has it, without what has no effect."""
        if self.choices is not None:
            plain: dict[str, Any] = {"choices": list(self.choices)}
        else:
            plain = {"low": self.low, "high": self.high}
            plain |= {"step": self.step} if self.step is not None else {}
            plain |= {"log": True} if self.log else {}
        return plain | ({"when": {key: list(values) for key, values in self.when.items()}} if self.when else {})

    def suggest(self, trial: optuna.trial.BaseTrial) -> Any:
        """Let the trial choose."""
        if self.choices is not None:
            return self.read(trial.suggest_categorical(self.key, [stored(choice) for choice in self.choices]))
        if self.kind == "int":
            low, high, step = int(self.low or 0), int(self.high or 0), int(self.step or 1)
            return trial.suggest_int(self.key, low, high, step=step, log=self.log)
        low_, high_ = float(self.low or 0), float(self.high or 0)
        return self.read(trial.suggest_float(self.key, low_, high_, step=self.step, log=self.log))

    def read(self, value: Any) -> Any:
        """Turn what Optuna stores into the configuration's value."""
        if self.choices is not None:
            return next((choice for choice in self.choices if same(stored(choice), value)), value)
        return value if self.step is None or self.kind == "int" else self._on_step(value)

    def params_value(self, value: Any) -> Any:
        """Turn a configuration's value into what Optuna stores. Errors: ValueError where it is not valid here."""
        if self.choices is not None:
            for choice in self.choices:
                if same(choice, value):
                    return stored(choice)
        elif _is_number(value) and (self.kind == "float" or type(value) is int) and self._holds(value):
            if self.kind == "int":
                return value
            return float(value) if self.step is None else self._on_step(value)
        raise ValueError(f"{self.key}: {value!r} is not in {self.in_words()}")

    def count(self) -> int | None:
        """How many values there are; None where there is no end of them."""
        if self.choices is not None:
            return len(self.choices)
        step = self.step or (1 if self.kind == "int" else None)
        return None if step is None else int((_exact(self.high) - _exact(self.low)) / _exact(step)) + 1

    def all_values(self) -> Iterator[Any]:
        """Every value, of a parameter that has an end of them."""
        if self.choices is not None:
            yield from self.choices
            return
        for index in range(self.count() or 0):
            exact = _exact(self.low) + index * _exact(self.step or 1)
            yield int(exact) if self.kind == "int" else float(exact)

    def in_words(self) -> str:
        """What is valid, for an error's end."""
        if self.choices is not None:
            return ", ".join(stored_text(choice) for choice in self.choices)
        step = f" in steps of {self.step}" if self.step else ""
        return f"{self.low} to {self.high}{step}"

    def _holds(self, value: float) -> bool:
        low, high = float(self.low or 0), float(self.high or 0)
        step = self.step or (1 if self.kind == "int" else None)
        return low <= value <= high and (step is None or math.isclose(self._on_step(value), value, rel_tol=1e-9))

    def _on_step(self, value: float) -> float:
        """The nearest value of the steps, written as a person would: 0.3 and not 0.30000000000000004."""
        step = _exact(self.step or 1)
        return float(_exact(self.low) + round((_exact(value) - _exact(self.low)) / step) * step)


class Space:
    """All parameters, parents before what depends on them."""

    def __init__(self, parameters: Sequence[Parameter]) -> None:
        self.parameters = in_order(parameters)
        self._by_key = {parameter.key: parameter for parameter in self.parameters}

    def __getitem__(self, key: str) -> Parameter:
        return self._by_key[key]

    def suggest(self, trial: optuna.trial.BaseTrial) -> dict[str, Any]:
        """Let the trial choose a value for every key that is there in it: {dotted key: value}."""
        values: dict[str, Any] = {}
        for parameter in self.parameters:
            if is_active(parameter, values):
                values[parameter.key] = parameter.suggest(trial)
        return values

    def values(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Turn the params that Optuna stored of a trial into the configuration's values."""
        return {key: self._by_key[key].read(value) if key in self._by_key else value for key, value in params.items()}

    def points(self) -> Iterator[dict[str, Any]]:
        """Every trial's values, of a space that has an end of them."""
        yield from _points(self.parameters, {})

    def point(self, config: Mapping[str, Any], defaults: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
        """The params, as `enqueue_trial` takes them, of the trial that is this configuration as it stands.

        `defaults`: the values of keys that the configuration leaves out, as `app.study.schema.defaults` finds them;
        without them such a key has a value that is not known. None where the configuration is no point of the space.
        """
        defaults = defaults or {}
        values: dict[str, Any] = {}
        params: dict[str, Any] = {}
        for parameter in self.parameters:
            default = defaults.get(parameter.key, _ABSENT)
            value = get(config, parameter.key, default)
            if not is_active(parameter, values):
                if value is not default and not same(value, default):
                    return None  # a trial would be without it
                continue
            try:
                params[parameter.key] = parameter.params_value(value)
            except ValueError:
                return None
            values[parameter.key] = parameter.read(params[parameter.key])
        return params

    def size(self) -> int | None:
        """How many different trials there are; None where there is no end of them.

        >>> read_space({"a": [1, 2, 3], "b": {"low": 0.0, "high": 1.0, "step": 0.5, "when": {"a": 1}}}).size()
        5
        """
        if any(parameter.count() is None for parameter in self.parameters):
            return None
        return _count(self.parameters, self._mentioned(), {})

    def conditions(self, key: str) -> dict[str, tuple[Any, ...]]:
        """For each key that must have a certain value so that `key` is there, these values.

        A tuple is empty where the conditions contradict one another.
        """
        found: dict[str, tuple[Any, ...]] = {}
        queue = [key]
        while queue:
            for parent, values in self._by_key[queue.pop()].when.items():
                known = found.get(parent, values)
                found[parent] = tuple(value for value in values if contains(known, value))
                queue.append(parent)
        return found

    def plain(self) -> dict[str, Any]:
        """The space as its YAML has it: {dotted key: {low, high, ...} or {choices, ...}}."""
        return {parameter.key: parameter.plain() for parameter in self.parameters}

    def _mentioned(self) -> dict[str, list[Any]]:
        """Every value that some condition names, by key."""
        found: dict[str, list[Any]] = {}
        for parameter in self.parameters:
            for parent, values in parameter.when.items():
                known = found.setdefault(parent, [])
                known += [value for value in values if not contains(known, value)]
        return found


def load_space(path: Path | str) -> Space:
    """Read a search space file. Errors: ValueError naming file, key, what is valid and the nearest."""
    content = read_yaml(Path(path))
    try:
        return read_space(content)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def read_space(content: Mapping[str, Any]) -> Space:
    """Make the space of {dotted key: {low, high, ...}, {choices: [...], ...} or [...]}.

    Errors: ValueError naming the key, what is valid and the nearest.
    """
    if not isinstance(content, Mapping) or not content:
        raise ValueError(f"a search space maps keys to what they may be, as in {_EXAMPLE}; got {content!r}")
    parameters = [_read_parameter(key, given) for key, given in content.items()]
    _check_prefixes([parameter.key for parameter in parameters])
    by_key = {parameter.key: parameter for parameter in parameters}
    for parameter in parameters:
        _check_when(parameter, by_key)
    space = Space(parameters)
    for parameter in space.parameters:
        for parent, values in space.conditions(parameter.key).items():
            if not values:
                raise ValueError(
                    f"{parameter.key}: its conditions on {parent} contradict each other; it is never there"
                )
    return space


_EXAMPLE = "model.init_args.lr: {low: 1.0e-4, high: 1.0e-1, log: true}"


def is_active(parameter: Parameter, values: Mapping[str, Any]) -> bool:
    """Whether a parameter is there beside these values of its parents."""
    return all(key in values and contains(allowed, values[key]) for key, allowed in parameter.when.items())


def in_order(parameters: Sequence[Parameter]) -> tuple[Parameter, ...]:
    """Parents before what depends on them, else as given. Errors: ValueError naming a circle."""
    by_key = {parameter.key: parameter for parameter in parameters}
    done: dict[str, Parameter] = {}

    def visit(parameter: Parameter, above: tuple[str, ...]) -> None:
        if parameter.key in above:
            circle = [*above[above.index(parameter.key) :], parameter.key]
            raise ValueError(f"{parameter.key}: its `when` goes round in a circle: {' -> '.join(circle)}")
        for parent in parameter.when:
            if parent not in done:
                visit(by_key[parent], (*above, parameter.key))
        done.setdefault(parameter.key, parameter)

    for parameter in parameters:
        visit(parameter, ())
    return tuple(done.values())


def stored(choice: Any) -> Any:
    """What Optuna stores of a choice: it takes only plain values, so lists and mappings travel as JSON text.

    >>> stored("all"), stored([0, 1])
    ('all', '[0, 1]')
    """
    return json.dumps(choice, sort_keys=True) if isinstance(choice, list | Mapping) else choice


def stored_text(choice: Any) -> str:
    """A choice as the YAML has it."""
    return choice if isinstance(choice, str) else json.dumps(choice, sort_keys=True)


def same(one: Any, other: Any) -> bool:
    """Equality for which true is not 1."""
    return isinstance(one, bool) == isinstance(other, bool) and one == other


def contains(values: Sequence[Any], value: Any) -> bool:
    """Whether a value is among these, where true is not 1."""
    return any(same(each, value) for each in values)


def _count(parameters: Sequence[Parameter], mentioned: Mapping[str, list[Any]], values: Mapping[str, Any]) -> int:
    """Count the trials below these values; of a parent only the values that a condition names are told apart."""
    if not parameters:
        return 1
    first, rest = parameters[0], parameters[1:]
    if not is_active(first, values):
        return _count(rest, mentioned, values)
    named, many = mentioned.get(first.key, []), int(first.count() or 0)
    if not named:
        return many * _count(rest, mentioned, values)
    total = sum(_count(rest, mentioned, {**values, first.key: value}) for value in named)
    others = many - len(named)
    return total + (others * _count(rest, mentioned, {**values, first.key: _ABSENT}) if others else 0)


def _points(parameters: Sequence[Parameter], values: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if not parameters:
        yield values
        return
    first, rest = parameters[0], parameters[1:]
    if not is_active(first, values):
        yield from _points(rest, values)
        return
    for value in first.all_values():
        yield from _points(rest, {**values, first.key: value})


def _read_parameter(key: Any, given: Any) -> Parameter:
    if not isinstance(key, str):
        raise ValueError(f"key {key!r}: expected a dotted key of the configuration, as in {_EXAMPLE}")
    if isinstance(given, list):
        given = {"choices": given}
    if not isinstance(given, Mapping):
        raise ValueError(f"{key}: expected a list of choices or {{low: ..., high: ...}}, got {given!r}")
    _check_fields(key, given)
    when = _read_when(key, given.get("when"))
    if "choices" in given:
        return Parameter(key, choices=_read_choices(key, given["choices"]), when=when)
    return _read_range(key, given, when)


def _check_fields(key: str, given: Mapping[str, Any]) -> None:
    unknown = [name for name in given if name not in FIELDS]
    if unknown and len(unknown) == len(given):
        raise ValueError(
            f"{key}: {unknown[0]!r} is no field of a parameter ({nearest(unknown[0], FIELDS)}); "
            f"nested keys are written in one, as in {_EXAMPLE}"
        )
    if unknown:
        raise ValueError(f"{key}: unknown field {unknown[0]!r}; {nearest(unknown[0], FIELDS)}")
    mixed = [name for name in given if name not in CHOICE_FIELDS]
    if "choices" in given and mixed:
        raise ValueError(f"{key}: choices and {mixed[0]} exclude each other; keep one")
    missing = [name for name in ("low", "high") if name not in given]
    if "choices" not in given and missing:
        raise ValueError(
            f"{key}: {' and '.join(missing)} missing; expected {{low: ..., high: ...}} or {{choices: [...]}}"
        )


def _read_choices(key: str, choices: Any) -> tuple[Any, ...]:
    if not isinstance(choices, list) or not choices:
        raise ValueError(f"{key}: choices: expected a list of one value or more, got {choices!r}")
    for index, choice in enumerate(choices):
        _check_plain(key, choice)
        # Optuna tells stored values apart by ==, for which true is 1.
        if any(stored(choice) == stored(other) for other in choices[:index]):
            raise ValueError(f"{key}: choice {stored_text(choice)} is given twice; keep one")
    return tuple(choices)


def _check_plain(key: str, choice: Any) -> None:
    try:
        json.dumps(choice, allow_nan=False)
    except (TypeError, ValueError):
        raise ValueError(
            f"{key}: choice {choice}: expected text, a number, true, false, null, or a list or mapping of these; "
            "put quotes round it if text is meant"
        ) from None


def _read_range(key: str, given: Mapping[str, Any], when: Mapping[str, tuple[Any, ...]]) -> Parameter:
    low, high, step, log = given["low"], given["high"], given.get("step"), given.get("log", False)
    for name, value in (("low", low), ("high", high), ("step", step)):
        if not (_is_number(value) or (name == "step" and value is None)):
            raise ValueError(f"{key}: {name}: expected a number, got {value!r}")
    if not isinstance(log, bool):
        raise ValueError(f"{key}: log: expected true or false, got {log!r}")
    if low > high:
        raise ValueError(f"{key}: low {low} is above high {high}; exchange them")
    if low == high:
        raise ValueError(
            f"{key}: low and high are both {low}, so there is nothing to search; write [{low}] or leave it out"
        )
    if log and low <= 0:
        raise ValueError(f"{key}: log needs a low above 0, got {low}; raise it or leave log out")
    if log and step is not None:
        raise ValueError(f"{key}: log and step exclude each other; keep one")
    if step is not None:
        _check_step(key, low, high, step)
    return Parameter(key, low, high, step, log, when=when)


def _check_step(key: str, low: float, high: float, step: float) -> None:
    if step <= 0:
        raise ValueError(f"{key}: step: expected a number above 0, got {step}")
    steps = (_exact(high) - _exact(low)) / _exact(step)
    if steps != int(steps):
        reached = _exact(low) + max(int(steps), 1) * _exact(step)
        raise ValueError(f"{key}: steps of {step} from low {low} do not reach high {high}; write high: {reached}")


def _read_when(key: str, given: Any) -> dict[str, tuple[Any, ...]]:
    if given is None:
        return {}
    if not isinstance(given, Mapping) or not given:
        raise ValueError(f"{key}: when: expected {{OTHER_KEY: VALUE}} or {{OTHER_KEY: [VALUES]}}, got {given!r}")
    return {str(parent): tuple(values) if isinstance(values, list) else (values,) for parent, values in given.items()}


def _check_when(parameter: Parameter, by_key: Mapping[str, Parameter]) -> None:
    for key, values in parameter.when.items():
        where = f"{parameter.key}: when: {key}"
        parent = by_key.get(key)
        if parent is None:
            raise ValueError(f"{where} is no key of this space; {nearest(key, list(by_key))}")
        if parent.kind == "float":
            raise ValueError(f"{where} is a range of numbers; only choices and whole numbers can be a condition")
        if not values:
            raise ValueError(f"{where}: the list of values is empty; name one at least")
        for value in values:
            try:
                parent.params_value(value)
            except ValueError:
                quote = " (YAML reads a bare on, off, yes, no as true or false: put it in quotes)"
                hint = quote if isinstance(value, bool) else ""
                raise ValueError(f"{where} never is {stored_text(value)}{hint}; valid: {parent.in_words()}") from None


def _check_prefixes(keys: Sequence[str]) -> None:
    for key in keys:
        for other in keys:
            if other.startswith(f"{key}."):
                raise ValueError(f"{other} lies inside {key}, which would replace it; keep one of them")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _exact(value: Any) -> Decimal:
    """The number as it is written: 0.1 is a tenth."""
    return Decimal(str(value))
