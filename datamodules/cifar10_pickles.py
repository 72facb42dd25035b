"""CIFAR-10's pickled batches, read without running what a pickle may ask for.

    pickle --(plain values; three names of numpy -> stand-ins below)--> dict --> images (N, 3, 32, 32), labels (N,)

A pickle is a program: it can name any function and call it. Here it can name what the official files name, and gets
stand-ins that only keep bytes; numpy itself is not reached, whose own restoring trusts the dtype that it is given.
"""

import io
import pickle
from typing import Any

import numpy as np

PIXELS = 3 * 32 * 32
CLASS_COUNT = 10


class _Array:
    """What the file says of an array of bytes: its shape, their order, and the bytes. Made as numpy's _reconstruct."""

    def __init__(self, *_: Any) -> None:
        """Take the class and the shape of an empty array, which say nothing yet."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, self.shape, dtype, self.fortran, self.content = state
        if not isinstance(dtype, _Dtype):
            raise pickle.UnpicklingError("an array without a dtype")

    def values(self) -> np.ndarray:
        """Return the array, uint8."""
        flat = np.frombuffer(self.content, dtype=np.uint8)
        return flat.reshape(self.shape, order="F" if self.fortran else "C")


class _Dtype:
    """uint8, as files name it."""

    def __init__(self, name: Any, *_: Any) -> None:
        if _text(name) not in ("u1", "uint8", "|u1", "B"):
            raise pickle.UnpicklingError(f"an array of {_text(name)!r}, expected bytes ('u1')")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """Take byte order and the like, which say nothing of single bytes."""


# No more than these: whatever has a `__setstate__` of its own, a pickle cannot give other attributes.
_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,  # as numpy 2 writes it
    ("numpy", "ndarray"): None,
    ("numpy", "dtype"): _Dtype,
}


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"it asks for {module}.{name}; the official files ask for arrays of bytes alone"
            ) from None


def read_plain(content: bytes) -> dict[str, Any]:
    """Return the dictionary of a pickle; its byte strings, which Python 2 wrote, stay bytes.

    Raises:
        ValueError: no pickle, a damaged one, or one that names anything but arrays of bytes.
    """
    try:
        found = _PlainUnpickler(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:  # a damaged pickle raises nearly anything
        raise ValueError(f"is no pickle of plain values: {str(error) or type(error).__name__}") from None
    if not isinstance(found, dict):
        raise ValueError(f"holds a {type(found).__name__}, expected a dictionary")
    return {_text(key): value for key, value in found.items()}


def read_batch(content: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Return the images (N, 3, 32, 32) uint8, red first, and labels (N,) int64 of a file such as data_batch_1.

    Raises:
        ValueError: as `read_plain`, or other contents than an array `data` of N x 3072 bytes and N `labels` of 0 to 9.
    """
    batch = read_plain(content)
    data, labels = batch.get("data"), batch.get("labels")
    if not isinstance(data, _Array) or not isinstance(labels, list):
        raise ValueError(f"holds {', '.join(batch) or 'nothing'}; expected an array `data` and a list `labels`")
    try:
        images = data.values()
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"has a damaged array: {error}") from None
    return checked(images, labels)


def checked(images: np.ndarray, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return images (N, 3072) uint8 as (N, 3, 32, 32) and their labels (N,) as int64.

    Raises:
        ValueError: another shape, another number of labels, or a label that is not 0 to 9.
    """
    if images.ndim != 2 or images.shape[1] != PIXELS or len(images) != len(labels) or not len(labels):
        raise ValueError(
            f"holds images of shape {images.shape} and {len(labels)} labels; expected N x {PIXELS} and N, at least one"
        )
    wrong = next((x for x in labels if not isinstance(x, int | np.integer) or not 0 <= x < CLASS_COUNT), None)
    if wrong is not None:
        raise ValueError(f"has the label {wrong!r}; expected 0 to {CLASS_COUNT - 1}")
    return np.ascontiguousarray(images).reshape(-1, 3, 32, 32), np.asarray(labels, dtype=np.int64)


def _text(value: Any) -> str:
    return value.decode("latin1") if isinstance(value, bytes) else str(value)
