"""Videos that come as bytes are floats in [0, 1] on the device, wherever Lightning takes batches from."""

import pytest
import torch
from test_action_recognition import fitted, model, same, trainer, weights
from torch.utils.data import Dataset
from toy_clips import ToyData

from lightning_modules.batch import in_unit_range


class AsFloats(Dataset):
    """The same clips, made floats by the data set."""

    def __init__(self, clips):
        self.clips = clips

    def __len__(self):
        return len(self.clips)

    def __getitem__(self, key):
        return in_unit_range(self.clips[key])


def data(as_bytes, **options):
    made = ToyData(as_bytes=True, ragged=True, **options)
    if not as_bytes:
        made.train, made.held_out = AsFloats(made.train), AsFloats(made.held_out)
    return made


def test_bytes_become_floats_and_all_else_stays():
    batch = {"video": torch.tensor([[0, 51, 255]], dtype=torch.uint8), "label": torch.tensor([3])}
    made = in_unit_range(batch)
    assert torch.equal(made["video"], torch.tensor([[0, 0.2, 1.0]]))
    assert made["label"] is batch["label"]
    assert batch["video"].dtype == torch.uint8
    assert in_unit_range(batch, torch.bfloat16)["video"].dtype == torch.bfloat16
    assert in_unit_range(made) is made
    assert in_unit_range({"label": 0}) == {"label": 0}


def test_a_video_that_is_only_a_shape_stays_one():
    video = in_unit_range({"video": torch.empty(2, 3, 1, 4, 4, dtype=torch.uint8, device="meta")})["video"]
    assert (video.device.type, video.dtype, video.shape) == ("meta", torch.float32, (2, 3, 1, 4, 4))


@pytest.mark.parametrize("precision", ["32-true", "64-true"])
def test_every_loop_sees_the_same_numbers(tmp_path, precision):
    found = {}
    for as_bytes in (True, False):
        module, fit = model(wiring="dense"), trainer(tmp_path, limit_val_batches=1.0, precision=precision)
        fit.fit(module, data(as_bytes))
        figures = [fit.validate(module, data(as_bytes), verbose=False), fit.test(module, data(as_bytes), verbose=False)]
        loader = data(as_bytes).test_dataloader()  # a loader without a data module
        scores = torch.cat([part["scores"] for part in fit.predict(module, loader)])
        found[as_bytes] = weights(module), figures, scores
    assert same(found[True][0], found[False][0])
    assert found[True][1] == found[False][1]
    assert torch.equal(found[True][2], found[False][2])


@pytest.mark.filterwarnings("ignore:You requested to overfit:UserWarning", "ignore:Total length of `list`:UserWarning")
def test_overfitting_on_bytes(tmp_path):
    found = [fitted(tmp_path, {}, data(b, validated=False), overfit_batches=1)[0] for b in (True, False)]
    assert same(weights(found[0]), weights(found[1]))


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_bytes_at_half_precision(tmp_path, precision):
    module = model(wiring="dense")
    before = weights(module)
    fit = trainer(tmp_path, precision=precision, max_epochs=1)
    fit.fit(module, data(as_bytes=True))
    assert not same(weights(module), before)
    fit.test(module, data(as_bytes=True), verbose=False)
