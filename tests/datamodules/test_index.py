"""The table of videos, and the command that makes and checks it."""

import multiprocessing
import os
import shutil
import time
from contextlib import closing
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
    refresh_index,
    write_index,
)
from datamodules.index_journal import Journal, journal_path, read_journal


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
    assert head == "path,bytes,mtime_ns,frames,fps,width,height,rotation,duration_s,time_base,pts,checked,problem"
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
    monkeypatch.setattr(index, "index_row", lambda root, path, check: asked.append(path) or original(root, path, check))
    load_index(video_folder, progress=False, jobs=1)
    assert asked == []
    write_video(video_folder / "left" / "a_left.avi", frames=33)
    write_video(video_folder / "left" / "new_left.avi", frames=5)
    (video_folder / "right" / "d_right.avi").unlink()
    rows = load_index(video_folder, progress=False, jobs=1)
    assert asked == ["left/a_left.avi", "left/new_left.avi"]
    assert rows["left/a_left.avi"].facts.frames == 33
    assert "right/d_right.avi" not in rows
    assert read_index(video_folder / INDEX_NAME) == list(rows.values())


original = index.index_row


def read_again(folder, monkeypatch, **options):
    """Return the paths that are read anew."""
    asked = []
    with monkeypatch.context() as patch:
        patch.setattr(index, "index_row", lambda root, path, check: asked.append(path) or original(root, path, check))
        rows = refresh_index(folder, progress=False, jobs=1, **options)
    assert rows.read == len(asked)
    return asked


def test_a_file_of_the_same_size_and_another_time_is_read_again(video_folder, monkeypatch):
    load_index(video_folder, progress=False)
    changed = video_folder / "left" / "a_left.avi"
    good = changed.read_bytes()
    changed.write_bytes(bytes(len(good)))
    assert "cannot be opened" in load_index(video_folder, progress=False)["left/a_left.avi"].facts.problem
    changed.write_bytes(good)
    assert load_index(video_folder, progress=False)["left/a_left.avi"].facts.problem == ""
    assert read_again(video_folder, monkeypatch) == []


def test_copies_that_keep_whole_seconds_keep_the_table_others_do_not(video_folder, monkeypatch):
    path, now = video_folder / "left" / "a_left.avi", 1_700_000_000_123_456_789
    os.utime(path, ns=(now, now))
    load_index(video_folder, progress=False)
    os.utime(path, ns=(now, now // 10**9 * 10**9))
    assert read_again(video_folder, monkeypatch) == []
    os.utime(path, ns=(now, now + 1))
    assert read_again(video_folder, monkeypatch) == ["left/a_left.avi"]


def test_the_time_of_a_link_is_that_of_its_file(video_folder, tmp_path, monkeypatch):
    write_video(tmp_path / "far.avi")
    (video_folder / "left" / "linked.avi").symlink_to(tmp_path / "far.avi")
    load_index(video_folder, progress=False)
    os.utime(tmp_path / "far.avi", (1, 1))
    assert read_again(video_folder, monkeypatch) == ["left/linked.avi"]


def test_faulty_files_are_read_again_when_asked_and_a_scan_unsays_nothing(faulty, monkeypatch):
    load_index(faulty, progress=False)
    broken = ["left/cut_left.avi", "right/text_right.mp4"]
    assert read_again(faulty, monkeypatch) == read_again(faulty, monkeypatch, check="scan", again="faulty") == []
    assert read_again(faulty, monkeypatch, again="faulty") == broken
    assert len(read_again(faulty, monkeypatch, again="all")) == 11
    with pytest.raises(ValueError, match="again 'some': expected one of changed, faulty, all"):
        refresh_index(faulty, again="some")


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


def test_links_are_followed_and_loops_end(video_folder, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    write_video(elsewhere / "far" / "e_far.avi")
    (video_folder / "far").symlink_to(elsewhere / "far")
    (video_folder / "left" / "linked.avi").symlink_to(elsewhere / "far" / "e_far.avi")
    (video_folder / "left" / "up").symlink_to(video_folder)
    (video_folder / "left" / "itself").symlink_to("itself")
    (video_folder / "left" / "folder.avi").mkdir()
    found = find_videos(video_folder)
    assert len(found) == 10
    assert {"far/e_far.avi", "left/linked.avi"} < set(found)
    assert load_index(video_folder, ["left/linked.avi"], progress=False)["left/linked.avi"].facts.frames == 20


def test_a_dangling_link_stays_in_the_list_and_is_read_once_it_is_mended(video_folder, tmp_path):
    (video_folder / "left" / "gone.avi").symlink_to(tmp_path / "later.avi")
    row = load_index(video_folder, progress=False)["left/gone.avi"]
    assert row.facts.problem == f"a dangling link: points to {tmp_path / 'later.avi'}, which is not there"
    write_video(tmp_path / "later.avi", frames=7)
    assert load_index(video_folder, progress=False)["left/gone.avi"].facts.frames == 7


def test_a_folder_that_may_not_be_read_is_an_error(video_folder, monkeypatch):
    def forbidden(folder):
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(index.os, "scandir", forbidden)
    with pytest.raises(PermissionError):
        find_videos(video_folder)


def test_only_the_paths_asked_for_are_read_and_others_stay(video_folder):
    load_index(video_folder, ["left/a_left.avi"], progress=False)
    assert [row.path for row in read_index(video_folder / INDEX_NAME)] == ["left/a_left.avi"]
    rows = load_index(video_folder, ["right/b_right.avi"], progress=False)
    assert list(rows) == ["right/b_right.avi"]
    assert [row.path for row in read_index(video_folder / INDEX_NAME)] == ["left/a_left.avi", "right/b_right.avi"]


def test_a_scanned_row_is_replaced_where_decoding_is_asked_for(video_folder):
    paths = ["left/a_left.avi"]
    assert load_index(video_folder, paths, check="scan", progress=False)[paths[0]].facts.checked == "scanned"
    assert load_index(video_folder, paths, progress=False)[paths[0]].facts.checked == "decoded"
    assert load_index(video_folder, paths, check="scan", progress=False)[paths[0]].facts.checked == "decoded"


def test_an_old_table_is_made_anew_with_one_line(video_folder, caplog):
    (video_folder / INDEX_NAME).write_text(f"{','.join(c for c in index.COLUMNS if c != 'mtime_ns')}\n")
    assert len(load_index(video_folder, progress=False)) == 8
    assert [INDEX_NAME in record.getMessage() for record in caplog.records] == [True]
    assert len(read_index(video_folder / INDEX_NAME)) == 8


def slowly(folder, seconds):
    index.index_row = lambda *given: (time.sleep(seconds), original(*given))[1]
    load_index(folder, jobs=1, progress=False)


def start_indexer(folder, seconds):
    process = multiprocessing.get_context("fork").Process(target=slowly, args=(folder, seconds))
    process.start()
    return process


def journalled(folder):
    return [row["path"] for row in read_journal(folder / INDEX_NAME)]


def test_a_killed_run_goes_on_from_its_journal(video_folder, monkeypatch):
    process = start_indexer(video_folder, seconds=0.1)
    try:
        deadline = time.monotonic() + 60
        while len(journalled(video_folder)) < 3:
            assert process.is_alive()
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        process.kill()
        process.join()
    with journal_path(video_folder / INDEX_NAME).open("ab") as journal:
        journal.write(b'{"path": "left/d_left.avi", "byt')  # a line that was cut off
    before, asked = journalled(video_folder), []
    monkeypatch.setattr(index, "index_row", lambda *given: asked.append(given[1]) or original(*given))
    rows = load_index(video_folder, progress=False)
    assert sorted(before + asked) == find_videos(video_folder) == list(rows)
    assert 3 <= len(before) < 8
    assert not journal_path(video_folder / INDEX_NAME).exists()
    assert read_index(video_folder / INDEX_NAME) == list(rows.values())


def test_two_processes_at_once_leave_one_whole_table(video_folder):
    processes = [start_indexer(video_folder, seconds=0.02) for _ in range(2)]
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert [row.path for row in read_index(video_folder / INDEX_NAME)] == find_videos(video_folder)
    assert not journal_path(video_folder / INDEX_NAME).exists()


def test_a_journal_that_another_process_has_merged_goes_on(tmp_path):
    with closing(Journal(tmp_path / "table.csv")) as journal:
        journal.add({"path": "a"})
        journal_path(tmp_path / "table.csv").unlink()
        journal.add({"path": "b"})
    assert read_journal(tmp_path / "table.csv") == [{"path": "b"}]
