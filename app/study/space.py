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

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.comparison.overrides import get, nearest
from app.comparison.yaml_file import read_yaml
from app.study.parameter import Parameter, contains, is_active, same, stored_text
from app.study.parameter_file import EXAMPLE, read_parameter

if TYPE_CHECKING:
    import optuna

_ABSENT = object()


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
        raise ValueError(f"a search space maps keys to what they may be, as in {EXAMPLE}; got {content!r}")
    parameters = [read_parameter(key, given) for key, given in content.items()]
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
