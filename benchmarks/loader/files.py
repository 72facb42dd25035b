"""The files: real clips of the standard sets, brought together by links, and generated ones."""

from pathlib import Path

import av
import numpy as np

SECONDS, RATE, HEIGHT, WIDTH, GENERATED = 10, 30, 240, 320, 12
WEIZMANN_CLIPS = 12


def real_clips(data: Path, root: Path) -> dict[str, list[str]]:
    """Link the clips below `root` and return their names by set: all of UCF101, HMDB51 and Kinetics, some of Weizmann.

    Not the one whose title is not UTF-8: pytorchvideo cannot open it, and leaves it out without a word.
    """
    clips = data / "clips"
    sets = {
        "UCF101 and HMDB51": [*(clips / "ucf101").glob("*.avi"), *(clips / "hmdb51").glob("*.avi")],
        "Kinetics-400": list((clips / "kinetics400").glob("*.mp4")),
        "Weizmann": sorted((data / "weizmann").rglob("*.avi"))[:: 90 // WEIZMANN_CLIPS][:WEIZMANN_CLIPS],
    }
    root.mkdir(parents=True, exist_ok=True)
    for path in (path for paths in sets.values() for path in paths):
        (root / path.name).symlink_to(path.resolve())
    return {name: sorted(p.name for p in paths if "Turnk" not in p.name) for name, paths in sets.items()}


def generated_clips(root: Path) -> list[str]:
    """Write clips of moving texture with a tone: h264, B-frames, a key frame every 250 frames (x264's default)."""
    root.mkdir(parents=True, exist_ok=True)
    names = [f"{number}.mp4" for number in range(GENERATED)]
    for number, name in enumerate(names):
        _write(root / name, np.random.default_rng(number))
    return names


def _write(path: Path, rng: np.random.Generator) -> None:
    texture = rng.normal(size=(HEIGHT // 8, WIDTH // 4)).repeat(8, 0).repeat(8, 1)
    texture = np.clip(128 + 50 * texture, 0, 255)
    with av.open(str(path), "w") as container:
        video, sound = container.add_stream("libx264", rate=RATE), container.add_stream("aac", rate=44100)
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        video.options = {"preset": "veryfast"}
        for t in range(SECONDS * RATE):
            grey = np.roll(texture, 2 * t, 1)[:, :WIDTH] + rng.normal(size=(HEIGHT, WIDTH)) * 4
            image = np.clip(np.stack([grey, grey * 0.8, 255 - grey], 2), 0, 255).astype(np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        samples = np.sin(np.arange(44100 * SECONDS) * 2 * np.pi * 440 / 44100).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.sample_rate = 44100
        container.mux(sound.encode(frame))
        container.mux(video.encode())
        container.mux(sound.encode())
