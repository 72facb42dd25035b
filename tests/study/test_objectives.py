"""What a study is after, read from the command line."""

import pytest

from app.metric_sense import sense
from app.study.objectives import Objective, read_objective, read_objectives


@pytest.mark.parametrize(
    ("text", "metric", "direction"),
    [
        ("val/top1", "val/top1", "maximize"),
        ("val/loss", "val/loss", "minimize"),
        ("test/mse_4", "test/mse_4", "minimize"),
        ("latency/tick_ms", "latency/tick_ms", "minimize"),
        ("memory/stage_1/peak_mib", "memory/stage_1/peak_mib", "minimize"),
        ("train/frames_per_second", "train/frames_per_second", "maximize"),
        ("energy/joule:minimize", "energy/joule", "minimize"),
        ("val/top1:maximize", "val/top1", "maximize"),
    ],
)
def test_a_metric_has_its_own_direction_or_the_given_one(text, metric, direction):
    assert read_objective(text) == Objective(metric, direction)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("energy/joule", "write energy/joule:maximize or energy/joule:minimize"),
        ("val/top1:maximise", "unknown direction 'maximise'; did you mean 'maximize'?"),
        ("val/top1:", "unknown direction ''"),
        ("val/loss:maximize", "val/loss is better where it is lower; write val/loss:minimize"),
        ("", "expected METRIC"),
        (":maximize", "expected METRIC"),
        ("val/top1 val/loss", "expected METRIC"),
    ],
)
def test_what_is_no_objective_is_refused_with_what_to_write(text, said):
    with pytest.raises(ValueError) as error:
        read_objective(text)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_several_keep_their_order():
    assert [each.metric for each in read_objectives(["val/top1", "latency/tick_ms"])] == ["val/top1", "latency/tick_ms"]


@pytest.mark.parametrize(
    ("texts", "said"), [([], "at least one"), (["val/top1", "val/top1:maximize"], "val/top1 is given twice")]
)
def test_none_or_one_twice_is_refused(texts, said):
    with pytest.raises(ValueError, match=said):
        read_objectives(texts)


def test_costs_are_better_where_they_are_lower_and_names_like_theirs_are_not_known():
    assert sense("latency/step_p95_ms") == sense("memory/saved_tensors_mib") == "lower"
    assert sense("val/latency_score") is None
    assert sense("frames_seen") is None
