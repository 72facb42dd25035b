"""What `sweep:` of a comparison says: each row is tuned by a study of its own, and all studies have the same budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from app.comparison.overrides import nearest

if TYPE_CHECKING:
    from app.comparison.spec import Comparison, Row
    from app.study.space import Space

KEYS = ("space", "trials", "sampler", "pruner", "seed")
CONFIGS = Path(__file__).resolve().parents[1] / "configs"
EXAMPLE = "sweep: {space: SPACE.yaml, trials: 20}"


@dataclass(frozen=True)
class Sweep:
    """The budget of every row's study; `space` is that of the rows that have none of their own."""

    trials: int
    space: Space | None = None
    sampler: str = "tpe"
    pruner: str = "none"
    seed: int = 0


def read_sweep(content: Any, folder: Path) -> Sweep | None:
    """The comparison's `sweep:`; None where it has none. `folder` is where the path of a space is looked up first.

    Errors: ValueError with what to write.
    """
    if content is None:
        return None
    values = _mapping(content, "sweep", EXAMPLE)
    for key in values:
        if key not in KEYS:
            raise ValueError(f"sweep: unknown key {key!r}; {nearest(key, KEYS)}")
    if values.get("trials") is None:
        raise ValueError(f"sweep: trials is missing: how many every row gets, as in {EXAMPLE}")
    _check_numbers(values)
    _check_names(values)
    space = values.pop("space", None)
    given = {key: value for key, value in values.items() if value is not None}
    return Sweep(**given, space=None if space is None else _read_space(space, folder, "sweep"))


def read_row_sweep(content: Any, folder: Path, where: str) -> Space | Literal[False] | None:
    """A row's `sweep:`: its own space, False for a row that is not tuned, None for the comparison's space.

    Errors: ValueError with what to write.
    """
    if content is None or content is True:
        return None
    if content is False:
        return False
    values = _mapping(content, f"{where}: sweep", "sweep: {space: SPACE.yaml}, or sweep: false")
    for key in values:
        if key in KEYS and key != "space":
            raise ValueError(f"{where}: sweep: {key} is the same for every row; give it in the comparison's sweep")
        if key != "space":
            raise ValueError(f"{where}: sweep: unknown key {key!r}; {nearest(key, ('space',))}")
    if values.get("space") is None:
        raise ValueError(f"{where}: sweep: space is missing, as in sweep: {{space: SPACE.yaml}}")
    return _read_space(values["space"], folder, f"{where}: sweep")


def row_space(comparison: Comparison, row: Row) -> Space | None:
    """The space of a row's study; None for a row that is not tuned."""
    if comparison.sweep is None or row.sweep is False:
        return None
    return row.sweep or comparison.sweep.space


def swept_rows(comparison: Comparison) -> list[str]:
    """Names of the rows with a study of their own, in the file's order."""
    return [row.name for row in comparison.rows if row_space(comparison, row) is not None]


def check_sweep(comparison: Comparison) -> None:
    """Refuse what has no effect, and unequal budgets. Errors: ValueError with what to write."""
    sweep = comparison.sweep
    if sweep is None:
        named = [row.name for row in comparison.rows if row.sweep is not None]
        if named:
            raise ValueError(f"row {named[0]!r}: sweep, but the comparison has none; add {EXAMPLE} to it")
        return
    if comparison.tune or any(row.tune for row in comparison.rows):
        raise ValueError("tune and sweep don't go together: keep the grid (tune) or the studies (sweep)")
    if comparison.variants:
        raise ValueError(
            "sweep and variants don't go together: sweep without variants, then write the choice into rows"
        )
    for row in comparison.rows:
        if row.sweep is None and sweep.space is None:
            raise ValueError(f"sweep: row {row.name!r} has no space: add one to sweep or to the row, or sweep: false")
    if not swept_rows(comparison):
        raise ValueError("sweep: every row says sweep: false, so nothing is tuned; leave sweep out of the comparison")
    if not (comparison.tuning_folds or comparison.tuning_seeds):
        raise ValueError("sweep: name the tuning_folds or tuning_seeds on which the settings are chosen")
    if sweep.sampler == "grid":
        _check_grid(comparison, sweep)


def _check_grid(comparison: Comparison, sweep: Sweep) -> None:
    for row in comparison.rows:
        space = row_space(comparison, row)
        points = None if space is None else space.size()
        if points is not None and points < sweep.trials:
            raise ValueError(
                f"sweep: the grid of row {row.name!r} has {points} points, fewer than the {sweep.trials} trials that "
                f"every row gets; write trials: {points}, or give it a larger space"
            )


def _check_numbers(values: Mapping[str, Any]) -> None:
    for key, least in (("trials", 1), ("seed", 0)):
        value = values.get(key, least)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
            raise ValueError(f"sweep: {key}: expected a whole number from {least}, got {value!r}")


def _check_names(values: Mapping[str, Any]) -> None:
    from app.study.samplers import PRUNERS, SAMPLERS

    for key, valid in (("sampler", SAMPLERS), ("pruner", PRUNERS)):
        value = values.get(key)
        if value is not None and value not in valid:
            raise ValueError(f"sweep: unknown {key} {value!r}; {nearest(str(value), list(valid))}")


def _read_space(space: Any, folder: Path, where: str) -> Space:
    from app.study.space import load_space, read_space

    try:
        if isinstance(space, Mapping):
            return read_space(space)
        candidates = [folder / str(space), CONFIGS / str(space)]
        found = next((path for path in candidates if path.is_file()), None)
        if found is not None:
            return load_space(found)
    except ValueError as error:
        raise ValueError(f"{where}: space: {error}") from error
    raise ValueError(
        f"{where}: space: found {space} neither in {folder} nor in app/configs; give a space's path or write it inline"
    )


def _mapping(content: Any, where: str, example: str) -> dict[str, Any]:
    if not isinstance(content, Mapping):
        raise ValueError(f"{where}: expected a mapping, as in {example}; got {content!r}")
    return dict(content)
