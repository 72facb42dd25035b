"""The loader: shuffled order as a pure function, and a stop in mid-epoch that leaves no trace."""

import tracemalloc
import warnings
from itertools import islice

import lightning
import pytest
import torch
from torch.utils.data import Dataset

from datamodules.loader import EpochSampler, epoch_order, eval_loader, train_loader


class Keys(Dataset):
    def __len__(self):
        return 23

    def __getitem__(self, key):
        return torch.tensor(key)


def make(num_workers=0, **changes):
    options = {"batch_size": 4, "seed": 7, "trainer": None, **changes}
    return train_loader(Keys(), 23, num_workers=num_workers, **options)


def keys_of(batches):
    return [[tuple(key) for key in batch.tolist()] for batch in batches]


def test_order_is_a_function_of_seed_and_epoch():
    assert (epoch_order(1, 2, 50) == epoch_order(1, 2, 50)).all()
    assert sorted(epoch_order(1, 2, 50)) == list(range(50))
    assert (epoch_order(1, 2, 50) != epoch_order(1, 3, 50)).any()
    assert (epoch_order(1, 2, 50) != epoch_order(2, 2, 50)).any()


def test_an_epoch_is_whole_and_keyed_by_its_number():
    loader = make()
    loader.sampler.set_epoch(3)
    keys = [key for batch in keys_of(loader) for key in batch]
    assert len(loader) == 5
    assert len(keys) == len(set(keys)) == 20
    assert {epoch for epoch, _ in keys} == {3}


def test_the_only_batch_is_kept_though_it_is_small():
    assert [len(batch) for batch in make(batch_size=32)] == [23]


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("given", [0, 1, 3, 5])
def test_resumed_rest_equals_the_uninterrupted_rest(num_workers, given):
    whole = make()
    whole.sampler.set_epoch(2)
    expected = keys_of(whole)
    whole.sampler.set_epoch(3)
    expected_next = keys_of(whole)

    stopped = make(num_workers)
    stopped.sampler.set_epoch(2)
    batches = iter(stopped)
    first = keys_of(islice(batches, given))
    if given == 5:  # the epoch is over, so the trainer goes on with the next
        assert next(batches, None) is None
    state = stopped.state_dict()
    del batches

    resumed = make(num_workers)
    resumed.load_state_dict(state)
    batches = iter(resumed)  # Lightning calls iter() first and set_epoch() after it
    resumed.sampler.set_epoch(2 if 0 < given < 5 else 3 if given == 5 else 2)
    rest = keys_of(batches)
    assert first + rest == expected if given < 5 else rest == expected_next
    resumed.sampler.set_epoch(3)
    assert keys_of(resumed) == expected_next


def test_fetching_ahead_is_not_counted():
    loader = make(num_workers=2)
    batches = iter(loader)
    next(batches)
    assert loader.state_dict()["batches"] == 1


def test_a_state_that_was_loaded_is_saved_again_before_the_first_batch():
    loader = make()
    loader.load_state_dict(make().state_dict() | {"epoch": 4, "batches": 2})
    assert loader.state_dict() | {"epoch": 4, "batches": 2} == loader.state_dict()


def test_iterating_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    list(make())
    list(eval_loader(Keys(), 23, batch_size=4, num_workers=0, trainer=None))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("change", [{"seed": 8}, {"batch_size": 5}])
def test_resuming_with_other_data_is_refused(change):
    with pytest.raises(ValueError, match=f"{next(iter(change))} was .*Resume with the same"):
        make(**change).load_state_dict(make().state_dict())


def test_evaluation_sees_every_item_once_whatever_the_epoch():
    loader = eval_loader(Keys(), 23, batch_size=4, num_workers=0, trainer=None)
    loader.sampler.set_epoch(9)
    keys = [key for batch in keys_of(loader) for key in batch]
    assert keys == [(0, index) for index in range(23)]


def test_a_long_epoch_in_order_is_not_held():
    """A long stream's epoch has rollouts without number; their keys are made as they are asked for."""
    tracemalloc.start()
    try:
        keys = list(islice(EpochSampler(10**7, seed=0, shuffle=False, numbered=True), 3))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert keys == [(0, 0), (0, 1), (0, 2)]
    assert peak < 10_000


def test_replicas_share_an_epoch():
    shares = [[i for _, i in EpochSampler(23, seed=1, shuffle=True, replicas=2, rank=r)] for r in range(2)]
    assert len(shares[0]) == len(shares[1]) == 11
    assert not set(shares[0]) & set(shares[1])
    shares = [[i for _, i in EpochSampler(23, seed=1, shuffle=False, replicas=2, rank=r)] for r in range(2)]
    assert sorted(shares[0] + shares[1]) == list(range(23))


class Recorder(lightning.LightningModule):
    """Writes down what it is given; its one weight depends on the order."""

    def __init__(self, stop_at=None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.seen, self.stop_at = [], stop_at

    def training_step(self, batch, batch_idx):
        if len(self.seen) == self.stop_at:
            raise KeyboardInterrupt
        self.seen.append([tuple(key) for key in batch.tolist()])
        return (self.weight * batch[:, 1].float().mean() / 100).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9)


def fit(tmp_path, module, loader, ckpt_path=None, every=1, **limits):
    checkpoint = lightning.pytorch.callbacks.ModelCheckpoint(
        tmp_path, every_n_train_steps=every, save_last=True, filename="{step}", save_top_k=-1
    )
    trainer = lightning.Trainer(
        callbacks=[checkpoint],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        accelerator="cpu",
        **limits,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(module, loader, ckpt_path=ckpt_path)
    return module


@pytest.mark.parametrize("limits", [{"max_epochs": 4}, {"max_steps": 18}, {"max_epochs": 5, "limit_train_batches": 3}])
@pytest.mark.parametrize("stop_at", [2, 3, 5, 7, 10])
def test_lightning_resumes_exactly(tmp_path, limits, stop_at):
    whole = fit(tmp_path / "whole", Recorder(), make(), **limits)
    stopped = Recorder(stop_at=stop_at)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(tmp_path / "part", stopped, make(), **limits)
    (checkpoint,) = (tmp_path / "part").glob(f"step={stop_at}.ckpt")
    resumed = fit(tmp_path / "part", Recorder(), make(), ckpt_path=checkpoint, **limits)
    assert stopped.seen + resumed.seen == whole.seen
    assert torch.equal(resumed.weight, whole.weight)


class Echo(Recorder):
    """Gives back what it is asked to predict."""

    def predict_step(self, batch, batch_idx):
        return batch.tolist()

    def validation_step(self, batch, batch_idx):
        raise AssertionError("there is nothing to validate on")


def quiet_trainer(tmp_path, **options):
    return lightning.Trainer(
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        accelerator="cpu",
        **options,
    )


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*")
def test_lightning_predicts_every_item_once(tmp_path):
    loader = eval_loader(Keys(), 23, batch_size=4, num_workers=0, trainer=None)
    batches = quiet_trainer(tmp_path).predict(Echo(), loader)
    assert [tuple(key) for batch in batches for key in batch] == [(0, index) for index in range(23)]


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*", "ignore:.*overfit.*")
def test_lightning_overfits_the_batches_it_was_told_to(tmp_path):
    module = Recorder()
    quiet_trainer(tmp_path, overfit_batches=2, max_epochs=2).fit(module, make())
    assert module.seen == [[(0, 4 * batch + item) for item in range(4)] for batch in (0, 1, 0, 1)]


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*", "ignore:.*overfit.*")
def test_overfitting_validates_on_the_batches_it_was_told_to(tmp_path):
    class Validated(Recorder):
        def validation_step(self, batch, batch_idx):
            self.validated = [*getattr(self, "validated", []), [tuple(key) for key in batch.tolist()]]

    module = Validated()
    loader = eval_loader(Keys(), 23, batch_size=4, num_workers=0, trainer=None)
    quiet_trainer(tmp_path, overfit_batches=2, max_epochs=1).fit(module, make(), val_dataloaders=loader)
    assert module.validated[-2:] == [[(0, 4 * batch + item) for item in range(4)] for batch in (0, 1)]


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*", "ignore:Total length of `list`.*")
def test_lightning_trains_without_validation_loaders(tmp_path):
    module = Echo()
    quiet_trainer(tmp_path, max_epochs=1).fit(module, make(), val_dataloaders=[])
    assert len(module.seen) == 5
