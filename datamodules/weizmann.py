"""Weizmann human actions: 10 classes, 9 persons, a camera that stands still; leave one person out.

"Actions as Space-Time Shapes", Blank, Gorelick, Shechtman, Irani, Basri, ICCV 2005. Files are `class/person_class.avi`.
"""

from pathlib import Path
from typing import Any

from datamodules.index import find_videos
from datamodules.listing import folder_listing
from datamodules.official_files import shared_data
from datamodules.splits import groups_of, split_by_group
from datamodules.video_data import VideoData

PERSONS = ("daria", "denis", "eli", "ido", "ira", "lena", "lyova", "moshe", "shahar")
CLASSES = ("bend", "jack", "jump", "pjump", "run", "side", "skip", "walk", "wave1", "wave2")
# lena's second run, skip and walk, which the original set has, end in a digit.
_PERSON = r"^([a-z]+)_"


def default_root() -> Path:
    """Return `weizmann` in the folder of data that SKIP_SIDEWAYS_DATA names, else beside the repository."""
    return shared_data() / "weizmann"


class Weizmann(VideoData):
    """Weizmann's clips; fold k tests the k-th person in alphabetical order.

    The eight other persons are for training, as in the usual protocol, so by default nothing is validated on: choosing
    anything by the test person's accuracy would spoil it. `val_person` holds out a second person instead.

    Args:
        frames: frames of a clip, T. A shorter video is used whole, with its `length`; the rest is zeros.
        size: side of the clip in pixels; the 180 x 144 frames are squashed, so that nobody walks out of the picture.
        batch_size: clips a batch.
        fold: 0 to 8, the test person.
        val_person: a person held out of training for validation, or `next` (the one after the test person).
        fit: `squash` scales both sides and loses nothing, `crop` scales the short side and cuts a square.
        root: folder with the ten class folders; default: see default_root.
        options: of the clips; see VideoData.
    """

    dataset_name = "weizmann"
    val_options = "--data.val_person next"
    test_options = "--data.fold"

    def __init__(
        self,
        frames: int = 32,
        size: int = 32,
        batch_size: int = 16,
        fold: int = 0,
        val_person: str | None = None,
        fit: str = "squash",
        root: str | None = None,
        **options: Any,
    ) -> None:
        folder = _checked(Path(root) if root else default_root())
        paths = find_videos(folder)
        self.groups = groups_of(paths, _PERSON)
        split = split_by_group(self.groups, fold, val_person)
        listing = folder_listing(folder, paths, split, split_name="leave-one-person-out", fold=fold)
        super().__init__(listing, frames=frames, size=size, batch_size=batch_size, fit=fit, **options)

    @property
    def persons(self) -> list[str]:
        """The persons in the order of the folds."""
        return sorted(set(self.groups.values()))

    def folds(self) -> int:
        """Return the number of persons, 9."""
        return len(self.persons)


def _checked(root: Path) -> Path:
    """Return `root` where it has the ten class folders, else a ValueError that says what is there."""
    found = sorted(path.name for path in root.iterdir() if path.is_dir()) if root.is_dir() else None
    if found is not None and set(CLASSES) <= set(found):
        return root
    seen = "there is no such folder" if found is None else f"it holds the folders {', '.join(found) or 'none'}"
    raise ValueError(
        f"Weizmann: looked for the folders {', '.join(CLASSES)} in {root}; {seen}. Set SKIP_SIDEWAYS_DATA to the "
        "folder that contains weizmann/, or give --data.root DIR. Without any data: --data MovingDigits."
    )
