"""The vector quantiser: nearest codes, the averaged update, dead codes, sizes, and what it does not depend on."""

import copy
import io
import math

import pytest
import torch

from lightning_modules.layers import Packed, VectorQuantiser
from lightning_modules.layers.codebook_learning import NEW_OVER_DEAD, first_codebook
from lightning_modules.layers.nearest_code import nearest


def noise(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def with_codes(channels, groups, codes, seed=3, **options):
    """A quantiser whose codes are given, as if it had been started with each of them seen once."""
    made = VectorQuantiser(channels, groups, codes, **options)
    made.codebook.copy_(noise(*made.codebook.shape, seed=seed))
    made.ema_count.fill_(1.0)
    made.ema_sum.copy_(made.codebook)
    made.started.fill_(True)
    return made


def of_codes(quantiser, indices_PG):
    """Positions (P, C) made of these codes."""
    groups = torch.arange(quantiser.groups)
    return quantiser.codebook[groups, indices_PG].flatten(1)


def distortion(quantiser, x):
    return (quantiser(x) - x).square().sum(1).mean().item()


def mixture(count, seed, clusters=8, channels=4):
    centres = 3 * noise(clusters, channels, seed=99)
    which = torch.randint(clusters, (count,), generator=torch.Generator().manual_seed(seed))
    return centres[which] + 0.1 * noise(count, channels, seed=seed + 1)


# Nearest codes


def test_a_codeword_is_itself():
    quantiser = with_codes(12, 3, 16)
    x = of_codes(quantiser, torch.randint(16, (50, 3), generator=torch.Generator().manual_seed(1)))
    assert torch.equal(quantiser(x), x)


def test_a_codeword_is_itself_far_from_the_origin():
    quantiser = with_codes(8, 2, 64)
    quantiser.codebook.add_(1000.0)
    x = of_codes(quantiser, torch.randint(64, (200, 2), generator=torch.Generator().manual_seed(1)))
    assert torch.equal(quantiser(x), x)


@pytest.mark.parametrize("shape", [(5,), (2, 3), (2, 3, 4), (3, 2, 3, 2)])
def test_nearest_by_brute_force(shape):
    quantiser = with_codes(6, 2, 10)
    x = noise(shape[0], 6, *shape[1:])
    y = quantiser(x)
    assert (y.shape, y.dtype) == (x.shape, x.dtype)
    positions, found = x.movedim(1, -1).reshape(-1, 6), y.movedim(1, -1).reshape(-1, 6)
    for vector, code in zip(positions, found, strict=True):
        for group in range(2):
            here = slice(3 * group, 3 * group + 3)
            distances = [sum((vector[here] - c) ** 2).item() for c in quantiser.codebook[group]]
            assert torch.equal(code[here], quantiser.codebook[group, distances.index(min(distances))])


@pytest.mark.parametrize("held", [1, 4 * 16 * 3, 4 * 16 * 256 * 2, 2**24])
def test_chunks_of_any_size_find_the_same(held):
    vectors_PGD, codebook_GKD = noise(300, 5, 4), noise(5, 16, 4, seed=1)
    expected = torch.cdist(vectors_PGD.transpose(0, 1), codebook_GKD).argmin(-1).T
    assert torch.equal(nearest(vectors_PGD, codebook_GKD, distance_bytes=held), expected)


def test_distances_are_never_held_whole(monkeypatch):
    held = []
    real = torch.baddbmm

    def seen(*args, **options):
        out = real(*args, **options)
        held.append(out.nbytes)
        return out

    monkeypatch.setattr(torch, "baddbmm", seen)
    quantiser = VectorQuantiser(8, 4, 4096)
    quantiser(noise(2, 8, 32, 32))  # 128 MiB of distances
    assert sum(held) == 2 * 32 * 32 * 4 * 4096 * 4
    assert max(held) <= 16 * 2**20


def test_nothing_crosses():
    x = noise(2, 4, 3, 3).requires_grad_()
    quantiser = VectorQuantiser(4, 2, 4)
    assert not quantiser(x, learn=True).requires_grad
    assert not quantiser.decode(quantiser.encode(x)).requires_grad
    assert not list(quantiser.parameters())


def test_an_untrained_quantiser_works():
    quantiser = VectorQuantiser(4, 2, 4)
    x = noise(2, 4, 3, 3)
    assert torch.isfinite(quantiser(x)).all()
    assert (int(quantiser.version), bool(quantiser.started), quantiser.gathered()) == (0, False, 0)
    assert quantiser.perplexity() == 1  # nothing was used yet


def test_an_empty_batch():
    quantiser = VectorQuantiser(4, 2, 4)
    x = noise(0, 4, 3, 3)
    quantiser.start(x)
    assert quantiser(x, learn=True).shape == x.shape
    assert quantiser.decode(quantiser.encode(x)).shape == x.shape
    quantiser.step()
    assert (int(quantiser.version), bool(quantiser.started)) == (0, False)


# Learning


def reference_update(codebook, count, total, x, decay, epsilon):
    """One update as it is written in books: plain loops, one group, no dead codes; unmet codes stay where they are."""
    codes = len(codebook)
    seen, sums = [0] * codes, [torch.zeros_like(codebook[0]) for _ in range(codes)]
    for vector in x:
        distances = [((vector - c) ** 2).sum().item() for c in codebook]
        k = distances.index(min(distances))
        seen[k] += 1
        sums[k] = sums[k] + vector
    count = [decay * c + (1 - decay) * s for c, s in zip(count, seen, strict=True)]
    total = [decay * t + (1 - decay) * s for t, s in zip(total, sums, strict=True)]
    n = sum(count)
    smooth = [(c + epsilon) / (n + codes * epsilon) * n for c in count]
    means = [t / s for t, s in zip(total, smooth, strict=True)]
    return [m if k else c for m, k, c in zip(means, seen, codebook, strict=True)], count, total


@pytest.mark.parametrize("epsilon", [1e-5, 0.5])
def test_averages_against_a_written_out_reference(epsilon):
    quantiser = with_codes(4, 2, 5, decay=0.9, epsilon=epsilon, dead=0).double()
    expected = [(list(quantiser.codebook[g].clone()), [1.0] * 5, list(quantiser.codebook[g].clone())) for g in range(2)]
    for step in range(4):
        x = noise(40, 4, seed=step, dtype=torch.float64)
        quantiser(x[:15], learn=True)
        quantiser(x[15:], learn=True)
        quantiser.step()
        expected = [reference_update(*expected[g], x[:, 2 * g : 2 * g + 2], 0.9, epsilon) for g in range(2)]
    for g in range(2):
        codebook, count, total = expected[g]
        torch.testing.assert_close(quantiser.codebook[g], torch.stack(codebook), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(quantiser.ema_sum[g], torch.stack(total), rtol=1e-12, atol=1e-12)
        assert quantiser.ema_count[g].tolist() == pytest.approx(count, rel=1e-12)
    assert int(quantiser.version) == 4


def test_the_codebook_is_fixed_until_the_step():
    quantiser = VectorQuantiser(4, 1, 8)
    x = noise(100, 4)
    first = quantiser(x, learn=True)
    held, version = quantiser.codebook.clone(), int(quantiser.version)
    assert torch.equal(quantiser(x, learn=True), first)
    assert torch.equal(quantiser.codebook, held)
    assert quantiser.gathered() == 200
    quantiser.step()
    assert (int(quantiser.version), quantiser.gathered()) == (version + 1, 0)
    assert not torch.equal(quantiser.codebook, held)


def test_nothing_gathered_nothing_changed():
    quantiser = VectorQuantiser(4, 1, 8)
    quantiser(noise(100, 4), learn=True)
    quantiser.step()
    before = copy.deepcopy(quantiser.state_dict())
    quantiser.step()
    quantiser(noise(100, 4, seed=1))
    quantiser.step()
    quantiser(noise(100, 4, seed=2), learn=True)
    quantiser.zero()
    quantiser.step()
    for name, tensor in quantiser.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_calls_of_one_step_may_be_cut_and_ordered_anyhow():
    x = mixture(240, 5)
    made = []
    for parts in ([x], list(x.split(60)), list(reversed(x.split(50)))):
        quantiser = with_codes(4, 2, 4, dead=0).double()
        for part in parts:
            quantiser(part.double(), learn=True)
        quantiser.step()
        made.append(quantiser)
    for other in made[1:]:
        torch.testing.assert_close(other.codebook, made[0].codebook, rtol=1e-12, atol=1e-12)
        assert torch.equal(other.ema_count, made[0].ema_count)


def test_learns_a_mixture_to_its_own_variance():
    quantiser = VectorQuantiser(4, 1, 8, decay=0.9)
    x = mixture(500, 1000)
    errors = [distortion(quantiser, x)]
    for step in range(60):
        quantiser(mixture(500, 2 * step), learn=True)
        quantiser.step()
        errors.append(distortion(quantiser, x))
    assert errors[-1] == pytest.approx(4 * 0.1**2, rel=0.1)  # what is left is the clusters' own variance
    assert errors[-1] < 0.1 * errors[0]
    assert quantiser.perplexity() == pytest.approx(8, rel=0.05)


def test_the_first_batch_is_the_start():
    x = noise(100, 4, 2, 2)
    quantiser = VectorQuantiser(4, 2, 8)
    quantiser.start(x)
    rows = x.movedim(1, -1).reshape(-1, 2, 2)
    for g in range(2):
        assert all((rows[:, g] == code).all(1).any() for code in quantiser.codebook[g])
        assert len(quantiser.codebook[g].unique(dim=0)) == 8
    held = quantiser.codebook.clone()
    quantiser.start(noise(100, 4, 2, 2, seed=1))  # there is one already
    assert torch.equal(quantiser.codebook, held)
    assert (int(quantiser.version), bool(quantiser.started)) == (1, True)


def test_a_background_takes_one_code_of_the_start():
    x = mixture(1000, 3)
    x[:900] = 0
    codebook, counts = first_codebook(x[:, None], 8, torch.Generator().manual_seed(0))
    assert (codebook[0].abs().sum(1) == 0).sum() == 1
    assert counts.max() >= 900
    assert counts.sum() == 1000


def test_more_codes_than_positions():
    x = noise(5, 4)
    quantiser = VectorQuantiser(4, 1, 64)
    assert torch.equal(quantiser(x, learn=True), x)
    quantiser.step()
    torch.testing.assert_close(quantiser(x), x, rtol=1e-2, atol=1e-2)
    assert torch.isfinite(quantiser.codebook).all()


@pytest.mark.parametrize("dead", [0.0, 0.01])
def test_codes_that_repeat_others_stay_where_they_are(dead):
    """Eight codes of two vectors: none of the six that repeat, and are never the nearest, goes to the origin."""
    quantiser = VectorQuantiser(4, 1, 8, dead=dead)
    x = torch.cat([torch.full((32, 4), 3.0), torch.full((32, 4), 4.0)])
    for _ in range(3):
        quantiser(x, learn=True)
        quantiser.step()
        assert {round(code, 3) for code in quantiser.codebook.flatten().tolist()} == {3.0, 4.0}


def test_a_code_that_is_rarely_met_stays_where_it_is():
    quantiser = VectorQuantiser(1, 1, 2, dead=0.0)
    common = torch.ones(4096, 1)
    quantiser(torch.cat([common, torch.full((4, 1), 10.0)]), learn=True)
    quantiser.step()
    for _ in range(1500):
        quantiser(common, learn=True)
        quantiser.step()
    assert quantiser.ema_count.min() < 1e-7
    assert sorted(quantiser.codebook.flatten().tolist()) == pytest.approx([1.0, 10.0], rel=1e-3)


def test_a_dead_code_begins_anew_where_vectors_were_far_from_codes():
    quantiser = with_codes(2, 1, 3, dead=0.1, decay=0.5)
    quantiser.codebook[0] = torch.tensor([[0.0, 0.0], [1.0, 0.0], [500.0, 500.0]])
    quantiser.ema_count[0] = torch.tensor([10.0, 10.0, 0.01])
    quantiser.ema_sum.copy_(quantiser.codebook * quantiser.ema_count[..., None])
    near = torch.tensor([[0.0, 0.0], [1.0, 0.0]]).repeat(20, 1)
    far = torch.tensor([[-7.0, 3.0]])
    quantiser(torch.cat([near, far]), learn=True)
    quantiser.step()
    assert quantiser.codebook[0, 2].tolist() == [-7.0, 3.0]  # the rest are codes already, and are not drawn
    mean = (15 + 15.5 + 0.005) / 3
    assert quantiser.ema_count[0, 2].item() == pytest.approx(NEW_OVER_DEAD * 0.1 * mean)
    torch.testing.assert_close(
        quantiser.ema_sum[0, 2], quantiser.ema_count[0, 2] * quantiser.codebook[0, 2], rtol=1e-6, atol=0
    )


def test_dead_codes_come_back_into_use():
    left = {}
    for dead in (0.0, 0.05):
        quantiser = with_codes(4, 1, 8, decay=0.8, dead=dead)
        quantiser.codebook.add_(100.0)  # all but one will never be near
        quantiser.ema_sum.copy_(quantiser.codebook)
        for step in range(60):
            quantiser(mixture(200, step), learn=True)
            quantiser.step()
        left[dead] = (quantiser.perplexity().item(), distortion(quantiser, mixture(200, 1000)))
    assert left[0.0][0] < 2
    assert left[0.05][0] > 6
    assert left[0.05][1] < 0.1 * left[0.0][1]


def test_one_bad_step_spoils_no_code():
    quantiser = with_codes(4, 2, 4, dead=0.5)
    x = noise(50, 4)
    x[3, 0], x[7, 3] = math.nan, math.inf
    quantiser(x, learn=True)
    quantiser.step()
    assert all(torch.isfinite(tensor).all() for tensor in quantiser.state_dict().values())
    fresh = VectorQuantiser(4, 2, 4)
    fresh(x * math.nan, learn=True)  # no start, and nothing that counts
    fresh.step()
    assert (fresh.gathered(), int(fresh.version), bool(fresh.started)) == (0, 0, False)
    fresh.start(x)
    assert torch.isfinite(fresh.codebook).all()


# Sizes


@pytest.mark.parametrize(("groups", "codes", "factor"), [(64, 2, 32), (32, 16, 16), (8, 16, 64), (1, 256, 256)])
def test_the_factor_is_measured_in_bytes(groups, codes, factor):
    x = noise(4, 64, 8, 8)
    quantiser = VectorQuantiser(64, groups, codes)
    packed = quantiser.encode(x)
    assert x.nbytes == factor * packed.nbytes
    assert packed.data.untyped_storage().nbytes() == packed.nbytes
    assert 32 * 64 / quantiser.bits_per_position == factor


def test_a_code_for_each_vector_is_exact():
    x = noise(4, 2, 8, 8, dtype=torch.float64)
    quantiser = VectorQuantiser(2, 2, 256).double()
    quantiser.start(x)
    packed = quantiser.encode(x)
    assert torch.equal(quantiser.decode(packed), x)
    assert x.nbytes == 8 * packed.nbytes


def test_a_factor_of_one():
    x = noise(4, 2, 8, 8).half()
    assert VectorQuantiser(2, 2, 65536).encode(x).nbytes == x.nbytes


@pytest.mark.parametrize("codes", [2**b for b in range(1, 17)] + [3, 100, 300])
def test_packed_and_back_for_all_widths(codes):
    quantiser = VectorQuantiser(4, 2, codes)
    x = noise(2, 4, 3, 5)
    packed = quantiser.encode(x)
    assert torch.equal(quantiser.decode(packed), quantiser(x))
    bits = math.ceil(math.log2(codes))
    assert quantiser.bits_per_position == 2 * bits
    assert packed.nbytes == -(-2 * 3 * 5 * 2 * bits // 8)
    assert quantiser.codebook_bytes == 2 * codes * 2 * 4


def test_a_kept_codebook_decodes_its_own_version():
    quantiser = VectorQuantiser(4, 2, 8)
    x = noise(30, 4, 2, 2)
    quantiser(x, learn=True)
    packed, meant, kept = quantiser.encode(x), quantiser(x), quantiser.codebook.clone()
    quantiser.step()
    assert packed.version == int(quantiser.version) - 1
    assert torch.equal(quantiser.decode(packed, codebook=kept), meant)
    assert not torch.equal(quantiser.decode(packed), meant)


def test_a_packed_message_in_a_checkpoint():
    quantiser = VectorQuantiser(4, 2, 8)
    packed = quantiser.encode(noise(2, 4, 3, 3).half())
    file = io.BytesIO()
    torch.save(packed.plain(), file)
    file.seek(0)
    again = Packed(**torch.load(file, weights_only=True))
    assert torch.equal(quantiser.decode(again), quantiser.decode(packed))
    assert (again.shape, again.dtype, again.version) == (packed.shape, torch.float16, packed.version)


def test_perplexity():
    quantiser = VectorQuantiser(4, 2, 8)
    quantiser.ema_count.fill_(5.0)
    assert quantiser.perplexity().item() == pytest.approx(8, rel=1e-6)
    quantiser.ema_count[0] = torch.tensor([1.0] * 2 + [0.0] * 6)
    assert quantiser.perplexity().item() == pytest.approx((2 + 8) / 2, rel=1e-6)


# What it does not depend on


def trained(steps, quantiser=None, first=0):
    quantiser = quantiser or VectorQuantiser(4, 2, 16, decay=0.8, dead=0.3)
    for step in range(first, first + steps):
        quantiser(mixture(6000, step).unflatten(0, (60, 100)).transpose(1, 2), learn=True)
        quantiser.step()
    return quantiser


def same_state(a, b):
    return all(torch.equal(x, b.state_dict()[name]) for name, x in a.state_dict().items())


def test_the_same_data_give_the_same_codebook_and_leave_the_global_generator_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = trained(5)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert same_state(one, trained(5))


def test_a_saved_state_goes_on_as_if_nothing_had_been():
    whole = trained(6)
    file = io.BytesIO()
    torch.save(trained(3).state_dict(), file)
    file.seek(0)
    again = VectorQuantiser(4, 2, 16, decay=0.8, dead=0.3)
    again(mixture(10, 0), learn=True)  # forgotten
    again.load_state_dict(torch.load(file, weights_only=True))
    assert (again.gathered(), int(again.version), bool(again.started)) == (0, 4, True)
    assert same_state(whole, trained(3, again, first=3))


def test_a_state_that_is_copied_into_the_buffers_is_seen():
    """Stages give each other their weights so: the version must not be remembered from before."""
    source, target = trained(2), VectorQuantiser(4, 2, 16, decay=0.8, dead=0.3)
    assert target.encode(mixture(5, 0)).version == 0
    for tensor, held in zip(target.state_dict().values(), source.state_dict().values(), strict=True):
        tensor.copy_(held)
    assert target.encode(mixture(5, 0)).version == 3
    assert same_state(trained(1, target, first=2), trained(3))


def test_a_copy_learns_on_its_own():
    one = trained(1)
    other = copy.deepcopy(one)
    trained(1, other, first=1)
    assert int(one.version) == 2
    assert int(other.version) == 3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    quantiser = trained(3).to(dtype)
    assert {t.dtype for t in quantiser.buffers() if t.is_floating_point()} == {torch.float32}
    assert same_state(quantiser, trained(3))  # nothing was rounded
    x = mixture(50, 9).to(dtype)
    y = quantiser(x, learn=True)
    assert y.dtype == dtype
    assert torch.equal(y, quantiser(x.float()).to(dtype))
    assert torch.equal(quantiser.decode(quantiser.encode(x)), y)
    quantiser.step()
    assert {t.dtype for t in quantiser.double().to(dtype).buffers() if t.is_floating_point()} == {torch.float32}


def test_double_precision():
    quantiser = VectorQuantiser(4, 2, 8).double()
    x = noise(50, 4, dtype=torch.float64)
    y = quantiser(x, learn=True)
    quantiser.step()
    assert y.dtype == quantiser.codebook.dtype == quantiser.ema_sum.dtype == torch.float64


def test_autocast_changes_nothing():
    quantiser = with_codes(8, 2, 256)
    quantiser.codebook.mul_(0.01).add_(10.0)
    x = noise(4, 8, 16, 16) * 0.01 + 10
    expected = quantiser(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(quantiser(x), expected)


def test_memory_formats():
    quantiser = with_codes(8, 2, 16)
    x = noise(2, 8, 4, 4)
    y = quantiser(x.to(memory_format=torch.channels_last))
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(y, quantiser(x))
    assert quantiser(x).is_contiguous()
    packed = quantiser.encode(x.to(memory_format=torch.channels_last))
    assert torch.equal(packed.data, quantiser.encode(x).data)
    assert quantiser.decode(packed).is_contiguous()


def test_shapes_alone():
    quantiser = VectorQuantiser(4, 2, 8).to("meta")
    assert quantiser(torch.empty(2, 4, 3, 3, device="meta")).shape == (2, 4, 3, 3)


def test_inference_mode():
    with torch.inference_mode():
        quantiser = VectorQuantiser(4, 2, 8)
        assert quantiser.encode(noise(2, 4)).version == 0
    quantiser = trained(1)
    with torch.inference_mode():
        assert quantiser.encode(mixture(5, 0)).version == 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_a_step_does_not_wait_for_the_device():
    quantiser = trained(1).cuda()
    x = mixture(6000, 5).unflatten(0, (60, 100)).transpose(1, 2)
    there = x.cuda()
    y = quantiser(there, learn=True)  # reads the version, which the move may have changed
    torch.cuda.set_sync_debug_mode("error")
    try:
        quantiser.step()
        quantiser(there, learn=True)
        packed = quantiser.encode(there)
        quantiser.decode(packed)
        quantiser.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(y.cpu(), trained(1)(x))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": 5}, "5 groups of 12 channels; expected a divisor of the channels: 1, 2, 3, 4, 6, 12"),
        ({"groups": 0}, "0 groups"),
        ({"codes": 1}, "1 codes; expected 2 to 65536, such as 256"),
        ({"codes": 65537}, "65537 codes"),
        ({"decay": 1.0}, "decay 1.0; expected at least 0 and less than 1"),
        ({"dead": -0.1}, "dead -0.1"),
        ({"epsilon": -1.0}, "epsilon -1.0"),
    ],
)
def test_options_that_make_no_sense(options, message):
    with pytest.raises(ValueError, match=message):
        VectorQuantiser(**{"channels": 12, "groups": 3, "codes": 4, **options})


def test_tensors_that_do_not_fit():
    quantiser = VectorQuantiser(4, 2, 8)
    for x in (noise(2, 5, 3, 3), noise(4)):
        with pytest.raises(ValueError, match=r"4 channels in dimension 1"):
            quantiser(x)
    other = VectorQuantiser(4, 1, 8).encode(noise(2, 4))
    with pytest.raises(ValueError, match=r"4 channels in 1 groups of 8 codes.*decode it with the quantiser that"):
        quantiser.decode(other)
