"""The cells of a comparison: one (row, fold, seed) each, with the configuration it runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from app.comparison.overrides import apply_overrides, config_hash, get
from app.comparison.spec import Comparison, Row

CellKey = tuple[str, int, int]


@dataclass(frozen=True)
class Cell:
    """One run of the table. `config` is the nested fit configuration with fold and seed set."""

    row: str
    fold: int
    seed: int
    config: Mapping[str, Any]

    @property
    def key(self) -> CellKey:
        """What identifies the cell in results.json: (row, fold, seed)."""
        return self.row, self.fold, self.seed

    @property
    def label(self) -> str:
        """The cell in words, also the stem of its log file."""
        return f"{self.row}-fold{self.fold}-seed{self.seed}"

    @cached_property
    def config_hash(self) -> str:
        """Hash of the resolved configuration, fold and seed included."""
        return config_hash(self.config)

    def facts(self) -> dict[str, Any]:
        """The columns of results.json that the configuration tells (a missing one is the class's default)."""
        model = "model.init_args."
        remembers = has_memory(self.config)
        return {
            "row": self.row,
            "rule": get(self.config, f"{model}rule", "default"),
            "wiring": get(self.config, f"{model}wiring", "-" if remembers else "default"),
            "network": get(self.config, f"{model}{'memory' if remembers else 'network'}", "default"),
            "dataset": str(get(self.config, "data.class_path")).rsplit(".", 1)[-1],
            "fold": self.fold,
            "seed": self.seed,
            "config_hash": self.config_hash,
        }


def has_memory(config: Mapping[str, Any]) -> bool:
    """Whether the task is long memory, whose network is its memory, and whose wiring an encoder's of frames."""
    return str(get(config, "model.class_path")).rsplit(".", 1)[-1] == "LongMemory"


def make_cell(comparison: Comparison, row: Row, fold: int, seed: int) -> Cell:
    """One cell: the row's configuration with `fold_key` and every `seed_keys` entry set."""
    settings: dict[str, Any] = dict.fromkeys(comparison.seed_keys, seed)
    if comparison.folds is not None:
        settings[comparison.fold_key] = fold
    return Cell(row.name, fold, seed, apply_overrides(comparison.row_config(row), settings))


def build_grid(
    comparison: Comparison,
    *,
    rows: Sequence[str] | None = None,
    folds: Sequence[int] | None = None,
    seeds: Sequence[int] | None = None,
) -> list[Cell]:
    """Every cell of the (restricted) comparison, seeds outermost, then folds, then rows.

    In that order a table that was stopped half-way has all rows on the folds and seeds it reached, so its
    differences are already paired. Errors: ValueError for unknown rows, and for folds of data that has none.
    """
    chosen = [comparison.row(name) for name in rows] if rows else list(comparison.rows)
    if folds is not None and comparison.folds is None:
        raise ValueError(f"--folds {_words(folds)}: comparison {comparison.name!r} has no folds; leave --folds out")
    all_folds = tuple(folds) if folds is not None else comparison.folds or (0,)
    all_seeds = tuple(seeds) if seeds is not None else comparison.seeds
    return [
        make_cell(comparison, row, fold, seed)
        for seed in dict.fromkeys(all_seeds)
        for fold in dict.fromkeys(all_folds)
        for row in chosen
        if (row.folds is None or fold in row.folds) and (row.seeds is None or seed in row.seeds)
    ]


def is_reporting(comparison: Comparison, fold: int, seed: int) -> bool:
    """Whether a run counts for the result: no settings were chosen on it."""
    return not tuned_on(comparison, fold, seed)


def tuned_on(comparison: Comparison, fold: int, seed: int) -> str:
    """What of a run settings were chosen on: "fold", "seed", or "" for a run that counts for the result.

    With tuning folds these alone decide; only where there are none do the tuning seeds.
    """
    if comparison.tuning_folds:
        return "fold" if fold in comparison.tuning_folds else ""
    return "seed" if seed in comparison.tuning_seeds else ""


def _words(values: Iterable[int]) -> str:
    return " ".join(str(value) for value in values)
