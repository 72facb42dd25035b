"""Official lists of a dataset as values, and the listing that a DataModule makes of them.

    list files --(ucf101.py, hmdb51.py, kinetics.py)--> OfficialLists \
                                                                       make_listing -> Listing
    root --(official_files.py: which file is which)--> Match          /
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from datamodules.listing import SPLITS, Entry, Listing

_SHOWN = 3  # names shown in an error


@dataclass(frozen=True, slots=True)
class OfficialVideo:
    """One line of an official list.

    Args:
        video_id: the official name, unique in the dataset.
        label: class number from 0, -1 where the list has none.
        group: videos of one group come from one source, so a validation split never cuts it.
        names: file names without suffix under which archives hold it, the official one first.
        folder: the class folder that the archive has it in; "" where the list has no class.
        source: name without suffix of the longer video it is cut from, where archives may hold that instead.
        start_s: where it starts in `source`.
        end_s: where it ends in `source`.
    """

    video_id: str
    label: int
    group: str
    names: tuple[str, ...]
    folder: str = ""
    source: str = ""
    start_s: float | None = None
    end_s: float | None = None


@dataclass(frozen=True)
class OfficialLists:
    """What the official files (`source`) say of one fold: `splits` by name, `unused` videos that belong to none.

    Raises:
        ValueError: an empty list, or a video that stands twice in the lists of the fold.
    """

    dataset: str
    class_names: list[str]
    splits: dict[str, list[OfficialVideo]]
    split_name: str
    fold: int = 0
    unused: list[OfficialVideo] = field(default_factory=list)
    source: str = ""

    def __post_init__(self) -> None:
        seen: dict[str, str] = {}
        for split, videos in [*self.splits.items(), ("unused", self.unused)]:
            if not videos and split in self.splits:
                raise ValueError(f"{self._lists}: the {split} list is empty; expected one video a line")
            for video in videos:
                before = seen.setdefault(video.video_id, split)
                if before != split:
                    raise ValueError(f"{self._lists}: {video.video_id} stands in the {before} and in the {split} list")
            if len(videos) > (distinct := len({video.video_id for video in videos})):
                twice = [name for name, n in Counter(video.video_id for video in videos).items() if n > 1]
                raise ValueError(
                    f"{self._lists}: {len(videos):,} videos stand in the {split} list, {distinct:,} different ones; "
                    f"twice or more: {few(twice)}"
                )

    @property
    def _lists(self) -> str:
        fold = f"fold {self.fold} of " if self.fold else ""
        return f"{self.dataset}: {fold}the lists from {self.source}"

    @property
    def videos(self) -> list[OfficialVideo]:
        """All videos of the archive, whatever their split."""
        return [*(video for videos in self.splits.values() for video in videos), *self.unused]


@dataclass(frozen=True)
class Match:
    """Which video has which file.

    Args:
        path: video_id -> file.
        cut: videos that are a part of their file.
        extra: files that no list names.
        duplicates: file with the name of a video -> the file of that name which is used instead.
        ambiguous: files that are used though others of their name have the same right, see `official_files.match`.
    """

    path: dict[str, str]
    cut: frozenset[str]
    extra: list[str]
    duplicates: dict[str, str] = field(default_factory=dict)
    ambiguous: list[str] = field(default_factory=list)

    def found(self, videos: Sequence[OfficialVideo]) -> list[OfficialVideo]:
        """Return the videos that have a file."""
        return [video for video in videos if video.video_id in self.path]

    def missing(self, videos: Sequence[OfficialVideo]) -> list[str]:
        """Return the ids of the videos that have none."""
        return [video.video_id for video in videos if video.video_id not in self.path]


def make_listing(
    lists: OfficialLists,
    root: Path,
    matched: Match,
    *,
    roles: Mapping[str, str] | None = None,
    val_fraction: float = 0.0,
    hashed: Sequence[str] | None = None,
) -> Listing:
    """Return what a DataModule reads: the videos of the lists that have a file.

    Args:
        lists: the official lists of one fold.
        root: folder of the files.
        matched: which video has which file.
        roles: split -> name of the list it is; default: those of the same name.
        val_fraction: share of the training videos held out for validation, see `hold_out`.
        hashed: names of the lists that `id_hash` is of; default: all of `roles`.

    Raises:
        ValueError: `val_fraction` beside a validation list.
    """
    roles = roles or {split: split for split in lists.splits}
    official = {name: lists.splits[name] for name in roles.values() if name in lists.splits}
    splits = {split: official.get(roles.get(split, ""), []) for split in SPLITS}
    if val_fraction and splits["val"]:
        raise ValueError(
            f"{lists.dataset}: val_fraction {val_fraction}, but the {roles['val']} list is the validation split "
            "already; leave --data.val_fraction out"
        )
    if val_fraction:
        splits["train"], splits["val"] = hold_out(splits["train"], val_fraction)
    named = official if hashed is None else {name: official[name] for name in hashed}
    return Listing(
        root=root,
        class_names=lists.class_names,
        splits={split: [_entry(video, matched) for video in matched.found(videos)] for split, videos in splits.items()},
        split_name=lists.split_name,
        fold=lists.fold,
        expected={split: len(videos) for split, videos in splits.items()},
        missing={split: missing for split, videos in splits.items() if (missing := matched.missing(videos))},
        official={name: {video.video_id: video.label for video in videos} for name, videos in named.items()},
    )


def _entry(video: OfficialVideo, matched: Match) -> Entry:
    path, cut = matched.path[video.video_id], video.video_id in matched.cut
    return Entry(path, video.video_id, video.label, video.start_s if cut else None, video.end_s if cut else None)


def hold_out(videos: Sequence[OfficialVideo], fraction: float) -> tuple[list[OfficialVideo], list[OfficialVideo]]:
    """Return (train, validation): about `fraction` of each class held out, whole groups only, always the same ones.

    A group that several classes share goes to one side as a whole.
    """
    if not 0 <= fraction < 0.5:
        raise ValueError(f"val_fraction {fraction}: expected 0 or more, and less than 0.5")
    sizes_of: defaultdict[int, Counter[str]] = defaultdict(Counter)
    for video in videos:
        sizes_of[video.label][video.group] += 1
    held: set[str] = set()
    kept: set[str] = set()
    for _, sizes in sorted(sizes_of.items()):
        wanted, taken = fraction * sizes.total(), sum(sizes[group] for group in sizes.keys() & held)
        for group in sorted(sizes.keys() - held - kept, key=_shuffled):
            fits = taken + sizes[group] / 2 <= wanted
            taken += sizes[group] if fits else 0
            (held if fits else kept).add(group)
    return [v for v in videos if v.group not in held], [v for v in videos if v.group in held]


def _shuffled(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def check_fold(dataset: str, fold: int, folds: Sequence[int]) -> None:
    """Refuse a fold that the official lists do not have: they are named from 1.

    Raises:
        ValueError: says which there are.
    """
    if fold not in folds:
        raise ValueError(
            f"{dataset}: fold {fold}; the official folds are {', '.join(map(str, folds))}, as in the names of the list "
            "files: they do not count from 0"
        )


def read_lines(file: Path) -> list[str]:
    """Return the lines of a list as `numbered_lines` does, without their numbers."""
    return [line for _, line in numbered_lines(file)]


def numbered_lines(file: Path) -> list[tuple[int, str]]:
    """Return (number, line) of a list without white space around and without empty lines, whatever the line ends.

    Raises:
        ValueError: there is no such file.
    """
    if not file.is_file():
        raise ValueError(f"there is no list {file.name} in {file.parent}; it holds: {names_in(file.parent)}")
    text = file.read_text(encoding="utf-8-sig", errors="surrogateescape")
    return [(number, kept) for number, line in enumerate(text.splitlines(), start=1) if (kept := line.strip())]


def class_number(label: str, numbers: Mapping[str, int], where: str, source: str) -> int:
    """Return the number of a class that a list names; `where`: file and line.

    Raises:
        ValueError: `source`, which the classes come from, does not have it.
    """
    if label not in numbers:
        raise ValueError(
            f"{where}: the class {label!r} is not among the {len(numbers)} classes of {source}: "
            f"{few(list(numbers))}. List and classes must be of the same edition."
        )
    return numbers[label]


def few(names: Sequence[str]) -> str:
    """Return the first names, and how many more there are."""
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return (", ".join(names[:_SHOWN]) or "nothing") + more


def names_in(folder: Path) -> str:
    """Return the first names in a folder, or that there is none."""
    return few(sorted(path.name for path in folder.iterdir())) if folder.is_dir() else "there is no such folder"
