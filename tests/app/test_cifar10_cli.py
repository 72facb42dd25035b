"""CIFAR10 on the command line: verify, fit, test and a comparison, on a small set of the official form."""

import hashlib
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from launch import checkpoint, runs

import app
import app.checkpoint_io as checkpoint_io
import datamodules
from app.cli import main
from datamodules import cifar10_files
from datamodules.cifar10_files import BINARY, PYTHON
from tests.datamodules import cifar10_miniature as miniature


def verify(capsys, *argv):
    status = main(["data", "verify", "cifar10", *map(str, argv)])
    return status, capsys.readouterr()


@pytest.fixture
def official(monkeypatch):
    """Take the small sets as the official ones: their sums and counts."""
    monkeypatch.setattr(cifar10_files, "OFFICIAL_IMAGES", {"train": 60, "test": 10})
    content = miniature.contents(PYTHON)
    for name, data in content.items():
        monkeypatch.setitem(PYTHON.md5, name, hashlib.md5(data).hexdigest())
    return content


def rows(text):
    return {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.strip()}


def whole(root):
    """Write the set with a test file of ten images, one of each class."""
    folder = miniature.write(root)
    batch = {"labels": list(range(10)), "data": miniature.pixels()[5][:10]}
    (folder / "test_batch").write_bytes(miniature.python2_pickle(batch))
    return folder


def test_a_whole_set_is_said_to_be_whole(tmp_path, official, monkeypatch, capsys):
    folder = whole(tmp_path)
    content = (folder / "test_batch").read_bytes()
    monkeypatch.setitem(PYTHON.md5, "test_batch", hashlib.md5(content).hexdigest())
    status, said = verify(capsys, "--root", tmp_path)
    assert status == 0
    assert "complete and whole" in said.out
    found = rows(said.out)
    assert found["data_batch_1"] == [f"{len(official['data_batch_1']):,}", "official", "12"]
    assert found["cat"] == ["6", "1"]
    assert found["all"] == ["60", "10"]


def test_every_fault_is_listed_at_once(tmp_path, official, capsys):
    folder = miniature.write(tmp_path)
    (folder / "data_batch_1").unlink()
    (folder / "data_batch_2").write_bytes(b"nothing")
    changed = bytearray(official["data_batch_3"])
    changed[-200] ^= 1
    (folder / "data_batch_3").write_bytes(changed)
    status, said = verify(capsys, "--root", tmp_path)
    assert status == 1
    assert "missing data_batch_1" in said.out
    assert "broken  data_batch_2 is no pickle" in said.out
    assert (
        f"md5     data_batch_3: {hashlib.md5(changed).hexdigest()}, official {PYTHON.md5['data_batch_3']}" in said.out
    )
    assert "count   train: 3 of cat, expected 6" in said.out
    assert "complete" not in said.out


def test_an_archive_is_checked_as_a_file_and_by_what_it_holds(tmp_path, official, monkeypatch, capsys):
    archive = miniature.write_archive(tmp_path)
    status, said = verify(capsys, "--root", tmp_path)
    found = rows(said.out)
    assert status == 1
    assert found[PYTHON.archive] == [f"{archive.stat().st_size:,}", "differs"]
    assert found["data_batch_5"][1:] == ["official", "12"]
    archive.write_bytes(archive.read_bytes()[:-500])
    status, said = verify(capsys, "--root", tmp_path)
    assert status == 1
    assert "broken  cifar10:" in said.out


def test_the_binary_version_has_no_sums_of_single_files(tmp_path, capsys):
    miniature.write(tmp_path, BINARY)
    status, said = verify(capsys, "--root", tmp_path)
    assert status == 1
    assert rows(said.out)["data_batch_1.bin"][1:] == ["no", "official", "12"]
    assert "count   test: 2 of airplane, expected 1,000" in said.out


def test_a_root_without_the_set_is_one_line(tmp_path, capsys):
    status, said = verify(capsys, "--root", tmp_path)
    assert status == 2
    assert "cifar-10-python.tar.gz" in said.err
    assert said.err.count("\n") == 1


@pytest.mark.parametrize("option", [["--fold=1"], ["--quick"], ["--again"], ["--jobs=2"], ["--min-frames=3"]])
def test_options_of_videos_are_refused(option, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        verify(capsys, "--root", tmp_path, *option)
    assert stop.value.code == 2
    assert f"{option[0].split('=')[0]} is for videos" in capsys.readouterr().err


QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.accelerator=cpu"]
MODEL = ["--model.depth=3", "--model.width=0.125", "--model.rule=backprop_frame"]


def test_a_fit_and_a_test_run_and_the_run_says_what_was_found(tmp_path, tmp_cwd, mlflow_store):
    miniature.write(tmp_path / "set")
    data = ["--data=CIFAR10", f"--data.root={tmp_path / 'set'}", "--data.batch_size=10", "--data.val_images=10"]
    assert main(["fit", *data, *MODEL, *QUIET, "--trainer.max_epochs=2"]) == 0
    assert checkpoint(tmp_cwd)["global_step"] == 10
    (path,) = tmp_cwd.glob("runs/*/last.ckpt")
    assert main(["test", f"--ckpt_path={path}", "--trainer.enable_progress_bar=false"]) == 0
    (run,) = runs(mlflow_store, "cifar10")
    assert run.data.tags["data_found"] == "50 train, 10 val, 12 test"
    assert run.data.tags["data_expected"] == "49990 train, 10 val, 10000 test"
    right = run.data.metrics["test/top1"] * 12
    assert right == pytest.approx(round(right), abs=1e-4)


def test_a_run_that_was_stopped_in_the_middle_of_an_epoch_ends_with_the_same_weights(tmp_path, tmp_cwd, monkeypatch):
    miniature.write(tmp_path / "set")
    argv = ["fit", "--data=CIFAR10", f"--data.root={tmp_path / 'set'}", "--data.batch_size=10", "--data.val_images=10"]
    argv += [*MODEL, *QUIET, "--trainer.max_epochs=2", "--trainer.logger=false", "--checkpoint.every_n_train_steps=1"]
    write = checkpoint_io.write_atomically

    def write_and_keep(content, path):
        write(content, path)
        if path.name == "last.ckpt" and content["global_step"] == 7:
            shutil.copy(path, tmp_cwd / "step7.ckpt")

    monkeypatch.setattr(checkpoint_io, "write_atomically", write_and_keep)
    assert main(argv) == 0
    whole = checkpoint(tmp_cwd)["state_dict"]
    assert main([*argv, f"--ckpt_path={tmp_cwd / 'step7.ckpt'}"]) == 0
    continued = checkpoint(tmp_cwd)["state_dict"]
    started = torch.load(tmp_cwd / "step7.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(continued[name], value) for name, value in whole.items())
    assert any(not torch.equal(started[name], value) for name, value in whole.items())


def test_a_rule_that_moves_frames_up_a_unit_a_tick_is_refused_with_what_to_use(tmp_path, tmp_cwd, capfd):
    miniature.write(tmp_path)
    data = ["--data=CIFAR10", f"--data.root={tmp_path}", "--data.val_images=10", "--trainer.logger=false"]
    assert main(["fit", *data, "--model.rule=sideways", "--model.depth=3", *QUIET]) == 2
    line = capfd.readouterr().err.splitlines()[-1]
    assert "at least 5" in line
    assert "--model.rule backprop_frame" in line


def test_the_configuration_makes_the_data(tmp_path):
    config = yaml.safe_load((Path(app.__file__).parent / "configs" / "data" / "cifar10.yaml").read_text())["data"]
    folder = miniature.write(tmp_path)
    data = getattr(datamodules, config["class_path"])(**config["init_args"] | {"root": str(folder)})
    assert (data.val_images, data.augment, data.source.place) == (5000, "standard", folder)
