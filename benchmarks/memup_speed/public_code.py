"""The public code's copy task: its modules as they are, its train.py's main loop on the CPU with a clock in it.

Nothing of it stands here: modules are imported from a checkout. What its train.py does at each update is done here in
the same order with the same numbers, for that file runs on a CUDA device alone.
"""

import contextlib
import importlib
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from clock import Clock
from sizes import Sizes

COMMIT = "d276571"
ALIASES = {"int": int, "bool": bool}
VOCABULARY, CLASSES, STREAMS = 20, 10, 1000


def imported(folder: Path) -> dict[str, Any]:
    """Return the modules of a checkout that are needed. NumPy's aliases of 2022 are put back for it.

    Raises:
        SystemExit: no checkout is there.
    """
    if not (folder / "memup" / "training.py").is_file():
        raise SystemExit(
            f"no MemUP code in {folder}: expected memup/training.py there; README.md says how to make a checkout, then "
            "type --public FOLDER"
        )
    for name, kind in ALIASES.items():
        if name not in vars(np):
            setattr(np, name, kind)
    sys.path.insert(0, str(folder))
    names = ("memup", "memup.batch", "memup.predictor", "memup.training", "datagen", "datagen.preprocessing")
    names += ("examples.copy_task.generator", "examples.copy_task.networks", "training.accumulator")
    return {name: importlib.import_module(name) for name in names}


class PublicCode:
    """Both trainings of the copy task: `memory` (chosen steps) and `predictor` (the tail)."""

    def __init__(self, folder: Path, sizes: Sizes, clock: Clock) -> None:
        found = imported(folder)
        self.sizes, self.clock = sizes, clock
        memup, preprocessing = found["memup"], found["datagen.preprocessing"]
        networks, predictors = found["examples.copy_task.networks"], found["memup.predictor"]
        self._training = found["memup.training"]
        with contextlib.redirect_stdout(io.StringIO()):
            self._training.fix_seed(0)
        generator = found["examples.copy_task.generator"].CopyTaskGenerator(sizes.symbols, sizes.gap)
        buffer = found["datagen"].TrajectoryBuffer(STREAMS, static_preprocessor=preprocessing.AddDoneFlag())
        buffer.add_trajectories([generator.gen_trajectory() for _ in range(STREAMS)])

        def memory() -> Any:
            return networks.SLRecMemory(sizes.hidden, sizes.hidden, VOCABULARY)

        def predictor() -> Any:
            return networks.SLRecPredictor(sizes.hidden, sizes.hidden, VOCABULARY, num_outputs=CLASSES)

        ema = found["training.accumulator"].Accumulator
        self._memory_net, self._predictor_net = memory(), predictor()
        self._memory_ema = ema(self._memory_net, memory(), decay=0.97)
        self._predictor_ema = ema(self._predictor_net, predictor(), decay=0.97)
        self._memory = memup.MemUPMemory(self._memory_net)
        self._predictor = predictors.RNNMemUPPredictor(self._predictor_net, target_key="y")
        ema_predictor = predictors.RNNMemUPPredictor(self._predictor_ema.get_module(), target_key="y")
        self._context = predictors.AccumulatedContextPreprocessor(ema_predictor)
        self._detector = memup.PredictionErrorBasedDetector(
            memup.MemUPMemory(self._memory_ema.get_module()),
            ema_predictor,
            torch.nn.CrossEntropyLoss(reduction="none"),
        )
        sampler = memup.TruncatedMemUPSampler
        chosen, streams = (
            memup.TopKSelector(sizes.chosen, time_dependent_selection=True),
            found["datagen"].RandomSampler,
        )
        self._samplers = {
            "memory": sampler(
                streams(buffer),
                chosen,
                preprocessing.Composite([self._context, self._detector]),
                prediction_frequency=sizes.every,
                rollout=sizes.rollout,
            ),
            "predictor": sampler(
                streams(buffer),
                memup.CurrentStepSelector(),
                preprocessing.Composite([self._context, memup.DummyTailDetector(sizes.symbols)]),
                prediction_frequency=1,
                rollout=sizes.rollout,
            ),
        }
        self._criterion = torch.nn.CrossEntropyLoss()
        self._optimizers = {
            kind: torch.optim.Adam(net.parameters(), lr=sizes.learning_rate)
            for kind, net in (("memory", self._memory_net), ("predictor", self._predictor_net))
        }
        self._watch(predictors.RNNMemUPPredictor, chosen)

    def _watch(self, predictor: Any, chosen: Any) -> None:
        watch, slices = self.clock.watch, "bookkeeping: slices of trajectories"
        for owner in (self._memory_ema.get_module(), self._predictor_ema.get_module()):
            watch(owner, "forward", "networks: pass")
        watch(self._predictor_ema.get_module(), "predict_context", "networks: pass")
        watch(self._memory_net, "forward", "networks: memory forward")
        watch(self._predictor_net, "forward", "networks: predictor forward")
        watch(torch.autograd, "backward", "networks: backward")
        watch(self._context, "process_", "bookkeeping: pass")
        watch(self._detector, "make_estimate", "bookkeeping: pass")
        watch(chosen, "select_target_idx", "bookkeeping: selection")
        watch(predictor, "expand_memory", "bookkeeping: memories beside targets", staticmethod)
        for part in (self._memory, self._predictor):
            watch(part.preprocessor, "process", slices)
        for optimizer in self._optimizers.values():
            watch(optimizer, "step", "optimizer: step")

    def updates(self, kind: str) -> Iterator[None]:
        """Train for ever: every item is one update."""
        batches = iter(self._samplers[kind].epoch(self.sizes.lanes, sys.maxsize))
        state = self._memory.init_state(self.sizes.lanes)
        context = self._predictor.init_state(self.sizes.lanes) if kind == "predictor" else None
        while True:
            self._memory_net.requires_grad_(kind == "memory")
            self._predictor_net.lstm.requires_grad_(kind == "predictor")
            with self.clock.part("bookkeeping: batch"):
                batch = next(batches)
            with self.clock.part("optimizer: loss, clipping and the rest"):
                out = self._training.update_on_batch_two_rnn(
                    batch,
                    self._memory,
                    self._predictor,
                    state,
                    context,
                    self._criterion,
                    self._optimizers[kind],
                    multiplier=0.1 if kind == "memory" else 1,
                )
            state, context = out["mem_state"], out["pred_state"]
            yield
