"""A video a stretch at a time gives the same bits as the video decoded whole, in memory that does not grow."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sample_videos import write_video

from datamodules.forward_store import ForwardStore
from datamodules.frame_store import FrameStore
from datamodules.probing import probe
from datamodules.streams import Streams
from datamodules.video_dataset import ClipOptions, Video

FRAMES = 43


@pytest.fixture
def video(tmp_path):
    path = write_video(tmp_path / "one.mp4", frames=FRAMES)
    return Video(path, "one", -1, FRAMES, 0, probe(path))


def options(**changes):
    made = {"frames": 5, "size": 24, "stride": 1, "fit": "crop", "margin": 4, "flip": True, "grayscale": False}
    return ClipOptions(**{**made, "background": "none", "decoder": "pyav", **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"stride": 3},
        {"fps": 10.0},
        {"fps": 60.0, "fit": "squash"},
        {"background": "median", "stride": 2},
        {"background": "mean", "grayscale": True, "frames": 9},
    ],
)
def test_stretches_are_the_whole_video(video, changes):
    o = options(**changes)
    kept, forward = FrameStore(o, "none"), ForwardStore(o, video, stretch_bytes=7 * 3 * 28 * 37)
    whole, pieces = (Streams([video], store, lanes=1) for store in (kept, forward))
    assert len(whole) == len(pieces) > 1
    for number in range(len(whole)):
        one, other = whole[(0, number)], pieces[(0, number)]
        assert torch.equal(one["video"], other["video"])
        assert one["clip_id"] == other["clip_id"]
        assert sum(map(len, forward._held)) <= o.frames * o.stride + 2 * 7


def test_a_file_that_ends_early_gives_what_it_has(video):
    longer = replace(video, frames=FRAMES + 9)
    store = ForwardStore(options(), longer)
    assert len(store.frames(longer, np.arange(40, 45))) == 3
    with pytest.raises(ValueError, match=r"one\.mp4: 3 of 5 frames from 40 on decode"):
        [Streams([longer], store, lanes=1)[(0, n)] for store in [ForwardStore(options(), longer)] for n in range(11)]
