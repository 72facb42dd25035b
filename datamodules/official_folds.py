"""OfficialFolds: what UCF101 and HMDB51 share, sets with three official divisions into training and test videos."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datamodules.official import OfficialLists
from datamodules.official_files import find_lists, official_listing
from datamodules.video_data import VideoData

FOLDS = (1, 2, 3)


class OfficialFolds(VideoData, ABC):
    """Clips of one official fold; a result is the mean over folds 1, 2 and 3 (`skip-sideways compare`).

    Args:
        root: folder of the videos, however deep they lie: as the archive unpacks, a folder per class, or flat.
        fold: 1, 2 or 3, as the official lists are named.
        splits: folder of the official lists, whose usual names are tried in `root` and beside it if unset.
        val_fraction: share of each class's training videos held out for validation, whole source videos at a time.
        allow_missing: go on where videos of the fold are missing; how many were found goes with every result.
        size: side of the square clip in pixels.
        cache: `none` decodes each clip anew; `disk` keeps all frames at training size in files, for later runs as well;
            `memory` keeps them there, which takes more of it than most machines have.
    """

    list_folders: Sequence[str]
    marker: str  # a file that the folder of the lists holds, a glob pattern
    val_options = "--data.val_fraction 0.1"

    def __init__(
        self,
        root: str,
        fold: int = 1,
        splits: str | None = None,
        val_fraction: float = 0.0,
        allow_missing: bool = False,
        size: int = 112,
        cache: str = "none",
        **options: Any,
    ) -> None:
        folder = find_lists(self.dataset_name, Path(root), splits, names=self.list_folders, marker=self.marker)
        lists = self.read_lists(folder, fold)
        listing = official_listing(lists, Path(root), val_fraction=val_fraction, allow_missing=allow_missing)
        super().__init__(listing, size=size, cache=cache, **options)

    @abstractmethod
    def read_lists(self, folder: Path, fold: int) -> OfficialLists:
        """Return the official lists of a fold."""

    def folds(self) -> int:
        """Return the number of official folds, 3; they count from 1."""
        return len(FOLDS)
