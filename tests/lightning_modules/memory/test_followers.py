"""Followers: copies of a network that go towards it a little at every update."""

import pytest
import torch
from toy_memory import make_network, seeded

from lightning_modules.memory.followers import Followers


def test_followers_are_an_exponential_moving_average():
    network = make_network(seed=0)
    followers = Followers(network, 0.75)
    mean = {name: p.detach().clone() for name, p in network.named_parameters()}
    for seed in (1, 2, 3):
        with torch.no_grad():
            for p in network.parameters():
                p.copy_(torch.randn(p.shape, generator=seeded(seed), dtype=p.dtype))
        followers.follow(network)
        mean = {name: 0.75 * mean[name] + 0.25 * p for name, p in network.named_parameters()}
    torch.testing.assert_close(dict(followers.copy.named_parameters()), mean)
    assert not any(p.requires_grad for p in followers.parameters())


def test_followers_share_no_weight_with_what_they_follow():
    network = make_network()
    followers = Followers(network, 0.5)
    own = {p.data_ptr() for p in network.parameters()}
    assert not own & {p.data_ptr() for p in followers.parameters()}


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_decay_that_never_or_wildly_follows_is_refused(decay):
    with pytest.raises(ValueError, match=f"ema_decay is {decay}; expected 0 .* --model.ema_decay 0.99"):
        Followers(make_network(), decay)
