"""The workers of one `sweep` command: started, replaced when they die, ended."""

from __future__ import annotations

import multiprocessing
import os
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from typing import Any

from app.comparison.pool import GRACE_S, environment
from app.study.plan import Plan
from app.study.worker import serve

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
FRUITLESS_DEATHS = 3  # workers that end badly, one after another, with no trial ended in between


@dataclass
class Team:
    """`jobs` worker processes. Each has its share of the cores, and a GPU of its own where there are several."""

    plan: Plan
    jobs: int
    parent_run_id: str | None
    runner: Any
    workers: dict[int, BaseProcess] = field(default_factory=dict)  # by place, 0 to jobs - 1
    deaths: int = 0

    @property
    def alive(self) -> bool:
        """Whether some worker runs."""
        return any(worker.is_alive() for worker in self.workers.values())

    def fill(self) -> None:
        """Start a worker at every place that has none."""
        for place in range(self.jobs):
            if place not in self.workers:
                self.workers[place] = self._start(place)

    def bury(self) -> list[str]:
        """Forget the workers that have ended; return a sentence for each that ended badly."""
        said = []
        for place, worker in list(self.workers.items()):
            if worker.is_alive():
                continue
            worker.join()
            del self.workers[place]
            if worker.exitcode:
                self.deaths += 1
                hint = ": killed, perhaps for memory; try fewer --jobs" if worker.exitcode == -9 else ""
                log = self.plan.output / "logs" / f"worker-{worker.pid}.log"
                said.append(f"a worker ended with exit code {worker.exitcode}{hint} (its log: {log})")
        return said

    def check_deaths(self) -> None:
        """Refuse to start workers for ever. Errors: ValueError after FRUITLESS_DEATHS without a trial in between."""
        if self.deaths >= FRUITLESS_DEATHS:
            raise ValueError(
                f"{self.deaths} workers ended badly and no trial with them; read {self.plan.output}/logs/worker-*.log, "
                "then run the same command again: finished trials are kept"
            )

    def _start(self, place: int) -> BaseProcess:
        context = multiprocessing.get_context("spawn")
        process = context.Process(target=serve, args=(self.plan, self.parent_run_id, self.runner), name="sweep-worker")
        with environment(self._environment(place)):  # read when the new interpreter loads OpenMP and CUDA
            process.start()
        return process

    def _environment(self, place: int) -> dict[str, str]:
        threads = str(max(1, _cores() // self.jobs))
        chosen = {name: os.environ.get(name, threads) for name in THREADS}
        chosen["OMP_WAIT_POLICY"] = os.environ.get("OMP_WAIT_POLICY", "passive")
        gpus = _gpus()
        if self.jobs > 1 and len(gpus) > 1:
            chosen["CUDA_VISIBLE_DEVICES"] = gpus[place % len(gpus)]
        return chosen

    def end(self) -> None:
        """End all workers: by SIGTERM, which gives their trials back, and by SIGKILL if that takes too long."""
        for worker in self.workers.values():
            if worker.is_alive():
                worker.terminate()
        for worker in self.workers.values():
            worker.join(GRACE_S)
            if worker.is_alive():
                worker.kill()
                worker.join()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _gpus() -> list[str]:
    """Return the names of the GPUs that this process may use."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name for name in given.split(",") if name]
    import torch

    return [str(index) for index in range(torch.cuda.device_count())]
