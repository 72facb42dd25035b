"""Charts and texts: what is encoded, in which colour, with which titles."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from dashboard import charts, display
from dashboard.filters import COSTS
from dashboard.palette import COLOURS, SHAPES, Palette, family
from dashboard.scores import TOP1

LINES = ["exact", "sideways"]
TABLE = pd.DataFrame(
    {
        "line": [*LINES, "failed"],
        "runs": [3, 1, 0],
        "test/top1": [0.9, 0.8, math.nan],
        "test/top1 std": [0.02, math.nan, math.nan],
        "latency/tick_ms": [2.0, 1.0, math.nan],
        "latency/tick_ms std": [0.1, math.nan, math.nan],
    }
)


def scale_of(spec, channel):
    found = [layer["encoding"][channel]["scale"] for layer in spec["layer"] if channel in layer["encoding"]]
    return dict(zip(found[0]["domain"], found[0]["range"], strict=True))


def palette_of(*lines):
    """Return the palette of (line, rule, wiring) triples, each its own row."""
    return Palette(pd.DataFrame([(line, line, rule, wiring) for line, rule, wiring in lines], columns=COLUMNS))


COLUMNS = ["line", "row", "rule", "wiring"]
TWO = palette_of(("exact", "backprop_shifted", "residual"), ("sideways", "sideways", "chain"))


def scatter(table=TABLE):
    known = table.assign(front=[line == "exact" for line in table["line"]])
    return charts.score_against_cost(known, TWO, TOP1, "latency/tick_ms").to_dict()


def test_a_rule_has_one_colour_in_every_chart_and_every_table():
    curves = pd.DataFrame({"line": ["sideways"], "x": [1.0], "mean": [0.5], "low": [0.4], "high": [0.6], "runs": [2]})
    drawn = charts.learning_curves(curves, TWO, "val/top1", "step").to_dict()
    assert scale_of(drawn, "color") == {"sideways": COLOURS["sideways"]}
    assert scale_of(scatter(), "color") == {"exact": COLOURS["backprop_shifted"], "sideways": COLOURS["sideways"]}


def test_what_a_row_is():
    assert family("sideways", "chain") == "sideways"
    assert family("sideways", "dense") == "skip-sideways"
    assert family("backprop_shifted", "dense", "Frozen units") == "frozen"
    assert family("<b>", None) == "other"


def test_a_filter_and_other_rows_change_no_look():
    few = palette_of(("a", "sideways", "dense"))
    many = palette_of(("0", "sideways", "concat"), ("a", "sideways", "dense"), ("b", "backprop_shifted", "dense"))
    assert few.colour("a") == many.colour("a")
    assert few.shape("a") == many.shape("a") == many.shape("b")
    assert few.dash("a") == many.dash("a")


def test_rows_of_one_rule_and_wiring_differ_in_marker_and_dash():
    names = [f"row {number}" for number in range(len(SHAPES))]
    palette = palette_of(*((name, "sideways", "chain") for name in names))
    assert (
        len({palette.shape(name) for name in names}) == len({tuple(palette.dash(name)) for name in names}) == len(names)
    )


@pytest.mark.parametrize("colour", sorted(set(COLOURS.values())))
def test_colours_stand_out_on_white_by_three_to_one(colour):
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    luminance = sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
    assert 1.05 / (luminance + 0.05) >= 3


def test_error_bars_are_one_standard_deviation_and_lines_without_a_result_are_left_out():
    points = next(each for each in scatter()["datasets"].values() if len(each) == 2)
    assert [point["line"] for point in points] == LINES
    assert (points[0]["y_low"], points[0]["y_high"]) == pytest.approx((0.88, 0.92))
    assert (points[0]["x_low"], points[0]["x_high"]) == pytest.approx((1.9, 2.1))
    assert points[1]["x_low"] == points[1]["x_high"] == 1.0


def test_axes_are_titled_with_units_and_the_chart_is_said_in_words():
    spec = scatter()
    assert any(layer["encoding"]["x"].get("title") == "Inference latency per frame (ms)" for layer in spec["layer"])
    assert "exact: 0.9 at 2, on the front; sideways: 0.8 at 1, beaten by another row." in spec["description"]


@pytest.mark.parametrize("name", COSTS)
def test_every_cost_has_a_title(name):
    assert charts.TITLES[name]


def test_texts():
    assert display.with_spread(0.9, 0.0123, 3) == "0.900 ± 0.012"
    assert display.with_spread(0.9, math.nan, 3) == "0.900"
    assert display.with_spread(math.nan, math.nan, 3) == "–"
    assert display.with_spread(1968.4, 55.2, 0) == "1,968 ± 55"
    assert display.difference_text(-0.024, -0.052, 0.006) == "−0.024 [−0.052, +0.006]"
    assert display.difference_text(0.024, math.nan, math.nan) == "+0.024"
    assert display.difference_text(math.nan, math.nan, math.nan) == "–"


@pytest.mark.parametrize(("values", "decimals"), [([0.012], 3), ([2.5], 2), ([61.0], 1), ([512.0], 0), ([4000.0], 0)])
def test_about_three_figures(values, decimals):
    assert display.decimals_for(pd.Series(values)) == decimals
