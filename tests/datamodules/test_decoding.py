"""Decoding: frame n is frame n with every backend, and a broken file says how far it got."""

import csv
import gc

import psutil
import pytest
import torch
from sample_videos import truncate, write_video

from datamodules.decoding import (
    DECODERS,
    DecodingError,
    decode,
    probe,
    scaled_size,
    torchcodec_problem,
)

BACKENDS = [
    pytest.param(name, marks=pytest.mark.skipif(name == "torchcodec" and bool(torchcodec_problem()), reason="optional"))
    for name in DECODERS
]


@pytest.fixture(params=[("mpeg4", "avi"), ("h264", "mp4"), ("h264", "mkv")], ids="-".join)
def video(request, tmp_path):
    codec, suffix = request.param
    return write_video(tmp_path / f"clip.{suffix}", frames=18, codec=codec)


@pytest.mark.parametrize("decoder", BACKENDS)
def test_frames_come_whole_in_order_and_uint8(video, decoder):
    frames = decode(video, decoder=decoder)
    assert frames.shape == (18, 3, 48, 64)
    assert frames.dtype == torch.uint8
    levels = frames[:, :, 40:, 60:].float().mean((1, 2, 3))
    torch.testing.assert_close(levels, 10.0 * torch.arange(18), atol=4, rtol=0)


@pytest.mark.parametrize("decoder", BACKENDS)
def test_a_range_is_the_same_as_in_the_whole(video, decoder):
    whole = decode(video, decoder=decoder)
    assert torch.equal(decode(video, decoder=decoder, frames=range(7, 12)), whole[7:12])
    assert torch.equal(decode(video, decoder=decoder, frames=range(15, 24)), whole[15:])
    with pytest.raises(DecodingError, match="from frame 18 on"):
        decode(video, decoder=decoder, frames=[18])


@pytest.mark.parametrize("decoder", BACKENDS)
def test_backends_agree_to_the_bit_and_closely_when_scaled(video, decoder):
    assert torch.equal(decode(video, decoder=decoder), decode(video, decoder="pyav"))
    scaled, expected = (decode(video, decoder=name, size=24).float() for name in (decoder, "pyav"))
    assert scaled.shape == expected.shape == (18, 3, 24, 32)
    assert (scaled - expected).abs().mean() < 2


@pytest.mark.parametrize(
    ("height", "width", "fit", "expected"),
    [(144, 180, "crop", (32, 40)), (180, 144, "crop", (40, 32)), (144, 180, "squash", (32, 32))],
)
def test_scaled_size(height, width, fit, expected):
    assert scaled_size(height, width, 32, fit) == expected
    assert scaled_size(height, width, None, fit) == (height, width)


@pytest.mark.parametrize("decoder", BACKENDS)
def test_files_that_are_no_video_say_so(tmp_path, decoder):
    text = tmp_path / "text.avi"
    text.write_text("not a video")
    for path in (text, tmp_path / "absent.avi"):
        with pytest.raises(DecodingError, match=path.name):
            decode(path, decoder=decoder)


def test_unknown_names_are_refused(tmp_path):
    with pytest.raises(ValueError, match="auto or one of pyav, torchcodec, pytorchvideo"):
        decode(tmp_path / "x.avi", decoder="opencv")
    with pytest.raises(ValueError, match="crop, squash"):
        scaled_size(1, 1, 1, "stretch")


def test_probe_counts_by_decoding(video):
    facts = probe(video)
    assert (facts.frames, facts.fps, facts.width, facts.height, facts.problem) == (18, 25, 64, 48, "")
    assert facts.duration_s == 0.72


def test_probe_finds_what_is_wrong(tmp_path):
    cut = truncate(write_video(tmp_path / "cut.avi", frames=60), 0.5)
    headless = truncate(write_video(tmp_path / "headless.mp4", codec="h264"), 0.6)
    empty = tmp_path / "empty.avi"
    empty.touch()
    assert "ends early: the header says 60 frames" in probe(cut).problem
    assert 0 < probe(cut).frames < 60
    assert "no video stream" in probe(headless).problem
    assert "cannot be opened" in probe(empty).problem
    assert "empty" in probe(empty).problem
    assert not probe(empty).problem.startswith(str(tmp_path))


def test_containers_are_closed(tmp_path):
    good, cut = write_video(tmp_path / "good.avi"), truncate(write_video(tmp_path / "cut.avi", frames=60), 0.5)
    gc.disable()
    try:
        for decoder in ("pyav", "pytorchvideo"):
            decode(good, decoder=decoder, frames=[2, 3, 4])
        probe(cut)
        assert not [file for file in psutil.Process().open_files() if str(tmp_path) in file.path]
    finally:
        gc.enable()


def test_real_clips_decode_as_their_list_says(real_data):
    with (real_data / "index.csv").open() as lines:
        rows = [row for row in csv.DictReader(lines) if not row["path"].startswith("weizmann")]
    assert len(rows) == 14
    for row in rows:
        facts = probe(real_data / row["path"])
        assert facts.problem == "", row["path"]
        assert (facts.frames, facts.width, facts.height) == tuple(
            int(row[name]) for name in ("decoded_frames", "width", "height")
        )


def test_a_title_that_is_not_utf8_is_no_problem(real_data):
    (clip,) = (real_data / "clips" / "hmdb51").glob("hmdb51_Turnk*")
    assert len(decode(clip, size=32, frames=range(4))) == 4
    with pytest.raises(DecodingError, match="Turnk"):
        decode(clip, decoder="pytorchvideo")


def test_backends_agree_on_a_real_clip(real_data):
    clip = real_data / "weizmann" / "walk" / "ido_walk.avi"
    assert torch.equal(decode(clip, decoder="pyav"), decode(clip, decoder="pytorchvideo"))
