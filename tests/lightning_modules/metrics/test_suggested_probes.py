"""How many probes are enough, by hand and against what layers keep."""

from math import prod, sqrt

import pytest
from torch import nn

from lightning_modules.layers.probes import MODES
from lightning_modules.layers.xconv import to_xconv, xconv_layers
from lightning_modules.metrics.suggested_probes import (
    all_probes,
    most_probes,
    one_probe_error,
    suggest_probes,
    suggest_share,
)


@pytest.mark.parametrize(
    ("error", "noise", "expected"),
    [
        (sqrt(1 / 2), 1.0, 8),
        (1.0, 1.0, 16),
        (sqrt(2), 1.0, 32),
        (0.01, 1.0, 1),
        (0.3, 0.25, 24),  # 23.04
        (100.0, 1.0, 50),
        (1.0, 0.0, 50),
    ],
)
def test_suggested_probes_are_those_where_error_meets_noise(error, noise, expected):
    assert suggest_probes({"a": error}, {"a": noise}, {"a": 16}, {"a": 50}) == {"a": expected}


def test_one_probe_error_and_one_share_for_all():
    assert one_probe_error({4: 1.0, 16: 0.5, 64: 0.25}) == pytest.approx(2)
    assert suggest_share({"a": 0.1, "b": 0.3}, {"a": 1.0, "b": 3.0}) == pytest.approx(0.1)
    assert suggest_share({"a": 1.0}, {"a": 0.0}) == float("inf")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("center", [False, True])
def test_with_the_most_probes_a_sketch_is_just_smaller_than_its_input(mode, center):
    network, shape = nn.Sequential(nn.Conv2d(6, 2, 1)), (6, 4, 5)
    to_xconv(network, 1, mode=mode, center=center)
    (layer,) = xconv_layers(network).values()
    made = layer.sketch_of((1, *shape))
    most, numbers = most_probes(made, shape), all_probes(made, shape)
    assert numbers == prod(shape) / (6 if made.a_channel else 1)
    assert 1 <= most <= numbers
    if mode != "local":  # whose blocks are equal, so that not every number can be had
        layer.probes = most
        assert layer.sketch_of((1, *shape)) is not None
        layer.probes = most + 1
        assert most == numbers or layer.sketch_of((1, *shape)) is None
