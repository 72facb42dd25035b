"""What is computed: networks cut into units, and the wirings between the units."""

from collections.abc import Callable, Sequence
from difflib import get_close_matches

from lightning_modules.networks.clip_network import ClipNetwork
from lightning_modules.networks.cnn3d import cnn3d
from lightning_modules.networks.resnet18 import resnet18
from lightning_modules.networks.small_cnn import small_cnn
from lightning_modules.networks.unit_network import Unit, UnitNetwork, UnitSpec
from lightning_modules.networks.vgg8 import vgg8
from lightning_modules.networks.wiring import WIRINGS, GradientEdges, Wiring, make_wiring
from lightning_modules.networks.x3d import x3d

FRAME_NETWORKS: dict[str, Callable[..., Sequence[UnitSpec]]] = {
    "small_cnn": small_cnn,
    "vgg8": vgg8,
    "resnet18": resnet18,
}
CLIP_NETWORKS: dict[str, Callable[..., ClipNetwork]] = {"cnn3d": cnn3d, "x3d": x3d}

__all__ = [
    "CLIP_NETWORKS",
    "FRAME_NETWORKS",
    "WIRINGS",
    "ClipNetwork",
    "Unit",
    "UnitNetwork",
    "UnitSpec",
    "Wiring",
    "build_network",
    "make_wiring",
]


def build_network(
    name: str,
    *,
    wiring: str = "chain",
    in_channels: int = 3,
    num_classes: int = 10,
    width: float = 1.0,
    depth: int | None = None,
    reach: int | None = None,
    pool: str = "avg",
    activation: str = "relu",
    gradient_edges: GradientEdges = "all",
) -> UnitNetwork | ClipNetwork:
    """Return a network by name, cut into units and wired.

    Args:
        name: a per-frame network of `FRAME_NETWORKS`, or a 3D network of `CLIP_NETWORKS`.
        wiring: one of `WIRINGS`; 3D networks have none and take `chain`.
        in_channels: channels of a frame, any number.
        num_classes: number of logits.
        width: multiplies the channels.
        depth: number of units where the network leaves it open (`small_cnn`).
        reach: largest span of a skip in wiring `dense`.
        pool: the head's pool over space, `avg` or `max`.
        activation: `relu`, `silu`, `softplus` or `tanh`; x3d has its own.
        gradient_edges: `all`, or `newest`: only the edges of each unit's newest message carry gradients back.

    Raises:
        ValueError: an unknown name, or options that the network cannot take.
    """
    if name in CLIP_NETWORKS:
        if wiring != "chain" or depth is not None or reach is not None or gradient_edges != "all":
            raise ValueError(
                f"network {name!r} takes whole clips and has no units to wire; "
                "leave wiring, depth, reach, gradient_edges out"
            )
        return CLIP_NETWORKS[name](in_channels, num_classes, width=width, pool=pool, activation=activation)
    if name not in FRAME_NETWORKS:
        names = [*FRAME_NETWORKS, *CLIP_NETWORKS]
        near = get_close_matches(name, names, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"network {name!r} is unknown; expected one of {', '.join(names)}{hint}")
    specs = FRAME_NETWORKS[name](num_classes, width=width, depth=depth, pool=pool, activation=activation)
    return UnitNetwork(specs, make_wiring(wiring, len(specs), reach=reach, gradients=gradient_edges), in_channels)
