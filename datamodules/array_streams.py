"""ArrayStreams: long streams of one's own, in .npy files; see array_files.py for the folder."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from datamodules.array_files import (
    ArraySource,
    ArrayStream,
    Form,
    beside,
    check_ranges,
    find_streams,
    fingerprint,
    form_of,
    largest,
)
from datamodules.lanes import IGNORE
from datamodules.listing import SPLITS
from datamodules.long_streams import LongStreamData

_READ = {"validate": ("val",), "test": ("test",), "predict": ("test",)}  # splits by stage; a fit is of all


class ArrayStreams(LongStreamData):
    """Long streams of one's own: pairs of files NAME.x.npy (T, ...) and NAME.y.npy (T,) in train/, val/ and test/.

    Inputs are uint8 frames (T, C, S, S), float32 vectors (T, F) or int64 symbols (T,); targets are int64 classes, -100
    where nothing is asked. Files are mapped, never read as a whole. A test scores the steps that NAME.answers.npy has,
    int64 (A,) ascending, else all where something is asked. val/ may be left out.

    Args:
        root: folder that holds train/, val/ and test/.
        num_classes: number of classes; 0: the largest target of the training streams and one more.
        symbols: number of symbols; 0: the largest of the training streams and one more.
        gap: steps between what must be remembered and the question, for tables alone.
        batch_size: streams side by side, B.
        seed: of the order of the training streams.
        num_workers: loader processes; 0 is right here, for they only choose streams: steps are read where they are
            needed, by the process that trains.
        stagger: lanes stand at different places of their streams; for streams of one length.
    """

    dataset_name = "array_streams"
    split_name = "folders"
    root_is_data = True

    def __init__(
        self,
        root: str,
        num_classes: int = 0,
        symbols: int = 0,
        gap: int = 0,
        batch_size: int = 64,
        seed: int = 0,
        num_workers: int = 0,
        stagger: bool = False,
    ) -> None:
        _check_counts(num_classes=num_classes, symbols=symbols)
        self.files = {split: find_streams(Path(root), split) for split in SPLITS}
        self.form = _form(Path(root), self.files, num_classes, symbols)
        numbers = {split: len(files) for split, files in self.files.items()}
        super().__init__(
            max(stream.steps for files in self.files.values() for stream in files),
            gap,
            0,
            batch_size=batch_size,
            seed=seed,
            num_workers=num_workers,
            train_streams=numbers["train"],
            val_streams=numbers["val"],
            test_streams=numbers["test"],
            stagger=stagger,
        )
        self.input_kind = self.form.kind
        self.channels = self.form.symbols if self.form.kind == "symbols" else self.form.shape[0]
        if self.form.kind == "frames":
            self.size = self.form.shape[1]
        self.class_names = [str(number) for number in range(self.form.classes)]

    @property
    def protocol(self) -> str:
        """What a score is of."""
        streams, longest = self.files["test"], max(stream.steps for stream in self.files["test"])
        return f"{len(streams)} streams of at most {longest:,} steps, scored at their answers"

    def settings(self) -> dict[str, Any]:
        """Return the files by name, each with a hash of its size, beginning and end."""
        streams = [stream for split in SPLITS for stream in self.files[split]]
        files = {f"{s.name}.{part}": beside(s.stem, part) for s in streams for part in ("x", "y", "answers")}
        return {name: fingerprint(file) for name, file in files.items() if file.exists()}

    def setup(self, stage: str | None = None) -> None:
        """Refuse to validate on nothing, and classes and symbols beyond those known.

        A fit looks through the test streams too: what they ask is known before the training, not after it.
        """
        if stage == "validate" and not self.files["val"]:
            raise ValueError("there is no stream in val/, so nothing to validate on. Add NAME.x.npy and NAME.y.npy.")
        super().setup(stage)
        for split in _READ.get(stage or "fit", SPLITS):
            for stream in self.files[split]:
                check_ranges(stream, self.form)

    def source(self, split: str) -> ArraySource:
        """Return the streams of `train`, `val` or `test`."""
        return ArraySource(self.files[split], self.form)


def _check_counts(**counts: int) -> None:
    """Refuse numbers of classes or symbols below 0, which stands for as many as the training streams have."""
    for name, count in counts.items():
        if count < 0:
            raise ValueError(
                f"{name} {count}: expected 2 or more, or 0 to find it in the training streams. Leave --data.{name} out."
            )


def _form(root: Path, files: dict[str, list[ArrayStream]], classes: int, symbols: int) -> Form:
    """Return what is at a step of all streams, with how many classes and symbols there are."""
    for split in ("train", "test"):
        if not files[split]:
            raise ValueError(
                f"{root / split}: no stream there; expected pairs of files NAME.x.npy and NAME.y.npy in {root}/train "
                f"and {root}/test, and in {root}/val to validate on. Give the folder with --data.root."
            )
    forms: dict[Form, Path] = {}
    for file, x in ((beside(s.stem, "x"), s.x) for split in SPLITS for s in files[split]):
        forms.setdefault(form_of(file, x), file)
    if len(forms) > 1:
        (one, here), (other, there) = list(forms.items())[:2]
        raise ValueError(
            f"{here} has {one.kind} {one.shape}, {there} {other.kind} {other.shape}: expected the same at all steps of "
            "all streams. Keep other streams in a folder of their own."
        )
    (form,) = forms
    classes = classes or 1 + largest([stream.y for stream in files["train"]])
    if classes < 1:
        raise ValueError(f"{root / 'train'}: nothing is asked, for all targets are negative. Expected classes from 0.")
    if classes == 1:
        raise ValueError(
            f"{root / 'train'}: one class: nothing to learn; expected targets of two classes or more, from 0 on, and "
            f"{IGNORE} where nothing is asked. Give --data.num_classes 2 or more if other streams have the others."
        )
    if form.kind == "symbols":
        symbols = symbols or 1 + largest([stream.x for stream in files["train"]])
    return replace(form, classes=classes, symbols=symbols)
