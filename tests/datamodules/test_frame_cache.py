"""The cache on the disk: the same clips, never a stale or half a file, whoever is killed and whatever is full."""

import logging
import multiprocessing
import os
import pickle
import resource
import time
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sample_videos import write_video

from datamodules import VideoFolder, frame_store
from datamodules.frame_cache import _PARTIAL, FrameCache, _mapped, frame_bytes, write_whole

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def make(video_folder, tmp_path):
    def made(stage="fit", **options):
        given = {"frames": 6, "size": 24, "batch_size": 2, "group_pattern": r"^(\w)_", "cache": "disk", "margin": 4}
        given |= {"cache_dir": str(tmp_path / "cache")} if options.get("cache", "disk") == "disk" else {}
        data = VideoFolder(str(video_folder), **{**given, **options})
        data.setup(stage)
        return data

    return made


def cached(tmp_path):
    return sorted(path.relative_to(tmp_path / "cache").as_posix() for path in (tmp_path / "cache").rglob("*.npy"))


def all_clips(data, epochs=2):
    dataset = data.train_dataloader().dataset
    return [dataset[(epoch, index)]["video"] for epoch in range(epochs) for index in range(len(dataset))]


@pytest.mark.parametrize("options", [{}, {"background": "median", "grayscale": True}, {"fps": 40.0}, {"stride": 2}])
def test_clips_are_those_of_the_files_and_are_decoded_once(make, tmp_path, monkeypatch, options):
    plain, first = all_clips(make(cache="none", **options)), all_clips(make(**options))
    assert all(torch.equal(a, b) for a, b in zip(plain, first, strict=True))
    assert len(cached(tmp_path)) == 6
    monkeypatch.setattr(frame_store, "decode", None)
    again = make(**options)
    assert all(torch.equal(a, b) for a, b in zip(plain, all_clips(again), strict=True))
    assert torch.equal(pickle.loads(pickle.dumps(again.train_dataloader().dataset))[(0, 1)]["video"], plain[1])


def test_workers_fill_it_as_well(make, tmp_path):
    loader = make(num_workers=2).train_dataloader()
    batches = [batch["video"] for batch in loader]
    assert len(cached(tmp_path)) == 6
    expected = [batch["video"] for batch in make(cache="none").train_dataloader()]
    assert all(torch.equal(a, b) for a, b in zip(batches, expected, strict=True))


def test_the_folder_follows_what_changes_pixels_and_nothing_else(make):
    def folder(**options):
        return make(**options).store.disk.folder.name

    one = folder()
    assert one.startswith("video_folder-")
    assert one == folder(frames=3, stride=2, flip=False, crop_scale=[0.5, 1.0], size=20, margin=8, decoder="pyav")
    others = [folder(size=20), folder(fit="squash"), folder(grayscale=True), folder(background="mean")]
    assert len({one, *others, folder(decoder="pytorchvideo")}) == 6


def test_a_changed_source_is_never_served_stale(make, video_folder):
    data = make()
    video = data.videos["train"][0]
    before = data.store.frames(video, np.arange(6))
    write_video(video.path, frames=30, value=200)
    changed = data.store.frames(video, np.arange(6))
    assert not torch.equal(before, changed)
    assert torch.equal(changed, make(cache="none").store.frames(video, np.arange(6)))


def test_a_source_that_is_gone_is_served_to_who_has_seen_it(make):
    data = make()
    video = data.videos["train"][0]
    before = data.store.frames(video, np.arange(6))
    video.path.unlink()
    assert torch.equal(data.store.frames(video, np.arange(6)), before)


def test_what_breaks_off_is_not_kept_under_the_whole_files_name(make, tmp_path, monkeypatch):
    data = make()
    whole = frame_store.decode
    monkeypatch.setattr(frame_store, "decode", lambda *args, **options: whole(*args, **options)[:-1])
    assert len(data.store.frames(data.videos["train"][0], np.arange(99))) == data.videos["train"][0].frames - 1
    assert cached(tmp_path) == []


def test_a_cached_file_that_was_cut_is_made_anew(make):
    data = make()
    video = data.videos["train"][0]
    before = data.store.frames(video, np.arange(6)).clone()
    file = data.store.disk.file(video)
    for share in (0.5, 0.0):
        with file.open("rb+") as stream:
            stream.truncate(int(file.stat().st_size * share))
        assert torch.equal(data.store.frames(video, np.arange(6)), before)


def test_it_says_what_it_needs_and_refuses_what_does_not_fit(make, tmp_path, monkeypatch, capsys):
    data = make()
    said = capsys.readouterr().out
    expected = sum(video.frames for video in data.videos["train"]) * 28 * 37 * 3
    assert frame_bytes(data.videos["train"][0], data.clip_options) == 28 * 37 * 3
    assert "frame cache: 6 videos, 0.00 GiB in" in said
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(10**6, 10**6, expected - 1))
    with pytest.raises(ValueError, match=rf"needs {expected} bytes .* {expected - 1} bytes .* free.*--data.cache_dir"):
        make()
    all_clips(data)
    make()  # nothing more is needed
    assert sum((tmp_path / "cache" / name).stat().st_size for name in cached(tmp_path)) == expected + 6 * 128


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_write_permission_is_named(make, tmp_path):
    (tmp_path / "cache").mkdir(mode=0o555)
    with pytest.raises(ValueError, match=r"no frame cache in .*cache.*--data.cache_dir"):
        make()


def test_a_disk_that_fills_up_costs_the_cache_not_the_training(make, tmp_path, caplog):
    """A limit on the size of files stops each writing in the middle, as a full disk does."""
    data, expected = make(), all_clips(make(cache="none"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with caplog.at_level(logging.WARNING):
            clips = all_clips(data)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert all(torch.equal(a, b) for a, b in zip(clips, expected, strict=True))
    assert caplog.text.count("takes no more") == 1
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


def test_cache_dir_without_the_cache_is_refused(make):
    with pytest.raises(ValueError, match=r"cache_dir x has no effect with cache 'memory': add --data.cache disk"):
        make(cache="memory", cache_dir="x")


FRAMES = np.arange(40 * 3 * 64 * 64, dtype=np.uint32).astype(np.uint8).reshape(40, 3, 64, 64)


def write_for_ever(file):
    while True:
        write_whole(file, FRAMES)


def write_half(file, writing):
    def half(stream, array, **options):
        stream.write(b"half")
        stream.flush()
        writing.release()
        time.sleep(60)

    np.lib.format.write_array = half
    write_whole(file, FRAMES)


@pytest.fixture
def start():
    """Starts processes, and kills them without a word at the end."""
    processes = []

    def started(target, *arguments):
        processes.append(FORK.Process(target=target, args=arguments))
        processes[-1].start()
        return processes[-1]

    yield started
    for process in processes:
        process.kill()
        process.join()


def test_killed_writers_and_writers_at_once_leave_nothing_that_is_wrong(tmp_path, start):
    file, seen = tmp_path / "pixels" / "3c" / "v.npy", 0
    writers = [start(write_for_ever, file) for _ in range(2)]
    for round_ in range(6):
        until = time.monotonic() + 0.2
        while time.monotonic() < until:
            mapped = _mapped(file)
            seen += mapped is not None
            assert mapped is None or np.array_equal(mapped, FRAMES)
        writers[round_ % 2].kill()
        writers[round_ % 2].join()
        assert np.array_equal(_mapped(file), FRAMES)
        writers[round_ % 2] = start(write_for_ever, file)
    assert seen > 20


def test_partial_files_of_the_dead_are_swept_and_those_of_the_living_stay(tmp_path, make, start):
    data, writing = make(), FORK.Semaphore(0)
    folder = data.store.disk.folder
    dead, _ = (start(write_half, folder / "3c" / "v.npy", writing) for _ in range(2))
    assert writing.acquire(timeout=20)
    assert writing.acquire(timeout=20)
    assert len(list(folder.glob(f"*/*{_PARTIAL}"))) == 2
    dead.kill()
    dead.join()
    data.store.disk.prepare([])
    assert len(list(folder.glob(f"*/*{_PARTIAL}"))) == 1
    assert cached(tmp_path) == []


def test_a_clip_of_a_huge_video_touches_its_own_pages(tmp_path):
    """1.6 GiB of frames, which the file has as holes: whoever read them all would be seen."""
    file = tmp_path / "huge.npy"
    frames = np.lib.format.open_memmap(file, "w+", np.uint8, (44_000, 3, 112, 112))
    frames[40_000:40_016] = 7
    del frames
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert _mapped(file)[40_000:40_016].unique().tolist() == [7]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


def test_a_file_is_whole_or_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda number: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "v.npy", np.zeros((2, 3, 4, 4), np.uint8))
    assert list(tmp_path.iterdir()) == []


def test_names_hold_the_range_of_a_longer_file(make):
    data = make()
    video = data.videos["train"][0]
    cache = FrameCache(Path("x"), "y", data.clip_options)
    assert cache.file(video) != cache.file(replace(video, first=3, frames=5)) != cache.file(replace(video, first=4))
