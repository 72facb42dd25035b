"""CuedVideo: what was the first digit? A question at the end of a long video that distracts; no download."""

from dataclasses import asdict
from typing import Any

from datamodules.cued_frames import CuedOptions, CuedSource
from datamodules.long_streams import LongStreamData


class CuedVideo(LongStreamData):
    """Streams of moving handwritten digits: a cue, distraction, and a question that only the cue answers [D].

    The cue is a digit with a bright border. Then other digits come, each as likely as any, also the cue's. The question
    is a frame with a checkerboard. Asked at a frame with a digit is that digit (classes 0 to 9), and of the cue that it
    is the cue (10 to 19), so that nothing must be remembered there; asked at the question, which is what the test
    scores, is the cue: chance is 0.1, since memory is not needed to know that it is a cue. Frames are (1, size, size)
    uint8, drawn when they are read, so that memory does not depend on the gap. The images of digits are scikit-learn's,
    other ones in training, validation and test.

    Args:
        size: side of a frame in pixels, its border included.
        digit_size: side of a digit in pixels, 8 to size - 2.
        cue_frames: frames of the cue.
        gap: frames of distraction between cue and question.
        hold: frames that a distracting digit stays.
        question_frames: frames of the question.
        motion: `wrap`: a digit that leaves comes in at the other side; `bounce`: it stays whole, easier to see.
        speed: pixels a frame, in a direction drawn anew for each digit.
        noise: standard deviation of the pixels' noise, drawn anew for each frame, of a range from 0 to 1.
        options: of all long streams; see LongStreamData.
    """

    dataset_name = "cued_video"
    split_name = "digits-disjoint"
    input_kind = "frames"
    channels = 1

    def __init__(
        self,
        size: int = 16,
        digit_size: int = 8,
        cue_frames: int = 4,
        gap: int = 40,
        hold: int = 8,
        question_frames: int = 1,
        motion: str = "wrap",
        speed: float = 0.5,
        noise: float = 0.0,
        **options: Any,
    ) -> None:
        self.options = CuedOptions(size, digit_size, cue_frames, gap, hold, question_frames, motion, speed, noise)
        super().__init__(self.options.steps, gap, question_frames, **options)
        self.size = size
        self.class_names = [f"{kind}{digit}" for kind in ("", "cue ") for digit in range(10)]

    def settings(self) -> dict[str, Any]:
        """Return what a stream looks like."""
        return asdict(self.options)

    def source(self, split: str) -> CuedSource:
        """Return the streams of `train`, `val` or `test`."""
        return CuedSource(split, self.streams[split], self.options, self.seed)
