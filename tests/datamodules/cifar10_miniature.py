"""Small sets under CIFAR-10's official file names, written byte by byte as Python 2 wrote the official ones.

Image n of the set (training first, in the order of the files) has the label n mod 10.
"""

import io
import pickle
import tarfile

import numpy as np

from datamodules.cifar10_files import BINARY, CLASSES, PYTHON

IMAGES = 12  # of a file


class Python2Pickler(pickle._Pickler):
    """Writes what Python 2's cPickle wrote: bytes and text by the opcodes U and T, the memo counted from 1."""

    def memoize(self, obj):
        self.memo[id(obj)] = len(self.memo) + 1, obj
        self.write(self.put(len(self.memo)))

    def save_string(self, value):
        content = value if isinstance(value, bytes) else value.encode("latin1")
        short = len(content) < 256
        head = pickle.SHORT_BINSTRING if short else pickle.BINSTRING
        self.write(head + len(content).to_bytes(1 if short else 4, "little") + content)
        self.memoize(value)

    dispatch = pickle._Pickler.dispatch | {bytes: save_string, str: save_string}


def python2_pickle(value):
    file = io.BytesIO()
    Python2Pickler(file, protocol=2).dump(value)
    return file.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


def pixels(files=6, images=IMAGES):
    """The images of all files, (files, images, 3072) uint8."""
    return np.random.default_rng(10).integers(0, 256, (files, images, 3072), dtype=np.uint8)


def labels(number, images=IMAGES):
    return [(number * images + i) % 10 for i in range(images)]


def meta(images):
    """The content of batches.meta."""
    return python2_pickle({"num_cases_per_batch": images, "label_names": list(CLASSES), "num_vis": 3072})


def contents(form, order="C"):
    """Name -> bytes of all files of a form."""
    made = {}
    for number, (name, data) in enumerate(zip(form.images, pixels(), strict=True)):
        if form is BINARY:
            made[name] = np.column_stack([np.array(labels(number), dtype=np.uint8), data]).tobytes()
        else:
            batch = {"batch_label": f"batch {number}", "labels": labels(number), "data": np.asarray(data, order=order)}
            made[name] = python2_pickle(batch | {"filenames": [f"{i}.png" for i in range(IMAGES)]})
    names = "\n".join([*CLASSES, "", ""]).encode() if form is BINARY else None
    return made | {form.meta: names or meta(IMAGES)}


def write(root, form=PYTHON, **options):
    """Write the folder of a form into `root`; return its path."""
    folder = root / form.folder
    folder.mkdir(parents=True)
    for name, content in contents(form, **options).items():
        (folder / name).write_bytes(content)
    return folder


def write_archive(root, form=PYTHON):
    """Write the archive of a form into `root`, the files in another order and another file beside; return its path."""
    root.mkdir(parents=True, exist_ok=True)
    with tarfile.open(root / form.archive, "w:gz") as archive:
        for name, content in [*reversed(contents(form).items()), ("readme.html", b"<p>")]:
            member = tarfile.TarInfo(f"{form.folder}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return root / form.archive
