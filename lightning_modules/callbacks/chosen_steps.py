"""Which steps a memory chose to remember for: the artifacts `memory/...` of a test on long streams.

    memory/streams.json    how steps are chosen, and the streams that follow
    memory/NAME.npz        one stream: uncertainty (T,), chosen (K,), target (T,), prediction (A,), probability (A,);
                           of videos also `shown` (n,), steps, and their `frames` (n, C, H, W)

Shape legend: T steps of a stream, K chosen steps, A answers (steps that are scored), n shown steps.
"""

import json
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback

FOLDER, INDEX, SCHEMA = "memory", "streams.json", 1
MOST_STREAMS, MOST_SHOWN = 8, 24
_CUES, _CHOSEN = 4, 8  # of them, shown at most
_PIECE = 256  # steps read at a time, of which the targets are kept


class ChosenSteps(Callback):
    """Stores a test's first streams with every logger that has `log_folder(folder, artifact_path)`."""

    def __init__(self) -> None:
        self._streams: list[tuple[dict[str, Any], dict[str, np.ndarray]]] = []

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forget the last test."""
        self._streams = []

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Look at streams that are among the first, where the task has a memory and some logger takes folders."""
        wanted = MOST_STREAMS - len(self._streams)
        if not hasattr(pl_module, "choices") or wanted < 1 or not _loggers(trainer):
            return
        gap = int(getattr(trainer.datamodule, "gap", 0))  # type: ignore[attr-defined]
        lanes = batch["lanes"]
        few = lanes.only(torch.arange(min(wanted, len(lanes.lengths_B))))
        self._streams += streams_of(pl_module, few, gap)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Store them."""
        if not self._streams:
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        with tempfile.TemporaryDirectory() as folder:
            entries = []
            for number, (entry, arrays) in enumerate(self._streams):
                name = f"{number}-{re.sub(r'[^A-Za-z0-9._-]', '_', entry['id'])[:80]}.npz"
                np.savez_compressed(Path(folder) / name, **arrays)  # type: ignore[arg-type]
                entries.append(entry | {"file": f"{FOLDER}/{name}"})
            index = about(pl_module, data) | {"streams": entries}
            (Path(folder) / INDEX).write_text(json.dumps(index), encoding="utf-8")
            for logger in _loggers(trainer):
                logger.log_folder(folder, FOLDER)


def about(task: Any, data: Any) -> dict[str, Any]:
    """Return what the streams have in common: how steps were chosen, and what the data calls its classes."""
    detects = task.detector is not None
    return {
        "schema": SCHEMA,
        "detector": task.hparams["detector"] if detects else "",
        "selector": task.hparams["select"] if task.hparams["rule"] == "memup" else "",
        "k": int(task.hparams["k"]) if detects else 0,
        "rollout": int(task.rollout),
        "gap": int(getattr(data, "gap", 0)),
        "input_kind": str(task.hparams["input_kind"]),
        "class_names": [] if task.question.outputs == 1 else [str(name) for name in getattr(data, "class_names", [])],
    }


@torch.no_grad()
def streams_of(task: Any, lanes: Any, gap: int) -> list[tuple[dict[str, Any], dict[str, np.ndarray]]]:
    """Return each stream's entry in the index, without its file, and its arrays.

    Args:
        task: has `answers(lanes)`, and `choices(lanes)` where it has a detector.
        lanes: streams side by side.
        gap: steps between what is to be remembered and the question; 0 where it is not known.
    """
    outputs_BAK, targets_BA = (part.cpu() for part in task.answers(lanes))
    chosen_BK = torch.full((len(targets_BA), 1), -1)
    uncertainty_BT = torch.full((len(targets_BA), int(lanes.lengths_B.max())), torch.nan)
    if task.detector is not None:
        uncertainty_BT, chosen_BK = (part.cpu() for part in task.choices(lanes))
    found = []
    for lane, steps in enumerate(lanes.lengths_B.tolist()):
        one = lanes.only(torch.tensor([lane]))
        given = lanes.answers_BA[lane] >= 0
        answers, chosen = lanes.answers_BA[lane][given].tolist(), chosen_BK[lane]
        cue = cue_end(answers, gap)
        uncertainty = uncertainty_BT[lane, :steps].float()
        arrays = {
            "uncertainty": uncertainty.masked_fill(uncertainty.isinf(), torch.nan).numpy(),
            "chosen": chosen.numpy(),
            "target": _targets(one, steps),
            **_said(outputs_BAK[lane, given], targets_BA[lane, given]),
        }
        known = [step for step in chosen.tolist() if step >= 0]
        if task.hparams["input_kind"] == "frames":
            shown = shown_steps(steps, answers, known, cue)
            arrays |= {"shown": np.array(shown), "frames": _frames(one, shown)}
        first = known[: len(answers)]
        precision = len({*first} & {*answers}) / len(first) if first else None
        entry = {"id": lanes.ids[lane], "steps": steps, "cue": cue, "answers": answers, "chosen": known}
        found.append((entry | {"precision": precision}, arrays))
    return found


def cue_end(answers: list[int], gap: int) -> int:
    """Return how many steps there are before the gap that ends with the first answer: the cue; 0 where not known."""
    return max(answers[0] - gap, 0) if gap and answers else 0


def shown_steps(steps: int, answers: list[int], chosen: list[int], cue: int) -> list[int]:
    """Return the steps whose frames are stored, ascending: of the cue, chosen ones, answers, others spread evenly.

    Args:
        steps: of the stream.
        answers: its scored steps, ascending.
        chosen: the most uncertain first.
        cue: steps of the cue, with which the stream begins.
    """
    first = [*_spread(range(cue), _CUES), *chosen[:_CHOSEN], *_spread(answers, _CUES)]
    kept = list(dict.fromkeys(first))
    rest = [step for step in range(steps) if step not in kept] if steps <= MOST_SHOWN else range(steps)
    between = [step for step in _spread(rest, MOST_SHOWN - len(kept)) if step not in kept]
    return sorted([*kept, *between])


def _spread(steps: Iterable[int], most: int) -> list[int]:
    """Return at most so many of the steps, the first and the last among them."""
    every = steps if isinstance(steps, range) else [*steps]
    if len(every) <= most:
        return [*every]
    return [every[round(i)] for i in np.linspace(0, len(every) - 1, most)]


def _said(outputs_AK: torch.Tensor, targets_A: torch.Tensor) -> dict[str, np.ndarray]:
    """Return the predictions, and the probabilities of the right classes (not a number where numbers are asked for)."""
    if outputs_AK.shape[-1] == 1:
        prediction = outputs_AK[:, 0].float()
        return {"prediction": prediction.numpy(), "probability": np.full(len(prediction), np.nan, np.float32)}
    right = outputs_AK.softmax(-1).gather(1, targets_A.clamp_min(0)[:, None])[:, 0]
    return {"prediction": outputs_AK.argmax(-1).numpy(), "probability": right.float().numpy()}


def _targets(one: Any, steps: int) -> np.ndarray:
    """Return the targets of a whole stream; what is read with them is given back piece by piece."""
    pieces = [torch.arange(at, min(at + _PIECE, steps)) for at in range(0, steps, _PIECE)]
    return torch.cat([one.read(piece[None])[1][0] for piece in pieces]).numpy()


def _frames(one: Any, shown: list[int]) -> np.ndarray:
    return one.read(torch.tensor(shown)[None])[0][0].numpy()


def _loggers(trainer: pl.Trainer) -> list[Any]:
    return [logger for logger in trainer.loggers if hasattr(logger, "log_folder")]
