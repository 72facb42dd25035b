"""From an archive to the number: each standard dataset trains, is scored, predicted and compared, on small archives."""

import csv
import json

import pytest
import torch

import datamodules
from app.cli import main
from tests.datamodules import miniature

SMALL = ["--data.frames=12", "--data.size=16", "--data.batch_size=2"]
MODEL = ["--model.network=small_cnn", "--model.depth=3", "--model.width=0.25", "--model.rule=sideways"]
TRAINER = ["--trainer.max_steps=3", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    names = ("ucf101", "hmdb51", "kinetics600")
    return {name: getattr(miniature, name)(tmp_path_factory.mktemp(name)) for name in names}


CLASSES = {"ucf101": "UCF101", "hmdb51": "HMDB51", "kinetics600": "Kinetics600"}


def run(subcommand, name, root, *extra):
    data = [f"--data={CLASSES[name]}", f"--data.root={root}", *SMALL]
    return main([subcommand, *data, *MODEL, *TRAINER, *extra])


def runs_of(uri):
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    return client.search_runs([e.experiment_id for e in client.search_experiments()], "tags.kind = 'run'")


COUNTS = {
    "ucf101": ("9 train, 3 test", "9 train, 3 test"),
    "hmdb51": ("5 train, 3 test", "5 train, 3 test"),
    "kinetics600": ("6 train, 4 test", "6 train, 5 test"),
}


@pytest.mark.parametrize("name", CLASSES)
def test_fit_and_test_leave_a_number_with_its_videos_beside_it(name, roots, tmp_cwd, mlflow_store):
    """A fit ends with three updates and a checkpoint; the test of it lands in the same run."""
    assert run("fit", name, roots[name], "--data.fps=20", "--data.views=2", "--data.cache=none") == 0
    assert run("test", name, roots[name], "--data.fps=20", "--data.views=2", "--ckpt_path=last") == 0
    (stored,) = runs_of(mlflow_store)
    tags = stored.data.tags
    assert 0 <= stored.data.metrics["test/top1"] <= 1
    assert (tags["dataset"], tags["data_found"], tags["data_expected"]) == (name, *COUNTS[name])
    assert len(tags["id_hash"]) == 16
    assert tags["views"] == "2 views x 1 crop of 12 frames at 20 fps"


def test_clips_carry_the_official_labels(roots):
    """Videos of the n-th class are grey level 60 n: what is decoded belongs to the label of the list."""
    data = datamodules.UCF101(root=str(roots["ucf101"]), frames=4, size=16, batch_size=12, flip=False)
    data.setup()
    for loader, count in ((data.train_dataloader(), 9), (data.test_dataloader(), 3)):
        (batch,) = list(loader)
        darkest = batch["video"].flatten(1).float().quantile(0.25, dim=1)
        assert len(darkest) == count
        assert torch.equal((darkest / 60).floor().long(), batch["label"])


def test_an_untrimmed_video_is_cut_to_its_range(roots):
    data = datamodules.Kinetics600(root=str(roots["kinetics600"]), frames=4, size=16)
    data.setup("test")
    ((_, video),) = [(v.video_id, v) for v in data.videos["test"] if v.video_id.startswith(miniature.UNTRIMMED)]
    assert video.frames == 250


def test_a_dataset_of_links_is_the_dataset(roots, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = roots["ucf101"]
    for file in root.rglob("*.avi"):
        link = tmp_path / "links" / file.name
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(file)
    original = datamodules.UCF101(root=str(root))
    linked = datamodules.UCF101(root=str(tmp_path / "links"), splits=str(root.parent), frames=4, size=16)
    assert (linked.id_hash, linked.data_hash, linked.found) == (original.id_hash, original.data_hash, original.found)
    linked.setup("test")
    assert len(list(linked.test_dataloader())) == 1


def test_the_unlabelled_test_list_is_predicted_and_not_scored(roots, tmp_cwd, mlflow_store, capfd):
    root = roots["kinetics600"]
    assert run("fit", "kinetics600", root) == 0
    (checkpoint,) = tmp_cwd.rglob("last.ckpt")
    official = ["--data.test_split=test", f"--ckpt_path={checkpoint}"]
    assert run("test", "kinetics600", root, *official) == 2
    assert "the test list has no labels" in capfd.readouterr().err
    assert run("predict", "kinetics600", root, *official) == 0
    (table,) = tmp_cwd.rglob("predictions.csv")
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert {row["clip_id"].split("@")[0] for row in rows} == {
        f"{name}_{start:06d}_{end:06d}" for _, name, start, end in miniature.KINETICS_TEST
    }


def test_kinetics_without_a_training_list_says_so(roots, tmp_path):
    lists = roots["kinetics600"] / "annotations"
    (tmp_path / "val.csv").write_text((lists / "kinetics-600_val.csv").read_text())
    data = datamodules.Kinetics600(root=str(roots["kinetics600"]), splits=str(tmp_path), frames=4, size=16)
    with pytest.raises(ValueError, match=r"kinetics600: there is no training list: .*--data\.train_list FILE"):
        data.setup("fit")


def test_the_real_clips_of_the_standard_sets(real_data, tmp_path, monkeypatch):
    """Single original files: HMDB51's header frames, a whole Kinetics clip named by its id alone, 240 to 320 lines."""
    monkeypatch.chdir(tmp_path)
    clips = real_data / "clips"
    ucf = datamodules.UCF101(root=str(clips / "ucf101"), allow_missing=True, frames=16, size=32, fps=25)
    hmdb = datamodules.HMDB51(root=str(clips / "hmdb51"), fold=3, allow_missing=True, frames=16, size=32, fps=25)
    k400 = datamodules.Kinetics400(root=str(clips / "kinetics400"), frames=16, size=32, fps=25)
    for data, split, count in ((ucf, "train", 2), (ucf, "test", 3), (hmdb, "train", 3), (k400, "test", 3)):
        data.setup("test" if split == "test" else None)
        assert len(data.videos[split]) == data.found[split] == count
        (batch,) = list(data.train_dataloader() if split == "train" else data.test_dataloader())
        assert batch["video"].shape[1:] == (16, 3, 32, 32)
        assert (batch["length"] == 16).all()
    assert {data.class_names[data.listing.splits[s][0].label] for data, s in ((hmdb, "train"), (k400, "test"))} == {
        "wave",
        "using segway",
    }


@pytest.mark.slow
def test_compare_gives_the_mean_over_the_three_folds(roots, tmp_cwd, mlflow_store):
    experiment = {
        "trainer": {"max_steps": 2, "accelerator": "cpu"},
        "model": {"class_path": "ActionRecognition", "init_args": {"depth": 3, "width": 0.25, "rule": "sideways"}},
        "data": {"class_path": "UCF101", "init_args": {"root": str(roots["ucf101"]), "frames": 12, "size": 16}},
    }
    comparison = {
        "name": "mini", "intent": "three folds", "experiment": experiment, "control": "sideways",
        "folds": [1, 2, 3], "rows": [{"name": "sideways"}],
    }  # fmt: skip
    (tmp_cwd / "mini.yaml").write_text(json.dumps(comparison))
    assert main(["compare", "--config", "mini.yaml", "--jobs", "1", "--output", "out"]) == 0
    stored = runs_of(mlflow_store)
    assert sorted(r.data.tags["fold"] for r in stored) == ["1", "2", "3"]
    assert len({r.data.tags["id_hash"] for r in stored}) == 3
    (first, *_) = json.loads((tmp_cwd / "out" / "results.json").read_text())["rows"]
    (tags,) = [r.data.tags for r in stored if r.info.run_id == first["run_id"]]
    for name in ("views", "id_hash", "data_found", "data_expected"):
        assert first[name] == tags[name]
    assert "- Test: 1 view x 1 crop of 12 frames\n" in (tmp_cwd / "out" / "results.md").read_text()
    mean = sum(r.data.metrics["test/top1"] for r in stored) / 3
    assert f"{mean:.3f}" in (tmp_cwd / "out" / "results.md").read_text()
