"""Processes for a measurement: started fresh, one quiet thread each, joined in a gloo group, ended whatever happens."""

import faulthandler
import gc
import multiprocessing as mp
import os
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

# OpenMP reads these when it loads, before any of our code runs in a new process.
QUIET = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
GOODBYE_S = 10.0


@dataclass(frozen=True)
class Process:
    """What a process of the group is told of itself.

    Args:
        rank: from 0.
        count: processes in the group.
        store: shared by all of them.
        tell: says something to whoever started them, at once.
    """

    rank: int
    count: int
    store: dist.Store
    tell: Callable[[object], None]


Work = Callable[..., Any]


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for what is started inside the block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _child(work: Work, rank: int, count: int, meeting: str, link: Connection, arguments: tuple[Any, ...]) -> None:
    """Work as one process of the group; tells its result, or its error as text."""
    faulthandler.enable()
    torch.set_num_threads(1)
    try:
        store = dist.FileStore(meeting, count)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=count, timeout=timedelta(seconds=120))
        here = Process(rank, count, dist.PrefixStore("work", store), lambda said: link.send(("told", said)))
        link.send(("result", work(here, *arguments)))
        gc.collect()  # exchanges and pipelines hold process groups
        dist.barrier()
        dist.destroy_process_group()
    except BaseException:
        link.send(("error", traceback.format_exc()))
        raise SystemExit(1) from None


def in_processes(
    work: Work, processes: int, *arguments: Any, timeout_s: float = 900.0, told: Callable[[object], None] | None = None
) -> list[Any]:
    """Run `work(process, *arguments)` in new processes, all in one gloo group, and return what each returned.

    Args:
        work: a function of a module; what it returns is pickled, and may hold arrays but no tensors: those would lie in
            memory that ends with the process.
        processes: how many.
        arguments: pickled.
        timeout_s: after so long without any result or word all are ended.
        told: takes what a process says by `tell(...)` meanwhile.

    Raises:
        RuntimeError: a process failed, with its own traceback; ended without a word; or was silent for too long.
    """
    context = mp.get_context("spawn")
    links, others = zip(*[context.Pipe(duplex=False) for _ in range(processes)], strict=True)
    with tempfile.TemporaryDirectory() as folder:
        meeting = str(Path(folder) / "meeting")
        children = [
            context.Process(target=_child, args=(work, rank, processes, meeting, others[rank], arguments), daemon=True)
            for rank in range(processes)
        ]
        try:
            with _environment(QUIET):
                for child in children:
                    child.start()
            for other in others:
                other.close()
            results = _results(list(links), timeout_s, told)
        except BaseException:
            _end(children, 0.0)
            raise
        _end(children, GOODBYE_S)
        return results


def _results(links: list[Connection], timeout_s: float, told: Callable[[object], None] | None) -> list[Any]:
    results: dict[int, Any] = {}
    while len(results) < len(links):
        waiting = [link for rank, link in enumerate(links) if rank not in results]
        ready = wait(waiting, timeout_s)
        if not ready:
            silent = [rank for rank in range(len(links)) if rank not in results]
            raise RuntimeError(
                f"processes {silent} of {len(links)} said nothing for {timeout_s:.0f} s; they were ended"
            )
        for link in ready:
            rank = links.index(link)  # type: ignore[arg-type]
            try:
                kind, value = links[rank].recv()
            except EOFError:
                raise RuntimeError(f"process {rank} of {len(links)} ended without a word: killed, or crashed") from None
            if kind == "error":
                raise RuntimeError(f"process {rank} of {len(links)} failed:\n{value}")
            if kind == "result":
                results[rank] = value
            elif told is not None:
                told(value)
    return [results[rank] for rank in range(len(links))]


def _end(children: Sequence[BaseProcess], patience_s: float) -> None:
    """End the processes, those that have their results after a moment in which they may do so by themselves."""
    deadline = time.monotonic() + patience_s
    for child in children:
        if child.pid is None:
            continue
        child.join(max(0.0, deadline - time.monotonic()))
        if child.is_alive():
            child.kill()
            child.join()
        child.close()
