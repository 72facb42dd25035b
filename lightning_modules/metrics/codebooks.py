"""The health of the codebooks that quantise what modules send."""

from collections.abc import Collection

from torch import Tensor

from lightning_modules.networks import ClipNetwork, UnitNetwork


def codebook_figures(
    network: UnitNetwork | ClipNetwork, modules: Collection[int] | None = None
) -> dict[str, Tensor | float]:
    """Return `perplexity/unit_i` and `bits_per_position/unit_i` of every unit, of `modules`, that is quantised.

    Perplexity is the number of codes in use, if they were used alike: K at most (methods.md section 4 [D]).
    """
    found: dict[str, Tensor | float] = {}
    for module in range(1, network.module_count + 1) if modules is None else modules:
        for unit in network.module_outputs(module):
            if (quantiser := network.quantiser(unit)) is not None:
                found[f"perplexity/unit_{unit}"] = quantiser.perplexity()
                found[f"bits_per_position/unit_{unit}"] = quantiser.bits_per_position
    return found
