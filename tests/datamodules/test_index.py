"""The table of videos, and the command that makes and checks it."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from sample_videos import truncate, write_video

from app.data import main
from datamodules import index
from datamodules.index import (
    INDEX_NAME,
    build_index,
    default_index_path,
    existing_index,
    find_videos,
    load_index,
    read_index,
    write_index,
)


@pytest.fixture
def faulty(video_folder):
    """The folder with one video cut short, one of a single frame and one that is text."""
    truncate(write_video(video_folder / "left" / "cut_left.avi", frames=60), 0.5)
    write_video(video_folder / "left" / "one_left.avi", frames=1)
    (video_folder / "right" / "text_right.mp4").write_text("nothing to see")
    return video_folder


def test_finds_videos_at_any_depth_and_nothing_else(video_folder):
    write_video(video_folder / "left" / "deeper" / "X.AVI")
    (video_folder / "notes.txt").write_text("")
    shutil.copytree(video_folder / "right", video_folder / ".trash")
    assert len(find_videos(video_folder)) == 9
    assert find_videos(video_folder)[-1] == "right/d_right.avi"


def test_table_reads_as_it_was_written(faulty, tmp_path):
    rows = build_index(faulty, jobs=2, progress=False)
    write_index(rows, tmp_path / "new" / "table.csv")
    assert read_index(tmp_path / "new" / "table.csv") == rows
    head = (tmp_path / "new" / "table.csv").read_text().splitlines()[0]
    assert head == "path,bytes,frames,fps,width,height,rotation,duration_s,time_base,pts,checked,problem"
    assert [row.facts.frames for row in rows if row.path == "right/b_right.avi"] == [15]
    assert [row.path for row in rows if row.facts.problem] == ["left/cut_left.avi", "right/text_right.mp4"]


def test_a_foreign_table_is_refused(tmp_path):
    (tmp_path / "table.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="data index --root DIR --output"):
        read_index(tmp_path / "table.csv")


def test_index_stands_in_the_folder_unless_that_is_write_protected(video_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert default_index_path(video_folder) == video_folder / INDEX_NAME
    video_folder.chmod(0o555)
    try:
        outside = default_index_path(video_folder)
        assert outside.parent == Path(".skip-sideways")
        load_index(video_folder, progress=False)
        assert outside.exists()
        assert not (video_folder / INDEX_NAME).exists()
    finally:
        video_folder.chmod(0o755)


def test_a_table_that_came_with_write_protected_data_is_read_and_left_alone(video_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    load_index(video_folder, progress=False)
    came = (video_folder / INDEX_NAME).read_bytes()
    write_video(video_folder / "left" / "new_left.avi", frames=5)
    video_folder.chmod(0o555)
    try:
        assert existing_index(video_folder) == video_folder / INDEX_NAME
        rows = load_index(video_folder, progress=False)
        assert rows["left/new_left.avi"].facts.frames == 5
        assert (video_folder / INDEX_NAME).read_bytes() == came
        assert existing_index(video_folder) == default_index_path(video_folder) != video_folder / INDEX_NAME
    finally:
        video_folder.chmod(0o755)


def test_only_new_and_changed_files_are_decoded_again(video_folder, monkeypatch):
    load_index(video_folder, progress=False)
    asked = []
    monkeypatch.setattr(index, "index_row", lambda root, path: asked.append(path) or original(root, path))
    load_index(video_folder, progress=False)
    assert asked == []
    write_video(video_folder / "left" / "a_left.avi", frames=33)
    write_video(video_folder / "left" / "new_left.avi", frames=5)
    (video_folder / "right" / "d_right.avi").unlink()
    rows = load_index(video_folder, progress=False)
    assert asked == ["left/a_left.avi", "left/new_left.avi"]
    assert rows["left/a_left.avi"].facts.frames == 33
    assert "right/d_right.avi" not in rows
    assert read_index(video_folder / INDEX_NAME) == list(rows.values())


original = index.index_row


def test_index_command_writes_the_table_and_lists_faults(faulty, tmp_path, capsys):
    output = tmp_path / "table.csv"
    assert main(["index", "--root", str(faulty), "--output", str(output), "--jobs", "2"]) == 0
    said = capsys.readouterr()
    assert "broken  left/cut_left.avi: ends early" in said.out
    assert "broken  right/text_right.mp4: cannot be opened" in said.out
    assert "short   left/one_left.avi: 1 frames, fewer than 2" in said.out
    assert "11 videos" in said.out
    assert "3 with a problem" in said.out
    assert str(output) in said.out
    assert "11/11" in said.err  # the progress bar
    assert len(read_index(output)) == 11
    assert not (faulty / INDEX_NAME).exists()


def test_verify_passes_a_whole_folder_and_fails_a_faulty_one(video_folder, capsys):
    assert main(["verify", "--root", str(video_folder), "--no-progress"]) == 0
    assert "no table yet" in capsys.readouterr().out
    main(["index", "--root", str(video_folder), "--no-progress"])
    assert main(["verify", "--root", str(video_folder), "--no-progress"]) == 0
    assert main(["verify", "--root", str(video_folder), "--no-progress", "--min-frames", "16"]) == 1
    assert "short   left/a_left.avi: 14 frames, fewer than 16" in capsys.readouterr().out


def test_verify_compares_with_the_table(video_folder, capsys):
    main(["index", "--root", str(video_folder), "--no-progress"])
    (video_folder / "left" / "a_left.avi").unlink()
    write_video(video_folder / "left" / "b_left.avi", frames=9)
    write_video(video_folder / "left" / "e_left.avi", frames=9)
    assert main(["verify", "--root", str(video_folder), "--no-progress"]) == 1
    said = capsys.readouterr().out
    assert "missing left/a_left.avi" in said
    assert "changed left/b_left.avi: the table says 15 frames" in said
    assert "new     left/e_left.avi" in said


def test_wrong_arguments_are_status_2(tmp_path, capsys):
    assert main(["index", "--root", str(tmp_path / "absent")]) == 2
    assert "no folder" in capsys.readouterr().err
    assert main(["verify", "--root", str(tmp_path)]) == 2
    assert "holds no video file" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(["polish", "--root", str(tmp_path)])


def test_two_writers_leave_one_whole_table(video_folder, tmp_path):
    rows = build_index(video_folder, progress=False)
    for fps in (1.0, 2.0):
        write_index([replace(row, facts=replace(row.facts, fps=fps)) for row in rows], tmp_path / "table.csv")
    assert [path.name for path in tmp_path.glob("table*")] == ["table.csv"]
    assert {row.facts.fps for row in read_index(tmp_path / "table.csv")} == {2.0}
