"""Probes: the same from the same key in whatever pieces; what a sketch gives back has the input as its mean."""

import math
from collections import Counter

import pytest
import torch

from lightning_modules.layers.probes import (
    CHUNK,
    MODES,
    Fields,
    Probes,
    gaussian_fields,
    samples_at_once,
)
from lightning_modules.layers.shared_probes import expand, sketch

KEY = torch.tensor([7, 1, 3])
CPU = torch.device("cpu")


def drawn(key=KEY, block=0, first=0, count=24, elements=50, dtype=torch.float32):
    return gaussian_fields(key, block, first, count, elements, dtype, CPU)


def identity(key, block, first, count, elements, dtype, device):
    """Probes with E E^T = r I, where as many are asked for as an element each."""
    return (torch.eye(elements, dtype=dtype, device=device) * elements**0.5)[first : first + count]


def activation(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def got_back(x, probes, draw=gaussian_fields, key=KEY):
    means = probes.means(x)
    kept = sketch(x, means, probes, Fields(probes, key, x, draw))
    return expand(kept, means, x.shape[1:], probes, Fields(probes, key, kept, draw))


def test_draws_are_standard_gaussian_and_have_no_common_part():
    fields = drawn(count=64, elements=4096)
    assert abs(fields.mean().item()) < 0.01
    assert abs(fields.std().item() - 1) < 0.01
    assert abs(fields.pow(4).mean().item() - 3) < 0.1
    correlation = fields @ fields.T / 4096 - torch.eye(64)
    assert correlation.abs().max() < 6 / math.sqrt(4096)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("count", [1, 7, 8, 9, 30])
def test_draws_do_not_depend_on_the_pieces(dtype, count):
    whole = drawn(count=count, elements=37, dtype=dtype)
    for step in (CHUNK, 2 * CHUNK):
        pieces = [drawn(first=i, count=min(step, count - i), elements=37, dtype=dtype) for i in range(0, count, step)]
        assert torch.equal(torch.cat(pieces), whole)


@pytest.mark.parametrize("place", range(3))
def test_each_number_of_the_key_changes_all_draws(place):
    other = KEY.clone()
    other[place] += 1
    assert torch.equal(drawn(), drawn(KEY.clone()))
    assert not (drawn(other) == drawn()).any()


def test_blocks_and_chunks_draw_different_numbers():
    assert not (drawn(block=1) == drawn()).any()
    chunks = drawn().view(3, CHUNK, 50)
    assert not (chunks[0] == chunks[1]).any()


def test_a_swapped_key_is_another_key():
    assert not (drawn(torch.tensor([1, 2, 3])) == drawn(torch.tensor([2, 1, 3]))).any()
    assert not (drawn(torch.tensor([0, 0, 1])) == drawn(torch.tensor([0, 0, 0]))).any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_draws_are_those_of_single_precision_rounded(dtype):
    assert torch.equal(drawn(dtype=dtype), drawn().to(dtype))


def test_global_generator_is_left():
    before = torch.get_rng_state()
    drawn()
    assert torch.equal(torch.get_rng_state(), before)


def test_largest_key_is_drawn_from():
    assert drawn(torch.tensor([2**63 - 1, -1, 2**62])).isfinite().all()


def test_operator_is_what_torch_expects():
    torch.library.opcheck(gaussian_fields, (KEY, 0, 8, 5, 6, torch.float32, CPU), test_utils="test_schema")
    torch.library.opcheck(gaussian_fields, (KEY, 0, 8, 5, 6, torch.float32, CPU), test_utils="test_faketensor")


@pytest.mark.parametrize(("mode", "floats"), [("independent", 10 * 6), ("multi", 10), ("orthogonal", 10)])
@pytest.mark.parametrize("center", [False, True])
def test_stored_floats_are_what_a_sketch_has(mode, floats, center):
    probes, x = Probes(10, mode, center=center), activation(3, 6, 4, 5)
    means = probes.means(x)
    kept = sketch(x, means, probes, Fields(probes, KEY, x))
    assert probes.stored_bytes(6, 1) == floats + 6 * center
    assert (kept.numel() + (0 if means is None else means.numel())) == 3 * probes.stored_bytes(6, 1)
    assert kept.untyped_storage().nbytes() == kept.nbytes


@pytest.mark.parametrize("count", range(1, 12))
@pytest.mark.parametrize("channels", [1, 2, 5, 8])
def test_orthogonal_blocks_share_out_all_channels_and_probes(count, channels):
    blocks = Probes(count, "orthogonal").of_channels(channels)
    assert len(blocks) == min(count, channels)
    assert [c for block, _ in blocks for c in range(channels)[block]] == list(range(channels))
    assert [p for _, mine in blocks for p in mine] == list(range(count))
    assert all(len(mine) and block.stop > block.start for block, mine in blocks)


def test_orthogonal_probes_of_two_blocks_never_meet():
    x = activation(2, 4, 3, 3)
    x[:, 2:] = 0
    probes = Probes(2, "orthogonal")
    kept = sketch(x, None, probes, Fields(probes, KEY, x))
    assert kept[:, 0].abs().min() > 0
    assert torch.equal(kept[:, 1], torch.zeros(2, dtype=x.dtype))
    assert not expand(kept, None, x.shape[1:], probes, Fields(probes, KEY, x))[:, 2:].any()


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("budget", [1, 2**20])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", [(2, 3, 7), (2, 3, 4, 5), (1, 3, 2, 3, 4), (3, 1, 5), (2, 4, 1)])
def test_identity_probes_give_the_input_back(shape, mode, budget, center):
    x = activation(*shape)
    count = x[0, 0].numel() * (1 if mode == "independent" else shape[1])
    got = got_back(x, Probes(count, mode, budget, center), identity)
    torch.testing.assert_close(got, x, rtol=0, atol=1e-13)


@pytest.mark.parametrize("center", [pytest.param(False, marks=pytest.mark.slow), True])
@pytest.mark.parametrize("mode", MODES)
def test_mean_of_what_comes_back_is_the_input(mode, center):
    x, probes = activation(2, 3, 4, 4) + 1, Probes(12, mode, center=center)
    mean = sum(got_back(x, probes, key=torch.tensor([0, 0, i])) for i in range(2000)) / 2000
    # sqrt(n / (r draws)): about 0.026 for independent ones, 0.045 for the others.
    assert (mean - x).norm() / x.norm() < 0.07


@pytest.mark.parametrize("mode", MODES)
def test_centering_makes_the_error_of_a_mostly_constant_input_small(mode):
    x = activation(4, 6, 8, 8) * 0.1 + 5
    plain, centered = ((got_back(x, Probes(24, mode, center=c)) - x).norm() for c in (False, True))
    assert centered < plain / 20


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("center", [False, True])
def test_sketch_is_the_same_for_every_layout_of_the_input(mode, center):
    x, probes = activation(3, 4, 6, 5), Probes(10, mode, 1, center)
    layouts = {
        "channels_last": x.to(memory_format=torch.channels_last),
        "transposed": x.transpose(2, 3).contiguous().transpose(2, 3),
        "every other": torch.stack([x, x], -1).flatten(3)[..., ::2],
        "samples last": x.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2),
    }
    wanted = sketch(x, probes.means(x), probes, Fields(probes, KEY, x))
    for name, other in layouts.items():
        assert not other.is_contiguous(), name
        found = sketch(other, probes.means(other), probes, Fields(probes, KEY, x))
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("mode", MODES)
def test_no_samples_and_no_positions(mode):
    probes = Probes(5, mode)
    assert sketch(torch.empty(0, 3, 4, 4), None, probes, Fields(probes, KEY, torch.empty(0))).shape[0] == 0
    assert got_back(torch.empty(0, 3, 4, 4), probes).shape == (0, 3, 4, 4)
    assert got_back(torch.empty(2, 3, 0, 4), probes).shape == (2, 3, 0, 4)


@pytest.mark.parametrize("budget", [1, 10_000, 2**20])
def test_pieces_are_whole_chunks_that_fit_the_budget(budget):
    fields = Fields(Probes(100, "multi", budget), KEY, torch.empty(0))
    pieces = fields.pieces(100, 50)
    assert [i for piece in pieces for i in piece] == list(range(100))
    assert all(piece.start % CHUNK == 0 for piece in pieces)
    assert all(len(piece) <= max(CHUNK, budget // 2 // (50 * 4)) for piece in pieces)
    assert len(pieces) == {1: 13, 10_000: 5, 2**20: 1}[budget]


def test_probes_are_drawn_once_where_all_fit_the_budget():
    drawings = Counter()

    def counted(key, block, first, *rest):
        drawings[block, first] += 1
        return gaussian_fields(key, block, first, *rest)

    def uses(budget):
        drawings.clear()
        fields = Fields(Probes(16, "multi", budget), KEY, torch.empty(0), counted)
        for _ in range(3):
            for piece in fields.pieces(16, 10):
                fields(0, piece, 10)
        return sorted(drawings.values())

    assert uses(2**20) == [1]
    assert uses(2 * 8 * 10 * 4) == [3, 3]


def test_samples_at_once_are_half_the_budget_and_never_none():
    assert samples_at_once((9, 2, 5, 5), Probes(1, "multi", budget_bytes=2 * 3 * 50 * 4), 4) == 3
    assert samples_at_once((9, 2, 5, 5), Probes(1, "multi", budget_bytes=1), 4) == 1
    assert samples_at_once((9, 2, 0, 5), Probes(1, "multi"), 4) == 9
    assert samples_at_once((0, 2, 0), Probes(1, "multi"), 4) == 1


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_large_sums_do_not_overflow_half_precision(mode, dtype):
    """The sketch of 4096 numbers times 512 probes passes 65504 before it is divided by the probes."""
    x = 30 * activation(2, 2, 64, 64, dtype=torch.float32)
    count = 512 if mode == "independent" else 1024
    single, half = (got_back(x.to(kind), Probes(count, mode)).float() for kind in (torch.float32, dtype))
    assert half.isfinite().all()
    assert (half - single).norm() / single.norm() < (0.02 if dtype == torch.bfloat16 else 0.003)


def test_a_piece_may_not_start_inside_a_chunk():
    with pytest.raises(AssertionError, match="inside a chunk"):
        gaussian_fields(KEY, 0, 4, 8, 6, torch.float32, CPU)
