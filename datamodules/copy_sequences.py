"""CopySequences, ScatteredCopySequences: symbols to remember over blanks, asked for at the end (methods.md section 6).

    CopySequences      x   3 1 7 | b b b b b b b b | ? ? ?        symbols 0-7, blank b = 8, question ? = 9
                       y   b b b | b b b b b b b b | 3 1 7
    Scattered          x   b b 3 b b b b 1 b 7 b   | ? ? ?        in the order in which they stood

With `numbered` the questions are 9, 10, 11, ... [C]: each says itself which symbol is asked for. Otherwise that takes a
local context of as many steps as there are symbols.

Shape legend: B lanes, N any steps, S symbols to remember.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.counter_random import below
from datamodules.lanes import IGNORE, Lanes, StreamSource, names, roots, same_length
from datamodules.loader import Key
from datamodules.long_streams import LongStreamData

ALPHABET = 8
BLANK = ALPHABET
QUERY = ALPHABET + 1
_SYMBOLS, _PLACES = 0, 1

Places = Callable[[np.ndarray, int, int], np.ndarray]


class CopyLanes(Lanes):
    """Lanes of symbols and blanks, then questions.

    Args:
        ids: names of the streams.
        symbols_BS: what is to be remembered, int64.
        places_BS: the steps at which it stands, int64, ascending.
        steps: of each stream.
        numbered: the questions differ.
    """

    def __init__(
        self, ids: Sequence[str], symbols_BS: Tensor, places_BS: Tensor, *, steps: int, numbered: bool
    ) -> None:
        lanes, symbols = symbols_BS.shape
        self.first = steps - symbols  # question
        super().__init__(
            ids, same_length(steps, lanes), torch.arange(self.first, steps).expand(lanes, symbols).contiguous()
        )
        self.symbols_BS, self.places_BS, self.steps, self.numbered = symbols_BS, places_BS, steps, numbered

    def read(self, steps_BN: Tensor) -> tuple[Tensor, Tensor]:
        """Return symbols and what is asked, both int64 (B, N)."""
        last = self.symbols_BS.shape[1] - 1
        at_BN = torch.searchsorted(self.places_BS, steps_BN.contiguous()).clamp_(max=last)
        stands_BN = self.places_BS.gather(1, at_BN) == steps_BN
        number_BN = (steps_BN - self.first).clamp(0, last)
        asked_BN, inside_BN = steps_BN >= self.first, self.inside(steps_BN)
        questions_BN = QUERY + number_BN * self.numbered
        x_BN = torch.where(stands_BN, self.symbols_BS.gather(1, at_BN), BLANK)
        y_BN = torch.where(asked_BN, self.symbols_BS.gather(1, number_BN), BLANK)
        return torch.where(asked_BN, questions_BN, x_BN) * inside_BN, y_BN.masked_fill_(~inside_BN, IGNORE)

    def only(self, rows: Tensor) -> "CopyLanes":
        """Return some lanes of these."""
        ids = [self.ids[row] for row in rows.tolist()]
        return CopyLanes(ids, self.symbols_BS[rows], self.places_BS[rows], steps=self.steps, numbered=self.numbered)


class CopySource(StreamSource):
    """Streams to copy, drawn from (seed, epoch, index) in training, else from the index alone.

    Args:
        split: `train`, `val` or `test`.
        streams: of an epoch.
        seed: of training.
        symbols: to remember in each stream.
        gap: blanks.
        numbered: the questions differ.
        places: gives the steps (B, S) at which the symbols stand, from a number for each stream, S, and the steps that
            there are.
    """

    def __init__(
        self, split: str, streams: int, seed: int, *, symbols: int, gap: int, numbered: bool, places: Places
    ) -> None:
        super().__init__(np.full(streams, gap + 2 * symbols))
        self.split, self.seed, self.symbols, self.gap = split, seed, symbols, gap
        self.numbered, self.places = numbered, places

    def lanes(self, keys: Sequence[Key]) -> CopyLanes:
        """Return streams side by side."""
        roots_B = roots(self.split, self.seed, keys)
        symbols_BS = below(ALPHABET, roots_B[:, None], _SYMBOLS, np.arange(self.symbols))
        places_BS = self.places(roots_B, self.symbols, self.symbols + self.gap)
        return CopyLanes(
            names(self.split, keys),
            torch.from_numpy(symbols_BS),
            torch.from_numpy(places_BS),
            steps=self.gap + 2 * self.symbols,
            numbered=self.numbered,
        )


def at_the_beginning(roots_B: np.ndarray, symbols: int, steps: int) -> np.ndarray:
    """Return the first steps, (B, S)."""
    return np.tile(np.arange(symbols), (len(roots_B), 1))


def anywhere(roots_B: np.ndarray, symbols: int, steps: int) -> np.ndarray:
    """Return `symbols` different steps of `steps` for each stream, all choices equally likely, ascending, (B, S).

    Floyd's way, which takes O(S) however many steps there are: Bentley and Floyd, "Programming pearls: a sample of
    brilliance", Communications of the ACM 30(9), 1987.
    """
    taken_BS = np.full((len(roots_B), symbols), -1)
    for number, newest in enumerate(range(steps - symbols, steps)):
        drawn_B = below(newest + 1, roots_B, _PLACES, number)
        known_B = (taken_BS == drawn_B[:, None]).any(axis=1)
        taken_BS[:, number] = np.where(known_B, newest, drawn_B)
    return np.sort(taken_BS, axis=1)


class CopySequences(LongStreamData):
    """The copy task: 10 symbols, blanks, then all of them again (methods.md section 6 [P, C]); scored at the last ones.

    Args:
        gap: blanks between the symbols and the questions; a stream has gap + 2 * symbols steps.
        symbols: to remember, each one of eight.
        numbered: each question says which symbol it asks for, so that a local context of one step is enough.
        options: of all long streams; see LongStreamData.
    """

    dataset_name = "copy_sequences"
    split_name = "generated"
    input_kind = "symbols"
    places: Places = staticmethod(at_the_beginning)

    def __init__(self, gap: int = 100, symbols: int = 10, numbered: bool = False, **options: Any) -> None:
        if gap < 0 or symbols < 1:
            raise ValueError(
                f"gap {gap}, symbols {symbols}: expected 0 or more, and 1 or more, as --data.gap 100 --data.symbols 10"
            )
        super().__init__(gap + 2 * symbols, gap, symbols, **options)
        self.symbols, self.numbered = symbols, numbered
        self.channels = QUERY + (symbols if numbered else 1)
        self.class_names = [*map(str, range(ALPHABET)), "blank"]

    def settings(self) -> dict[str, Any]:
        """Return what the streams are made from."""
        return {"task": self.dataset_name, "gap": self.gap, "symbols": self.symbols, "numbered": self.numbered}

    def source(self, split: str) -> CopySource:
        """Return the streams of a split."""
        return CopySource(
            split,
            self.streams[split],
            self.seed,
            symbols=self.symbols,
            gap=self.gap,
            numbered=self.numbered,
            places=self.places,
        )


class ScatteredCopySequences(CopySequences):
    """The copy task with the symbols at random places among the blanks (methods.md section 6 [P]).

    Args:
        gap: blanks in all; a stream has gap + 2 * symbols steps.
        symbols: to remember, each one of eight, in the order in which they stand.
        numbered: each question says which symbol it asks for, so that a local context of one step is enough.
        options: of all long streams; see LongStreamData.
    """

    dataset_name = "scattered_copy_sequences"
    places: Places = staticmethod(anywhere)
