"""What a trial draws depends on seed, turn and the trials before it; who is killed and goes on draws nothing else."""

import warnings

import optuna
import pytest
from optuna.exceptions import ExperimentalWarning
from optuna.storages import InMemoryStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import TrialState

from app.study.objectives import read_objectives
from app.study.parameter import is_active
from app.study.samplers import PRUNERS, SAMPLERS, check_pruner, make_pruner, make_sampler, turn
from app.study.space import read_space
from app.study.storage import SURPLUS

optuna.logging.set_verbosity(optuna.logging.WARNING)

CONDITIONAL = {
    "lr": {"low": 1e-4, "high": 1e-1, "log": True},
    "law": ["off", "inverse", "exponential"],
    "strength": {"low": 0.0, "high": 2.0, "when": {"law": ["inverse", "exponential"]}},
    "depth": {"low": 2, "high": 6},
    "units": ["all", [0, 1], None],
}
FINITE = {
    "law": ["off", "inverse", "exponential"],
    "strength": {"low": 0.0, "high": 1.0, "step": 0.25, "when": {"law": ["inverse", "exponential"]}},
    "units": ["all", [0, 1]],
}
TRIALS = 24
# TPE is past its 6 random trials, NSGA-II in its 6th generation of 4.
ONE, TWO = ["maximize"], ["maximize", "minimize"]


def space_of(name):
    return read_space(FINITE if name == "grid" else CONDITIONAL)


def score(values):
    strength, size = values.get("strength", 0.3), len(str(values["units"]))
    return -abs(values.get("lr", 0.01) - 0.01) - strength + 0.1 * size - 0.01 * values.get("depth", 2)


def values_of(values, directions):
    return (score(values), float(values.get("depth", 2)) + len(values["law"]))[: len(directions)]


class Worker:
    """One process of a study: a study object and a sampler of its own over the common storage."""

    def __init__(self, name, storage, directions=ONE, seed=3, pruner="none"):
        self.space, self.directions = space_of(name), directions
        self.study = optuna.create_study(
            storage=storage,
            study_name="study",
            load_if_exists=True,
            directions=directions,
            sampler=make_sampler(name, seed, self.space, trials=TRIALS),
            pruner=make_pruner(pruner),
        )

    def begin(self):
        trial = self.study.ask()
        return trial, self.space.suggest(trial)

    def end(self, trial, values):
        self.study.tell(trial, values_of(values, self.directions))

    def run(self, until):
        while len(self.study.trials) < until:
            self.end(*self.begin())

    def dies_in_a_trial(self, after_params):
        """Begin a trial, draw some of its values, and be found dead: it is failed and queued once more."""
        trial = self.study.ask()
        for parameter in self.space.parameters[:after_params]:
            if is_active(parameter, trial.params):
                parameter.suggest(trial)
        self.study.tell(trial, state=TrialState.FAIL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)  # of heartbeats; what the study's storage uses
            RetryHeartbeatStaleTrialCallback()(self.study, self.study.trials[trial.number])

    @property
    def drawn(self):
        """The values of the trials that count, in the order of their turns."""
        gone = {number for trial in self.study.trials for number in trial.system_attrs.get("retry_history", [])}
        kept = [trial for trial in self.study.trials if trial.number not in gone]
        ordered = sorted(kept, key=lambda trial: turn(self.study, trial))
        return [self.space.values(trial.params) for trial in ordered]


def unbroken(name, directions=ONE, **options):
    worker = Worker(name, InMemoryStorage(), directions, **options)
    worker.run(TRIALS)
    return worker.drawn


@pytest.mark.parametrize("directions", [ONE, TWO], ids=["one", "two"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_study_of_several_launches_draws_what_an_unbroken_one_draws(name, directions):
    storage = InMemoryStorage()
    for until in (1, 7, 8, 15, TRIALS):
        Worker(name, storage, directions).run(until)
    assert Worker(name, storage, directions).drawn == unbroken(name, directions)


@pytest.mark.parametrize("after_params", [0, 1, 2])
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_trial_that_killed_its_worker_takes_no_turn_from_the_others(name, after_params):
    storage = InMemoryStorage()
    Worker(name, storage).run(9)
    Worker(name, storage).dies_in_a_trial(after_params)
    Worker(name, storage).run(14)
    Worker(name, storage).dies_in_a_trial(after_params)
    Worker(name, storage).dies_in_a_trial(0)  # the same trial again, taken from the queue
    Worker(name, storage).run(TRIALS + 3)
    assert Worker(name, storage).drawn == unbroken(name)


def test_a_trial_beyond_the_total_takes_no_turn():
    storage = InMemoryStorage()
    Worker("grid", storage).run(9)
    worker = Worker("grid", storage)
    trial = worker.study.ask()
    trial.set_user_attr(SURPLUS, True)
    worker.study.tell(trial, state=TrialState.FAIL)
    Worker("grid", storage).run(TRIALS + 1)
    counted = [trial for trial in worker.study.trials if not trial.user_attrs]
    assert [worker.space.values(trial.params) for trial in counted] == unbroken("grid")


def test_under_hyperband_turns_are_counted_over_all_brackets():
    reports = 9

    def run(storage, until):
        worker = Worker("tpe", storage, pruner="hyperband")
        while len(worker.study.trials) < until:
            trial, values = worker.begin()
            for step in range(reports):
                trial.report(score(values) * (step + 1), step)
                if trial.should_prune():
                    worker.study.tell(trial, state=TrialState.PRUNED)
                    break
            else:
                worker.end(trial, values)
        return worker

    storage = InMemoryStorage()
    run(storage, 5)
    Worker("tpe", storage, pruner="hyperband").dies_in_a_trial(1)
    broken = run(storage, TRIALS + 1)
    whole = run(InMemoryStorage(), TRIALS)
    assert {trial.state for trial in whole.study.trials} == {TrialState.COMPLETE, TrialState.PRUNED}
    assert broken.drawn[:6] == whole.drawn[:6]
    assert len({turn(whole.study, trial) for trial in whole.study.trials}) == TRIALS


@pytest.mark.parametrize("name", SAMPLERS)
def test_seeds_and_turns_draw_differently(name):
    first = unbroken(name)
    assert first == unbroken(name)
    assert first != unbroken(name, seed=4)
    assert len({str(values) for values in first}) > TRIALS // 2


@pytest.mark.parametrize("name", SAMPLERS)
def test_conditions_hold_under_every_sampler(name):
    for values in unbroken(name):
        assert ("strength" in values) == (values["law"] != "off")


def test_tpe_and_nsga2_learn_from_the_trials_before():
    """The better half of the later trials is better than random search's."""

    def late(name):
        values = sorted(score(values) for seed in range(2) for values in unbroken(name, seed=seed)[TRIALS // 2 :])
        return sum(values) / len(values)

    assert late("tpe") > late("random")
    assert late("nsga2") > late("random")


def test_nsga2_has_several_generations_in_a_small_study():
    worker = Worker("nsga2", InMemoryStorage(), TWO)
    worker.run(TRIALS)
    generations = {value for trial in worker.study.trials for key, value in trial.system_attrs.items() if ":gen" in key}
    assert len(generations) >= 5


def test_two_workers_at_a_time_cover_the_grid_once():
    storage, points = InMemoryStorage(), list(space_of("grid").points())
    one, other = Worker("grid", storage), Worker("grid", storage)
    while len(one.study.trials) < len(points):
        # Both ask before either has drawn a value, and draw in turns.
        first, second = one.study.ask(), other.study.ask()
        drawn = [(one, first, one.space.suggest(first)), (other, second, other.space.suggest(second))]
        for worker, trial, values in reversed(drawn):
            worker.end(trial, values)
    assert len(points) == 22
    assert sorted(map(str, one.drawn)) == sorted(map(str, points))


def test_a_grid_goes_round_again_and_not_in_the_order_of_the_file():
    worker, points = Worker("grid", InMemoryStorage()), list(space_of("grid").points())
    worker.run(len(points) + 2)
    assert worker.drawn[: len(points)] != points
    assert worker.drawn[len(points) :] == worker.drawn[:2]


def test_a_grid_without_an_end_is_refused_with_the_keys_that_make_it_so():
    with pytest.raises(ValueError, match=r"lr, strength has no end of values; give it a step or choices"):
        make_sampler("grid", 0, read_space(CONDITIONAL))
    with pytest.raises(ValueError, match=r"1,000,000 points, more than 10,000"):
        make_sampler("grid", 0, read_space({"a": {"low": 1, "high": 10**6}}))


def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'nsga2'"):
        make_sampler("nsga", 0, read_space(FINITE))
    with pytest.raises(ValueError, match="did you mean 'median'"):
        make_pruner("mediam")


def test_pruners_are_for_one_objective():
    for name in PRUNERS:
        check_pruner(name, read_objectives(["val/top1"]))
    several = read_objectives(["val/top1", "latency/tick_ms"])
    check_pruner("none", several)
    with pytest.raises(ValueError, match=r"--pruner median with 2 objectives .* leave --pruner out"):
        check_pruner("median", several)


@pytest.mark.parametrize(("pruner", "stopped_at"), [("none", None), ("median", 1), ("hyperband", 1)])
def test_a_poor_trial_is_stopped_but_not_at_its_first_validation(pruner, stopped_at):
    worker = Worker("random", InMemoryStorage(), pruner=pruner)
    stopped = []
    for number in range(40):
        trial = worker.study.ask()
        quality = 0.1 if number >= 5 else 0.9
        for step in range(9):
            trial.report(quality * step, step)
            if trial.should_prune():
                stopped.append(step)
                worker.study.tell(trial, state=TrialState.PRUNED)
                break
        else:
            worker.study.tell(trial, quality)
    assert min(stopped, default=None) == stopped_at
