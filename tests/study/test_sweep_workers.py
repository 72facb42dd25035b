"""Workers that are real processes: who runs which trial, who dies, who goes on."""

import multiprocessing
import os
import signal
import time

import optuna
import pytest
from study_fakes import parabola

from app.study.execute import run_study
from app.study.storage import open_study


def run(plan, jobs=1):
    return run_study(plan, jobs, runner=parabola, track=False)


def states(summary):
    return [trial["state"] for trial in summary["trials"]]


def in_process(plan, jobs=1):
    """Start a whole `sweep` command as a process of its own."""
    process = multiprocessing.get_context("spawn").Process(target=run, args=(plan, jobs))
    process.start()
    return process


def wait_until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def test_a_study_has_as_many_trials_as_asked_and_its_best_is_the_best(plan_of, trace):
    summary = run(plan_of(6))
    assert states(summary) == ["complete"] * 6
    values = [trial["values"][0] for trial in summary["trials"]]
    assert summary["best"]["trial"] == max(range(6), key=values.__getitem__)
    assert len(trace()) == 6
    assert (plan_of().output / "best.yaml").exists()


def test_the_same_command_again_runs_nothing_and_more_trials_are_added(plan_of, trace):
    first = run(plan_of(3))
    assert run(plan_of(3))["trials"] == first["trials"]
    assert len(trace()) == 3
    more = run(plan_of(5))
    assert len(more["trials"]) == len(trace()) == 5
    assert more["trials"][:3] == first["trials"]


@pytest.mark.slow
def test_two_commands_at_once_are_two_workers_of_one_study(plan_of, trace, monkeypatch):
    monkeypatch.setenv("FAKE_SECONDS", "0.4")
    plan = plan_of(8)
    commands = [in_process(plan), in_process(plan)]
    for command in commands:
        command.join(90)
        assert command.exitcode == 0
    ran = trace()
    assert sorted(trial for trial, _, _ in ran) == list(range(8))
    assert len({process for _, _, process in ran}) == 2


def test_a_trial_whose_worker_is_killed_is_run_again_with_the_same_values(plan_of, trace, monkeypatch):
    monkeypatch.setenv("FAKE_MISBEHAVE", "2:die")
    summary = run(plan_of(4))
    dead = summary["trials"][2]
    assert dead["state"] == "retried"
    again = next(trial for trial in summary["trials"] if trial["retry_of"] == 2)
    assert again["state"] == "complete"
    assert again["params"] == dead["params"]
    assert states(summary).count("complete") == 4


def test_runs_that_a_dead_worker_finished_are_not_repeated(plan_of, trace, monkeypatch):
    plan = plan_of(1, folds=(0, 1))
    monkeypatch.setenv("FAKE_SECONDS", "0.2")
    monkeypatch.setenv("FAKE_ALWAYS", "1:die")
    command = in_process(plan)
    wait_until(lambda: [fold for _, fold, _ in trace()].count(1) >= 1)
    command.kill()
    command.join()
    monkeypatch.delenv("FAKE_ALWAYS")
    summary = run(plan)
    assert [fold for _, fold, _ in trace()].count(0) == 1
    done = [trial for trial in summary["trials"] if trial["state"] == "complete"]
    assert len(done) == 1
    lr = done[0]["params"]["model.init_args.lr"]
    assert done[0]["values"][0] == pytest.approx(1 - (lr - 0.01) ** 2 + 0.0005)


@pytest.mark.slow
def test_a_trial_that_kills_every_worker_ends_as_failed(plan_of, trace, monkeypatch):
    monkeypatch.setenv("FAKE_ALWAYS", "0:die")
    monkeypatch.setattr("app.study.team.FRUITLESS_DEATHS", 10)
    summary = run(plan_of(1))
    assert states(summary).count("retried") == 3
    [failed] = [trial for trial in summary["trials"] if trial["state"] == "failed"]
    assert "its worker died 4 times, perhaps for memory" in failed["error"]
    assert summary["best"] is None


@pytest.mark.slow
def test_a_worker_that_is_stopped_and_silent_is_given_up(plan_of, trace, monkeypatch):
    monkeypatch.setenv("FAKE_MISBEHAVE", "1:hang")
    plan = plan_of(3, grace_s=3)
    command = in_process(plan, jobs=2)
    wait_until(lambda: len({trial for trial, _, _ in trace()}) >= 4)
    stopped = next(process for trial, _, process in trace() if trial == 1)
    os.kill(stopped, signal.SIGCONT)
    command.join(60)
    assert command.exitcode == 0
    with_results = [trial for trial in open_study(plan).trials if trial.state.name == "COMPLETE"]
    assert len(with_results) == 3
    assert 1 not in [trial.number for trial in with_results]


def test_ctrl_c_gives_the_running_trial_back_and_the_same_command_goes_on(plan_of, trace, monkeypatch):
    monkeypatch.setenv("FAKE_MISBEHAVE", "1:wait")
    plan = plan_of(3)
    command = in_process(plan)
    wait_until(lambda: 1 in {trial for trial, _, _ in trace()})
    os.kill(command.pid, signal.SIGINT)
    command.join(30)
    study = open_study(plan)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "FAIL", "WAITING"]
    summary = run(plan)
    assert states(summary) == ["complete", "retried", "complete", "complete"]


def test_a_killed_command_takes_its_workers_along_and_is_continued(plan_of, trace, monkeypatch):
    monkeypatch.setenv("FAKE_MISBEHAVE", "1:wait")
    plan = plan_of(3)
    command = in_process(plan)
    wait_until(lambda: 1 in {trial for trial, _, _ in trace()})
    worker = trace()[-1][2]
    command.kill()
    command.join()
    wait_until(lambda: not alive(worker))
    summary = run(plan)
    assert states(summary) == ["complete", "retried", "complete", "complete"]


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().split()[2] != "Z"
    except FileNotFoundError:
        return False


def test_a_failed_trial_carries_its_error_and_ends_nothing(plan_of, trace, monkeypatch):
    monkeypatch.setenv("FAKE_MISBEHAVE", "1:fail")
    summary = run(plan_of(3))
    assert states(summary) == ["complete", "failed", "complete"]
    assert summary["trials"][1]["error"] == "RuntimeError: the loss is nan second line"


def test_an_objective_that_no_run_logs_fails_its_trials_with_what_there_is(plan_of, trace):
    summary = run(plan_of(1, objectives=("val/top5:maximize",)))
    assert "val/top5 was not logged; this run logged memory/mib, test/top1" in summary["trials"][0]["error"]


def test_trials_that_all_fail_alike_end_the_study_before_they_cost_a_night(plan_of, trace, monkeypatch):
    monkeypatch.setenv("FAKE_SECONDS", "0.5")
    with pytest.raises(ValueError, match=r"all [3-6] trials so far failed with: ValueError: the objective val/top5"):
        run(plan_of(9, objectives=("val/top5:maximize",)))
    assert len(trace()) < 9


def test_a_failed_trial_costs_what_it_took(plan_of, trace, monkeypatch):
    monkeypatch.setenv("FAKE_MISBEHAVE", "0:fail")
    assert run(plan_of(1))["trials"][0]["cpu_seconds"] > 0


def test_a_study_begun_otherwise_is_refused(plan_of, trace):
    run(plan_of(1))
    with pytest.raises(ValueError, match=r"begun with other settings:\n  cells: was \[\[0, 0\]\], is \[\[1, 0\]\]"):
        run(plan_of(1, folds=(1,)))


def test_the_core_hours_end_a_study(plan_of, trace):
    summary = run(plan_of(5, limit_hours=1e-9))
    assert states(summary) == ["complete"]


def test_a_journal_that_a_full_disk_cut_is_read_and_written_on(plan_of, trace):
    plan = plan_of(2)
    run(plan)
    with open(plan.storage, "a") as journal:
        journal.write('{"op_code": 4, "worker_')
    assert len(run(plan_of(3))["trials"]) == 3


@pytest.mark.slow
def test_a_database_gives_up_a_trial_whose_worker_died_before_its_first_sign_of_life(plan_of, trace, tmp_path):
    plan = plan_of(2, storage=f"sqlite:///{tmp_path / 'study.db'}", grace_s=2)
    study = open_study(plan)
    study._storage.create_new_trial(study._study_id)
    summary = run(plan)
    assert states(summary) == ["retried", "complete", "complete"]


@pytest.mark.slow
def test_a_database_works_as_the_journal_does(plan_of, trace, monkeypatch, tmp_path):
    monkeypatch.setenv("FAKE_MISBEHAVE", "1:die")
    summary = run(plan_of(3, storage=f"sqlite:///{tmp_path / 'study.db'}", grace_s=4))
    assert states(summary).count("complete") == 3
    assert summary["trials"][1]["state"] == "retried"


def test_optuna_reads_the_journal_as_its_own(plan_of, trace):
    plan = plan_of(2)
    run(plan)
    backend = optuna.storages.journal.JournalFileBackend(plan.storage)
    study = optuna.load_study(study_name="toy", storage=optuna.storages.JournalStorage(backend))
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "COMPLETE"]


def test_the_journals_lock_leads_to_the_journal_from_any_folder(plan_of, trace, monkeypatch, tmp_path):
    """Optuna's lock is a link to the journal: a relative one would lead nowhere, and never be given up."""
    monkeypatch.chdir(tmp_path)
    targets = []
    link = os.symlink
    monkeypatch.setattr(os, "symlink", lambda target, *rest: (targets.append(target), link(target, *rest)))
    open_study(plan_of(1, storage="study/study.journal"))
    assert set(targets) == {str(tmp_path / "study" / "study.journal")}
