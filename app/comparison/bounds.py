"""Claims a comparison is held to: a row's figure, or its difference to another row, against a bound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

GAP_RECOVERED = "gap_recovered"
_KEYS = ("row", "versus", "metric", "at_least", "at_most")


@dataclass(frozen=True)
class Bound:
    """`row` (minus `versus` where given) in `metric` is at least, or at most, a number.

    `metric` is a logged metric, None for the comparison's own, or `gap_recovered`.
    """

    row: str
    versus: str | None = None
    metric: str | None = None
    at_least: float | None = None
    at_most: float | None = None

    @property
    def limit(self) -> float:
        """The number itself."""
        return self.at_least if self.at_least is not None else float(self.at_most or 0.0)

    def sentence(self, default_metric: str) -> str:
        """The claim in words."""
        subject = f"{self.row} - {self.versus}" if self.versus else self.row
        sign = ">=" if self.at_least is not None else "<="
        return f"{subject}: {self.metric or default_metric} {sign} {self.limit:g}"


def read_bounds(items: Sequence[Any]) -> tuple[Bound, ...]:
    """Check a YAML list of bounds. Errors: ValueError telling the position and what is expected."""
    return tuple(_read_bound(item, f"bounds[{index}]") for index, item in enumerate(items))


def _read_bound(item: Any, where: str) -> Bound:
    if not isinstance(item, Mapping) or not item.get("row"):
        raise ValueError(f"{where}: expected a mapping with row and at_least or at_most, got {item!r}")
    unknown = [key for key in item if key not in _KEYS]
    if unknown:
        raise ValueError(f"{where}: unknown key {unknown[0]!r}; valid: {', '.join(_KEYS)}")
    bound = Bound(**item)
    if (bound.at_least is None) == (bound.at_most is None):
        raise ValueError(f"{where}: give exactly one of at_least and at_most")
    if bound.metric == GAP_RECOVERED and bound.versus:
        raise ValueError(f"{where}: gap_recovered is already relative to frozen and exact; leave out versus")
    return bound
