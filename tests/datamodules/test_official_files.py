"""Archives in every layout that people have: the same listing; and clear words for a root that is none of them."""

import pytest

from datamodules import hmdb51, kinetics, kinetics_lists, ucf101
from datamodules.official import OfficialLists, OfficialVideo
from datamodules.official_files import find_lists, match, official_listing, refuse_nothing, walk
from tests.datamodules import miniature


@pytest.fixture(scope="module")
def ucf(tmp_path_factory):
    return miniature.ucf101(tmp_path_factory.mktemp("ucf"), frames=1)


@pytest.fixture(scope="module")
def hmdb(tmp_path_factory):
    return miniature.hmdb51(tmp_path_factory.mktemp("hmdb"), frames=1)


def touch(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()


def ucf_lists(root, fold=1, splits=None):
    folder = find_lists("ucf101", root, splits, names=ucf101.LIST_FOLDERS, marker=ucf101.MARKER)
    return ucf101.read_lists(folder, fold)


def relaid(root, new, place):
    """Copy the names of an archive's videos into another layout: `place` maps a path to the new one."""
    touch(new, *(place(path) for path in walk("x", root).paths))
    return new


LAYOUTS = {
    "flat": lambda path: path.rsplit("/", 1)[-1],
    "deeper": lambda path: f"UCF-101/{path}",
    "twice": lambda path: f"{path.split('/')[0]}/{path}",
    "converted": lambda path: path.replace(".avi", ".mp4"),
    "capitals": lambda path: path.replace(".avi", ".AVI"),
    "by split": lambda path: f"train/{path}",
    "as the class": lambda path: path.replace("HandStand", "Handstand"),
}


@pytest.mark.parametrize("place", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_ucf101_in_every_layout(ucf, tmp_path, place):
    original = official_listing(ucf_lists(ucf), ucf)
    listing = official_listing(ucf_lists(ucf), relaid(ucf, tmp_path, place))
    assert listing.found == {"train": 9, "val": 0, "test": 3} == listing.expected
    assert listing.id_hash == original.id_hash
    assert not listing.missing
    for split in ("train", "test"):
        assert [(e.video_id, e.label) for e in listing.splits[split]] == [
            (e.video_id, e.label) for e in original.splits[split]
        ]
        assert all(e.path.rsplit("/", 1)[-1].lower().startswith(e.video_id.lower()) for e in listing.splits[split])


@pytest.mark.parametrize("place", [LAYOUTS["flat"], LAYOUTS["twice"], LAYOUTS["converted"]])
def test_hmdb51_in_every_layout(hmdb, tmp_path, place):
    folder = find_lists("hmdb51", hmdb, None, names=hmdb51.LIST_FOLDERS, marker=hmdb51.MARKER)
    listings = [official_listing(hmdb51.read_lists(folder, k), relaid(hmdb, tmp_path, place)) for k in (1, 2, 3)]
    assert [(listing.found["train"], listing.found["test"]) for listing in listings] == [(5, 3), (5, 4), (8, 4)]
    assert len({listing.id_hash for listing in listings}) == 3


def test_folds_have_hashes_of_their_own_and_no_video_twice(ucf):
    listings = [official_listing(ucf_lists(ucf, fold), ucf) for fold in (1, 2, 3)]
    assert len({listing.id_hash for listing in listings}) == 3
    for listing in listings:
        train, test = ({entry.video_id for entry in listing.splits[split]} for split in ("train", "test"))
        assert not train & test


def test_lists_are_found_where_archives_and_tools_put_them(ucf, tmp_path, monkeypatch):
    monkeypatch.setenv("SKIP_SIDEWAYS_DATA", str(tmp_path / "nowhere"))
    content = {file.name: file.read_bytes() for file in (ucf.parent / "ucfTrainTestlist").iterdir()}
    for place in ("root/ucfTrainTestlist", "annotations", "root", "nowhere/splits/ucf101"):
        folder = tmp_path / place
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in content.items():
            (folder / name).write_bytes(data)
        assert len(ucf_lists(tmp_path / "root").videos) == 12
        for name in content:
            (folder / name).unlink()
    with pytest.raises(ValueError, match=r"looked for classInd\.txt in .*root/ucfTrainTestlist, .*Give --data\.splits"):
        ucf_lists(tmp_path / "root")
    assert len(ucf_lists(tmp_path / "root", splits=str(ucf.parent)).videos) == 12


def test_lists_beside_the_folder_that_a_root_links_to_are_found(ucf, tmp_path, monkeypatch):
    monkeypatch.setenv("SKIP_SIDEWAYS_DATA", str(tmp_path / "nowhere"))
    (tmp_path / "linked").symlink_to(ucf)
    assert official_listing(ucf_lists(tmp_path / "linked"), tmp_path / "linked").found["train"] == 9


def test_a_validation_split_is_counted_and_the_official_list_stays(ucf):
    plain, held = (official_listing(ucf_lists(ucf), ucf, val_fraction=fraction) for fraction in (0.0, 0.34))
    assert held.found == {"train": 6, "val": 3, "test": 3} == held.expected
    assert held.id_hash == plain.id_hash


def test_missing_videos_are_one_error_with_count_names_and_command(ucf, tmp_path):
    root = relaid(ucf, tmp_path, LAYOUTS["flat"])
    (root / "v_Basketball_g08_c01.avi").unlink()
    expected = (
        r"ucf101: 1 of the 12 videos of fold 1 are not in .*: v_Basketball_g08_c01\. The lists "
        r"are from .*ucfTrainTestlist .* The whole list: "
        r"skip-sideways data verify ucf101 --root .* --data\.allow_missing true"
    )
    with pytest.raises(ValueError, match=expected):
        official_listing(ucf_lists(ucf), root)
    listing = official_listing(ucf_lists(ucf), root, allow_missing=True)
    assert listing.missing == {"train": ["v_Basketball_g08_c01"]}
    assert (listing.found["train"], listing.expected["train"]) == (8, 9)
    assert listing.id_hash == official_listing(ucf_lists(ucf), ucf).id_hash


def test_a_wrong_root_says_what_was_looked_for_and_found(ucf, hmdb, tmp_path):
    lists = ucf_lists(ucf)
    expected = (
        r"none of the 12 listed videos; the lists are from .*ucfTrainTestlist\. "
        r"Looked, at any depth, for v_ApplyEyeMakeup_g08_c01.*\.avi .*Found 12 video "
        r"files \(cartwheel/.* and 9 more\) and the folders: cartwheel, shoot_ball, wave\. Give --data\.root DIR"
    )
    with pytest.raises(ValueError, match=expected):
        official_listing(lists, hmdb)
    with pytest.raises(ValueError, match=r"Found 0 video files \(nothing\)"):
        official_listing(lists, tmp_path)
    with pytest.raises(ValueError, match=r"there is no folder .*UCF101; in .*: UCF-101, ucfTrainTestlist\. Give"):
        official_listing(lists, ucf.parent / "UCF101")


@pytest.mark.parametrize("fold", [0, 4])
def test_folds_are_those_of_the_official_names(ucf, fold):
    with pytest.raises(ValueError, match=rf"ucf101: fold {fold}; the official folds are 1, 2, 3"):
        ucf_lists(ucf, fold)


def kinetics_match(root, *videos):
    lists = OfficialLists("kinetics600", ["a"], {"val": list(videos)}, "official")
    matched = match(lists, walk("kinetics600", root))
    refuse_nothing(lists, walk("kinetics600", root), matched)
    return matched


def video(name, start, end, folder=""):
    stem = f"{name}_{start:06d}_{end:06d}"
    return OfficialVideo(stem, 0, name, (stem, f"{name}_{start}_{end}"), folder, name, start, end)


@pytest.mark.parametrize(
    ("path", "cut"),
    [
        ("val/passing American football (in game)/-a_b_000010_000020.mp4", False),
        ("val/passing_american_football/-a_b_000010_000020.webm", False),
        ("-a_b_10_20.mkv", False),
        ("val/-a_b.mp4", True),
    ],
)
def test_kinetics_names(tmp_path, path, cut):
    touch(tmp_path, path)
    matched = kinetics_match(tmp_path, video("-a_b", 10, 20))
    assert matched.path == {"-a_b_000010_000020": path}
    assert bool(matched.cut) == cut


def test_two_ranges_of_one_untrimmed_file_are_two_videos(tmp_path):
    touch(tmp_path, "a.mp4", "other_000001_000011.mp4")
    matched = kinetics_match(tmp_path, video("a", 10, 20), video("a", 30, 40))
    assert set(matched.path.values()) == {"a.mp4"}
    assert len(matched.cut) == 2
    assert matched.extra == ["other_000001_000011.mp4"]


def test_of_two_files_the_replacement_counts_then_the_one_of_its_split(tmp_path):
    one = video("a", 10, 20)
    touch(tmp_path, "misc/a_000010_000020.mp4", "val/a_000010_000020.mp4")
    assert kinetics_match(tmp_path, one).path[one.video_id] == "val/a_000010_000020.mp4"
    touch(tmp_path, "replacement/replacement_for_corrupted_k400/a_000010_000020.mp4")
    matched = kinetics_match(tmp_path, one)
    assert matched.path[one.video_id].startswith("replacement/")
    assert (len(matched.duplicates), matched.extra) == (2, [])


def test_of_two_files_the_one_in_the_folder_of_its_class_counts(ucf, hmdb, tmp_path, caplog):
    root = relaid(ucf, tmp_path / "ucf", lambda path: path)
    touch(root, "Another/v_Basketball_g01_c01.avi", "Archery/Deeper/v_Basketball_g08_c01.avi")
    touch(root, "ApplyEyeMakeup/v_HandStandPushups_g01_c01.avi")
    matched = match(ucf_lists(ucf), walk("ucf101", root))
    assert matched.path["v_Basketball_g01_c01"] == "Basketball/v_Basketball_g01_c01.avi"
    assert set(matched.duplicates.values()) == {
        "Basketball/v_Basketball_g01_c01.avi",
        "Basketball/v_Basketball_g08_c01.avi",
        "HandstandPushups/v_HandStandPushups_g01_c01.avi",
    }
    assert (matched.extra, matched.ambiguous) == ([], [])
    root = relaid(hmdb, tmp_path / "hmdb", lambda path: path)
    touch(root, "a/RATRACE_wave_f_nm_np1_fr_goo_37.avi")
    folder = find_lists("hmdb51", hmdb, None, names=hmdb51.LIST_FOLDERS, marker=hmdb51.MARKER)
    matched = match(hmdb51.read_lists(folder, 1), walk("hmdb51", root))
    assert list(matched.duplicates) == ["a/RATRACE_wave_f_nm_np1_fr_goo_37.avi"]
    touch(tmp_path / "k600", "abseiling/a_000010_000020.mp4", "passing_american_football_in_game/a_000010_000020.mp4")
    one = video("a", 10, 20, "passing American football (in game)")
    assert kinetics_match(tmp_path / "k600", one).path[one.video_id].startswith("passing")
    assert not caplog.records


def test_of_files_of_equal_right_the_least_deep_is_used_with_one_warning(ucf, tmp_path, caplog):
    root = relaid(ucf, tmp_path, lambda path: f"a/{path}")
    touch(root, "Basketball/v_Basketball_g01_c01.avi", "a/Basketball/v_Basketball_g08_c01.mkv")
    listing = official_listing(ucf_lists(ucf), root)
    assert "Basketball/v_Basketball_g01_c01.avi" in {entry.path for entry in listing.splits["test"]}
    (said,) = [record.getMessage() for record in caplog.records]
    assert "2 videos have several files" in said
    assert "is used: a/Basketball/v_Basketball_g08_c01.avi, not a/Basketball/v_Basketball_g08_c01.mkv" in said


def test_youtube_ids_differ_by_case(tmp_path):
    touch(tmp_path, "AB_000010_000020.mp4", "x_000000_000010.mp4")
    matched = kinetics_match(tmp_path, video("x", 0, 10), video("ab", 10, 20))
    assert "ab_000010_000020" not in matched.path


@pytest.fixture(scope="module")
def k600(tmp_path_factory):
    root = tmp_path_factory.mktemp("k600")
    rows = {"train": miniature.KINETICS_TRAIN, "val": miniature.KINETICS_VAL, "test": miniature.KINETICS_TEST}
    for split, listed in rows.items():
        miniature.write_kinetics_list(root / "annotations" / f"kinetics-600_{split}.csv", split, listed)
        stems = [f"{name}_{start:06d}_{end:06d}.mp4" for _, name, start, end in listed]
        touch(root, *(f"{split}/{stem}" for stem in stems if not stem.startswith(miniature.KINETICS_MISSING)))
    return root


def kinetics_of(root, **options):
    return kinetics.kinetics_listing(kinetics_lists.find_and_read(600, root, None, {}), root, **options)


def test_kinetics_is_tested_on_the_validation_list_unless_told_otherwise(k600):
    usual, official = kinetics_of(k600, test_split="val"), kinetics_of(k600, test_split="test")
    assert usual.expected == {"train": 6, "val": 0, "test": 5}
    assert usual.found == {"train": 6, "val": 0, "test": 4}
    assert usual.missing == {"test": [miniature.KINETICS_MISSING]}
    assert official.found == {"train": 6, "val": 4, "test": 2}
    assert {entry.label for entry in official.splits["test"]} == {-1}
    assert (usual.split_name, official.split_name) == ("val list", "test list")
    assert usual.id_hash != official.id_hash
    assert kinetics_of(k600, test_split="val", val_fraction=0.4).found == {"train": 3, "val": 3, "test": 4}
    with pytest.raises(ValueError, match="the val list is the validation split already"):
        kinetics_of(k600, test_split="test", val_fraction=0.1)
    with pytest.raises(ValueError, match="test_split 'train'; expected val or test"):
        kinetics_of(k600, test_split="train")


def test_the_hash_of_kinetics_is_of_the_list_tested_on_whatever_lists_are_there(k600, tmp_path):
    alone = tmp_path / "annotations" / "kinetics-600_val.csv"
    alone.parent.mkdir()
    alone.write_bytes((k600 / "annotations" / "kinetics-600_val.csv").read_bytes())
    lists = kinetics_lists.find_and_read(600, tmp_path, None, {})
    assert set(lists.splits) == {"val"}
    there = kinetics_of(k600, test_split="val")
    assert kinetics.kinetics_listing(lists, k600, test_split="val").id_hash == there.id_hash
    alone.write_text(alone.read_text().replace("38,48", "39,49"))
    lists = kinetics_lists.find_and_read(600, tmp_path, None, {})
    assert kinetics.kinetics_listing(lists, k600, test_split="val").id_hash != there.id_hash


def test_kinetics_lists_have_many_names(k600, tmp_path, monkeypatch):
    monkeypatch.setenv("SKIP_SIDEWAYS_DATA", str(tmp_path / "nowhere"))
    content = (k600 / "annotations" / "kinetics-600_val.csv").read_text()
    for name in ("val.csv", "kinetics600_val.csv", "annotations/val.csv", "lists/kinetics_600_val.csv"):
        touch(tmp_path, name)
        (tmp_path / name).write_text(content)
        assert len(kinetics_lists.find_and_read(600, tmp_path, None, {}).splits["val"]) == 5
        (tmp_path / name).unlink()
    with pytest.raises(ValueError, match=r"there is no file .*mine\.csv"):
        kinetics_lists.find_and_read(600, tmp_path, None, {"val": str(tmp_path / "mine.csv")})
    with pytest.raises(
        ValueError, match=r"no list was found: looked for kinetics-600_val\.csv, .*val\.csv .*--data\.val"
    ):
        kinetics_lists.find_and_read(600, tmp_path / "empty" / "empty", str(tmp_path), {})


def test_a_walk_meets_linked_folders_and_files(ucf, tmp_path):
    (tmp_path / "Basketball").symlink_to(ucf / "Basketball")
    (tmp_path / "one.avi").symlink_to(ucf / "ApplyEyeMakeup" / "v_ApplyEyeMakeup_g01_c01.avi")
    (tmp_path / "v_ApplyEyeMakeup_g08_c01.avi").symlink_to(ucf / "ApplyEyeMakeup" / "v_ApplyEyeMakeup_g08_c01.avi")
    listing = official_listing(ucf_lists(ucf), tmp_path, allow_missing=True)
    assert listing.found == {"train": 4, "val": 0, "test": 1}
