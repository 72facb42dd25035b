"""Digits pixel by pixel: the real images' pixels in one order, the class at the end; MNIST's files where given."""

import gzip

import numpy as np
import pytest
import torch
from long_stream_rules import lanes_of, whole

from datamodules import DigitSequences
from datamodules.digit_clips import digit_images, digit_split
from datamodules.digit_sequences import pixel_order
from datamodules.idx_files import FILES, read_idx


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()


def write_mnist(folder, *, packed=False, train=36, test=8):
    """Write four small files of random images of 28 x 28 pixels; return them by name."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    made = {}
    for split, count in (("train", train), ("test", test)):
        images, labels = FILES[split]
        made[images] = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        made[labels] = (np.arange(count) % 10).astype(np.uint8)
    for name, array in made.items():
        if packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
        else:
            (folder / name).write_bytes(idx(array))
    return made


def test_a_stream_is_an_image_in_the_order_of_its_rows():
    x, y = whole(lanes_of(DigitSequences(gap=3, permute=False)))
    images, classes = digit_images()
    first = np.sort(np.concatenate(digit_split("test")))[:5]
    torch.testing.assert_close(x[:, :64, 0], torch.from_numpy(images[first].reshape(5, 64)))
    assert not x[:, 64:, 0].any()
    assert torch.equal(x[..., 1], torch.eye(67)[66].expand(5, 67))
    assert y[:, -1].tolist() == classes[first].tolist()
    assert (y[:, :-1] == 10).all()


def test_permuted_pixels_are_the_same_ones_in_one_order():
    plain, _ = whole(lanes_of(DigitSequences(permute=False), count=300))
    mixed, _ = whole(lanes_of(DigitSequences(), count=300))
    assert torch.equal(mixed[:, :, 0], plain[:, pixel_order(64), 0])
    assert sorted(pixel_order(64).tolist()) == list(range(64))
    assert pixel_order(64)[:5].tolist() == [10, 22, 60, 4, 58], "every release reads them in this order"


def test_splits_are_whole_and_disjoint():
    data = DigitSequences()
    assert data.found == {"train": 1195, "val": 298, "test": 304}
    data.batch_size, data.rollout = 5, 0
    loader = data.train_dataloader()
    streams = [name for batch in loader for name in batch["lanes"].ids]
    assert len(streams) == len(set(streams)) == 1195


def test_fewer_streams_and_too_many():
    assert DigitSequences(train_streams=20, test_streams=9).found == {"train": 20, "val": 298, "test": 9}
    with pytest.raises(ValueError, match=r"val_streams 299: there are 298.*--data.val_streams 298"):
        DigitSequences(val_streams=299)
    with pytest.raises(ValueError, match="gap -1"):
        DigitSequences(gap=-1)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("below", [".", "MNIST/raw"])
def test_mnist_is_read_from_its_files(tmp_path, packed, below):
    made = write_mnist(tmp_path / below, packed=packed)
    data = DigitSequences(root=str(tmp_path), permute=False)
    assert data.found == {"train": 33, "val": 3, "test": 8}
    assert (data.steps, data.dataset_name) == (784, "sequential_mnist")
    x, y = whole(lanes_of(data))
    pixels = made[FILES["test"][0]][:5].reshape(5, 784)
    torch.testing.assert_close(x[..., 0], torch.from_numpy(pixels).float() / 255)
    assert y[:, -1].tolist() == [0, 1, 2, 3, 4]
    held_out, _ = whole(lanes_of(data, "val", count=3))
    torch.testing.assert_close(held_out[0, :, 0] * 255, torch.from_numpy(made[FILES["train"][0]][33].reshape(-1)) * 1.0)


def test_the_hash_is_of_the_images(tmp_path):
    write_mnist(tmp_path / "one")
    write_mnist(tmp_path / "packed", packed=True)
    write_mnist(tmp_path / "more", train=48)
    one, packed, more = (DigitSequences(root=str(tmp_path / name)).data_hash for name in ("one", "packed", "more"))
    assert one == packed != more


def test_a_missing_file_is_named_with_what_is_expected(tmp_path):
    write_mnist(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(ValueError, match=r"has no t10k-labels-idx1-ubyte, nor .*gz.*MNIST's four files.*--data.root"):
        DigitSequences(root=str(tmp_path))


@pytest.mark.parametrize("packed", [False, True])
def test_a_file_cut_short_is_named(tmp_path, packed):
    write_mnist(tmp_path, packed=packed)
    path = tmp_path / ("train-images-idx3-ubyte" + (".gz" if packed else ""))
    path.write_bytes(path.read_bytes()[:-100])
    said = "cannot be unpacked" if packed else r"has 28,140 bytes; expected 28,240.*36 x 28 x 28"
    with pytest.raises(ValueError, match=rf"train-images-idx3-ubyte.*{said}"):
        DigitSequences(root=str(tmp_path))


def test_files_that_do_not_go_together(tmp_path):
    write_mnist(tmp_path)
    labels = tmp_path / "train-labels-idx1-ubyte"
    labels.write_bytes(idx(np.zeros(35, dtype=np.uint8)))
    with pytest.raises(ValueError, match="has 36 images, train-labels-idx1-ubyte has 35 labels"):
        DigitSequences(root=str(tmp_path))
    labels.write_bytes(idx(np.full(36, 12, dtype=np.uint8)))
    with pytest.raises(ValueError, match=r"has a label 12; expected 0 to 9, .*Give --data.root DIR, .*ArrayStreams"):
        DigitSequences(root=str(tmp_path))
    labels.write_bytes(idx(np.zeros((36, 1), dtype=np.uint8)))
    with pytest.raises(ValueError, match=r"starts with 00 00 08 02; expected 00 00 08 01"):
        DigitSequences(root=str(tmp_path))
    write_mnist(tmp_path)
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx(np.zeros((8, 14, 14), dtype=np.uint8)))
    with pytest.raises(ValueError, match="expected the four files of one set"):
        DigitSequences(root=str(tmp_path))


@pytest.mark.parametrize("content", [b"", b"\0\0", b"<html>", b"\0\0\x08\x03\0\0"])
def test_what_is_no_idx_file_is_named(tmp_path, content):
    path = tmp_path / "some"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"some (starts with|has 6 bytes)"):
        read_idx(path, 3)
