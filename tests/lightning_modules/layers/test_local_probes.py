"""Local probes: every sample and block of positions has its own, whatever the pieces in which they are drawn."""

import pytest
import torch

from lightning_modules.layers.local_probes import expand, sketch
from lightning_modules.layers.probes import LOCAL_SIZE, Fields, Probes, gaussian_fields, samples_at_once

KEY = torch.tensor([7, 1, 3])


def identity(key, block, first, count, elements, dtype, device):
    """Probes with E E^T = r I in each of three blocks."""
    size = round((elements / 3) ** 0.5)
    return (torch.eye(size, dtype=dtype, device=device) * size**0.5).flatten().repeat(count, 3)


def activation(*shape, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


def got_back(x, probes, draw=gaussian_fields, key=KEY):
    means = probes.means(x)
    kept = sketch(x, means, probes, Fields(probes, key, x, draw))
    fields, step = Fields(probes, key, kept, draw), samples_at_once(x.shape, probes, x.element_size())
    parts = [x[:0]]
    for first in range(0, len(x), step):
        some = range(first, min(first + step, len(x)))
        place = slice(some.start, some.stop)
        parts.append(expand(kept[place], None if means is None else means[place], x.shape, probes, fields, some))
    return torch.cat(parts)


@pytest.mark.parametrize(
    ("count", "positions", "blocks", "each"),
    [(8, 64, 4, 2), (9, 64, 4, 2), (10, 64, 5, 2), (11, 64, 4, 3), (1, 64, 1, 1), (3, 64, 3, 1), (5, 7, 1, 5)],
)
def test_count_is_shared_out_in_equal_blocks(count, positions, blocks, each):
    probes = Probes.of(count, "local", positions)
    assert (probes.blocks, probes.count) == (blocks, blocks * each)


@pytest.mark.parametrize("positions", [1, 15, 16, 17, 100, 1000])
def test_blocks_are_of_16_positions_where_probes_are_enough(positions):
    probes = Probes.of(positions, "local", positions)
    assert probes.count == pytest.approx(positions, rel=0.1)
    assert min(positions, 13) <= probes.local_size((1, 1, positions)) <= LOCAL_SIZE + 3
    assert Probes.of(9, "multi", positions) == Probes(9, "multi")


@pytest.mark.parametrize("positions", [64, 100, 256, 1024, 3136, 4096])
def test_there_are_about_as_many_as_asked_for_and_no_block_is_empty(positions):
    for percent in range(1, 60):
        asked = round(positions * percent / 100)
        if asked < 8:
            continue
        probes = Probes.of(asked, "local", positions)
        assert probes.count == pytest.approx(asked, rel=0.2 if positions < 256 else 0.1), percent
        assert (probes.blocks - 1) * probes.local_size((1, 1, positions)) < positions


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("budget", [1, 2**20])
@pytest.mark.parametrize("shape", [(2, 3, 7), (2, 3, 4, 5), (5, 3, 2, 3, 4), (3, 1, 4), (2, 4, 1), (0, 2, 5)])
def test_identity_probes_give_the_input_back(shape, budget, center):
    x = activation(*shape)
    count = 3 * -(-x.shape[2:].numel() // 3)
    got = got_back(x, Probes(count, "local", budget, center, blocks=3), identity)
    torch.testing.assert_close(got, x, rtol=0, atol=1e-13)


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("positions", [48, 41])
def test_mean_of_what_comes_back_is_the_input(center, positions):
    x = activation(2, 3, positions) + 1
    probes = Probes.of(12, "local", positions, center=center)
    mean = sum(got_back(x, probes, key=torch.tensor([0, 0, i])) for i in range(1500)) / 1500
    # sqrt(16 positions / (4 probes x 1500)): about 0.05.
    assert (mean - x).norm() / x.norm() < 0.08


def test_samples_and_blocks_have_probes_of_their_own():
    x = torch.ones(2, 1, 48)
    probes = Probes.of(6, "local", 48)
    kept = sketch(x, None, probes, Fields(probes, KEY, x))
    assert kept.flatten().unique().numel() == 2 * 6


def test_a_block_is_sketched_alone_and_channels_share_its_probes():
    x = activation(1, 1, 48).expand(1, 2, 48).clone()
    x[..., 16:] = 0
    probes = Probes.of(6, "local", 48)
    kept = sketch(x, None, probes, Fields(probes, KEY, x))
    assert torch.equal(kept[:, 0], kept[:, 1])
    assert kept[..., :2].all()
    assert not kept[..., 2:].any()


@pytest.mark.parametrize("budget", [1, 5000, 2**24])
def test_sketch_and_estimate_do_not_depend_on_the_budget(budget):
    x = activation(37, 2, 10, 5)
    wanted, found = (got_back(x, Probes.of(12, "local", 50, budget_bytes=size)) for size in (2**20, budget))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-13)


def test_every_layout_of_the_input_has_the_same_sketch():
    x = activation(3, 4, 6, 5)
    probes = Probes.of(8, "local", 30)
    wanted = sketch(x, None, probes, Fields(probes, KEY, x))
    for other in (x.to(memory_format=torch.channels_last), x.transpose(2, 3).contiguous().transpose(2, 3)):
        torch.testing.assert_close(sketch(other, None, probes, Fields(probes, KEY, x)), wanted, rtol=0, atol=1e-13)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.02), (torch.float16, 0.003)])
def test_half_precision_is_single_precision_rounded(dtype, tolerance):
    x = 30 * activation(2, 2, 64, 64, dtype=torch.float32)
    single, half = (got_back(x.to(kind), Probes.of(512, "local", 4096)).float() for kind in (torch.float32, dtype))
    assert (half - single).norm() / single.norm() < tolerance
