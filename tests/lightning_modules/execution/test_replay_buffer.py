"""Replay buffers: orders on the page's example and by brute force, limits of reuse, ages, bytes, and going on."""

import io
import random
import re
from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from lightning_modules.execution import replay_buffer
from lightning_modules.execution.replay_buffer import ORDERS, ReplayBuffer, moved, slots_looked_at, tensors_of


def filled(contents, size=3, order="priority-lifo", **options):
    buffer = ReplayBuffer(size, order, **options)
    for now, content in enumerate(contents):
        buffer.push(content, now)
    return buffer


def drawn(buffer, count, now=0):
    return [buffer.draw(now) for _ in range(count)]


# Orders


def test_the_example():
    """Written 0, 1, 2 into M = 3: the authors' code reads 0, 2, 1, and a true last in, first out 2, 1, 0."""
    assert drawn(filled([0, 1, 2]), 6) == [2, 1, 0, 2, 1, 0]
    assert drawn(filled([0, 1, 2], order="reference"), 6) == [0, 2, 1, 0, 2, 1]


def test_the_drawing_above_the_code_is_true():
    for order, looked, draws, half in re.findall(
        r"(priority-lifo|reference)[ \[\]C]+(\d, \d, \d)\s+(\d, \d, \d)\s+(\d, \d)", replay_buffer.__doc__
    ):
        assert looked == ", ".join(map(str, slots_looked_at(order, 0, 3)))
        assert draws == ", ".join(map(str, drawn(filled([0, 1, 2], order=order), 3)))
        assert half == ", ".join(map(str, drawn(filled([0, 1], order=order), 2)))
    assert len(re.findall(r"\d, \d, \d {4,}\d, \d, \d", replay_buffer.__doc__)) == 2


def test_a_new_minibatch_comes_before_old_ones():
    buffer = filled([0, 1, 2])
    assert drawn(buffer, 3) == [2, 1, 0]
    buffer.push(3, now=3)
    assert drawn(buffer, 4) == [3, 3, 2, 1]


class BruteForce:
    """Lists of all that was ever written, and no ring: the two orders in words."""

    def __init__(self, size, order, max_reuse):
        self.size, self.order, self.max_reuse = size, order, max_reuse
        self.uses = []

    def push(self, content, now):
        assert content == len(self.uses)
        self.uses.append(0)

    def draw(self, now):
        held = range(max(0, len(self.uses) - self.size), len(self.uses))
        least = [i for i in held if self.uses[i] == min(self.uses[k] for k in held)]
        if not least or (self.max_reuse and self.uses[least[0]] >= self.max_reuse):
            return None
        full = len(held) == self.size
        oldest_first = self.order == "reference" and full and held[0] in least
        found = held[0] if oldest_first else max(least)
        self.uses[found] += 1
        return found


class AuthorsFormula:
    """Slots numbered from the right where they lie beyond the pointer; the largest number is drawn [C]."""

    def __init__(self, size):
        self.ring, self.uses, self.pointer, self.pushed = [None] * size, [0] * size, 0, 0

    def push(self, content, now):
        self.ring[self.pointer], self.uses[self.pointer] = content, 0
        self.pointer, self.pushed = (self.pointer + 1) % len(self.ring), self.pushed + 1

    def draw(self, now):
        filled_slots = min(self.pushed, len(self.ring))
        if not filled_slots:
            return None
        least = [i for i in range(filled_slots) if self.uses[i] == min(self.uses[:filled_slots])]
        slot = max(i - filled_slots if i > self.pointer else i for i in least) % filled_slots
        self.uses[slot] += 1
        return self.ring[slot]


def random_calls(seed, steps=200):
    """Pushes and draws, in runs in which one or the other is more frequent."""
    rng = random.Random(seed)
    for block in range(steps // 20):
        share = (0.2, 0.5, 0.8)[block % 3]
        yield from (rng.random() < share for _ in range(20))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("max_reuse", [None, 1, 2])
def test_against_brute_force(order, size, max_reuse):
    for seed in range(10):
        buffer, reference = ReplayBuffer(size, order, max_reuse), BruteForce(size, order, max_reuse)
        written = 0
        for now, push in enumerate(random_calls(seed)):
            if push:
                buffer.push(written, now)
                reference.push(written, now)
                written += 1
            else:
                assert buffer.draw(now) == reference.draw(now)


@pytest.mark.parametrize("size", [2, 3, 4, 7])
def test_the_reference_order_is_the_authors_formula(size):
    for seed in range(20):
        buffer, authors = ReplayBuffer(size, "reference"), AuthorsFormula(size)
        for now, push in enumerate(random_calls(seed)):
            if push:
                buffer.push(now, now)
                authors.push(now, now)
            else:
                assert buffer.draw(now) == authors.draw(now)


def test_one_slot_holds_the_newest_in_both_orders():
    for order in ORDERS:
        assert drawn(filled([0, 1, 2], size=1, order=order), 3) == [2, 2, 2]


# Reuse and figures


def test_max_reuse():
    buffer = filled([0, 1], max_reuse=2)
    assert drawn(buffer, 6) == [1, 0, 1, 0, None, None]
    buffer.push(2, now=2)
    assert drawn(buffer, 3) == [2, 2, None]


def test_an_empty_buffer_gives_nothing():
    buffer = ReplayBuffer(3)
    assert buffer.draw(0) is None
    assert len(buffer) == 0
    assert buffer.figures() == {"draws": 0, "idle": 1, "held": 0}


def test_figures_by_hand():
    buffer = ReplayBuffer(2)
    buffer.push("a", now=10)
    buffer.push("b", now=11)
    assert [buffer.draw(now) for now in (11, 13, 14)] == ["b", "a", "b"]  # ages 0, 3 and 3
    assert buffer.figures() == {"draws": 3, "idle": 0, "held": 2, "age": 2.0, "reuse": 1.5}
    buffer.push("c", now=15)  # over a, used once
    buffer.push("d", now=16)  # over b, used twice
    buffer.push("e", now=17)  # over c, never used
    assert buffer.draw(20) == "e"
    assert buffer.figures() == {"draws": 1, "idle": 0, "held": 2, "age": 3.0, "reuse": 1.0}
    assert buffer.figures() == {"draws": 0, "idle": 0, "held": 2, "reuse": 0.5}


def test_a_steady_upper_module_at_twice_the_speed_uses_each_minibatch_twice():
    buffer = ReplayBuffer(4)
    for now in range(100):
        buffer.push(now, now)
        assert buffer.draw(now) == now
        buffer.draw(now)
    assert buffer.figures()["reuse"] == pytest.approx(2, abs=0.1)


# Contents


@dataclass(frozen=True)
class Sent:
    data: Tensor
    version: int


class Pair(NamedTuple):
    first: Tensor
    second: Tensor


def test_bytes_of_shared_storage_count_once():
    whole = torch.zeros(1000, dtype=torch.float64)
    contents = [{1: whole, "label": whole[:10]}, [Sent(whole[5:], 1), Pair(torch.zeros(3), torch.zeros(0))]]
    assert filled(contents).nbytes == 8000 + 12
    assert filled([*contents, {1: torch.zeros(7, dtype=torch.uint8)}]).nbytes == 8000 + 12 + 7
    assert filled([torch.zeros(100) for _ in range(10)]).nbytes == 3 * 400
    assert ReplayBuffer(3).nbytes == 0


def test_contents_are_drawn_as_they_were_pushed():
    content = {2: torch.rand(4, 3), "sent": Sent(torch.rand(2), 5)}
    drawn_content = filled([content]).draw(0)
    assert drawn_content is content


def test_a_graph_is_not_kept():
    with pytest.raises(AssertionError, match="keep the graph"):
        ReplayBuffer(2).push({1: torch.rand(3, requires_grad=True) * 2}, now=0)


def test_moving_keeps_the_nest():
    content = {"a": [torch.rand(2), (torch.rand(3), "text")], "b": Sent(torch.rand(4), 7), "c": Pair(*torch.rand(2, 2))}
    found = moved(content, torch.device("meta"))
    assert [t.shape for t in tensors_of(found)] == [t.shape for t in tensors_of(content)]
    assert all(t.is_meta for t in tensors_of(found))
    assert (found["a"][1][1], found["b"].version, type(found["c"])) == ("text", 7, Pair)
    buffer = filled([content])
    buffer.to(torch.device("meta"))
    assert all(t.is_meta for t in tensors_of(buffer.draw(0)))


# Going on


def plain(content):
    return {**content, "sent": [content["sent"].data, content["sent"].version]}


def restored(content):
    return {**content, "sent": Sent(*content["sent"])}


def sent(number):
    return {1: torch.full((2, 3), float(number)), "sent": Sent(torch.tensor([number]), number), "shape": (number, "x")}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("stop", [0, 1, 2, 7, 60])
def test_a_continued_buffer_is_the_same(order, stop):
    """Through a checkpoint that holds nothing but tensors and plain containers."""
    calls = list(random_calls(seed=1))
    options = {"plain": plain, "restored": restored, "max_reuse": 3}
    whole, first, second = (ReplayBuffer(3, order, **options) for _ in range(3))

    def run(buffer, start, end):
        found = []
        for now in range(start, end):
            if calls[now]:
                buffer.push(sent(now), now)
            else:
                content = buffer.draw(now)
                found.append(content and (content["sent"].version, content[1].sum().item(), content["shape"]))
        return found

    run(whole, 0, stop)
    run(first, 0, stop)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    run(first, stop, 200)  # what goes on elsewhere changes nothing here
    assert len(second) == len(whole)
    assert run(second, stop, 200) == run(whole, stop, 200)
    assert second.figures() == whole.figures()


def test_a_state_does_not_change_with_the_buffer():
    buffer = filled([0, 1, 2])
    state = buffer.state_dict()
    buffer.push(3, now=3)
    drawn(buffer, 5)
    again = ReplayBuffer(3)
    again.load_state_dict(state)
    again.load_state_dict(state)
    assert drawn(again, 3) == [2, 1, 0]
    assert again.figures()["draws"] == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "buffers of 0 minibatches; give 1 or more"),
        ({"size": 2, "order": "fifo"}, "'fifo' is unknown; expected one of priority-lifo, reference"),
        ({"size": 2, "max_reuse": 0}, "max_reuse is 0; give 1"),
    ],
)
def test_errors_that_teach(options, message):
    with pytest.raises(ValueError, match=message):
        ReplayBuffer(**options)


def test_a_checkpoint_of_another_size():
    with pytest.raises(ValueError, match="hold 3 minibatches and this run's hold 4; go on with a buffer of 3"):
        ReplayBuffer(4).load_state_dict(filled([0, 1]).state_dict())
