"""Files that break while a run trains: their clips leave the batches, are counted, and nothing else changes."""

import logging
import os
from pathlib import Path

import lightning
import pytest
import torch
from sample_videos import truncate, write_video

from datamodules import VideoFolder
from datamodules.loader import eval_loader
from datamodules.video_dataset import EvalClips
from lightning_modules.callbacks import SkippedClips

BROKEN = ("left/c_left.avi", "right/d_right.avi")


def make(root, **options):
    given = {"frames": 6, "size": 24, "batch_size": 3, "group_pattern": r"^(\w)_", "cache": "none", "seed": 4}
    data = VideoFolder(str(root), **{**given, **options})
    data.setup("fit")
    return data


def deleted(path):
    path.unlink()


def cut(path):
    truncate(path, 0.3)


def emptied(path):
    truncate(path, 0)


def epochs_of(loader, epochs):
    out = []
    for epoch in epochs:
        loader.sampler.set_epoch(epoch)
        out.append(list(loader))
    return out


def same(batches, others, without=()):
    """Whether two lists of batches hold the same clips in the same places, apart from those of the videos `without`."""
    for batch, other in zip(batches, others, strict=True):
        kept = [i for i, clip in enumerate(other["clip_id"]) if clip.split("@")[0] not in without]
        assert batch["clip_id"] == [other["clip_id"][i] for i in kept]
        for name in ("video", "label", "length", "video_index"):
            assert torch.equal(batch[name], other[name][kept])
    return True


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("spoil", [cut, deleted, emptied])
def test_a_file_that_breaks_between_epochs_leaves_its_batches(video_folder, caplog, spoil, workers):
    whole = epochs_of(make(video_folder).train_dataloader(), range(4))
    data = make(video_folder, num_workers=workers)
    loader = data.train_dataloader()
    (before,) = epochs_of(loader, [0])
    for path in BROKEN:
        spoil(video_folder / path)
    with caplog.at_level(logging.WARNING):
        after = epochs_of(loader, [1, 2, 3])
    assert same(before, whole[0])
    assert all(same(batches, full, BROKEN) for batches, full in zip(after, whole[1:], strict=True))
    assert set(data.skipped) == set(BROKEN)
    assert caplog.text.count("training leaves out a clip of") == 2
    for path in BROKEN:
        assert path.split("/")[-1] in data.skipped[path]


def test_a_file_that_shrinks_by_whole_frames_counts(video_folder):
    """What is left decodes without an error, only shorter than the table says."""
    data = make(video_folder, frames=12)
    write_video(video_folder / BROKEN[0], frames=11)
    list(data.train_dataloader())
    assert "table says 16" in data.skipped[BROKEN[0]]


def test_nothing_but_whole_batches_is_dropped_at_the_end(video_folder):
    """Six clips in batches of four: the second is left out for its size, whatever breaks."""
    data = make(video_folder, batch_size=4)
    loader = data.train_dataloader()
    deleted(video_folder / BROKEN[0])
    assert len(loader) == 1
    assert [len(batch["label"]) for (batch,) in epochs_of(loader, range(4))].count(3) >= 1


def test_a_batch_that_lost_all_clips_is_empty_and_has_its_form(video_folder):
    loader = make(video_folder, batch_size=1).train_dataloader()
    deleted(video_folder / BROKEN[0])
    batches = list(loader)
    empty = [batch for batch in batches if not len(batch["label"])]
    assert (len(batches), len(empty)) == (6, 1)
    assert empty[0]["video"].shape == (0, 6, 3, 24, 24)
    assert empty[0]["video"].dtype == torch.uint8
    assert empty[0]["clip_id"] == []
    assert [empty[0][name].shape for name in ("label", "length", "video_index")] == [(0,)] * 3


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("given", [1, 2, 4])
def test_resumed_among_faults_equals_uninterrupted(video_folder, given, workers):
    loader, resumed = (make(video_folder, batch_size=1, num_workers=n).train_dataloader() for n in (0, workers))
    for path in BROKEN:
        deleted(video_folder / path)
    loader.sampler.set_epoch(3)
    batches = iter(loader)
    first = [next(batches) for _ in range(given)]
    state = loader.state_dict()
    rest = list(batches)
    assert len(first) + len(rest) == 6
    resumed.load_state_dict(state)
    assert same(list(resumed), rest)


def test_all_broken_is_one_clear_error(video_folder):
    loader = make(video_folder).train_dataloader()
    for path in video_folder.rglob("*.avi"):
        cut(path)
    with pytest.raises(ValueError, match=r"no clip of epoch 0 could be decoded.*6 failed, the first: .*\.avi.*verify"):
        list(loader)


def test_an_evaluation_does_not_go_on_without_a_clip(video_folder):
    data = make(video_folder)
    dataset = EvalClips(data.videos["train"], data.store, views=1)
    cut(video_folder / BROKEN[0])
    with pytest.raises(ValueError, match=r"c_left\.avi"):
        list(eval_loader(dataset, len(dataset), batch_size=2, num_workers=0, trainer=None))


def as_nobody(task):
    """Return what `task` returns in a child process that may read only what everybody may."""
    give, take = os.pipe()[::-1]
    if child := os.fork():
        os.close(give)
        with os.fdopen(take) as answer:
            said = answer.read()
        os.waitpid(child, 0)
        return said
    try:
        with os.fdopen(give, "w") as answer:
            os.setuid(65534)
            answer.write(task())
    finally:
        os._exit(0)  # nothing of the test run goes on in here


def test_a_permission_that_goes(video_folder, monkeypatch):
    monkeypatch.chdir(video_folder)  # the folders above belong to the user alone
    data = make(".")
    Path(BROKEN[0]).chmod(0)

    def train():
        clips = sum(len(batch["label"]) for batch in data.train_dataloader())
        return f"{clips} clips, without {data.skipped}"

    said = as_nobody(train) if os.geteuid() == 0 else train()
    assert said.startswith(f"5 clips, without {{'{BROKEN[0]}': ")
    assert "ermission" in said


def test_one_frame_is_a_clip_of_one_frame(video_folder):
    write_video(video_folder / "left" / "d_one.avi", frames=1)
    data = make(video_folder, batch_size=7)
    (batch,) = list(data.train_dataloader())
    assert sorted(batch["length"].tolist()) == [1, 6, 6, 6, 6, 6, 6]
    assert data.skipped == {}


class Count(lightning.LightningModule):
    """Counts what it is given; its one weight stands in for a network."""

    def __init__(self):
        super().__init__()
        self.weight, self.train_clips, self.val_clips = torch.nn.Parameter(torch.ones(1)), [], 0

    def training_step(self, batch, batch_idx):
        self.train_clips.append(len(batch["label"]))
        return self.weight.sum()

    def validation_step(self, batch, batch_idx):
        self.val_clips += len(batch["label"])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Notes(lightning.pytorch.loggers.logger.Logger):
    """Writes down the values of data/skipped."""

    name = version = "notes"

    def __init__(self):
        super().__init__()
        self.values = []

    def log_metrics(self, metrics, step=None):
        self.values += [(value, step) for name, value in metrics.items() if name == "data/skipped"]

    def log_hyperparams(self, *args, **kwargs):
        pass


class Breaks(lightning.pytorch.callbacks.Callback):
    """Deletes files after the first epoch."""

    def __init__(self, root):
        self.root = root

    def on_train_epoch_end(self, trainer, pl_module):
        if trainer.current_epoch == 0:
            for path in BROKEN:
                deleted(self.root / path)


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*", "ignore:The number of training batches.*")
def test_training_and_validation_go_on_and_the_count_is_logged(video_folder, tmp_path):
    data = make(video_folder, batch_size=1, val_group="next")
    model, notes = Count(), Notes()
    lightning.Trainer(
        max_epochs=3,
        logger=notes,
        callbacks=[Breaks(video_folder), SkippedClips()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=tmp_path,
        accelerator="cpu",
    ).fit(model, datamodule=data)
    assert len(model.train_clips) == 12
    assert sum(model.train_clips) == 4 + 2 + 2
    assert model.val_clips == 3 * 2
    assert [value for value, _ in notes.values] == [0, 1, 2]
    assert data.state_dict() == {"skipped": data.skipped}
