"""Real processes that start at once: forked from a server that imports what they need one time a session."""

import multiprocessing
from multiprocessing.context import ForkServerContext

_PRELOADED: list[str] = []


def preload(*modules: str) -> None:
    """Let the server import these. To be called as test modules are read, before any test runs."""
    _PRELOADED.extend(name for name in modules if name not in _PRELOADED)


def forked() -> ForkServerContext:
    """Return the context. Its processes have the environment of the first one's start."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    return context
