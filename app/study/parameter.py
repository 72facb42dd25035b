"""One key of a search space: a range of numbers or choices, and with which values of other keys it is there."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import optuna


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
        elif is_number(value) and (self.kind == "float" or type(value) is int) and self._holds(value):
            if self.kind == "int":
                return value
            return float(value) if self.step is None else self._on_step(value)
        raise ValueError(f"{self.key}: {value!r} is not in {self.in_words()}")

    def count(self) -> int | None:
        """How many values there are; None where there is no end of them."""
        if self.choices is not None:
            return len(self.choices)
        step = self.step or (1 if self.kind == "int" else None)
        return None if step is None else int((exact(self.high) - exact(self.low)) / exact(step)) + 1

    def all_values(self) -> Iterator[Any]:
        """Every value, of a parameter that has an end of them."""
        if self.choices is not None:
            yield from self.choices
            return
        for index in range(self.count() or 0):
            value = exact(self.low) + index * exact(self.step or 1)
            yield int(value) if self.kind == "int" else float(value)

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
        step = exact(self.step or 1)
        return float(exact(self.low) + round((exact(value) - exact(self.low)) / step) * step)


def is_active(parameter: Parameter, values: Mapping[str, Any]) -> bool:
    """Whether a parameter is there beside these values of its parents."""
    return all(key in values and contains(allowed, values[key]) for key, allowed in parameter.when.items())


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


def is_number(value: Any) -> bool:
    """Whether it is a finite number, and neither true nor false."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def exact(value: Any) -> Decimal:
    """The number as it is written: 0.1 is a tenth."""
    return Decimal(str(value))
