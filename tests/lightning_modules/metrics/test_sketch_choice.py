"""Which convolutions sketch: what is said of them is what autograd then keeps, byte for byte."""

from math import prod

import pytest
import torch
from torch import nn

from lightning_modules.action_recognition import ActionRecognition
from lightning_modules.layers.compact import LEVELS
from lightning_modules.layers.xconv import set_probes, to_xconv, xconv_layers
from lightning_modules.metrics.memory import SavedTensors
from lightning_modules.metrics.sketch_choice import FROZEN, SketchChoice, choice_table, choose_layers

SMALL = {"network": "small_cnn", "depth": 4, "width": 0.5, "num_classes": 2, "in_channels": 1}
FRAME, CLIP = (1, 16, 16), (9, 1, 16, 16)
KEY_BYTES = 24  # what a sketch keeps beside itself


def network(**options):
    return ActionRecognition(**{**SMALL, "rule": "backprop_shifted", "probes": 0.25, **options}).network


def kept_as(choices):
    return {c.name: c.why or "sketch" for c in choices}


def saved_bytes(of, shape, batch):
    x = torch.rand(batch, *shape)
    with SavedTensors.measure(of) as meter:
        of(x).sum()
    return meter.peak_bytes


# Units 1 and 2 end in a ReLU, which the next convolution's input is; a wiring that computes messages gives a copy.
KEEPERS = {
    "chain": {"units.1.body.0": "units.0.body.2 keeps it too", "units.2.body.0": "units.1.body.2 keeps it too"},
    "residual": {"units.1.body.0": "units.0.body.2 keeps it too", "units.2.body.0": "sketch"},
    "concat": {"units.1.body.0": "units.0.body.2 keeps it too", "units.2.body.0": "sketch"},
    "dense": {"units.1.body.0": "units.0.body.2 keeps it too", "units.2.body.0": "sketch"},
}


@pytest.mark.parametrize("wiring", KEEPERS)
def test_who_keeps_an_input_too(wiring):
    """A ReLU does, until it keeps bits; no level changes that the batch keeps its own frames."""
    for level in LEVELS:
        found = kept_as(choose_layers(network(wiring=wiring, compact=level), FRAME, 0.25, auto=True))
        assert found.pop("units.0.body.0") == "the batch keeps it too"
        bodies = {name: why for name, why in found.items() if ".body." in name}
        assert bodies == (KEEPERS[wiring] if level == "none" else dict.fromkeys(KEEPERS[wiring], "sketch")), level
        projections = {name for name in found if "projections" in name}
        assert bool(projections) == (wiring == "residual")


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("wiring", ["chain", "residual", "concat", "dense", "cnn3d"])
def test_bytes_are_those_that_autograd_keeps(wiring, level):
    """Auto saves what it says, and the same bytes as sketching all but what the batch keeps: nothing was left out."""
    options = {"network": "cnn3d", "depth": None, "rule": "backprop"} if wiring == "cnn3d" else {"wiring": wiring}
    # So large that every map has positions enough to be worth a sketch.
    shape, batch = CLIP if wiring == "cnn3d" else (1, 32, 32), 3
    saved, choices = {}, {}
    for auto in (True, False):
        of = network(**options, compact=level)
        exact = saved_bytes(of, shape, batch)
        choices[auto] = choose_layers(of, shape, 0.25, auto=auto)
        set_probes(of, 0.25)
        saved[auto] = exact - saved_bytes(of, shape, batch)
    used = [c for c in choices[True] if c.sketched]
    told = batch * sum(c.input_bytes - c.sketch_bytes for c in used) - KEY_BYTES * len(used)
    assert saved[True] == told
    assert (told > 0) == (level != "none" or wiring in ("residual", "concat", "dense"))
    first = choices[False][0]
    more = [c for c in choices[False][1:] if c.sketched and c not in used]
    # The frames themselves are freed by nobody: counted here because the convolution alone keeps them for autograd.
    of_first = batch * (first.input_bytes - first.sketch_bytes) - KEY_BYTES
    costs = sum(batch * c.sketch_bytes + KEY_BYTES for c in more)  # sketches beside inputs that somebody keeps
    assert saved[False] == told + of_first - costs
    assert bool(more) == (level == "none")


def test_two_that_read_one_tensor_do_not_keep_it_from_each_other():
    """Both sketch, or neither where one of them is not asked."""

    class Forked(nn.Module):
        def __init__(self):
            super().__init__()
            self.into, self.left, self.right = (nn.Conv2d(2, 2, 1) for _ in range(3))

        def forward(self, x):
            y = self.into(x)
            return self.left(y) + self.right(y)

    for names, expected in (
        (("*",), {"left": "sketch", "right": "sketch"}),
        (("left",), {"left": "right keeps it too", "right": "not asked for"}),
    ):
        of = Forked()
        to_xconv(of, 0, layers=names)
        found = kept_as(choose_layers(of, (2, 8, 8), 4, auto=True))
        assert {name: found[name] for name in expected} == expected
        assert {name for name, layer in xconv_layers(of).items() if layer.is_chosen} == {
            name for name in expected if expected[name] == "sketch"
        }


def test_too_many_probes_now_are_not_too_many_later():
    """A convolution without a smaller sketch is exact, and sketches once it is asked for fewer; 1 x 1 never does."""
    of = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 4, 1))
    to_xconv(of, 0)
    first, last = choose_layers(of, (2, 4, 4), 64, auto=False)
    assert first == SketchChoice("0", (2, 4, 4), 0, 128, 0, False, "a sketch would be no smaller")
    assert last.why == "a sketch would be no smaller"
    assert [layer.is_chosen for layer in xconv_layers(of).values()] == [True, False]
    uses = []
    for probes in (64, 4):
        set_probes(of, probes)
        of(torch.rand(3, 2, 4, 4))
        uses.append([int(layer.key[2]) for layer in xconv_layers(of).values()])
    assert uses == [[0, 0], [1, 0]]


def test_choosing_leaves_the_network_as_it_is():
    of, before = network(network="vgg8", depth=None, width=0.125), torch.get_rng_state()
    state = {name: value.clone() for name, value in of.state_dict().items()}
    choose_layers(of, (1, 64, 64), 0.25, auto=True)
    assert all(torch.equal(value, state[name]) for name, value in of.state_dict().items())
    assert torch.equal(torch.get_rng_state(), before)
    assert all(layer.probes == 0 and layer.key[2] == 0 for layer in xconv_layers(of).values())


def test_table():
    """By hand; what is kept sums up to the last line."""
    choices = [
        SketchChoice("units.0.body.0", (1, 32, 32), 128, 4096, 260, False, "the batch keeps it too"),
        SketchChoice("units.1.body.0", (16, 16, 16), 32, 16384, 1088, True, ""),
        SketchChoice("units.2.body.0", (2048, 16, 16), 0, 2097152, 0, False, "a sketch would be no smaller"),
    ]
    assert choice_table(choices).splitlines() == [
        "layer           input       probes  input KiB  kept KiB  kept as  why",
        "units.0.body.0  1x32x32          -        4.0       4.0  input    the batch keeps it too",
        "units.1.body.0  16x16x16        32       16.0       1.1  sketch",
        "units.2.body.0  2048x16x16       -    2,048.0   2,048.0  input    a sketch would be no smaller",
        "all                                   2,068.0   2,053.1",
    ]
    (*_, last) = choice_table(choices[::2]).splitlines()
    assert last == (
        "no convolution keeps a sketch, and all gradients are exact; fewer probes make smaller ones, such as "
        "--model.probes 0.25"
    )


def test_where_weights_are_frozen_it_says_what_lets_them_train():
    of = network(compact="norm", train_units="last")
    choices = choose_layers(of, FRAME, 0.25, auto=True)
    assert {c.why for c in choices} == {FROZEN}
    assert choice_table(choices).splitlines()[-1] == (
        "no convolution keeps a sketch, and all gradients are exact; --model.train_units all lets the others train, "
        "--model.compact relu (with --model.activation relu) frees inputs, and --model.probe_layers all sketches "
        "whoever keeps them"
    )


def test_a_batch_norm_behind_a_map_of_one_position():
    """One sample of one position has no variance, and BatchNorm refuses it: the trial has more than one."""
    layers = [nn.Conv2d(1, 4, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)]
    of = nn.Sequential(*layers)
    to_xconv(of, 0)
    choices = choose_layers(of, FRAME, 0.25, auto=True)
    assert [c.input_shape for c in choices] == [FRAME, (4, 1, 1)]


def test_auto_leaves_out_maps_of_few_positions():
    """A frame of 8 x 8 has 2 x 2 left before unit 3: asked for by name it sketches, by itself it does not."""
    few = {}
    for auto in (True, False):
        of = network(wiring="chain", compact="norm")
        few[auto] = {c.name: c for c in choose_layers(of, (1, 8, 8), 0.25, auto=auto) if prod(c.input_shape[1:]) < 16}
    assert few[True]
    assert all(not c.sketched and c.why == "fewer than 16 positions" for c in few[True].values())
    assert any(c.sketched for c in few[False].values())


def test_a_long_table_sums_up_what_stays_exact():
    of = network(network="x3d", depth=None, rule="backprop", compact="norm", pool="avg")
    choices = choose_layers(of, (4, 1, 32, 32), 0.25, auto=True)
    lines = choice_table(choices).splitlines()
    assert len(choices) > 100
    assert len(lines) <= 3 + sum(c.sketched for c in choices) + len({c.why for c in choices})
    more = sum(int(line.split()[0]) for line in lines if " more " in line)
    assert more == sum(not c.sketched for c in choices)
