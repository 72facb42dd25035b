from lightning_modules.compat import ensure_torchvision

ensure_torchvision()

from datamodules.cifar10 import CIFAR10  # noqa: E402
from datamodules.digits import MovingDigits  # noqa: E402
from datamodules.hmdb51 import HMDB51  # noqa: E402
from datamodules.kinetics import Kinetics400, Kinetics600  # noqa: E402
from datamodules.ucf101 import UCF101  # noqa: E402
from datamodules.video_folder import VideoFolder  # noqa: E402
from datamodules.weizmann import Weizmann  # noqa: E402

__all__ = ["CIFAR10", "HMDB51", "UCF101", "Kinetics400", "Kinetics600", "MovingDigits", "VideoFolder", "Weizmann"]
