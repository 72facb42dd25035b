"""WeizmannStreams: what was the first action? A question at the end of a long stream of real video."""

from dataclasses import asdict
from typing import Any

from datamodules.joined_clips import JoinedOptions, JoinedSource, Shelf
from datamodules.long_streams import LongStreamData
from datamodules.weizmann import Weizmann


class WeizmannStreams(LongStreamData):
    """Weizmann's clips joined to long streams; asked at the end, and scored, is the action of the first [D].

    A stream begins with `cue_frames` of one clip. Then whole clips come, drawn at random, until the gap is full; the
    last is cut. The question is a frame with a checkerboard. Asked at all other frames is the action that is seen: the
    last few frames tell it, one alone may not tell a walk from a run. Frames are real ones as they are, (channels,
    size, size) uint8. Training, validation and test have persons of their own: fold k tests the k-th in alphabetical
    order (see Weizmann), each of whose clips is the first equally often.

    Args:
        size: side of a frame in pixels; the 180 x 144 frames are squashed.
        cue_frames: frames of the first clip, which begin anywhere in it.
        gap: frames between it and the question.
        question_frames: frames of the question.
        fold: 0 to 8, the test person.
        val_person: a person held out of training for validation, or `next` (the one after the test person); none if
            unset, and then nothing is validated on.
        background: subtract the running `median` or `mean` of the clip so far, or `none`.
        grayscale: one channel instead of three.
        flip: mirror half of the training clips.
        cache: `memory`, `disk` or `none`; see VideoData.
        cache_dir: folder of the cache on the disk; `.skip-sideways/frames` if unset.
        root: folder with the ten class folders; default: see Weizmann.
        num_workers: loader processes; 0 is right here, for they only choose streams: steps are read where they are
            needed, by the process that trains.
        val_streams: streams of the validation, always the same, where there is a person for it.
        test_streams: streams of the test, always the same.
        options: of all long streams; see LongStreamData.
    """

    dataset_name = "weizmann_streams"
    input_kind = "frames"

    def __init__(
        self,
        size: int = 32,
        cue_frames: int = 24,
        gap: int = 120,
        question_frames: int = 1,
        fold: int = 0,
        val_person: str | None = None,
        background: str = "none",
        grayscale: bool = False,
        flip: bool = True,
        cache: str = "memory",
        cache_dir: str | None = None,
        root: str | None = None,
        num_workers: int = 0,
        val_streams: int = 100,
        test_streams: int = 200,
        **options: Any,
    ) -> None:
        self.options = JoinedOptions(cue_frames, gap, question_frames, flip)
        self.clips = Weizmann(
            frames=cue_frames,
            size=size,
            fold=fold,
            val_person=val_person,
            root=root,
            background=background,
            grayscale=grayscale,
            cache=cache,
            cache_dir=cache_dir,
            num_workers=num_workers,
        )
        self.clips.min_frames = cue_frames
        self.clips.store = self._shelf("test").store
        val_streams = val_streams if self.clips.found["val"] else 0
        super().__init__(
            self.options.steps,
            gap,
            question_frames,
            num_workers=num_workers,
            val_streams=val_streams,
            test_streams=test_streams,
            **options,
        )
        self.size, self.channels, self.fold = size, self.clips.channels, fold
        self.split_name, self.class_names = self.clips.split_name, self.clips.class_names

    def _shelf(self, split: str) -> Shelf:
        clips = self.clips
        folder = None if clips.store.disk is None else str(clips.store.disk.folder.parent)
        videos = tuple(clips.videos.get(split, ()))
        return Shelf(videos, clips.root, clips.clip_options, clips.store.cache, clips.dataset_name, folder)

    def settings(self) -> dict[str, Any]:
        """Return what a stream looks like, and which clips there are."""
        o = self.clips.clip_options
        return asdict(self.options) | {
            "clips": self.clips.data_hash,
            "size": o.size,
            "background": o.background,
            "grayscale": o.grayscale,
        }

    def folds(self) -> int:
        """Return the number of persons, 9."""
        return self.clips.folds()

    def prepare_data(self) -> None:
        """Make the table of clips once; see VideoData."""
        self.clips.trainer = self.trainer
        self.clips.prepare_data()

    def setup(self, stage: str | None = None) -> None:
        """Read the table, choose the clips of the stage's splits, and check that the streams can be made of them."""
        self.clips.trainer = self.trainer
        self.clips.setup(stage)
        super().setup(stage)

    def source(self, split: str) -> JoinedSource:
        """Return the streams of `train`, `val` or `test`; after `setup`."""
        return JoinedSource(split, self.streams[split], self._shelf(split), self.options, self.seed)
