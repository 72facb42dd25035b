"""Each row its own sweep, with a stand-in for `run_study`; then the real thing, from YAML to table."""

import json
import os
import re
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from comparison_fakes import scores

from app.compare import main
from app.comparison.execute import Settings, execute
from app.comparison.fairness import is_unfair
from app.comparison.grid import build_grid
from app.comparison.overrides import flatten
from app.comparison.report import markdown as results_markdown
from app.comparison.report import terminal
from app.comparison.spec import load_comparison, read_comparison
from app.comparison.store import Store
from app.comparison.sweep_plans import row_plans
from app.comparison.sweep_report import markdown
from app.comparison.sweep_spec import row_space, swept_rows
from app.comparison.sweeps import check_sweeps, sweep_rows

LR, LAW, STRENGTH = "model.init_args.lr", "model.init_args.lag_scaling", "model.init_args.lag_strength"
SPACE = {LR: [0.01, 0.03, 0.02], "model.init_args.width": {"low": 0.5, "high": 1.5, "step": 0.5}}
OWN = {LR: [0.3, 0.1], LAW: ["off", "lower"], STRENGTH: {"low": 0.1, "high": 0.9, "when": {LAW: "lower"}}}


@pytest.fixture
def content(content):
    """Two rows with sweeps and a fixed one; the fake's top-1 grows with lr, so the largest is the best."""
    frozen, sideways, _, exact = content["rows"]
    return content | {
        "rows": [frozen | {"sweep": False}, sideways | {"sweep": {"space": OWN}}, exact],
        "sweep": {"space": SPACE, "trials": 3},
        "tuning_folds": [0, 1],
        "cell_seconds": 10,
    }


@pytest.fixture
def settings(tmp_path):
    return Settings(output=tmp_path / "out", jobs=2, track=False)


class Studies:
    """A stand-in for `run_study`: trial n takes the n-th choice of each key; a journal counts the trials."""

    def __init__(self, seconds=60.0, stop_after=None, fail=()):
        self.seconds, self.stop_after, self.fail = seconds, stop_after, fail
        self.plans, self.ran = [], {}

    def __call__(self, plan, jobs):
        self.plans.append(plan)
        journal = Path(plan.storage)
        journal.parent.mkdir(parents=True, exist_ok=True)
        known = json.loads(journal.read_text()) if journal.exists() else {"plan": plan.fingerprint(), "trials": 0}
        plan.check_same(known["plan"])
        wanted = min(plan.trials, self.stop_after or plan.trials)
        self.ran[plan.output.name] = list(range(known["trials"], wanted))
        journal.write_text(json.dumps(known | {"trials": wanted}))
        trials = [self.trial(plan, number) for number in range(wanted)]
        good = [trial for trial in trials if trial["state"] == "complete"]
        best = max(good, key=lambda trial: (trial["values"][0], -trial["number"]), default=None)
        return {
            "best": best and {"trial": best["number"], "values": best["values"], "params": best["params"]},
            "cpu_seconds": self.seconds * len(trials),
            "importances": [{"metric": plan.metrics[0], "trials": len(good), "values": {LR: 0.75}}],
            "importances_why_none": "",
            "trials": trials,
        }

    def trial(self, plan, number):
        choices = {each.key: each.choices or (each.low, each.high) for each in plan.space.parameters if not each.when}
        params = {key: values[number % len(values)] for key, values in choices.items()}
        bad = number in self.fail
        return {
            "number": number,
            "state": "failed" if bad else "complete",
            "params": params,
            "values": None if bad else [0.5 + params[LR]],
            "cpu_seconds": self.seconds,
            "error": "RuntimeError: the loss is nan" if bad else None,
            "pruned": None,
        }


# What the file says


def changed(content, *path, value):
    """The content with one value in it replaced."""
    node = content
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return content


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("tune",), {LR: [0.1]}, "tune and sweep don't go together"),
        (("rows", 0, "tune"), {LR: [0.1]}, "same number of trials|tune and sweep don't go together"),
        (("sweep",), {"space": SPACE}, "sweep: trials is missing"),
        (("sweep",), {"trials": 3}, "sweep: row 'exact' has no space"),
        (("sweep",), {"space": SPACE, "trails": 3}, "sweep: unknown key 'trails'; did you mean 'trials'"),
        (("sweep",), [SPACE], "sweep: expected a mapping, as in sweep: {space"),
        (("sweep", "trials"), 0, "sweep: trials: expected a whole number from 1, got 0"),
        (("sweep", "seed"), "one", "sweep: seed: expected a whole number from 0, got 'one'"),
        (("sweep", "sampler"), "tpee", "sweep: unknown sampler 'tpee'; did you mean 'tpe'"),
        (("sweep", "pruner"), "hyper", "sweep: unknown pruner 'hyper'; did you mean 'hyperband'"),
        (("sweep", "space"), "none.yaml", "sweep: space: found none.yaml neither in"),
        (("sweep", "space"), {LR: {"low": 1.0}}, "sweep: space: model.init_args.lr: high missing"),
        (("rows", 1, "sweep"), {"space": SPACE, "trials": 9}, "row 'sideways': sweep: trials is the same for every"),
        (("rows", 1, "sweep"), {"spaces": SPACE}, "row 'sideways': sweep: unknown key 'spaces'; did you mean 'space'"),
        (("rows", 1, "sweep"), {"space": None}, "row 'sideways': sweep: space is missing"),
        (("rows", 1, "sweep"), "none", "row 'sideways': sweep: expected a mapping"),
        (("rows", 0, "swep"), False, "row 'frozen': unknown key 'swep'; did you mean 'sweep'"),
        (("tuning_folds",), [], "sweep: name the tuning_folds or tuning_seeds"),
        (("variants",), [{"name": "a"}], "sweep and variants don't go together"),
        (
            ("sweep",),
            {"space": {LR: [0.1, 0.2]}, "trials": 3, "sampler": "grid"},
            "the grid of row 'exact' has 2 points",
        ),
        (("sweep",), None, "row 'frozen': sweep, but the comparison has none; add sweep:"),
    ],
)
def test_what_a_sweep_cannot_be_is_refused(content, path, value, message):
    with pytest.raises(ValueError, match=re.escape(message).replace(r"\|", "|")):
        read_comparison(changed(content, *path, value=value))


def test_a_comparison_of_fixed_rows_alone_has_no_sweep(content):
    for row in content["rows"]:
        row["sweep"] = False
    with pytest.raises(ValueError, match="every row says sweep: false"):
        read_comparison(content)


def test_a_space_is_found_beside_the_comparison(content, tmp_path):
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(OWN))
    comparison = read_comparison(changed(content, "sweep", "space", value="space.yaml"), folder=tmp_path)
    assert {parameter.key for parameter in comparison.sweep.space.parameters} == {LR, LAW, STRENGTH}
    (tmp_path / "space.yaml").write_text(f"{LR}: {{hihg: 1}}")
    with pytest.raises(ValueError, match=r"sweep: space: .*space.yaml: model.init_args.lr: .*did you mean 'high'"):
        read_comparison(content, folder=tmp_path)


def test_the_example_in_the_documentation_can_be_read(content, repository):
    (example,) = re.findall(r"^    tuning_folds:(?:.*\n)*?(?=\n    skip-sideways)", page(repository), re.MULTILINE)
    given = yaml.safe_load(textwrap.dedent(example))
    fixed = {"name": "exact", "sweep": False}
    comparison = read_comparison(
        content | given | {"rows": [*given["rows"], fixed]}, repository / "app/configs/comparisons"
    )
    assert swept_rows(comparison) == ["skip_sideways", "backprop_shifted"]
    spaces = [row_space(comparison, row).plain() for row in comparison.rows[1:3]]
    assert LAW in spaces[0]
    assert LAW not in spaces[1]


def page(repository):
    return (repository / "docs/sweeps.md").read_text()


def test_every_plan_has_the_same_budget_and_only_its_own_space(content, settings):
    changed(content, "sweep", value={"space": SPACE, "trials": 7, "sampler": "random", "pruner": "median", "seed": 4})
    comparison = read_comparison(content)
    plans = row_plans(comparison, None, settings)
    assert list(plans) == ["sideways", "exact"]
    for name, plan in plans.items():
        assert (plan.name, plan.trials) == (f"toy-{name}-sweep", 7)
        assert (plan.sampler, plan.pruner, plan.seed) == ("random", "median", 4)
        assert plan.cells == [(0, 0), (1, 0)]
        assert (plan.objectives[0].metric, plan.objectives[0].direction) == ("test/top1", "maximize")
        assert plan.config == comparison.row_config(comparison.row(name))
        assert plan.output == settings.output / "sweeps" / name
        assert plan.storage == str(settings.output / "sweeps" / name / "study.journal")
    assert [parameter.key for parameter in plans["sideways"].space.parameters] == [LR, LAW, STRENGTH]
    assert [parameter.key for parameter in plans["exact"].space.parameters] == list(SPACE)
    assert list(row_plans(comparison, ["exact", "frozen"], settings)) == ["exact"]
    with pytest.raises(ValueError, match="nothing to tune: frozen say sweep: false"):
        row_plans(comparison, ["frozen"], settings)


def test_a_plan_without_folds_runs_on_the_tuning_seeds(content, settings):
    del content["folds"]
    content |= {"tuning_folds": [], "tuning_seeds": [8, 9], "metric": "test/loss", "better": "lower"}
    plan = row_plans(read_comparison(content), None, settings)["exact"]
    assert plan.folds is None
    assert [seed for _, seed in plan.cells] == [8, 9]
    assert (plan.objectives[0].metric, plan.objectives[0].direction) == ("test/loss", "minimize")


def test_a_conditional_setting_that_a_row_sets_is_refused(content, settings):
    content["rows"][1]["overrides"] = {STRENGTH: 0.5}
    with pytest.raises(
        ValueError, match=f"row 'sideways' sets {STRENGTH}, which its space has only with some values of"
    ):
        row_plans(read_comparison(content), None, settings)


# What the studies leave


def test_the_best_is_chosen_used_and_written_down(content, settings):
    comparison, studies = read_comparison(content), Studies()
    chosen, further = sweep_rows(comparison, None, 4, settings, studies)
    assert chosen.row("sideways").overrides["model"]["init_args"] == {
        "rule": "sideways",
        "wiring": "chain",
        "lr": 0.3,
        "lag_scaling": "off",
    }
    assert chosen.row("exact").overrides["model"]["init_args"] == {"rule": "exact", "lr": 0.03, "width": 1.5}
    assert chosen.row("frozen") == comparison.row("frozen")
    assert further.spent_s == 360
    assert further.tuning == (
        "the best of 3 trials a row (TPE, seed 0) by test/top1 on folds 0, 1, seed 0, 2 runs a trial; in 1 of 2 rows "
        "several trials shared the best score, and the lower loss, then the earlier trial, was chosen; core-time of "
        "the trials by row: sideways 3 min, exact 3 min; not tuned: frozen (all trials: tuning.json)"
    )
    assert further.not_tuned == ("frozen",)
    written = json.loads((settings.output / "tuning.json").read_text())
    choice = written["header"]["choices"]["exact"]
    assert (choice["trial"], choice["overrides"]) == (1, {LR: 0.03, "model.init_args.width": 1.5})
    assert [trial["score"] for trial in choice["trials"]] == pytest.approx([0.51, 0.53, 0.52])
    assert [trial["overrides"][LR] for trial in choice["trials"]] == [0.01, 0.03, 0.02]
    facts = choice["sweep"]
    assert (facts["sampler"], facts["pruner"], facts["states"]) == ("tpe", "none", {"complete": 3})
    assert (facts["cpu_seconds"], facts["importances"]) == (180, {LR: 0.75})
    assert str(settings.output) not in json.dumps(written)
    assert (settings.output / "sweeps/.gitignore").read_text() == "*\n"
    assert [plan.limit_hours for plan in studies.plans] == pytest.approx([6, 6 - 0.05])


def test_tuning_md_names_the_trials_the_budget_and_is_made_from_the_record(content, settings):
    comparison = read_comparison(content)
    sweep_rows(comparison, None, 4, settings, Studies(fail={2}))
    text = (settings.output / "tuning.md").read_text()
    assert markdown(comparison, Store(settings.output / "tuning.json").header) == text
    assert "- Every row: 3 trials (TPE, seed 0), each the mean of 2 runs: folds 0, 1, seed 0." in text
    assert "- Not tuned: frozen\n" in text
    assert "| exact | 3 | 2 | 0 | 1 | 0 | 2 | 3 min |" in text
    section = text[text.index("## exact") :]
    assert "Chosen: trial 1: lr 0.03, width 1.5\n" in section
    assert "Trial 2 had the same score: the lower loss, then the earlier trial, was chosen" not in section
    assert "| lr | 0.01, 0.03, 0.02 | 75 % |" in section
    assert "| width | 0.5 to 1.5 in steps of 0.5 | - |" in section
    assert "| 1 | 0.03 | 1.5 | 0.530 | 60 s | chosen |" in section
    assert "| 2 | 0.02 | 0.5 | failed: RuntimeError: the loss is nan | 60 s |  |" in section
    assert "| lag_strength | 0.1 to 0.9 (with lag_scaling lower) | - |" in text


def test_the_table_is_of_the_choices_and_says_the_budget(content, settings, monkeypatch):
    monkeypatch.delenv("FAKE_TRACE", raising=False)
    chosen, further = sweep_rows(read_comparison(content), None, 3, settings, Studies())
    store = execute(chosen, build_grid(chosen, folds=[2], seeds=[0]), further, scores)
    assert store.records[("sideways", 2, 0)]["metrics"]["test/top1"] == pytest.approx(0.6 + 0.04 + 0.3)
    text = (settings.output / "results.md").read_text()
    assert f"- Settings: {further.tuning}\n" in text
    assert "| sideways | rule sideways, wiring chain, lr 0.3, lag_scaling off |" in text
    again = read_comparison(content)
    header = Store(settings.output / "tuning.json").header
    again = again.with_overrides({row: choice["overrides"] for row, choice in header["choices"].items()})
    assert results_markdown(again, store.header, store.records) == text


def test_a_choice_that_the_score_alone_did_not_make_is_named(content, settings):
    _, further = sweep_rows(read_comparison(content), None, 4, settings, Studies())
    assert "; in 1 of 2 rows several trials shared the best score" in further.tuning
    text = (settings.output / "tuning.md").read_text()
    assert text.count("had the same score") == 1
    assert "lag_scaling off\n\nTrial 2 had the same score: the lower loss, then the earlier trial" in text


def test_rows_that_were_not_tuned_are_marked(content, settings, monkeypatch):
    monkeypatch.delenv("FAKE_TRACE", raising=False)
    content["bounds"] = [
        {"row": "sideways", "at_least": 0},
        {"row": "sideways", "versus": "exact", "at_least": 0},
        {"row": "sideways", "versus": "frozen", "at_least": 0},
        {"row": "sideways", "metric": "gap_recovered", "at_least": 0},
    ]
    chosen, further = sweep_rows(read_comparison(content), None, 3, settings, Studies())
    store = execute(chosen, build_grid(chosen, folds=[2], seeds=[0]), further, scores)
    text = (settings.output / "results.md").read_text()
    table = text[text.index("## Results") : text.index("## Claims")]
    names = [line.split(" | ")[0].removeprefix("| ") for line in table.splitlines() if line.startswith("| ")]
    assert names == ["row", "---", "frozen ‡", "sideways", "exact"]
    assert "- ‡: not tuned: this row has the settings of the file" in table
    assert "(settings: sideways 3, exact 2)" in table
    assert "this is not nested cross-validation" in table
    claims = [line.split(" | ")[0] for line in text[text.index("## Claims") :].splitlines()[4:8]]
    assert [claim.endswith("‡") for claim in claims] == [False, False, True, True]
    shown = terminal(chosen, store.records, further.not_tuned)
    assert "\nfrozen ‡ " in shown
    assert "\n‡: not tuned" in shown


def test_the_first_trial_is_the_row_as_it_stands(content, settings):
    content["rows"][2]["overrides"] = content["rows"][2]["overrides"] | {LR: 0.02, "model.init_args.width": 1.0}
    sweep_rows(read_comparison(content), ["exact"], 4, settings, studies := Studies())
    assert [dict(plan.first) for plan in studies.plans] == [{LR: 0.02, "model.init_args.width": 1.0}]


def test_finished_studies_are_not_run_again_even_without_their_files(content, settings):
    comparison = read_comparison(content)
    first = sweep_rows(comparison, None, 4, settings, Studies())
    for journal in settings.output.glob("sweeps/*/study.journal"):
        journal.unlink()
    studies = Studies()
    assert sweep_rows(comparison, None, 4, settings, studies) == first
    assert studies.plans == []


def test_a_stopped_comparison_goes_on_with_the_study_that_is_not_finished(content, settings):
    class Stopped(Studies):
        def __call__(self, plan, jobs):
            if plan.output.name == "exact":
                self.stop_after = 1
                super().__call__(plan, jobs)
                raise KeyboardInterrupt
            return super().__call__(plan, jobs)

    comparison = read_comparison(content)
    with pytest.raises(KeyboardInterrupt):
        sweep_rows(comparison, None, 4, settings, Stopped())
    assert list(Store(settings.output / "tuning.json").header["choices"]) == ["sideways"]
    assert "## sideways" in (settings.output / "tuning.md").read_text()
    studies = Studies()
    sweep_rows(comparison, None, 4, settings, studies)
    assert studies.ran == {"exact": [1, 2]}


def test_more_trials_continue_the_studies_and_fewer_are_refused(content, settings):
    sweep_rows(read_comparison(content), None, 4, settings, Studies())
    studies = Studies()
    more = read_comparison(changed(content, "sweep", "trials", value=5))
    _, further = sweep_rows(more, None, 4, settings, studies)
    assert studies.ran == {"sideways": [3, 4], "exact": [3, 4]}
    assert "the best of 5 trials a row" in further.tuning
    fewer = read_comparison(changed(content, "sweep", "trials", value=2))
    with pytest.raises(ValueError, match=r"2 sweeps of .*\n  sideways: trials: was 5, is 2\n  exact: trials"):
        sweep_rows(fewer, None, 4, settings, studies)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("sweep", "space", LR), [0.01, 0.5], r"exact: space.model.init_args.lr.choices: was \[0.01, 0.03, 0.02\]"),
        (("sweep", "seed"), 1, "exact: seed: was 0, is 1"),
        (("experiment", "trainer", "max_steps"), 5, "exact: config.trainer.max_steps: was 4, is 5"),
        (("tuning_folds",), [0], r"exact: cells: was \[\[0, 0\], \[1, 0\]\], is \[\[0, 0\]\]"),
    ],
)
def test_a_changed_sweep_is_refused_with_what_changed(content, settings, path, value, message):
    sweep_rows(read_comparison(content), None, 4, settings, Studies())
    before = (settings.output / "tuning.json").read_text()
    comparison, studies = read_comparison(changed(content, *path, value=value)), Studies()
    with pytest.raises(ValueError, match=rf"began with other settings:(.|\n)*{message}(.|\n)*--rerun-changed"):
        sweep_rows(comparison, None, 4, settings, studies)
    assert studies.plans == []
    assert (settings.output / "tuning.json").read_text() == before
    sweep_rows(comparison, None, 4, replace(settings, rerun_changed=True), studies)
    assert studies.ran["exact"] == [0, 1, 2]
    assert (settings.output / "sweeps/exact.before1/study.journal").is_file()


def test_where_the_data_lies_changes_no_sweep(content, settings):
    comparison = read_comparison(content)
    sweep_rows(comparison, None, 4, settings, Studies())
    elsewhere = comparison.with_settings({"data": {"init_args": {"root": "elsewhere"}}})
    studies = Studies()
    sweep_rows(elsewhere, None, 4, settings, studies)
    assert studies.plans == []


def test_a_journal_that_is_of_another_sweep_is_refused_in_words_of_a_comparison(content, settings):
    sweep_rows(read_comparison(content), None, 4, settings, Studies())
    (settings.output / "tuning.json").unlink()
    comparison = read_comparison(changed(content, "sweep", "seed", value=1))
    with pytest.raises(
        ValueError, match=r"row 'sideways': study(.|\n)*seed: was 0, is 1(.|\n)*another --output"
    ) as refused:
        sweep_rows(comparison, None, 4, settings, Studies())
    assert "--study" not in str(refused.value)


def test_rows_that_were_tuned_before_keep_their_choice(content, settings):
    comparison = read_comparison(content)
    sweep_rows(comparison, ["sideways"], 4, settings, Studies())
    studies = Studies()
    chosen, further = sweep_rows(comparison, ["exact", "frozen"], 4, settings, studies)
    assert list(studies.ran) == ["exact"]
    assert dict(flatten(chosen.row("sideways").overrides))[LR] == 0.3
    assert "sideways 3 min, exact 3 min; not tuned: frozen" in further.tuning
    assert further.spent_s == 180


def test_a_row_that_is_not_tuned_yet_is_named_as_such(content, settings):
    _, further = sweep_rows(read_comparison(content), ["exact"], 4, settings, Studies())
    assert "by row: exact 3 min; not tuned: frozen, sideways (all" in further.tuning


def test_a_row_whose_trials_all_fail_is_an_error(content, settings):
    with pytest.raises(ValueError, match=r"every trial of row 'sideways' failed, diverged or was pruned; read .*/logs"):
        sweep_rows(read_comparison(content), None, 4, settings, Studies(fail={0, 1, 2}))


def test_what_ended_a_study_is_told_in_words_of_a_comparison(content, settings):
    def fruitless(plan, jobs):
        raise ValueError("all 3 trials so far failed with: x. Mend the space and sweep anew (--study NAME)")

    with pytest.raises(ValueError, match=r"row 'sideways': all 3 .* sweep anew \(--rerun-changed\)"):
        sweep_rows(read_comparison(content), None, 4, settings, fruitless)


# The limit


def test_the_limit_leaves_room_for_the_table(content, settings):
    comparison = read_comparison(content | {"cell_seconds": 360})
    studies = Studies()
    with pytest.raises(ValueError, match=r"2.20 core-hours"):  # 12 trial runs and 10 cells of 0.1 hours
        sweep_rows(comparison, None, 10, replace(settings, limit_hours=2.1), studies)
    assert studies.plans == []


def test_measured_trials_correct_the_estimate(content, settings):
    studies = Studies(seconds=7200)  # 6 hours a row, where the file says 60 s; and then 10 more runs of 10 s
    with pytest.raises(ValueError, match=r"6.03 core-hours, more than --limit-hours 6.02"):
        sweep_rows(read_comparison(content), None, 4, replace(settings, limit_hours=6.02), studies)
    assert list(studies.ran) == ["sideways"]


def test_a_sweep_that_the_limit_stopped_is_no_equal_budget(content, settings):
    with pytest.raises(ValueError, match=r"row 'sideways': its sweep ended after 2 of 3 trials and 0.03 core-hours"):
        sweep_rows(read_comparison(content), None, 4, settings, Studies(stop_after=2))
    assert "sideways" not in Store(settings.output / "tuning.json").header["choices"]
    sweep_rows(read_comparison(content), None, 4, settings, studies := Studies())
    assert studies.ran["sideways"] == [2]


# The command


TINY = {
    "name": "tiny",
    "intent": "Every row its own sweep, in seconds",
    "experiment": {
        "trainer": {"max_steps": 2, "accelerator": "cpu", "log_every_n_steps": 1, "limit_val_batches": 0},
        "model": {
            "class_path": "ActionRecognition",
            "init_args": {"network": "small_cnn", "wiring": "dense", "depth": 3, "width": 0.25, "lr": 0.01},
        },
        "data": {
            "class_path": "MovingDigits",
            "init_args": {"frames": 8, "size": 32, "batch_size": 4, "train_clips": 8, "val_clips": 4, "test_clips": 8},
        },
    },
    "control": "exact",
    "seeds": [0],
    "tuning_seeds": [7],
    "cell_seconds": 10,
    "sweep": {"trials": 3, "space": {LR: {"low": 1.0e-3, "high": 0.1, "log": True}}},
    "rows": [
        {"name": "fixed", "overrides": {"model.init_args.rule": "sideways"}, "sweep": False},
        {
            "name": "sideways",
            "overrides": {"model.init_args.rule": "sideways", LAW: "off"},
            "sweep": {"space": {LR: [0.01, 0.03], LAW: ["off", "lower"], STRENGTH: OWN[STRENGTH]}},
        },
        {"name": "exact", "overrides": {"model.init_args.rule": "backprop_shifted"}},
    ],
}


@pytest.fixture
def tiny(tmp_cwd):
    path = tmp_cwd / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY))
    return path


def test_a_dry_run_says_the_budget_and_changes_nothing(tiny, capsys):
    assert main(["--config", "tiny.yaml", "--tune", "--dry-run", "--jobs", "2"]) == 0
    output = capsys.readouterr()
    assert output.out.splitlines() == [
        "Trials first, then a table of 3 cells with each row's best trial.",
        "fixed    fixed",
        "to tune  sideways: 3 trials x 1 run, 3 settings, no end of points",
        "to tune  exact: 3 trials x 1 run, 1 setting, no end of points",
    ]
    assert (
        "tiny, sweeps: 6 trial runs, 0 done, 6 to run; 90 s of CPU time left, about 45 s on 2 processes" in output.err
    )
    assert [path.name for path in tiny.parent.iterdir()] == ["tiny.yaml"]


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("rows", 1, "sweep", "space"), {"model.init_args.wring": ["chain"]}, "row 'sideways': "),
        (("sweep", "space"), {LR: ["fast", "slow"]}, "row 'exact': "),
        (("sweep", "sampler"), "grid", "row 'sideways': sampler: grid: model.init_args.lag_strength has no end"),
        (("sweep", "pruner"), "median", "row 'sideways': pruner: median needs a validation"),
        (("rows", 0, "overrides", "model.init_args.wiring"), "chein", "row 'fixed': wiring 'chein' is unknown"),
        (("rows", 2, "overrides", "model.init_args.wiring"), "chein", "row 'exact': "),
    ],
)
def test_what_cannot_run_is_refused_before_the_first_trial_of_the_first_row(
    tiny, capsys, monkeypatch, path, value, message
):
    monkeypatch.setattr("app.study.making.SLOW_S", 1000.0)  # a busy machine is no part of this test
    tiny.write_text(yaml.safe_dump(changed(yaml.safe_load(tiny.read_text()), *path, value=value)))
    assert main(["--config", "tiny.yaml", "--tune"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"compare: {message}")
    assert [path.name for path in tiny.parent.iterdir()] == ["tiny.yaml"]


def test_a_finished_sweep_is_not_checked_again(content, settings, monkeypatch):
    comparison, checked = read_comparison(content), []
    monkeypatch.setattr("app.comparison.sweeps._check", lambda plan, config: checked.append(config))
    monkeypatch.setattr("app.comparison.sweeps.check_rows", lambda cells, store: checked.extend(cells))
    table = build_grid(comparison, folds=[2], seeds=[0])
    check_sweeps(comparison, None, table, settings)
    assert [cell.row for cell in checked[:-2]] == ["sideways", "sideways", "exact", "exact", "frozen"]
    assert [config["data"]["init_args"]["fold"] for config in checked[-2:]] == [0, 0]  # of the spaces
    sweep_rows(comparison, None, 4, settings, Studies())
    checked.clear()
    check_sweeps(comparison, None, table, settings)
    assert [cell.row for cell in checked] == ["frozen"]


def test_the_shipped_sweep_is_fair_and_begins_with_the_rows_as_they_are(repository, settings):
    comparison = load_comparison(repository / "app/configs/comparisons/weizmann_sweep.yaml")
    plans = row_plans(comparison, None, settings)
    assert list(plans) == ["skip_sideways", "backprop_shifted"]
    assert len({plan.trials for plan in plans.values()}) == 1
    assert not set(comparison.folds) & set(comparison.tuning_folds)
    keys = {
        name: [parameter.key.rsplit(".", 1)[-1] for parameter in plan.space.parameters] for name, plan in plans.items()
    }
    assert keys["backprop_shifted"] == ["lr", "wiring", "width"]
    assert keys["skip_sideways"] == [*keys["backprop_shifted"], "gradient_edges", "lag_scaling", "lag_strength"]
    for plan in plans.values():
        assert plan.space.point(plan.config) is not None
    fixed = set(comparison.row_names) - set(plans)
    assert comparison.bounds
    assert not any(is_unfair(comparison, bound, fixed) for bound in comparison.bounds)


@pytest.mark.slow
@pytest.mark.timeout(900)  # a minute of CPU in seven processes, which others on the machine can stretch
def test_from_yaml_to_table_with_real_studies(tiny, mlflow_store):
    environment = os.environ | {"MLFLOW_TRACKING_URI": mlflow_store}
    command = [sys.executable, "-c", "import sys; from app.compare import main; sys.exit(main(sys.argv[1:]))"]
    script = [*command, "--config", "tiny.yaml", "--tune", "--jobs", "1"]
    done = subprocess.run(script, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    output = tiny.parent / "runs/comparisons/tiny"
    header = Store(output / "tuning.json").header
    for choice in header["choices"].values():
        assert choice["sweep"]["states"] == {"complete": 3}
        assert choice["trials"][0]["overrides"][LR] == 0.01  # the row as it stands
    comparison = load_comparison(tiny)
    assert markdown(comparison, header) == (output / "tuning.md").read_text()
    table = (output / "results.md").read_text()
    assert "the best of 3 trials a row (TPE, seed 0) by test/top1 on seed 7" in table
    assert "not tuned: fixed" in table
    results = Store(output / "results.json")
    assert {key[0] for key in results.records} == {"fixed", "sideways", "exact"}
    for row, choice in header["choices"].items():
        configured = results.header["configs"][row]
        assert all(configured[key] == value for key, value in choice["overrides"].items())
    again = subprocess.run(script, env=environment, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert "6 trial runs, 6 done, 0 to run" in again.stderr
    assert "3 cells, 3 done, 0 to run" in again.stderr
    assert again.stdout.splitlines()[-4:] == done.stdout.splitlines()[-4:]
