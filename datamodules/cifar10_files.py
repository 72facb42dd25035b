"""The official files of CIFAR-10 (Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009).

    cifar-10-batches-py/   data_batch_1 ... data_batch_5, test_batch            pickles
                           batches.meta                                         names of the classes
    cifar-10-batches-bin/  data_batch_1.bin ... data_batch_5.bin, test_batch.bin    label, 1024 red, green, blue; ...
                           batches.meta.txt
    cifar-10-python.tar.gz, cifar-10-binary.tar.gz                              the same, read where they lie

Sums: of the archives as on the official page, of single files of the Python version as in torchvision's CIFAR10; for
single files of the binary version there are none.
"""

import functools
import os
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from datamodules.cifar10_pickles import PIXELS, checked, read_batch, read_plain

NAME = "cifar10"
CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
ADDRESS = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
OFFICIAL_IMAGES = {"train": 50_000, "test": 10_000}
TRAIN_FILES = tuple(f"data_batch_{number}" for number in range(1, 6))
TEST_FILE = "test_batch"

Batch = tuple[np.ndarray, np.ndarray]


def read_records(content: bytes) -> Batch:
    """Return the images (N, 3, 32, 32) uint8 and labels (N,) int64 of a file such as data_batch_1.bin.

    Raises:
        ValueError: no whole number of records, or a label that is not 0 to 9.
    """
    if len(content) % (PIXELS + 1):
        raise ValueError(f"has {len(content):,} bytes, expected a multiple of {PIXELS + 1:,}: label and pixels")
    records = np.frombuffer(content, dtype=np.uint8).reshape(-1, PIXELS + 1)
    return checked(records[:, 1:], records[:, 0])


def read_pickled_names(content: bytes) -> list[str]:
    """Return the class names of batches.meta."""
    names = read_plain(content).get("label_names")
    if not isinstance(names, list):
        raise ValueError("has no list `label_names`")
    return [name.decode("latin1") if isinstance(name, bytes) else str(name) for name in names]


def read_text_names(content: bytes) -> list[str]:
    """Return the class names of batches.meta.txt."""
    return content.decode("latin1").split()


@dataclass(frozen=True)
class Form:
    """One of the two versions that the authors give out.

    Args:
        folder: that its archive unpacks to.
        archive: name of that archive.
        suffix: of the names of the files with images.
        meta: name of the file with the class names.
        read: gives images and labels of a file's bytes.
        read_names: gives the class names of the bytes of `meta`.
        md5: official sums by file name, of the archive and of the files in it.
    """

    folder: str
    archive: str
    suffix: str
    meta: str
    read: Callable[[bytes], Batch]
    read_names: Callable[[bytes], list[str]]
    md5: dict[str, str] = field(default_factory=dict)

    @property
    def images(self) -> list[str]:
        """Names of the files with images, training first."""
        return [f"{name}{self.suffix}" for name in (*TRAIN_FILES, TEST_FILE)]

    @property
    def files(self) -> list[str]:
        """Names of all files that are read."""
        return [*self.images, self.meta]


PYTHON = Form(
    "cifar-10-batches-py", "cifar-10-python.tar.gz", "", "batches.meta", read_batch, read_pickled_names,
    {
        "cifar-10-python.tar.gz": "c58f30108f718f92721af3b95e74349a",
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        "test_batch": "40351d587109b95175f43aff81a1287e",
        "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
    },
)  # fmt: skip
BINARY = Form(
    "cifar-10-batches-bin", "cifar-10-binary.tar.gz", ".bin", "batches.meta.txt", read_records, read_text_names,
    {"cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530"},
)  # fmt: skip
FORMS = (PYTHON, BINARY)


@dataclass(frozen=True)
class Source:
    """Where the files of a form lie: a folder, or the archive itself."""

    form: Form
    place: Path

    @property
    def packed(self) -> bool:
        """Whether `place` is the archive."""
        return self.place.is_file()

    def contents(self) -> Iterator[tuple[str, bytes]]:
        """Yield names and contents of the files that are there, in the order of the form.

        Raises:
            ValueError: the archive is damaged.
        """
        if self.packed:
            found = self._unpacked()
            yield from ((name, found[name]) for name in self.form.files if name in found)
            return
        for name in self.form.files:
            if (self.place / name).is_file():
                yield name, (self.place / name).read_bytes()

    def _unpacked(self) -> dict[str, bytes]:
        wanted, found = {f"{self.form.folder}/{name}": name for name in self.form.files}, {}
        try:
            with tarfile.open(self.place, "r|gz") as archive:
                for member in archive:
                    name = wanted.get(member.name.removeprefix("./"))
                    if name and member.isfile() and (opened := archive.extractfile(member)):
                        found[name] = opened.read()
        except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
            raise ValueError(
                f"{NAME}: {self.place} cannot be read ({str(error) or 'it is cut short'}). Its MD5 sum should be "
                f"{self.form.md5[self.form.archive]}; get it again: {address(self.form)}"
            ) from None
        return found


def address(form: Form) -> str:
    """Return where the authors give a form's archive out."""
    return ADDRESS.replace(PYTHON.archive, form.archive)


def find(root: Path) -> Source:
    """Return where below `root` the files are: in it, in the folder of a form, or in an archive, the first of these.

    Raises:
        ValueError: none is there; says what was looked for and what to get.
    """
    for form in FORMS:
        for folder in (root, root / form.folder):
            if any((folder / name).is_file() for name in form.images):
                return Source(form, folder)
    for form in FORMS:
        for archive in (root, root / form.archive):
            if archive.name == form.archive and archive.is_file():
                return Source(form, archive)
    looked = ", ".join(name for form in FORMS for name in (f"{form.folder}/", form.archive))
    raise ValueError(
        f"{NAME}: looked for {looked} and their files in {root}; {_seen(root)}. Get {ADDRESS} (MD5 sum "
        f"{PYTHON.md5[PYTHON.archive]}) and give --data.root DIR (data verify: --root DIR), the folder that holds it."
    )


def _seen(root: Path) -> str:
    if not root.exists():
        return "there is no such folder"
    if not root.is_dir():
        return "it is a file of another name"
    names = sorted(os.listdir(root))
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"it holds {', '.join(names[:5])}{more}" if names else "it is empty"


@dataclass(frozen=True)
class Images:
    """All images of the set: by `train` and `test` (N, 3, 32, 32) uint8 and labels (N,) int64, in the files' order."""

    train: Batch
    test: Batch


def read(source: Source) -> Images:
    """Return the images; they stay in memory for the next call on the same files.

    Raises:
        ValueError: a file is missing, damaged, or of other classes.
    """
    return _read(source.form.archive, source.place, _stamps(source))


def _stamps(source: Source) -> tuple[tuple[int, int], ...]:
    """Return size and time of change of the files, which tell whether what is in memory is still what is there."""
    names = [source.place] if source.packed else [source.place / name for name in source.form.files]
    stats = [path.stat() for path in names if path.is_file()]
    return tuple((stat.st_size, stat.st_mtime_ns) for stat in stats)


@functools.lru_cache(maxsize=1)
def _read(archive: str, place: Path, stamps: tuple[tuple[int, int], ...]) -> Images:
    source = Source(next(form for form in FORMS if form.archive == archive), place)
    form = source.form
    batches: dict[str, Batch] = {}
    names = None
    for name, content in source.contents():
        try:
            if name == form.meta:
                names = check_names(form.read_names(content))
            else:
                batches[name] = form.read(content)
        except ValueError as error:
            raise ValueError(f"{NAME}: {place / name} {error}. {_advice(form)}") from None
    lacking = [*(name for name in form.images if name not in batches), *([] if names else [form.meta])]
    if lacking:
        raise ValueError(f"{NAME}: {place} lacks {', '.join(lacking)}. {_advice(form)}")
    *train, test = [batches[name] for name in form.images]
    return Images((np.concatenate([x for x, _ in train]), np.concatenate([y for _, y in train])), test)


def check_names(names: list[str]) -> list[str]:
    """Return the class names.

    Raises:
        ValueError: not CIFAR-10's.
    """
    if names != CLASSES:
        raise ValueError(f"names the classes {', '.join(names) or 'none'}; expected {', '.join(CLASSES)}")
    return names


def _advice(form: Form) -> str:
    return f"Get {address(form)} again; `skip-sideways data verify {NAME} --root DIR` compares the MD5 sums"
