"""MovingDigits: deterministic, disjoint, fast, and silent about the direction in any single frame."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.linear_model import RidgeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from datamodules import MovingDigits
from datamodules.digit_clips import MovingDigitsDataset, digit_images, digit_split
from datamodules.motion import CELLS, positions, render


def clips(dataset, epoch=0, count=None):
    items = [dataset[(epoch, index)] for index in range(count or len(dataset))]
    return torch.stack([item["video"] for item in items]), np.array([item["label"] for item in items])


def test_a_batch_keeps_the_contract():
    data = MovingDigits(frames=6, size=40, batch_size=3, train_clips=7)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert batch["video"].shape == (3, 6, 1, 40, 40)
    assert batch["video"].dtype == torch.float32
    assert 0 <= batch["video"].min() < 0.01
    assert 0.5 < batch["video"].max() <= 1
    assert batch["label"].dtype == batch["length"].dtype == batch["video_index"].dtype == torch.int64
    assert batch["length"].tolist() == [6, 6, 6]
    assert all(clip_id.endswith("@0") for clip_id in batch["clip_id"])


def test_training_clips_are_a_function_of_seed_epoch_index():
    one = MovingDigits(frames=3, seed=1, train_clips=4, noise=0.1, clutter=2).dataset("train")
    again = MovingDigits(frames=3, seed=1, train_clips=4, noise=0.1, clutter=2).dataset("train")
    other = MovingDigits(frames=3, seed=2, train_clips=4, noise=0.1, clutter=2).dataset("train")
    assert torch.equal(one[(5, 2)]["video"], again[(5, 2)]["video"])
    for different in (one[(6, 2)], one[(5, 3)], other[(5, 2)]):
        assert not torch.equal(one[(5, 2)]["video"], different["video"])


@pytest.mark.parametrize("split", ["val", "test"])
def test_evaluation_clips_are_the_same_for_every_seed(split):
    one, other = (MovingDigits(frames=3, seed=seed, noise=0.1).dataset(split) for seed in (1, 2))
    assert torch.equal(one[(0, 11)]["video"], other[(4, 11)]["video"])


def test_digits_of_the_splits_are_disjoint_and_complete():
    parts = [np.concatenate(digit_split(split)) for split in ("train", "val", "test")]
    together = np.concatenate(parts)
    assert len(together) == len(set(together.tolist())) == 1797
    assert [len(part) for part in parts] == [1195, 298, 304]
    _, classes = digit_images()
    assert all(set(classes[digit_split(split)[3]]) == {3} for split in ("train", "val", "test"))


@pytest.mark.parametrize(("mode", "directions", "classes"), [("direction", 8, 8), ("digit_and_direction", 4, 40)])
def test_labels_name_what_is_shown(mode, directions, classes):
    data = MovingDigits(label_mode=mode, directions=directions, frames=5, test_clips=classes * 10)
    _, labels = clips(data.dataset("test"))
    assert data.num_classes == len(data.class_names) == classes
    assert np.bincount(labels, minlength=classes).tolist() == [10] * classes


def test_direction_label_is_the_way_the_digit_goes():
    data = MovingDigits(frames=4, speed_min=1, speed_max=1, test_clips=40)
    shifts = {"right": (0, 1), "down": (1, 0), "left": (0, -1), "up": (-1, 0)}
    videos, labels = clips(data.dataset("test"))
    for video, label in zip(videos[:, :, 0], labels, strict=True):
        moved = torch.roll(video[0], shifts[data.class_names[label]], (0, 1))
        torch.testing.assert_close(moved, video[1], atol=1e-5, rtol=0)


def test_stride_shows_the_same_motion_less_often():
    slow = MovingDigits(frames=9).dataset("test")[(0, 0)]["video"]
    fast = MovingDigits(frames=3, stride=4).dataset("test")[(0, 0)]["video"]
    torch.testing.assert_close(slow[::4], fast)


def test_bounce_stays_inside():
    path = positions(np.array([[0.0, 7.5]]), np.array([[3.3, -2.1]]), 200, 8.0, "bounce")
    assert path.min() >= 0
    assert path.max() <= 8
    assert path[0, 1].tolist() == pytest.approx([3.3, 5.4])
    video, _ = clips(
        MovingDigits(label_mode="digit", motion="bounce", frames=40, digit_size=24).dataset("test"), count=5
    )
    mass = video.sum((-1, -2))
    assert (mass.amax(1) / mass.amin(1)).max() < 1.05  # nothing leaves the canvas


def test_rendering_keeps_mass_at_every_fraction_and_treats_both_axes_alike():
    image = digit_images()[0][5][None]
    fractions = np.stack(np.meshgrid(np.arange(0, 1, 0.25), np.arange(0, 1, 0.25)), -1).reshape(1, -1, 2)
    frames = render(image, fractions + 10, 32, 2.0, wrap=True)
    mass = frames.sum((1, 2))
    assert np.ptp(mass) / mass.mean() < 1e-4
    turned = render(image.swapaxes(1, 2), fractions[..., ::-1] + 10, 32, 2.0, wrap=True)
    np.testing.assert_allclose(turned.swapaxes(1, 2), frames, atol=1e-6)
    assert image.shape[-1] == CELLS


def probe(features_train, labels_train, features_test, labels_test):
    model = make_pipeline(StandardScaler(), RidgeClassifier(alpha=10.0)).fit(features_train, labels_train)
    return model.score(features_test, labels_test)


def single_frame_features(videos, frame):
    """Pixels, and what blur would show in: squared differences along both axes, summed and sorted into place."""
    x = videos[:, frame, 0]
    dy, dx = (x - x.roll(1, 1)).square(), (x - x.roll(1, 2)).square()
    blur = torch.stack([f(d) for d in (dy, dx) for f in (lambda d: d.sum((1, 2)), lambda d: d.amax((1, 2)))], 1)
    place = torch.cat([x.sum(1), x.sum(2), x.flatten(1)], 1)
    return torch.cat([place, blur, blur.log()], 1).numpy()


def cross_correlation_features(videos, frame, step=2):
    """Mean product of one frame with the later one moved by one pixel each way."""
    x, y = videos[:, frame, 0], videos[:, frame + step, 0]
    return torch.stack([(x.roll(s, d) * y).mean((1, 2)) for s in (-1, 1) for d in (1, 2)], 1).numpy() * 1000


@pytest.mark.parametrize("directions", [4, 8])
@pytest.mark.parametrize("frame", [0, 5])
def test_one_frame_tells_nothing_and_two_frames_tell_the_direction(directions, frame):
    data = MovingDigits(directions=directions, frames=8, train_clips=3000, test_clips=2400)
    train, train_labels = clips(data.dataset("train"))
    test, test_labels = clips(data.dataset("test"))
    chance, sigma = 1 / directions, (1 / directions * (1 - 1 / directions) / 2400) ** 0.5
    one = probe(single_frame_features(train, frame), train_labels, single_frame_features(test, frame), test_labels)
    two = probe(
        cross_correlation_features(train, frame), train_labels, cross_correlation_features(test, frame), test_labels
    )
    assert abs(one - chance) < 4 * sigma
    assert two > 0.8


def test_the_probe_would_see_whole_pixel_starts():
    """The mistake that fractional starts on both axes avoid: only the axis of the motion would be blurred."""
    rng = np.random.default_rng(0)
    images = digit_images()[0][rng.integers(0, 1797, 2000)]
    labels = rng.integers(0, 2, 2000)
    start = rng.integers(0, 32, (2000, 2)).astype(float)
    start[np.arange(2000), labels] += 0.5
    frames = [render(i[None], p[None, None], 32, 2.0, wrap=True) for i, p in zip(images, start, strict=True)]
    features = single_frame_features(torch.from_numpy(np.stack(frames))[:, :, None], 0)
    assert probe(features[:1000], labels[:1000], features[1000:], labels[1000:]) > 0.8


def test_position_at_any_frame_is_uniform_in_every_direction():
    for direction in range(4):
        step = MovingDigitsDataset("test", 1, MovingDigits().options, 0)._step(direction, np.random.default_rng(0))
        start = np.random.default_rng(direction).uniform(0, 32, (20000, 2))
        place = positions(start, np.broadcast_to(step, start.shape), 20, 32.0, "wrap")[:, 13]
        for values in (place[:, 0] / 32, place[:, 1] / 32, place[:, 0] % 1, place[:, 1] % 1):
            counts = np.histogram(values, 20, (0, 1))[0]
            assert ((counts - 1000) ** 2 / 1000).sum() < 50  # chi-square of 19 degrees: p = 1e-4


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"motion": "bounce"}, "no one direction"),
        ({"motion": "bounce", "label_mode": "digit_and_direction"}, "no one direction"),
        ({"directions": 6}, "one of 4, 8"),
        ({"digit_size": 40}, "digit_size 40"),
        ({"speed_min": 1.0}, "speed_min <= speed_max"),
        ({"label_mode": "speed"}, "direction, digit, digit_and_direction"),
        ({"noise": -1}, ">= 0"),
    ],
)
def test_wrong_options_are_refused_with_what_was_expected(wrong, said):
    with pytest.raises(ValueError, match=said):
        MovingDigits(**wrong)


def test_clips_too_short_for_the_network_are_an_error():
    data = MovingDigits(frames=6)
    data.min_frames = 7
    with pytest.raises(ValueError, match=r"--data\.frames 7"):
        data.setup("fit")


def test_hash_tells_the_data_not_the_seed():
    assert MovingDigits(seed=1).data_hash == MovingDigits(seed=2).data_hash != MovingDigits(noise=0.1).data_hash
    assert len(MovingDigits().data_hash) == 16


def test_clutter_and_noise_change_the_picture_but_not_the_digit():
    plain, cluttered = (MovingDigits(frames=2, clutter=c).dataset("test")[(0, 0)]["video"] for c in (0, 5))
    assert cluttered.mean() > plain.mean() * 1.2
    noisy = MovingDigits(frames=2, noise=0.2).dataset("test")[(0, 0)]["video"]
    torch.testing.assert_close(noisy[plain == 0].mean(), torch.tensor(0.2 / (2 * np.pi) ** 0.5), atol=0.01, rtol=0)


def test_dataset_survives_pickling():
    dataset = MovingDigits(frames=2).dataset("train")
    assert torch.equal(pickle.loads(pickle.dumps(dataset))[(1, 2)]["video"], dataset[(1, 2)]["video"])


def test_a_batch_of_nothing_is_refused():
    with pytest.raises(ValueError, match="batch_size 0"):
        MovingDigits(batch_size=0)
