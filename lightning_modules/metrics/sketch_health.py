"""The health of sketched gradients, convolution by convolution: their error beside the minibatch's own noise.

    error   ||estimate - exact|| / ||exact||     what the sketch adds; its square falls as 1 / r [D]
    noise   ||exact - full|| / ||exact||         what is there anyway: a minibatch is not the whole data set
    AGE     mean of ||estimate - full||^2        both, over minibatches; of exact gradients: the floor [P]

r probes are well chosen where error and noise are about equal: with fewer the sketch adds most of the noise, with more
it keeps numbers that buy little (arXiv 2106.06998, methods.md section 5).

Gradients go by parameter name, figures by the convolution's name.
"""

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from math import ceil, prod, sqrt

import torch
from torch import Tensor, nn

from lightning_modules.layers.probes import Probes
from lightning_modules.layers.xconv import draws_state, load_draws_state, xconv_layers
from lightning_modules.metrics.sketch_choice import SketchChoice
from lightning_modules.networks import ClipNetwork, UnitNetwork
from lightning_modules.networks.local_modules import codebooks_kept

Gradients = Mapping[str, Tensor]


@contextmanager
def left_as_it_is(network: UnitNetwork | ClipNetwork) -> Iterator[None]:
    """Undo what gradients that are only looked at leave behind: draws of probes, codebooks, running statistics."""
    draws = draws_state(network)
    statistics = {name: value.clone() for name, value in network.named_buffers()}
    try:
        with codebooks_kept(network):
            yield
    finally:
        load_draws_state(network, draws)
        for name, value in network.named_buffers():
            value.copy_(statistics[name])


def sketches_now(network: nn.Module, choices: Sequence[SketchChoice]) -> dict[str, Probes]:
    """Return how each convolution that sketches its input does it now."""
    layers = xconv_layers(network)
    used = [c for c in choices if layers[c.name].is_chosen and layers[c.name].probes]
    found = {c.name: layers[c.name].sketch_of((1, *c.input_shape)) for c in used}
    return {name: probes for name, probes in found.items() if probes is not None}


def all_probes(probes: Probes, shape: Sequence[int]) -> int:
    """Return the probes that a share of 1 would mean: as many as there are numbers for them to cover.

    Args:
        probes: of this kind.
        shape: of one sample, (C, *S).
    """
    return prod(shape[1:]) if probes.a_channel else prod(shape)


def most_probes(probes: Probes, shape: Sequence[int]) -> int:
    """Return the most probes, of this kind and of `all_probes`, with which a sketch is smaller than its input."""
    counts = range(1, all_probes(probes, shape) + 1)
    return bisect_left(counts, 4 * prod(shape), key=lambda n: replace(probes, count=n).stored_bytes(shape[0]))


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


class GradientErrors:
    """Errors, noise and AGE over minibatches, from running sums: no gradient is kept.

    The gradient of the full data set is the mean over the minibatches. Where these are all there are, that is what it
    is. Where they are n drawn from more, each has itself in the mean, and its squared distance to it is too small by
    the factor (n - 1) / n; what was missing of exact gradients' distance is added to all of them, as a sketch's own
    error is not in the mean [D].

    Args:
        layers: names of the convolutions whose weights' gradients count.
    """

    def __init__(self, layers: Sequence[str]) -> None:
        self.count = 0
        self._names = dict(zip(layers, _weights(layers), strict=True))
        self._exact: dict[str, Tensor] = {}
        self._exact_squares = dict.fromkeys(layers, 0.0)
        self._estimates: dict[tuple[float, str], Tensor] = {}
        self._estimate_squares: dict[tuple[float, str], float] = {}
        self._error_squares: dict[tuple[float, str], float] = {}

    @property
    def layers(self) -> list[str]:
        """The convolutions that have had a gradient other than 0."""
        return [layer for layer, total in self._exact_squares.items() if total]

    def update(self, exact: Gradients, estimates: Mapping[float, Gradients]) -> None:
        """Take a minibatch's exact gradients, and by probes those from sketches."""
        self.count += 1
        for layer, name in self._names.items():
            if name not in exact:
                continue
            gradient = exact[name].double()
            self._exact[layer] = self._exact.get(layer, 0) + gradient
            self._exact_squares[layer] += _square(gradient)
            for probes, found in estimates.items():
                key, estimate = (probes, layer), found[name].double()
                self._estimates[key] = self._estimates.get(key, 0) + estimate
                self._estimate_squares[key] = self._estimate_squares.get(key, 0) + _square(estimate)
                self._error_squares[key] = self._error_squares.get(key, 0) + _square(estimate - gradient)

    def norm_square(self, layer: str) -> float:
        """Return the mean of ||exact||^2."""
        return self._exact_squares[layer] / self.count

    def error(self, layer: str, probes: float) -> float:
        """Return the relative error of a convolution's sketched gradients: a root mean square over minibatches."""
        return sqrt(self._error_squares[probes, layer] / self._exact_squares[layer])

    def noise(self, layer: str, *, whole: bool = False) -> float:
        """Return the noise of a minibatch relative to the same norm.

        Args:
            layer: name of the convolution.
            whole: whether the minibatches were all that there are.
        """
        return sqrt(self.age(layers=[layer], whole=whole) / self.norm_square(layer))

    def age(self, probes: float | None = None, *, layers: Sequence[str] | None = None, whole: bool = False) -> float:
        """Return the mean of ||estimate - full||^2 over minibatches [P], see above; 2 minibatches are the least.

        Args:
            probes: as `update` had them; None: of exact gradients, the floor.
            layers: all if absent; squares add up.
            whole: whether the minibatches were all that there are.
        """
        return sum(self._age(layer, probes, whole) for layer in (self.layers if layers is None else layers))

    def _age(self, layer: str, probes: float | None, whole: bool) -> float:
        n = self.count
        full = self._exact[layer] / n
        floor = max(self.norm_square(layer) - _square(full), 0.0)
        missing = 0.0 if whole else floor / (n - 1)
        if probes is None:
            return floor + missing
        key = (probes, layer)
        across = (self._estimates[key] / n * full).sum().item()
        return max(self._estimate_squares[key] / n - 2 * across + _square(full), 0.0) + missing


def _square(tensor: Tensor) -> float:
    return torch.linalg.vector_norm(tensor).item() ** 2


def one_probe_error(errors: Mapping[int, float]) -> float:
    """Return the error that one probe would have, from errors by number of probes: error^2 falls as 1 / r [D]."""
    return sqrt(sum(error**2 * probes for probes, error in errors.items()) / len(errors))


def suggest_probes(
    errors: Mapping[str, float], noises: Mapping[str, float], probes: Mapping[str, int], most: Mapping[str, int]
) -> dict[str, int]:
    """Return the fewest probes with which each convolution's error is at most the minibatch's noise [D].

    Args:
        errors: relative, measured with `probes`.
        noises: relative to the same norm.
        probes: by convolution.
        most: with which a sketch is smaller than the input; no more are suggested, and as many where there is no noise.
    """
    found = {}
    for name, error in errors.items():
        needed = probes[name] * (error / noises[name]) ** 2 if noises[name] else float(most[name])
        found[name] = min(max(1, ceil(round(needed, 6))), most[name])
    return found


def suggest_share(added: Mapping[str, float], floors: Mapping[str, float]) -> float:
    """Return the share of the inputs' numbers at which all sketches together add what is there anyway [D].

    At a share s of its numbers a convolution's sketch adds `added` / s to the squared error. 1 and more: no sketch is
    good enough.

    Args:
        added: squared error at share 1 by the law of `one_probe_error`, by convolution.
        floors: squared noise of exact gradients.
    """
    noise = sum(floors.values())
    return sum(added.values()) / noise if noise else float("inf")
