"""Charts and texts: what is encoded, in which colour, with which titles."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest
import yaml

from dashboard import charts, display
from dashboard.filters import COSTS
from dashboard.palette import COLOURS, MARKS, Palette, family
from dashboard.scores import BASELINES, MSE, TOP1

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


def test_a_rule_has_one_colour_in_every_chart():
    stages = pd.DataFrame({"line": ["sideways"], "stage": [1], "mean": [0.5], "std": [0.1]})
    drawn = charts.cost_by_stage(stages, TWO, "Peak memory (MiB)").to_dict()
    assert scale_of(drawn, "color") == {"sideways": COLOURS["sideways"]}
    assert scale_of(scatter(), "color") == {"exact": COLOURS["backprop_shifted"], "sideways": COLOURS["sideways"]}


def test_what_a_row_is():
    assert family("sideways", "chain") == "sideways"
    assert family("sideways", "dense") == "skip-sideways"
    assert family("backprop_shifted", "dense", "Frozen units") == "frozen"
    assert family("<b>", None) == "other"


def look(palette, line):
    return palette.colour(line), palette.shape(line), tuple(palette.dash(line))


CONFIGS = sorted((Path(__file__).parents[2] / "app" / "configs" / "comparisons").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_rows_of_every_comparison_differ_and_keep_their_looks_as_rows_come(path):
    rows = []
    for row in yaml.safe_load(path.read_text())["rows"]:
        given = row["overrides"]["model.init_args"]
        rows.append((row["name"].split("@")[0], given["rule"], given.get("wiring", "residual")))
    rows = list(dict.fromkeys(rows))  # variants of a row share its marker
    rows += [(title, name, None) for name, title in BASELINES.items()]
    whole = palette_of(*rows)
    assert len({look(whole, line)[1:] for line, *_ in rows}) == len(rows)  # also without colour
    marked = {look(whole, line)[:2] for line, *_ in rows}
    assert len(marked) == len(rows)  # also where no dash is drawn
    for number in range(1, len(rows)):
        for given in (rows[:number], rows[number:]):
            some = palette_of(*given)
            assert all(look(some, line) == look(whole, line) for line, *_ in given)


def test_rows_of_no_known_name_differ_too():
    names = [f"variant {number}" for number in range(40)]
    palette = palette_of(*((name, "sideways", "dense") for name in names))
    assert len({look(palette, name) for name in names}) == len(names)


def test_a_row_of_two_data_sets_keeps_colour_and_marker():
    lines = [(f"sideways · {name}", "sideways", "sideways", "chain") for name in "de"]
    palette = Palette(pd.DataFrame(lines, columns=COLUMNS))
    first, second = (look(palette, line) for line, *_ in lines)
    assert first[:2] == second[:2]
    assert first != second


def test_every_marker_has_a_letter_and_baselines_have_colours_of_their_own():
    assert len(set(MARKS.values())) == len(MARKS) == 16
    assert len({COLOURS[name] for name in ("copy_last", "mean_last", "frozen")}) == 3


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


def test_what_trains_nothing_is_a_line_across_with_its_name():
    levels = pd.DataFrame({"line": ["copy the last frame"], "test/top1": [0.5]})
    palette = palette_of(
        ("exact", "backprop_shifted", "residual"),
        ("sideways", "sideways", "chain"),
        ("copy the last frame", "copy_last", None),
    )
    table = TABLE.assign(front=False)
    spec = charts.score_against_cost(table, palette, TOP1, "latency/tick_ms", levels).to_dict()
    drawn = [layer for layer in spec["layer"] for layer in layer.get("layer", [layer])]
    assert [layer["mark"]["color"] for layer in drawn if layer["mark"]["type"] == "text"] == [COLOURS["copy_last"]]
    assert "copy the last frame: 0.5 without training" in spec["description"]


def test_a_loss_is_called_a_loss():
    """Future frames have no cross-entropy."""
    assert charts.TITLES["train/loss"] == "Loss (training)"
    assert charts.TITLES["val/loss"] == "Loss (validation)"


def test_a_small_score_is_shown_in_a_unit_with_three_figures():
    table = pd.DataFrame({"test/mse": [0.00046, 0.0012], "test/mse std": 0.0001, "difference": [-0.000012, 0.0007]})
    shown, score = display.scaled(table, MSE)
    assert score.short == "MSE ×10⁻⁶"
    assert shown["test/mse"].tolist() == pytest.approx([460, 1200])
    shown, score = display.scaled(table * 3, MSE)
    assert score.short == "MSE ×10⁻³"
    assert display.score_decimals(score, shown) == 2
    assert display.difference_decimals(score, shown) == 3
    assert display.scaled(table.rename(columns={"test/mse": "test/top1"}), TOP1)[1] == TOP1


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
