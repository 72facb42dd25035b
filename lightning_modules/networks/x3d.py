"""X3D (Feichtenhofer 2020) from pytorchvideo, at random weights: the published 3D control."""

from torch import nn

from lightning_modules.compat import ensure_pytorchvideo
from lightning_modules.networks.clip_network import ClipNetwork

_FRAMES, _SIZE = 16, 160  # only the pooling head, which we replace, depends on them


def _with_silu(module: nn.Module) -> None:
    """Put torch's SiLU in place of pytorchvideo's Swish, the same function with a backward that newer torch refuses."""
    for name, child in module.named_children():
        if type(child).__name__ == "Swish":
            setattr(module, name, nn.SiLU())
        else:
            _with_silu(child)


def x3d(
    in_channels: int, num_classes: int, *, width: float = 1.0, pool: str = "avg", activation: str = "relu"
) -> ClipNetwork:
    """Return X3D-S's blocks with our own pooling head, so that clips of any length and size pass.

    Raises:
        ValueError: an activation other than `relu`: X3D has its own, ReLU and Swish.
    """
    if activation != "relu":
        raise ValueError(
            f"x3d has its own activations, given activation={activation!r}; "
            "leave activation out, or use network 'cnn3d'"
        )
    ensure_pytorchvideo()
    from pytorchvideo.models.x3d import create_x3d

    model = create_x3d(
        input_channel=in_channels,
        input_clip_length=_FRAMES,
        input_crop_size=_SIZE,
        model_num_class=num_classes,
        width_factor=2.0 * width,
        depth_factor=2.2,
    )
    _with_silu(model)
    blocks = list(model.blocks)[:-1]
    channels = [[m.num_features for m in block.modules() if isinstance(m, nn.BatchNorm3d)][-1] for block in blocks]
    cut = [(1, number) for number in channels]
    return ClipNetwork(nn.Sequential(*blocks), nn.Linear(channels[-1], num_classes), pool, cut)
