"""A score stands beside the protocol it was measured with, and never on videos that the checkpoint has learnt from."""

import shutil

import pytest
import torch
from launch import runs

from app.cli import main
from app.evaluation import evaluation_id, refuse_seen_videos, same_score, scored_arguments
from tests.datamodules import miniature

SMALL = ["--data.frames=8", "--data.size=16", "--data.batch_size=2", "--data.fps=12.5"]
MODEL = ["--model.depth=3", "--model.width=0.25", "--model.rule=sideways"]
TRAINER = ["--trainer.max_steps=2", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
PROTOCOL = "{} of 8 frames at 12.5 fps"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return miniature.ucf101(tmp_path_factory.mktemp("archive"))


@pytest.fixture(scope="module")
def trained(root, tmp_path_factory, mlflow_template):
    """The checkpoint of a run that is scored on 3 views x 3 crops, in a folder with its run store."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "mlflow.db").write_bytes(mlflow_template.read_bytes())
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        data = ["--data=UCF101", f"--data.root={root}", "--data.views=3", "--data.crops=3", *SMALL]
        assert main(["fit", *data, *MODEL, *TRAINER]) == 0
    (path,) = folder.glob("runs/*/last.ckpt")
    return path


def scored(trained, *extra, command="test"):
    return main([command, f"--ckpt_path={trained}", "--trainer.enable_progress_bar=false", *extra])


def test_other_views_are_a_run_of_their_own_with_their_own_tags(trained, root, monkeypatch, tmp_path):
    monkeypatch.chdir(trained.parents[2])
    store = "sqlite:///mlflow.db"
    link = tmp_path / "elsewhere"
    link.symlink_to(root)
    elsewhere = [f"--data.root={link}", f"--data.splits={root.parent}", "--data.decoder=pyav", "--data.num_workers=0"]
    assert scored(trained) == 0
    assert scored(trained, *elsewhere, "--data.cache=memory", "--data.batch_size=1") == 0
    (fit,) = runs(store, "ucf101")
    top1 = fit.data.metrics["test/top1"]
    for _ in range(2):  # the same command twice is one run
        assert scored(trained, "--data.views=1", "--data.crops=1") == 0
    other, fit = runs(store, "ucf101")
    assert (fit.data.tags["kind"], fit.data.tags["views"]) == ("run", PROTOCOL.format("3 views x 3 crops"))
    assert fit.data.metrics["test/top1"] == top1
    assert (other.data.tags["kind"], other.data.tags["views"]) == ("evaluation", PROTOCOL.format("1 view x 1 crop"))
    assert other.data.tags["origin_run_id"] == fit.info.run_id
    assert other.info.status == "FINISHED"
    assert 0 <= other.data.metrics["test/top1"] <= 1
    assert scored(trained, "--data.fit=squash", "--data.crops=1") == 0
    assert len(runs(store, "ucf101")) == 3


@pytest.mark.parametrize("command", ["test", "validate"])
def test_another_fold_is_refused(trained, monkeypatch, capfd, command):
    monkeypatch.chdir(trained.parents[2])
    assert scored(trained, "--data.fold=2", command=command) == 2
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "error" in line]  # Lightning may say more
    assert "was trained on fold 1 of ucf101 (official); videos that fold 2 scores on were among its training" in line
    assert "Give --data.fold 1, or a checkpoint trained on fold 2." in line


def test_another_fold_is_predicted_all_the_same(trained, monkeypatch, tmp_path):
    monkeypatch.chdir(trained.parents[2])
    assert scored(trained, "--data.fold=2", f"--output={tmp_path / 'table.csv'}", command="predict") == 0
    assert len((tmp_path / "table.csv").read_text().splitlines()) == 1 + 3 * 9  # videos, views x crops


def test_broken_videos_are_listed_one_a_line(trained, root, monkeypatch, tmp_path, capfd):
    monkeypatch.chdir(trained.parents[2])
    shutil.copytree(root.parent, tmp_path / "copy")
    broken = sorted((tmp_path / "copy").rglob("*_g01_c01.avi"))
    for path in broken:
        path.write_bytes(b"no video")
    assert scored(trained, f"--data.root={tmp_path / 'copy' / root.name}") == 2
    first, *listed, advice = capfd.readouterr().err.split("skip-sideways: error: ")[1].splitlines()
    assert first.startswith("3 videos of the test split cannot be used")
    assert [line.split(":")[:2] for line in listed] == [["  broken", f" {p.parent.name}/{p.name}"] for p in broken]
    assert advice.startswith("Mend them")


LAYOUT = {
    "dataset": "weizmann", "split": "leave-one-person-out", "fold": "0", "data_hash": "a", "rule": "sideways",
    "views": "1 view", "id_hash": "b", "git_sha": "c",
}  # fmt: skip
SCORED = {"size": 32, "fit": "crop", "background": "none"}
CARD = {"run_id": "r", "layout": LAYOUT, "scored": SCORED}
# As written before the arguments were kept: no views and no id_hash, but what its clips look like.
OLD = {
    "run_id": "r",
    "layout": {key: LAYOUT[key] for key in ("dataset", "split", "fold", "data_hash", "rule")},
    "data": {"class_names": ["x"], "views": 1, "clip_options": {"size": 32, "fit": "crop", "decoder": "pyav"}},
}


@pytest.mark.parametrize("card", [CARD, OLD])
@pytest.mark.parametrize("change", [{"data_hash": "z"}, {"rule": "backprop"}, {"fold": "1"}])
def test_other_videos_or_another_rule_are_another_score(card, change):
    assert same_score(card, LAYOUT, SCORED)
    assert not same_score(card, LAYOUT | change, SCORED)
    assert not same_score(card, LAYOUT, SCORED | {"size": 48})


@pytest.mark.parametrize("change", [{"views": "3 views"}, {"id_hash": "z"}])
def test_what_a_checkpoint_does_not_know_is_not_compared(change):
    assert not same_score(CARD, LAYOUT | change, SCORED)
    assert same_score(OLD, LAYOUT | change, SCORED | {"background": "mean"})
    assert not same_score(OLD, LAYOUT, SCORED | {"views": 3})


def test_what_changes_no_score():
    assert scored_arguments({"root": "/a", "decoder": "pyav", "cache": "disk", "num_workers": 2} | SCORED) == SCORED


def test_an_evaluation_is_of_weights_data_and_code():
    same = evaluation_id(CARD, 3, LAYOUT, SCORED)
    assert same == evaluation_id(CARD, 3, LAYOUT | {"device": "another"}, dict(SCORED))
    others = [
        evaluation_id(CARD, 4, LAYOUT, SCORED),
        evaluation_id(CARD, 3, LAYOUT | {"git_sha": "d"}, SCORED),
        evaluation_id(CARD, 3, LAYOUT, SCORED | {"size": 48}),
    ]
    assert len({same, *others}) == 4


def test_folds_and_random_splits_of_the_same_classes_are_refused_and_other_data_is_not(tmp_path):
    refuse_seen_videos(tmp_path, OLD, LAYOUT, SCORED, ["x"])
    with pytest.raises(ValueError, match=r"fold 0 of weizmann \(leave-one-person-out\).*--data\.fold 0"):
        refuse_seen_videos(tmp_path, OLD, LAYOUT | {"fold": "4"}, SCORED, ["x"])
    refuse_seen_videos(tmp_path, OLD, LAYOUT | {"fold": "4"}, SCORED, ["my own"])
    refuse_seen_videos(tmp_path, OLD, LAYOUT | {"fold": "4", "dataset": "ucf101"}, SCORED, ["x"])
    seeded = CARD | {"scored": SCORED | {"split_seed": 0}}
    with pytest.raises(ValueError, match=r"trained on split_seed 0 .*--data\.split_seed 0"):
        refuse_seen_videos(tmp_path, seeded, LAYOUT, SCORED | {"split_seed": 1}, ["x"])
    held_out = CARD | {"scored": SCORED | {"val_fraction": 0.0}}
    more = SCORED | {"val_fraction": 0.1}
    refuse_seen_videos(tmp_path, held_out, LAYOUT, more, ["x"], "test")  # the test is the same
    with pytest.raises(ValueError, match=r"trained on val_fraction 0\.0 .*--data\.val_fraction 0\.0"):
        refuse_seen_videos(tmp_path, held_out, LAYOUT, more, ["x"], "validate")


def test_the_card_keeps_the_arguments_as_plain_values(trained):
    card = torch.load(trained, weights_only=True)["skip_sideways"]
    assert {name: card["scored"][name] for name in ("views", "crops", "fps", "size")} == {
        "views": 3,
        "crops": 3,
        "fps": 12.5,
        "size": 16,
    }
    assert not {"root", "decoder", "cache"} & card["scored"].keys()
