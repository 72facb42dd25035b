"""How a command that can be continued ends: refused, or stopped with what is done kept."""

import signal
import sys
from collections.abc import Callable
from typing import Any

REFUSED, STOPPED = 2, 130


def resumable(command: str, kept: str, work: Callable[[], int]) -> int:
    """Run `work` and return its exit code: 2 with one sentence for a ValueError, 130 for Ctrl-C and SIGTERM.

    `kept`: what is not lost when the command is stopped, as people call it (cells, trials).
    """
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return work()
    except ValueError as error:
        print(f"{command}: {error}", file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt:
        print(f"\nStopped. Finished {kept} are kept: the same command continues.", file=sys.stderr)
        return STOPPED


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt
