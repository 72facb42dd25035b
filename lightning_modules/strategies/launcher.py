"""Starts one process for each further stage of this host, and leaves none behind.

Each process runs the command again, as Lightning's own launcher does, with its LOCAL_RANK. Lightning's kills the first
process without a word when another one fails; here the stages' watchdog says what happened and ends them all.
"""

import atexit
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher

_THREADS = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
ORDERLY_S = 8.0


class StageLauncher(_SubprocessScriptLauncher):
    """Launches the stages of this host; under torchrun or a cluster's launcher they are there already."""

    patience_s = ORDERLY_S  # how long the others may take to end by themselves

    def launch(self, function: Callable, *args: Any, trainer: Any = None, **kwargs: Any) -> Any:
        """Start the other processes, once nothing speaks against it, then call the function."""
        if trainer is not None:
            trainer.strategy.checked_network(trainer)
        self.cluster_environment.validate_settings(num_devices=self.num_processes, num_nodes=self.num_nodes)
        if not self.cluster_environment.creates_processes_externally and not self.procs:
            for name, value in _THREADS.items():
                os.environ.setdefault(name, value)  # read by OpenMP as a process starts
            self._call_children_scripts()
            atexit.register(self.end_children)
            threading.Thread(target=self._observe, daemon=True, name="stage observer").start()
        import torch

        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
        return function(*args, **kwargs)

    def _observe(self) -> None:
        """End this process where another one failed and nothing else has, such as before the watchdog was there."""
        while all(proc.poll() in (None, 0) for proc in self.procs):
            if all(proc.poll() == 0 for proc in self.procs):
                return
            time.sleep(0.2)
        time.sleep(ORDERLY_S)
        failed = next(proc for proc in self.procs if proc.poll() not in (None, 0))
        rank = self.procs.index(failed) + 1
        print(
            f"skip-sideways: error: the process of local rank {rank} ended with status {failed.returncode}; "
            "what it said stands above. All other stages have been ended.",
            file=sys.stderr,
            flush=True,
        )
        self.end_children()
        os._exit(1)

    def end_children(self) -> None:
        """Wait for the other processes for a while, then end them."""
        deadline = time.monotonic() + self.patience_s
        for proc in self.procs:
            try:
                proc.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                proc.kill()
                proc.wait()
