"""A space is checked against the classes of the experiment, by the real parser, before anything runs."""

import random
import time
from pathlib import Path

import pytest

import app
from app.comparison.overrides import apply_overrides
from app.comparison.yaml_file import read_yaml
from app.noise import without_noise
from app.study import making
from app.study.making import Maker
from app.study.schema import SLOW, check_space, defaults
from app.study.space import load_space, read_space
from app.study.trial_config import with_values
from app.trainer_cli import SkipSidewaysCLI
from datamodules import MovingDigits

CONFIGS = Path(app.__file__).parent / "configs"
SPACES = sorted(CONFIGS.glob("sweeps/*.yaml"))
M = "model.init_args."
LR = {"low": 1e-4, "high": 1e-1, "log": True}


@pytest.fixture(scope="module")
def digits():
    return read_yaml(CONFIGS / "experiments" / "digits_direction.yaml")


@pytest.fixture(scope="module")
def future():
    return read_yaml(CONFIGS / "experiments" / "digits_future.yaml")


def refused(content, config):
    with pytest.raises(ValueError) as error:
        check_space(read_space(content), config)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("key", "said"),
    [
        (f"{M}lrr", f"did you mean '{M}lr'?"),
        ("model.lr", f"did you mean '{M}lr'?"),
        ("model.wirng", f"did you mean '{M}wiring'?"),
        ("lr", f"did you mean '{M}lr'?"),
        (f"{M}lr.low", f"did you mean '{M}lr'?"),
        ("data.frames", "did you mean 'data.init_args.frames'?"),
        ("trainer.max_step", "did you mean 'trainer.max_steps'?"),
        ("checkpoint.montor", "did you mean 'checkpoint.monitor'?"),
        ("datas.x", "did you mean 'data'? Valid: seed_everything, trainer, model, data"),
        (f"{M}jjjj", "beside it are: network, pool, wiring, width, depth, reach"),
        (f"{M}jjjj", "stash and 31 more"),
        (f"{M}learning_rate", f"did you mean '{M}lr'?"),
        (f"{M}temperature", "beside it are: "),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest(digits, key, said):
    message = refused({f"{M}width": [1.0, 2.0], key: [1, 2]}, digits)
    assert message.startswith(f"{key} is no key of this experiment; ")
    assert said in message


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({f"{M}rule": ["sideways", "sideway"]}, f"{M}rule: sideway: rule 'sideway' is unknown; expected one of"),
        ({f"{M}wiring": ["chian"]}, f"{M}wiring: chian: wiring 'chian' is unknown"),
        ({f"{M}wiring": ["concat", "unet"]}, f"{M}wiring: unet: wiring 'unet' joins an encoder with its decoder"),
        ({f"{M}depth": {"low": 1, "high": 4}}, f"{M}depth: 1: small_cnn has depth 1; it needs at least 2 units"),
        (
            {f"{M}depth": [4.0, 5.0]},
            f"{M}depth: 4.0: expected a whole number or null; a whole number is written without a point",
        ),
        ({f"{M}lr": ["fast"]}, f"{M}lr: fast: expected a number"),
        (
            {f"{M}lag_scaling": [False, "lower"]},
            f"{M}lag_scaling: false: expected text; YAML reads a bare on, yes, off",
        ),
        ({f"{M}lag_scaling": ["lower", False]}, "write 'off' or 'no' in quotes"),
        ({f"{M}train_units": ["all", [0, 1]]}, f"{M}train_units: [0, 1]: train_units [0, 1]; expected 'all'"),
        ({f"{M}width": {"low": 1, "high": 2}}, f"{M}width: low: 1, high: 2 are whole numbers"),
        ({"trainer.max_steps": {"low": 10.0, "high": 20.0}}, "trainer.max_steps: 10.0: expected a whole number"),
        ({"trainer.accelerator": ["cpuu"]}, "trainer.accelerator: cpuu: You selected an invalid accelerator"),
        ({"data.init_args.label_mode": ["x"]}, "data.init_args.label_mode: x: label_mode 'x': expected one of"),
        ({"data.init_args.frames": [20, 3]}, "data.init_args.frames: 3: clips of 3 frames, and this network needs"),
        ({"model.class_path": ["FutureFrames"]}, "model.class_path: a class is no setting"),
        ({f"{M}num_classes": [3, 4]}, f"{M}num_classes: taken from the data"),
        ({"seed_everything": [0, 1]}, "seed_everything: the best seed or fold is luck"),
        ({"data.init_args.fold": [0, 1]}, "data.init_args.fold: the best seed or fold is luck"),
    ],
)
def test_a_value_that_its_class_refuses_is_refused_with_its_key(digits, content, said):
    assert said in refused({f"{M}lr": LR, **content}, digits)


def test_a_conditional_value_is_tried_where_it_is_there_and_the_message_says_where(digits):
    law = {f"{M}lag_scaling": ["off", "lower", "inverse"]}
    strength = {"low": 0.1, "high": 2.0, "when": {f"{M}lag_scaling": ["lower", "inverse"]}}
    check_space(read_space(law | {f"{M}lag_strength": strength}), digits)
    reach = {f"{M}wiring": ["concat", "dense"], f"{M}reach": {"low": 2, "high": 3, "when": {f"{M}wiring": "dense"}}}
    check_space(read_space(reach), digits)
    message = refused(law | {f"{M}lag_strength": strength | {"low": -1.0}}, digits)
    assert (
        f"{M}lag_strength: -1.0: lag_strength is -1.0; it must not be negative (with {M}lag_scaling: lower)" in message
    )


def test_a_value_needs_to_work_in_one_trial_only(digits):
    """A lag_strength of 2.0 is refused with lag_scaling off, and works with the other."""
    check_space(read_space({f"{M}lag_scaling": ["off", "inverse"], f"{M}lag_strength": [1.0, 2.0]}), digits)
    assert "lag_strength 2.0 with lag_scaling 'off'" in refused({f"{M}lag_strength": [1.0, 2.0]}, digits)


def test_the_experiments_own_value_of_an_inactive_key_is_in_nobodys_way(digits):
    config = apply_overrides(digits, {f"{M}lag_scaling": "inverse", f"{M}lag_strength": 2.0})
    space = {
        f"{M}lag_scaling": ["off", "inverse"],
        f"{M}lag_strength": {"low": 0.5, "high": 2.0, "when": {f"{M}lag_scaling": "inverse"}},
    }
    check_space(read_space(space), config)


def test_what_is_wrong_with_the_experiment_is_not_put_on_the_space(digits):
    broken = apply_overrides(digits, {f"{M}rule": "sideway"})
    assert refused({f"{M}lr": LR}, broken).startswith(
        "the experiment (its file and --set) is refused, whatever the space sets: rule 'sideway'"
    )
    where = "in the experiment's file or --set, not in the space"
    for key, right in ((f"{M}rulee", f"{M}rule"), ("trainer.max_epoch", "trainer.max_epochs")):
        said = refused({f"{M}lr": LR}, apply_overrides(digits, {key: 1}))
        assert said == f"{key} ({where}) is no key of this experiment; did you mean {right!r}?"
    wrong = apply_overrides(digits, {"data.init_args.frames": "x"})
    assert refused({f"{M}lr": LR}, wrong) == f"data.init_args.frames: x ({where}): expected a whole number"


def test_an_experiment_with_everything_written_out_passes(digits):
    with without_noise(quiet=True):
        written = SkipSidewaysCLI(run=False, args=digits).plain_config()
    check_space(read_space({f"{M}lr": LR}), {**written, "ckpt_path": None, "weights_only": None})


def test_other_tasks_are_checked_by_their_own_classes(future):
    check_space(read_space({f"{M}lr": LR, f"{M}lead": {"low": 0, "high": 3}, f"{M}wiring": ["unet", "chain"]}), future)
    assert f"{M}pool is no key of this experiment" in refused({f"{M}pool": ["max"]}, future)


def test_sketches_are_searched_like_any_setting(digits):
    """A share or a number of probes, with what goes with probes only where there are some."""
    when = {"when": {f"{M}probes": [0.125, 8]}}
    space = {
        f"{M}rule": ["backprop_shifted"],
        f"{M}probes": [0, 0.125, 8],
        f"{M}probe_mode": {"choices": ["independent", "multi"], **when},
        f"{M}compact": ["none", "norm"],
    }
    check_space(read_space(space), digits)
    check_space(read_space({f"{M}probes": {"low": 0.01, "high": 0.5, "log": True}}), digits)
    assert "probes 1.5; expected 0 (exact)" in refused({f"{M}probes": [0.5, 1.5]}, digits)


def test_data_is_made_once_where_only_the_model_varies(digits, monkeypatch):
    made = []
    original = MovingDigits.__init__
    monkeypatch.setattr(MovingDigits, "__init__", lambda self, *a, **k: (made.append(1), original(self, *a, **k))[1])
    check_space(read_space({f"{M}lr": LR, f"{M}wiring": ["chain", "concat", "dense"], f"{M}width": [0.5, 1.0]}), digits)
    assert len(made) == 1
    check_space(read_space({f"{M}lr": LR, "data.init_args.frames": [16, 24]}), digits)
    assert len(made) == 1 + 2
    check_space(read_space({"trainer.max_steps": [2, 3, 4], f"{M}depth": [3, 4]}), digits)
    assert len(made) == 1 + 2 + 1
    refused({"trainer.max_steps": [2, 3, 4], f"{M}depth": [3, 1]}, digits)
    assert len(made) == 1 + 2 + 1 + 1


def test_a_network_that_is_far_too_deep_is_refused_in_seconds(digits):
    before = time.process_time()
    said = refused({"data.init_args.batch_size": [4, 8], f"{M}depth": {"low": 3, "high": 50}}, digits)
    assert said == f"{M}depth: 50: clips of 20 frames, and this network needs at least 75"
    assert time.process_time() - before < 15


def test_a_refused_value_is_tried_beside_each_other_key_and_no_further(digits, monkeypatch):
    made = []
    original = Maker._make
    monkeypatch.setattr(Maker, "_make", lambda self, config: (made.append(1), original(self, config))[1])
    others = {f"{M}{name}": [0.1, 0.2, 0.3] for name in ("lr", "weight_decay", "momentum", "width")}
    refused({**others, f"{M}pool": ["maxx"]}, digits)
    # 12 values of which 4 are tried first; then 12 - 4 others beside the wrong one; without the space; without the key.
    assert len(made) <= 12 + 1 + 8 + 2


def test_a_value_that_needs_two_others_may_pass(digits):
    """A network of whole clips takes neither Sideways nor a law of lags, which the experiment has both."""
    config = apply_overrides(digits, {f"{M}lag_scaling": "inverse"})
    clips = {f"{M}network": ["small_cnn", "cnn3d"], f"{M}wiring": ["chain"], f"{M}gradient_edges": ["all"]}
    assert "cnn3d" in refused({**clips, f"{M}rule": ["sideways", "backprop"]}, config)
    check_space(
        read_space({**clips, f"{M}rule": ["sideways", "backprop"], f"{M}lag_scaling": ["inverse", "off"]}), config
    )


def test_a_long_check_says_what_it_does(digits, monkeypatch, capsys):
    for seconds, said in ((1000.0, ""), (0.0, f"{SLOW}\n")):
        monkeypatch.setattr(making, "SLOW_S", seconds)
        check_space(read_space({f"{M}lr": LR}), digits)
        assert capsys.readouterr().err == said


def test_defaults_are_the_classes_own_and_make_the_experiment_a_point(digits):
    space = load_space(CONFIGS / "sweeps" / "skip_sideways.yaml")
    found = defaults(space, digits)
    assert found[f"{M}lag_scaling"] == "off"
    assert found[f"{M}lr"] == 1e-3  # the class's, not the experiment's
    assert space.point(digits) is None
    assert space.point(digits, found) == {
        f"{M}lr": 0.006,
        f"{M}wiring": "concat",
        f"{M}width": 1.0,
        f"{M}gradient_edges": "newest",
        f"{M}lag_scaling": "off",
    }


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
def test_a_shipped_space_fits_generated_digits_and_its_trials_start(path, digits):
    space = load_space(path)
    check_space(space, digits)
    draw = random.Random(0)
    for _ in range(2):
        values = {}
        for parameter in space.parameters:
            if all(values.get(key) in valid for key, valid in parameter.when.items()):
                values[parameter.key] = draw.choice(parameter.choices or (parameter.low, parameter.high))
        with without_noise(quiet=True):
            SkipSidewaysCLI(run=False, args=with_values(digits, [each.key for each in space.parameters], values))


@pytest.mark.parametrize("name", ["skip_sideways", "backprop"])
def test_the_spaces_fit_the_experiment_on_real_videos(name, data_root):
    config = read_yaml(CONFIGS / "experiments" / "weizmann.yaml")
    config["data"]["init_args"]["root"] = str(data_root / "weizmann")
    space = load_space(CONFIGS / "sweeps" / f"{name}.yaml")
    check_space(space, config)
    assert space.point(config, defaults(space, config))[f"{M}lr"] == 0.008
