"""CIFAR-10's files: every version gives the same images, a pickle cannot run anything, and errors say what to get."""

import hashlib
import pickle
import pickletools
import shutil

import numpy as np
import pytest

from datamodules.cifar10_files import ADDRESS, BINARY, FORMS, PYTHON, find, read
from datamodules.cifar10_pickles import read_batch, read_plain
from tests.datamodules import cifar10_miniature as miniature


def expected():
    data = miniature.pixels().reshape(6, -1, 3, 32, 32)
    return data[:5].reshape(-1, 3, 32, 32), np.arange(60) % 10, data[5], np.arange(60, 72) % 10


def check(images):
    for got, value in zip((*images.train, *images.test), expected(), strict=True):
        assert (got == value).all()
    assert images.train[0].dtype == np.uint8
    assert images.train[1].dtype == np.int64


def test_the_miniature_is_written_as_python_2_did():
    assert hashlib.md5(miniature.meta(10_000)).hexdigest() == PYTHON.md5["batches.meta"]  # byte for byte the official
    opcodes = {opcode.name for opcode, _, _ in pickletools.genops(miniature.contents(PYTHON)["data_batch_1"])}
    assert {"SHORT_BINSTRING", "BINSTRING", "GLOBAL", "REDUCE", "BUILD"} <= opcodes
    assert not opcodes & {"BINUNICODE", "BINBYTES", "SHORT_BINBYTES", "STACK_GLOBAL"}
    content = pickle.loads(miniature.contents(PYTHON)["test_batch"], encoding="bytes")
    assert set(content) == {b"batch_label", b"labels", b"data", b"filenames"}
    assert (content[b"data"] == miniature.pixels()[5]).all()


@pytest.mark.parametrize("form", FORMS, ids=["python", "binary"])
def test_all_places_and_versions_give_the_same_images(form, tmp_path):
    folder = miniature.write(tmp_path / "unpacked", form)
    archive = miniature.write_archive(tmp_path / "packed", form)
    for root in (folder, folder.parent, archive, archive.parent):
        source = find(root)
        assert source.form is form
        assert source.packed == (root in (archive, archive.parent))
        check(read(source))


def test_arrays_in_the_order_of_columns_are_read_as_well(tmp_path):
    check(read(find(miniature.write(tmp_path, order="F"))))


def test_an_unpacked_folder_counts_before_an_archive(tmp_path):
    miniature.write_archive(tmp_path)
    assert find(tmp_path).packed
    folder = miniature.write(tmp_path, BINARY)
    assert find(tmp_path).place == folder


def test_files_that_changed_are_read_again_and_others_are_not(tmp_path):
    folder = miniature.write(tmp_path)
    first = read(find(folder))
    assert read(find(folder)) is first
    shutil.copy(folder / "data_batch_1", folder / "test_batch")
    assert (read(find(folder)).test[1] == np.arange(12) % 10).all()


class Exploit:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize(
    "value",
    [
        Exploit(exec, "raise SystemExit"),
        Exploit(np.frombuffer, b"0"),
        Exploit(np.array, [1]),
        {"data": Exploit(getattr, "x", "upper"), "labels": []},
        {"data": Exploit(np.dtype, "O"), "labels": []},
        {"data": np.array([{}], dtype=object), "labels": []},
        {"data": np.zeros((1, 3072), dtype=np.float32), "labels": [0]},
        np.float64(1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_pickle_that_asks_for_anything_but_arrays_of_bytes_is_refused(value, protocol):
    with pytest.raises(ValueError, match="no pickle of plain values"):
        read_batch(pickle.dumps(value, protocol=protocol))


def test_nothing_that_a_pickle_names_is_run(tmp_path):
    trace = tmp_path / "trace"
    with pytest.raises(ValueError, match=r"asks for .*\.mkdir; the official files ask for arrays of bytes alone"):
        read_plain(pickle.dumps(Exploit(__import__("os").mkdir, str(trace)), protocol=2))
    assert not trace.exists()


def test_a_damaged_pickle_is_an_error_wherever_it_ends():
    content = miniature.contents(PYTHON)["data_batch_1"]
    for length in (*range(0, 300, 7), len(content) // 2, len(content) - 1):
        with pytest.raises(ValueError, match=r"no pickle|expected|damaged"):
            read_batch(content[:length])


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ([1], "holds a list"),
        ({"data": 3, "labels": [0]}, "holds data, labels; expected an array"),
        ({"data": np.zeros((2, 3072), np.uint8), "fine_labels": [0, 1]}, "holds data, fine_labels"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [0]}, "and 1 labels"),
        ({"data": np.zeros((2, 3071), np.uint8), "labels": [0, 1]}, "N x 3072"),
        ({"data": np.zeros((0, 3072), np.uint8), "labels": []}, "at least one"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [0, 10]}, "the label 10"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [0, "cat"]}, "the label b'cat'"),
    ],
)
def test_other_contents_are_named(batch, message):
    with pytest.raises(ValueError, match=message):
        read_batch(miniature.python2_pickle(batch))


def test_a_missing_set_is_one_error_that_says_what_to_get(tmp_path):
    for root, seen in ((tmp_path / "no", "no such folder"), (tmp_path, "it is empty")):
        with pytest.raises(ValueError, match=seen) as error:
            find(root)
        said = str(error.value)
        assert ADDRESS in said
        assert "c58f30108f718f92721af3b95e74349a" in said
        assert all(name in said for form in FORMS for name in (form.folder, form.archive))
    (tmp_path / "UCF-101").mkdir()
    with pytest.raises(ValueError, match="it holds UCF-101"):
        find(tmp_path)


@pytest.mark.parametrize("form", FORMS, ids=["python", "binary"])
def test_files_that_are_missing_or_damaged_are_named(form, tmp_path):
    folder = miniature.write(tmp_path, form)
    (folder / form.images[2]).unlink()
    (folder / form.meta).rename(tmp_path / "kept")
    with pytest.raises(ValueError, match=rf"lacks {form.images[2]}, {form.meta}\. Get https.*data verify cifar10"):
        read(find(folder))
    (tmp_path / "kept").rename(folder / form.meta)
    (folder / form.images[2]).write_bytes(b"\x80\x02}q\x00.")
    with pytest.raises(ValueError, match=rf"{form.folder}/{form.images[2]} (holds nothing|has 6 bytes)"):
        read(find(folder))


def test_other_classes_are_refused(tmp_path):
    folder = miniature.write(tmp_path, BINARY)
    (folder / BINARY.meta).write_text("apple\nbear\n")
    with pytest.raises(ValueError, match="names the classes apple, bear; expected airplane"):
        read(find(folder))


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"no archive", lambda b: b[:40] + b"x" * 99])
def test_a_damaged_archive_says_which_sum_it_should_have(damage, tmp_path):
    archive = miniature.write_archive(tmp_path)
    archive.write_bytes(damage(archive.read_bytes()))
    with pytest.raises(ValueError, match=r"cannot be read.*c58f30108f718f92721af3b95e74349a; get it again"):
        read(find(tmp_path))
