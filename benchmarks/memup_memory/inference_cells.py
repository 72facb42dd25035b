"""Inference on one stream: whole, as a test reads it, and step by step, as a camera gives it."""

from dataclasses import replace

import torch
from cells import map_tensors
from stream_cells import CPU, Cell, cpu_ms, data_of, model_of, resident_mib
from torch import Tensor

from lightning_modules.memory.watching import Watcher
from lightning_modules.metrics.latency import percentile
from lightning_modules.metrics.memory import peak_mib, tensors_in

PIECE = 64  # steps that are read at once, to be fed one by one


def _answered(cell: Cell) -> dict[str, float]:
    data = data_of(cell)
    model, lane = model_of(cell, data).eval(), data.source("test").lanes([(0, 0)])
    return {"frame_us": 1000 * cpu_ms(lambda: model.answers(lane)) / data.steps}


def _watched(cell: Cell) -> dict[str, float]:
    data = data_of(cell)
    model, lane = model_of(cell, data).eval(), data.source("test").lanes([(0, 0)])
    watcher = Watcher(model.network, model.encoder)
    ticks_us: list[float] = []
    for start in range(0, data.steps, PIECE):
        x, _ = lane.read(torch.arange(start, min(start + PIECE, data.steps))[None])
        ticks_us += [1000 * _fed(watcher, step) for step in x[0].split(1)]
    kept = list(tensors_in(vars(watcher)))
    return {"tick_us": percentile(ticks_us[-PIECE:], 50), "held_kib": sum(t.nbytes for t in kept) / 1024}


def _fed(watcher: Watcher, step: Tensor) -> float:
    return cpu_ms(lambda: watcher.feed(step))


def inference_of(cell: Cell, small: int, step_by_step: bool) -> dict[str, float]:
    """Return what inference takes: peak in MiB above the start, CPU time in us, and what is held between steps in KiB.

    Args:
        cell: what is measured.
        small: gap of the warm-up.
        step_by_step: by a Watcher, whose time is that of the stream's last steps; else the whole stream's.
    """
    map_tensors()
    measured = _watched if step_by_step else _answered
    measured(replace(cell, gap=small))
    before = resident_mib()
    found = measured(cell)
    return found | {"watcher_mib" if step_by_step else "answers_mib": peak_mib(CPU) - before}
