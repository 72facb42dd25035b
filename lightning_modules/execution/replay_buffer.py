"""The buffer between two modules that do not wait for each other: the last M minibatches, drawn again when none is new.

Each boundary of Decoupled Greedy Learning's asynchronous form has one (methods.md section 4). The lower module writes
around the ring; the upper one draws, of the minibatches used least, the first in the buffer's order:

    M = 3, written 0, 1, 2             slot       0   1   2
                                       holds      0   1   2
    next to be written: slot 0                    ^

    order            looks at slots    draws      also when not full: 0, 1 written
    priority-lifo    2, 1, 0           2, 1, 0    1, 0     the most recent first
    reference [C]    0, 2, 1           0, 2, 1    1, 0     the authors' code: once full, the oldest first

Both go backward; `reference` starts one slot too far, at the one that is written next. The authors' code counts the
writing as a use too: their limit of n uses is `max_reuse` n - 1 here.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lightning_modules.rules.greedy import ORDERS, Order, check_buffer

__all__ = ["ORDERS", "Order", "ReplayBuffer", "moved", "slots_looked_at", "tensors_of"]


def slots_looked_at(order: Order, following: int, size: int) -> list[int]:
    """Return the slots of a ring of `size` in the order in which they are looked at.

    Args:
        order: `priority-lifo` starts at the slot written last, `reference` at the one written next [C].
        following: slot that is written next.
        size: M.
    """
    start = following - 1 if order == "priority-lifo" else following
    return [(start - back) % size for back in range(size)]


def tensors_of(content: Any) -> Iterator[Tensor]:
    """Yield the tensors in a nest of mappings, lists, tuples and dataclasses."""
    if isinstance(content, Tensor):
        yield content
        return
    for part in _parts(content):
        yield from tensors_of(part)


def _parts(content: Any) -> Iterator[Any]:
    if isinstance(content, Mapping):
        yield from content.values()
    elif isinstance(content, list | tuple):
        yield from content
    elif _is_record(content):
        yield from (getattr(content, field.name) for field in fields(content))


def _is_record(content: Any) -> bool:
    return is_dataclass(content) and not isinstance(content, type)


def moved(content: Any, device: torch.device) -> Any:
    """Return a nest of mappings, lists, tuples and dataclasses with its tensors on a device."""
    if isinstance(content, Tensor):
        return content.to(device)
    if isinstance(content, Mapping):
        return {key: moved(part, device) for key, part in content.items()}
    if isinstance(content, list):
        return [moved(part, device) for part in content]
    if isinstance(content, tuple):
        parts = [moved(part, device) for part in content]
        return type(content)(*parts) if hasattr(content, "_fields") else tuple(parts)
    if _is_record(content):
        changed = {field.name: moved(getattr(content, field.name), device) for field in fields(content) if field.init}
        return replace(content, **changed)
    return content


@dataclass
class _Entry:
    """A minibatch in the buffer: when it was pushed, and how often it was drawn."""

    content: Any
    pushed_at: int
    uses: int = 0


@dataclass
class _Counts:
    """What has happened since the figures were last asked for."""

    draws: int = 0
    idle: int = 0
    age_sum: int = 0
    overwritten: int = 0
    uses_sum: int = 0


def _as_given(content: Any) -> Any:
    return content


class ReplayBuffer:
    """The last M minibatches that crossed a boundary.

    Contents are nests of mappings, lists, tuples and dataclasses with detached tensors; they are kept as given, not
    copied, and drawn as they are.

    Args:
        size: M, how many minibatches are held.
        order: of minibatches that were used equally often.
        max_reuse: a minibatch that was drawn so often is not drawn again; None for no limit.
        plain: turns a content into mappings, lists, tuples, tensors, numbers and strings, for a checkpoint.
        restored: turns it back.

    Raises:
        ValueError: a size or `max_reuse` below 1, an unknown order.
    """

    def __init__(
        self,
        size: int,
        order: Order = "priority-lifo",
        max_reuse: int | None = None,
        *,
        plain: Callable[[Any], Any] = _as_given,
        restored: Callable[[Any], Any] = _as_given,
    ) -> None:
        check_buffer(size, order, max_reuse)
        self.size, self.order, self.max_reuse = size, order, max_reuse
        self._plain, self._restored = plain, restored
        self._ring: list[_Entry | None] = [None] * size
        self._following = 0
        self._counts = _Counts()

    def __len__(self) -> int:
        return sum(entry is not None for entry in self._ring)

    @property
    def nbytes(self) -> int:
        """Bytes of the storages that are held, a shared one counted once, and a view's counted whole."""
        storages = [t.untyped_storage() for e in self._ring if e is not None for t in tensors_of(e.content)]
        return sum({(str(s.device), s.data_ptr()): s.nbytes() for s in storages}.values())

    def push(self, content: Any, now: int) -> None:
        """Write a minibatch over the oldest.

        Args:
            content: what is drawn later; its tensors must be detached.
            now: the step.
        """
        assert not any(t.requires_grad for t in tensors_of(content)), "a buffer would keep the graph of each minibatch"
        old = self._ring[self._following]
        if old is not None:
            self._counts.overwritten += 1
            self._counts.uses_sum += old.uses
        self._ring[self._following] = _Entry(content, now)
        self._following = (self._following + 1) % self.size

    def draw(self, now: int) -> Any | None:
        """Return the minibatch used least, the first of them in the buffer's order, and count the use.

        Args:
            now: the step.

        Returns:
            The content, or None where nothing is held or all was drawn `max_reuse` times.
        """
        held = [self._ring[slot] for slot in slots_looked_at(self.order, self._following, self.size)]
        entry = min((e for e in held if e is not None), key=lambda e: e.uses, default=None)
        if entry is None or (self.max_reuse is not None and entry.uses >= self.max_reuse):
            self._counts.idle += 1
            return None
        entry.uses += 1
        self._counts.draws += 1
        self._counts.age_sum += now - entry.pushed_at
        return entry.content

    def figures(self) -> dict[str, float]:
        """Return what happened since the last call; a mean over nothing is left out.

        Returns:
            draws: minibatches drawn.
            idle: draws that gave None.
            held: minibatches in the buffer now.
            age: mean steps between push and draw, over draws.
            reuse: mean uses of the minibatches that were overwritten, or of those held where none was.
        """
        counts, self._counts = self._counts, _Counts()
        found = {"draws": float(counts.draws), "idle": float(counts.idle), "held": float(len(self))}
        if counts.draws:
            found["age"] = counts.age_sum / counts.draws
        if counts.overwritten:
            found["reuse"] = counts.uses_sum / counts.overwritten
        elif len(self):
            found["reuse"] = sum(e.uses for e in self._ring if e is not None) / len(self)
        return found

    def to(self, device: torch.device) -> None:
        """Move what is held to a device, for a buffer that comes from a checkpoint."""
        for entry in self._ring:
            if entry is not None:
                entry.content = moved(entry.content, device)

    def state_dict(self) -> dict[str, Any]:
        """Return plain containers and tensors, for a checkpoint."""
        ring = [None if e is None else [self._plain(e.content), e.pushed_at, e.uses] for e in self._ring]
        return {"ring": ring, "following": self._following, "counts": dict(vars(self._counts))}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` described.

        Raises:
            ValueError: the state is that of a buffer of another size.
        """
        ring = state["ring"]
        if len(ring) != self.size:
            raise ValueError(
                f"the checkpoint's buffers hold {len(ring)} minibatches and this run's hold {self.size}; go on with a "
                f"buffer of {len(ring)}, or start a new run without --ckpt_path"
            )
        self._ring = [None if e is None else _Entry(self._restored(e[0]), e[1], e[2]) for e in ring]
        self._following = state["following"]
        self._counts = _Counts(**state["counts"])
