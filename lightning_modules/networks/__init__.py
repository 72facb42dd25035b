"""What is computed: networks cut into units, and the wirings between the units."""

from collections.abc import Callable, Sequence
from difflib import get_close_matches

from lightning_modules.networks.autoencoders import (
    Autoencoder,
    resnet18_autoencoder,
    small_autoencoder,
    vgg8_autoencoder,
)
from lightning_modules.networks.clip_network import ClipNetwork
from lightning_modules.networks.cnn3d import cnn3d
from lightning_modules.networks.resnet18 import resnet18
from lightning_modules.networks.small_cnn import small_cnn
from lightning_modules.networks.unit_network import Unit, UnitNetwork, UnitSpec
from lightning_modules.networks.vgg8 import vgg8
from lightning_modules.networks.wiring import PREDICTOR_WIRINGS, WIRINGS, GradientEdges, Wiring, make_wiring
from lightning_modules.networks.x3d import x3d

FRAME_NETWORKS: dict[str, Callable[..., Sequence[UnitSpec]]] = {
    "small_cnn": small_cnn,
    "vgg8": vgg8,
    "resnet18": resnet18,
}
CLIP_NETWORKS: dict[str, Callable[..., ClipNetwork]] = {"cnn3d": cnn3d, "x3d": x3d}
FRAME_PREDICTORS: dict[str, Callable[..., Autoencoder]] = {
    "small_autoencoder": small_autoencoder,
    "vgg8_autoencoder": vgg8_autoencoder,
    "resnet18_autoencoder": resnet18_autoencoder,
}

__all__ = [
    "CLIP_NETWORKS",
    "FRAME_NETWORKS",
    "FRAME_PREDICTORS",
    "PREDICTOR_WIRINGS",
    "WIRINGS",
    "ClipNetwork",
    "Unit",
    "UnitNetwork",
    "UnitSpec",
    "Wiring",
    "build_frame_predictor",
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
        gradient_edges: `all`, or only those of each unit's `newest` message, or of its `shortest` path to the last one.

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
    if name in FRAME_PREDICTORS:
        raise ValueError(
            f"network {name!r} predicts frames; use it with the task FutureFrames (`build_frame_predictor`), "
            f"or one of {', '.join([*FRAME_NETWORKS, *CLIP_NETWORKS])}"
        )
    if name not in FRAME_NETWORKS:
        raise _unknown(name, [*FRAME_NETWORKS, *CLIP_NETWORKS])
    if wiring == "unet":
        raise ValueError(
            f"wiring 'unet' joins an encoder with its decoder, and {name!r} has none; expected one of "
            f"{', '.join(WIRINGS)}"
        )
    specs = FRAME_NETWORKS[name](num_classes, width=width, depth=depth, pool=pool, activation=activation)
    return UnitNetwork(specs, make_wiring(wiring, len(specs), reach=reach, gradients=gradient_edges), in_channels)


def build_frame_predictor(
    name: str,
    *,
    wiring: str = "chain",
    in_channels: int = 3,
    out_channels: int = 3,
    width: float = 1.0,
    depth: int | None = None,
    reach: int | None = None,
    activation: str = "relu",
    gradient_edges: GradientEdges = "all",
    zero_output: bool = False,
) -> UnitNetwork:
    """Return an encoder-decoder network by name, cut into units and wired: a frame in, `out_channels` of its size out.

    Args:
        name: one of `FRAME_PREDICTORS`.
        wiring: one of `PREDICTOR_WIRINGS`.
        in_channels: channels of a frame.
        out_channels: channels of the output, those of all predicted frames together.
        width: multiplies the channels between.
        depth: number of units where the network leaves it open (`small_autoencoder`, from 6).
        reach: largest span of a skip in wiring `dense`.
        activation: `relu`, `silu`, `softplus` or `tanh`.
        gradient_edges: `all`, or only those of each unit's `newest` message, or of its `shortest` path to the last one.
        zero_output: start the last convolution at zero, so that an untrained network says 0 everywhere.

    Raises:
        ValueError: an unknown name, or options that the network cannot take.
    """
    if name in FRAME_NETWORKS or name in CLIP_NETWORKS:
        raise ValueError(
            f"network {name!r} gives one answer, not frames; expected one of {', '.join(FRAME_PREDICTORS)}"
        )
    if name not in FRAME_PREDICTORS:
        raise _unknown(name, [*FRAME_PREDICTORS])
    made = FRAME_PREDICTORS[name](
        out_channels, width=width, depth=depth, activation=activation, zero_output=zero_output
    )
    wires = make_wiring(wiring, len(made.specs), reach=reach, gradients=gradient_edges)
    return UnitNetwork(made.specs, wires, in_channels, frame_multiple=made.frame_multiple)


def _unknown(name: str, names: Sequence[str]) -> ValueError:
    near = get_close_matches(name, names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return ValueError(f"network {name!r} is unknown; expected one of {', '.join(names)}{hint}")
