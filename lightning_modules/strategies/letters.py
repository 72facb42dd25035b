"""Small objects between processes, through the run's key-value store: what a clip's stages must tell one another.

The store (torch.distributed's TCPStore) is slow beside the exchange of tensors, about a millisecond a letter, and never
blocks the sender. A letter is read once, and in the order in which letters of one topic were written.
"""

import io
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields, is_dataclass, replace
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor
from torch.distributed import Store

_SLICE = timedelta(milliseconds=500)


class Letters:
    """Letters from and to one process.

    Args:
        store: shared by all processes of the run.
        address: this process's, unique in the run.
        check: called while a letter is waited for; raises where its sender cannot write any more.
        guard: around each use of the store, with what it is for; may say more of a store that is gone.
    """

    def __init__(
        self,
        store: Store,
        address: str,
        check: Callable[[], None],
        guard: Callable[[str], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        self.store, self.address, self.check, self.guard = store, address, check, guard
        self._written: Counter[str] = Counter()
        self._read: Counter[str] = Counter()

    def write(self, to: str, topic: str, content: Any) -> None:
        """Write a letter: plain values and CPU tensors."""
        buffer = io.BytesIO()
        torch.save(content, buffer)
        topic = f"{topic}/{self.address}>{to}"
        with self.guard(f"writing to rank {to}"):
            # It takes bytes too.
            self.store.set(f"{topic}/{self._written[topic]}", buffer.getvalue())  # type: ignore[arg-type]
        self._written[topic] += 1

    def read(self, sender: str, topic: str) -> Any:
        """Return the next letter of a topic, once it is there."""
        topic = f"{topic}/{sender}>{self.address}"
        key = f"{topic}/{self._read[topic]}"
        self._read[topic] += 1
        with self.guard(f"waiting for rank {sender}"):
            self._wait(key)
            content = self.store.get(key)
            self.store.delete_key(key)
        # Written by another process of this run, which may hold any object of a batch.
        return torch.load(io.BytesIO(content), weights_only=False)

    def _wait(self, key: str) -> None:
        while True:
            self.check()
            try:
                self.store.wait([key], _SLICE)
            except torch.distributed.DistStoreError:
                time.sleep(0)  # not there yet
            else:
                return


def for_tensors(value: Any, change: Callable[[Tensor], Any]) -> Any:
    """Return nested dicts, lists, tuples and dataclasses with every tensor changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {key: for_tensors(inner, change) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(for_tensors(inner, change) for inner in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: for_tensors(getattr(value, f.name), change) for f in fields(value)})
    return value
