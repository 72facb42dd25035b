"""Checkpoint files: whole or not at all, plain data only, and one clear error for any other file."""

import errno
import resource

import pytest
import torch
from launch import checkpoint, fit, options

from app.checkpoint_io import RunCheckpointIO, check_identity, identity, read_checkpoint, write_atomically
from app.cli import main

CARD = {"schema": 1, "run_id": "r", "identity": {"network": "vgg8", "wiring": "chain", "num_classes": 4}}
STATE = {"state_dict": {"w": torch.arange(1000.0)}}


@pytest.fixture(scope="module")
def trained(tmp_path_factory, mlflow_template):
    """The folder of one tiny finished run."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "mlflow.db").write_bytes(mlflow_template.read_bytes())
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        fit(trainer={"max_epochs": 1}, checkpoint={"every_n_train_steps": 3})
    return folder


@pytest.fixture
def there(trained, monkeypatch):
    monkeypatch.chdir(trained)
    (path,) = trained.glob("runs/*/last.ckpt")
    return path


def refused(argv, capfd) -> str:
    assert main(argv) == 2
    return capfd.readouterr().err.splitlines()[-1]


def test_everything_in_it_is_plain(there):
    content = checkpoint(there.parents[2])  # loads with weights_only=True
    assert {"state_dict", "optimizer_states", "lr_schedulers", "loops", "callbacks", "skip_sideways"} <= content.keys()
    assert content["loops"]["fit_loop"]["state_dict"]["combined_loader"][0]["batches"] == 10
    assert content["video_task"]["frames_seen"] == 10 * 4 * 10
    assert content["callbacks"]["RandomState"].keys() == {"torch", "cuda", "numpy", "python"}
    assert content["skip_sideways"]["identity"]["network"] == "small_cnn"


def test_test_and_predict_from_a_file_take_the_configuration_beside_it(there, capfd, tmp_path):
    assert main(["test", f"--ckpt_path={there}", "--trainer.enable_progress_bar=false"]) == 0
    assert "test/top1" in capfd.readouterr().out
    table = tmp_path / "table.csv"
    argv = ["predict", f"--ckpt_path={there}", f"--output={table}", "--top_k=2", "--trainer.enable_progress_bar=false"]
    assert main(argv) == 0
    assert f"8 predictions written to {table}" in capfd.readouterr().out
    head, *rows = table.read_text().splitlines()
    assert head == "clip_id,label,class_1,probability_1,class_2,probability_2"
    assert len(rows) == 8
    clip, label, first, p1, second, p2 = rows[0].split(",")
    assert "@" in clip
    assert {label, first, second} <= {"right", "down", "left", "up"}
    assert 1 >= float(p1) >= float(p2) >= 0


def test_a_damaged_file(there, capfd, tmp_path):
    cut = tmp_path / "cut.ckpt"
    cut.write_bytes(there.read_bytes()[:5000])
    assert "cut.ckpt is damaged or no checkpoint" in refused([*options("test"), f"--ckpt_path={cut}"], capfd)


def test_a_foreign_file(there, capfd, tmp_path):
    foreign = tmp_path / "foreign.ckpt"
    torch.save({"state_dict": {}}, foreign)
    assert "was not written by skip-sideways" in refused([*options(), f"--ckpt_path={foreign}"], capfd)


class Evil:
    """Unpickling it would run code."""


def test_a_file_with_objects_is_not_loaded(there, capfd, tmp_path):
    evil = tmp_path / "evil.ckpt"
    torch.save({"state_dict": {}, "skip_sideways": Evil()}, evil)
    assert "holds objects other than tensors" in refused([*options(), f"--ckpt_path={evil}"], capfd)


def test_another_network_names_the_flags_to_give(there, capfd):
    line = refused([*options(model={"wiring": "dense", "depth": 5}), f"--ckpt_path={there}"], capfd)
    assert "wiring chain (configured: dense)" in line
    assert "Add --model.wiring chain --model.depth 4" in line


@pytest.mark.parametrize(("option", "given"), [("pool", "max"), ("activation", "silu")])
def test_weights_mean_the_same_only_with_the_same_pooling_and_activation(there, capfd, option, given):
    line = refused([*options("test", model={option: given}), f"--ckpt_path={there}"], capfd)
    assert f"(configured: {given}). Add --model.{option} " in line


def test_a_file_without_its_configuration_says_so(there, capfd, tmp_path):
    alone = tmp_path / "alone.ckpt"
    alone.write_bytes(there.read_bytes())
    assert "no config.yaml stands beside it" in refused(["test", f"--ckpt_path={alone}"], capfd)
    alone.write_text("not a checkpoint")
    assert "is damaged or no checkpoint" in refused(["test", f"--ckpt_path={alone}"], capfd)


def test_other_classes_name_the_data():
    mine = identity({"network": "vgg8", "wiring": "chain", "lr": 3}, num_classes=10, in_channels=3)
    assert mine == {"network": "vgg8", "wiring": "chain", "num_classes": 10, "in_channels": 3}
    with pytest.raises(ValueError, match=r"num_classes 4 \(configured: 10\).*Choose the --data it was trained on"):
        check_identity("x.ckpt", CARD, mine)
    with pytest.raises(ValueError, match=r"Choose the --data it was trained on\. Add --model\.wiring chain, or leave"):
        check_identity("x.ckpt", CARD, mine | {"wiring": "dense"})


def test_weights_alone_do_not_continue_a_training(there, capfd):
    line = refused([*options(trainer={"max_epochs": 2}), f"--ckpt_path={there.with_name('best.ckpt')}"], capfd)
    assert "weights only" in line
    assert "last.ckpt" in line


def test_a_new_start_keeps_the_last_checkpoint_of_the_run_before(there, monkeypatch):
    before = there.read_bytes()
    fit(trainer={"max_epochs": 1, "limit_train_batches": 2})
    assert there.with_name("previous.ckpt").read_bytes() == before


def test_a_failed_write_leaves_the_last_file_whole(tmp_path):
    path = tmp_path / "last.ckpt"
    RunCheckpointIO(CARD).save_checkpoint(STATE, path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, hard))  # the system refuses to write more, as a full disk does
    try:
        with pytest.raises(ValueError, match=r"could not be written .* is whole.* --ckpt_path last"):
            RunCheckpointIO(CARD).save_checkpoint({"state_dict": {"w": torch.zeros(1000)}}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert torch.equal(read_checkpoint(path)["state_dict"]["w"], STATE["state_dict"]["w"])
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("app.checkpoint_io.os.fsync", full)
    with pytest.raises(ValueError, match=r"the disk is full\. There is none yet\. Free space"):
        RunCheckpointIO(CARD).save_checkpoint(STATE, tmp_path / "last.ckpt")


def test_a_write_cut_off_before_the_rename_is_not_seen(tmp_path, monkeypatch):
    path = tmp_path / "last.ckpt"
    write_atomically({**STATE, "skip_sideways": CARD}, path)

    def cut(content, file):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("app.checkpoint_io.torch.save", cut)
    with pytest.raises(KeyboardInterrupt):
        write_atomically({"state_dict": {}, "skip_sideways": CARD}, path)
    monkeypatch.undo()
    assert torch.equal(read_checkpoint(path)["state_dict"]["w"], STATE["state_dict"]["w"])
