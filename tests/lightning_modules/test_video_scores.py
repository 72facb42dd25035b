"""Scores of clips and videos: means of softmax over valid ticks and over views, whatever batches the views come in."""

import pytest
import torch

from lightning_modules.metrics.video_scores import VideoScores, clip_scores


def test_scores_are_the_mean_softmax_over_valid_ticks():
    logits = torch.tensor([[[0.0, 0.0], [2.0, 0.0], [9.0, 0.0]]])
    found = clip_scores(logits, torch.tensor([[True, True, False]]))
    torch.testing.assert_close(found, logits[:, :2].softmax(-1).mean(1))


def filled(*batches):
    videos = VideoScores()
    for scores, labels, index in batches:
        videos.update(torch.tensor(scores), torch.tensor(labels), torch.tensor(index))
    return videos


def test_a_video_is_the_mean_of_its_views():
    videos = filled(([[0.9, 0.1], [0.2, 0.8]], [0, 1], [7, 3]), ([[0.5, 0.5]], [0], [7]))
    scores, labels = videos.compute()
    assert len(videos) == 2
    torch.testing.assert_close(scores, torch.tensor([[0.2, 0.8], [0.7, 0.3]]))
    assert labels.tolist() == [1, 0]


def test_a_view_without_an_output_does_not_count():
    no_tick = clip_scores(torch.zeros(1, 3, 2), torch.zeros(1, 3, dtype=torch.bool))[0].tolist()
    scores, _ = filled(([[0.9, 0.1], no_tick], [0, 0], [0, 0])).compute()
    torch.testing.assert_close(scores, torch.tensor([[0.9, 0.1]]))


def test_a_video_without_any_output_is_refused():
    with pytest.raises(ValueError, match="1 of 2 videos end before the network's first output, first video 4"):
        filled(([[0.9, 0.1], [0.0, 0.0]], [0, 1], [2, 4])).compute()
