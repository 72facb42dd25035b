"""Seeking gives the frames that counting gives, to the bit, in every container; and torchcodec the same frames."""

from dataclasses import replace

import pytest
import torch
from sample_videos import truncate, write_video

from datamodules import decoding
from datamodules.decoders import pyav_decoder, torchcodec_decoder
from datamodules.decoding import DecodingError, decode, probe, torchcodec_problem

IRREGULAR_MS = [0, 40, 80, 200, 240, 260, 300, 500, 520, 1000] + [1000 + 33 * n for n in range(1, 31)]
X264 = {"open gop": "open-gop=1:bframes=4:b-pyramid=normal", "intra refresh": "intra-refresh=1:keyint=12"}
# name: suffix, options of write_video
FILES = {
    "mpeg4 avi": ("avi", {}),
    "mpeg4 avi, B-frames": ("avi", {"b_frames": 2}),
    "h264 avi": ("avi", {"codec": "h264", "gop": 12}),
    "h264 mp4, B-frames": ("mp4", {"codec": "h264", "gop": 12, "b_frames": 3}),
    "h264 mp4, one key frame": ("mp4", {"codec": "h264", "gop": 250}),
    "h264 mp4, open gop": ("mp4", {"codec": "h264", "gop": 12, "options": {"x264-params": X264["open gop"]}}),
    "h264 mp4, intra refresh": ("mp4", {"codec": "h264", "options": {"x264-params": X264["intra refresh"]}}),
    "h264 mp4, variable rate": ("mp4", {"codec": "h264", "gop": 10, "stamps": IRREGULAR_MS}),
    "h264 mkv": ("mkv", {"codec": "h264", "gop": 12, "b_frames": 3}),
    "h264 ts": ("ts", {"codec": "h264", "gop": 12, "b_frames": 3}),
    "mpeg1 mpg": ("mpg", {"codec": "mpeg1video", "gop": 12, "b_frames": 2}),
    "vp8 webm": ("webm", {"codec": "libvpx", "options": {"auto-alt-ref": "1", "lag-in-frames": "16"}}),
    "vp9 webm": ("webm", {"codec": "libvpx-vp9", "gop": 12, "options": {"deadline": "realtime", "cpu-used": "8"}}),
    "odd sizes": ("mp4", {"codec": "h264", "width": 61, "height": 47}),
    "turned": ("mp4", {"codec": "h264", "rotation": 90}),
    "one frame": ("mp4", {"codec": "h264", "frames": 1}),
}
COUNTED = ("h264 avi", "h264 ts", "mpeg1 mpg")  # no stamps, or none to rely on after a seek

needs_torchcodec = pytest.mark.skipif(bool(torchcodec_problem()), reason=f"torchcodec {torchcodec_problem()}")


@pytest.fixture(params=FILES)
def file(request, tmp_path):
    suffix, options = FILES[request.param]
    return request.param, write_video(tmp_path / f"clip.{suffix}", **{"frames": 40, **options})


def ranges(length):
    """Return single frames, consecutive ones, every seventh, and repeats."""
    for start in range(length):
        yield from ([start], range(start, start + 5), range(start, start + 30, 7), [start, start, start + 3])


@pytest.mark.parametrize("check", ["decode", "scan"])
def test_seeking_gives_the_frames_that_counting_gives(file, check, monkeypatch):
    name, path = file
    whole, facts, counted = decode(path, size=24, decoder="pyav"), probe(path, check), []
    count = pyav_decoder._counted
    monkeypatch.setattr(pyav_decoder, "_counted", lambda *args: counted.append(args) or count(*args))
    assert (facts.frames, facts.problem, facts.checked) == (len(whole), "", {"decode": "decoded"}.get(check, "scanned"))
    for frames in ranges(len(whole)):
        expected = whole[[number for number in frames if number < len(whole)]]
        assert torch.equal(decode(path, frames=frames, facts=facts, size=24, decoder="pyav"), expected), frames
    if name not in COUNTED and facts.pts:
        assert not counted
    assert bool(facts.pts) == (name != "h264 avi" and (check == "decode" or not name.startswith(("mpeg4 avi", "vp8"))))


@needs_torchcodec
def test_torchcodec_gives_the_same_frames(file, monkeypatch):
    name, path = file
    facts, whole = probe(path), decode(path, decoder="pyav")
    if name in (*COUNTED, "mpeg4 avi, B-frames"):  # torchcodec has other stamps, so PyAV reads it
        assert torch.equal(decode(path, frames=range(3, 12), facts=facts, decoder="torchcodec"), whole[3:12])
        return
    monkeypatch.setattr(torchcodec_decoder, "decode_pyav", None)
    for frames in ([0], range(3, 12), [1, 1, 8, 30], None):
        numbers = [number for number in (frames or range(len(whole))) if number < len(whole)]
        if numbers:
            assert torch.equal(decode(path, frames=frames, facts=facts, decoder="torchcodec"), whole[numbers])
    scaled = decode(path, facts=facts, size=24, decoder="torchcodec").float()
    assert (scaled - decode(path, size=24, decoder="pyav").float()).abs().mean() < 2


def test_only_frames_from_the_key_frame_on_are_decoded(tmp_path, monkeypatch):
    path = write_video(tmp_path / "clip.mp4", frames=120, codec="h264", gop=12)
    facts, converted = probe(path), []
    add = pyav_decoder.Pictures.add
    monkeypatch.setattr(
        pyav_decoder.Pictures, "add", lambda self, frame, times: converted.append(frame.pts) or add(self, frame, times)
    )
    monkeypatch.setattr(pyav_decoder, "_counted", None)
    decode(path, frames=[100, 103], facts=facts, decoder="pyav")
    assert [stamp // 512 for stamp in converted] == [100, 103]


def test_a_wrong_table_is_not_believed(tmp_path):
    path = write_video(tmp_path / "clip.mp4", frames=30, codec="h264", gop=10)
    whole, facts = decode(path), probe(path)
    for pts in ("0 512*14 700 512*14", "5 512*29", "0 1*29"):
        wrong = replace(facts, pts=pts)
        assert torch.equal(decode(path, frames=range(14, 20), facts=wrong, decoder="pyav"), whole[14:20])


@pytest.mark.parametrize("suffix", ["avi", "mp4", "mkv"])
@pytest.mark.parametrize("decoder", ["pyav", pytest.param("torchcodec", marks=needs_torchcodec)])
def test_a_file_that_shrank_since_its_table_was_made_is_an_error(tmp_path, suffix, decoder):
    options = {"movflags": "faststart"} if suffix == "mp4" else {}
    path = write_video(tmp_path / f"clip.{suffix}", frames=80, codec="mpeg4", options=options)
    facts = probe(path)
    assert len(decode(path, frames=range(70, 76), facts=facts, decoder=decoder)) == 6
    truncate(path, 0.4)
    with pytest.raises(DecodingError, match=path.name):
        decode(path, frames=range(70, 76), facts=facts, decoder=decoder)


def test_frames_beyond_the_end_are_left_out(tmp_path):
    path = write_video(tmp_path / "clip.mp4", frames=20, codec="h264")
    for facts in (None, probe(path)):
        assert len(decode(path, frames=range(18, 30), facts=facts)) == 2
        with pytest.raises(DecodingError, match="from frame 20 on"):
            decode(path, frames=[20, 21], facts=facts)


@pytest.mark.parametrize("frames", [[], [3, 2], [-1, 0]])
def test_frame_numbers_ascend(tmp_path, frames):
    with pytest.raises(ValueError, match="ascending"):
        decode(tmp_path / "x.mp4", frames=frames)


@pytest.mark.parametrize(("rotation", "turns"), [(90, 1), (180, 2), (270, 3)])
@pytest.mark.parametrize("decoder", ["pyav", "pytorchvideo", pytest.param("torchcodec", marks=needs_torchcodec)])
def test_turned_videos_come_upright(tmp_path, rotation, turns, decoder):
    stored = decode(write_video(tmp_path / "stored.mp4", codec="h264"))
    path = write_video(tmp_path / "turned.mp4", codec="h264", rotation=rotation)
    facts = probe(path)
    assert torch.equal(decode(path, decoder=decoder), stored.rot90(turns, (2, 3)))
    assert (facts.rotation, facts.height, facts.width) == (rotation, *((64, 48) if turns % 2 else (48, 64)))
    assert decode(path, size=24, facts=facts, decoder=decoder).shape[2:] == ((32, 24) if turns % 2 else (24, 32))


def test_a_size_that_changes_in_the_middle_is_brought_to_the_first(tmp_path):
    small = write_video(tmp_path / "small.ts", codec="mpeg2video", frames=10)
    large = write_video(tmp_path / "large.ts", codec="mpeg2video", frames=10, height=96, width=128)
    path = tmp_path / "both.ts"
    path.write_bytes(small.read_bytes() + large.read_bytes())
    whole = decode(path, decoder="pyav")
    assert whole.shape[1:] == (3, 48, 64)
    assert len(whole) >= 19
    assert torch.equal(whole[:9], decode(small)[:9])
    assert torch.equal(decode(path, frames=range(12, 16), facts=probe(path), decoder="pyav"), whole[12:16])


def compare_ranges(path, step):
    facts, whole = probe(path), decode(path, size=24, decoder="pyav")
    assert len(whole) == facts.frames
    for start in range(0, len(whole), step):
        frames = range(start, min(start + 16, len(whole)))
        assert torch.equal(decode(path, frames=frames, facts=facts, size=24, decoder="pyav"), whole[frames]), path.name
    return facts


def test_seeking_in_real_clips(real_data):
    packed = 0
    for folder in ("ucf101", "hmdb51", "kinetics400", "kth"):
        for path in sorted((real_data / "clips" / folder).iterdir())[:2]:
            packed += not compare_ranges(path, step=41).pts
    assert packed == 3  # two of HMDB51, one of UCF101: stamps in disorder, counted


@pytest.mark.slow
def test_seeking_in_all_real_clips(real_data):
    clips = [path for path in real_data.glob("*/*/*.*") if path.suffix in (".avi", ".mp4")]
    assert len(clips) == 104
    for path in clips:
        compare_ranges(path, step=7)


@needs_torchcodec
def test_torchcodec_agrees_on_real_clips(real_data):
    for path in sorted((real_data / "clips").glob("*/*.*")):
        facts = probe(path)
        one, other = (
            decode(path, frames=range(20, 30), facts=facts, decoder=name).float() for name in ("pyav", "torchcodec")
        )
        assert (one - other).abs().mean() < 0.01, path.name


def test_auto_is_a_backend_that_is_there():
    assert decoding.resolve_decoder("auto") in decoding.DECODERS
