"""Selectors against plain Python, golden vectors of methods.md section 6, and the law that Gumbel top-K draws by."""

import itertools
import math
import time

import pytest
import torch

from lightning_modules.memory.selectors import Chosen, Composite, CurrentStep, GumbelTopK, TopK

U = [0.1, 0.9, 0.3, 0.8, 0.2, 0.7, 0.05, 0.6]
NEVER = -math.inf


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def lane(values):
    return torch.tensor([values], dtype=torch.float32)


def kept(chosen):
    """Return, for each lane and moment, the list of its valid steps in their order."""
    return [
        [
            [step for step, valid in zip(steps, valids, strict=True) if valid]
            for steps, valids in zip(lane_steps, lane_valids, strict=True)
        ]
        for lane_steps, lane_valids in zip(chosen.steps_BMK.tolist(), chosen.valid_BMK.tolist(), strict=True)
    ]


def slow_top_k(uncertainty, moments, k):
    """Lane by lane and moment by moment, with a sort."""
    return [
        [sorted((t for t in range(m, len(u)) if u[t] > NEVER), key=lambda t, u=u: (-u[t], t))[:k] for m in lane_moments]
        for u, lane_moments in zip(uncertainty.tolist(), moments.tolist(), strict=True)
    ]


def check_form(chosen, moments, k):
    """What every selector owes: shapes, no step before its moment, none twice, the moment where nothing is chosen."""
    B, M = moments.shape
    assert isinstance(chosen, Chosen)
    assert (chosen.steps_BMK.shape, chosen.steps_BMK.dtype) == ((B, M, k), torch.int64)
    assert (chosen.valid_BMK.shape, chosen.valid_BMK.dtype) == ((B, M, k), torch.bool)
    own = moments[..., None].expand(B, M, k)
    assert bool((chosen.steps_BMK >= own).all())
    assert torch.equal(chosen.steps_BMK[~chosen.valid_BMK], own[~chosen.valid_BMK])
    assert all(len(set(steps)) == len(steps) for steps in itertools.chain(*kept(chosen)))


# Top-K


def test_golden_vectors():
    moments = torch.arange(6)[None]
    chosen = TopK(3)(lane(U), moments, None)
    check_form(chosen, moments, 3)
    assert [set(steps) for steps in kept(chosen)[0]] == [
        {1, 3, 5},
        {1, 3, 5},
        {3, 5, 7},
        {3, 5, 7},
        {4, 5, 7},
        {5, 6, 7},
    ]


def test_the_most_uncertain_stands_first():
    assert kept(TopK(3)(lane(U), torch.tensor([[0, 4]]), None)) == [[[1, 3, 5], [5, 7, 4]]]


@pytest.mark.parametrize("levels", [3, 50, 10**6])
@pytest.mark.parametrize(("lanes", "steps", "k"), [(1, 1, 1), (7, 12, 5), (4, 200, 10), (3, 10, 10)])
def test_top_k_is_the_slow_one(levels, lanes, steps, k):
    """Few levels: many ties. Negative values, steps that can't be chosen, moments in any order, twice, at any place."""
    for seed in range(5):
        generator = seeded(seed)
        u = torch.randint(-levels, levels + 1, (lanes, steps), generator=generator) / levels
        u[torch.rand(lanes, steps, generator=generator) < 0.3] = NEVER
        moments = torch.randint(0, steps, (lanes, 4), generator=generator)
        chosen = TopK(k)(u, moments, None)
        check_form(chosen, moments, k)
        assert kept(chosen) == slow_top_k(u, moments, k)


@pytest.mark.parametrize(("lanes", "steps"), [(128, 1020), (16, 5020)])
def test_top_k_at_the_sizes_of_the_paper(lanes, steps):
    u = torch.rand(lanes, steps, generator=seeded())
    moments = torch.tensor([[9, 19]]) + steps // lanes * torch.arange(lanes)[:, None]
    moments.clamp_(max=steps - 1)
    assert kept(TopK(10)(u, moments, None)) == slow_top_k(u, moments, 10)


def test_equals_go_to_the_earliest():
    assert kept(TopK(3)(torch.zeros(1, 100), torch.tensor([[0, 40, 98]]), None)) == [
        [[0, 1, 2], [40, 41, 42], [98, 99]]
    ]
    zeros = lane([0.0, -0.0, 0.0, -0.0])
    assert kept(TopK(2)(zeros, torch.tensor([[0, 1]]), None)) == [[[0, 1], [1, 2]]]


def test_extremes_keep_their_order():
    u = lane([-1e38, 1e38, NEVER, -1e-45, 1e-45, math.inf, 0.0])
    assert kept(TopK(7)(u, torch.tensor([[0]]), None)) == [[[5, 1, 4, 6, 3, 0]]]


def test_neighbouring_numbers_are_told_apart():
    """By the last bit of a float32, at magnitudes from a denormal one to a large one, of either sign."""
    numbers = torch.tensor([1e-42, 1e-3, 1.0, 2.0, 3.0, 1e9])
    numbers = torch.cat([numbers, numbers.nextafter(torch.tensor(math.inf))])
    ascending = torch.cat([numbers, -numbers]).sort().values
    chosen = TopK(24)(torch.stack([ascending, ascending.flip(0)]), torch.zeros(2, 1).long(), None)
    assert kept(chosen) == [[list(range(24))[::-1]], [list(range(24))]]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_precisions(dtype):
    u = (torch.randperm(60, generator=seeded()) / 64).to(dtype)[None]
    moments = torch.tensor([[0, 30]])
    assert kept(TopK(5)(u, moments, None)) == slow_top_k(u, moments, 5)


def test_a_lane_without_a_choosable_step_chooses_nothing():
    u = torch.stack([torch.full((8,), NEVER), torch.tensor(U)])
    moments = torch.tensor([[2, 6], [2, 6]])
    for selector in (TopK(3), GumbelTopK(3)):
        chosen = selector(u, moments, seeded())
        check_form(chosen, moments, 3)
        assert not chosen.valid_BMK[0].any()
        assert chosen.valid_BMK[1].sum(-1).tolist() == [3, 2]


@pytest.mark.parametrize("selector", [TopK(2), GumbelTopK(2), CurrentStep(), Composite([CurrentStep(), TopK(2)])])
def test_a_moment_beyond_the_stream_finds_nothing(selector):
    """A lane whose stream is over stays in its batch until the longest is over."""
    moments = torch.tensor([[7, 8, 30]])
    chosen = selector(lane(U), moments, seeded())
    check_form(chosen, moments, selector.k)
    assert chosen.valid_BMK.sum(-1).tolist() == [[1, 0, 0]]


def test_no_gradient_goes_to_the_uncertainty():
    chosen = TopK(3)(lane(U).requires_grad_(), torch.tensor([[0]]), None)
    assert not chosen.steps_BMK.requires_grad


@pytest.mark.parametrize("selector", [TopK(3), GumbelTopK(3), CurrentStep(), Composite([TopK(3), CurrentStep()])])
def test_inputs_stay_as_they_are(selector):
    u, moments = lane(U), torch.tensor([[0, 5]])
    selector(u, moments, seeded())
    assert torch.equal(u, lane(U))
    assert moments.tolist() == [[0, 5]]


@pytest.mark.slow
def test_cost_of_many_moments_is_that_of_few():
    """A loop over moments, or a table of moments times steps, would take some fifty times as long."""
    u = torch.rand(32, 5020, generator=seeded())
    select = TopK(10)

    def seconds(moments):
        best = math.inf
        for _ in range(5):
            start = time.perf_counter()
            select(u, moments.expand(32, -1), None)
            best = min(best, time.perf_counter() - start)
        return best

    seconds(torch.tensor([[0]]))
    assert seconds(torch.arange(100)[None]) < 12 * seconds(torch.tensor([[0, 99]]))


# Gumbel top-K


def draws(selector, u, moment=0, times=20_000):
    """Return many independent draws, (times, K): the lanes are copies of each other."""
    moments = torch.full((times, 1), moment)
    chosen = selector(torch.tensor(u).expand(times, -1), moments, seeded(1))
    check_form(chosen, moments, selector.k)
    return chosen.steps_BMK[:, 0]


def test_one_draw_follows_the_softmax():
    temperature, moment = 0.5, 2
    found = draws(GumbelTopK(1, temperature), U, moment).flatten().bincount(minlength=8) / 20_000
    want = torch.zeros(8)
    want[moment:] = torch.softmax(torch.tensor(U)[moment:] / temperature, 0)
    torch.testing.assert_close(found, want, rtol=0, atol=4 * 0.5 / 20_000**0.5)


def test_ordered_draws_follow_the_softmax_without_replacement():
    """Plackett and Luce: the second is drawn from what the first has left."""
    u, temperature = [0.1, 0.9, 0.3, 0.6], 0.25
    found = draws(GumbelTopK(2, temperature), u)
    weights = [math.exp(value / temperature) for value in u]
    for first, second in itertools.permutations(range(4), 2):
        want = weights[first] / sum(weights) * weights[second] / (sum(weights) - weights[first])
        share = ((found[:, 0] == first) & (found[:, 1] == second)).double().mean().item()
        assert share == pytest.approx(want, abs=4 * math.sqrt(want / 20_000))


def test_moments_and_lanes_draw_independently():
    chosen = GumbelTopK(1, 1.0)(torch.zeros(4000, 2), torch.zeros(4000, 2, dtype=torch.int64), seeded())
    first, second = chosen.steps_BMK[..., 0].unbind(1)
    assert abs((first == second).double().mean().item() - 0.5) < 0.04
    assert abs((first[1:] == first[:-1]).double().mean().item() - 0.5) < 0.04


def test_a_low_temperature_is_top_k_and_a_high_one_draws_evenly():
    u, moments = torch.rand(16, 50, generator=seeded()).round(decimals=2), torch.tensor([[0, 20]]).expand(16, 2)
    found = GumbelTopK(1, 1e-6)(u, moments, seeded())
    best = torch.stack([u.amax(1), u[:, 20:].amax(1)], 1)
    torch.testing.assert_close(u.gather(1, found.steps_BMK[..., 0]), best, rtol=0, atol=0)
    even = draws(GumbelTopK(1, 1e6), U).flatten().bincount(minlength=8) / 20_000
    torch.testing.assert_close(even, torch.full((8,), 1 / 8), rtol=0, atol=0.015)


def test_draws_depend_on_the_generator_alone():
    u, moments = torch.rand(4, 100, generator=seeded()), torch.tensor([[3, 9]]).expand(4, 2)
    select = GumbelTopK(5)
    one, same = (select(u, moments, seeded(7)).steps_BMK for _ in range(2))
    assert torch.equal(one, same)
    assert not torch.equal(one, select(u, moments, seeded(8)).steps_BMK)
    generator = seeded(7)
    select(u, moments, generator)
    assert not torch.equal(one, select(u, moments, generator).steps_BMK), "drew the same again"
    torch.manual_seed(7)
    assert torch.equal(one, select(u, moments, None).steps_BMK), "torch's own generator where none is given"


def test_a_draw_of_zero_forbids_no_step(monkeypatch):
    monkeypatch.setattr(torch, "rand", lambda *shape, generator=None: torch.zeros(shape))
    assert GumbelTopK(3)(lane(U), torch.tensor([[5]]), None).valid_BMK.all()


# Current step, composite


def test_current_step():
    u = lane(U)
    u[0, 3] = NEVER
    moments = torch.tensor([[0, 3, 7]])
    chosen = CurrentStep()(u, moments, None)
    check_form(chosen, moments, 1)
    assert kept(chosen) == [[[0], [], [7]]]


def test_composite_keeps_a_step_once_and_the_earlier_choice():
    select = Composite([CurrentStep(), TopK(3)])
    moments = torch.tensor([[0, 1, 6]])
    chosen = select(lane(U), moments, None)
    assert select.k == 4
    check_form(chosen, moments, 4)
    assert kept(chosen) == [[[0, 1, 3, 5], [1, 3, 5], [6, 7]]]
    assert chosen.valid_BMK[0, 1].tolist() == [True, False, True, True], "the first choice of step 1 stays"


def test_composite_keeps_a_step_that_the_earlier_selector_could_not_choose():
    """An invalid place holds the moment; that is not a choice which another's choice of the moment could repeat."""
    chosen = Composite([TopK(3), TopK(2)])(lane(U), torch.tensor([[7]]), None)
    assert kept(chosen) == [[[7]]]
    chosen = Composite([_Nothing(), TopK(2)])(lane(U), torch.tensor([[1]]), None)
    assert kept(chosen) == [[[1, 3]]]


class _Nothing(CurrentStep):
    def __call__(self, uncertainty_BT, moments_BM, generator=None):
        chosen = super().__call__(uncertainty_BT, moments_BM, generator)
        return Chosen(chosen.steps_BMK, torch.zeros_like(chosen.valid_BMK))


def test_composites_draw_from_one_generator():
    chosen = Composite([GumbelTopK(2, 1e6), GumbelTopK(2, 1e6)])(
        torch.zeros(200, 50), torch.zeros(200, 1).long(), seeded()
    )
    first, second = chosen.steps_BMK[..., :2], chosen.steps_BMK[..., 2:]
    assert (first == second).double().mean() < 0.2


# Errors


@pytest.mark.parametrize("make", [TopK, GumbelTopK])
@pytest.mark.parametrize("k", [0, -3])
def test_choosing_nothing_is_refused(make, k):
    with pytest.raises(ValueError, match=f"k={k}, expected at least 1 .*--model.k"):
        make(k)


@pytest.mark.parametrize("temperature", [0, -1.0, math.inf, math.nan])
def test_a_temperature_that_is_none_is_refused(temperature):
    with pytest.raises(ValueError, match=f"temperature={temperature}, expected a finite number above 0.*top_k"):
        GumbelTopK(3, temperature)


@pytest.mark.parametrize("selector", [TopK(9), GumbelTopK(9), Composite([CurrentStep(), TopK(9)])])
def test_more_than_the_stream_has_is_refused(selector):
    with pytest.raises(ValueError, match=r"K=9 is beyond the stream's 8 steps; give --model.k 8 or less"):
        selector(lane(U), torch.tensor([[0]]), None)


@pytest.mark.parametrize("selector", [TopK(2), GumbelTopK(2), CurrentStep()])
def test_an_uncertainty_that_is_not_a_number_is_refused(selector):
    u = torch.rand(3, 8)
    u[1, 5] = u[2, 0] = math.nan
    with pytest.raises(ValueError, match=r"step 5 of lane 1 is not a number \(2 such steps"):
        selector(u, torch.zeros(3, 1).long(), None)


def test_a_composite_of_nothing_is_refused():
    with pytest.raises(ValueError, match="no selectors chooses nothing; give at least one"):
        Composite([])
