"""Detectors: the local model's entropy, the followers' surprise, the scored steps; piece by piece as in one pass."""

import math

import pytest
import torch
from toy_memory import CPU, Held, Raw, make_network, seeded, vectors

from lightning_modules.memory import detectors
from lightning_modules.memory.detectors import (
    EntropyDetector,
    OracleDetector,
    SurpriseDetector,
)
from lightning_modules.memory.encoders import SymbolEncoder
from lightning_modules.memory.local_model import LocalModel
from lightning_modules.memory.questions import IGNORE, Classes, Numbers
from lightning_modules.metrics.memory import SavedTensors

T, F = 23, 3
LENGTHS = [23, 9, 17]


def lanes_of(numbers=False):
    lanes = vectors(3, T, lengths_B=LENGTHS)
    asked = torch.rand(3, T, generator=seeded(5)) < 0.8
    if numbers:
        drawn = torch.randn(3, T, dtype=torch.float64, generator=seeded(6))
        lanes.y_BT = drawn.masked_fill(~asked, math.nan)
    else:
        lanes.y_BT = lanes.y_BT.masked_fill(~asked, IGNORE)
    return lanes, asked & (torch.arange(T) < lanes.lengths_B[:, None])


def local_model(window=2, outputs=5):
    torch.manual_seed(0)
    return LocalModel(F, window, 6, outputs).double()


def padded(x_TF, window):
    return torch.cat([x_TF.new_zeros(window - 1, F), x_TF])[None]


def in_pieces(monkeypatch, steps):
    """Read pieces of so many steps."""
    monkeypatch.setattr(detectors, "PIECE", steps)
    monkeypatch.setattr(detectors, "WORK", 1, raising=False)


@pytest.mark.parametrize("window", [1, 3])
def test_entropy_is_that_of_the_local_model_at_every_step_that_asks(window):
    (lanes, asked), model = lanes_of(), local_model(window)
    found = EntropyDetector(model, Classes(5))(Raw(F), lanes, CPU)
    assert torch.equal(found == -math.inf, ~asked)
    for lane in range(3):
        p = model(padded(lanes.x_BT[lane], window))[0].softmax(-1)
        want = -(p * p.log()).sum(-1).float()
        torch.testing.assert_close(found[lane][asked[lane]], want[asked[lane]])


def test_entropy_of_numbers():
    (lanes, asked), model = lanes_of(numbers=True), local_model(outputs=2)
    found = EntropyDetector(model, Numbers())(Raw(F), lanes, CPU)
    spread = (model(padded(lanes.x_BT[2], 2))[0, :, 1] / 2).exp()
    want = torch.distributions.Normal(0.0, spread).entropy().float()
    torch.testing.assert_close(found[2][asked[2]], want[asked[2]])
    assert torch.equal(found == -math.inf, ~asked)


@pytest.mark.parametrize("memory", ["lstm", "gru", "transformer"])
@pytest.mark.parametrize("numbers", [False, True])
def test_surprise_is_the_followers_loss_at_the_step_from_their_own_memory(memory, numbers):
    lanes, asked = lanes_of(numbers)
    question = Numbers() if numbers else Classes(5)
    network = make_network(memory, window=2, layers=2, outputs=question.outputs)
    found = SurpriseDetector(network, question)(Raw(F), lanes, CPU)
    assert torch.equal(found == -math.inf, ~asked)
    for lane in range(3):
        outputs, *_ = network.at_each_step(padded(lanes.x_BT[lane], 2), network.memory.initial(1, lanes.x_BT))
        want = question.loss(outputs[0], lanes.y_BT[lane]).float()
        torch.testing.assert_close(found[lane][asked[lane]], want[asked[lane]])


@pytest.mark.parametrize("steps", [1, 5, 23, 64])
@pytest.mark.parametrize("made", ["entropy", "surprise"])
def test_pieces_change_nothing(made, steps, monkeypatch):
    (lanes, _), question = lanes_of(), Classes(5)
    network = make_network("transformer", window=3, layers=2, transformer_window=4)
    detector = EntropyDetector(local_model(3), question) if made == "entropy" else SurpriseDetector(network, question)
    whole = detector(Raw(F), lanes, CPU)
    in_pieces(monkeypatch, steps)
    lanes.asked.clear()
    torch.testing.assert_close(detector(Raw(F), lanes, CPU), whole)
    assert len(lanes.asked) == -(-T // steps)


def test_of_a_stream_one_number_a_step_is_kept():
    """Ten times the stream: what is read at once stays, and nothing is held for a gradient."""
    held = []
    for steps in (10_000, 100_000):
        x = torch.randint(4, (2, steps), generator=seeded(0))
        lanes, model = Held(x, x), LocalModel(4, 1, 6, 4)
        with SavedTensors.measure(model) as meter:
            found = EntropyDetector(model, Classes(4))(SymbolEncoder(4), lanes, CPU)
        held.append((meter.peak_bytes, max(steps.numel() for steps in lanes.asked)))
        assert found.shape == (2, steps)
        assert not found.requires_grad
    assert held[0] == held[1]
    assert held[0][0] == 0


def test_the_oracle_knows_the_scored_steps():
    lanes = vectors(3, T, lengths_B=LENGTHS, answers_BA=[[3, 22], [8, -1], [0, 16]])
    found = OracleDetector(Classes(5))(Raw(F), lanes, CPU)
    assert [row.nonzero().flatten().tolist() for row in found == 0] == [[3, 22], [8], [0, 16]]
    assert ((found == 0) | (found == -math.inf)).all()
    assert found.shape == (3, T)


def test_the_oracle_refuses_scored_steps_without_a_target():
    lanes = vectors(2, T, answers_BA=[[3, 22], [8, -1]])
    lanes.y_BT[0, 22] = IGNORE
    with pytest.raises(ValueError, match="targets are missing at 1 of 3 chosen steps, the first at step 22"):
        OracleDetector(Classes(5))(Raw(F), lanes, CPU)


@pytest.mark.parametrize("made", ["entropy", "surprise", "oracle"])
def test_of_streams_without_targets_nothing_can_be_chosen(made):
    """No error: a mixed data set has some, and whether all are of that kind is not for a stream to tell."""
    lanes, question = vectors(3, T, answers_BA=[[-1]] * 3), Classes(5)
    lanes.y_BT[:] = IGNORE
    detector = {
        "entropy": EntropyDetector(local_model(), question),
        "surprise": SurpriseDetector(make_network(), question),
        "oracle": OracleDetector(question),
    }[made]
    found = detector(Raw(F), lanes, CPU)
    assert found.shape == (3, T)
    assert (found == -math.inf).all()


@pytest.mark.parametrize("made", ["entropy", "surprise"])
def test_weights_that_diverged_are_said(made):
    lanes, question = vectors(3, T), Classes(5)
    model, network = local_model(), make_network()
    with torch.no_grad():
        model.head.bias[0] = math.nan
        network.embedding.bias[0] = math.nan
    detector = EntropyDetector(model, question) if made == "entropy" else SurpriseDetector(network, question)
    with pytest.raises(ValueError, match="is not a number: the weights have diverged"):
        detector(Raw(F), lanes, CPU)
