"""Saved frames: what is checked before it is shown, baselines, differences, and the table and video made of them."""

from __future__ import annotations

import base64
import io
import json
import re

import numpy as np
import pytest
from frames_store import HORIZONS, NEWEST, clip, frame_artifacts, predictions
from PIL import Image, ImageFont

from dashboard import composed_video, frame_strip, saved_frames
from dashboard.frame_strip import Row
from dashboard.saved_frames import Index, Unreadable, parse_index

TRUE = clip("person/walk_1")
INDEX = Index(HORIZONS)


def predicted(error: int = 10):
    made = predictions("person/walk_1", error)
    return saved_frames.predicted(INDEX, TRUE, made, np.array(NEWEST))


def test_the_index_of_the_run_layout_is_read():
    index = parse_index(json.loads(frame_artifacts(10)["predictions/index.json"]))
    assert index.horizons == HORIZONS
    assert {clip_id: entry.label for clip_id, entry in index.clips.items()} == {
        "person/walk_1": "walk",
        "person/run_2": "run",
    }


@pytest.mark.parametrize(
    "content",
    [{}, {"horizons": [1]}, {"horizons": [], "clips": []}, {"horizons": ["x"], "clips": []}, {"horizons": [1, 1],
     "clips": []}, {"horizons": [-1], "clips": []}, {"horizons": 3, "clips": []}, {"horizons": [1e400], "clips": []}],
)  # fmt: skip
def test_an_index_that_is_none_is_refused(content):
    with pytest.raises(Unreadable, match=r"predictions/index\.json"):
        parse_index(content)


def test_entries_that_are_none_are_left_out_and_the_rest_is_shown():
    entries = [3, {}, {"clip_id": 5, "folder": "x"}, {"clip_id": "a", "folder": "f", "psnr_db": "?", "label": None}]
    index = parse_index({"horizons": [1], "clips": entries, "fps": "fast"})
    assert list(index.clips) == ["a"]
    assert index.fps == 25.0


def test_a_prediction_shows_the_frame_k_after_the_newest():
    run = predicted()
    # Made from m = 5, three ahead: the truth of frame 8, 3 * 10 grey values too bright.
    assert (run.frame(8, 3).astype(int) - TRUE[8] == 30).all()
    assert run.frame(NEWEST[0], 1) is None  # would have been made from the frame before the first
    assert run.frame(8, 9) is None
    assert saved_frames.shown_frames({"a": run}, 2) == [m + 2 for m in NEWEST]


@pytest.mark.parametrize(
    ("clip_TCHW", "made", "newest", "reason"),
    [
        (TRUE, np.zeros((2, 4, 1, 8, 8), np.uint8), [2, 3], "frames predicted are"),
        (TRUE, np.zeros((2, 3, 1, 24, 24), np.uint8), [2, 3], "2 x 3 predictions"),
        (TRUE, np.zeros((2, 4, 1, 24, 24), np.uint8), [2], "1 frames"),
        (TRUE, np.zeros((1, 4, 1, 24, 24), np.uint8), [14], "Frame 18 is predicted of a clip of 16"),
        (TRUE, np.zeros((1, 4, 1, 24, 24), np.uint8), [-1], "is predicted"),
        (TRUE, np.zeros((1, 4, 1, 24, 24), np.float64), [2], "expected uint8"),
        (TRUE[..., 0], np.zeros((1, 4, 1, 24, 24), np.uint8), [2], "expected uint8, 4 dimensions"),
        (np.zeros((9, 7, 24, 24), np.uint8), np.zeros((1, 4, 7, 24, 24), np.uint8), [2], "1 or 3 channels"),
    ],
)
def test_arrays_that_do_not_fit_each_other_are_refused(clip_TCHW, made, newest, reason):
    with pytest.raises(Unreadable, match=reason):
        saved_frames.predicted(INDEX, clip_TCHW, made, np.array(newest))


def test_baselines_and_scores_are_those_of_the_runs():
    assert (saved_frames.copy_last(TRUE, 8, 3) == TRUE[5]).all()
    assert saved_frames.copy_last(TRUE, 2, 3) is None
    assert (saved_frames.mean_last(TRUE, 8, 3) == TRUE[2:6].mean(axis=0).round()).all()
    assert saved_frames.psnr_db(TRUE[3], TRUE[3]) == 100.0
    assert saved_frames.psnr_db(TRUE[3], TRUE[3] + np.uint8(51)) == pytest.approx(20 * np.log10(5), abs=1e-6)


def test_the_difference_is_white_where_equal_and_black_from_the_scale_on():
    made = TRUE[3].copy()
    made[0, 0, 0], made[0, 0, 1] = 255, 40 + 51
    drawn = saved_frames.difference(made, TRUE[3], 0.5)
    assert drawn.shape == (1, 24, 24)
    assert (drawn[0, 0, 0], drawn[0, 0, 1], drawn[0, 5, 5]) == (0, 153, 255)  # 215, 51 and 0 of 127.5


def test_one_scale_makes_the_small_differences_of_real_video_visible():
    near, far = (saved_frames.gap(TRUE[3] + np.uint8(error), TRUE[3]) for error in (5, 10))
    scale = saved_frames.common_scale([near, far])
    assert scale == pytest.approx(10 / 255)
    assert saved_frames.difference(TRUE[3] + np.uint8(5), TRUE[3], scale).max() == 127
    assert saved_frames.common_scale([np.zeros((1, 4, 4))]) == saved_frames.common_scale([]) == 0.02


def test_the_table_holds_the_pixels_and_nothing_that_a_run_named_as_markup():
    name = '<img src=x onerror="alert(1)"></td>" onload="x ' + "y" * 10_000
    html = frame_strip.strip([3, 4], [Row(name, [TRUE[3], None], ["1 dB", ""], "#000000")], "c")
    assert "<img src=x" not in html
    assert '" onload=' not in html
    assert len(html) < 10_000
    (data,) = re.findall(r'src="data:image/png;base64,([^"]+)"', html)
    assert (np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))) == TRUE[3, 0]).all()
    assert 'alt="&lt;img' in html
    assert html.count("–</td>") == 1


def test_large_frames_are_sent_small():
    html = frame_strip.strip([0], [Row("a", [np.zeros((3, 1080, 1920), np.uint8)])], "c")
    (data,) = re.findall(r"base64,([^\"]+)", html)
    assert max(Image.open(io.BytesIO(base64.b64decode(data))).size) <= 192


def tiles(t: int):
    return [composed_video.Tile("truth", TRUE[t]), composed_video.Tile("run " + "x" * 500, TRUE[t], TRUE[t])]


def frames_of(content: bytes):
    import av

    with av.open(io.BytesIO(content)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)], container


def test_the_video_plays_the_frames_in_order():
    made = [composed_video.compose(tiles(t), ["clip"]) for t in range(6)]
    content, kind = composed_video.encode(made, 5.0)
    assert kind == "video/mp4"
    shown, _ = frames_of(content)
    assert len(shown) == 6
    for was, now in zip(made, shown, strict=True):
        assert now.shape == was.shape
        assert np.abs(now.astype(int) - was).mean() < 4


def test_without_an_encoder_it_is_a_gif_that_loops(monkeypatch):
    monkeypatch.setattr(composed_video, "h264_encoder", lambda: None)
    content, kind = composed_video.encode([composed_video.compose(tiles(t), ["clip"]) for t in range(4)], 5.0)
    image = Image.open(io.BytesIO(content))
    assert (kind, image.n_frames, image.info["loop"], image.info["duration"]) == ("image/gif", 4, 0, 200)


def test_a_video_is_bounded_in_length_and_size():
    tall = composed_video.compose([composed_video.Tile("a", np.zeros((1, 4000, 2), np.uint8))] * 9, ["t" * 5000])
    assert max(tall.shape) < 5000
    assert tall.shape[0] % 2 == tall.shape[1] % 2 == 0
    many = [np.zeros((16, 16, 3), np.uint8)] * 400
    shown, _ = frames_of(composed_video.encode(many, 25.0)[0])
    assert len(shown) == composed_video.MAX_FRAMES


def test_names_of_a_video_break_between_words():
    font = ImageFont.load_default(composed_video.TEXT_PX)
    assert composed_video.two_lines("skip_sideways_concat_newest", font) == ["skip_sideways_concat_", "newest"]
    assert composed_video.two_lines("sideways", font) == ["sideways"]
    first, second = composed_video.two_lines("x" * 500, font)
    assert "".join([first, second]) == "x" * (len(first) + len(second) - 1) + "…"


def test_a_video_without_differences_has_no_room_for_them():
    with_them = composed_video.compose(tiles(0), ["clip"]).shape
    without = composed_video.compose([composed_video.Tile("a", TRUE[0])] * 2, ["clip"]).shape
    assert with_them[0] - without[0] == composed_video.TILE_PX + composed_video.GAP_PX
    assert with_them[1] == without[1] <= 420  # readable on a telephone
