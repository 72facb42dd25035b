"""Our side: `fit` of LongMemory on CopySequences, one update at a time.

`fit` runs in a thread of its own that is let go on for one update and then waits, so that its loader, its logging and
Lightning's loops count as they do for a user:

    main     next() ---------------> next() ---------------> next()
    thread          update 0, wait          update 1, wait
"""

import threading
import warnings
from collections.abc import Iterator
from typing import Any

from clock import Clock
from sizes import Sizes

from lightning_modules.compat import ensure_torchvision

ensure_torchvision()

from lightning import Trainer  # noqa: E402
from lightning.pytorch.callbacks import Callback  # noqa: E402

from datamodules.copy_sequences import CopySequences  # noqa: E402
from lightning_modules.long_memory import LongMemory  # noqa: E402

REST = "bookkeeping: reading, Lightning and the rest"


class _Turns(Callback):
    """Stops `fit` after every batch until it is let go on."""

    def __init__(self) -> None:
        self.go, self.done = threading.Semaphore(0), threading.Semaphore(0)
        self.over = False

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self.done.release()
        self.go.acquire()
        trainer.should_stop = self.over


class Ours:
    """One training of LongMemory.

    Args:
        sizes: of the task.
        detector: surprise (as the public code has it) or entropy (as the paper has it).
        clock: gets an update's parts.
    """

    def __init__(self, sizes: Sizes, detector: str, clock: Clock) -> None:
        self.clock = clock
        self.data = CopySequences(gap=sizes.gap, symbols=sizes.symbols, batch_size=sizes.lanes)
        self.data.rollout = sizes.rollout
        self.model = LongMemory(
            num_classes=self.data.num_classes,
            in_channels=self.data.channels,
            rollout=sizes.rollout,
            predict_every=sizes.every,
            k=sizes.chosen,
            detector=detector,
            detector_updates=2,
            hidden=sizes.hidden,
            layers=sizes.layers,
            context=sizes.symbols,
            context_width=sizes.hidden,
            predictor_width=sizes.width,
            lr=sizes.learning_rate,
        )
        self._turns = _Turns()
        self._watch()

    def _watch(self) -> None:
        watch, model = self.clock.watch, self.model
        watch(model, "_detect", "bookkeeping: pass")
        if model.followers is not None:
            watch(model.followers.copy, "at_each_step", "networks: pass")
            watch(model.followers, "follow", "optimizer: copies follow")
        if model.local_model is not None:
            watch(model.local_model, "forward", "networks: pass")
        watch(model.network.memory, "forward", "networks: memory forward")
        watch(model.network, "of_chosen", "networks: predictor forward")
        watch(model, "manual_backward", "networks: backward")
        watch(model, "selector", "bookkeeping: selection")
        watch(model, "_step", "optimizer: clipping and step")

    def updates(self) -> Iterator[None]:
        """Train for ever: every item is one update."""
        turns = self._turns
        thread = threading.Thread(target=self._fit, daemon=True)
        try:
            while True:
                with self.clock.part(REST):
                    turns.go.release() if thread.ident else thread.start()
                    turns.done.acquire()
                if not thread.is_alive():
                    raise SystemExit("training of LongMemory ended too early; see above for its error")
                yield
        finally:
            turns.over = True
            turns.go.release()
            thread.join()

    def _fit(self) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                Trainer(
                    accelerator="cpu",
                    max_epochs=-1,
                    callbacks=[self._turns],
                    limit_val_batches=0,
                    logger=False,
                    enable_checkpointing=False,
                    enable_progress_bar=False,
                    enable_model_summary=False,
                ).fit(self.model, self.data)
        finally:
            self._turns.done.release()
