"""The idx files of MNIST (LeCun, Cortes, Burges), packed with gzip or not.

00 00 08 03   number of images  rows  columns   one byte a pixel, ...        four bytes a number, the highest first
00 00 08 01   number of labels                  one byte a label, ...
"""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
CLASSES = 10
_BYTES = 8  # the code of unsigned bytes
_BELOW = ("", "MNIST/raw")  # where torchvision puts them

Digits = tuple[np.ndarray, np.ndarray]


def read_mnist(root: Path) -> dict[str, Digits]:
    """Return, of `train` and `test`, the images (N, rows, columns) uint8 and their classes (N,) int64.

    Args:
        root: folder of the four files, or the one that holds MNIST/raw.

    Raises:
        ValueError: a file is missing or damaged, or images and labels do not go together.
    """
    found = {split: _read_split(root, *pair) for split, pair in FILES.items()}
    (train, _), (test, _) = found["train"], found["test"]
    if train.shape[1:] != test.shape[1:]:
        raise ValueError(
            f"{root} has training images of {train.shape[1:]} pixels and test images of {test.shape[1:]}; expected the "
            "four files of one set. Get them again."
        )
    return found


def _read_split(root: Path, images_name: str, labels_name: str) -> Digits:
    images, labels = read_idx(_find(root, images_name), 3), read_idx(_find(root, labels_name), 1)
    if len(images) != len(labels) or not len(images):
        raise ValueError(
            f"{root}: {images_name} has {len(images)} images, {labels_name} has {len(labels)} labels; expected one "
            "label an image, and some. Get both files again."
        )
    if labels.max() >= CLASSES:
        raise ValueError(
            f"{root}: {labels_name} has a label {labels.max()}; expected 0 to {CLASSES - 1}, for digits. Give "
            "--data.root DIR, a folder with MNIST's own files; images of other classes can be --data ArrayStreams."
        )
    return images, labels.astype(np.int64)


def _find(root: Path, name: str) -> Path:
    """Return the path of a file, packed or not, its name also with a dot before idx as some unpack it."""
    for folder in (root / below for below in _BELOW):
        for known in (name, name.replace("-idx", ".idx")):
            for path in (folder / known, folder / f"{known}.gz"):
                if path.is_file():
                    return path
    needed = ", ".join(file for pair in FILES.values() for file in pair)
    raise ValueError(
        f"{root} has no {name}, nor {name}.gz; expected MNIST's four files, packed or not: {needed}. Give --data.root "
        "DIR, the folder that holds them, or leave --data.root out for scikit-learn's digits."
    )


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """Return the unsigned bytes of an idx file, an array of so many dimensions.

    Raises:
        ValueError: not such a file, or cut short.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} cannot be unpacked ({error}); it may be cut short. Get it again.") from None
    expected = bytes([0, 0, _BYTES, dimensions])
    if content[:4] != expected:
        raise ValueError(
            f"{path} starts with {content[:4].hex(' ') or 'nothing'}; expected {expected.hex(' ')}, an idx file of "
            f"unsigned bytes with {dimensions} dimensions. Get it again."
        )
    start = 4 + 4 * dimensions
    shape = tuple(int.from_bytes(content[at : at + 4], "big") for at in range(4, start, 4))
    if len(content) != start + math.prod(shape):
        raise ValueError(
            f"{path} has {len(content):,} bytes; expected {start + math.prod(shape):,}, for it says that it holds "
            f"{' x '.join(map(str, shape))}. Get it again."
        )
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape)
