"""Small archives under the official names and layouts, with generated videos and the official lists cut to these names.

UCF101's groups are spread over the folds as in the official lists (g01-07 are tested in fold 1, g08-14 in 2, g15-21 in
3); HMDB51's names and codes, and Kinetics' validation and test rows, are the official ones; Kinetics' training rows are
invented.
"""

import csv

from tests.datamodules.sample_videos import write_video

UCF101_CLASSES = ("ApplyEyeMakeup", "Basketball", "HandstandPushups")
UCF101_GROUPS = {"g01": 1, "g08": 2, "g15": 3, "g22": 0}  # group -> the fold that tests it
# name -> codes of folds 1, 2, 3: 1 train, 2 test, 0 unused
HMDB51_CODES = {
    "cartwheel": {
        "(Rad)Schlag_die_Bank!_cartwheel_f_cm_np1_le_med_0": "111",
        "Aerial_Cartwheel_Tutorial_By_Jujimufu_cartwheel_f_nm_np1_ri_med_0": "211",
        "Cartwheel_Competition_cartwheel_f_cm_np1_ri_med_1": "021",
        "Turnk_r_Pippi_Michel_cartwheel_f_cm_np2_le_med_6": "112",
    },
    "shoot_ball": {
        "10YearOldYouthBasketballStarBaller_shoot_ball_f_cm_np1_ba_med_3": "201",
        "10YearOldYouthBasketballStarBaller_shoot_ball_f_nm_np1_ba_med_13": "021",
        "3PointJumpShotPractice-09_21_07_shoot_ball_f_nm_np1_ri_med_1": "012",
        "JashaunKidsWhoRipAmazingBasketball_shoot_ball_f_cm_np1_le_med_5": "102",
    },
    "wave": {
        "Crash_wave_u_cm_np1_ba_med_13": "122",
        "RATRACE_wave_f_nm_np1_fr_goo_37": "121",
        "SchoolRulesHowTheyHelpUs_wave_f_nm_np1_ba_med_0": "001",
        "TrumanShow_wave_f_nm_np1_fr_med_26": "211",
    },
}
# label, youtube_id, time_start, time_end
KINETICS_TRAIN = [
    (label, f"{word}Train0{number}-_", 10 * number, 10 * number + 10)
    for label, word in (("abseiling", "abs"), ("backflip (human)", "bac"), ("using segway", "seg"))
    for number in range(2)
]
KINETICS_VAL = [
    ("abseiling", "yq_M1PMw2hY", 38, 48),
    ("backflip (human)", "g9HaML-6ToI", 0, 10),
    ("backflip (human)", "GfoRk5N28-8", 0, 10),
    ("using segway", "R6llTwEh07w", 0, 10),
    ("using segway", "SOX5yA1l24A", 299, 309),
]
KINETICS_TEST = [("", "LAcSOxdNrmI", 61, 71), ("", "aTcitK1eYXA", 20, 30)]
KINETICS_MISSING = "GfoRk5N28-8_000000_000010"
UNTRIMMED = "yq_M1PMw2hY"  # there as the whole video: 50 s, of which the list asks for 38 to 48


def ucf101(folder, frames=24, codec="mpeg4"):
    """Write UCF-101/CLASS/v_*.avi and ucfTrainTestlist/ into `folder`; return the root to give."""
    lists = folder / "ucfTrainTestlist"
    lists.mkdir(parents=True)
    _write_crlf(lists / "classInd.txt", [f"{n} {name}" for n, name in enumerate(UCF101_CLASSES, start=1)])
    paths = {group: [_ucf101_path(name, group) for name in UCF101_CLASSES] for group in UCF101_GROUPS}
    for group, members in paths.items():
        for number, path in enumerate(members):
            write_video(folder / "UCF-101" / path, frames=frames, value=60 * number + int(group[1:]), codec=codec)
    for fold in (1, 2, 3):
        test = [path for group, tests in UCF101_GROUPS.items() if tests == fold for path in paths[group]]
        train = [(p, n + 1) for g, tests in UCF101_GROUPS.items() if tests != fold for n, p in enumerate(paths[g])]
        _write_crlf(lists / f"testlist0{fold}.txt", test)
        _write_crlf(lists / f"trainlist0{fold}.txt", [f"{path} {number}" for path, number in train])
    return folder / "UCF-101"


def _ucf101_path(name, group):
    # As published: the folder and the class are spelled HandstandPushups, its files HandStandPushups.
    return f"{name}/v_{name.replace('Handstand', 'HandStand')}_{group}_c01.avi"


def hmdb51(folder, frames=24):
    """Write hmdb51_org/CLASS/*.avi and testTrainMulti_7030_splits/ into `folder`; return the root to give."""
    lists = folder / "testTrainMulti_7030_splits"
    lists.mkdir(parents=True)
    for number, (label, codes) in enumerate(HMDB51_CODES.items()):
        for name in codes:
            write_video(folder / "hmdb51_org" / label / f"{name}.avi", frames=frames, value=60 * number)
        for fold in (1, 2, 3):
            lines = [f"{name}.avi {code[fold - 1]} \n" for name, code in codes.items()]
            (lists / f"{label}_test_split{fold}.txt").write_text("".join(lines))
    return folder / "hmdb51_org"


def kinetics600(folder, frames=24):
    """Write train/LABEL/ID_START_END.mp4, val/ and test/, the lists beside them; return the root to give.

    One video of the validation list is missing, one is there as the whole video it is cut from.
    """
    rows = {"train": KINETICS_TRAIN, "val": KINETICS_VAL, "test": KINETICS_TEST}
    for split, listed in rows.items():
        for number, (label, name, start, end) in enumerate(listed):
            stem = f"{name}_{start:06d}_{end:06d}"
            spelled = "".join(c for c in label if c.isalnum() or c == " ").replace(" ", "_")
            if name == UNTRIMMED:
                write_video(folder / split / spelled / f"{name}.mp4", frames=50 * 25, value=200, width=32, height=32)
            elif stem != KINETICS_MISSING:
                write_video(folder / split / spelled / f"{stem}.mp4", frames=frames, value=30 * number)
        write_kinetics_list(folder / "annotations" / f"kinetics-600_{split}.csv", split, listed)
    return folder


def write_kinetics_list(path, split, rows):
    """Write a csv list as published; the test list has no labels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = ["label", "youtube_id", "time_start", "time_end", "split"]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        unlabelled = int(split == "test")
        writer.writerow(columns[unlabelled:])
        writer.writerows([*row, split][unlabelled:] for row in rows)


def _write_crlf(path, lines):
    path.write_bytes("".join(f"{line}\r\n" for line in lines).encode())
