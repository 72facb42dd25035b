"""The files of an official archive: where its lists lie, and which video file is which line.

Archives of one dataset differ in folders, in how folders spell a class, and in suffixes, hardly ever in the names of
the videos: so files are looked up by name without suffix, wherever they lie, after one walk of the tree.
"""

import logging
import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from datamodules.index import SUFFIXES, find_videos
from datamodules.listing import Listing
from datamodules.official import Match, OfficialLists, OfficialVideo, few, make_listing, names_in

log = logging.getLogger(__name__)


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

    Of several files with its name one in a folder `replacement...` counts, then one in the folder of its class, however
    that is spelled, then one in a folder named as its split; the others are duplicates. Where this leaves several, the
    least deep and then alphabetically first is taken, and named in `ambiguous`.
    """
    path: dict[str, str] = {}
    cut: set[str] = set()
    others: dict[str, str] = {}
    ambiguous: list[str] = []
    for split, videos in [*lists.splits.items(), ("", lists.unused)]:
        for video in videos:
            found = [p for name in video.names for p in files.by_name.get(name, ())]
            if not found and video.source in files.by_name:
                found = files.by_name[video.source]
                cut.add(video.video_id)
            if len(found) > 1:
                ranked = sorted((_rank(video, split, p), p.count("/"), p) for p in found)
                found = [p for *_, p in ranked]
                others |= dict.fromkeys(found[1:], found[0])
                if ranked[0][0] == ranked[1][0]:
                    ambiguous.append(found[0])
            if found:
                path[video.video_id] = found[0]
    used = set(path.values())
    duplicates = {p: others[p] for p in files.paths if p in others and p not in used}
    extra = [p for p in files.paths if p not in used and p not in duplicates]
    return Match(path, frozenset(cut), extra, duplicates, list(dict.fromkeys(ambiguous)))


def _rank(video: OfficialVideo, split: str, path: str) -> tuple[bool, bool, bool]:
    folders = path.split("/")[:-1]
    of_class = bool(video.folder) and _spelling(video.folder) in map(_spelling, folders)
    return not any(folder.startswith("replacement") for folder in folders), not of_class, split not in folders


def _spelling(name: str) -> str:
    """Return what the spellings of a class have in common: Handstand_Pushups, HandStandPushups, handstand pushups."""
    return re.sub(r"[\W_]", "", name).casefold()


def ambiguity(lists: OfficialLists, matched: Match) -> str:
    """Return a sentence on the videos that have several files of equal right, with an example; "" if none has."""
    if not matched.ambiguous:
        return ""
    used = matched.ambiguous[0]
    rest = [path for path, instead in matched.duplicates.items() if instead == used]
    return (
        f"{lists.dataset}: {len(matched.ambiguous):,} videos have several files, equally good by their folders; the "
        f"least deep, then the first in alphabetical order is used: {used}, not {few(rest)}"
    )


def warn_of_ambiguity(lists: OfficialLists, files: Files, matched: Match) -> None:
    """Log `ambiguity`, if there is any, and how to see all of them."""
    if said := ambiguity(lists, matched):
        command = f"skip-sideways data verify {lists.dataset} --root {files.root}"
        log.warning("%s. The whole list, duplicates.txt: %s", said, command)


def shared_data() -> Path:
    """Return the folder of data that SKIP_SIDEWAYS_DATA names, else ../shared/data beside the repository."""
    named = os.environ.get("SKIP_SIDEWAYS_DATA")
    return Path(named) if named else Path(os.path.relpath(Path(__file__).parents[1] / ".." / "shared" / "data"))


def list_places(dataset: str, root: Path, given: str | None, names: Sequence[str]) -> list[list[Path]]:
    """Return the folders to look for lists in, place by place, the best place first.

    Places are `given` alone where it is given; else `root`, the folder beside it, the one beside what it links to, and
    splits/DATASET of `shared_data()`; each is a folder and its folders `names`.
    """
    beside = [root.absolute().parent, root.resolve().parent]
    places = [Path(given)] if given else [root, *beside, shared_data() / "splits" / dataset]
    return [[place, *(place / name for name in names)] for place in dict.fromkeys(places)]


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
        f"{lists.dataset}: {files.root} holds none of the {len(lists.videos):,} listed videos; the lists are from "
        f"{lists.source}. Looked, at any depth, for {looked}, with any of the suffixes {' '.join(SUFFIXES)}. Found "
        f"{len(files.paths):,} video files ({few(files.paths)}) and the folders: {folders}. Give --data.root DIR (data "
        "verify: --root DIR), the folder that the archive was unpacked to."
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
        f"{few(missing)}. The lists are from {lists.source} (--data.splits DIR for others). The whole list: "
        f"skip-sideways data verify {lists.dataset} --root {files.root}. A result without them "
        "compares with no other; --data.allow_missing true goes on all the same, and records how many were found."
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
    warn_of_ambiguity(lists, files, matched)
    return make_listing(lists, root, matched, val_fraction=val_fraction)
