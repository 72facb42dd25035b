"""Which of the libraries' remarks a user of the command line is spared, each with the reason."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

SPARED_WARNINGS = (
    # Our clips are rendered, or kept in memory: worker processes would only cost.
    ".*does not have many workers.*",
    # Steps are counted over epochs, so short epochs are logged all the same.
    ".*is smaller than the logging interval.*",
    # Data without a validation split gives an empty list of loaders, which is meant.
    ".*Total length of `list` across ranks is zero.*",
    # Our figures are the same in every process before they are logged: the team sees to it.
    ".*It is recommended to use .*sync_dist=True.*",
    # Lightning 2.6 on torch 2.13: theirs to mend.
    ".*isinstance\\(treespec, LeafSpec\\).*",
)


class _NoAdvertising(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return "Tip:" not in record.getMessage()


@contextmanager
def without_noise(quiet: bool = False) -> Iterator[None]:
    """Spare remarks inside the block; with `quiet`, all of Lightning's information. Everything is put back after."""
    lightning = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    remarks = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    levels, advertising = [logger.level for logger in lightning], _NoAdvertising()
    remarks.addFilter(advertising)
    with warnings.catch_warnings():
        for pattern in SPARED_WARNINGS:
            warnings.filterwarnings("ignore", message=pattern)
        try:
            for logger in lightning if quiet else ():
                logger.setLevel(logging.ERROR)
            yield
        finally:
            remarks.removeFilter(advertising)
            for logger, level in zip(lightning, levels, strict=True):
                logger.setLevel(level)
