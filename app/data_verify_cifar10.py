"""`skip-sideways data verify cifar10 --root DIR`: the files, their MD5 sums, and the images of each class.

file                             bytes  md5           images
data_batch_1                31,035,704  official      10,000
data_batch_2                31,035,320  differs        9,999
"""

import argparse
import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from datamodules.cifar10_files import Form, Source

DATASET = "cifar10"


@dataclass
class Findings:
    """What was found: lines of the table of files, images of each class by split, and what is wrong."""

    files: list[str] = field(default_factory=list)
    labels: "dict[str, list[np.ndarray]]" = field(default_factory=lambda: {"train": [], "test": []})
    faults: list[str] = field(default_factory=list)


def refuse_options_of_videos(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """End with an error where an option was given that says nothing of images."""
    plain = vars(parser.parse_args(["verify", DATASET, "--root", "."]))
    for name, value in vars(arguments).items():
        if name not in ("root", "no_progress") and value != plain[name]:
            parser.error(f"--{name.replace('_', '-')} is for videos; data verify {DATASET} takes --root DIR alone")


def verify_cifar10(arguments: argparse.Namespace) -> int:
    """Print the tables and what is wrong; return 0 where all is as the authors gave it out, else 1."""
    from datamodules.cifar10_files import find

    source = find(arguments.root)
    found = _examined(source)
    print("\n".join([f"{DATASET} in {source.place}", "", *_table(found), "", *_classes(found), ""]))
    print("\n".join(found.faults))
    print(f"{len(found.faults)} with a problem" if found.faults else "complete and whole")
    return int(bool(found.faults))


def _examined(source: "Source") -> Findings:
    found, form = Findings(), source.form
    if source.packed:
        with source.place.open("rb") as file:
            digest = hashlib.file_digest(file, "md5").hexdigest()
        _add_file(found, form, form.archive, source.place.stat().st_size, digest, "")
    seen = set()
    try:
        for name, content in source.contents():
            seen.add(name)
            images = _images(found, form, name, content)
            _add_file(found, form, name, len(content), hashlib.md5(content).hexdigest(), images)
    except ValueError as error:
        found.faults.append(f"broken  {error}")
    found.faults += [f"missing {name}" for name in form.files if name not in seen]
    _count(found)
    return found


def _images(found: Findings, form: "Form", name: str, content: bytes) -> str:
    """Read a file and return how many images it holds, as text; keep their labels, or what is wrong."""
    from datamodules.cifar10_files import TEST_FILE, check_names

    try:
        if name == form.meta:
            check_names(form.read_names(content))
            return ""
        labels = form.read(content)[1]
    except ValueError as error:
        found.faults.append(f"broken  {name} {error}")
        return "broken"
    found.labels["test" if name.startswith(TEST_FILE) else "train"].append(labels)
    return f"{len(labels):,}"


def _add_file(found: Findings, form: "Form", name: str, size: int, digest: str, images: str) -> None:
    official = form.md5.get(name)
    said = {None: "no official", digest: "official"}.get(official, "differs")
    if said == "differs":
        found.faults.append(f"md5     {name}: {digest}, official {official}")
    found.files.append(f"{name:<24}{size:>14,}  {said:<12}{images:>8}".rstrip())


def _count(found: Findings) -> None:
    """Note every class of which there are not as many images as the authors say."""
    from datamodules.cifar10_files import CLASSES, OFFICIAL_IMAGES

    for split, counts in _counts(found).items():
        expected = OFFICIAL_IMAGES[split] // len(CLASSES)
        found.faults += [
            f"count   {split}: {count:,} of {name}, expected {expected:,}"
            for name, count in zip(CLASSES, counts, strict=True)
            if count != expected
        ]


def _counts(found: Findings) -> dict[str, list[int]]:
    """Return the images of each class, by split."""
    import numpy as np

    from datamodules.cifar10_files import CLASSES

    none = np.zeros(0, dtype=np.int64)
    return {
        split: np.bincount(np.concatenate([none, *labels]), minlength=len(CLASSES)).tolist()
        for split, labels in found.labels.items()
    }


def _table(found: Findings) -> list[str]:
    return [f"{'file':<24}{'bytes':>14}  {'md5':<12}{'images':>8}", *found.files]


def _classes(found: Findings) -> list[str]:
    from datamodules.cifar10_files import CLASSES

    counts = _counts(found)
    rows = [*zip(CLASSES, counts["train"], counts["test"], strict=True)]
    rows.append(("all", sum(counts["train"]), sum(counts["test"])))
    return [f"{'class':<14}{'train':>9}{'test':>9}", *(f"{n:<14}{a:>9,}{b:>9,}" for n, a, b in rows)]
