"""Who keeps what for the backward pass: the bytes that each layer saves, and who else keeps a layer's input.

    x -> conv 1 -> ReLU -> conv 2        conv 1 keeps x; ReLU keeps its result, and conv 2 the same tensor

A convolution that saves a sketch in place of its input frees memory only where nobody else keeps that input: above,
conv 2's stays because of ReLU (methods.md section 5, "memory truth" [D]). A copy of the network runs once with a graph,
and each tensor that autograd saves is put down to the layer that runs. What autograd does not see is not counted, as
in memory.py. Under autocast a convolution saves a cast of its input, which is its own: call this outside of it.

Shape legend: T frames of a clip, C channels, H and W height and width.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from lightning_modules.metrics.memory import tensors_in
from lightning_modules.networks import ClipNetwork, UnitNetwork
from lightning_modules.networks.wiring import INPUT

BATCH = "(the batch)"
FUNCTION = "(function)"


@dataclass(frozen=True)
class SavedByLayer:
    """What a layer keeps for the backward pass, and who keeps its input.

    Args:
        name: in `named_modules()`; `FUNCTION` for all that runs outside of layers.
        kind: the layer's class.
        input_shape: of the first input of its first call; () for a layer that takes no tensor.
        saved_bytes: of the storages that it is the first to keep, parameters left out; over all layers each counts
            once, so that the sum is `memory.SavedTensors`'s.
        input_bytes: of its first input, all calls together.
        pinned_by: of a layer with parameters, who else keeps the storage of its input: other layers, `FUNCTION`, and
            first of all `BATCH` where it is the network's own input. Of layers without parameters nothing is said.
    """

    name: str
    kind: str
    input_shape: tuple[int, ...]
    saved_bytes: int
    input_bytes: int
    pinned_by: tuple[str, ...]


class _Watch:
    """Who runs, what it reads and what is saved meanwhile.

    All tensors stay alive, so that no storage's address is used twice.
    """

    def __init__(self, network: nn.Module, batch: Tensor) -> None:
        self.layers = {name: m for name, m in network.named_modules() if _is_layer(m)}
        self.inputs: dict[str, list[Tensor]] = {}
        self.saved_bytes = dict.fromkeys([*self.layers, FUNCTION], 0)
        self._parameters = {_address(p) for p in network.parameters()}
        self._batch = batch
        self._keepers: dict[int, list[str]] = {}
        self._running: list[str] = []
        self._alive: list[Tensor] = []

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch all forwards inside the block."""
        hooks = []
        for name, layer in self.layers.items():
            hooks.append(layer.register_forward_pre_hook(self._enter(name), with_kwargs=True, prepend=True))
            hooks.append(layer.register_forward_hook(self._leave))
        try:
            with torch.autograd.graph.saved_tensors_hooks(self._save, lambda tensor: tensor):
                yield
        finally:
            for hook in hooks:
                hook.remove()

    def _enter(self, name: str) -> Any:
        def enter(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._running.append(name)
            first = next(tensors_in([*args, *kwargs.values()]), None)
            self.inputs.setdefault(name, []).extend([] if first is None else [first.detach()])

        return enter

    def _leave(self, *_: object) -> None:
        self._running.pop()

    def _save(self, tensor: Tensor) -> Tensor:
        storage, name = tensor.untyped_storage(), self._running[-1] if self._running else FUNCTION
        tensor = tensor.detach()
        if storage.nbytes() == 0 or storage.data_ptr() in self._parameters:
            return tensor
        keepers = self._keepers.setdefault(storage.data_ptr(), [])
        if not keepers:
            self.saved_bytes[name] += storage.nbytes()
            self._alive.append(tensor)
        if name not in keepers:
            keepers.append(name)
        return tensor

    def _pinned_by(self, name: str) -> tuple[str, ...]:
        addresses = [_address(x) for x in self.inputs[name] if x.numel()]
        keepers = [keeper for address in addresses for keeper in self._keepers.get(address, []) if keeper != name]
        batch = [BATCH] if _address(self._batch) in addresses else []
        return tuple(dict.fromkeys(batch + keepers))

    def rows(self) -> list[SavedByLayer]:
        """Return what the layers that ran keep, in the order of their first calls."""
        rows = []
        for name, inputs in self.inputs.items():
            layer = self.layers[name]
            rows.append(
                SavedByLayer(
                    name,
                    type(layer).__name__,
                    tuple(inputs[0].shape) if inputs else (),
                    self.saved_bytes[name],
                    sum(x.nbytes for x in inputs),
                    self._pinned_by(name) if next(layer.parameters(), None) is not None else (),
                )
            )
        if self.saved_bytes[FUNCTION]:
            rows.append(SavedByLayer(FUNCTION, "", (), self.saved_bytes[FUNCTION], 0, ()))
        return rows


def _is_layer(module: nn.Module) -> bool:
    """Whether a module has no modules inside, or is a convolution, which parametrisations may be in."""
    return isinstance(module, _ConvNd) or next(module.children(), None) is None


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def saved_by_layer(network: nn.Module, shape: Sequence[int], batch: int = 2) -> list[SavedByLayer]:
    """Return what each layer keeps for the backward pass, in the order of the forward pass.

    A copy of the network runs once, on its device, in its modes of training, on noise; its hooks run too, and so do
    modules' heads and quantisers. Nothing of the network and of torch's random state changes.

    Args:
        network: a network of frames, of clips, or any module whose forward takes one tensor.
        shape: of one sample: (C, H, W), for a network of clips (T, C, H, W).
        batch: samples.

    Returns:
        A row for each layer that ran, and a last one, `FUNCTION`, where anything outside of layers is first to keep
        something: functions in the forwards of networks, merges and heads.

    Raises:
        ValueError: a shape of another number of sizes than the network's, or a batch below 1.
    """
    _check(network, shape, batch)
    network = copy.deepcopy(network)
    like = next(network.parameters(), torch.empty(0))
    generator = torch.Generator().manual_seed(0)
    samples = torch.rand(batch, *shape, generator=generator).to(like.device, like.dtype)
    watch = _Watch(network, samples)
    devices = [like.device] if like.device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.enable_grad(), watch.watching():
        _run(network, samples)
    return watch.rows()


def _check(network: nn.Module, shape: Sequence[int], batch: int) -> None:
    if batch < 1:
        raise ValueError(f"batch is {batch}; give 1 or more, or leave it out")
    if isinstance(network, UnitNetwork | ClipNetwork):
        clips = isinstance(network, ClipNetwork)
        if len(shape) != 3 + clips:
            expected = "(T, C, H, W), a clip's" if clips else "(C, H, W), a frame's"
            raise ValueError(f"shape is {tuple(shape)}; this network needs {expected}, without the batch")


def _run(network: nn.Module, samples: Tensor) -> None:
    """Run a network; one that is cut into modules module by module, with what they send and answer."""
    if not isinstance(network, UnitNetwork | ClipNetwork) or not network.module_count:
        network(samples)
        return
    messages = {INPUT: samples.transpose(1, 2) if isinstance(network, ClipNetwork) else samples}
    for module in range(1, network.module_count + 1):
        sent, _ = network.module_forward(module, messages)
        for unit, message in sent.items():
            quantiser = network.quantiser(unit)
            messages[unit] = message if quantiser is None else quantiser(message)
