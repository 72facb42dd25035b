"""The mailbox: whole messages in order, nobody waits, the oldest ones are dropped, nothing left behind."""

import os
import random
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.distributed import HashStore

from lightning_modules.execution.stage import StageError
from lightning_modules.strategies.mailbox import SLOTS, Mailbox, Slot
from tests.lightning_modules.strategies.processes import mark, running

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.uint8, torch.int64, torch.bool)
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))]


def alive() -> None:
    """No watchdog."""


@contextmanager
def pair(**options) -> Iterator[tuple[Mailbox, Mailbox]]:
    """Two stages in one process: the transport does not mind."""
    store = HashStore()
    boxes = Mailbox(store, 0, alive, **options), Mailbox(store, 1, alive, **options)
    try:
        yield boxes
    finally:
        for box in boxes:
            box.close()


def numbers(box: Mailbox, sender: int = 0) -> list[int]:
    return [number for number, _ in box.take(sender)]


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


# -- both ends in one process -------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
def test_parts_arrive_as_they_are(device) -> None:
    torch.manual_seed(0)
    parts = {str(d): torch.randint(0, 2, (3, 5), device=device).to(d) for d in DTYPES}
    parts |= {
        "units.2/mean": torch.randn(4, 3, 2, device=device).permute(2, 0, 1),
        "loss": torch.randn((), device=device, requires_grad=True),
        "none": torch.empty(0, 7, device=device),
        "long": torch.randn(70_001, device=device)[::2],
    }
    with pair() as (low, high):
        low.put(1, parts, 5)
        ((number, taken),) = high.take(0)
        assert number == 5
        assert low.bytes_sent == sum(p.nbytes for p in parts.values())
    assert list(taken) == list(parts)
    for name, part in parts.items():
        assert (taken[name].dtype, taken[name].device.type) == (part.dtype, "cpu")
        assert torch.equal(taken[name], part.detach().cpu()), name
        assert not taken[name].requires_grad


def test_messages_are_the_receivers_own() -> None:
    with pair() as (low, high):
        source = torch.zeros(8)
        low.put(1, {"x": source}, 0)
        source.fill_(9)
        ((_, taken),) = high.take(0)
        for number in range(1, 20):
            low.put(1, {"x": torch.full((8,), float(number))}, number)
        assert taken["x"].eq(0).all()
        taken["x"].fill_(-1)
        assert [(n, parts["x"].unique().item()) for n, parts in high.take(0)] == [(n, float(n)) for n in range(16, 20)]


def test_an_empty_mailbox_and_an_empty_message() -> None:
    with pair() as (low, high):
        assert high.take(0) == []
        low.put(1, {}, 0)
        assert high.take(0) == [(0, {})]
        assert high.take(0) == []
        assert low.take(1) == []


def test_both_ways_and_from_several_stages() -> None:
    store = HashStore()
    boxes = [Mailbox(store, index, alive) for index in range(3)]
    for box in boxes:
        for to in {0, 1, 2} - {box.index}:
            box.put(to, {"x": torch.tensor([10 * box.index + to])}, box.index)
    for box in boxes:
        for sender in {0, 1, 2} - {box.index}:
            ((number, parts),) = box.take(sender)
            assert (number, parts["x"].item()) == (sender, 10 * sender + box.index)
        box.close()


@pytest.mark.parametrize("slots", [2, SLOTS, 64])
def test_the_newest_are_kept_as_by_a_queue_of_bounded_length(slots) -> None:
    draw = random.Random(slots)
    kept: deque[int] = deque(maxlen=slots)
    dropped = 0
    with pair(slots=slots) as (low, high):
        for number in range(600):
            dropped += len(kept) == slots
            kept.append(number)
            low.put(1, {"x": torch.full((draw.randrange(1, 3 * number + 9),), number)}, number)
            if draw.random() < 1.5 / slots:
                messages = high.take(0)
                assert [n for n, _ in messages] == list(kept)
                assert all(parts["x"].eq(n).all() for n, parts in messages)
                kept.clear()
            assert low.dropped == dropped
    assert dropped > 20


def test_a_slot_that_is_read_is_not_written(monkeypatch) -> None:
    """The receiver is stopped in the middle of its copy, for as long as the sender likes."""
    read = Slot.read
    with pair(slots=2) as (low, high):

        def slow_read(slot: Slot, head_bytes: int, size: int) -> dict[str, Tensor]:
            monkeypatch.setattr(Slot, "read", read)
            for number in range(1, 9):
                low.put(1, {"x": torch.full((64 * number,), float(number))}, number)
            return read(slot, head_bytes, size)

        low.put(1, {"x": torch.zeros(64)}, 0)
        monkeypatch.setattr(Slot, "read", slow_read)
        messages = high.take(0)
        assert [n for n, _ in messages] == [0, 8]
        assert all(parts["x"].eq(n).all() for n, parts in messages)
        assert low.dropped == 7
        low.put(1, {}, 9)
        low.put(1, {}, 10)
        assert numbers(high) == [9, 10]
        assert low.dropped == 7


def test_a_faster_sender_does_not_keep_the_receiver(monkeypatch) -> None:
    read = Slot.read
    with pair(slots=3) as (low, high):

        def chased(slot: Slot, head_bytes: int, size: int) -> dict[str, Tensor]:
            low.put(1, {}, low._outboxes[1].number + 1)
            return read(slot, head_bytes, size)

        low.put(1, {}, 0)
        monkeypatch.setattr(Slot, "read", chased)
        assert numbers(high) == [0, 1, 2]
        assert numbers(high) == [3, 4, 5]


def test_a_message_that_is_not_whole_is_never_there(monkeypatch) -> None:
    """A sender that fails in the middle of its copy loses no slot; one that dies there leaves what was whole."""
    write = Slot.write

    def interrupted(slot: Slot, parts: dict[str, Tensor]) -> tuple[int, int]:
        write(slot, parts)
        raise KeyboardInterrupt

    with pair(slots=2) as (low, high):
        for number in range(3):
            low.put(1, {"x": torch.tensor(number)}, number)
            monkeypatch.setattr(Slot, "write", interrupted)
            for _ in range(3):
                with pytest.raises(KeyboardInterrupt):
                    low.put(1, {"x": torch.tensor(-1)}, number)
            monkeypatch.setattr(Slot, "write", write)
            low.put(1, {"x": torch.tensor(number)}, number)
            low.put(1, {"x": torch.tensor(number + 1)}, number + 1)
            assert [parts["x"].item() for _, parts in high.take(0)] == [number, number + 1]
        low.put(1, {"x": torch.tensor(9)}, 9)
        monkeypatch.setattr(Slot, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            low.put(1, {"x": torch.tensor(-1)}, 10)
        low.close()
        assert [parts["x"].item() for _, parts in high.take(0)] == [9]
        with pytest.raises(StageError):
            high.take(0)


def test_messages_of_inference_can_be_trained_on() -> None:
    with pair() as (low, high):
        with torch.inference_mode():
            low.put(1, {"x": torch.full((3,), 2.0), "bytes": torch.zeros(4, dtype=torch.uint8)}, 0)
            ((_, parts),) = high.take(0)
        weight = torch.ones(3, requires_grad=True)
        (weight * parts["x"]).sum().backward()
        assert weight.grad is not None
        assert weight.grad.eq(2).all()
        for number in range(1, 1 + SLOTS):
            low.put(1, {"x": torch.full((3,), 3.0), "bytes": torch.zeros(4, dtype=torch.uint8)}, number)
        assert all(parts["x"].eq(3).all() for _, parts in high.take(0))


def test_what_was_left_is_taken_before_the_sender_is_lost() -> None:
    """The sender is gone before the receiver has even seen that it connected."""
    with pair() as (low, high):
        for number in range(3):
            low.put(1, {"x": torch.tensor([number])}, number)
        low.close()
        assert [(n, parts["x"].item()) for n, parts in high.take(0)] == [(0, 0), (1, 1), (2, 2)]
        with pytest.raises(StageError, match="stage 0 closed its mailbox, which it shares with stage 1"):
            high.take(0)


@pytest.mark.parametrize("met", [True, False])
def test_a_receiver_that_is_gone_is_lost_at_the_next_put(met) -> None:
    with pair() as (low, high):
        low.put(1, {}, 0)
        if met:
            assert numbers(high) == [0]
        high.close()
        for _ in range(2):
            with pytest.raises(StageError, match="stage 1 closed its mailbox, which it shares with stage 0"):
                low.put(1, {}, 1)


def test_a_receiver_that_is_gone_before_the_first_put_is_lost() -> None:
    with pair() as (low, high):
        high.close()
        for _ in range(2):
            with pytest.raises(StageError, match="stage 1 closed its mailbox"):
                low.put(1, {}, 0)


def test_lost_says_more() -> None:
    def lost(stage: int) -> None:
        raise StageError(f"stage {stage} (rank {2 * stage}) was killed")

    with pair(lost=lost) as (low, high):
        low.put(1, {}, 0)
        high.close()
        with pytest.raises(StageError, match=r"stage 1 \(rank 2\) was killed"):
            low.put(1, {}, 1)


def test_each_call_and_the_one_wait_ask_the_watchdog() -> None:
    verdict = threading.Event()

    def check() -> None:
        if verdict.is_set():
            raise StageError("stage 1 stalled")

    store = HashStore()
    box = Mailbox(store, 0, check)
    threading.Timer(0.1, verdict.set).start()
    with pytest.raises(StageError, match="stage 1 stalled"):
        box.put(1, {}, 0)
    with pytest.raises(StageError, match="stage 1 stalled"):
        box.take(1)
    box.close()


def test_mailboxes_of_a_second_run_do_not_meet_the_firsts() -> None:
    store = HashStore()
    for number in range(2):
        low = Mailbox(store, 0, alive)
        high = Mailbox(store, 1, alive)
        low.put(1, {}, number)
        assert numbers(high) == [number]
        low.close()
        high.close()


def test_close_gives_back_every_descriptor() -> None:
    before = descriptors()
    for taken in (True, False):
        with pair() as (low, high):
            for number in range(6):
                low.put(1, {"x": torch.zeros(100 * number)}, number)
            if taken:
                assert len(high.take(0)) == SLOTS
            assert descriptors() > before
            high.close()
    assert descriptors() == before
    assert "memfd:skip-sideways" not in Path("/proc/self/maps").read_text()


def test_slots_and_numbers_are_checked() -> None:
    for slots in (1, 65):
        with pytest.raises(ValueError, match=f"{slots} slots; expected 2 to 64"):
            Mailbox(HashStore(), 0, alive, slots=slots)
    with pair() as (low, _):
        low.put(1, {}, 3)
        low.put(1, {}, 3)
        with pytest.raises(AssertionError, match="message 2 after 3"):
            low.put(1, {}, 2)


# -- real processes -----------------------------------------------------------------------------------------------


def part_of(number: int) -> Tensor:
    """Contents by which a message of some number is known whole: its sum, its length and both ends say the number."""
    return torch.arange(number, number + 1 + number * 7919 % 4096)


def stream(index, store, messages) -> tuple[int, int]:
    """Stage 0 writes as fast as it can, stage 1 reads as fast as it can; returns what was dropped, and taken."""
    box = Mailbox(store, index, alive)
    if index == 0:
        for number in range(messages):
            box.put(1, {"whole": part_of(number), "number": torch.tensor(number)}, number)
        store.get("taken")
        box.close()
        return box.dropped, box.bytes_sent
    taken, last = 0, -1
    while last < messages - 1:
        for number, parts in box.take(0):
            assert number > last
            assert parts["number"].item() == number
            assert torch.equal(parts["whole"], part_of(number)), f"message {number} is torn"
            taken, last = taken + 1, number
        time.sleep(0.0005)
    store.set("taken", "1")
    box.close()
    return taken, 0


@pytest.mark.timeout(120)
def test_messages_are_whole_in_order_and_all_counted(tmp_path) -> None:
    messages = 10_000
    with running(tmp_path, 2, stream, messages) as group:
        (dropped, bytes_sent), (taken, _) = group.results(90)
    assert taken + dropped == messages
    assert taken > 100
    assert bytes_sent == sum(8 * (2 + number * 7919 % 4096) for number in range(messages))


def write_to_a_stopped_stage(index, store, folder, messages) -> tuple[int, list[int]]:
    box = Mailbox(store, index, alive)
    if index == 0:
        box.put(1, {"x": torch.zeros(1)}, 0)
        store.get("met")
        mark(folder, "met")
        while not (folder / "stopped").exists():
            time.sleep(0.01)
        for number in range(1, messages):
            box.put(1, {"x": torch.full((1000,), number)}, number)
        mark(folder, "written")
        store.get("taken")
        return box.dropped, []
    while not box.take(0):
        time.sleep(0.01)
    store.set("met", "1")
    while not (folder / "written").exists():
        time.sleep(0.01)
    taken = box.take(0)
    assert all(parts["x"].eq(number).all() for number, parts in taken)
    store.set("taken", "1")
    return 0, [number for number, _ in taken]


@pytest.mark.timeout(60)
def test_a_stopped_receiver_does_not_hold_up_the_sender(tmp_path) -> None:
    messages = 2_000
    with running(tmp_path, 2, write_to_a_stopped_stage, tmp_path, messages) as group:
        group.wait_for("met")
        group.send_signal(1, signal.SIGSTOP)
        mark(tmp_path, "stopped")
        group.wait_for("written")
        group.send_signal(1, signal.SIGCONT)
        (dropped, _), (_, taken) = group.results(30)
    assert taken == list(range(messages - SLOTS, messages))
    assert dropped == messages - 1 - SLOTS


def until_lost(act: Callable[[], object]) -> str:
    """Return what the StageError says, once there is one."""
    while True:
        try:
            act()
        except StageError as error:
            return str(error)
        time.sleep(0.01)


def outlive(index, store, folder) -> list[str]:
    box = Mailbox(store, index, alive)
    other = 1 - index
    box.put(other, {"x": torch.zeros(1 << 18)}, 0)
    while not box.take(other):
        time.sleep(0.01)
    assert "memfd:skip-sideways" in Path("/proc/self/maps").read_text()
    mark(folder, f"met{index}")
    if index == 1:
        while True:  # killed in the midst of it
            box.put(0, {"x": torch.ones(1 << 18)}, 1)
            box.take(0)
    said = [until_lost(lambda: box.take(1)), until_lost(lambda: box.put(1, {"x": torch.ones(4)}, 1))]
    box.close()
    return said


@pytest.mark.timeout(60)
def test_a_killed_stage_is_noticed_at_once_and_leaves_nothing(tmp_path) -> None:
    with running(tmp_path, 2, outlive, tmp_path) as group:
        group.wait_for("met0")
        group.wait_for("met1")
        killed = time.monotonic()
        group.send_signal(1, signal.SIGKILL)
        outcome = group.join(20)[0]
        assert time.monotonic() - killed < 5
    said = "stage 1 closed its mailbox, which it shares with stage 0: it ended or died"
    assert outcome.result == [said, said], outcome
