"""A search space checked against the experiment's own classes, before the first trial and not hours later in its log.

Every choice, and the low and high of every range, is tried in a trial in which it is there: the parser reads the
configuration, and data, model and trainer are made of it. No video is read and nothing is written. A combination may be
refused, and then fails as a trial with its error. A value is a mistake where it is refused beside the experiment's own
values, where another value of any one other key does not help, and, if that changes what is wrong, a few trials at
random do not either.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from app.comparison.overrides import apply_overrides, expand, flatten
from app.study.key_guess import nearest_key
from app.study.making import Maker, reading, said_when_slow
from app.study.parameter import Parameter, contains, is_active, same, stored_text
from app.study.plan import SEED_KEYS, Plan
from app.study.space import Space
from app.study.trial_config import with_values

LINKED = ("model.init_args.num_classes", "model.init_args.in_channels")
FOLD = "data.init_args.fold"
NEIGHBOURS, DRAWS = 12, 8  # other trials in which a refused value is tried: beside the first, and at random
SLOW = "checking the space: building data and networks as its trials would ..."


def check_space(space: Space, config: Mapping[str, Any]) -> None:
    """Refuse keys that the experiment does not have, and values that no trial of the space could run with.

    `config`: the nested experiment, with or without values for the keys of the space.

    Errors: ValueError with the key, the value, what is wrong and the nearest valid key.
    """
    for parameter in space.parameters:
        _check_meaning(parameter.key)
    with _quiet(), said_when_slow(SLOW):
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
        self._space, self._keys, self._maker = space, [parameter.key for parameter in space.parameters], Maker()
        # Written by --print_config, and not of the parser without a subcommand.
        own = {key: value for key, value in config.items() if key not in ("ckpt_path", "weights_only")}
        self._experiment = with_values(own, self._keys, {})
        self._own = {key: value for key, value in flatten(expand(own)) if key in self._keys}

    def known_keys(self) -> dict[str, Any]:
        """Every key of the experiment with its value, the classes' defaults among them; none where it can't be read."""
        return reading(self._experiment)[1]  # a class may need a value that only the space gives

    def check_key(self, parameter: Parameter, known: Mapping[str, Any]) -> None:
        """Refuse a key that the parser does not take."""
        key = parameter.key
        if not known or any(name == key or name.startswith(f"{key}.") for name in known):
            return
        if reading(apply_overrides(self._experiment, {key: limits(parameter)[0]}))[0]:
            raise ValueError(f"{key} is no key of this experiment; {nearest_key(key, known)}")

    def check_value(self, parameter: Parameter, value: Any, known: Mapping[str, Any]) -> None:
        """Refuse a value with which no trial can be made."""
        fixed = {**self._space.conditions(parameter.key), parameter.key: (value,)}
        first = self._trial(fixed, {**known, **self._own})
        problem = self._problem(first)
        if not problem:
            return
        problems = {problem}
        for trial in self._neighbours(fixed, first, problem):
            if not (other := self._problem(trial)):
                return
            problems.add(other)
        if problem == self._problem({}):
            raise ValueError(self._own_fault(problem))
        if len(problems) > 1:  # what stands beside the value matters
            draws = (self._trial(fixed, {}, random.Random(number)) for number in range(DRAWS))
            if any(not self._problem(trial) for trial in draws):
                return
        blamed = self._space[self._to_blame(parameter.key, first, problem)]
        value = first[blamed.key]
        beside = self._beside(blamed, first)
        raise ValueError(f"{blamed.key}: {stored_text(value)}: {problem}{beside}{_hint(value, problem)}")

    def _own_fault(self, problem: str) -> str:
        """What to say of a problem that the experiment has by itself, with the key where it is the parser's."""
        where = "in the experiment's file or --set, not in the space"
        if reading(self._experiment)[0] == problem:
            # A class at last: without it nothing of the model or the data is read.
            for key, value in sorted(flatten(self._experiment), key=lambda pair: pair[0].endswith(".class_path")):
                found, known = reading(with_values(self._experiment, [key], {}))
                if found == problem:
                    continue
                if known and key not in known and "not accept" in problem:
                    return f"{key} ({where}) is no key of this experiment; {nearest_key(key, known)}"
                return f"{key}: {stored_text(value)} ({where}): {problem}"
        return f"the experiment (its file and --set) is refused, whatever the space sets: {problem}"

    def _to_blame(self, key: str, trial: Mapping[str, Any], problem: str) -> str:
        """The key without which a trial would not have this problem: `key`, or else another."""
        for one in (key, *trial):
            if self._problem({other: value for other, value in trial.items() if other != one}) != problem:
                return one
        return key

    def _neighbours(
        self, fixed: Mapping[str, tuple[Any, ...]], trial: Mapping[str, Any], problem: str
    ) -> Iterator[dict[str, Any]]:
        """Trials in which one other key has another value, those that the problem names first."""
        others = sorted(self._space.parameters, key=lambda parameter: parameter.key.rpartition(".")[2] not in problem)
        changes = (
            {**fixed, parameter.key: (value,)}
            for parameter in others
            for value in fixed.get(parameter.key, limits(parameter))
            if parameter.key in trial and not same(value, trial[parameter.key])
        )
        for change, _ in zip(changes, range(NEIGHBOURS), strict=False):
            yield self._trial(change, trial)

    def _trial(
        self, fixed: Mapping[str, tuple[Any, ...]], preferred: Mapping[str, Any], draw: random.Random | None = None
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
        return self._maker.problem(with_values(self._experiment, self._keys, trial))

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


def _hint(value: Any, problem: str) -> str:
    """What the space's author may have meant."""
    if isinstance(value, bool) and "text" in problem:
        words = "'on' or 'yes'" if value else "'off' or 'no'"
        return f"; YAML reads a bare on, yes, off or no as true or false: where text is meant, write {words} in quotes"
    if isinstance(value, float) and value == int(value) and "a whole number" in problem:
        return f"; a whole number is written without a point: {int(value)}"
    return ""


def _quiet() -> Any:
    import app.trainer_cli  # noqa: F401  Lightning sets its loggers' levels when it is imported
    from app.noise import without_noise

    return without_noise(quiet=True)
