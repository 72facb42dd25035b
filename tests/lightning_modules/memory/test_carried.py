"""What goes on from rollout to rollout: lanes that begin are empty and found anew, the others go on."""

import io
import math

import torch
from toy_memory import seeded, vectors

from lightning_modules.memory.carried import Carried

B, H = 4, 3
SOME = torch.tensor([True, False, True, False])


def empty(lanes=B):
    return lambda: {"h": torch.zeros(lanes, 2, H), "c": torch.zeros(lanes, 2, H)}


def held():
    """What a rollout left, with a graph."""
    carried = Carried()
    carried.end({name: torch.rand(B, 2, H, generator=seeded(i)).requires_grad_() * 2 for i, name in enumerate("hc")})
    return carried


class Detect:
    """The uncertainty of a step is its stream's number; remembers which streams were asked for."""

    def __init__(self):
        self.calls = []

    def __call__(self, lanes):
        self.calls.append(lanes.ids)
        numbers = torch.tensor([float(name.split("-")[1]) for name in lanes.ids])
        steps = int(lanes.lengths_B.max())
        found = numbers[:, None].repeat(1, steps)
        return found.masked_fill(torch.arange(steps) >= lanes.lengths_B[:, None], -math.inf)


def streams(*numbers, lengths=None):
    lengths = [6] * len(numbers) if lengths is None else lengths
    return vectors(len(numbers), max(lengths), lengths_B=lengths, ids=[f"s-{n}" for n in numbers])


def test_lanes_that_begin_are_empty_and_the_others_go_on_without_a_graph():
    carried = held()
    before = {name: part.clone() for name, part in carried.state.items()}
    state = carried.begin(SOME, empty())
    for name, part in state.items():
        assert not part[SOME].any()
        assert torch.equal(part[~SOME], before[name][~SOME])
        assert not part.requires_grad


def test_the_first_rollout_and_another_number_of_lanes_begin_empty():
    for carried in (Carried(), held()):
        lanes = B if carried.state is None else B + 1
        state = carried.begin(torch.zeros(lanes, dtype=torch.bool), empty(lanes))
        assert not any(part.any() for part in state.values())


def test_only_the_streams_that_begin_are_searched():
    carried, detect = Carried(), Detect()
    first = carried.uncertainty_of(streams(1, 2, 3, 4), torch.ones(B, dtype=torch.bool), detect)
    same = carried.uncertainty_of(streams(1, 2, 3, 4), torch.zeros(B, dtype=torch.bool), detect)
    third = carried.uncertainty_of(streams(5, 2, 6, 4), SOME, detect)
    assert detect.calls == [["s-1", "s-2", "s-3", "s-4"], ["s-5", "s-6"]]
    assert first[:, 0].tolist() == same[:, 0].tolist() == [1, 2, 3, 4]
    assert torch.equal(third, torch.tensor([[5.0], [2], [6], [4]]).expand(B, 6))


def test_streams_that_are_under_way_are_searched_where_nothing_is_known():
    """After the local model's training, which comes in the middle of streams; or with another number of lanes."""
    detect, nobody = Detect(), torch.zeros(B, dtype=torch.bool)
    Carried().uncertainty_of(streams(1, 2, 3, 4), nobody, detect)
    carried = Carried()
    carried.uncertainty_of(streams(1, 2), torch.ones(2, dtype=torch.bool), detect)
    carried.uncertainty_of(streams(1, 2, 3, 4), nobody, detect)
    assert [len(call) for call in detect.calls] == [4, 2, 4]


def test_streams_of_another_length_leave_nothing_behind():
    """Of an ended stream of nine steps, the last three would be chosen in the one of six that follows."""
    carried, detect, all_new = Carried(), Detect(), torch.ones(2, dtype=torch.bool)
    carried.uncertainty_of(streams(7, 8, lengths=[9, 5]), all_new, detect)
    found = carried.uncertainty_of(streams(1, 2, lengths=[6, 4]), all_new, detect)
    assert found.tolist() == [[1.0] * 6, [2.0] * 4 + [-math.inf] * 2]
    longer = carried.uncertainty_of(streams(1, 3, lengths=[6, 8]), torch.tensor([False, True]), detect)
    assert longer.tolist() == [[1.0] * 6 + [-math.inf] * 2, [3.0] * 8]
    shorter = carried.uncertainty_of(streams(4, 3, lengths=[5, 8]), torch.tensor([True, False]), detect)
    assert shorter.tolist() == [[4.0] * 5 + [-math.inf] * 3, [3.0] * 8]


def test_a_lane_that_does_not_go_on_as_expected_begins():
    """Another stream, or another step of the same; it went on with what a stranger had left."""
    carried, nobody = Carried(), torch.zeros(B, dtype=torch.bool)
    ids, starts = ["a", "b", "c", "d"], torch.tensor([0, 3, 6, 9])
    assert carried.begins(ids, starts, 3, nobody).all(), "nothing is expected yet"
    assert not carried.begins(ids, starts + 3, 3, nobody).any()
    assert torch.equal(carried.begins(ids, starts + 6, 3, SOME), SOME), "those that say so"
    cut = carried.begins(["a", "x", "c", "d"], starts + torch.tensor([9, 9, 12, 9]), 3, nobody)
    assert cut.tolist() == [False, True, True, False]
    assert carried.begins(ids[:3], starts[:3] + 12, 3, nobody[:3]).all(), "another number of lanes"


def test_it_goes_on_from_a_file():
    carried, detect = held(), Detect()
    ids, starts = ["s-1", "s-2", "s-3", "s-4"], torch.arange(B)
    carried.begins(ids, starts, 3, torch.ones(B, dtype=torch.bool))
    carried.uncertainty_of(streams(1, 2, 3, 4), torch.ones(B, dtype=torch.bool), detect)
    file = io.BytesIO()
    torch.save(carried.state_dict(), file)
    file.seek(0)
    other = Carried()
    other.load_state_dict(torch.load(file, weights_only=True))
    assert all(torch.equal(a, b) for a, b in zip(other.state.values(), carried.state.values(), strict=True))
    assert not other.begins(ids, starts + 3, 3, torch.zeros(B, dtype=torch.bool)).any()
    again = other.uncertainty_of(streams(1, 2, 3, 4), torch.zeros(B, dtype=torch.bool), detect)
    assert torch.equal(again, carried.uncertainty)
    assert len(detect.calls) == 1
