"""One parameter of a study as an axis: where a value stands from 0 to 1, and which ticks to write. No Streamlit.

range      0.001 ----- 0.01 ----- 0.1      even steps, or even steps of the logarithm
choices      chain   residual   null       evenly spaced, in the order of the space
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from dashboard.names import clean

Value = float | int | str  # of a parameter, once read: a finite number, or a text for all else
MOST_CHOICES = 200
_LARGEST = 1e300
_APART = 0.17  # of an axis: ticks nearer than that to its ends are not written
_MOST_TICKS = 12
_TICKS_OF_A_RANGE = 4
_FEW_DECADES = 3
_MIDDLE = 0.5


@dataclass(frozen=True)
class Parameter:
    """A parameter by its key: a range (`low`, `high`, perhaps `log`) or `choices` as texts.

    `words`: the space's own, before it was widened to what trials had.
    """

    key: str
    low: float | None = None
    high: float | None = None
    log: bool = False
    choices: tuple[str, ...] = ()
    words: str = ""

    @property
    def searched(self) -> str:
        """Return in words what was searched; nothing where the space does not say it."""
        return self.words

    def position(self, value: Value | None) -> float | None:
        """Return where a value stands on the axis, from 0 to 1; None for one that has no place there."""
        if self.low is None or self.high is None:
            return None if value is None else _place(self.choices, exact(value))
        if value is None or isinstance(value, str) or (self.log and value <= 0):
            return None
        low, high, at = (math.log(each) if self.log else float(each) for each in (self.low, self.high, value))
        return (at - low) / (high - low) if high > low else _MIDDLE

    def ticks(self) -> list[tuple[float, str]]:
        """Return (position, text) of the ticks: every choice, or the ends of a range and round numbers between."""
        if self.low is None or self.high is None:
            every = -(-len(self.choices) // _MOST_TICKS)
            return [(_place(self.choices, choice) or 0.0, choice) for choice in self.choices[:: every or 1]]
        if self.low == self.high:
            return [(_MIDDLE, short(self.low))]
        found = [0.0, 1.0]
        texts = {0.0: short(self.low), 1.0: short(self.high)}
        numbers = round_numbers(self.low, self.high, log=self.log)
        for number in sorted(numbers, key=lambda each: f"{each:e}"[0] != "1"):  # powers of ten go first
            at = self.position(number)
            if at is not None and all(abs(at - other) > _APART for other in found):
                found.append(at)
                texts[at] = short(number)
        return sorted(texts.items())


def _place(choices: tuple[str, ...], choice: str) -> float | None:
    return (choices.index(choice) + 0.5) / len(choices) if choice in choices else None


def read_parameter(key: str, given: object, seen: Iterable[Value]) -> Parameter:
    """Return a parameter as the space has it, widened to the values seen; from these alone where the space is no help.

    `given` may be anything: a stranger may have written it.
    """
    values = list(dict.fromkeys(seen))
    found = _given(key, given)
    numbers = [value for value in values if not isinstance(value, str)]
    if found.choices or len(numbers) < len(values) or (found.low is None and not numbers):
        return Parameter(key, choices=_choices(found.choices, list(map(exact, values))), words=found.words)
    if found.low is None or found.high is None:
        return Parameter(key, min(numbers), max(numbers))
    if found.log:
        numbers = [number for number in numbers if number > 0]
    return replace(found, low=min([found.low, *numbers]), high=max([found.high, *numbers]))


def _choices(given: tuple[str, ...], seen: list[str]) -> tuple[str, ...]:
    """Return at most MOST_CHOICES in the order of the space, those that trials had before those that none had."""
    kept = set(list(dict.fromkeys([*seen, *given]))[:MOST_CHOICES])
    return tuple(choice for choice in dict.fromkeys([*given, *seen]) if choice in kept)


def _given(key: str, given: object) -> Parameter:
    choices = given.get("choices") if isinstance(given, Mapping) else given
    when = _when(given.get("when")) if isinstance(given, Mapping) else ""
    if isinstance(choices, list):
        texts = tuple(dict.fromkeys(exact(value_of(each)) for each in choices[:MOST_CHOICES]))
        return Parameter(key, choices=texts, words=", ".join(texts) + when)
    if not isinstance(given, Mapping):
        return Parameter(key)
    low, high, step = (number_of(given.get(name)) for name in ("low", "high", "step"))
    if low is None or high is None or low > high:
        return Parameter(key)
    log = given.get("log") is True and low > 0
    stepped = "" if step is None else f", step {short(step)}"
    return Parameter(key, low, high, log, words=f"{short(low)} to {short(high)}{', log' if log else ''}{stepped}{when}")


def _when(given: object) -> str:
    """Return a condition in words: `, where lag_scaling is inverse or exponential`."""
    found = []
    for key, values in list(given.items())[:_MOST_TICKS] if isinstance(given, Mapping) else ():
        listed = values if isinstance(values, list) else [values]
        texts = [exact(value_of(value)) for value in listed[:_MOST_TICKS]]
        found.append(f"{clean(key).rsplit('.', 1)[-1]} is {' or '.join(texts)}")
    return f", where {' and '.join(found)}" if found else ""


def number_of(value: object) -> float | int | None:
    """Return a finite number as it is; None for all else, truth values among them."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < _LARGEST:
        return None
    return value


def value_of(value: Any) -> Value:
    """Return a parameter's value: a number, or as text what is none (`true`, `null`, `[1,2]`, a name)."""
    number = number_of(value)
    if number is not None:
        return number
    if isinstance(value, str):
        return clean(value)
    try:
        return clean(json.dumps(value, ensure_ascii=False))
    except (ValueError, RecursionError):
        return "…"


def exact(value: Value) -> str:
    """Return a value in full, as a configuration has it."""
    return value if isinstance(value, str) else repr(value)


def six(value: Value) -> str:
    """Return a value with at most six figures, which are enough to compare by eye."""
    return value if isinstance(value, str) else f"{value:.6g}"


def short(value: Value | None) -> str:
    """Return a value with at most four figures, `–` for none."""
    if value is None:
        return "–"
    return value if isinstance(value, str) else f"{value:.4g}"


def round_numbers(low: float, high: float, *, log: bool) -> list[float]:
    """Return a few round numbers between two ends: multiples of 1, 2 or 5; for a logarithm of powers of ten.

    >>> round_numbers(0.0003, 0.2, log=True), round_numbers(2.5, 110, log=True), round_numbers(0.0, 0.9, log=False)
    ([0.001, 0.01, 0.1], [5.0, 10.0, 20.0, 50.0, 100.0], [0.0, 0.25, 0.5, 0.75])
    """
    if log and high / low >= 10:
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        every = -(-(last - first) // (2 * _TICKS_OF_A_RANGE)) or 1
        times = (1, 2, 5) if last - first <= _FEW_DECADES else (1,)
        found = [digit * 10.0**power for power in range(first, last + 1, every) for digit in times]
        return [number for number in found if low <= number <= high]
    rough = (high - low) / _TICKS_OF_A_RANGE
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(times * unit for times in (1, 2, 2.5, 5, 10) if times * unit >= rough * (1 - 1e-9))
    if isinstance(low, int) and isinstance(high, int):
        step = max(round(step), 1)
    first = math.ceil(low / step)
    return [number * step for number in range(first, first + 2 * _TICKS_OF_A_RANGE) if number * step < high]
