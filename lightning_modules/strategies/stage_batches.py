"""Batches for stages that decode nothing: the first stage tells the others all but the video.

first stage    loader --> batch k --> trains on it
                             `------> letter: everything but the frames ---> batch k of the other stages

Stages that compare outputs with frames (a task of `frame_targets`) are told the frames too: the last one, or, where
every module has a loss of its own, all. Stages that train without waiting for one another get their minibatches
elsewhere (replay_link.py), and here batches of no clips.
"""

from collections.abc import Callable, Collection, Iterator
from itertools import repeat
from typing import Any

import torch

from lightning_modules.strategies.letters import Letters, for_tensors

_END = "end"
NO_CLIPS = {"label": torch.empty(0, dtype=torch.long), "length": torch.empty(0, dtype=torch.long)}


class StageBatches:
    """A loader that gives each stage its batches; it stands in for the first stage's own loader.

    Elsewhere a video is a tensor on the meta device: a shape.

    Args:
        loader: the first stage's loader. The others only ask how long it is.
        letters: to the stages of this replica.
        others: addresses of the other stages; empty elsewhere than in the first stage.
        first: address of the first stage.
        topic: one for each use of a loader, the same in all stages.
        with_frames: addresses of the stages that are told the frames too.
        without_letters: asked at a pass's first batch: whether the others get as many batches, of no clips, and do not
            wait for the first stage's.
    """

    def __init__(
        self,
        loader: Any,
        letters: Letters,
        others: list[str],
        first: str,
        topic: str,
        with_frames: Collection[str] = (),
        without_letters: Callable[[], bool] = lambda: False,
    ) -> None:
        self.with_frames, self.without_letters = with_frames, without_letters
        self.loader, self.letters, self.others, self.first, self.topic = loader, letters, others, first, topic
        self._uses = 0

    def __len__(self) -> int:
        return len(self.loader)

    @property
    def sampler(self) -> Any:
        """The loader's, so that Lightning tells it the epoch."""
        return getattr(self.loader, "sampler", None)

    @property
    def dataset(self) -> Any:
        """The loader's."""
        return getattr(self.loader, "dataset", None)

    def __iter__(self) -> Iterator[Any]:
        # A topic for each pass: one that was broken off may leave letters unread.
        self._uses += 1
        return self._batches(f"{self.topic}/{self._uses}")

    def _batches(self, topic: str) -> Iterator[Any]:
        is_first = self.letters.address == self.first
        if self.without_letters():
            yield from self.loader if is_first else repeat(NO_CLIPS, len(self.loader))
        else:
            yield from self._give(topic) if is_first else self._take(topic)

    def _give(self, topic: str) -> Iterator[Any]:
        for batch in self.loader:
            bare = without_frames(batch)
            for other in self.others:
                self.letters.write(other, topic, batch if other in self.with_frames else bare)
            yield batch
        for other in self.others:
            self.letters.write(other, topic, _END)

    def _take(self, topic: str) -> Iterator[Any]:
        while not isinstance(batch := self.letters.read(self.first, topic), str):
            yield batch


class StatefulStageBatches(StageBatches):
    """Batches of a loader that can go on in the middle of an epoch."""

    def state_dict(self) -> dict[str, Any]:
        """Return the loader's state."""
        return self.loader.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Give the loader its state back."""
        self.loader.load_state_dict(state)


def without_frames(batch: Any) -> Any:
    """Return a batch whose videos are shapes: tensors (B, T, C, H, W) on the meta device."""
    return for_tensors(batch, lambda t: torch.empty_like(t, device="meta") if t.dim() >= 5 else t)
