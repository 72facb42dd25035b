"""A data loader that continues in the middle of an epoch exactly where it was stopped.

    epoch e:   order(seed, e) = i0 i1 | i2 i3 | i4 i5 | ...        the order is a pure function: nothing else is saved
               given out        ^^^^^   ^^^^^
    state      {"epoch": e, "batches": 2}       resumed: i4 i5 | ...       epoch e+1: whole again

Lightning calls `iter()` before it calls the sampler's `set_epoch`, and worker processes fetch ahead of the trainer.
So the epoch is read at the first `next()`, and only batches that were handed out are counted. Items that could not be
had are missing from their batch (faults.py).
"""

import logging
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from lightning import Trainer
from torch.utils.data import DataLoader, Dataset, DistributedSampler, Sampler

from datamodules.faults import Collated, collate

Key = tuple[int, int]
OnFault = Callable[[str, str], None]

log = logging.getLogger(__name__)


def epoch_order(seed: int, epoch: int, items: int) -> np.ndarray:
    """Return the shuffled item indices of one epoch, (items,) int64: a pure function of (seed, epoch)."""
    return np.random.default_rng([seed, epoch, items]).permutation(items)


class EpochSampler(DistributedSampler):
    """Yields keys (epoch, index), so that a dataset can draw every random choice from (seed, epoch, index).

    Shuffled, it is for training: each replica gets the same number of items, a remainder is left out of that epoch.
    Not shuffled, it is for evaluation: the epoch in the key is always 0, the order is the dataset's, and no item is
    repeated. Not shuffled but `numbered`, the epoch is in the key, for a dataset that draws its order from it. It is a
    DistributedSampler so that Lightning leaves it in place.
    """

    def __init__(
        self, items: int, *, seed: int, shuffle: bool, replicas: int = 1, rank: int = 0, numbered: bool = False
    ) -> None:
        super().__init__(range(items), num_replicas=replicas, rank=rank, shuffle=shuffle, seed=seed)  # type: ignore[arg-type]
        self.items, self.numbered = items, numbered or shuffle
        self.start = 0

    def __len__(self) -> int:
        if self.shuffle:
            return self.items // self.num_replicas
        return len(range(self.rank, self.items, self.num_replicas))

    def __iter__(self) -> Iterator[Key]:  # type: ignore[override]
        # A generator: a loader with worker processes asks for two iterators and throws the first away.
        start, self.start = self.start, 0
        epoch = self.epoch if self.numbered else 0
        order = epoch_order(self.seed, epoch, self.items) if self.shuffle else range(self.items)
        mine = order[self.rank :: self.num_replicas][: len(self)]
        yield from ((epoch, int(index)) for index in mine[start:])


def _keyed(sampler: Sampler | None, dataset: Dataset) -> EpochSampler:
    """Return a sampler of keys: with overfit_batches Lightning puts one of plain numbers in its place."""
    if isinstance(sampler, EpochSampler):
        return sampler
    return EpochSampler(len(dataset), seed=0, shuffle=False)  # type: ignore[arg-type]


class EvalLoader(DataLoader):
    """A DataLoader over an EpochSampler for validation, test and prediction: every item once, in order."""

    def __init__(self, dataset: Dataset, *, sampler: Sampler | None, **options: Any) -> None:
        options.setdefault("generator", torch.Generator())  # an own one, as the training loader's
        if options.get("batch_sampler") is None:  # to predict, Lightning wraps the sampler in a batch sampler
            sampler = _keyed(sampler, dataset)
        super().__init__(dataset, sampler=sampler, **options)


class ResumableLoader(DataLoader):
    """A DataLoader over an EpochSampler with `state_dict()` and `load_state_dict()`, which Lightning saves and loads.

    One iterator at a time: its position is the loader's. `len()` is the whole epoch's, also while one is resumed.
    `on_fault(video id, reason)` is called in this process for each item that is missing from a batch.
    """

    sampler: EpochSampler

    def __init__(self, dataset: Dataset, *, sampler: Sampler, on_fault: OnFault | None = None, **options: Any) -> None:
        sampler = _keyed(sampler, dataset)
        # An own generator: starting an iterator must not draw from the global one, which the checkpoint restores.
        options.setdefault("generator", torch.Generator().manual_seed(sampler.seed))
        options.setdefault("collate_fn", collate)
        super().__init__(dataset, sampler=sampler, **options)
        self.on_fault = on_fault or _warn
        self._epoch = 0
        self._batches = 0
        self._resumed = False

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        # A generator: everything below happens at the first next(), after Lightning's set_epoch.
        self._begin()
        faults: list[tuple[str, str]] = []
        clips = 0
        for batch in super().__iter__():
            self._batches += 1
            if isinstance(batch, Collated):
                batch, missing = batch
                faults += missing
                for video_id, reason in missing:
                    self.on_fault(video_id, reason)
            clips += 1 if not faults else len(batch["label"])
            yield batch
        if faults and not clips:
            raise ValueError(
                f"no clip of epoch {self._epoch} could be decoded, so there is nothing to train on; {len(faults)} "
                f"failed, the first: {faults[0][1]}. Check the files: skip-sideways data verify --root DIR"
            )

    def _begin(self) -> None:
        goes_on = self._resumed and self._epoch == self.sampler.epoch and self._batches < len(self)
        self._batches = self._batches if goes_on else 0
        self._epoch = self.sampler.epoch
        self._resumed = False
        self.sampler.start = self._batches * (self.batch_size or 1)

    def state_dict(self) -> dict[str, int]:
        """Return the epoch, the batches handed out in it, and what the order depends on."""
        return {"epoch": self._epoch, "batches": self._batches, **self._order_depends_on()}

    def _order_depends_on(self) -> dict[str, int]:
        sampler = self.sampler
        return {
            "seed": sampler.seed,
            "items": sampler.items,
            "batch_size": self.batch_size or getattr(self.dataset, "lanes", 1),
            "replicas": sampler.num_replicas,
        }

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue from `state`: the next iterator of that epoch leaves out the batches that were handed out.

        ValueError where seed, items, batch size or replicas differ: the rest of that epoch cannot be found again.
        """
        now = self._order_depends_on()
        changed = {name: (state.get(name), value) for name, value in now.items() if state.get(name, value) != value}
        if changed:
            said = ", ".join(f"{name} was {old}, is {new}" for name, (old, new) in changed.items())
            raise ValueError(
                f"the checkpoint stopped in the middle of an epoch of other data: {said}. Resume with the same --data "
                "options, or start a new run without --ckpt_path."
            )
        self._epoch, self._batches, self._resumed = state["epoch"], state["batches"], True
        self.sampler.set_epoch(state["epoch"])


def train_loader(
    dataset: Dataset,
    items: int,
    *,
    batch_size: int,
    num_workers: int,
    seed: int,
    trainer: Trainer | None,
    on_fault: OnFault | None = None,
) -> ResumableLoader:
    """Return the shuffled, resumable loader. The last, smaller batch is left out, unless it is the only one."""
    sampler = EpochSampler(items, seed=seed, shuffle=True, **_replica(trainer))
    return ResumableLoader(
        dataset,
        sampler=sampler,
        on_fault=on_fault,
        batch_size=batch_size,
        num_workers=num_workers,
        drop_last=len(sampler) >= batch_size,
        persistent_workers=num_workers > 0,
    )


def _warn(video_id: str, reason: str) -> None:
    log.warning("training leaves out a clip of %s: %s", video_id, reason)


def eval_loader(
    dataset: Dataset, items: int, *, batch_size: int, num_workers: int, trainer: Trainer | None
) -> DataLoader:
    """Return the loader for validation, test and prediction: every item once, in order, keyed (0, index)."""
    sampler = EpochSampler(items, seed=0, shuffle=False, **_replica(trainer))
    return EvalLoader(dataset, sampler=sampler, batch_size=batch_size, num_workers=num_workers)


def _replica(trainer: Trainer | None) -> dict[str, Any]:
    """Return which share of the items this process gets; the strategy knows (stages of one replica share it)."""
    given = trainer.distributed_sampler_kwargs if trainer is not None else None
    return {"replicas": given["num_replicas"], "rank": given["rank"]} if given else {}
