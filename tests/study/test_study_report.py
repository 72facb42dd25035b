"""What a study is told as: report.md, the terminal, the csv; and best.yaml, which the real parser takes as it is."""

import csv
import io

import optuna
import pytest
import yaml
from optuna.trial import TrialState
from study_examples import CONFIG, LAW, LR, STRENGTH, UNITS, WIRING, add, make_plan, make_study, many

from app.comparison.overrides import get
from app.study.best import best_config, write_best
from app.study.report import WIDTH, caution, markdown, terminal, trials_csv
from app.study.summary import summarise
from app.study.trial_config import with_values

TWO = ("val/top1", "latency/tick_ms:minimize")


@pytest.fixture(autouse=True)
def quiet():
    optuna.logging.set_verbosity(optuna.logging.WARNING)


@pytest.fixture
def summary():
    """Of a study with a trial of every state."""
    plan = make_plan(folds=(0, 1), seeds=(3,), trials=20)
    study = many(make_study(plan), plan)
    add(study, plan, state=TrialState.PRUNED, steps={0: 0.2}, user={"pruned": "after validation 2 (update 40)"})
    error = "ValueError: width 0.1 | is\n too small"
    add(study, plan, state=TrialState.FAIL, law="inverse", strength=1.0, user={"error": error})
    add(study, plan, state=TrialState.RUNNING)
    return summarise(study, plan)


@pytest.fixture
def front():
    """Of a study with two objectives."""
    plan = make_plan(objectives=TWO)
    return summarise(many(make_study(plan), plan), plan)


def test_the_report_says_what_ran_and_what_came_of_it(summary):
    text = markdown(summary)
    for part in (
        "# Sweep digits\n\n    skip-sideways sweep --config digits.yaml --space space.yaml --trials 12\n",
        "| experiment | digits.yaml |",
        "| objective | val/top1 (maximize) |",
        "| sampler, pruner | tpe (seed 0), none |",
        "| a trial's runs | folds 0, 1, seed 3; its value is their mean |",
        "| trials | 12 complete, 1 pruned, 1 failed, 1 running of 20 trials |",
        "| all runs | 7 min of core time |",
        "Trial 11: val/top1 0.9\n",
        f"| {LR} | 0.1 |",
        "    skip-sideways fit --config runs/sweeps/digits/best.yaml\n",
        "- Trial 13: ValueError: width 0.1 | is too small\n"
        "    - 13: lr 0.01, wiring concat, lag_scaling inverse, lag_strength 1, train_units all\n",
        f"| {LR} | 0.001 to 0.1, log |  |",
        f"| {STRENGTH} | 0.5 to 2 | lag_scaling is inverse |",
        f"| {UNITS} | all, [3, 4] |  |",
    ):
        assert part in text
    assert "Pareto" not in text


def test_importances_are_shares_with_bars(summary):
    section = markdown(summary).split("## What mattered")[1].split("##")[0]
    rows = [line.split(" | ") for line in section.splitlines() if line.startswith("| model.")]
    shares = [int(row[1].removesuffix(" %")) for row in rows]
    assert rows[0][0] == f"| {LR}"
    assert sum(shares) == pytest.approx(100, abs=2)
    assert [row[2].count("█") for row in rows] == [round(share / 5) for share in shares]
    assert "over 12 complete trials" in section


def test_the_ten_best_come_best_first(summary):
    section = markdown(summary).split("## Complete trials: the 10 best of 12\n")[1].split("##")[0]
    numbers = [int(line.split(" | ")[0][2:]) for line in section.splitlines()[3:] if line]
    assert numbers == list(range(11, 1, -1))
    assert "| trial | val/top1 | lr | wiring | lag_scaling | lag_strength | train_units |" in section


def test_several_objectives_have_a_front(front):
    text = markdown(front)
    section = text.split("## Pareto front\n")[1].split("##")[0]
    assert [line.split(" | ")[1:3] for line in section.splitlines()[5:7]] == [["0.9", "1"], ["0.8636", "0.6579"]]
    assert "## Best trial by the first objective" in text
    assert "## Complete trials by val/top1" in text
    assert terminal(front).splitlines()[2] == (
        "Pareto front: no other trial is at least as good in every objective and better in one"
    )


def test_one_error_of_many_trials_is_told_once():
    plan = make_plan()
    study = make_study(plan)
    for error in ("ValueError: a", "ValueError: b", "ValueError: a"):
        add(study, plan, state=TrialState.FAIL, user={"error": error})
    summary = summarise(study, plan)
    assert terminal(summary).splitlines()[1:] == [
        "Failed: trials 0, 2: ValueError: a",
        "Failed: trial 1: ValueError: b",
    ]
    assert markdown(summary).count("ValueError: a") == 1


def test_nothing_complete_yet():
    plan = make_plan()
    study = make_study(plan)
    add(study, plan, state=TrialState.FAIL)
    summary = summarise(study, plan)
    assert "No trial is complete yet." in markdown(summary)
    assert "No importances: 0 complete trials; importances need at least 4." in markdown(summary)
    assert "Failed: trial 0: its worker died" in terminal(summary)


@pytest.mark.parametrize(
    ("objectives", "folds", "sentence"),
    [
        (["test/top1"], (0, 1), "test/top1 on folds 0, 1: the best of 12 trials is an optimistic figure, since it was"),
        (["val/top1"], (0,), "val/top1 on fold 0: chosen there as the best of 12 trials, so not a result; report the"),
        (["val/top1"], None, "val/top1 on the experiment's own fold and seed: chosen there as the best of 12 trials"),
    ],
)
def test_it_says_that_the_numbers_are_no_result(objectives, folds, sentence):
    plan = make_plan(objectives=objectives, folds=folds)
    summary = summarise(many(make_study(plan), plan), plan)
    assert caution(summary).startswith(sentence)
    assert caution(summary) in markdown(summary)
    assert sentence in " ".join(terminal(summary).split())


def test_report_and_terminal_depend_on_the_study_alone(summary):
    other = {**summary, "trials": [{**t, "started": "2030-01-01", "worker": "host:1"} for t in summary["trials"]]}
    assert (markdown(other), terminal(other), trials_csv(other)) == (
        markdown(summary),
        terminal(summary),
        trials_csv(summary),
    )


def test_the_terminal_shows_the_best_and_fits(summary):
    lines = terminal(summary).splitlines()
    assert max(map(len, lines)) <= WIDTH
    assert lines[0] == "digits: 12 complete, 1 pruned, 1 failed, 1 running of 20 trials; 7 min of core time"
    assert [line.split()[:2] for line in lines[5:10]] == [
        [str(number), value]
        for number, value in zip(range(11, 6, -1), ["0.9", "0.8636", "0.8273", "0.7909", "0.7545"], strict=True)
    ]
    assert "lr 0.1, wiring dense" in lines[5]
    long = {**summary, "study": "s" * 300, "trials": [{**t, "error": "word " * 90} for t in summary["trials"]]}
    assert max(map(len, terminal(long).splitlines())) <= WIDTH


def test_the_csv_has_a_line_a_trial(summary):
    rows = list(csv.DictReader(io.StringIO(trials_csv(summary))))
    assert [row["number"] for row in rows] == [str(number) for number in range(15)]
    assert (rows[0]["val/top1"], rows[0][LR], rows[0][STRENGTH], rows[0]["run_ids"]) == ("0.5", "0.001", "", "run0")
    assert (rows[13]["state"], rows[13]["val/top1"], rows[13][STRENGTH]) == ("failed", "", "1.0")
    assert rows[13]["error"] == "ValueError: width 0.1 | is\n too small"
    assert rows[12]["pruned"] == "after validation 2 (update 40)"


def test_keys_that_end_alike_are_written_whole():
    space = {"data.init_args.size": [32, 48], "model.init_args.size": [1, 2]}
    plan = make_plan(space=space)
    study = make_study(plan)
    params = {"data.init_args.size": 32, "model.init_args.size": 1}
    study.enqueue_trial(params)
    trial = study.ask()
    plan.space.suggest(trial)
    study.tell(trial, 0.5)
    assert "| trial | val/top1 | data.init_args.size | model.init_args.size |" in markdown(summarise(study, plan))


def parsed(path):
    """The command line's objects, made by the real parser from a file as it stands."""
    from app.trainer_cli import SkipSidewaysCLI

    return SkipSidewaysCLI(args=["--config", str(path)], run=False)


@pytest.mark.parametrize("law", ["off", "inverse"])
def test_the_real_parser_takes_best_yaml_as_it_is(tmp_cwd, law):
    """Also where the experiment has a lag_strength, and the best trial a law that refuses one."""
    plan = make_plan(folds=(0,), seeds=(3,), output=tmp_cwd / "out")
    study = make_study(plan)
    add(study, plan, [0.5], law=law, strength=0.75 if law == "inverse" else None, lr=0.02, wiring="dense", units=[3, 4])
    (path,) = write_best(plan, summarise(study, plan))
    model = parsed(path).model
    assert {key: model.hparams[key] for key in ("lr", "wiring", "lag_scaling", "train_units", "depth")} == {
        "lr": 0.02,
        "wiring": "dense",
        "lag_scaling": law,
        "train_units": [3, 4],
        "depth": 4,
    }
    assert model.hparams["lag_strength"] == (0.75 if law == "inverse" else 1.0)


def test_best_yaml_tells_what_it_is_and_keeps_the_experiments_fold_and_seed(tmp_cwd):
    plan = make_plan(folds=(2,), seeds=(3,), output="out", command="skip-sideways sweep\n--x")
    study = make_study(plan)
    add(study, plan, [0.5])
    (path,) = write_best(plan, summarise(study, plan))
    assert path.read_text().splitlines()[:3] == [
        "# The best trial of study digits: trial 0 of 1, val/top1 0.5",
        "# Chosen on fold 2, seed 3; this file has the fold and seed of digits.yaml.",
        "# Made by: skip-sideways sweep --x",
    ]
    config = yaml.safe_load(path.read_text())
    assert config["seed_everything"] == 7
    assert get(config, "data.init_args") == CONFIG["data"]["init_args"]
    assert "checkpoint" not in config, "another run's folder"
    assert sorted(file.name for file in path.parent.iterdir()) == ["best.yaml"]


def test_a_front_has_a_file_a_trial_and_old_ones_go(tmp_cwd):
    plan = make_plan(objectives=TWO, output="out")
    study = make_study(plan)
    add(study, plan, [0.5, 2.0], lr=0.002)
    add(study, plan, [0.6, 3.0], lr=0.003)
    names = [path.name for path in write_best(plan, summarise(study, plan))]
    assert names == ["best.yaml", "trial-01.yaml", "trial-00.yaml"]
    add(study, plan, [0.7, 2.0], lr=0.004)
    paths = write_best(plan, summarise(study, plan))
    assert [path.as_posix() for path in paths] == ["out/best.yaml", "out/front/trial-02.yaml"]
    assert [path.name for path in (plan.output / "front").iterdir()] == ["trial-02.yaml"]
    first = paths[0].read_text().splitlines()[0]
    assert first.startswith("# The trial of the Pareto front that is best by val/top1 of study digits: trial 2 of 3")
    assert yaml.safe_load(paths[0].read_text()) == yaml.safe_load(paths[1].read_text())


def test_nothing_is_written_before_a_trial_is_complete(tmp_cwd):
    plan = make_plan(output="out")
    assert write_best(plan, summarise(make_study(plan), plan)) == []
    assert not plan.output.exists()


def test_a_key_that_a_trial_has_not_is_taken_out_of_the_experiment():
    keys = make_plan().space.plain()
    without = with_values(CONFIG, keys, {LR: 0.5, WIRING: "dense", LAW: "off", UNITS: "all"})
    assert get(without, STRENGTH) is None
    assert get(with_values(CONFIG, keys, {LAW: "inverse", STRENGTH: 0.5}), STRENGTH) == 0.5
    assert get(CONFIG, STRENGTH) == 1.5
    assert with_values(CONFIG, ["trainer.strategy.init_args.x", "ckpt_path"], {}) == CONFIG


def test_trials_run_with_what_best_yaml_has():
    """But for the fold and the seed, which are the study's in a trial and the experiment's in best.yaml."""
    plan = make_plan(folds=(2,), seeds=(3,))
    values = {LR: 0.5, WIRING: "dense", LAW: "off", UNITS: "all"}
    run, best = plan.run_config(values, 2, 3), best_config(plan, values)
    assert run["model"] == best["model"]
    assert (run["seed_everything"], best["seed_everything"]) == (3, 7)
    assert get(run, "data.init_args.fold") == 2
