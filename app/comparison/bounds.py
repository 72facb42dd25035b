"""Claims a comparison is held to: a row's figure, or its difference to another row, against a bound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from app.comparison.measures import at_horizon, parts

GAP_RECOVERED = "gap_recovered"
_KEYS = ("row", "versus", "metric", "at_least", "at_most", "relative", "horizons")


@dataclass(frozen=True)
class Bound:
    """`row` (minus `versus` where given) in `metric` is at least, or at most, a number.

    `metric` is a logged metric, None for the comparison's own, or `gap_recovered`. `relative`: the difference is
    divided by what `versus` has, so that 0.05 is "within 5 % of it". In the file `horizons` makes a bound one for
    each: `metric: test/mse, horizons: [1, 2]` stands for test/mse_1 and test/mse_2.
    """

    row: str
    versus: str | None = None
    metric: str | None = None
    at_least: float | None = None
    at_most: float | None = None
    relative: bool = False

    @property
    def limit(self) -> float:
        """The number itself."""
        return self.at_least if self.at_least is not None else float(self.at_most or 0.0)

    def sentence(self, default_metric: str) -> str:
        """The claim in words."""
        subject = f"{self.row} - {self.versus}" if self.versus else self.row
        sign = ">=" if self.at_least is not None else "<="
        limit = f"{100 * self.limit:g} % of {self.versus}" if self.relative else f"{self.limit:g}"
        return f"{subject}: {self.metric or default_metric} {sign} {limit}"


def read_bounds(items: Sequence[Any], metric: str) -> tuple[Bound, ...]:
    """Check a YAML list of bounds; `metric` is the comparison's. Errors: ValueError telling position and mistake."""
    return tuple(bound for index, item in enumerate(items) for bound in _read_bounds(item, metric, f"bounds[{index}]"))


def _read_bounds(item: Any, metric: str, where: str) -> list[Bound]:
    if not isinstance(item, Mapping) or not item.get("row"):
        raise ValueError(f"{where}: expected a mapping with row and at_least or at_most, got {item!r}")
    unknown = [key for key in item if key not in _KEYS]
    if unknown:
        raise ValueError(f"{where}: unknown key {unknown[0]!r}; valid: {', '.join(_KEYS)}")
    values = dict(item)
    horizons = values.pop("horizons", None)
    bound = Bound(**values)
    if (bound.at_least is None) == (bound.at_most is None):
        raise ValueError(f"{where}: give exactly one of at_least and at_most")
    if bound.metric == GAP_RECOVERED and (bound.versus or horizons or bound.relative):
        raise ValueError(
            f"{where}: gap_recovered is already relative to frozen and exact; leave out versus, relative and horizons"
        )
    if not isinstance(bound.relative, bool) or (bound.relative and not bound.versus):
        raise ValueError(f"{where}: relative: true divides the difference by what versus has; name versus")
    if horizons is None:
        return [bound]
    if not isinstance(horizons, list) or not horizons or not all(_is_horizon(value) for value in horizons):
        raise ValueError(f"{where}: horizons: expected a list of whole numbers from 0, got {horizons!r}")
    return [replace(bound, metric=at_horizon(bound.metric or metric, value)) for value in horizons]


def check_horizons(bounds: Sequence[Bound], ahead: Mapping[str, int]) -> None:
    """Refuse a bound on a horizon that a row does not predict: it would stay undecided. `ahead`: row to K.

    Errors: ValueError with the row and the horizons that it has.
    """
    for bound in bounds:
        k = parts(bound.metric or "")[1]
        for row in (bound.row, bound.versus or ""):
            if k is None or row not in ahead or k in horizons_of(ahead[row]):
                continue
            raise ValueError(
                f"bounds: {bound.metric} of row {row!r}, which predicts {_range(ahead[row])}; give a horizon that it "
                "has, or the row another model.init_args.horizon"
            )


def horizons_of(ahead: int) -> range:
    """Return the horizons of a row that looks K frames ahead: 1 to K, and 0 alone where it predicts nothing."""
    return range(1, ahead + 1) if ahead else range(1)


def _range(ahead: int) -> str:
    return f"k = 1 to {ahead}" if ahead else "k = 0 alone"


def _is_horizon(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
