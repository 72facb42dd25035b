"""Which frames of a stream a test stores, and what it says of answers that are numbers, of several lengths, of none."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lightning_modules.callbacks.chosen_steps import MOST_SHOWN, about, cue_end, shown_steps, streams_of
from lightning_modules.long_memory import LongMemory
from tests.lightning_modules.toy_memory import Held, seeded


def made(num_classes=5, **options):
    torch.manual_seed(0)
    return LongMemory(num_classes, 3, "vectors", **{"rollout": 4, "hidden": 8, "k": 3, **options}).eval()


def streams(lengths, answers, numbers=False):
    x = torch.randn(len(lengths), max(lengths), 3, generator=seeded(1))
    y = torch.rand(x.shape[:2], generator=seeded(2)) if numbers else torch.randint(5, x.shape[:2], generator=seeded(2))
    return Held(x, y, answers, lengths)


def test_cue_chosen_steps_and_answers_are_shown_and_others_between():
    shown = shown_steps(5_000, [4_999], [4_999, 70, 3_000], cue=9)
    assert {0, 8, 70, 3_000, 4_999} <= {*shown}
    assert sum(step < 9 for step in shown) == 4
    assert shown == sorted({*shown})
    assert MOST_SHOWN - 4 <= len(shown) <= MOST_SHOWN
    assert max(b - a for a, b in itertools.pairwise(shown)) < 600


@pytest.mark.parametrize(
    ("answers", "gap", "cue"), [([44], 40, 4), ([44, 46], 40, 4), ([44], 0, 0), ([], 40, 0), ([8], 40, 0)]
)
def test_the_cue_ends_where_the_gap_of_the_first_answer_begins(answers, gap, cue):
    assert cue_end(answers, gap) == cue


def test_short_streams_are_shown_whole_and_long_tails_are_not():
    assert shown_steps(9, [8], [2], cue=0) == [*range(9)]
    assert len(shown_steps(400, [*range(200, 400)], [*range(300, 400)], cue=100)) <= MOST_SHOWN


def test_streams_of_several_lengths_have_arrays_of_their_own():
    model, lanes = made(), streams([9, 6], [[7, 8], [5, -1]])
    (first, arrays), (second, shorter) = streams_of(model, lanes, gap=2)
    assert (first["steps"], first["answers"], second["steps"], second["answers"]) == (9, [7, 8], 6, [5])
    assert (first["cue"], second["cue"]) == (5, 3)
    assert (len(arrays["target"]), len(shorter["target"]), len(shorter["uncertainty"])) == (9, 6, 6)
    np.testing.assert_array_equal(arrays["target"], lanes.y_BT[0].numpy())
    outputs, targets = model.answers(lanes)
    np.testing.assert_array_equal(arrays["prediction"], outputs[0].argmax(-1))
    np.testing.assert_allclose(shorter["probability"], outputs[1, 0].softmax(-1)[targets[1, 0]], rtol=1e-6)
    assert first["precision"] == len({*first["chosen"][:2]} & {7, 8}) / 2
    assert "frames" not in arrays


def test_numbers_are_stored_as_floats_without_probability():
    ((_, arrays),) = streams_of(made(1), streams([9], [[8]], numbers=True), gap=0)
    assert {arrays[name].dtype.kind for name in ("target", "prediction", "probability")} == {"f"}
    assert np.isnan(arrays["probability"]).all()


def test_a_rule_that_chooses_nothing_stores_nothing_chosen():
    model = made(rule="truncated_backprop")
    ((entry, arrays),) = streams_of(model, streams([9], [[8]]), gap=0)
    assert (entry["chosen"], entry["precision"], arrays["chosen"].tolist()) == ([], None, [-1])
    assert np.isnan(arrays["uncertainty"]).all()
    said = about(model, SimpleNamespace(gap=4, class_names=["a"]))
    assert (said["detector"], said["k"], said["gap"], said["class_names"]) == ("", 0, 4, ["a"])
