"""What a training logs of its gradients: of units beside exact backprop's, of sketches beside exact ones.

    gradients of a logged batch --of_sketches--> sketch/error, sketch/noise, sketch/probes    metrics/sketch_health.py
                                --of_units-----> alignment, grad_norm, weight_change          metrics/gradients.py

Gradients go by parameter name.
"""

from collections.abc import Callable, Mapping

from torch import Tensor

from lightning_modules.execution import clip_gradients
from lightning_modules.execution.clip_loss import Loss
from lightning_modules.inputs import Inputs
from lightning_modules.layers.xconv import kept_exact
from lightning_modules.metrics.gradients import gradient_health, is_logged, with_all_edges
from lightning_modules.metrics.sketch_health import left_as_it_is, sketch_figures, sketches_now
from lightning_modules.networks import ClipNetwork, UnitNetwork
from lightning_modules.rules import Rule, backprop_shifted
from lightning_modules.sketched_training import SketchedTraining

Gradients = Mapping[str, Tensor]


class GradientLogs:
    """Figures of a network's gradients, every so many batches.

    Args:
        network: that learns.
        sketching: which of its convolutions sketch.
        every: batches between logs; 0 for never.

    Attributes:
        start_weights: from which `weight_change` is measured, by parameter name; none before `start`.
    """

    def __init__(self, network: UnitNetwork | ClipNetwork, sketching: SketchedTraining, every: int) -> None:
        self._network, self._sketching, self._every = network, sketching, every
        self.start_weights: dict[str, Tensor] = {}

    def start(self) -> None:
        """Remember the weights at the start of a training, unless a checkpoint has brought them."""
        if self._every and not self.start_weights:
            self.start_weights = {name: p.detach().clone() for name, p in self._network.named_parameters()}

    def are_due(self, batch_idx: int) -> bool:
        """Whether a batch's gradients are logged."""
        has_figures = isinstance(self._network, UnitNetwork) or self._sketching.sketches
        return has_figures and is_logged(batch_idx, self._every)

    def of_sketches(
        self, gradients: Gradients, inputs: Inputs, find: Callable[[Inputs], Gradients]
    ) -> dict[str, float]:
        """Return how far sketches' gradients are from exact ones, and these from all data's; none without sketches.

        Args:
            gradients: of the batch.
            inputs: of the batch.
            find: gives the gradients of inputs under the same rule, which go nowhere.
        """
        sketches = sketches_now(self._network, self._sketching.choices)
        if not sketches:
            return {}
        with left_as_it_is(self._network), kept_exact(self._network):
            exact, *halves = [find(part) for part in (inputs, *inputs.halves())]
        return sketch_figures(gradients, exact, halves, sketches)

    def of_units(self, gradients: Gradients, inputs_under: Callable[[Rule], Inputs], loss: Loss) -> dict[str, float]:
        """Return the health of each unit's gradients, beside exact shifted backprop's; none where a network has none.

        Args:
            gradients: of the batch.
            inputs_under: gives the batch's inputs under a rule.
            loss: of the task.
        """
        if not isinstance(self._network, UnitNetwork):
            return {}
        reference = backprop_shifted()
        inputs = inputs_under(reference)  # of backprop_frame's targets its outputs would have seen some already
        with kept_exact(self._network):
            exact = clip_gradients(
                with_all_edges(self._network),
                inputs.video_BTCHW,
                inputs.targets,
                rule=reference,
                lengths_B=inputs.lengths_B,
                loss=loss,
            ).gradients
        return gradient_health(self._network, gradients, exact, self.start_weights)
