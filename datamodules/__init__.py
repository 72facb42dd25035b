from lightning_modules.compat import ensure_torchvision

ensure_torchvision()

from datamodules.add_sequences import AddSequences  # noqa: E402
from datamodules.array_streams import ArrayStreams  # noqa: E402
from datamodules.cifar10 import CIFAR10  # noqa: E402
from datamodules.copy_sequences import CopySequences, ScatteredCopySequences  # noqa: E402
from datamodules.cued_video import CuedVideo  # noqa: E402
from datamodules.digit_sequences import DigitSequences  # noqa: E402
from datamodules.digits import MovingDigits  # noqa: E402
from datamodules.hmdb51 import HMDB51  # noqa: E402
from datamodules.kinetics import Kinetics400, Kinetics600  # noqa: E402
from datamodules.ucf101 import UCF101  # noqa: E402
from datamodules.video_folder import VideoFolder  # noqa: E402
from datamodules.weizmann import Weizmann  # noqa: E402
from datamodules.weizmann_streams import WeizmannStreams  # noqa: E402

__all__ = [
    "CIFAR10",
    "HMDB51",
    "UCF101",
    "AddSequences",
    "ArrayStreams",
    "CopySequences",
    "CuedVideo",
    "DigitSequences",
    "Kinetics400",
    "Kinetics600",
    "MovingDigits",
    "ScatteredCopySequences",
    "VideoFolder",
    "Weizmann",
    "WeizmannStreams",
]
