"""Reading one parameter of a search space file, each mistake with what to write instead."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from app.comparison.overrides import nearest
from app.study.parameter import Parameter, exact, is_number, stored, stored_text

EXAMPLE = "model.init_args.lr: {low: 1.0e-4, high: 1.0e-1, log: true}"
CHOICE_FIELDS = ("choices", "when")
FIELDS = ("low", "high", "step", "log", "choices", "when")


def read_parameter(key: Any, given: Any) -> Parameter:
    """Read `KEY: {low, high, ...}`, `KEY: {choices: [...]}` or `KEY: [...]`. Errors: ValueError with the key."""
    if not isinstance(key, str):
        raise ValueError(f"key {key!r}: expected a dotted key of the configuration, as in {EXAMPLE}")
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
            f"nested keys are written in one, as in {EXAMPLE}"
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
        is_plain = json.loads(json.dumps(choice, allow_nan=False)) == choice  # not of a mapping whose keys are numbers
    except (TypeError, ValueError):
        is_plain = False
    if not is_plain:
        raise ValueError(
            f"{key}: choice {choice}: expected text, a number, true, false, null, or a list or mapping of these; "
            "put quotes round it if text is meant"
        )


def _read_range(key: str, given: Mapping[str, Any], when: Mapping[str, tuple[Any, ...]]) -> Parameter:
    low, high, step, log = given["low"], given["high"], given.get("step"), given.get("log", False)
    for name, value in (("low", low), ("high", high), ("step", step)):
        if not (is_number(value) or (name == "step" and value is None)):
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
    steps = (exact(high) - exact(low)) / exact(step)
    if steps != int(steps):
        reached = exact(low) + max(int(steps), 1) * exact(step)
        raise ValueError(f"{key}: steps of {step} from low {low} do not reach high {high}; write high: {reached}")


def _read_when(key: str, given: Any) -> dict[str, tuple[Any, ...]]:
    if given is None:
        return {}
    if not isinstance(given, Mapping) or not given:
        raise ValueError(f"{key}: when: expected {{OTHER_KEY: VALUE}} or {{OTHER_KEY: [VALUES]}}, got {given!r}")
    return {str(parent): tuple(values) if isinstance(values, list) else (values,) for parent, values in given.items()}
