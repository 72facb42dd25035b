"""Nests of plain containers and tensors as named tensors, which is what a mailbox takes, and back [D].

{"frames": 8, "messages": {2: x}}   -->   structure   {"dict": [["frames", 8], ["messages", {"dict": [...]}]]}
                                          0           x
"""

import json
from typing import Any

import torch
from torch import Tensor

_STRUCTURE = "structure"


def wrapped(content: Any) -> dict[str, Tensor]:
    """Return a content as named tensors: its own ones, numbered, and its structure as bytes.

    Args:
        content: a nest of dicts, lists, tuples, numbers, strings, None, dtypes and sizes, and tensors.

    Raises:
        TypeError: anything else.
    """
    tensors: dict[str, Tensor] = {}
    structure = json.dumps(_described(content, tensors)).encode()
    return {_STRUCTURE: torch.frombuffer(bytearray(structure), dtype=torch.uint8), **tensors}


def unwrapped(parts: dict[str, Tensor]) -> Any:
    """Return the content that was wrapped."""
    return _rebuilt(json.loads(bytes(parts[_STRUCTURE].numpy())), parts)


def _described(content: Any, tensors: dict[str, Tensor]) -> Any:
    if content is None or type(content) in (bool, int, float, str):
        return content
    if isinstance(content, Tensor):
        tensors[str(len(tensors))] = content
        return {"tensor": str(len(tensors) - 1)}
    if isinstance(content, torch.dtype):
        return {"dtype": str(content).removeprefix("torch.")}
    if isinstance(content, torch.Size):
        return {"size": list(content)}
    if type(content) is dict:
        pairs = content.items()
        return {"dict": [[_described(key, tensors), _described(value, tensors)] for key, value in pairs]}
    if type(content) in (list, tuple):
        return {type(content).__name__: [_described(part, tensors) for part in content]}
    raise TypeError(f"a {type(content).__name__} cannot be sent; expected plain containers, numbers and tensors")


def _rebuilt(described: Any, tensors: dict[str, Tensor]) -> Any:
    if not isinstance(described, dict):
        return described
    ((kind, inner),) = described.items()
    if kind == "tensor":
        return tensors[inner]
    if kind == "dtype":
        return getattr(torch, inner)
    if kind == "size":
        return torch.Size(inner)
    if kind == "dict":
        return {_rebuilt(key, tensors): _rebuilt(value, tensors) for key, value in inner}
    parts = [_rebuilt(part, tensors) for part in inner]
    return tuple(parts) if kind == "tuple" else parts
