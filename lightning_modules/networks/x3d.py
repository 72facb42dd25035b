"""X3D (Feichtenhofer 2020) from pytorchvideo, at random weights: the published 3D control."""

from torch import nn

from lightning_modules.compat import ensure_pytorchvideo
from lightning_modules.networks.clip_network import ClipNetwork


def x3d(in_channels: int, num_classes: int, *, width: float = 1.0, frames: int = 16, size: int = 160) -> ClipNetwork:
    """Return X3D-S's blocks with our own pooling head, so that clips of any length and size pass."""
    ensure_pytorchvideo()
    from pytorchvideo.models.x3d import create_x3d

    model = create_x3d(
        input_channel=in_channels,
        input_clip_length=frames,
        input_crop_size=size,
        model_num_class=num_classes,
        width_factor=2.0 * width,
        depth_factor=2.2,
    )
    blocks = list(model.blocks)[:-1]
    channels = [m.num_features for m in blocks[-1].modules() if isinstance(m, nn.BatchNorm3d)][-1]
    return ClipNetwork(nn.Sequential(*blocks), nn.Linear(channels, num_classes))
