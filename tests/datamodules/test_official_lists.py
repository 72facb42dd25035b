"""The official split files themselves: every clip of every archive is accounted for, in every fold."""

import re

import pytest

from datamodules import hmdb51, kinetics_lists, ucf101
from datamodules.official import hold_out
from tests.datamodules import miniature

UCF101_COUNTS = {1: (9537, 3783), 2: (9586, 3734), 3: (9624, 3696)}


@pytest.fixture
def splits(real_data):
    return real_data / "splits"


def ids(videos):
    return {video.video_id for video in videos}


@pytest.mark.parametrize("fold", [1, 2, 3])
def test_ucf101_accounts_for_all_clips_and_shares_no_group(splits, fold):
    lists = ucf101.read_lists(splits / "ucf101", fold)
    train, test = lists.splits["train"], lists.splits["test"]
    assert (len(train), len(test)) == UCF101_COUNTS[fold]
    assert len(ids(train) | ids(test)) == len(train) + len(test) == 13_320
    assert not {v.group for v in train} & {v.group for v in test}
    tested = {int(re.search(r"_g(\d+)$", v.group).group(1)) for v in test}
    assert tested == set(range(7 * fold - 6, 7 * fold + 1))
    assert len(lists.class_names) == 101
    assert {v.label for v in train} == {v.label for v in test} == set(range(101))
    assert (lists.class_names[0], lists.class_names[100]) == ("ApplyEyeMakeup", "YoYo")


@pytest.mark.parametrize("fold", [1, 2, 3])
def test_hmdb51_accounts_for_all_clips_in_every_fold(splits, fold):
    lists = hmdb51.read_lists(splits / "hmdb51", fold)
    train, test = lists.splits["train"], lists.splits["test"]
    assert (len(train), len(test), len(lists.unused)) == (3570, 1530, 1666)
    assert len(ids(train) | ids(test) | ids(lists.unused)) == 6_766
    assert len(lists.class_names) == 51
    assert {lists.class_names.count(name) for name in ("shoot_ball", "brush_hair", "ride_bike")} == {1}
    for label in range(51):
        assert [sum(v.label == label for v in part) for part in (train, test)] == [70, 30]
    # what one class trains on comes from other films than what it is tested on
    assert not {(v.label, v.group) for v in train} & {(v.label, v.group) for v in test}


def test_the_known_places_of_the_real_clips(splits):
    in_ucf101 = [ids(ucf101.read_lists(splits / "ucf101", fold).splits["train"]) for fold in (1, 2, 3)]
    assert all("v_SoccerJuggling_g23_c01" in train for train in in_ucf101)
    assert "v_Basketball_g01_c01" not in in_ucf101[0]
    folds = [hmdb51.read_lists(splits / "hmdb51", fold) for fold in (1, 2, 3)]
    for name, codes in (("RATRACE_wave_f_nm_np1_fr_goo_37", "121"), ("TrumanShow_wave_f_nm_np1_fr_med_26", "211")):
        said = ["1" if name in ids(f.splits["train"]) else "2" if name in ids(f.splits["test"]) else "0" for f in folds]
        assert "".join(said) == codes


def test_kinetics_lists_and_label_maps_agree(splits):
    csv600, csv400 = (splits / f"kinetics{e}" / f"kinetics-{e}_val.csv" for e in (600, 400))
    files = {"val": csv600, "test": csv600.with_name("kinetics-600_test.csv")}
    with_map = kinetics_lists.read_lists(600, files, csv600.with_name("label_map_600.txt"))
    assert {split: len(videos) for split, videos in with_map.splits.items()} == {"val": 30_000, "test": 72_924}
    assert len(ids(with_map.videos)) == 102_924
    assert {video.label for video in with_map.splits["test"]} == {-1}
    assert len(with_map.class_names) == 600
    assert kinetics_lists.read_lists(600, files, None).class_names == with_map.class_names
    k400 = kinetics_lists.read_lists(400, {"val": csv400}, csv400.with_name("label_map.txt"))
    assert (len(k400.splits["val"]), len(k400.class_names)) == (19_906, 400)
    assert k400.splits["val"][0].names == ("0wR5jVB-WPk_000417_000427", "0wR5jVB-WPk_417_427")


@pytest.mark.parametrize("module", [ucf101, hmdb51], ids=["ucf101", "hmdb51"])
@pytest.mark.parametrize("fraction", [0.05, 0.15, 0.4])
def test_a_validation_split_takes_whole_groups_and_its_share_of_each_class(splits, module, fraction):
    videos = module.read_lists(splits / module.NAME, 1).splits["train"]
    train, val = hold_out(videos, fraction)
    assert not {v.group for v in train} & {v.group for v in val}
    assert sorted(ids(train) | ids(val)) == sorted(ids(videos))
    assert len(val) / len(videos) == pytest.approx(fraction, rel=0.3)
    assert {v.label for v in train} == {v.label for v in videos}
    assert hold_out(videos[::-1], fraction)[1][::-1] == val


def test_no_validation_split_is_asked_for():
    assert hold_out([], 0) == ([], [])
    with pytest.raises(ValueError, match="and less than 0"):
        hold_out([], 0.5)


def test_the_miniature_is_cut_from_the_official_lists(splits, tmp_path):
    """The generated archives are worth something only while their names and codes are the real ones."""
    miniature.ucf101(tmp_path, frames=1)
    miniature.hmdb51(tmp_path, frames=1)
    for fold in (1, 2, 3):
        for module, name in ((ucf101, "ucfTrainTestlist"), (hmdb51, "testTrainMulti_7030_splits")):
            small, real = module.read_lists(tmp_path / name, fold), module.read_lists(splits / module.NAME, fold)
            for split in ("train", "test"):
                assert ids(small.splits[split]) <= ids(real.splits[split])
                assert small.splits[split]
    rows = (splits / "kinetics600" / "kinetics-600_val.csv").read_text().splitlines()
    assert {",".join(map(str, [*row, "val"])) for row in miniature.KINETICS_VAL} <= set(rows)


def test_lists_that_disagree_are_refused_in_one_line(tmp_path):
    (tmp_path / "classInd.txt").write_text("1 Archery\r\n2 Bowling\r\n")
    (tmp_path / "testlist01.txt").write_text("")
    train = tmp_path / "trainlist01.txt"
    train.write_text("Archery/v_Archery_g08_c01.avi 1\nJuggling/v_Juggling_g08_c01.avi 2\n")
    with pytest.raises(
        ValueError, match=r"trainlist01\.txt, line 2: the class 'Juggling' is not among the 2 classes of class"
    ):
        ucf101.read_lists(tmp_path, 1)
    train.write_text("Archery/v_Archery_g08_c01.avi 2\n")
    with pytest.raises(ValueError, match=r"has the class number 2, but classInd.txt gives Archery 1"):
        ucf101.read_lists(tmp_path, 1)
    (tmp_path / "classInd.txt").write_text("0 Archery\n1 Bowling\n")
    with pytest.raises(ValueError, match="expected the class number 1"):
        ucf101.read_lists(tmp_path, 1)
    (tmp_path / "wave_test_split1.txt").write_text("film_walk_f_1.avi 1 \n")
    with pytest.raises(
        ValueError, match=r"'film_walk_f_1.avi 1'; expected FILE CODE, with the class of the list, 'wave'"
    ):
        hmdb51.read_lists(tmp_path, 1)


UCF_LISTS = {
    "trainlist01.txt": "Archery/v_Archery_g08_c01.avi 1\n",
    "testlist01.txt": "Archery/v_Archery_g01_c01.avi\n",
}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"trainlist01.txt": "\nArchery/v_Archery_g08_c01.avi one\n"},
            r"trainlist01\.txt, line 2: '.* one'; expected a clip and its class number, as Archery/v_Archery_g01",
        ),
        (
            {"testlist01.txt": UCF_LISTS["trainlist01.txt"]},
            r"ucf101: fold 1 of the lists from .*: v_Archery_g08_c01 stands in the train and in the test list",
        ),
        (
            {"testlist01.txt": UCF_LISTS["testlist01.txt"] * 2},
            r"2 videos stand in the test list, 1 different ones; twice or more: v_Archery_g01_c01$",
        ),
        ({"testlist01.txt": ""}, r"fold 1 of the lists from .*: the test list is empty"),
    ],
    ids=["no number", "both", "twice", "empty"],
)
def test_lists_with_faults_are_refused_with_their_place(tmp_path, changed, message):
    (tmp_path / "classInd.txt").write_text("1 Archery\n")
    for name, text in (UCF_LISTS | changed).items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        ucf101.read_lists(tmp_path, 1)


def test_a_class_of_hmdb51_names_a_clip_once(tmp_path):
    (tmp_path / "wave_test_split1.txt").write_text("a_wave_f_1.avi 1\nb_wave_f_1.avi 2\na_wave_f_1.avi 0\n")
    with pytest.raises(ValueError, match="a_wave_f_1 stands in the train and in the unused list"):
        hmdb51.read_lists(tmp_path, 1)


def test_rows_of_kinetics_that_repeat_count_once_and_those_that_disagree_are_refused(tmp_path, caplog):
    row = ("abseiling", "yq_M1PMw2hY", 38, 48)

    def read(*rows, train=(("abseiling", "a", 0, 10),)):
        miniature.write_kinetics_list(tmp_path / "val.csv", "val", rows)
        miniature.write_kinetics_list(tmp_path / "train.csv", "train", train)
        return kinetics_lists.read_lists(400, {s: tmp_path / f"{s}.csv" for s in ("train", "val")}, None)

    assert len(read(row, ("yoga", "yq_M1PMw2hY", 138, 148), row).splits["val"]) == 2
    assert [r.getMessage() for r in caplog.records] == [
        f"{tmp_path / 'val.csv'}: 1 rows repeat another one and do not count"
    ]
    with pytest.raises(ValueError, match="twice or more: yq_M1PMw2hY_000038_000048"):
        read(row, ("yoga", *row[1:]))
    with pytest.raises(ValueError, match="yq_M1PMw2hY_000038_000048 stands in the train and in the val list"):
        read(row, train=[row])
    with pytest.raises(ValueError, match="the val list is empty"):
        read()


@pytest.mark.parametrize("times", [("begin", 48), (38, ""), (48, 38), (-1, 9), ("nan", 48), (1, "inf")])
def test_times_of_kinetics_that_are_none_name_their_line(tmp_path, times):
    rows = [("abseiling", "yq_M1PMw2hY", 38, 48), ("abseiling", "x", *times)]
    miniature.write_kinetics_list(tmp_path / "val.csv", "val", rows)
    with pytest.raises(ValueError, match=r"val\.csv, line 3: .* is x,.*expected an id and two times in seconds"):
        kinetics_lists.read_lists(400, {"val": tmp_path / "val.csv"}, None)


def test_a_label_outside_of_the_label_map_names_both(tmp_path):
    miniature.write_kinetics_list(tmp_path / "val.csv", "val", [("abseiling", "yq_M1PMw2hY", 38, 48)])
    (tmp_path / "label_map.txt").write_text("zumba\nyoga\n")
    expected = r"val\.csv, line 2: the class 'abseiling' is not among the 2 classes of .*label_map\.txt: zumba, yoga"
    with pytest.raises(ValueError, match=expected):
        kinetics_lists.read_lists(400, {"val": tmp_path / "val.csv"}, tmp_path / "label_map.txt")


def test_a_list_without_its_columns_says_what_it_has(tmp_path):
    (tmp_path / "train.csv").write_text("video,class\na,b\n")
    with pytest.raises(
        ValueError, match=r"has the columns video, class; a list of Kinetics has .*youtube_id,time_start"
    ):
        kinetics_lists.read_rows(tmp_path / "train.csv")
