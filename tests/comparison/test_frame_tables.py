"""Tables of predicted frames: less is better, horizons, baselines as lines, ratios. All numbers by hand."""

import pytest
from test_report import HEADER, columns

from app.comparison.baselines import disagreements
from app.comparison.execute import Settings
from app.comparison.grid import build_grid
from app.comparison.measures import heading, places
from app.comparison.protocols import different_protocols, protocol_facts
from app.comparison.report import markdown, terminal
from app.comparison.spec import read_comparison
from app.comparison.tested import facts
from app.comparison.tuning import tune

MSE = {"frozen": 0.05, "sideways": 0.04, "skip": 0.021, "exact": 0.02}
COPY = 0.05
MAIN, PER_HORIZON, BESIDE = "## Results", "## MSE per pixel per horizon", "## MSE against copy_last"


@pytest.fixture
def content(content):
    content["experiment"]["model"]["class_path"] = "FutureFrames"
    content["experiment"]["model"]["init_args"]["horizon"] = 2
    return content | {"metric": "test/mse", "better": "lower"}


@pytest.fixture
def comparison(content):
    return read_comparison(content)


def metrics_of(mse, scale):
    """Metrics of a run: horizon 2 is twice as hard as horizon 1, whose mean with it is `mse`."""
    steps = {"_1": mse * 2 / 3, "_2": mse * 4 / 3, "": mse}
    return {f"mse{step}": scale * value for step, value in steps.items()} | {
        f"psnr_db{step}": 20.0 + 100 * scale * value for step, value in steps.items()
    }


def records_of(comparison, mse=MSE, **options):
    """Records in which the folds differ by a factor, and fold 0, the tuning fold, is far easier."""
    records = {}
    for cell in build_grid(comparison, **options):
        scale = 0.1 if cell.fold == 0 else 1.0 + 0.1 * cell.fold
        own = metrics_of(mse[cell.row.split("@")[0]], scale) | {"mse_sum": 1000 * mse[cell.row.split("@")[0]]}
        copied = {f"copy_last/{name}": value for name, value in metrics_of(COPY, scale).items()}
        meaned = {f"mean_last/{name}": value for name, value in metrics_of(2 * COPY, scale).items()}
        records[cell.key] = {
            **cell.facts(),
            "status": "ok",
            "metrics": {f"test/{name}": value for name, value in (own | copied | meaned).items()},
            "lmin": "6" if cell.row == "sideways" else "3",
            "horizon": "2",
            "cpu_seconds": 36.0,
            "git_sha": "abc",
        }
    return records


def test_less_is_better_in_every_column(comparison):
    text = markdown(comparison, HEADER, records_of(comparison))
    line = columns(text, MAIN, "skip")
    assert line["MSE per pixel (lower is better), reported"] == "0.02520 ± 0.00210"  # 0.021 * (1.1, 1.2, 1.3)
    assert line["minus exact [95 %]"] == "+0.00120 [+0.00110, +0.00130]"
    assert line["against exact in % [95 %]"].startswith("+5.0 % [+5.0 %, +5.0 %]")
    assert line["verdict"] == "worse"
    assert line["against copy_last in % [95 %]"] == "-58.0 % [-58.0 %, -58.0 %]"
    assert line["verdict, copy_last"] == "better"
    assert line["gap recovered [95 %]"] == "0.967 [0.967, 0.967]"  # 0.029 of 0.030
    assert (line["Lmin"], columns(text, MAIN, "sideways")["Lmin"]) == ("3", "6")
    assert "val/mse is more than 10 % above the run's best" in text


def test_the_gap_is_not_defined_where_exact_has_the_larger_error(comparison):
    text = markdown(comparison, HEADER, records_of(comparison, MSE | {"frozen": 0.01}))
    assert columns(text, MAIN, "skip")["gap recovered [95 %]"] == "not defined"


def test_baselines_are_lines_of_the_table_with_their_difference(comparison):
    text = markdown(comparison, HEADER, records_of(comparison))
    line = columns(text, MAIN, "mean_last")
    assert (line["rule"], line["Lmin"], line["runs (folds x seeds)"]) == ("baseline", "-", "8 (4 x 2)")
    assert line["against exact in % [95 %]"].startswith("+400.0 %")
    assert (line["verdict"], line["verdict, copy_last"], line["unstable"]) == ("worse", "worse", "-")
    assert line["gap recovered [95 %]"] == "-"
    assert columns(text, MAIN, "copy_last")["against copy_last in % [95 %]"] == "-"
    assert "32 runs, 0.32 core-hours" in text, "a baseline is no run"
    assert columns(text, "## Per fold", "copy_last")["fold 1"] == "0.05500"


def test_each_metric_has_a_table_over_the_horizons(comparison):
    text = markdown(comparison, HEADER, records_of(comparison))
    assert columns(text, PER_HORIZON, "skip") == {
        "row": "skip", "k = 1": "0.01680 ± 0.00140", "k = 2": "0.03360 ± 0.00280", "mean": "0.02520 ± 0.00210"
    }  # fmt: skip
    assert columns(text, "## PSNR dB per horizon (higher is better)", "copy_last")["k = 1"] == "24.00 ± 0.33"
    beside = columns(text, BESIDE, "sideways")
    assert beside["k = 2"] == "-20.0 % [-20.0 %, -20.0 %]"
    assert "copy_last |" not in text.split(BESIDE)[1].split("##")[0]
    assert "SSIM" not in text
    assert columns(text, "## Further metrics", "skip")["MSE summed over a frame (lower is better)"] == "21.00 ± 0.00"


def test_rows_that_were_scored_on_other_frames_are_named(comparison):
    records = records_of(comparison)
    assert disagreements(records) == []
    records["skip", 2, 1]["metrics"]["test/copy_last/mse_2"] *= 1.01
    (sentence,) = disagreements(records)
    assert "Fold 2, seed 1: copy_last has test/mse_2 0.08 in exact and 0.0808 in skip" in sentence
    assert f"**Not the same test**: {sentence}" in markdown(comparison, HEADER, records)
    assert sentence in terminal(comparison, records)


def test_auto_encoding_has_no_baselines_and_no_columns_of_numbers_that_are_not_there(comparison):
    records = records_of(comparison)
    for record in records.values():
        record["metrics"] = {"test/mse": record["metrics"]["test/mse"], "test/mse_0": record["metrics"]["test/mse"]}
    text = markdown(comparison, HEADER, records)
    assert columns(text, PER_HORIZON, "skip")["k = 0"] == "0.02520 ± 0.00210"
    assert columns(text, MAIN, "skip")["against copy_last in % [95 %]"] == "-"
    assert BESIDE not in text


@pytest.mark.parametrize(
    ("bound", "answers"),
    [
        ({"row": "skip", "versus": "exact", "relative": True, "at_most": 0.06}, ["holds"]),
        ({"row": "skip", "versus": "exact", "relative": True, "at_most": 0.03}, ["fails"]),
        ({"row": "skip", "versus": "copy_last", "horizons": [1, 2], "at_most": 0}, ["holds", "holds"]),
        ({"row": "sideways", "versus": "skip", "metric": "test/psnr_db", "horizons": [1], "at_most": 0}, ["fails"]),
        ({"row": "skip", "metric": "test/lpips", "at_most": 0}, ["undecided"]),
    ],
)
def test_claims(content, bound, answers):
    text = markdown(comparison := read_comparison(content | {"bounds": [bound]}), HEADER, records_of(comparison)).split(
        "## Claims"
    )[1]
    lines = text.split("\n\n")[1].splitlines()[2:]
    assert [line.rstrip("| ").rsplit("| ", 1)[1] for line in lines] == answers


def test_a_small_difference_is_written_with_the_decimals_of_what_it_is_between(content):
    bound = {"row": "skip", "versus": "exact", "at_most": 0}
    text = markdown(comparison := read_comparison(content | {"bounds": [bound]}), HEADER, records_of(comparison))
    assert "| skip - exact: test/mse <= 0 | 0.00120 [0.00110, 0.00130] | fails |" in text


def test_a_claim_says_what_it_is_relative_to(content):
    bound = {"row": "skip", "versus": "exact", "relative": True, "horizons": [2], "at_most": 0.05}
    text = markdown(comparison := read_comparison(content | {"bounds": [bound]}), HEADER, records_of(comparison))
    assert "| skip - exact: test/mse_2 <= 5 % of exact | +5.0 % [+5.0 %, +5.0 %] |" in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"better": "higher"}, "metric: test/mse is better where it is lower, but better says higher; write lower"),
        ({"better": "less"}, "expected higher or lower, got 'less'"),
        ({"tune_metric": "test/psnr_db"}, "tune_metric: test/psnr_db is better where it is higher"),
        ({"bounds": [{"row": "skip", "relative": True, "at_most": 1}]}, "relative: true divides.*name versus"),
        ({"bounds": [{"row": "skip", "horizons": 3, "at_most": 1}]}, "horizons: expected a list"),
        ({"bounds": [{"row": "skip", "versus": "copylast", "at_most": 1}]}, "did you mean 'copy_last'"),
        (
            {"bounds": [{"row": "skip", "versus": "copy_last", "horizons": [1, 3], "at_most": 0}]},
            "test/mse_3 of row 'skip', which predicts k = 1 to 2; give a horizon",
        ),
        ({"bounds": [{"row": "skip", "metric": "test/psnr_db_0", "at_most": 0}]}, "k = 1 to 2"),
        ({"rows": [{"name": "copy_last"}]}, "'copy_last' is a baseline's"),
    ],
)
def test_what_is_wrong_is_said(content, change, message):
    with pytest.raises(ValueError, match=message):
        read_comparison({**content, **change, "control": "exact"} if "rows" not in change else
                        {**content, **change, "control": "copy_last", "frozen": None, "exact": None})  # fmt: skip


def test_a_bound_is_checked_against_the_horizon_that_a_row_has(content):
    bounds = [{"row": "sideways", "versus": "skip", "horizons": [2], "at_most": 0}]
    content["rows"][2]["overrides"] = {"model.init_args.horizon": 1}
    with pytest.raises(ValueError, match=r"row 'skip', which predicts k = 1 to 1"):
        read_comparison(content | {"bounds": bounds})
    content["rows"][2]["overrides"] = {}
    comparison = read_comparison(content | {"bounds": bounds})
    with pytest.raises(ValueError, match="k = 0 alone"):
        comparison.with_settings({"model": {"init_args": {"horizon": 0}}})
    del content["experiment"]["model"]["init_args"]["horizon"]
    with pytest.raises(ValueError, match="k = 1 to 4"):
        read_comparison(content | {"bounds": [bounds[0] | {"horizons": [5]}]})


def test_protocols_stand_under_their_tables(comparison):
    text = markdown(comparison, HEADER, records_of(comparison))
    assert "\nPSNR dB: mean over frames of 10 log10(1 / mse)" in text.split("## PSNR dB")[1].split("##")[0]
    assert "\nMSE summed over a frame: squared error summed" in text.split("## Further metrics")[1].split("\n##")[0]
    records = records_of(comparison)
    for (_, fold, _), record in records.items():
        protocols = {"psnr_db": "own words", "lpips": "network alex"}
        about = {"protocols": protocols, "frechet": {"extractor": "pixels", "samples": 10 + fold}}
        record |= protocol_facts(about)
        record["metrics"] |= {"test/frechet": 1.0, "test/lpips_1": 0.1, "test/lpips": 0.1}
    text = markdown(comparison, HEADER, records)
    assert "\nPSNR dB: own words.\n" in text
    assert "\nFrechet distance: extractor pixels, 10 to 13 samples a run.\n" in text
    assert "\nLPIPS: network alex.\n" in text
    assert "Not the same test" not in text


def test_rows_of_other_protocols_are_named(comparison):
    records = records_of(comparison)
    about = {"protocols": {"psnr_db": "own words"}, "frechet": {"extractor": "pixels", "samples": 10}}
    for record in records.values():
        record |= protocol_facts(about)
    other = {"protocols": {"psnr_db": "of the mean"}, "frechet": {"extractor": "pixels", "samples": 9}}
    records["skip", 2, 1] |= protocol_facts(other)
    assert different_protocols(records) == [
        "Fold 2: PSNR dB is not one measure: exact has own words, skip has of the mean.",
        "Fold 2: Frechet distance is not one measure: exact has extractor pixels, 10 samples, skip has extractor "
        "pixels, 9 samples.",
    ]
    assert "Frechet distance is not one measure" in terminal(comparison, records)


def test_baselines_are_no_rows_of_other_tasks(content):
    content["experiment"]["model"]["class_path"] = "ActionRecognition"
    bound = {"row": "skip", "versus": "copy_last", "at_most": 1}
    with pytest.raises(ValueError, match="no row 'copy_last'"):
        read_comparison(content | {"bounds": [bound]})


def test_variants_have_baselines_of_their_own(content):
    content["variants"] = [{"name": "slow"}, {"name": "fast", "overrides": {"data.init_args.stride": 2}}]
    comparison = read_comparison(content)
    records = records_of(comparison, MSE)
    for (row, _, _), record in records.items():
        if row.endswith("@fast"):
            record["metrics"] = {name: 2 * value for name, value in record["metrics"].items()}
    text = markdown(comparison, HEADER, records)
    assert columns(text, MAIN, "skip@fast")["against copy_last in % [95 %]"].startswith("-58.0 %")
    assert columns(text, PER_HORIZON, "copy_last@fast")["mean"].startswith("0.12000")


def error_of_rate(config, *, tags, parent_run_id, experiment_name):
    """A runner whose error grows with the rate."""
    return {"run_id": None, "metrics": {"test/mse": config["model"]["init_args"]["lr"] / 10}, "layout": {}}


def test_the_trial_with_the_least_error_is_chosen(content, tmp_path):
    rate = "model.init_args.lr"
    content |= {"rows": [content["rows"][1], content["rows"][3]], "frozen": None, "tune": {rate: [0.3, 0.1, 0.2]}}
    content["rows"][1]["tune"] = {rate: [0.6, 0.5, 0.4]}
    settings = Settings(output=tmp_path, jobs=1, track=False)
    chosen, further = tune(read_comparison(content), None, 4, settings, error_of_rate)
    rates = [row.overrides["model"]["init_args"]["lr"] for row in chosen.rows]
    assert rates == [0.1, 0.4]
    assert "by test/mse on fold 0" in further.tuning


def test_decimals_follow_the_size():
    assert places("test/mse_2", [0.0123, 0.5]) == 5
    assert places("test/mse", [0.0, float("nan")]) == 3
    assert places("test/psnr_db", [24.0]) == 2
    assert places("test/top1", [0.0001]) == 3
    assert heading("test/mse_2", "lower") == "MSE per pixel at k = 2 (lower is better)"
    assert heading("test/top1") == "top-1"


def test_lmin_and_horizon_are_kept_of_predicted_frames_alone():
    assert facts({"lmin": "3", "horizon": "4", "views": ""}) == {"lmin": "3", "horizon": "4"}
    assert facts({"lmin": "3", "horizon": ""}) == {}
