"""Packed indices: every width comes back, without gaps, in the order that a long number's bits have."""

import pytest
import torch

from lightning_modules.layers.bit_packing import index_bits, pack, packed_bytes, unpack


@pytest.mark.parametrize("bits", range(1, 17))
def test_round_trip_and_size(bits):
    generator = torch.Generator().manual_seed(bits)
    for count in (0, 1, 7, 8, 9, 1001):
        indices = torch.randint(2**bits, (count,), generator=generator)
        packed = pack(indices, bits)
        assert (packed.dtype, packed.dim(), packed.nbytes) == (torch.uint8, 1, -(-count * bits // 8))
        assert packed.untyped_storage().nbytes() == packed_bytes(count, bits)
        torch.testing.assert_close(unpack(packed, bits, count), indices, rtol=0, atol=0)


@pytest.mark.parametrize("bits", range(1, 17))
def test_the_bytes_are_those_of_one_long_number(bits):
    indices = torch.randint(2**bits, (45,), generator=torch.Generator().manual_seed(bits)).tolist()
    number = sum(index << (bits * place) for place, index in enumerate(indices))
    assert bytes(pack(torch.tensor(indices), bits).tolist()) == number.to_bytes(packed_bytes(45, bits), "little")


@pytest.mark.parametrize("bits", [1, 5, 8, 11, 16])
def test_largest_and_smallest_index(bits):
    indices = torch.tensor([2**bits - 1, 0] * 9)
    assert unpack(pack(indices, bits), bits, 18).tolist() == indices.tolist()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_any_whole_type_and_shape(dtype):
    indices = torch.arange(24, dtype=dtype).view(2, 3, 4).transpose(0, 2)
    assert unpack(pack(indices, 5), 5, 24).tolist() == indices.flatten().tolist()


def test_packing_does_not_hand_out_the_indices_own_memory():
    indices = torch.arange(8, dtype=torch.uint8)
    packed = pack(indices, 8)
    indices.zero_()
    assert packed.tolist() == list(range(8))


@pytest.mark.parametrize(("codes", "bits"), [(2, 1), (3, 2), (4, 2), (5, 3), (256, 8), (257, 9), (65536, 16)])
def test_bits_of_an_index(codes, bits):
    assert index_bits(codes) == bits


def test_errors():
    with pytest.raises(ValueError, match="0 bits an index; expected 1 to 16"):
        pack(torch.tensor([0]), 0)
    with pytest.raises(ValueError, match="17 bits"):
        unpack(torch.zeros(9, dtype=torch.uint8), 17, 1)
    with pytest.raises(ValueError, match="expected whole numbers"):
        pack(torch.tensor([0.0]), 3)
    with pytest.raises(ValueError, match=r"\(2,\) of torch.uint8 for 6 indices of 3 bits; expected at least \(3,\)"):
        unpack(torch.zeros(2, dtype=torch.uint8), 3, 6)
    with pytest.raises(ValueError, match=r"of torch\.int64"):
        unpack(torch.zeros(3, dtype=torch.int64), 3, 6)
