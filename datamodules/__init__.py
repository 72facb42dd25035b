from lightning_modules.compat import ensure_torchvision

ensure_torchvision()

from datamodules.digits import MovingDigits  # noqa: E402
from datamodules.video_folder import VideoFolder  # noqa: E402
from datamodules.weizmann import Weizmann  # noqa: E402

__all__ = ["MovingDigits", "VideoFolder", "Weizmann"]
