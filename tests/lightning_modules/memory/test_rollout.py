"""A rollout's loss and its gradients against loops over lanes, moments and steps; what it reads, and what it holds."""

import math

import pytest
import torch
from toy_memory import CPU, Held, Raw, make_network, seeded, vectors

from lightning_modules.memory.candidates import candidates_of
from lightning_modules.memory.encoders import SymbolEncoder
from lightning_modules.memory.questions import IGNORE, Classes, Numbers
from lightning_modules.memory.reading import read_run
from lightning_modules.memory.recurrent import detached
from lightning_modules.memory.rollout import each_step_loss, memup_loss
from lightning_modules.memory.selectors import Composite, CurrentStep, GumbelTopK, TopK
from lightning_modules.metrics.memory import SavedTensors

T, R, K, F, H = 14, 5, 3, 3, 4
STARTS, LENGTHS = [0, 4, 10, 10], [5, 5, 4, 0]  # begins; in the middle; a stream's short end; a stream that is over


def state_of(network, lanes=4, seed=3):
    zeros = network.memory.initial(lanes, torch.zeros(1))
    return {
        name: torch.randn(z.shape, dtype=z.dtype, generator=seeded(seed + i))
        for i, (name, z) in enumerate(zeros.items())
    }


def by_cells(network, x_NF, state):
    """Memories after each step of one lane, from the published equations."""
    p = {name.removesuffix("_l0"): value for name, value in network.memory.network.named_parameters()}
    h, c, memories = state["h"][0], state.get("c", [None])[0], []
    for x in x_NF:
        e = network.embedding.weight @ x + network.embedding.bias
        from_x, from_h = p["weight_ih"] @ e + p["bias_ih"], p["weight_hh"] @ h + p["bias_hh"]
        if network.memory.kind == "lstm":
            i, f, g, o = (from_x + from_h).chunk(4)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
        else:
            (x_r, x_z, x_n), (h_r, h_z, h_n) = from_x.chunk(3), from_h.chunk(3)
            keep = (x_z + h_z).sigmoid()
            h = keep * h + (1 - keep) * (x_n + (x_r + h_r).sigmoid() * h_n).tanh()
        memories.append(h)
    return memories


def said(network, x_TF, k, memory_H):
    """What one memory says of step k, from the steps before k that its local context sees."""
    window = network.context.window
    seen = torch.stack([x_TF[s] if s >= 0 else torch.zeros_like(x_TF[0]) for s in range(k - window + 1, k + 1)])
    return network.predictor(network.context(seen[None])[0, 0], memory_H)


def most_uncertain(uncertainty_T, first, k):
    """The k most uncertain steps from `first` on, of equals the earliest."""
    left = [s for s in range(first, len(uncertainty_T)) if uncertainty_T[s] > -math.inf]
    return sorted(left, key=lambda s: (-uncertainty_T[s], s))[:k]


def with_current(chosen, moment, uncertainty_T, current):
    """Chosen steps, and the moment's own where it is asked for, can be chosen and is not there yet."""
    return chosen + [moment] * (current and moment not in chosen and bool(uncertainty_T[moment] > -math.inf))


def by_hand(network, lanes, state, moments, uncertainty_BT, loss, k=K, current=False):
    """MemUP's loss as sums over lanes, moments and chosen steps, and the rollout's own steps among the chosen."""
    terms = []
    for b, (start, length) in enumerate(zip(STARTS, LENGTHS, strict=True)):
        x_TF, y_T = lanes.x_BT[b], lanes.y_BT[b]
        memories = by_cells(network, x_TF[start : start + length], {name: part[b] for name, part in state.items()})
        pairs = [
            (t, chosen)
            for t in (start + min(m, length - 1) for m in moments if length)
            for chosen in with_current(most_uncertain(uncertainty_BT[b].tolist(), t, k), t, uncertainty_BT[b], current)
        ]
        own = most_uncertain(uncertainty_BT[b].tolist(), start, k)
        pairs += [(s, s) for s in own if s < start + length]
        terms += [loss(said(network, x_TF, s, memories[t - start]), y_T[s]) for t, s in pairs]
    return torch.stack(terms).mean()


def cross_entropy(outputs, target):
    return torch.nn.functional.cross_entropy(outputs[None], target[None])


def squared_error(outputs, target):
    return (outputs[0] - target) ** 2


def rolled(network, lanes, state, uncertainty_BT, *, moments=(1, 3, 4), selector=None, question=None, **options):
    start_B, length_B = torch.tensor(STARTS), torch.tensor(LENGTHS)
    run = read_run(Raw(F), lanes, start_B, R, CPU, network.context.window - 1)
    return memup_loss(
        network,
        Raw(F),
        question or Classes(5),
        selector or TopK(K),
        lanes=lanes,
        run=run,
        state=state,
        start_B=start_B,
        length_B=length_B,
        moments_M=torch.tensor(moments),
        uncertainty=uncertainty_BT,
        **options,
    )


def uncertainties(lanes=4, steps=T, seed=7):
    """Different at every step, and -inf at some."""
    drawn = torch.rand(lanes, steps, generator=seeded(seed))
    return drawn.masked_fill(torch.rand(lanes, steps, generator=seeded(seed + 1)) < 0.15, -math.inf)


def gradients(network, loss):
    return dict(
        zip(dict(network.named_parameters()), torch.autograd.grad(loss, list(network.parameters())), strict=True)
    )


@pytest.mark.parametrize("window", [1, 3])
@pytest.mark.parametrize("memory", ["lstm", "gru"])
def test_memup_and_its_gradients_are_those_of_loops_over_lanes_moments_and_steps(memory, window):
    network, lanes, uncertainty_BT = make_network(memory, window=window), vectors(4, T), uncertainties()
    state = state_of(network)
    found = rolled(network, lanes, state, uncertainty_BT)
    want = by_hand(network, lanes, state, (1, 3, 4), uncertainty_BT, cross_entropy)
    torch.testing.assert_close(found.loss, want)
    torch.testing.assert_close(gradients(network, found.loss), gradients(network, want))


def test_a_composite_predicts_the_rollouts_own_steps_among_the_k_of_its_top_k():
    """They were those among K + 1: the moment's own step counted as one more to look for."""
    network, lanes = make_network(), vectors(4, T)
    uncertainty_BT = -torch.arange(float(T)).expand(4, T)  # of four steps of a rollout three are among the three
    state = state_of(network)
    selector = Composite([TopK(K), CurrentStep()])
    found = rolled(network, lanes, state, uncertainty_BT, selector=selector)
    want = by_hand(network, lanes, state, (1, 3, 4), uncertainty_BT, cross_entropy, current=True)
    torch.testing.assert_close(found.loss, want)
    torch.testing.assert_close(gradients(network, found.loss), gradients(network, want))


def test_the_candidates_of_streams_serve_as_their_uncertainties_do():
    network, lanes, uncertainty_BT = make_network(), vectors(4, T), uncertainties()
    candidates = candidates_of(iter(uncertainty_BT.split(5, 1)), K)
    kept, whole = (rolled(network, lanes, state_of(network), known) for known in (candidates, uncertainty_BT))
    assert torch.equal(kept.chosen.steps_BMK, whole.chosen.steps_BMK)
    assert torch.equal(kept.chosen.valid_BMK, whole.chosen.valid_BMK)
    torch.testing.assert_close(gradients(network, kept.loss), gradients(network, whole.loss))


def test_numbers_are_asked_by_squared_error():
    network, lanes, uncertainty_BT = make_network(outputs=1), vectors(4, T), uncertainties()
    lanes.y_BT = torch.randn(4, T, dtype=torch.float64, generator=seeded(5))
    state = state_of(network)
    found = rolled(network, lanes, state, uncertainty_BT, question=Numbers())
    want = by_hand(network, lanes, state, (1, 3, 4), uncertainty_BT, squared_error)
    torch.testing.assert_close(found.loss, want)
    torch.testing.assert_close(gradients(network, found.loss), gradients(network, want))
    assert found.right is None


def test_no_gradient_goes_back_beyond_the_rollout_once_the_state_is_carried():
    """With the state's graph the same loss would change the weights otherwise."""
    network, lanes = make_network(), vectors(4, T)
    before, state = network.remember(lanes.x_BT[:, :3], network.memory.initial(4, lanes.x_BT))
    assert before.requires_grad
    cut = gradients(network, rolled(network, lanes, detached(state), uncertainties()).loss)
    whole = gradients(network, rolled(network, lanes, state, uncertainties()).loss)
    copied = {name: part.detach().clone() for name, part in state.items()}
    torch.testing.assert_close(cut, gradients(network, rolled(network, lanes, copied, uncertainties()).loss))
    assert not torch.allclose(cut["embedding.weight"], whole["embedding.weight"])


def test_the_chosen_steps_are_the_golden_ones():
    """methods.md section 6: u = .1 .9 .3 .8 .2 .7 .05 .6, K = 3, from the memory of each of six moments."""
    u = torch.tensor([[0.1, 0.9, 0.3, 0.8, 0.2, 0.7, 0.05, 0.6]])
    network, lanes = make_network(), vectors(1, 8)
    run = read_run(Raw(F), lanes, torch.tensor([0]), 6, CPU)
    found = memup_loss(
        network,
        Raw(F),
        Classes(5),
        TopK(3),
        lanes=lanes,
        run=run,
        state=network.memory.initial(1, lanes.x_BT),
        start_B=torch.tensor([0]),
        length_B=torch.tensor([6]),
        moments_M=torch.arange(6),
        uncertainty=u,
    )
    golden = [{1, 3, 5}, {1, 3, 5}, {3, 5, 7}, {3, 5, 7}, {4, 5, 7}, {5, 6, 7}]
    assert [set(steps) for steps in found.chosen.steps_BMK[0].tolist()] == golden
    assert found.chosen.valid_BMK.all()


def test_where_fewer_than_k_are_left_the_mean_is_of_those():
    """The last moment of a stream's last rollout has one step left; the two invalid ones weigh nothing."""
    network, lanes, uncertainty_BT = make_network(), vectors(4, T), uncertainties()
    uncertainty_BT[2, :13], uncertainty_BT[2, 13] = -math.inf, 0.5
    state = state_of(network)
    found = rolled(network, lanes, state, uncertainty_BT, moments=(4,))
    assert found.chosen.valid_BMK[:, 0].sum(-1).tolist() == [3, 3, 1, 0]
    torch.testing.assert_close(found.loss, by_hand(network, lanes, state, (4,), uncertainty_BT, cross_entropy))


def test_the_share_of_right_answers_is_of_what_was_predicted():
    network, lanes, uncertainty_BT = make_network(), vectors(4, T), uncertainties()
    state = state_of(network)
    found = rolled(network, lanes, state, uncertainty_BT)
    right = by_hand(network, lanes, state, (1, 3, 4), uncertainty_BT, lambda o, y: (o.argmax() == y).double())
    assert found.right.item() == pytest.approx(right.item())
    assert 0 < right.item() < 1


def test_nothing_left_to_predict_is_no_loss():
    network, lanes = make_network(), vectors(4, T)
    found = rolled(network, lanes, state_of(network), torch.full((4, T), -math.inf))
    assert found.loss is None
    assert set(found.state) == {"h", "c"}


def symbol_lanes(steps):
    x = torch.randint(5, (4, steps), generator=seeded(2))
    return Held(x, torch.randint(5, (4, steps), generator=seeded(3)))


def symbols_rolled(steps, selector):
    """A rollout from step 8 on, in float32, with questions at the streams' ends."""
    network, lanes = make_network(features=5, window=2).float(), symbol_lanes(steps)
    start_B, length_B = torch.full((4,), 8), torch.full((4,), R)
    uncertainty_BT = torch.rand(4, steps, generator=seeded(4)) / 2
    uncertainty_BT[:, -K:] += 1
    encoder = SymbolEncoder(5)
    with SavedTensors.measure(network) as meter:
        run = read_run(encoder, lanes, start_B, R, CPU, 1)
        found = memup_loss(
            network,
            encoder,
            Classes(5),
            selector,
            lanes=lanes,
            run=run,
            state=network.memory.initial(4, run.features),
            start_B=start_B,
            length_B=length_B,
            moments_M=torch.tensor([2, 4]),
            uncertainty=uncertainty_BT,
            generator=seeded(0),
        )
        held = meter.live_bytes
        found.loss.backward()
    return lanes, found, held, meter.peak_bytes


def test_the_graph_holds_nothing_between_a_moment_and_its_chosen_steps():
    (_, _, held, peak), (_, _, held_far, peak_far) = (symbols_rolled(steps, TopK(K)) for steps in (100, 10_000))
    assert held_far == held > 0
    assert peak_far == peak > 0


@pytest.mark.parametrize("selector", [TopK(K), GumbelTopK(K), CurrentStep(), Composite([TopK(K), CurrentStep()])])
def test_steps_between_are_not_read(selector):
    """Each read step is one of the rollout, or a chosen one, or one before either that its local context sees."""
    lanes, found, *_ = symbols_rolled(10_000, selector)
    for lane in range(4):
        read = {step for steps in lanes.asked for step in steps[lane].tolist()}
        chosen = set(found.chosen.steps_BMK[lane].flatten().tolist())
        assert read == set(range(7, 8 + R)) | {s - back for s in chosen for back in (0, 1)}


def test_moments_that_choose_the_same_steps_read_them_once():
    lanes, found, *_ = symbols_rolled(10_000, TopK(K))
    assert (found.chosen.steps_BMK[:, 0] == found.chosen.steps_BMK[:, 1]).all()
    assert sum(steps.shape[1] for steps in lanes.asked) == R + 1 + 2 * K


def test_a_chosen_step_without_a_target_is_refused():
    lanes, uncertainty_BT = vectors(4, T), torch.zeros(4, T)
    uncertainty_BT[:, 12] = 1.0
    lanes.y_BT[1, 12] = IGNORE
    network = make_network()
    message = r"targets are missing at 3 of \d+ chosen steps, the first at step 12: .* --model.detector entropy"
    with pytest.raises(ValueError, match=message):
        rolled(network, lanes, state_of(network), uncertainty_BT)


def test_a_draw_is_the_generators():
    network, lanes, uncertainty_BT = make_network(), vectors(4, T), uncertainties()
    once, again, other = (
        rolled(network, lanes, state_of(network), uncertainty_BT, selector=GumbelTopK(K), generator=seeded(seed)).chosen
        for seed in (0, 0, 1)
    )
    assert torch.equal(once.steps_BMK, again.steps_BMK)
    assert not torch.equal(once.steps_BMK, other.steps_BMK)


def one_pass(network, lanes, cuts=()):
    """The sum of losses of all steps of whole streams by torch's own modules, the state cut before the steps `cuts`."""
    state, total = network.memory.initial(len(lanes.ids), lanes.x_BT), 0.0
    padded = torch.nn.functional.pad(lanes.x_BT, (0, 0, network.context.window - 1, 0))
    for step in range(lanes.y_BT.shape[1]):
        state = detached(state) if step in cuts else state
        memory, state = network.memory(network.embedding(lanes.x_BT[:, step : step + 1]), state)
        context = network.context(padded[:, step : step + network.context.window])
        outputs = network.predictor(context[:, 0], memory[:, 0])
        total = total + torch.nn.functional.cross_entropy(
            outputs, lanes.y_BT[:, step], ignore_index=IGNORE, reduction="sum"
        )
    return total


@pytest.mark.parametrize("rollout", [4, T, T + 3])
@pytest.mark.parametrize("memory", ["lstm", "gru", "transformer"])
def test_truncated_backprop_is_autograd_with_the_state_cut_between_rollouts(memory, rollout):
    """A rollout as long as the streams is full backprop through time: nothing is cut."""
    network, lanes, state = make_network(memory, window=2, layers=2), vectors(3, T), None
    lanes.y_BT[torch.rand(3, T, generator=seeded(9)) < 0.3] = IGNORE
    total = 0.0
    for start in range(0, T, rollout):
        start_B, length_B = torch.full((3,), start), torch.full((3,), min(rollout, T - start))
        run = read_run(Raw(F), lanes, start_B, rollout, CPU, 1)
        state = network.memory.initial(3, lanes.x_BT) if state is None else detached(state)
        found = each_step_loss(network, Classes(5), run=run, state=state, length_B=length_B)
        asked = (lanes.y_BT[:, start : start + rollout] != IGNORE).sum()
        total, state = total + found.loss * asked, found.state
    want = one_pass(network, lanes, cuts=range(0, T, rollout))
    torch.testing.assert_close(total, want)
    wanted = gradients(network, want)
    torch.testing.assert_close(gradients(network, total), wanted)
    whole = gradients(network, one_pass(network, lanes))["embedding.weight"]
    assert torch.allclose(whole, wanted["embedding.weight"]) == (rollout >= T), "the cut is seen in the gradient"


def test_a_lane_that_is_over_teaches_nothing():
    network, lanes = make_network(), vectors(2, T)
    run = read_run(Raw(F), lanes, torch.tensor([0, 10]), R, CPU)
    state = network.memory.initial(2, lanes.x_BT)
    both = each_step_loss(network, Classes(5), run=run, state=state, length_B=torch.tensor([3, 0])).loss
    alone = lanes.only(torch.tensor([0]))
    run = read_run(Raw(F), alone, torch.tensor([0]), 3, CPU)
    one = each_step_loss(
        network, Classes(5), run=run, state=network.memory.initial(1, run.features), length_B=torch.tensor([3])
    )
    torch.testing.assert_close(both, one.loss)
