"""The search space: what YAML may say, what a trial gets, and how many trials there are."""

import json
from pathlib import Path

import optuna
import pytest

import app
from app.study.space import load_space, read_space

optuna.logging.set_verbosity(optuna.logging.WARNING)

SHIPPED = sorted((Path(app.__file__).parent / "configs" / "sweeps").glob("*.yaml"))
LAW = {
    "strength": {"low": 0.5, "high": 2.0, "step": 0.5, "when": {"law": ["inverse", "exponential"]}},
    "law": ["off", "lower", "inverse", "exponential"],
    "power": {"low": 1, "high": 3, "when": {"law": "exponential"}},
    "units": ["all", "last", [0, 1], None, {"from": 2}],
}


def drawn(space, trials=60):
    """The values and the stored params of a few random trials."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    found = []
    study.optimize(lambda trial: found.append(space.suggest(trial)) or 0.0, n_trials=trials)
    return found, [trial.params for trial in study.trials]


def written(tmp_path, text):
    path = tmp_path / "space.yaml"
    path.write_text(text)
    return path


def test_kinds_are_read_from_how_numbers_are_written(tmp_path):
    text = "a: {low: 1, high: 8}\nb: {low: 1.0, high: 8}\nc: {low: 1e-4, high: 1e-1, log: true}\nd: [1, 2]\n"
    space = load_space(written(tmp_path, text))
    assert [parameter.kind for parameter in space.parameters] == ["int", "float", "float", "choice"]
    assert (space["c"].low, space["c"].high) == (1e-4, 0.1)
    for values in drawn(space)[0]:
        assert type(values["a"]) is int
        assert 1 <= values["a"] <= 8
        assert type(values["b"]) is float
        assert 1e-4 <= values["c"] <= 0.1


def test_a_key_is_there_only_where_its_condition_holds():
    found, _ = drawn(read_space(LAW))
    for values in found:
        assert ("strength" in values) == (values["law"] in ("inverse", "exponential"))
        assert ("power" in values) == (values["law"] == "exponential")
    assert {values["law"] for values in found} == set(LAW["law"])


def test_parents_come_first_wherever_they_stand():
    assert [parameter.key for parameter in read_space(LAW).parameters] == ["law", "strength", "power", "units"]


def test_choices_that_are_no_scalars_are_stored_as_text_and_come_back():
    space = read_space(LAW)
    found, params = drawn(space)
    assert {json.dumps(values["units"]) for values in found} == {json.dumps(choice) for choice in LAW["units"]}
    assert all(isinstance(each["units"], str | None) for each in params)
    assert [space.values(each) for each in params] == found


def test_values_on_steps_are_as_a_person_writes_them():
    space = read_space({"a": {"low": 0.1, "high": 0.9, "step": 0.1}})
    assert {values["a"] for values in drawn(space)[0]} <= {0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9}


def test_the_plain_form_is_json_and_reads_back_the_same():
    space = read_space(LAW | {"lr": {"low": 1e-4, "high": 0.1, "log": True}})
    again = read_space(json.loads(json.dumps(space.plain())))
    assert again.parameters == space.parameters
    assert again.plain() == space.plain()


@pytest.mark.parametrize(
    ("content", "size"),
    [
        ({"a": [1, 2, 3]}, 3),
        ({"a": [1, 2, 3], "b": {"low": 1, "high": 8, "step": 7}}, 6),
        ({"a": [1, 2, 3], "b": {"low": 0.0, "high": 1.0, "step": 0.1, "when": {"a": [1, 3]}}}, 23),
        (LAW, (2 + 4 + 4 * 3) * 5),
        ({"a": {"low": 1, "high": 9}, "b": {"low": 1, "high": 4, "when": {"a": [2, 3]}}, "c": [1, 2]}, 2 * (7 + 2 * 4)),
        ({"a": [1, 2], "b": {"choices": [1, 2], "when": {"a": 1}}, "c": {"choices": [1, 2], "when": {"b": 2}}}, 4),
        ({"a": [True, False, 3], "b": {"choices": [1, 2, 3], "when": {"a": True}}}, 5),
        ({"a": [1, 2], "b": {"low": 0.0, "high": 1.0}}, None),
    ],
)
def test_its_size_counts_conditions(content, size):
    space = read_space(content)
    assert space.size() == size
    if size is not None:
        points = [json.dumps(point) for point in space.points()]
        assert len(points) == len(set(points)) == size


def test_the_size_of_large_ranges_is_counted_without_listing_them():
    content = {f"k{i}": {"low": 1, "high": 10**6} for i in range(6)}
    content["last"] = {"choices": [1, 2], "when": {"k0": 5}}
    assert read_space(content).size() == (10**6 + 1) * 10**30


def test_every_drawn_trial_is_one_of_the_points():
    space = read_space(LAW)
    points = list(space.points())
    assert all(values in points for values in drawn(space)[0])


def test_the_experiment_as_it_stands_is_a_point_as_optuna_stores_it():
    space = read_space(LAW | {"lr": {"low": 1e-4, "high": 0.1}})
    config = {"law": "inverse", "strength": 1.5, "units": [0, 1], "lr": 0.01, "other": 3}
    point = space.point(config)
    assert point == {"law": "inverse", "strength": 1.5, "units": "[0, 1]", "lr": 0.01}
    study = optuna.create_study()
    study.enqueue_trial(point)
    found = []
    study.optimize(lambda trial: found.append(space.suggest(trial)) or 0.0, n_trials=1)
    assert found == [{"law": "inverse", "strength": 1.5, "units": [0, 1], "lr": 0.01}]


@pytest.mark.parametrize(
    "config",
    [
        {"law": "inverse", "strength": 1.2, "units": "all"},  # between the steps
        {"law": "inverse", "strength": 9.0, "units": "all"},
        {"law": "inverse", "units": "all"},  # its default is not known
        {"law": "other", "units": "all"},
        {"law": "off", "strength": 1.5, "units": "all"},  # which a trial would be without
        {"law": "exponential", "strength": 1.5, "power": 2.0, "units": "all"},
        {"law": "exponential", "strength": 1.5, "power": True, "units": "all"},
        {"units": "all"},
    ],
)
def test_an_experiment_beside_the_space_is_no_point(config):
    assert read_space(LAW).point(config) is None


def test_what_the_experiment_leaves_out_may_be_given_as_defaults():
    space, defaults = read_space(LAW), {"law": "off", "strength": 1.0, "power": 2, "units": "all"}
    assert space.point({}, defaults) == {"law": "off", "units": "all"}
    assert space.point({"law": "lower", "strength": 1.0}, defaults) == {"law": "lower", "units": "all"}
    assert space.point({"law": "lower", "strength": 1.5}, defaults) is None
    assert space.point({"law": "inverse"}, defaults) == {"law": "inverse", "strength": 1.0, "units": "all"}


def test_conditions_are_followed_up_to_the_first_parent():
    space = read_space(
        {
            "a": [1, 2, 3],
            "b": {"choices": ["x", "y"], "when": {"a": [1, 2]}},
            "c": {"choices": [0, 1], "when": {"b": "x", "a": [2, 3]}},
        }
    )
    assert space.conditions("c") == {"a": (2,), "b": ("x",)}
    assert space.conditions("a") == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: {low: 1, hihg: 2}", "a: unknown field 'hihg'; did you mean 'high'?"),
        ("a: {low: 1}", "a: high missing"),
        ("a: {low: 2, high: 1}", "a: low 2 is above high 1"),
        ("a: {low: 2, high: 2}", "a: low and high are both 2, so there is nothing to search; write [2]"),
        ("a: {low: 0, high: 2, log: true}", "a: log needs a low above 0, got 0"),
        ("a: {low: 1, high: 3, log: true, step: 1}", "a: log and step exclude each other"),
        ("a: {low: 1, high: 3, log: yeah}", "a: log: expected true or false, got 'yeah'"),
        ("a: {low: 1, high: 4, step: 2}", "a: steps of 2 from low 1 do not reach high 4; write high: 3"),
        ("a: {low: 0.1, high: 1.0, step: 0.2}", "write high: 0.9"),
        ("a: {low: 1, high: 4, step: -1}", "a: step: expected a number above 0, got -1"),
        ("a: {low: one, high: 4}", "a: low: expected a number, got 'one'"),
        ("a: {low: true, high: 4}", "a: low: expected a number, got True"),
        ("a: {low: 1, high: .inf}", "a: high: expected a number, got inf"),
        ("a: []", "a: choices: expected a list of one value or more"),
        ("a: {choices: 3}", "a: choices: expected a list of one value or more, got 3"),
        ("a: [1, 2, 1]", "a: choice 1 is given twice"),
        ("a: [[0, 1], [0, 1]]", "a: choice [0, 1] is given twice"),
        ("a: [1, true]", "a: choice true is given twice"),
        ("a: [2020-01-01]", "put quotes round it"),
        ("a: [{0: 1}]", "a: choice {0: 1}: expected text"),
        ("a: [.nan]", "a: choice nan: expected text, a number"),
        ("a: {choices: [1, 2], step: 1}", "a: choices and step exclude each other"),
        ("a: 3", "a: expected a list of choices or {low: ..., high: ...}, got 3"),
        ("model: {init_args: {lr: [1, 2]}}", "nested keys are written in one, as in model.init_args.lr"),
        ("1: [1, 2]", "key 1: expected a dotted key"),
        ("{}", "a search space maps keys to what they may be"),
        ("a: [1, 2]\na: [3]", "key 'a' is given twice"),
        ("a: [1]\na.b: [1]", "a.b lies inside a"),
        ("ab: [x, y]\nc: {choices: [1], when: {abc: x}}", "c: when: abc is no key of this space; did you mean 'ab'?"),
        ("a: [x, y]\nc: {choices: [1], when: {a: z}}", "c: when: a never is z; valid: x, y"),
        ("a: ['off', on]\nc: {choices: [1], when: {a: off}}", "c: when: a never is false (YAML reads a bare on, off"),
        ("a: {low: 1, high: 3}\nc: {choices: [1], when: {a: 4}}", "c: when: a never is 4; valid: 1 to 3"),
        ("a: {low: 1.0, high: 3}\nc: {choices: [1], when: {a: 1.0}}", "only choices and whole numbers can be"),
        ("a: [x]\nc: {choices: [1], when: {a: []}}", "c: when: a: the list of values is empty"),
        ("a: [x]\nc: {choices: [1], when: x}", "c: when: expected {OTHER_KEY: VALUE}"),
        ("a: {choices: [1, 2], when: {b: 1}}\nb: {choices: [1, 2], when: {a: 1}}", "a circle: a -> b -> a"),
        ("a: {choices: [1, 2], when: {a: 1}}", "a circle: a -> a"),
        (
            "a: [1, 2]\nb: {choices: [1, 2], when: {a: 1}}\nc: {choices: [1], when: {a: 2, b: 1}}",
            "c: its conditions on a contradict each other",
        ),
    ],
)
def test_a_mistake_is_refused_with_the_file_the_key_and_what_to_write(tmp_path, text, said):
    path = written(tmp_path, text)
    with pytest.raises(ValueError) as error:
        load_space(path)
    assert said in str(error.value)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def test_a_missing_file_says_what_is_there(tmp_path):
    written(tmp_path, "a: [1]")
    with pytest.raises(ValueError, match=r"no such file.*space\.yaml"):
        load_space(tmp_path / "spaec.yaml")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_space_begins_with_one_line_of_intent_and_draws(path):
    first, second = path.read_text().splitlines()[:2]
    assert first.startswith("# ")
    assert not second.startswith("#")
    space = load_space(path)
    assert len(drawn(space, 3)[0]) == 3


def test_the_named_spaces_ship():
    assert {"skip_sideways", "backprop", "small"} <= {path.stem for path in SHIPPED}
