import re

import pytest

from app.comparison.grid import build_grid
from app.comparison.report import markdown, terminal
from app.comparison.spec import read_comparison

TOP1 = {"frozen": 0.5, "sideways": 0.6, "skip": 0.8, "exact": 0.9}
HEADER = {
    "command": "skip-sideways compare --config toy.yaml",
    "versions": {"torch": "2"},
    "hardware": "a CPU, 2 cores",
}


def records_of(comparison, jobs=1, top1=TOP1, **options):
    """Records in which every row has its top-1, + 0.02 a fold, and a tuning fold 0 that is far better."""
    records = {}
    for cell in build_grid(comparison, **options):
        metrics = {
            "test/top1": top1[cell.row] + 0.02 * cell.fold + (0.05 if cell.fold == 0 else 0),
            "train/frames_per_second": 1234.0 + cell.seed,
            "latency/step_p50_ms": 12.5,
            "latency/step_p95_ms": 15.0,
            "latency/tick_ms": 1.25,
            "memory/saved_tensors_mib": 3.5,
            "memory/peak_mib": 300.0 + cell.seed,
            "alignment/unit_1": 0.25,
            "alignment/unit_2": 0.75,
            "alignment/unit_10": 0.5,
        }
        records[cell.key] = {
            **cell.facts(),
            "status": "ok",
            "metrics": metrics,
            "cpu_seconds": 36.0,
            "wall_seconds": 40.0,
            "git_sha": "abc",
            "jobs": jobs,
        }
    return records


def cells_of(text, title, row):
    """The cells of a row in the table under a heading."""
    section = text.split(title, 1)[1]
    line = next(line for line in section.splitlines() if line.startswith(f"| {row} "))
    return [cell.strip() for cell in line.strip("|").split("|")]


def columns(text, title, row):
    return dict(zip(cells_of(text, title, "row"), cells_of(text, title, row), strict=True))


def test_main_table(comparison):
    line = columns(markdown(comparison, HEADER, records_of(comparison)), "## Results", "skip")
    assert line["runs (folds x seeds)"] == "8 (4 x 2)"
    assert line["top-1, reported"] == "0.840 ± 0.020"  # folds 1, 2, 3: 0.82, 0.84, 0.86
    assert line["top-1, all"] == "0.843 ± 0.017"  # and fold 0: 0.85
    assert line["minus exact [95 %]"] == "-0.100 [-0.100, -0.100]"
    assert line["verdict"] == "below"
    assert line["gap recovered [95 %]"] == "0.750 [0.750, 0.750]"
    assert (line["train frames/s"], line["step p50 ms"], line["step p95 ms"]) == ("1,234", "12.5", "15")
    assert (line["saved tensors MiB"], line["peak MiB"], line["tick ms"]) == ("3.5", "301", "1.25")
    assert line["unstable"] == "0 %"


def test_rows_stand_in_the_file_s_order_and_the_control_has_no_difference(comparison):
    text = markdown(comparison, HEADER, records_of(comparison))
    table = text.split("## Results")[1].split("\n\n")[1]
    assert re.findall(r"^\| (\w+) ", table, re.M) == ["row", "frozen", "sideways", "skip", "exact"]
    line = columns(text, "## Results", "exact")
    assert (line["minus exact [95 %]"], line["verdict"]) == ("-", "control")


def test_latency_beside_other_workers_is_marked(comparison):
    alone = markdown(comparison, HEADER, records_of(comparison, jobs=1))
    shared = markdown(comparison, HEADER, records_of(comparison, jobs=2))
    assert "†" not in alone
    assert "step p50 ms †" in shared
    assert "tick ms †" in shared
    assert "saved tensors MiB †" not in shared
    assert "2 runs shared the machine" in shared


def test_provenance_without_date(comparison):
    text = markdown(comparison, HEADER, records_of(comparison))
    for part in (HEADER["command"], "Commit: abc", "torch 2", "a CPU, 2 cores", "Folds: 0-3", "0.32 core-hours"):
        assert part in text
    assert not re.search(r"20\d\d-\d\d", text)


def test_gap_is_not_defined_where_exact_is_no_better_than_frozen(comparison):
    text = markdown(comparison, HEADER, records_of(comparison, top1=TOP1 | {"frozen": 0.9}))
    assert columns(text, "## Results", "skip")["gap recovered [95 %]"] == "not defined"


def test_one_run_is_undecided(comparison):
    text = markdown(comparison, HEADER, records_of(comparison, folds=[1], seeds=[0]))
    line = columns(text, "## Results", "skip")
    assert (line["minus exact [95 %]"], line["verdict"]) == ("-0.100", "undecided")
    assert line["top-1"] == "0.820"


def test_only_tuning_folds_were_run(comparison):
    text = markdown(comparison, HEADER, records_of(comparison, folds=[0]))
    line = columns(text, "## Results", "skip")
    assert (line["top-1, reported"], line["minus exact [95 %]"], line["verdict"]) == ("-", "-", "undecided")
    assert line["top-1, all"].startswith("0.850")


def test_units_in_their_order(comparison):
    text = markdown(comparison, HEADER, records_of(comparison))
    assert columns(text, "## Alignment", "skip") == {
        "row": "skip",
        "unit 1": "0.25",
        "unit 2": "0.75",
        "unit 10": "0.5",
    }


def test_folds_are_shown_and_tuning_ones_marked(comparison):
    line = columns(markdown(comparison, HEADER, records_of(comparison)), "## Per fold", "skip")
    assert line == {"row": "skip", "fold 0 (tuning)": "0.850", "fold 1": "0.820", "fold 2": "0.840", "fold 3": "0.860"}


def test_stale_records_are_named_and_not_averaged(content, comparison):
    records = records_of(comparison)
    content["rows"][2]["overrides"] = {"model.init_args.lr": 0.1}
    del content["rows"][0], content["frozen"]
    text = markdown(read_comparison(content), HEADER, records)
    table = text.split("## Results")[1].split("\n\n")[1]
    assert re.findall(r"^\| (\w+) ", table, re.M) == ["row", "sideways", "exact"]
    assert "- skip, fold 3, seed 1" in text
    assert "- frozen, fold 0, seed 0" in text


@pytest.mark.parametrize(
    ("bound", "answer"),
    [
        ({"row": "skip", "at_least": 0.8}, "holds"),
        ({"row": "skip", "at_least": 0.84}, "undecided"),
        ({"row": "skip", "versus": "sideways", "at_least": 0.3}, "fails"),
        ({"row": "skip", "metric": "gap_recovered", "at_least": 0.7}, "holds"),
        ({"row": "sideways", "metric": "gap_recovered", "at_least": 0.75}, "fails"),
        ({"row": "skip", "metric": "memory/saved_tensors_mib", "at_most": 4}, "holds"),
    ],
)
def test_claims(content, bound, answer):
    comparison = read_comparison(content | {"bounds": [bound]})
    text = markdown(comparison, HEADER, records_of(comparison))
    assert text.split("## Claims")[1].split("\n\n")[1].splitlines()[2].endswith(f"| {answer} |")


def test_terminal_table_lines_up(comparison):
    lines = terminal(comparison, records_of(comparison)).splitlines()
    assert len(lines) == 6
    assert lines[0].split()[:2] == ["row", "runs"]
    assert len({len(line) for line in lines}) == 1
    assert "0.840 ± 0.020" in lines[4]


def test_the_same_records_give_the_same_text(comparison):
    records = records_of(comparison)
    assert markdown(comparison, HEADER, records) == markdown(comparison, HEADER, dict(reversed(records.items())))


TESTED = {
    "views": "4 views x 1 crop of 64 frames at 25 fps", "id_hash": "0123456789abcdef",
    "data_found": "9537 train, 3783 test", "data_expected": "9537 train, 3783 test",
}  # fmt: skip
OTHER = {"views": "1 view x 1 crop of 64 frames at 25 fps", "data_found": "9537 train, 3700 test"}


def with_facts(records, change=lambda key: {}):
    """The records with what they were tested on; each fold has its own id list."""
    return {
        key: record | TESTED | {"id_hash": f"{key[1]}{TESTED['id_hash']}"} | change(key)
        for key, record in records.items()
    }


def test_what_was_tested_on_stands_above_the_table_and_in_the_terminal(comparison):
    records = with_facts(records_of(comparison, folds=[1, 2]))
    lines = [
        "Test: 4 views x 1 crop of 64 frames at 25 fps",
        "Videos: folds 1, 2: 9537 of 9537 train, 3783 of 3783 test (id list 10123456 20123456)",
    ]
    text = markdown(comparison, HEADER, records)
    assert all(f"\n- {line}\n" in text for line in lines)
    assert terminal(comparison, records).splitlines()[-2:] == lines
    assert "same test" not in text
    assert "Test:" not in markdown(comparison, HEADER, records_of(comparison))


def test_folders_of_one_s_own_expect_nothing_and_rows_may_differ_in_views(comparison):
    whole = {"views": "whole videos in pieces of 8 frames", "data_found": "8 train, 1 test", "data_expected": ""}
    records = with_facts(
        records_of(comparison), lambda key: whole | ({} if key[0] == "skip" else {"views": TESTED["views"]})
    )
    text = markdown(comparison, HEADER, records)
    assert f"- Test: {TESTED['views']} (exact, frozen, sideways); {whole['views']} (skip)\n" in text
    assert "- Videos: folds 0-3: 8 train, 1 test (id list 00123456 1" in text
    assert "same test" not in text


@pytest.mark.parametrize(
    ("changed", "facts", "says"),
    [
        (
            ("skip", 2, 1),
            {"views": OTHER["views"]},
            f"Row skip averages runs tested on {TESTED['views']} and on 1 view",
        ),
        (
            ("skip", 2, 1),
            {"data_found": OTHER["data_found"]},
            "Fold 2 compares runs tested on different videos: 3783 f",
        ),
        (
            ("skip", 2, 1),
            {"id_hash": "f" * 16},
            "Fold 2 compares runs tested on different videos: 3783 found, id list 20123456; 3783 found, id list f",
        ),
    ],
)
def test_runs_of_different_tests_are_not_averaged_in_silence(comparison, changed, facts, says):
    records = with_facts(records_of(comparison), lambda key: facts if key == changed else {})
    assert f"- **Not the same test**: {says}" in markdown(comparison, HEADER, records)
    assert says in terminal(comparison, records)
    del records[changed]
    assert "same test" not in markdown(comparison, HEADER, records)


def test_runs_that_do_not_say_are_told_from_those_that_do(comparison):
    old = records_of(comparison)
    records = with_facts(old) | {key: record for key, record in old.items() if key == ("skip", 2, 1)}
    assert f"Row skip averages runs tested on {TESTED['views']} and on not stated." in terminal(comparison, records)


def test_variants_are_compared_within_their_own(content):
    content["variants"] = [{"name": "slow"}, {"name": "fast", "overrides": {"data.init_args.stride": 2}}]
    comparison = read_comparison(content)
    top1 = {f"{row}@slow": value for row, value in TOP1.items()}
    top1 |= {f"{row}@fast": value / 2 for row, value in TOP1.items()}
    text = markdown(comparison, HEADER, records_of(comparison, top1=top1))
    line = columns(text, "## Results", "skip@fast")
    assert line["minus exact of the same variant [95 %]"].startswith("-0.050")
    assert line["gap recovered [95 %]"].startswith("0.750")
    assert columns(text, "## Results", "exact@fast")["verdict"] == "control"
    assert columns(text, "## Results", "frozen@fast")["gap recovered [95 %]"] == "-"
