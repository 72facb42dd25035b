"""Cut one video in two, so that a network can learn from its beginning and be looked at on its end.

    python benchmarks/future_frames/kth.py person01_boxing_d1_uncomp.avi /data/kth_halves
    skip-sideways compare --config app/configs/comparisons/future_kth.yaml --set data.init_args.root=/data/kth_halves

    frames     0 ............. 239 | 240 ..... 359
    file       1.mkv: training       2.mkv: test            lossless (FFV1), two thirds and one third

One person, one action, one video: a look at real frames of another data set, not a measurement of KTH.
"""

import argparse
import sys
from fractions import Fraction
from pathlib import Path

import av
from av.video.frame import VideoFrame

SHARE = Fraction(2, 3)


def read_frames(path: Path) -> tuple[list[VideoFrame], Fraction]:
    """Return a video's frames and its frame rate. Errors: ValueError where there are fewer than three frames."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames, rate = list(container.decode(stream)), stream.average_rate
    if len(frames) < 3:
        raise ValueError(f"{path} has {len(frames)} frames; expected a video to cut in two")
    return frames, rate or Fraction(25)


def write_frames(frames: list[VideoFrame], rate: Fraction, path: Path) -> None:
    """Write frames without loss."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=rate)
        stream.width, stream.height, stream.pix_fmt = frames[0].width, frames[0].height, "yuv420p"
        for number, frame in enumerate(frames):
            plain = frame.reformat(format="yuv420p")
            plain.pts, plain.time_base = number, 1 / rate
            container.mux(stream.encode(plain))
        container.mux(stream.encode(None))


def main() -> int:
    """Cut the video; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("video", type=Path)
    parser.add_argument("output", type=Path, help="folder for VideoFolder: it gets the folder `clip` with two files")
    options = parser.parse_args()
    try:
        frames, rate = read_frames(options.video)
        folder = options.output / "clip"
        folder.mkdir(parents=True, exist_ok=True)
        cut = int(len(frames) * SHARE)
        write_frames(frames[:cut], rate, folder / "1.mkv")
        write_frames(frames[cut:], rate, folder / "2.mkv")
    except (OSError, ValueError) as error:
        print(f"kth: {error}", file=sys.stderr)
        return 2
    print(f"{cut} frames in {folder / '1.mkv'}, {len(frames) - cut} in {folder / '2.mkv'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
