"""Steps read as features: runs and windows agree, whatever the encoder needs before or after a step."""

import pytest
import torch
from toy_memory import CPU, Held, Raw, seeded, vectors

from lightning_modules.memory.encoders import FrameEncoder
from lightning_modules.memory.questions import IGNORE, Classes
from lightning_modules.memory.reading import read_run, read_windows
from lightning_modules.networks import build_network

T, F = 9, 3
LENGTHS = [9, 6]


def vector_case():
    return Raw(F), vectors(2, T, lengths_B=LENGTHS)


def frame_case(kind, wiring):
    torch.manual_seed(0)
    network = build_network("small_cnn", num_classes=7, in_channels=1, wiring=wiring, depth=4, width=0.25, pool="max")
    frames = torch.rand(2, T, 1, 8, 8, dtype=torch.float64, generator=seeded(1))
    lanes = Held(frames, torch.randint(5, (2, T), generator=seeded(2)), lengths_B=LENGTHS)
    return FrameEncoder(network.double(), kind, Classes(5)), lanes


CASES = {
    "vectors": vector_case,
    "per frame": lambda: frame_case("detached", "dense"),
    **{f"sideways {wiring}": lambda w=wiring: frame_case("sideways", w) for wiring in ("chain", "concat", "dense")},
}


@pytest.mark.parametrize("case", CASES)
def test_a_run_from_anywhere_is_a_part_of_the_whole(case):
    """A pipeline begins anew with each run, and says the same of a step: of its frame and those just after it."""
    encoder, lanes = CASES[case]()
    whole = read_run(encoder, lanes, torch.tensor([0, 0]), T, CPU)
    run = read_run(encoder, lanes, torch.tensor([4, 1]), 3, CPU, before=1)
    for lane, start in enumerate((4, 1)):
        torch.testing.assert_close(run.features[lane], whole.features[lane, start - 1 : start + 3])
        assert torch.equal(run.targets[lane], whole.targets[lane, start : start + 3])
        assert torch.equal(run.inside[lane], whole.inside[lane, start : start + 3])


@pytest.mark.parametrize("case", CASES)
def test_windows_are_parts_of_the_whole(case):
    encoder, lanes = CASES[case]()
    whole = read_run(encoder, lanes, torch.tensor([0, 0]), T, CPU, before=2)
    steps = torch.tensor([[8, 0, 3, 3], [5, 1, 0, 4]])
    windows = read_windows(encoder, lanes, steps, 3, CPU)
    for lane in range(2):
        for j, step in enumerate(steps[lane].tolist()):
            torch.testing.assert_close(windows.features[4 * lane + j], whole.features[lane, step : step + 3])
            assert windows.targets[lane, j] == whole.targets[lane, step]
    assert windows.inside.all()


@pytest.mark.parametrize("case", CASES)
def test_outside_a_stream_features_are_0_and_nothing_is_asked(case):
    encoder, lanes = CASES[case]()
    run = read_run(encoder, lanes, torch.tensor([0, 4]), T, CPU, before=2)
    assert not run.features[0, :2].any()
    assert run.features[1, :4].any(-1).all()
    assert not run.features[1, 4:].any()
    assert run.inside.tolist() == [[True] * 9, [True] * 2 + [False] * 7]
    assert (run.targets[1, 2:] == IGNORE).all()
    windows = read_windows(encoder, lanes, torch.tensor([[1], [7]]), 3, CPU)
    assert windows.features.any(-1).tolist() == [[False, True, True], [True, False, False]]
    assert windows.inside.tolist() == [[True], [False]]


def test_only_what_is_needed_is_read():
    encoder, lanes = CASES["sideways chain"]()
    read_run(encoder, lanes, torch.tensor([2, 0]), 3, CPU, before=1)
    read_windows(encoder, lanes, torch.tensor([[6, 3], [1, 2]]), 2, CPU)
    run, windows = lanes.asked
    assert run.tolist() == [list(range(1, 8)), list(range(-1, 6))], "three frames after the last"
    assert windows.tolist() == [[*range(5, 10), *range(2, 7)], [*range(5), *range(1, 6)]]
