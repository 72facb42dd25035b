"""Real processes that start at once: forked from a server that imports torch and Lightning one time a session."""

import multiprocessing
from multiprocessing.context import BaseContext

PRELOADED = [
    "lightning_modules.action_recognition",
    "lightning_modules.strategies.depth_parallel",
    "lightning_modules.metrics.processes",
    "tests.lightning_modules.toy_clips",
    "pytest",
]


def forked() -> BaseContext:
    """Return the context. Its processes have the environment of the first call, and nothing else of the tests."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context
