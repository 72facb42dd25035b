"""What a task does to train with sketches: choose its convolutions when the data's size is known, set their probes.

__init__      layers are converted, exact                              networks/sketched.py
fit starts    which convolutions sketch, and why: a table              metrics/sketch_choice.py
each update   the probes of that update                                Sketching.probes_at
checkpoint    where draws go on                                        layers/xconv.py
"""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_info

from lightning_modules.layers.xconv import set_probes
from lightning_modules.metrics.sketch_choice import SketchChoice, choice_table, choose_layers
from lightning_modules.networks import ClipNetwork, UnitNetwork
from lightning_modules.networks.sketched import sketch_network


class SketchedTraining:
    """A network's layers converted as options ask, and which of them sketch in each update.

    Args:
        network: is changed.
        options: by name, see `networks.sketched.Sketching`; others are left.
        executor: that will train it.

    Attributes:
        choices: of each convolution; none before the data's size is known.

    Raises:
        ValueError: options that make no sense, or probes for a network without convolutions.
    """

    def __init__(self, network: UnitNetwork | ClipNetwork, options: Mapping[str, Any], executor: str) -> None:
        self._network = network
        self._asked = sketch_network(network, options, executor)
        self.choices: list[SketchChoice] = []
        self._has_chosen = False

    @property
    def sketches(self) -> bool:
        """Whether any convolution is ever sketched."""
        return self._asked.sketches

    def choose(self, shape: tuple[int, ...] | None, *, sees_batches: bool = True) -> None:
        """Choose which convolutions sketch, and say so, once and where a shape is known.

        Args:
            shape: of a frame (C, H, W), for networks of clips of a clip (T, C, H, W).
            sees_batches: whether it is asked again with a batch's shape.

        Raises:
            ValueError: `auto`, and no shape now or later.
        """
        if self._has_chosen or not self.sketches:
            return
        auto = self._asked.probe_layers == "auto"
        if shape is None and auto and not sees_batches:
            raise ValueError(
                "probe_layers auto needs the frame's size before stages begin that draw what they learn from out of "
                "buffers, and this data has no attributes channels and size (frames too, for networks of clips) to "
                "tell it; use --model.probe_layers all, or give the DataModule these attributes"
            )
        if shape is None:
            return
        self._has_chosen = True
        self.choices = choose_layers(self._network, shape, self._asked.first_probes, auto=auto)
        each = "clip" if isinstance(self._network, ClipNetwork) else "frame"
        lines = [f"what convolutions keep of a {each} for their weights' gradients:", choice_table(self.choices)]
        rank_zero_info("\n".join([*lines, self._asked.said()]).rstrip())

    def set_probes_of(self, update: int) -> None:
        """Set the probes of an update, counted from 0."""
        set_probes(self._network, self._asked.probes_at(update))
