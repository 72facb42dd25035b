"""Probing: what a file holds, in two depths, and in words what is wrong with it."""

import os
from dataclasses import replace

import av
import pytest
from sample_videos import picture, truncate, write_sound, write_video

from datamodules.decoders import pyav_files
from datamodules.probing import probe


@pytest.fixture(params=["decode", "scan"])
def check(request):
    return request.param


def test_a_scan_says_what_decoding_says(tmp_path):
    path = write_video(tmp_path / "clip.mp4", frames=40, codec="h264", b_frames=2, rotation=90)
    scanned, decoded = probe(path, "scan"), probe(path)
    assert (scanned.checked, decoded.checked) == ("scanned", "decoded")
    assert replace(scanned, checked="decoded") == decoded
    assert (decoded.pts, decoded.time_base, decoded.duration_s) == ("0 512*39", "1/12800", 1.6)


def test_a_variable_rate_is_seen(tmp_path, check):
    stamps = [0, 40, 80, 200, 240, 500, 540]
    for suffix in ("mp4", "mkv"):
        facts = probe(write_video(tmp_path / f"clip.{suffix}", frames=7, codec="h264", stamps=stamps), check)
        assert facts.variable_rate
        assert (1000 * facts.times_s()).round().tolist() == stamps


def test_truncated_files_end_early(tmp_path, check):
    avi = truncate(write_video(tmp_path / "cut.avi", frames=60), 0.5)
    mkv = truncate(write_video(tmp_path / "cut.mkv", frames=60, codec="h264"), 0.5)
    assert "ends early: the header says 60 frames" in probe(avi, check).problem
    assert "ends early: the header says 2.4 s" in probe(mkv, check).problem
    assert 0 < probe(avi, check).frames < 60
    assert 0 < probe(mkv, check).frames < 60
    mp4 = truncate(write_video(tmp_path / "cut.mp4", frames=60, codec="h264"), 0.6)
    assert "cut short" in probe(mp4, check).problem


def test_zero_frames(tmp_path, check):
    path = tmp_path / "none.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.start_encoding()
    assert probe(path, check).problem == "no frame decodes"
    assert probe(path, check).frames == 0


def test_sound_only_and_a_song_with_a_cover(tmp_path, check):
    assert probe(write_sound(tmp_path / "sound.mp4"), check).problem == "holds sound only, no video stream"


def test_wrong_content_behind_a_video_suffix(tmp_path, check):
    text, image = tmp_path / "text.mp4", tmp_path / "image.avi"
    text.write_text("not a video")
    av.VideoFrame.from_ndarray(picture(0), format="rgb24").save(str(tmp_path / "image.png"))
    (tmp_path / "image.png").rename(image)
    assert "something else behind a video's name" in probe(text, check).problem
    assert probe(image, check).problem == "a picture (png), not a video"


def test_a_matroska_file_named_avi_is_read_as_what_it_is(tmp_path, check):
    path = write_video(tmp_path / "clip.mkv", frames=12, codec="h264").rename(tmp_path / "clip.avi")
    assert (probe(path, check).frames, probe(path, check).problem) == (12, "")


def test_what_is_no_readable_file(tmp_path, check, monkeypatch):
    link, folder, good = tmp_path / "link.avi", tmp_path / "folder.avi", write_video(tmp_path / "good.avi")
    link.symlink_to("gone/away.avi")
    folder.mkdir()
    assert probe(link, check).problem == "a dangling link: points to gone/away.avi, which is not there"
    assert probe(folder, check).problem == "a folder, not a file"
    assert probe(tmp_path / "absent.avi", check).problem == "there is no such file"
    if os.geteuid() == 0:  # who may read everything
        monkeypatch.setattr(pyav_files.av, "open", lambda *_, **__: open_forbidden())
    good.chmod(0)
    assert probe(good, check).problem == "no permission to read it"


def open_forbidden():
    raise av.error.PermissionError(13, "Permission denied")


def test_unknown_checks_are_refused(tmp_path):
    with pytest.raises(ValueError, match="decode, scan"):
        probe(tmp_path / "x.avi", "look")


def test_a_scan_counts_what_decodes_in_real_clips(real_data):
    for path in sorted((real_data / "clips" / "kinetics400").iterdir()):
        assert replace(probe(path, "scan"), checked="decoded") == probe(path)
