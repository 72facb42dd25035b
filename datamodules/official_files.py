"""The files of an official archive: where its lists lie, and which video file is which line.

Archives of one dataset differ in folders, in how folders spell a class, and in suffixes, hardly ever in the names of
the videos: so files are looked up by name without suffix, wherever they lie, after one walk of the tree.
"""

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from datamodules.index import SUFFIXES, find_videos
from datamodules.listing import Listing
from datamodules.official import Match, OfficialLists, few, make_listing, names_in


@dataclass(frozen=True)
class Files:
    """The video files below `root` (relative, posix), and the same by name without folder and suffix."""

    root: Path
    paths: list[str]
    by_name: Mapping[str, list[str]]


def walk(dataset: str, root: Path) -> Files:
    """Find all video files below `root`, links followed.

    Raises:
        ValueError: there is no such folder.
    """
    if not root.is_dir():
        raise ValueError(
            f"{dataset}: there is no folder {root}; in {root.parent}: {names_in(root.parent)}. Give --data.root DIR "
            "(data verify: --root DIR), the folder that the archive was unpacked to."
        )
    paths = find_videos(root)
    by_name: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        by_name[os.path.splitext(path.rsplit("/", 1)[-1])[0]].append(path)
    return Files(root, paths, dict(by_name))


def match(lists: OfficialLists, files: Files) -> Match:
    """Give each video of the lists its file.

    Of several files with its name one in a folder `replacement...` counts, then one in a folder named as its split,
    then the first in alphabetical order; the others are extra.
    """
    path: dict[str, str] = {}
    cut: set[str] = set()
    for split, videos in [*lists.splits.items(), ("", lists.unused)]:
        for video in videos:
            found = [p for name in video.names for p in files.by_name.get(name, ())]
            if not found and video.source in files.by_name:
                found = files.by_name[video.source]
                cut.add(video.video_id)
            if found:
                path[video.video_id] = found[0] if len(found) == 1 else min(found, key=partial(_rank, split))
    used = set(path.values())
    return Match(path, frozenset(cut), [p for p in files.paths if p not in used])


def _rank(split: str, path: str) -> tuple[bool, bool, str]:
    folders = path.split("/")[:-1]
    return not any(folder.startswith("replacement") for folder in folders), split not in folders, path


def shared_data() -> Path:
    """Return the folder of data that SKIP_SIDEWAYS_DATA names, else ../shared/data beside the repository."""
    named = os.environ.get("SKIP_SIDEWAYS_DATA")
    return Path(named) if named else Path(os.path.relpath(Path(__file__).parents[1] / ".." / "shared" / "data"))


def list_places(dataset: str, root: Path, given: str | None, names: Sequence[str]) -> list[list[Path]]:
    """Return the folders to look for lists in, place by place, the best place first.

    Places are `given` alone where it is given; else `root`, the folder beside it, and splits/DATASET of
    `shared_data()`; each is a folder and its folders `names`.
    """
    places = [Path(given)] if given else [root, root.absolute().parent, shared_data() / "splits" / dataset]
    return [[place, *(place / name for name in names)] for place in places]


def find_lists(dataset: str, root: Path, given: str | None, *, names: Sequence[str], marker: str) -> Path:
    """Return the folder of the lists: the first of `list_places` that holds a file like `marker`, a glob pattern.

    Raises:
        ValueError: there is none; says where it was looked for.
    """
    folders = [folder for place in list_places(dataset, root, given, names) for folder in place]
    found = next((folder for folder in folders if any(folder.glob(marker))), None)
    if found is None:
        raise ValueError(
            f"{dataset}: the official lists were not found: looked for {marker} in {', '.join(map(str, folders))}. "
            "Give --data.splits DIR (data verify: --splits DIR), the folder of the lists."
        )
    return found


def refuse_nothing(lists: OfficialLists, files: Files, matched: Match) -> None:
    """Refuse a root that holds none of the listed videos.

    Raises:
        ValueError: says what was looked for, what was found, and what to type.
    """
    if matched.path:
        return
    looked = few([video.names[0] for video in lists.videos])
    folders = few(sorted(path.name for path in files.root.iterdir() if path.is_dir()))
    raise ValueError(
        f"{lists.dataset}: {files.root} holds none of the {len(lists.videos):,} listed videos. Looked, at any depth, "
        f"for {looked}, with any of the suffixes {' '.join(SUFFIXES)}. Found {len(files.paths):,} video files "
        f"({few(files.paths)}) and the folders: {folders}. Give --data.root DIR (data verify: --root DIR), the folder "
        "that the archive was unpacked to."
    )


def refuse_missing(lists: OfficialLists, files: Files, matched: Match) -> None:
    """Refuse an archive that lacks videos of its splits.

    Raises:
        ValueError: says how many, the first, and what to type.
    """
    missing = [video_id for videos in lists.splits.values() for video_id in matched.missing(videos)]
    if not missing:
        return
    expected = sum(map(len, lists.splits.values()))
    raise ValueError(
        f"{lists.dataset}: {len(missing):,} of the {expected:,} videos of fold {lists.fold} are not in {files.root}: "
        f"{few(missing)}. The whole list: skip-sideways data verify {lists.dataset} --root {files.root}. A result "
        "without them compares with no other; --data.allow_missing true goes on all the same, and records how many "
        "were found."
    )


def official_listing(
    lists: OfficialLists, root: Path, *, val_fraction: float = 0.0, allow_missing: bool = False
) -> Listing:
    """Return the listing of one official fold below `root`.

    Raises:
        ValueError: no listed video is there, or some are missing without `allow_missing`.
    """
    files = walk(lists.dataset, root)
    matched = match(lists, files)
    refuse_nothing(lists, files, matched)
    if not allow_missing:
        refuse_missing(lists, files, matched)
    return make_listing(lists, root, matched, val_fraction=val_fraction)
