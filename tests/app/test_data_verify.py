"""`skip-sideways data verify DATASET`: what a person reads, what scripts read, and the exit status."""

import csv
import os
import time

import pytest

import datamodules
from app.cli import main
from datamodules.index import existing_index, read_index
from tests.datamodules import miniature


@pytest.fixture
def archive(tmp_path):
    return miniature.ucf101(tmp_path / "archive", frames=8)


def verify(capsys, *argv):
    status = main(["data", "verify", *map(str, argv), "--no-progress"])
    return status, capsys.readouterr()


def lines_of(text, word):
    return [line.split() for line in text.splitlines() if line.startswith(word)]


def test_a_whole_archive_is_said_to_be_whole(archive, tmp_cwd, capsys):
    status, said = verify(capsys, "ucf101", "--root", archive)
    assert status == 0
    assert "complete and whole" in said.out
    assert lines_of(said.out, "1 ") == [["1", "train", "9", "9", "0", "0"], ["1", "test", "3", "3", "0", "0"]]
    data = datamodules.UCF101(root=str(archive), fold=2)
    assert f"id-list hash of fold 2: {data.id_hash}" in said.out
    assert (tmp_cwd / "ucf101-verify" / "missing.txt").read_text() == ""


def test_missing_extra_and_broken_videos_are_listed_whole_and_by_split(archive, tmp_cwd, capsys):
    (archive / "Basketball" / "v_Basketball_g08_c01.avi").unlink()
    cut = archive / "ApplyEyeMakeup" / "v_ApplyEyeMakeup_g01_c01.avi"
    cut.write_bytes(cut.read_bytes()[:200])
    (archive / "ApplyEyeMakeup" / "v_ApplyEyeMakeup_g22_c01.avi").rename(archive / "copy (2).avi")
    twice = archive / "Another" / "v_Basketball_g01_c01.avi"
    twice.parent.mkdir()
    twice.write_bytes(b"no video")
    status, said = verify(capsys, "ucf101", "--root", archive, "--fold", 1, "--output", tmp_cwd / "found")
    assert status == 1
    assert lines_of(said.out, "1 ") == [["1", "train", "9", "7", "2", "0"], ["1", "test", "3", "3", "0", "1"]]
    assert not lines_of(said.out, "2  ")
    assert "2 missing, 1 broken" in said.out
    found = tmp_cwd / "found"
    assert set(found.joinpath("missing.txt").read_text().split()) == {
        "v_ApplyEyeMakeup_g22_c01",
        "v_Basketball_g08_c01",
    }
    assert found.joinpath("extra.txt").read_text() == "copy (2).avi\n"
    assert found.joinpath("duplicates.txt").read_text() == "Another/v_Basketball_g01_c01.avi\n"
    assert "duplicates: 1" in said.out
    assert "  Another/v_Basketball_g01_c01.avi: Basketball/v_Basketball_g01_c01.avi is used" in said.out
    ((path, reason),) = list(csv.reader(found.joinpath("broken.csv").read_text().splitlines()))[1:]
    assert path == "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi"
    assert reason
    assert f"  {path}: {reason}" in said.out


def test_a_quick_check_does_not_stand_for_a_whole_one(archive, tmp_cwd, capsys):
    for argv, checked in ((["--quick"], "scanned"), ([], "decoded"), (["--quick"], "decoded")):
        assert verify(capsys, "ucf101", "--root", archive, *argv)[0] == 0
        assert {row.facts.checked for row in read_index(existing_index(archive))} == {checked}


def test_a_file_that_was_damaged_or_mended_without_another_size_is_read_again(archive, tmp_cwd, capsys):
    assert "videos: 12 read now, none taken" in verify(capsys, "ucf101", "--root", archive)[1].out
    damaged = archive / "Basketball" / "v_Basketball_g08_c01.avi"
    good = damaged.read_bytes()
    damaged.write_bytes(bytes(len(good)))
    status, said = verify(capsys, "ucf101", "--root", archive)
    assert status == 1
    assert "broken: 1" in said.out
    assert f"videos: 1 read now, 11 taken from the table of {time.strftime('%Y-')}" in said.out
    damaged.write_bytes(good)
    assert verify(capsys, "ucf101", "--root", archive)[0] == 0


def test_again_reads_what_size_and_time_do_not_betray(archive, tmp_cwd, capsys):
    path = archive / "Basketball" / "v_Basketball_g08_c01.avi"
    good, stat = path.read_bytes(), path.stat()

    def put(content):
        path.write_bytes(content)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))

    assert verify(capsys, "ucf101", "--root", archive)[0] == 0
    put(bytes(len(good)))
    status, said = verify(capsys, "ucf101", "--root", archive)
    assert status == 0
    assert "videos: 0 read now, 12 taken from the table" in said.out
    status, said = verify(capsys, "ucf101", "--root", archive, "--again")
    assert status == 1
    assert "videos: 12 read now, none taken" in said.out
    put(good)  # what is broken is always read again
    assert verify(capsys, "ucf101", "--root", archive)[0] == 0


def test_short_videos_are_listed_where_a_network_needs_more(archive, tmp_cwd, capsys):
    status, said = verify(capsys, "ucf101", "--root", archive, "--min-frames", 19)
    assert status == 1
    assert "8 frames, fewer than 19" in said.out


def test_hmdb51_counts_unused_videos_in_every_fold(tmp_path, tmp_cwd, capsys):
    root = miniature.hmdb51(tmp_path / "archive", frames=4)
    status, said = verify(capsys, "hmdb51", "--root", root)
    assert status == 0
    counts = {(line[0], line[1]): int(line[2]) for fold in "123" for line in lines_of(said.out, f"{fold} ")}
    assert {fold: sum(n for (k, _), n in counts.items() if k == fold) for fold in "123"} == dict.fromkeys("123", 12)


def test_kinetics_says_which_list_is_not_there_and_what_a_whole_video_lacks(tmp_path, tmp_cwd, capsys):
    root = miniature.kinetics600(tmp_path / "archive", frames=8)
    (root / "annotations" / "kinetics-600_test.csv").unlink()
    status, said = verify(capsys, "kinetics600", "--root", root)
    assert status == 1
    assert "no test list was found" in said.out
    assert "extra: 2" in said.out
    data = datamodules.Kinetics600(root=str(root))
    assert f"id-list hash with --data.test_split val, of the val list alone: {data.id_hash}" in said.out
    assert (tmp_cwd / "kinetics600-verify" / "missing.txt").read_text() == f"{miniature.KINETICS_MISSING}\n"
    assert "1 missing, 0 broken" in said.out
    whole = root / "val" / "abseiling" / f"{miniature.UNTRIMMED}.mp4"
    miniature.write_video(whole, frames=20 * 25, width=32, height=32)
    _, said = verify(capsys, "kinetics600", "--root", root)
    assert "the list asks for 38 to 48 s, the file has 20 s" in said.out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["ucf101", "--root", "nowhere"], "there is no folder nowhere"),
        (["ucf101", "--root", ".", "--fold", "0"], "they do not count from 0"),
        (["kinetics600", "--root", ".", "--fold", "1"], "kinetics600 has no folds"),
    ],
)
def test_wrong_arguments_are_one_line_and_status_2(argv, message, tmp_cwd, capsys):
    folder = tmp_cwd / "ucfTrainTestlist"
    folder.mkdir()
    (folder / "classInd.txt").write_text("1 Archery\n")
    for part in ("trainlist", "testlist"):
        for fold in (1, 2, 3):
            group = {"trainlist": 8, "testlist": 1}[part]
            (folder / f"{part}0{fold}.txt").write_text(f"Archery/v_Archery_g{group:02d}_c01.avi\n")
    status, said = verify(capsys, *argv)
    assert status == 2
    assert message in said.err
    assert said.err.count("\n") == 1


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--fold", "1"], "need a DATASET"),
        (["--again"], "needs a DATASET; without one every video is read anyway"),
        (["ucf101", "--again", "--quick"], "give one of the two"),
    ],
)
def test_options_without_effect_are_refused(argv, message, tmp_cwd, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["data", "verify", "--root", ".", *argv])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
