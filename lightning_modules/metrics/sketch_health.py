"""The health of sketched gradients in a run, convolution by convolution: their error beside the minibatch's own noise.

    error   ||estimate - exact|| / ||exact||     what the sketch adds; its square falls as 1 / r [D]
    noise   ||exact - full|| / ||exact||         what is there anyway: a minibatch is not the whole data set

r probes are well chosen where the two are about equal: with fewer the sketch adds most of the noise, with more it keeps
numbers that buy little (arXiv 2106.06998, methods.md section 5).

Gradients go by parameter name, figures by the convolution's name.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

from lightning_modules.layers.probes import Probes
from lightning_modules.layers.xconv import draws_state, load_draws_state, xconv_layers
from lightning_modules.metrics.sketch_choice import SketchChoice
from lightning_modules.networks import ClipNetwork, UnitNetwork

Gradients = Mapping[str, Tensor]


@contextmanager
def left_as_it_is(network: UnitNetwork | ClipNetwork) -> Iterator[None]:
    """Undo what gradients that are only looked at leave behind: draws of probes, codebooks, running statistics."""
    draws = draws_state(network)
    statistics = {name: value.clone() for name, value in network.named_buffers()}
    try:
        yield
    finally:
        load_draws_state(network, draws)
        for name, value in network.named_buffers():
            value.copy_(statistics[name])


def sketches_now(network: nn.Module, choices: Sequence[SketchChoice]) -> dict[str, Probes]:
    """Return how each convolution that sketches its input does it now."""
    layers = xconv_layers(network)
    chosen = {c.name: c.input_shape for c in choices if layers[c.name].is_chosen and layers[c.name].probes}
    used = {name: shape for name, shape in chosen.items() if layers[name].weight.requires_grad}
    found = {name: layers[name].sketch_of((1, *shape)) for name, shape in used.items()}
    return {name: probes for name, probes in found.items() if probes is not None}


def relative_errors(estimates: Gradients, exact: Gradients, layers: Sequence[str]) -> dict[str, float]:
    """Return ||estimate - exact|| / ||exact|| of each convolution's weight; none where there is no gradient, or 0."""
    return _relative({n: estimates[n] - exact[n] for n in _weights(layers) if n in estimates and n in exact}, exact)


def minibatch_noise(halves: Sequence[Gradients], exact: Gradients, layers: Sequence[str]) -> dict[str, float]:
    """Return the noise of a minibatch's exact gradient, from those of its halves: ||g1 - g2|| / 2 / ||g||.

    The difference of two independent halves has four times the variance of their mean [D]. Halves that differ by a clip
    are taken as equal.

    Args:
        halves: mean gradients of the two; none of a minibatch of one clip, and then there is no figure.
        exact: of the whole minibatch.
        layers: names of convolutions.
    """
    if not halves:
        return {}
    first, second = halves
    return _relative({n: (first[n] - second[n]) / 2 for n in _weights(layers) if n in first and n in second}, exact)


def _weights(layers: Sequence[str]) -> list[str]:
    return [f"{layer}.weight" for layer in layers]


def _relative(differences: Gradients, exact: Gradients) -> dict[str, float]:
    lengths = {name: exact[name].norm().item() for name in differences if name in exact}
    return {
        name.removesuffix(".weight"): differences[name].norm().item() / length
        for name, length in lengths.items()
        if length
    }


def sketch_figures(
    estimates: Gradients, exact: Gradients, halves: Sequence[Gradients], sketches: Mapping[str, Probes]
) -> dict[str, float]:
    """Return `sketch/error/LAYER`, `sketch/noise/LAYER` and `sketch/probes/LAYER`.

    Args:
        estimates: a minibatch's gradients from sketches.
        exact: its exact ones, under the same rule.
        halves: exact ones of its two halves; none of a minibatch of one clip.
        sketches: of the convolutions that have one.
    """
    layers = list(sketches)
    figures: dict[str, Mapping[str, float]] = {
        "error": relative_errors(estimates, exact, layers),
        "noise": minibatch_noise(halves, exact, layers),
        "probes": {name: float(probes.count) for name, probes in sketches.items()},
    }
    return {f"sketch/{figure}/{name}": value for figure, values in figures.items() for name, value in values.items()}
