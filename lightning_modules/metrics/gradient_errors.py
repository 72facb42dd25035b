"""How far gradients from sketches are from exact ones, and both from all data's: sums over minibatches.

    error   ||estimate - exact|| / ||exact||     what the sketch adds; its square falls as 1 / r [D]
    noise   ||exact - full|| / ||exact||         what is there anyway: a minibatch is not the whole data set
    AGE     mean of ||estimate - full||^2        both; of exact gradients: the floor [P]

arXiv 2106.06998, methods.md section 5. Gradients go by parameter name, figures by the convolution's name.
"""

from collections.abc import Mapping, Sequence
from math import sqrt

import torch
from torch import Tensor

Gradients = Mapping[str, Tensor]


class GradientErrors:
    """Errors, noise and AGE over minibatches, from running sums: no gradient is kept.

    The gradient of the full data set is the mean over the minibatches. Where these are all there are, that is what it
    is. Where they are n drawn from more, each has itself in the mean, and its squared distance to it is too small by
    the factor (n - 1) / n; what was missing of exact gradients' distance is added to all of them, as a sketch's own
    error is not in the mean [D]. All minibatches weigh alike: a ragged last one as much as a full one.

    Args:
        layers: names of the convolutions whose weights' gradients count.
    """

    def __init__(self, layers: Sequence[str]) -> None:
        self.count = 0
        self._names = {layer: f"{layer}.weight" for layer in layers}
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
