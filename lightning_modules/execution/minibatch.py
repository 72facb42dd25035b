"""A minibatch as asynchronous modules keep and send it: clips' messages, quantised ones as codes, and its plain form.

learnt from     messages dense                                   execution/greedy.py
in a buffer     quantised ones as codes, with their codebook     a codebook changes, codes of an older version do not
elsewhere       dicts, lists, tensors                            checkpoints, other processes
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from lightning_modules.execution.greedy import Clips, Network
from lightning_modules.layers.vector_quantiser import Packed

Minibatch = list[Clips]  # of clips of one length each, where the network needs that


@dataclass(frozen=True)
class Coded:
    """A quantised message as it is held: its codes, the codebook of their version, and the shape that they make."""

    packed: Packed
    codebook: Tensor
    shape: torch.Size


def dense(network: Network, minibatch: Minibatch) -> Minibatch:
    """Return a minibatch with all messages dense, as modules read them."""
    return [replace(p, messages={u: _decoded(network, u, m) for u, m in p.messages.items()}) for p in minibatch]


def _decoded(network: Network, unit: int, message: Any) -> Tensor:
    if not isinstance(message, Coded):
        return message
    quantiser = network.quantiser(unit)
    assert quantiser is not None
    return quantiser.decode(message.packed, codebook=message.codebook).view(message.shape)


def plain(minibatch: Minibatch) -> list[dict[str, Any]]:
    """Return a minibatch as plain containers and tensors."""
    made = []
    for part in minibatch:
        values = {field.name: getattr(part, field.name) for field in fields(part)}
        values["messages"] = {unit: _plain_message(m) for unit, m in part.messages.items()}
        made.append(values)
    return made


def _plain_message(message: Any) -> Any:
    if isinstance(message, Coded):
        return {"packed": message.packed.plain(), "codebook": message.codebook, "shape": list(message.shape)}
    return message


def from_plain(content: list[dict[str, Any]]) -> Minibatch:
    """Return the minibatch that `plain` described."""
    made = []
    for values in content:
        messages = {unit: _restored(m) for unit, m in values["messages"].items()}
        made.append(Clips(**{**values, "messages": messages}))
    return made


def _restored(message: Any) -> Any:
    if isinstance(message, Mapping):
        return Coded(Packed(**message["packed"]), message["codebook"], torch.Size(message["shape"]))
    return message
