"""A memory that watches streams step by step says what a whole pass says, and keeps no more however long it watches."""

import pytest
import torch

from lightning_modules.long_memory import LongMemory
from tests.lightning_modules.toy_memory import Held, seeded

STEPS, FRAMES = 70, 20  # more than a piece of an evaluation, and a video that is soon through


def made(kind, **options):
    torch.manual_seed(0)
    channels = {"symbols": 7, "vectors": 3, "frames": 1}[kind]
    small = {"hidden": 8, "context_width": 6, "predictor_width": 7, "width": 0.25, "projections": 3}
    return LongMemory(5, channels, kind, **{**small, **options}).eval()


def streams(kind, lanes=3):
    steps = FRAMES if kind == "frames" else STEPS
    x = {
        "symbols": torch.randint(7, (lanes, steps), generator=seeded(1)),
        "vectors": torch.randn(lanes, steps, 3, generator=seeded(1)),
        "frames": torch.randint(256, (lanes, steps, 1, 16, 16), generator=seeded(1)).byte(),
    }[kind]
    y = torch.randint(5, (lanes, steps), generator=seeded(2))
    return Held(x, y, torch.arange(steps).expand(lanes, steps))


def watched(model, x_BT):
    watcher = model.watcher()
    said = [watcher.feed(x) for x in x_BT.unbind(1)]
    assert sum(one is None for one in said) == model.encoder.ahead
    return torch.stack([one for one in [*said, *watcher.rest()] if one is not None], 1), watcher


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("symbols", {"memory": "lstm"}),
        ("vectors", {"memory": "gru", "context": 3, "layers": 2}),
        ("symbols", {"memory": "transformer", "window": 5, "context": 2}),
        ("frames", {"encoder": "detached", "context": 2}),
        ("frames", {"encoder": "sideways", "wiring": "chain"}),
        ("frames", {"encoder": "sideways", "wiring": "concat", "context": 3}),
    ],
)
def test_it_says_what_a_whole_pass_says(kind, options):
    model, lanes = made(kind, **options), streams(kind)
    answers, _ = model.answers(lanes)
    found, _ = watched(model, lanes.x_BT)
    torch.testing.assert_close(found, answers, rtol=1e-4, atol=1e-5)
    assert (answers[:, -1] - answers[:, 0]).abs().max() > 1e-3


def held_bytes(watcher):
    tensors = [watcher._before, *watcher._state.values()]
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors)


@pytest.mark.parametrize("memory", ["lstm", "transformer"])
def test_what_is_kept_does_not_grow(memory):
    model, lanes = made("vectors", memory=memory, context=4), streams("vectors")
    few, many = (held_bytes(watched(model, lanes.x_BT[:, :steps])[1]) for steps in (10, STEPS))
    assert few == many
