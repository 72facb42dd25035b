"""Candidates: what TopK chooses of them is what it chooses of the whole stream; few are kept, and piece by piece."""

import io
import math

import pytest
import torch
from lightning import seed_everything
from lightning.pytorch.callbacks import Callback
from test_action_recognition import same, trainer
from toy_memory import CPU, Raw, Recall, make_network, seeded, vectors

from datamodules.copy_sequences import CopySequences
from lightning_modules.long_memory import LongMemory
from lightning_modules.memory import candidates as module
from lightning_modules.memory import detectors, rollout
from lightning_modules.memory.candidates import Candidates, candidates_of, choose
from lightning_modules.memory.carried import Carried
from lightning_modules.memory.detectors import EntropyDetector, OracleDetector, SurpriseDetector
from lightning_modules.memory.local_model import LocalModel
from lightning_modules.memory.moments import prediction_moments
from lightning_modules.memory.questions import IGNORE, Classes
from lightning_modules.memory.reading import read_run
from lightning_modules.memory.selectors import Composite, CurrentStep, GumbelTopK, TopK


def drawn(generator, lanes, steps, levels, nothing, short):
    """Uncertainties of few levels, of which many are equal and some -inf; lanes may end early."""
    levels_L = torch.cat([torch.randn(levels, generator=generator), torch.tensor([0.0, -0.0])])
    u_BT = levels_L[torch.randint(levels + 2, (lanes, steps), generator=generator)]
    u_BT = u_BT.masked_fill(torch.rand(lanes, steps, generator=generator) < nothing, -math.inf)
    lengths_B = torch.randint(steps + 1, (lanes,), generator=generator) if short else torch.full((lanes,), steps)
    return u_BT.masked_fill(torch.arange(steps) >= lengths_B[:, None], -math.inf)


def number(generator, low, high):
    return int(torch.randint(low, high + 1, (), generator=generator))


def equal(a, b):
    return torch.equal(a.valid_BMK, b.valid_BMK) and torch.equal(a.steps_BMK, b.steps_BMK)


def runs(found, lane):
    """Value, first and last step of a lane's runs."""
    parts = zip(*(part[lane].tolist() for part in (found.value_BS, found.first_BS, found.last_BS)), strict=True)
    return [run for run in parts if run[1] >= 0]


def by_definition(u_T, k):
    """Steps that fewer than k later ones beat."""
    return [
        step
        for step, value in enumerate(u_T)
        if value > -math.inf and sum(later > value for later in u_T[step + 1 :]) < k
    ]


@pytest.mark.parametrize("levels", [1, 2, 5, 1000])
@pytest.mark.parametrize("short", [False, True])
def test_the_same_steps_are_chosen_from_every_moment_in_the_same_order(levels, short):
    generator = seeded(levels)
    for trial in range(150):
        lanes, steps = number(generator, 1, 4), number(generator, 1, 40)
        k = number(generator, 1, min(steps, 9))
        u_BT = drawn(generator, lanes, steps, levels, (0, 0.3, 0.9)[trial % 3], short)
        found = candidates_of(u_BT.split(number(generator, 1, steps), 1), k)
        moments_BM = torch.arange(steps + 2).expand(lanes, -1)
        for fewer in {1, k}:
            assert equal(choose(found, TopK(fewer), moments_BM), TopK(fewer)(u_BT, moments_BM)), (u_BT, fewer)


def test_what_is_kept_is_what_the_definition_says():
    generator = seeded(3)
    for _ in range(100):
        k, u_BT = number(generator, 1, 6), drawn(generator, 3, 30, 3, 0.2, True)
        found = candidates_of(u_BT.split(7, 1), k)
        for lane, u_T in enumerate(u_BT.tolist()):
            kept = [(step, value) for value, first, last in runs(found, lane) for step in range(first, last + 1)]
            assert kept == [(step, u_T[step]) for step in by_definition(u_T, k)]


def test_the_example_above_the_code():
    u_1T = torch.tensor([[0.1, 0.9, 0.3, 0.3, 0.3, 0.8, 0.2, 0.7]])
    assert [run[1:] for run in runs(candidates_of([u_1T], 2), 0)] == [(1, 1), (5, 5), (6, 6), (7, 7)]
    assert [run[1:] for run in runs(candidates_of([u_1T], 3), 0)] == [(1, 1), (2, 4), (5, 5), (6, 6), (7, 7)]


@pytest.mark.parametrize("compared", [1, 10_000])
def test_pieces_and_blocks_change_nothing(compared, monkeypatch):
    u_BT = drawn(seeded(1), 5, 300, 6, 0.3, True)
    whole = candidates_of([u_BT], 4).state_dict()
    monkeypatch.setattr(module, "COMPARED", compared)
    for steps in (1, 2, 50, 299):
        again = candidates_of(u_BT.split(steps, 1), 4).state_dict()
        assert again.pop("k") == whole["k"]
        assert all(torch.equal(part, whole[name]) for name, part in again.items())


def test_few_of_many_steps_are_kept():
    """In random order K (1 + ln(T / K)) on average, K where they rise; equal ones are one run at any length."""
    k, steps = 10, 20_000
    random = candidates_of(torch.rand(8, steps, generator=seeded()).split(64, 1), k)
    expected = k * (1 + math.log(steps / k))
    assert (random.value_BS > -math.inf).sum(1).float().mean() == pytest.approx(expected, rel=0.1)
    assert candidates_of([torch.arange(500.0)[None]], k).value_BS.shape == (1, k)
    blanks = torch.zeros(2, steps)
    blanks[:, -3:] = torch.tensor([1.0, 3.0, 2.0])
    assert runs(candidates_of(blanks.split(64, 1), k), 0)[0] == (0.0, 0, steps - 4)
    assert len(runs(candidates_of(blanks.split(64, 1), k), 0)) == 4


def test_no_more_than_a_piece_and_the_candidates_are_held(monkeypatch):
    """Comparisons of a long piece with itself too."""
    widths, compare = [], module._followed

    def watched(held, block_BN, *rest):
        widths.append(held.value_BS.shape[1] + block_BN.shape[1] ** 2 * len(block_BN))
        return compare(held, block_BN, *rest)

    monkeypatch.setattr(module, "_followed", watched)
    candidates_of(torch.rand(1, 40_000, generator=seeded()).split(2048, 1), 4)
    assert max(widths) < module.COMPARED + 200


@pytest.mark.parametrize("nothing", [0.0, 1.0])
def test_streams_shorter_than_k_and_streams_that_ask_nothing(nothing):
    u_BT = drawn(seeded(), 2, 5, 3, nothing, False)
    chosen = candidates_of([u_BT], 8).choose(TopK(8), torch.tensor([[0, 2, 7]] * 2))
    left = torch.tensor([5, 3, 0]) * (nothing == 0)
    assert torch.equal(chosen.valid_BMK.sum(-1), left.expand(2, 3))
    assert torch.equal(chosen.steps_BMK[..., -1], torch.tensor([[0, 2, 7]] * 2))


@pytest.mark.parametrize("made", ["entropy", "surprise", "oracle"])
def test_a_detectors_pieces_give_the_candidates_of_its_whole(made, monkeypatch):
    monkeypatch.setattr(detectors, "PIECE", 6)
    monkeypatch.setattr(detectors, "WORK", 1)
    lanes = vectors(3, 40, lengths_B=[40, 7, 22], answers_BA=[[3, 39], [6, -1], [0, 6]])
    lanes.y_BT[torch.rand(3, 40, generator=seeded(2)) < 0.3] = IGNORE
    lanes.y_BT.scatter_(1, lanes.answers_BA.clamp_min(6), 1)
    lanes.y_BT[:, [0, 3]] = 1
    torch.manual_seed(0)
    detector = {
        "entropy": EntropyDetector(LocalModel(3, 2, 6, 5).double(), Classes(5)),
        "surprise": SurpriseDetector(make_network(window=2), Classes(5)),
        "oracle": OracleDetector(Classes(5)),
    }[made]
    whole = detector(Raw(3), lanes, CPU)
    assert whole.shape == (3, 40)
    pieces = list(detector.pieces(Raw(3), lanes, CPU))
    assert len(pieces) == 7
    moments_BM = torch.arange(40).expand(3, 40)
    assert equal(candidates_of(pieces, 4).choose(TopK(4), moments_BM), TopK(4)(whole, moments_BM))


@pytest.mark.parametrize("start", [0, 11, 16])
def test_a_rollouts_loss_and_gradients_are_the_same_bits(start):
    """Chosen steps ahead, and the rollout's own ones, by both."""
    generator, own = seeded(start), 0
    for seed in range(5):
        network, lanes = make_network(seed=seed), vectors(4, 20, seed=seed)
        u_BT = drawn(generator, 4, 20, 4, 0.2, False)
        u_BT[:, -1] = 0.5
        losses = []
        for kept in (u_BT, candidates_of(u_BT.split(6, 1), 4)):
            start_B, length_B = torch.full((4,), start), torch.tensor([4, 4, 2, 0])
            run = read_run(Raw(3), lanes, start_B, 4, CPU)
            network.zero_grad()
            found = rollout.memup_loss(
                network,
                Raw(3),
                Classes(5),
                TopK(4),
                lanes=lanes,
                run=run,
                state=network.memory.initial(4, run.features),
                start_B=start_B,
                length_B=length_B,
                moments_M=prediction_moments(4, 2),
                uncertainty=kept,
            )
            found.loss.backward()
            losses.append([found.loss.detach(), *(p.grad.clone() for p in network.parameters())])
            memory_BNH = torch.zeros(4, 4, 4, dtype=torch.float64)
            *_, valid_BK = rollout._own_steps(network, run, memory_BNH, start_B, length_B, 4, kept)
            own += int(valid_BK.sum())
        assert all(torch.equal(a, b) for a, b in zip(*losses, strict=True))
    assert own


def detect(u_BT, k):
    """What `Carried` calls: the lanes' names are their rows."""

    def of(lanes):
        return candidates_of(u_BT[[int(name) for name in lanes.ids]].split(5, 1), k)

    return of


def named(*rows, steps=30):
    return vectors(len(rows), steps, ids=[str(row) for row in rows])


def test_lanes_that_begin_replace_their_candidates_and_no_others():
    u_BT, k = drawn(seeded(4), 6, 30, 50, 0.2, True), 3
    u_BT[0] = torch.arange(30.0, 0, -1)
    carried = Carried(k)
    everyone, some = torch.ones(3, dtype=torch.bool), torch.tensor([True, False, True])
    moments_BM = torch.arange(30).expand(3, 30)
    wide = carried.uncertainty_of(named(0, 1, 2), everyone, detect(u_BT, k))
    assert wide.value_BS.shape[1] == 30
    for new, rows in ((some, (3, 1, 4)), (~some, (3, 0, 4)), (~some, (3, 5, 4)), (~everyone, (3, 5, 4))):
        kept = carried.uncertainty_of(named(*rows), new, detect(u_BT, k))
        assert equal(kept.choose(TopK(k), moments_BM), TopK(k)(u_BT[list(rows)], moments_BM))
        assert kept.value_BS.shape[1] == max(len(runs(kept, lane)) for lane in range(3))
    assert len(carried.uncertainty_of(named(1, 2), torch.zeros(2, dtype=torch.bool), detect(u_BT, k))) == 2


@pytest.mark.parametrize("k", [3, 4])
def test_they_go_on_from_a_file_and_of_another_k_are_found_anew(k):
    u_BT, nobody = drawn(seeded(4), 3, 30, 50, 0.2, True), torch.zeros(3, dtype=torch.bool)
    carried = Carried(3)
    before = carried.uncertainty_of(named(0, 1, 2), nobody, detect(u_BT, 3))
    file = io.BytesIO()
    torch.save(carried.state_dict(), file)
    file.seek(0)
    other = Carried(k)
    other.load_state_dict(torch.load(file, weights_only=True))
    asked = []
    after = other.uncertainty_of(named(0, 1, 2), nobody, lambda lanes: asked.append(1) or detect(u_BT, k)(lanes))
    assert isinstance(after, Candidates)
    assert (len(asked), after.k) == (int(k != 3), k)
    assert k != 3 or all(torch.equal(part, getattr(before, name)) for name, part in vars(after).items() if name != "k")


@pytest.mark.parametrize("selector", [GumbelTopK(2), CurrentStep(), Composite([TopK(2), CurrentStep()])])
def test_other_selectors_are_given_all_steps(selector):
    u_BT, moments_BM = drawn(seeded(), 3, 12, 4, 0.2, False), torch.tensor([[0, 5]] * 3)
    assert equal(choose(u_BT, selector, moments_BM, seeded(1)), selector(u_BT, moments_BM, seeded(1)))


class Losses(Callback):
    """Every update's loss of memory."""

    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, *_):
        if "train/loss" in trainer.callback_metrics:
            self.seen.append(trainer.callback_metrics["train/loss"].item())


OPTIONS = {
    "entropy": {"detector_updates": 4, "predict_every": 2, "k": 4},
    "oracle": {"detector": "oracle", "k": 6},
    "surprise": {"detector": "surprise", "ema_decay": 0.5, "k": 3},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_training_is_the_same_bits_as_with_all_steps_kept(name, tmp_path):
    seen = []
    for everything in (False, True):
        seed_everything(0, verbose=False)
        data = CopySequences(gap=25, symbols=4, batch_size=8, train_streams=16)
        if name == "surprise":
            data = Recall((9, 12, 30, 5, 17, 23, 8, 11), batch_size=4, stagger=False)
        facts = {"num_classes": data.num_classes, "in_channels": data.channels, "input_kind": data.input_kind}
        task = LongMemory(**facts, **OPTIONS[name], rollout=4, hidden=16, context_width=16, predictor_width=16, lr=0.01)
        assert task._carried.k == task.hparams["k"]
        if everything:
            task._carried = Carried()
        data.rollout, losses = task.rollout, Losses()
        trainer(tmp_path, losses, max_epochs=5, max_steps=34, limit_val_batches=0).fit(task, data)
        assert isinstance(task._carried.uncertainty, torch.Tensor) == everything
        seen.append((losses.seen, dict(task.named_parameters())))
    assert seen[0][0] == seen[1][0]
    assert len(seen[0][0]) >= 30
    assert len(set(seen[0][0])) > 20
    assert same(seen[0][1], seen[1][1])


def test_precision_and_recall_are_those_of_the_whole_streams_choices():
    data = CopySequences(gap=9, symbols=4)
    seed_everything(0, verbose=False)
    task = LongMemory(num_classes=data.num_classes, in_channels=data.channels, detector="surprise", k=6)
    lanes = data.source("test").lanes([(0, index) for index in range(5)])
    uncertainty_BT, chosen_BK = task.choices(lanes)
    assert uncertainty_BT.shape == (5, 17)
    hits_B, chosen_B, _ = task.hits(lanes)
    first_B4 = chosen_BK[:, :4]
    assert chosen_B.tolist() == [4] * 5
    assert hits_B.tolist() == [sum(step in range(13, 17) for step in row) for row in first_B4.tolist()]
