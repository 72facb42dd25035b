"""What a comparison is: the YAML file of `app/configs/comparisons/`, read and checked."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from app.comparison.baselines import BASELINES, is_baseline
from app.comparison.bounds import Bound, check_horizons, read_bounds
from app.comparison.measures import check_sense, parts
from app.comparison.overrides import apply_overrides, check_experiment, expand, get, nearest
from app.comparison.sweep_spec import Sweep, check_sweep, read_row_sweep, read_sweep
from app.comparison.trials import check_tune
from app.comparison.variants import expand_rows, partner, scaled
from app.comparison.yaml_file import read_yaml

if TYPE_CHECKING:
    from app.study.space import Space

ROW_KEYS = ("name", "overrides", "folds", "seeds", "tune", "sweep", "cell_seconds")


@dataclass(frozen=True)
class Row:
    """One line of the table: the base experiment with `overrides`.

    `folds` and `seeds` restrict the comparison's own (None: all of them); `tune` replaces the comparison's grid,
    `sweep` the space of its sweep (False: the row is not tuned); `scale` is its variant's (see `variants`).
    """

    name: str
    overrides: Mapping[str, Any] = field(default_factory=dict)
    folds: tuple[int, ...] | None = None
    seeds: tuple[int, ...] | None = None
    tune: Mapping[str, Sequence[Any]] | None = None
    sweep: Space | Literal[False] | None = None
    cell_seconds: float | None = None
    scale: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """A checked comparison.

    Results are the mean over the folds outside `tuning_folds` (or, where that is empty, the seeds outside
    `tuning_seeds`). `folds` is None for data without folds: then `fold_key` is not set and the fold is 0. `better`
    says whether more or less of `metric` (and `tune_metric`, by default the same) is wanted: higher or lower.
    """

    name: str
    intent: str
    experiment: Mapping[str, Any]
    control: str
    rows: tuple[Row, ...]
    frozen: str | None = None
    exact: str | None = None
    folds: tuple[int, ...] | None = None
    seeds: tuple[int, ...] = (0,)
    tuning_folds: tuple[int, ...] = ()
    tuning_seeds: tuple[int, ...] = ()
    metric: str = "test/top1"
    better: str = "higher"
    bounds: tuple[Bound, ...] = ()
    fold_key: str = "data.init_args.fold"
    seed_keys: tuple[str, ...] = ("seed_everything", "data.init_args.seed")
    overrides: Mapping[str, Any] = field(default_factory=dict)
    variants: tuple[Any, ...] = ()
    tune: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    sweep: Sweep | None = None
    tune_metric: str = "test/top1"
    cell_seconds: float | None = None
    diverged_above: float | None = None

    def row(self, name: str) -> Row:
        """The row of that name. Errors: ValueError with the nearest name."""
        for row in self.rows:
            if row.name == name:
                return row
        raise ValueError(f"comparison {self.name!r} has no row {name!r}; {nearest(name, self.row_names)}")

    @property
    def row_names(self) -> list[str]:
        """Names of the rows, in the order of the file."""
        return [row.name for row in self.rows]

    @property
    def predicts_frames(self) -> bool:
        """Whether the task is future frames, whose tables have horizons, baselines and each network's Lmin."""
        return any(_of_frames(self.row_config(row)) for row in self.rows)

    def row_config(self, row: Row) -> dict[str, Any]:
        """The fit configuration of a row, before fold and seed are set."""
        config = apply_overrides(self.experiment, self.overrides, row.overrides)
        return scaled(config, row.scale, f"row {row.name!r}")

    def with_settings(self, given: Mapping[str, Any]) -> Comparison:
        """This comparison with overrides for every row's experiment. Errors: ValueError for a key that none has."""
        changed = replace(self, overrides=apply_overrides(self.overrides, given))
        for row in changed.rows:
            check_experiment(changed.row_config(row), "--set")
        check_horizons(changed.bounds, _horizons(changed))
        return changed

    def with_overrides(self, chosen: Mapping[str, Mapping[str, Any]]) -> Comparison:
        """This comparison with further overrides for some rows (row name to overrides): a tuning's choice."""
        rows = [replace(row, overrides=apply_overrides(row.overrides, chosen.get(row.name, {}))) for row in self.rows]
        return replace(self, rows=tuple(rows))


COMPARISON_KEYS = tuple(Comparison.__dataclass_fields__)


def load_comparison(path: str | Path) -> Comparison:
    """The comparison a YAML file describes. Errors: ValueError with the file's name and what to change."""
    path = Path(path)
    content = read_yaml(path)
    try:
        return read_comparison(content, folder=path.parent)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def read_comparison(content: Mapping[str, Any], folder: Path = Path()) -> Comparison:
    """Check a comparison's content; `folder` is where paths in it are looked up first."""
    _known(content, COMPARISON_KEYS, "the comparison")
    missing = [key for key in ("name", "intent", "experiment", "control", "rows") if not content.get(key)]
    if missing:
        raise ValueError(f"missing {', '.join(missing)}; a comparison needs name, intent, experiment, control and rows")
    values = dict(content)
    rows = [_read_row(row, index, folder) for index, row in enumerate(_list(content["rows"], "rows"))]
    values["variants"] = tuple(_list(content.get("variants") or [], "variants"))
    values["rows"] = expand_rows(rows, values["variants"])
    values["experiment"] = _read_experiment(content["experiment"], folder)
    values["sweep"] = read_sweep(content.get("sweep"), folder)
    values["overrides"] = expand(content.get("overrides") or {})
    values["metric"] = content.get("metric") or Comparison.metric
    values["tune_metric"] = content.get("tune_metric") or values["metric"]
    values["bounds"] = read_bounds(_list(content.get("bounds", []), "bounds"), values["metric"])
    values["seed_keys"] = tuple(_list(content.get("seed_keys", list(Comparison.seed_keys)), "seed_keys"))
    for key in ("folds", "seeds", "tuning_folds", "tuning_seeds"):
        if content.get(key) is not None:
            values[key] = _integers(content[key], key)
    comparison = Comparison(**{key: value for key, value in values.items() if value is not None})
    _check(comparison)
    return comparison


def _read_experiment(experiment: Any, folder: Path) -> Mapping[str, Any]:
    if isinstance(experiment, Mapping):
        return experiment
    candidates = [folder / str(experiment), Path(str(experiment))]
    found = next((path for path in candidates if path.is_file()), None)
    if found is None:
        looked = " nor ".join(str(path) for path in candidates)
        raise ValueError(f"experiment: found neither {looked}; give a fit configuration's path or write it inline")
    return read_yaml(found)


def _read_row(row: Any, index: int, folder: Path) -> Row:
    where = f"rows[{index}]"
    if not isinstance(row, Mapping) or not row.get("name"):
        raise ValueError(f"{where}: expected a mapping with a name, got {row!r}")
    _known(row, ROW_KEYS, f"row {row['name']!r}")
    values = dict(row)
    for key in ("folds", "seeds"):
        if row.get(key) is not None:
            values[key] = _integers(row[key], f"row {row['name']!r}: {key}")
    overrides = row.get("overrides") or {}
    if not isinstance(overrides, Mapping):
        raise ValueError(f"row {row['name']!r}: overrides must map keys to values, got {overrides!r}")
    values["overrides"] = expand(overrides)
    values["sweep"] = read_row_sweep(row.get("sweep"), folder, f"row {row['name']!r}")
    return Row(**values)


def _check(comparison: Comparison) -> None:
    names = comparison.row_names
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"row names given twice: {', '.join(twice)}; every row needs a name of its own")
    for key in ("control", "frozen", "exact"):
        for name in (partner(row, getattr(comparison, key)) for row in names):
            if name is not None and name not in names:
                raise ValueError(f"{key}: no row {name!r}; {nearest(name, names)}")
    taken = [name for name in names if is_baseline(name)]
    if taken:
        raise ValueError(f"row name {taken[0]!r} is a baseline's, which every run scores itself; choose another")
    for key in ("metric", "tune_metric"):
        check_sense(key, getattr(comparison, key), comparison.better)
    baselines = {str(partner(row, name)) for row in names for name in BASELINES} if comparison.predicts_frames else ()
    for bound in comparison.bounds:
        for name, valid in ((bound.row, names), (bound.versus, [*names, *baselines])):
            if name is not None and name not in valid:
                raise ValueError(f"bounds: no row {name!r}; {nearest(name, valid)}")
    if comparison.folds is None and (comparison.tuning_folds or any(row.folds for row in comparison.rows)):
        raise ValueError("tuning_folds or a row's folds are given, but the comparison has no folds; add folds: [...]")
    _check_restrictions(comparison)
    check_tune(comparison)
    check_sweep(comparison)
    for row in comparison.rows:
        check_experiment(comparison.row_config(row), f"row {row.name!r}")
    check_horizons(comparison.bounds, _horizons(comparison))


def _horizons(comparison: Comparison) -> dict[str, int]:
    """Return how far each row that predicts frames looks ahead, where a bound is about one horizon."""
    if all(parts(bound.metric or "")[1] is None for bound in comparison.bounds):
        return {}
    configs = {row.name: comparison.row_config(row) for row in comparison.rows}
    found = {name: get(config, "model.init_args.horizon") for name, config in configs.items() if _of_frames(config)}
    if None in found.values():
        # Seconds of imports, for a file that leaves the task's default in place.
        from lightning_modules.future_frames import FutureFrames

        default = inspect.signature(FutureFrames).parameters["horizon"].default
        found = {name: default if value is None else value for name, value in found.items()}
    return {name: value for name, value in found.items() if isinstance(value, int)}


def _of_frames(config: Mapping[str, Any]) -> bool:
    return str(get(config, "model.class_path")).rsplit(".", 1)[-1] == "FutureFrames"


def _check_restrictions(comparison: Comparison) -> None:
    for row in comparison.rows:
        for key, all_values in (("folds", comparison.folds or ()), ("seeds", comparison.seeds)):
            outside = [value for value in getattr(row, key) or () if value not in all_values]
            if outside:
                raise ValueError(f"row {row.name!r}: {key} {outside} are not among the comparison's {list(all_values)}")


def _known(content: Mapping[str, Any], valid: Sequence[str], where: str) -> None:
    for key in content:
        if key not in valid:
            raise ValueError(f"{where}: unknown key {key!r}; {nearest(key, list(valid))}")


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise ValueError(f"{where}: expected a list, got {value!r}")
    return list(value)


def _integers(value: Any, where: str) -> tuple[int, ...]:
    values = _list(value, where)
    if any(isinstance(item, bool) or not isinstance(item, int) or item < 0 for item in values):
        raise ValueError(f"{where}: expected whole numbers from 0, got {value!r}")
    if len(set(values)) != len(values):
        raise ValueError(f"{where}: {value!r} holds a number twice")
    return tuple(values)
