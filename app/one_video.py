"""`predict --video FILE`: one file, read from its first frame to its last as the checkpoint's data set reads its own.

    file -> frames at the clips' rate -> pieces of T frames -> the network, its state kept between them -> answers

A checkpoint tells what this needs of its data set: the classes' names and what a clip looks like. So the data set
itself need not be on the machine. Neither the frames nor the answers are kept: the video may have any length.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from jsonargparse import Namespace
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from datamodules.forward_store import ForwardStore
from datamodules.probing import probe
from datamodules.streams import Streams, eval_stream_loader, whole_video
from datamodules.video_dataset import ClipOptions, Video
from lightning_modules.networks import ClipNetwork

UNKNOWN_LABEL = -1


class RememberedData(LightningDataModule):
    """The data set of a checkpoint without its videos, for the clips of another file.

    Args:
        class_names: by class index.
        clip_options: what a clip looks like.
        views: clips of a video, evenly spaced.
        dataset_name: what the data set is called.
        batch_size: clips a batch.
    """

    def __init__(
        self, class_names: list[str], clip_options: ClipOptions, views: int, dataset_name: str, batch_size: int = 8
    ) -> None:
        super().__init__()
        self.class_names, self.clip_options, self.views = class_names, clip_options, views
        self.dataset_name, self.batch_size = dataset_name, batch_size
        self.num_classes, self.channels = len(class_names), 1 if clip_options.grayscale else 3


def remember(data: Any) -> dict[str, Any]:
    """Return what a checkpoint keeps of a DataModule, plain values; nothing of what the module does not have."""
    kept = {name: getattr(data, name) for name in ("dataset_name", "class_names", "views") if hasattr(data, name)}
    return kept | ({"clip_options": asdict(data.clip_options)} if hasattr(data, "clip_options") else {})


def remembered(card: Mapping[str, Any], given: Mapping[str, Any] | Namespace) -> Namespace | None:
    """Return RememberedData's section of a configuration, None for a checkpoint that lacks something of it.

    `card`: the checkpoint's. `given`: the data section as configured, whose arguments count more than the checkpoint's.
    """
    kept = dict(card.get("data") or {})
    if not {"class_names", "clip_options", "views", "dataset_name"} <= kept.keys():
        return None
    chosen = given.get("init_args") or Namespace()
    options = Namespace({name: chosen.get(name, value) for name, value in kept["clip_options"].items()})
    own = {name: chosen[name] for name in ("views", "batch_size") if name in chosen}
    path = f"{RememberedData.__module__}.{RememberedData.__name__}"
    return Namespace(class_path=path, init_args=Namespace({**kept, **own, "clip_options": options}))


class OneVideo:
    """One video file that can be read to its end.

    Args:
        data: the DataModule whose size, frame rate and background the network was trained on, or what is remembered.
        path: of the file.
        fewest: frames from which the network gives an answer.

    Raises:
        ValueError: no such file, broken, too short, or the data set is not made of video files.
    """

    def __init__(self, data: Any, path: Path, fewest: int) -> None:
        options: ClipOptions | None = getattr(data, "clip_options", None)
        if options is None:
            raise ValueError(
                f"--video {path}: the checkpoint was trained on {data.dataset_name}, which is not made of video files. "
                "Give a checkpoint trained on video files, such as --data VideoFolder or Weizmann."
            )
        if not path.is_file() and not path.is_symlink():  # a link that leads nowhere is told by `probe`
            what = "is a folder" if path.is_dir() else "there is no such file"
            raise ValueError(f"--video {path}: {what}; expected the path of one video.")
        self.options, self.class_names, self.fewest = options, list(data.class_names), fewest
        self.facts = probe(path)
        if self.facts.problem:
            raise ValueError(f"--video {path} {self.facts.problem}. Mend it or give another.")
        self.video = Video(path, path.name, UNKNOWN_LABEL, self.facts.frames, 0, self.facts)
        self.used = len(whole_video(options, self.video))
        if self.used < fewest:
            rate = f" {options.rate}" if options.rate else ""
            held = f"{self.facts.frames} frames" + (f", {self.used}{rate}" if self.used < self.facts.frames else "")
            raise ValueError(f"--video {path} has {held}; this network gives no answer before frame {fewest}.")

    def times_s(self) -> np.ndarray:
        """Return the seconds at which the frames that are read come, and at last when the video is over."""
        line = self.video.timeline
        if self.options.fps is not None:
            return np.append(np.arange(self.used) / self.options.fps, line.end_s)
        return np.append(line.times_s[whole_video(self.options, self.video)], line.end_s)

    def loader(self) -> DataLoader:
        """Return the pieces of the video, one a batch."""
        return eval_stream_loader(Streams([self.video], ForwardStore(self.options, self.video), lanes=1), num_workers=0)

    def clip_loader(self) -> DataLoader:
        """Return consecutive clips of the video, one a batch; frames left over that make no clip are not read."""
        streams = Streams([self.video], ForwardStore(self.options, self.video), lanes=1)
        return DataLoader(ConsecutiveClips(streams, self.clips), batch_size=None, collate_fn=_as_it_is)

    @property
    def clips(self) -> int:
        """Number of consecutive clips that are long enough for an answer."""
        full, rest = divmod(self.used, self.options.frames)
        return full + (rest >= self.fewest)

    def clips_title(self) -> str:
        """Return lines about the file and the clips that are read of it."""
        read = min(self.used, self.clips * self.options.frames)
        left = f"; its last {self.used - read} make no clip of {self.fewest} or more" if read < self.used else ""
        number = "1 clip" if self.clips == 1 else f"{self.clips} consecutive clips"
        return f"{self._about_file()}\nPredicted: {number} of at most {self.options.frames} frames{left}."

    def title(self) -> str:
        """Return lines about the file, how it is read, and what can be answered."""
        return (
            f"{self._about_file()}\n"
            f"The network knows {_listed(self.class_names)}; it names the likeliest of them, whatever it sees."
        )

    def _about_file(self) -> str:
        f, o = self.facts, self.options
        turned = f", turned upright by {f.rotation} degrees" if f.rotation else ""
        rate = f"{f.fps:.4g} frames a second" + (" on average" if f.variable_rate else "")
        read = f", read {o.rate}" if o.rate else ""
        return f"{self.video.path.name}: {f.frames} frames of {f.width} x {f.height}{turned}, {rate}{read}"


class ConsecutiveClips(Dataset):
    """The pieces of one video as clips of their own, between which nothing is kept: `clip_id` NAME@FIRST_FRAME.

    Args:
        streams: of one video.
        clips: pieces to read.
    """

    def __init__(self, streams: Streams, clips: int) -> None:
        self.streams, self.clips = streams, clips

    def __len__(self) -> int:
        return self.clips

    def __getitem__(self, index: int) -> dict[str, Any]:
        piece = self.streams[0, index]
        assert isinstance(piece, dict)
        names = [f"{name}@{piece['start']}" for name in piece["clip_id"]]
        return {**{key: piece[key] for key in ("video", "label", "length", "video_index")}, "clip_id": names}


def _as_it_is(batch: Any) -> Any:
    return batch


def manner(network: Any, rule: Any, options: ClipOptions) -> str:
    """Return how a whole video's answer is made, with `{}` for the number of answers, and which test scores so too."""
    if isinstance(network, ClipNetwork):
        made = f"{{}} answers to consecutive clips of {options.frames} frames"
    elif rule.forward_shift:
        wait = network.wiring.length - 1
        made = f"{{}} answers, one a frame; each comes {wait} frames after its frame, so that the last {wait} have none"
    else:
        made = "{} answers, one a frame"
    return (
        f"The whole video: the mean of {made}. `skip-sideways test` scores a video so with --data.stream true; "
        "without it, by the mean of its views."
    )


def _listed(names: Sequence[str], shown: int = 12) -> str:
    more = ", ..." if len(names) > shown else ""
    return f"{len(names)} classes ({', '.join(names[:shown])}{more})"
