"""Charts and texts: what is encoded, in which colour, with which titles."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from dashboard import charts, display
from dashboard.filters import AXES, COSTS, CURVES
from dashboard.palette import COLOURS, Palette

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


def test_a_line_has_one_colour_in_every_chart_whatever_is_filtered_away():
    palette = Palette(["a", *LINES])
    curves = pd.DataFrame({"line": ["sideways"], "x": [1.0], "mean": [0.5], "low": [0.4], "high": [0.6], "runs": [2]})
    drawn = charts.learning_curves(curves, palette, "val/top1", "step").to_dict()
    scatter = charts.score_against_cost(TABLE.iloc[:2], palette, "test/top1", "latency/tick_ms").to_dict()
    assert scale_of(drawn, "color") == {"sideways": COLOURS[2]}
    assert scale_of(scatter, "color")["sideways"] == COLOURS[2]


def test_error_bars_are_one_standard_deviation_and_lines_without_a_result_are_left_out():
    spec = charts.score_against_cost(TABLE, Palette(TABLE["line"]), "test/top1", "latency/tick_ms").to_dict()
    (points,) = spec["datasets"].values()
    assert [point["line"] for point in points] == LINES
    assert (points[0]["y_low"], points[0]["y_high"]) == pytest.approx((0.88, 0.92))
    assert (points[0]["x_low"], points[0]["x_high"]) == pytest.approx((1.9, 2.1))
    assert points[1]["x_low"] == points[1]["x_high"] == 1.0


def test_axes_are_titled_with_units():
    spec = charts.score_against_cost(TABLE, Palette(TABLE["line"]), "test/top1", "latency/tick_ms").to_dict()
    assert spec["layer"][0]["encoding"]["x"]["title"] == "Inference latency per frame (ms)"


@pytest.mark.parametrize("name", [*CURVES, *AXES, *COSTS])
def test_everything_that_can_be_chosen_has_a_title(name):
    assert charts.TITLES[name]


def test_beyond_the_palette_the_dash_and_marker_tell_lines_apart():
    names = [f"row {number:02}" for number in range(2 * len(COLOURS))]
    palette = Palette(names)
    looks = {(palette.colour(name), tuple(palette.dash(name)), palette.shape(name)) for name in names}
    assert len(looks) == len(names)


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
