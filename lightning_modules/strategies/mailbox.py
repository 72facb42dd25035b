"""Messages between the stages of one host where nobody ever waits: what was not taken is overwritten, oldest first [D].

    sender, stage 0                                    receiver, stage 1
    has slot 2, by one of two ways:
      it was given back          <------ 2 -------     has copied slot 2 out
      it is the oldest one in the queue, and
      nobody took it: that message is dropped
    writes message k into it
    (2, k)   ----->   queue, at most 4 records   ----->     the oldest record, at any later time

A slot belongs to whoever holds its number: the kernel hands each record of the queue, and each number that is given
back, to one process only. So a slot is never written while it is read, a record is there only when its message is
whole, and a process that stops or dies while it holds a slot keeps nobody from the others. The receiver holds one slot
at a time: of two or more the sender always gets one without waiting.

The queue is a pair of local sockets whose reading end both processes have; the way back is the connection by which the
receiver got that end and the slots. A slot is an anonymous file that only grows, so messages may change in number,
shape and dtype. As in shared_memory.py nothing has a name in the file system: the kernel frees all of it with the last
process. Linux only.
"""

import json
import mmap
import os
import socket
import struct
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import NoReturn, Protocol

import torch
from torch import Tensor
from torch.distributed import Store

from lightning_modules.execution.stage import StageError
from lightning_modules.strategies.shared_memory import Phase, is_ours, supported

SLOTS = 4
_MOST_SLOTS = 64  # their files go in one letter, of which the kernel takes 253
_RECORD = struct.Struct("<4q")  # slot, number of the message, bytes of its layout, bytes of all of it
_HELLO = struct.Struct("<2q")  # the sender, its slots
_LINE = 64  # bytes of a cache line: where parts start

Message = tuple[int, dict[str, Tensor]]
Layout = Sequence[tuple[str, str, Sequence[int]]]  # name, dtype and shape of each part


class Closable(Protocol):
    """What holds descriptors."""

    def close(self) -> None:
        """Give them back."""


def _close(*ends: Closable) -> None:
    for end in ends:
        end.close()


def places(layout: Layout, start: int) -> Iterator[tuple[str, torch.dtype, Sequence[int], slice]]:
    """Yield the name, dtype, shape and bytes of each part of a message.

    Args:
        layout: of the message.
        start: bytes before the parts.
    """
    for name, kind, shape in layout:
        dtype: torch.dtype = getattr(torch, kind)
        start = -(-start // _LINE) * _LINE
        end = start + torch.Size(shape).numel() * dtype.itemsize
        yield name, dtype, shape, slice(start, end)
        start = end


class Slot:
    """Shared memory for one message, its layout first. Both ends have one for the same file.

    Args:
        file: descriptor, which the slot closes.
    """

    def __init__(self, file: int) -> None:
        self.file = file
        self.memory: mmap.mmap | None = None
        self.content = torch.empty(0, dtype=torch.uint8)

    def write(self, parts: Mapping[str, Tensor]) -> tuple[int, int]:
        """Copy a message in, and return the bytes of its layout and of all of it."""
        layout = [(name, str(part.dtype).removeprefix("torch."), tuple(part.shape)) for name, part in parts.items()]
        head = json.dumps(layout).encode()
        spots = list(places(layout, len(head)))
        size = max([len(head)] + [spot[3].stop for spot in spots])
        self._fit(size)
        assert self.memory is not None
        self.memory[: len(head)] = head
        for part, (_, dtype, shape, where) in zip(parts.values(), spots, strict=True):
            self.content[where].view(dtype).view(shape).copy_(part.detach())
        return len(head), size

    def read(self, head_bytes: int, size: int) -> dict[str, Tensor]:
        """Return a copy of a message.

        Args:
            head_bytes: of its layout.
            size: bytes of all of it.
        """
        self._fit(size)
        assert self.memory is not None
        layout = json.loads(self.memory[:head_bytes])
        return {
            name: self.content[where].clone().view(dtype).view(shape)
            for name, dtype, shape, where in places(layout, head_bytes)
        }

    def close(self) -> None:
        """Let go of the memory."""
        self.content, self.memory = torch.empty(0, dtype=torch.uint8), None
        os.close(self.file)

    def _fit(self, size: int) -> None:
        """Map so many bytes at least; the file is as large as its largest message."""
        if self.memory is not None and len(self.memory) >= size:
            return
        if os.fstat(self.file).st_size < size:
            os.ftruncate(self.file, size)
        self.memory = mmap.mmap(self.file, os.fstat(self.file).st_size)
        self.content = torch.frombuffer(self.memory, dtype=torch.uint8)


class Outbox:
    """The sender's end for one receiver.

    Args:
        link: the connection to the receiver, on which slots come back.
        index: the sender.
        slots: how many.
    """

    def __init__(self, link: socket.socket, index: int, slots: int) -> None:
        self.link, self.index, self.number = link, index, 0
        self.records, self.unread = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.slots = [Slot(os.memfd_create("skip-sideways")) for _ in range(slots)]
        self._free = deque(range(slots))
        for end in (self.link, self.records, self.unread):
            end.setblocking(False)

    def hand_over(self) -> None:
        """Say who we are, and give the receiver its end of the queue and the slots.

        Raises:
            ConnectionError: the receiver is gone.
        """
        files = [self.unread.fileno(), *(slot.file for slot in self.slots)]
        socket.send_fds(self.link, [_HELLO.pack(self.index, len(self.slots))], files)

    def put(self, parts: Mapping[str, Tensor], number: int) -> bool:
        """Leave a message; return whether the oldest one was dropped for it.

        Raises:
            ConnectionError: the receiver is gone.
        """
        assert number >= self.number, f"message {number} after {self.number}"
        slot, dropped = self._next_slot()
        try:
            sizes = self.slots[slot].write(parts)
        except BaseException:
            self._free.append(slot)
            raise
        self.number = number
        self.records.send(_RECORD.pack(slot, number, *sizes))
        return dropped

    def close(self) -> None:
        """Close all sockets and files; the receiver still gets what is in the queue."""
        _close(self.link, self.records, self.unread, *self.slots)

    def _next_slot(self) -> tuple[int, bool]:
        """Return a slot, and whether its message was dropped."""
        while True:
            self._collect()
            if self._free:
                return self._free.popleft(), False
            try:
                record = self.unread.recv(_RECORD.size)
            except BlockingIOError:
                continue  # all were taken since we looked, and all but one of them given back before that one
            return _RECORD.unpack(record)[0], True

    def _collect(self) -> None:
        """Note the slots that came back."""
        while True:
            try:
                numbers = self.link.recv(_MOST_SLOTS)
            except BlockingIOError:
                return
            if not numbers:
                raise ConnectionError("the receiver's end is closed")
            self._free.extend(numbers)


class Inbox:
    """The receiver's end for one sender.

    Args:
        link: the connection from the sender.
        files: descriptors of the queue and of the slots, which the inbox closes.
    """

    def __init__(self, link: socket.socket, files: Sequence[int]) -> None:
        self.link, self.unread = link, socket.socket(fileno=files[0])
        self.unread.setblocking(False)
        self.slots = [Slot(file) for file in files[1:]]

    def take(self) -> list[Message]:
        """Return what is in the queue, at most a message for each slot: a faster sender must not keep us here.

        Raises:
            ConnectionError: nothing is there, and the sender is gone.
        """
        messages: list[Message] = []
        while len(messages) < len(self.slots):
            try:
                record = self.unread.recv(_RECORD.size)
            except BlockingIOError:
                break
            if not record and not messages:
                raise ConnectionError("the sender's end is closed")
            if not record:
                break
            messages.append(self._open(*_RECORD.unpack(record)))
        return messages

    def close(self) -> None:
        """Close all sockets and files."""
        _close(self.link, self.unread, *self.slots)

    def _open(self, slot: int, number: int, head_bytes: int, size: int) -> Message:
        try:
            return number, self.slots[slot].read(head_bytes, size)
        finally:
            self._give_back(slot)

    def _give_back(self, slot: int) -> None:
        """Return a slot; a sender that has ended needs it no more, and may have left messages."""
        try:
            self.link.send(bytes([slot]))
        except ConnectionError:
            return


class Mailbox:
    """One stage's messages to and from stages in other processes of the same host.

    Nothing waits, except the first `put` to a stage for that stage's mailbox to be made. A stage that closes its
    mailbox is lost to the others like one that died: stages that end in order meet before they close theirs.

    `bytes_sent` counts the tensors that were put; `dropped` the messages overwritten before they were taken.

    Args:
        store: shared by the stages of one replica, and by nobody else.
        index: this stage.
        check: raises StageError when another stage is known to have died or stalled; asked at each call.
        lost: is told the stage whose mailbox is closed, and may raise a StageError that says more.
        phase: names what this stage waits for, while it does.
        slots: messages to one stage that are kept until they are taken, from 2 to 64.

    Raises:
        OSError: the system is not Linux.
        ValueError: too few or too many slots.
    """

    def __init__(
        self,
        store: Store,
        index: int,
        check: Callable[[], None],
        *,
        lost: Callable[[int], None] = lambda stage: None,
        phase: Phase = nullcontext,
        slots: int = SLOTS,
    ) -> None:
        if not supported():
            raise OSError("a mailbox needs Linux; train in one process")
        if not 2 <= slots <= _MOST_SLOTS:
            raise ValueError(f"{slots} slots; expected 2 to {_MOST_SLOTS}")
        self.index, self.slots = index, slots
        self.bytes_sent = self.dropped = 0
        self._store, self._check, self._lost, self._phase = store, check, lost, phase
        self._outboxes: dict[int, Outbox] = {}
        self._inboxes: dict[int, Inbox] = {}
        self._callers: list[socket.socket] = []
        # All stages make their mailboxes in the same order: an earlier one's addresses are not met again.
        self._generation = store.add(f"mailbox/made/{index}", 1)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.setblocking(False)
        address = f"skip-sideways-{uuid.uuid4().hex}"
        self._listener.bind("\0" + address)
        self._listener.listen(1024)
        store.set(self._address_key(index), address)

    def put(self, to: int, parts: Mapping[str, Tensor], number: int) -> None:
        """Leave a message for a stage, in place of the oldest one where all slots hold one that it has not taken.

        Args:
            to: the receiver.
            parts: on any device, of any shape and dtype; copied to the host before this returns.
            number: of the message; it never falls.

        Raises:
            StageError: the receiver died or closed its mailbox.
        """
        self._check()
        try:
            if to not in self._outboxes:
                self._outboxes[to] = Outbox(self._connect(to), self.index, self.slots)
                self._outboxes[to].hand_over()
            with torch.inference_mode(False):
                self.dropped += self._outboxes[to].put(parts, number)
        except ConnectionError:
            self._is_lost(to)
        self.bytes_sent += sum(part.nbytes for part in parts.values())

    def take(self, sender: int) -> list[Message]:
        """Return the messages of a stage that were not yet taken, oldest first, as (number, parts) on the CPU.

        Args:
            sender: the stage.

        Raises:
            StageError: the sender died or closed its mailbox, and what it left was taken.
        """
        self._check()
        if sender not in self._inboxes:
            self._accept()
        if sender not in self._inboxes:
            return []
        try:
            with torch.inference_mode(False):
                return self._inboxes[sender].take()
        except ConnectionError:
            self._is_lost(sender)

    def interrupt(self) -> None:
        """Nothing to do: the one wait looks at `check` by itself."""

    def close(self) -> None:
        """Close all sockets and files; what others have not taken yet is still theirs, what is here is gone."""
        _close(self._listener, *self._callers, *self._outboxes.values(), *self._inboxes.values())
        self._callers.clear()
        self._outboxes.clear()
        self._inboxes.clear()

    def _address_key(self, stage: int) -> str:
        return f"mailbox/{self._generation}/address/{stage}"

    def _connect(self, to: int) -> socket.socket:
        """Reach the receiver's process, once it has made its mailbox; it need not look into it.

        Raises:
            ConnectionError: the receiver is gone.
        """
        key = self._address_key(to)
        with self._phase(f"waiting for stage {to}"):
            while not self._store.check([key]):
                self._check()
                time.sleep(0.01)
        link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            link.connect("\0" + self._store.get(key).decode())
        except ConnectionError:
            link.close()
            raise
        return link

    def _accept(self) -> None:
        """Take in all processes that have connected, and said who they are."""
        while True:
            try:
                link, _ = self._listener.accept()
            except BlockingIOError:
                break
            link.setblocking(False)
            self._callers.append(link)
        self._callers = [link for link in self._callers if not self._introduced(link)]

    def _introduced(self, link: socket.socket) -> bool:
        """Make an inbox of a connection, or close it; False where its hello is still to come."""
        try:
            hello, files, *_ = socket.recv_fds(link, _HELLO.size, 1 + _MOST_SLOTS, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return False
        except ConnectionError:
            hello, files = b"", []
        sender, slots = _HELLO.unpack(hello) if len(hello) == _HELLO.size else (0, 0)
        if slots and len(files) == 1 + slots and is_ours(link):
            self._inboxes[sender] = Inbox(link, files)
        else:
            link.close()
            for file in files:
                os.close(file)
        return True

    def _is_lost(self, stage: int) -> NoReturn:
        """Raise for a stage that cannot be reached: what the watchdog says, or at least which stage it is."""
        self._check()
        self._lost(stage)
        raise StageError(f"stage {stage} closed its mailbox, which it shares with stage {self.index}: it ended or died")
