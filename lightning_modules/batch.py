"""What a batch becomes on its device: videos travel there as bytes, a quarter of the floats' size.

    loader (uint8) --> device (uint8) --> in_unit_range: float in [0, 1]

A task calls this at the top of its steps. Lightning's hook for it, `on_after_batch_transfer`, warns of every data
module, and is left out where a strategy moves batches itself.

Shape legend: B clips, T frames, C channels, H and W height and width.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def in_unit_range(batch: Mapping[str, Any], dtype: torch.dtype = torch.float32) -> Mapping[str, Any]:
    """Return the batch with its `video` (B, T, C, H, W), uint8 in [0, 255], as floats in [0, 1].

    A video that is float already, and a batch without one, are left as they are; so is what shape there is where a
    video is on the meta device.

    Args:
        batch: by name.
        dtype: of the network's weights.
    """
    video = batch.get("video")
    if not isinstance(video, Tensor) or video.dtype != torch.uint8:
        return batch
    return {**batch, "video": video.to(torch.float32).div_(255).to(dtype)}


def data_shape(data: Any, *, clips: bool) -> tuple[int, ...] | None:
    """Return (C, H, W), for networks of clips (T, C, H, W), as a DataModule tells it; None where it does not."""
    wanted = ("frames", "channels", "size") if clips else ("channels", "size")
    found = [getattr(data, name, None) for name in wanted]
    if not all(isinstance(number, int) for number in found):
        return None
    return (*found, found[-1])  # type: ignore[arg-type]
