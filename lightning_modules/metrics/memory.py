"""Memory that training needs: bytes that autograd saves, and the peak of the process or device."""

import resource
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

MIB = 2**20


class _Held:
    """A saved tensor; its bytes count until autograd lets it go."""

    def __init__(self, tensor: Tensor, meter: "SavedTensors") -> None:
        self.tensor, self.meter = tensor, meter
        meter.take(tensor)

    def __del__(self) -> None:
        self.meter.give(self.tensor)


class SavedTensors:
    """Bytes that autograd's graphs hold at one time, parameters left out and shared storage counted once.

    Read `peak_bytes` after the block `with SavedTensors.measure(module) as meter: ...`.
    """

    def __init__(self, module: nn.Module) -> None:
        self._parameters = {p.untyped_storage().data_ptr() for p in module.parameters()}
        self._holders: Counter[int] = Counter()
        self.live_bytes = 0
        self.peak_bytes = 0

    @classmethod
    @contextmanager
    def measure(cls, module: nn.Module) -> Iterator["SavedTensors"]:
        """Count what is saved for backward inside the block, except the module's parameters."""
        meter = cls(module)
        with torch.autograd.graph.saved_tensors_hooks(lambda t: _Held(t, meter), lambda held: held.tensor):
            yield meter

    def take(self, tensor: Tensor) -> None:
        """Count a tensor's storage, once however many saved tensors share it."""
        storage = tensor.untyped_storage()
        if storage.data_ptr() in self._parameters:
            return
        if self._holders[storage.data_ptr()] == 0:
            self.live_bytes += storage.nbytes()
            self.peak_bytes = max(self.peak_bytes, self.live_bytes)
        self._holders[storage.data_ptr()] += 1

    def give(self, tensor: Tensor) -> None:
        """Stop counting a tensor's storage when its last holder goes."""
        storage = tensor.untyped_storage()
        if storage.data_ptr() in self._parameters:
            return
        self._holders[storage.data_ptr()] -= 1
        if self._holders[storage.data_ptr()] == 0:
            self.live_bytes -= storage.nbytes()


def storage_bytes(tensors: Iterable[Tensor]) -> int:
    """Return the bytes of the tensors' storages, a shared one counted once."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


def tensors_in(value: object) -> Iterator[Tensor]:
    """Yield the tensors in nested dicts, lists and tuples."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from tensors_in(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from tensors_in(inner)


def reset_peak(device: torch.device) -> None:
    """Start a new peak for `peak_mib`, where the system allows it (CUDA; Linux)."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        # "5" resets the peak resident set size of this process (Linux, proc(5)).
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def peak_mib(device: torch.device) -> float:
    """Return the peak in MiB since `reset_peak`: allocated on a CUDA device, else the process's resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / MIB
    try:
        status = Path("/proc/self/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
