"""Long streams that are tensors, which tell what was read of them, and small memory networks in float64."""

import numpy as np
import torch

from datamodules.lanes import IGNORE, Lanes, StreamSource
from datamodules.long_streams import LongStreamData
from lightning_modules.memory.encoders import Encoder
from lightning_modules.memory.local_model import LocalContext
from lightning_modules.memory.memory_network import MemoryNetwork
from lightning_modules.memory.predictor import Predictor
from lightning_modules.memory.recurrent import Recurrent
from lightning_modules.memory.window_transformer import WindowTransformer

CPU = torch.device("cpu")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


class Held(Lanes):
    """Lanes whose steps are all in x_BT and y_BT; `asked` lists what was read, call by call."""

    def __init__(self, x_BT, y_BT, answers_BA=None, lengths_B=None, ids=None):
        B, T = y_BT.shape
        lengths_B = torch.full((B,), T) if lengths_B is None else torch.as_tensor(lengths_B)
        answers_BA = lengths_B[:, None] - 1 if answers_BA is None else torch.as_tensor(answers_BA)
        super().__init__([f"held-{i}" for i in range(B)] if ids is None else ids, lengths_B, answers_BA)
        self.x_BT, self.y_BT, self.asked = x_BT, y_BT, []

    def read(self, steps_BN):
        self.asked.append(steps_BN.clone())
        inside_BN, rows = self.inside(steps_BN), torch.arange(len(self.ids))[:, None]
        at_BN = steps_BN.clamp(0, self.y_BT.shape[1] - 1)
        x, y = self.x_BT[rows, at_BN], self.y_BT[rows, at_BN]
        nothing = torch.nan if y.is_floating_point() else IGNORE
        return x * inside_BN.view(*inside_BN.shape, *[1] * (x.dim() - 2)), y.masked_fill(~inside_BN, nothing)

    def only(self, rows):
        ids = [self.ids[row] for row in rows.tolist()]
        return Held(self.x_BT[rows], self.y_BT[rows], self.answers_BA[rows], self.lengths_B[rows], ids)


class Raw(Encoder):
    """Vectors as they are, in their own precision."""

    def __init__(self, features):
        super().__init__()
        self.features = features

    def forward(self, x):
        return x


def make_network(memory="lstm", *, features=3, hidden=4, layers=1, window=1, outputs=5, transformer_window=3, seed=0):
    """A memory network in float64."""
    torch.manual_seed(seed)
    if memory == "transformer":
        made = WindowTransformer(hidden, hidden, layers, transformer_window)
    else:
        made = Recurrent(memory, hidden, hidden, layers)
    context = LocalContext(features, window, 6)
    return MemoryNetwork(features, made, context, Predictor(6, hidden, 7, outputs)).double()


def vectors(B, T, *, features=3, classes=5, seed=1, **options):
    """Lanes of random vectors in float64, with a random class at every step."""
    x = torch.randn(B, T, features, dtype=torch.float64, generator=seeded(seed))
    return Held(x, torch.randint(classes, (B, T), generator=seeded(seed + 1)), **options)


class HeldSource(StreamSource):
    """A finite number of streams from tensors; `of(indices)` gives their lanes."""

    endless = False

    def __init__(self, lengths, of):
        super().__init__(np.array(lengths))
        self.of = of

    def lanes(self, keys):
        return self.of([index for _, index in keys])


class Recall(LongStreamData):
    """Symbols: the first of each stream is asked for at its last step, where the symbol `classes` stands.

    In between are blanks, of which it is asked that they are blanks; streams may differ in length.
    """

    dataset_name, split_name, input_kind = "recall", "toy", "symbols"

    def __init__(self, lengths=(12,) * 16, classes=2, **options):
        self.lengths, self.classes = torch.tensor(lengths), classes
        streams = dict.fromkeys(("train_streams", "val_streams", "test_streams"), len(lengths))
        super().__init__(
            int(self.lengths.max()), int(self.lengths.max()) - 2, 1, **{"batch_size": 8, **streams} | options
        )
        self.channels = classes + 2
        self.class_names = [*map(str, range(classes)), "blank"]

    def settings(self):
        return {}

    def source(self, split):
        return HeldSource(self.lengths.tolist(), self.made)

    def made(self, indices):
        lengths = self.lengths[indices]
        x = torch.full((len(indices), int(lengths.max())), self.classes)
        y = x.clone()
        x[:, 0] = torch.tensor(indices) % self.classes
        x[torch.arange(len(indices)), lengths - 1] = self.classes + 1
        y[torch.arange(len(indices)), lengths - 1] = x[:, 0]
        return Held(x, y, lengths_B=lengths, ids=[f"recall-{index}" for index in indices])
