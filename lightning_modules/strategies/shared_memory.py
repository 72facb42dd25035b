"""Messages between the stages of one host: slots in shared memory, and sockets that say which slot is filled [D].

    sender, stage 0                                   receiver, stage 1
    slot[k % 4] <- message k
    (k, tick)         ------- header ------->         waits for it, without using its core
                                                      works on a view of slot[k % 4]
    may write k + 4   <------- one byte ------        asks for message k + 1, so k is no longer used

Four slots are two for each end. A message is valid until the next one is received: a stage in tick t may still hold
the message of tick t - 1 and have that of tick t waiting when a neighbour that is one tick ahead sends the one of tick
t + 2. So nobody waits for a stage that is at most one tick behind, and the stage that is furthest behind never waits
for a slot, however the channels of a tick are ordered: two slots would deadlock where two stages send each other
skips in crossed order.

Nothing has a name in the file system that could be left over: the memory is an anonymous file whose descriptor goes to
the receiver over the socket, and the sockets' addresses are abstract. Whoever dies, in whatever way, the kernel frees
all of it with the last process. Linux only.
"""

import mmap
import os
import socket
import struct
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import NoReturn, TypeVar

import torch
from torch import Tensor
from torch.distributed import Store

from lightning_modules.execution.placement import Channel, Kind
from lightning_modules.execution.stage import Route, StageError

SLOTS = 4
_SLICE_S = 0.2
_HEADER = struct.Struct("<qqd")  # number of the message, its tick, monotonic time before which it is not there
_HELLO = struct.Struct("<4q")  # the channel
_PEER = struct.Struct("3i")  # process, user, group
_KINDS: tuple[Kind, ...] = ("activation", "gradient", "codebook")

T = TypeVar("T")
Phase = Callable[[str], AbstractContextManager[object]]


def supported() -> bool:
    """Whether this system has what the transport needs."""
    return hasattr(os, "memfd_create") and hasattr(socket, "AF_UNIX")


@dataclass
class _End:
    """One end of a channel.

    Args:
        link: the socket to the other end.
        memory: all slots; None until it has been made, or attached to.
        slot_bytes: size of a slot: that of the largest message so far.
        route: of this clip.
        views: the slots as this clip's messages.
        position: messages of this clip so far.
        number: messages so far.
        released: messages that the receiver no longer uses, as far as the sender knows.
    """

    link: socket.socket | None = None
    memory: mmap.mmap | None = None
    slot_bytes: int = 0
    route: Route = field(default_factory=lambda: Route((), torch.Size(), torch.float32))
    views: list[Tensor] = field(default_factory=list)
    position: int = 0
    number: int = 0
    released: int = 0

    def next_slot(self, channel: Channel, tick: int) -> int:
        """Return the slot of the next message, and count it."""
        expected = self.route.ticks[self.position : self.position + 1]
        assert expected == (tick,), f"{channel}: message for tick {tick}; by the schedule it is {expected or 'none'}"
        self.position += 1
        self.number += 1
        return (self.number - 1) % SLOTS

    def make_views(self) -> None:
        """Lay this clip's messages over the slots."""
        assert self.memory is not None
        shape, dtype = self.route.shape, self.route.dtype
        self.views = [
            torch.frombuffer(self.memory, dtype=dtype, count=shape.numel(), offset=slot * self.slot_bytes).view(shape)
            for slot in range(SLOTS)
        ]


def other_end(channel: Channel, index: int) -> int:
    """Return the stage at the other end of a channel."""
    return channel.sender if channel.receiver == index else channel.receiver


def raise_lost(channel: Channel, index: int, check: Callable[[], None], lost: Callable[[int], None]) -> NoReturn:
    """Raise for a stage that cannot be reached: what the watchdog says, or at least which stage it is.

    Raises:
        StageError: always.
    """
    stage = other_end(channel, index)
    check()
    lost(stage)
    raise StageError(
        f"stage {stage} closed its end of the {channel.kind} of unit {channel.unit}, "
        f"which it shares with stage {index}: it ended or died"
    )


def _bytes_of(route: Route) -> int:
    """Bytes of a slot for a route's messages, in whole cache lines."""
    return -(-route.shape.numel() * route.dtype.itemsize // 64) * 64


def _in_slices(link: socket.socket) -> socket.socket:
    """Let a socket's calls give up after a slice of time."""
    link.setblocking(True)
    link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", 0, int(_SLICE_S * 1e6)))
    return link


def is_ours(link: socket.socket) -> bool:
    """Whether the other end is a process of the same user."""
    peer = link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    return _PEER.unpack(peer)[1] == os.getuid()


def _read(link: socket.socket, size: int, flags: int = socket.MSG_WAITALL) -> bytes:
    data = link.recv(size, flags)
    if not data:
        raise ConnectionError("the other end is closed")
    return data


class SharedMemoryExchange:
    """One stage's ends of all its channels, to stages in other processes of the same host. Messages are on the CPU.

    Waits never spin, and look every 0.2 s whether the others live. The slots are made when a channel is first opened,
    and anew where a clip's messages are larger than any before.

    Args:
        store: shared by the stages of one replica, and by nobody else.
        index: this stage.
        check: raises StageError when another stage is known to have died or stalled.
        lost: is told the stage whose end of a channel is closed, and may raise a StageError that says more.
        phase: names what this stage waits for, while it does.
        delay_ms: for tests of slow links: a message is there for its receiver only so long after it was sent.

    Raises:
        OSError: the system is not Linux.
    """

    def __init__(
        self,
        store: Store,
        index: int,
        check: Callable[[], None],
        *,
        lost: Callable[[int], None] = lambda stage: None,
        phase: Phase = nullcontext,
        delay_ms: float = 0.0,
    ) -> None:
        if not supported():
            raise OSError("transport 'shared_memory' needs Linux; use transport 'process_group'")
        self.index, self.delay_s = index, delay_ms / 1000
        self._store, self._check, self._lost, self._phase = store, check, lost, phase
        self._ends: dict[Channel, _End] = {}
        # All stages make their exchanges in the same order: an earlier one's addresses are not met again.
        self._generation = store.add(f"shared_memory/made/{index}", 1)
        self._listener = _in_slices(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        address = f"skip-sideways-{uuid.uuid4().hex}"
        self._listener.bind("\0" + address)
        self._listener.listen(1024)
        store.set(self._address_key(index), address)

    def open(self, routes: Mapping[Channel, Route]) -> None:
        """Prepare for a clip. Does not wait for the other ends, but for their addresses the first time."""
        for channel, route in routes.items():
            end = self._ends.setdefault(channel, _End())
            assert end.position == len(end.route.ticks), f"{channel}: {end.position} messages of {end.route}"
            changed = (end.route.shape, end.route.dtype) != (route.shape, route.dtype)
            end.route, end.position = route, 0
            if channel.sender == self.index and end.link is None:
                end.link = self._connect(channel)
            if _bytes_of(route) > end.slot_bytes:
                end.slot_bytes, end.memory = _bytes_of(route), None
                if channel.sender == self.index:
                    self._make_slots(end)
            if changed and end.memory is not None:
                end.make_views()

    def send(self, channel: Channel, tick: int, message: Tensor) -> None:
        """Copy a message into its slot, once the receiver has released that, and say so. A dtype may change."""
        end = self._ends[channel]
        slot = end.next_slot(channel, tick)
        assert end.link is not None
        assert message.shape == end.route.shape, f"{channel}: message {tuple(message.shape)} for {end.route}"
        while end.number - end.released > SLOTS:
            end.released += len(self._wait(channel, end.link, lambda link: _read(link, SLOTS, 0)))
        end.views[slot].copy_(message.detach())
        try:
            end.link.send(_HEADER.pack(end.number, tick, time.monotonic() + self.delay_s))
        except ConnectionError:
            self._is_lost(channel)

    def receive(self, channel: Channel, tick: int) -> Tensor:
        """Wait for the message of a tick and return it: a view of its slot, valid until the next call for the channel.

        Raises:
            StageError: the sender died or stalled.
        """
        end = self._ends[channel]
        slot = end.next_slot(channel, tick)
        while end.link is None:
            self._accept(channel)
        if end.number > 1:
            self._release(end.link)
        if end.memory is None:
            self._attach(channel, end)
        header = self._wait(channel, end.link, lambda link: _read(link, _HEADER.size))
        number, sent_for, not_before = _HEADER.unpack(header)
        assert (number, sent_for) == (end.number, tick), f"{channel}: {number=} {sent_for=} for {end.number=} {tick=}"
        self._sleep_until(not_before)
        return end.views[slot].detach()

    def interrupt(self) -> None:
        """Nothing to do: every wait looks at `check` by itself."""

    def close(self) -> None:
        """Close all sockets and let go of the memory; views that are still held keep theirs."""
        self._listener.close()
        for end in self._ends.values():
            if end.link is not None:
                end.link.close()
        self._ends.clear()

    def _address_key(self, stage: int) -> str:
        return f"shared_memory/{self._generation}/address/{stage}"

    def _connect(self, channel: Channel) -> socket.socket:
        """Reach the receiver's process; it need not have opened the clip yet."""
        key = self._address_key(channel.receiver)
        while not self._store.check([key]):
            self._check()
            time.sleep(0.01)
        link = _in_slices(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        try:
            link.connect("\0" + self._store.get(key).decode())
            link.send(_HELLO.pack(_KINDS.index(channel.kind), channel.unit, channel.sender, channel.receiver))
        except ConnectionError:
            link.close()
            self._is_lost(channel)
        return link

    def _accept(self, channel: Channel) -> None:
        """Take in the next process that has connected, which may be for another channel than the one waited for."""
        link, _ = self._wait(channel, self._listener, socket.socket.accept)
        if not is_ours(link):
            link.close()
            return
        hello = self._wait(channel, _in_slices(link), lambda link: _read(link, _HELLO.size))
        kind, unit, sender, receiver = _HELLO.unpack(hello)
        self._ends.setdefault(Channel(_KINDS[kind], unit, sender, receiver), _End()).link = link

    def _make_slots(self, end: _End) -> None:
        assert end.link is not None
        file = os.memfd_create("skip-sideways")
        try:
            os.ftruncate(file, SLOTS * end.slot_bytes)
            end.memory = mmap.mmap(file, SLOTS * end.slot_bytes)
            socket.send_fds(end.link, [_HEADER.pack(end.number, end.slot_bytes, 0.0)], [file])
        finally:
            os.close(file)
        end.make_views()

    def _attach(self, channel: Channel, end: _End) -> None:
        """Map the slots that the sender made when it opened this clip."""
        assert end.link is not None
        data, files, *_ = self._wait(channel, end.link, lambda link: socket.recv_fds(link, _HEADER.size, 1))
        if not files:
            self._is_lost(channel)
        number, slot_bytes, _ = _HEADER.unpack(data)
        try:
            assert (number, slot_bytes) == (end.number - 1, end.slot_bytes), f"{channel}: {number=} {slot_bytes=} {end}"
            end.memory = mmap.mmap(files[0], SLOTS * slot_bytes)
        finally:
            os.close(files[0])
        end.make_views()

    def _release(self, link: socket.socket) -> None:
        """Give a slot back; a sender that has ended needs it no more, and may have left messages."""
        try:
            link.send(b"\0")
        except ConnectionError:
            return

    def _is_lost(self, channel: Channel) -> NoReturn:
        raise_lost(channel, self.index, self._check, self._lost)

    def _wait(self, channel: Channel, link: socket.socket, call: Callable[[socket.socket], T]) -> T:
        """Return what a call on a socket gives, once it does."""
        try:
            return call(link)
        except BlockingIOError:
            pass
        except ConnectionError:
            self._is_lost(channel)
        with self._phase(f"waiting for stage {other_end(channel, self.index)}"):
            while True:
                self._check()
                try:
                    return call(link)
                except BlockingIOError:
                    continue
                except ConnectionError:
                    self._is_lost(channel)

    def _sleep_until(self, not_before: float) -> None:
        while (left := not_before - time.monotonic()) > 0:
            self._check()
            time.sleep(min(left, _SLICE_S))
