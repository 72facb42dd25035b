"""Indices of a few bits each, in bytes without gaps, lowest bits first.

Eight indices of `bits` bits are `bits` bytes, so the bytes are written in groups, each with the same few shifts:

    bits = 3    index   0     1     2     3     4     5     6     7
                bit     0-2   3-5   6-8   9-11  12-14 15-17 18-20 21-23
                byte    0-------------7|8-----------15|16-----------23

Where 8 / bits is whole, one product moves the indices of a byte to their places: no two of its terms share a bit.
"""

import sys

import torch
import torch.nn.functional as F
from torch import Tensor

MAX_BITS = 16
# Numbers as wide as the indices of one byte are before they are packed.
_WIDE = {1: torch.int64, 2: torch.int32, 4: torch.int16}
_EIGHT_TIMES = int.from_bytes([1] * 8, sys.byteorder)
_BIT_OF_BYTE = int.from_bytes([1 << i for i in range(8)], sys.byteorder, signed=True)


def _check(bits: int) -> None:
    if not 1 <= bits <= MAX_BITS:
        raise ValueError(f"{bits} bits an index; expected 1 to {MAX_BITS}")


def index_bits(codes: int) -> int:
    """Return the bits of an index below `codes`, whole as they are sent: the ceiling of its base-2 logarithm."""
    return (codes - 1).bit_length()


def packed_bytes(count: int, bits: int) -> int:
    """Return the bytes that `count` indices take."""
    return -(-count * bits // 8)


def _shifted(value: Tensor, left: int) -> Tensor:
    return value << left if left >= 0 else value >> -left


def _touches(index: int, byte: int, bits: int) -> bool:
    return index * bits < 8 * (byte + 1) and 8 * byte < (index + 1) * bits


def _pack_by_product(flat: Tensor, bits: int) -> Tensor:
    each = 8 // bits
    factor = sum(1 << (8 * (each - 1) - (8 - bits) * i) for i in range(each))
    # Padding copies, by nothing too: a view of wider numbers needs memory that starts at one.
    flat = F.pad(flat, (0, -len(flat) % each))
    highest = (flat.view(_WIDE[bits]) * factor).view(torch.uint8)[each - 1 :: each]
    return highest.clone(memory_format=torch.contiguous_format)


def pack(indices: Tensor, bits: int) -> Tensor:
    """Return the indices, in their order, as bytes (uint8, 1-D) on their device; see `unpack`.

    Args:
        indices: whole numbers from 0 to 2^bits - 1, of any shape. Larger ones spoil their neighbours, unchecked: a
            check would make the host wait for the device.
        bits: 1 to 16.

    Raises:
        ValueError: bits out of range; indices that are no whole numbers.
    """
    _check(bits)
    if indices.is_floating_point() or indices.is_complex() or indices.dtype == torch.bool:
        raise ValueError(f"indices of {indices.dtype}; expected whole numbers, such as torch.int64")
    # Bytes may drop what is shifted out at their top; indices of more than 8 bits need room for a shift of 7.
    flat = indices.reshape(-1).to(torch.uint8 if bits <= 8 else torch.int32)
    if bits == 8:
        return flat.clone() if flat.data_ptr() == indices.data_ptr() else flat
    if bits in _WIDE and sys.byteorder == "little":
        return _pack_by_product(flat, bits)
    groups = F.pad(flat, (0, -len(flat) % 8)).view(-1, 8)
    packed = torch.empty(len(groups), bits, dtype=torch.uint8, device=flat.device)
    for byte in range(bits):
        parts = [_shifted(groups[:, i], i * bits - 8 * byte) for i in range(8) if _touches(i, byte, bits)]
        whole = parts[0]
        for part in parts[1:]:
            whole = whole | part
        packed[:, byte] = whole if bits < 8 else whole & 255
    return packed.view(-1)[: packed_bytes(len(flat), bits)].clone()


def unpack(packed: Tensor, bits: int, count: int) -> Tensor:
    """Return the first `count` indices (int64, 1-D) of what `pack` made.

    Raises:
        ValueError: bits out of range; what is no 1-D tensor of bytes, or too short for so many indices.
    """
    _check(bits)
    need = packed_bytes(count, bits)
    if packed.dtype != torch.uint8 or packed.dim() != 1 or count < 0 or len(packed) < need:
        raise ValueError(
            f"{tuple(packed.shape)} of {packed.dtype} for {count} indices of {bits} bits; "
            f"expected at least ({need},) of torch.uint8, as `pack` returns it"
        )
    if bits == 8:
        return packed[:count].to(torch.int64)
    groups = F.pad(packed[:need], (0, -need % bits)).to(torch.int32).view(-1, bits)
    indices = torch.empty(len(groups), 8, dtype=torch.int64, device=packed.device)
    for index in range(8):
        parts = [_shifted(groups[:, j], 8 * j - index * bits) for j in range(bits) if _touches(index, j, bits)]
        whole = parts[0]
        for part in parts[1:]:
            whole = whole | part
        indices[:, index] = whole & (2**bits - 1)
    return indices.view(-1)[:count].clone()


def unpack_flags(packed: Tensor, count: int) -> Tensor:
    """Return the first `count` of the indices that `pack` made 1 bit each as bytes (uint8, 1-D): 0, or more than 0."""
    return packed.to(torch.int64).mul_(_EIGHT_TIMES).bitwise_and_(_BIT_OF_BYTE).view(torch.uint8)[:count]
