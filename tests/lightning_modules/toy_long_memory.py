"""Every method of LongMemory, small, on toy streams, and what watches its training."""

import torch
from lightning import seed_everything
from lightning.pytorch.callbacks import Callback
from test_action_recognition import trainer
from toy_memory import Held, HeldSource, Recall, seeded

from datamodules.long_streams import LongStreamData
from lightning_modules.long_memory import LongMemory

SMALL = {"hidden": 16, "context_width": 16, "predictor_width": 16, "lr": 1e-2, "rollout": 4, "k": 2}
TRUNCATED = {"rule": "truncated_backprop"}
ENTROPY = {"detector_updates": 5}
METHODS = {
    "entropy": ENTROPY,
    "entropy gru": {**ENTROPY, "memory": "gru", "chrono": 12, "layers": 2, "predict_every": 2, "context": 2},
    "gumbel": {**ENTROPY, "select": "gumbel_top_k"},
    "surprise": {"detector": "surprise", "ema_decay": 0.5},
    "oracle": {"detector": "oracle", "select": "top_k+current", "k": 1, "lr": 3e-2, "predict_every": 1, "chrono": 12},
    "current": {"select": "current", "detector_updates": 0},
    "memup transformer": {**ENTROPY, "memory": "transformer"},
    "truncated": {**TRUNCATED, "optimizer": "sgd", "lr": 0.1},
    "truncated transformer": {**TRUNCATED, "memory": "transformer"},
    "full": {"rule": "full_backprop", "memory": "gru"},
}


class Bars(LongStreamData):
    """Frames: a bar at the left or right at first, asked for at the bright last frame; noise in between."""

    dataset_name, split_name, input_kind, channels, size = "bars", "toy", "frames", 1, 8

    def __init__(self, steps=10, lengths=None, **options):
        self.lengths = torch.tensor(lengths or [steps] * 16)
        streams = dict.fromkeys(("train_streams", "val_streams", "test_streams"), len(self.lengths))
        super().__init__(steps, steps - 2, 1, **{"batch_size": 8, **streams} | options)
        self.class_names = ["left", "right", "dark"]

    def settings(self):
        return {}

    def source(self, split):
        return HeldSource(self.lengths.tolist(), self.made)

    def made(self, indices):
        sides = torch.tensor(indices) % 2
        x = torch.randint(40, (16, self.steps, 1, 8, 8), generator=seeded()).byte()[list(indices)]
        x[torch.arange(len(indices)), 0, 0, :, sides * 6] = 200
        lanes, lengths = torch.arange(len(indices)), self.lengths[list(indices)]
        x[lanes, lengths - 1] = 255
        y = torch.full((len(indices), self.steps), 2)
        y[:, 0] = y[lanes, lengths - 1] = sides
        return Held(x, y, lengths_B=lengths, ids=[f"bars-{index}" for index in indices])


FRAMES = {**ENTROPY, "encoder": "detached", "network": "small_cnn", "depth": 3, "width": 0.25, "projections": 4}
VIDEO_METHODS = {
    "detached": FRAMES,
    "frozen": {**FRAMES, "encoder": "frozen"},
    "joint": {**FRAMES, "encoder": "joint", "detector": "surprise"},
    "sideways": {**FRAMES, "encoder": "sideways", "wiring": "concat"},
    "sideways truncated": {**FRAMES, **TRUNCATED, "encoder": "sideways"},
}
ALL = {**METHODS, **VIDEO_METHODS}


def model(data, **options):
    seed_everything(0, verbose=False)
    facts = {"num_classes": data.num_classes, "in_channels": data.channels, "input_kind": data.input_kind}
    return LongMemory(**{**SMALL, **facts, **options})


def told(data, module):
    """Tell the data the rollout, as the command line does."""
    data.rollout = module.rollout
    return data


def fitted(tmp_path, options, *callbacks, data=None, **trainer_options):
    data = Recall() if data is None else data
    module = model(data, **options)
    fit = trainer(tmp_path, *callbacks, **{"max_epochs": 2, **trainer_options})
    fit.fit(module, told(data, module))
    return module, fit


def data_of(method):
    return Bars() if method in VIDEO_METHODS else Recall()


def right_of(module, lanes):
    """The share of right answers, one scored step after another."""
    outputs_BAK, targets_BA = (part.tolist() for part in module.answers(lanes))
    right = [
        said.index(max(said)) == target
        for outputs, targets in zip(outputs_BAK, targets_BA, strict=True)
        for said, target in zip(outputs, targets, strict=True)
        if target != -100
    ]
    return sum(right) / len(right)


def weights(module):
    return {name: p.detach().clone() for name, p in module.named_parameters()}


class Figures(Callback):
    """What was logged at every step, by name."""

    def __init__(self):
        self.seen = {}

    def on_train_batch_end(self, trainer, *_):
        for name, value in trainer.callback_metrics.items():
            self.seen.setdefault(name, []).append((trainer.global_step, value.item()))


class Snapshots(Callback):
    """The weights after every update."""

    def __init__(self):
        self.taken = []

    def on_train_start(self, trainer, pl_module):
        self.taken.append(weights(pl_module))

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.taken.append(weights(pl_module))

    def moves(self, prefix):
        """Updates that changed a weight whose name begins so, counted from 1."""
        return [
            update
            for update, (before, after) in enumerate(zip(self.taken, self.taken[1:], strict=False), start=1)
            if any(not torch.equal(after[name], before[name]) for name in after if name.startswith(prefix))
        ]
