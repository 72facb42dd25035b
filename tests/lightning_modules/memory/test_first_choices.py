"""What a stream's first moment chooses, and which of it counts as a hit, written out."""

import torch

from lightning_modules.memory.candidates import candidates_of
from lightning_modules.memory.first_choices import first_choices, hits_of

UNCERTAIN = torch.tensor([[0.9, 0.1, 0.8, 0.2, 0.7, 0.3], [0.5, 0.6, 0.4, -torch.inf, -torch.inf, -torch.inf]])


def chosen(rule="memup", rollout=2, predict_every=None, k=3):
    hp = {"rule": rule, "rollout": rollout, "predict_every": predict_every, "k": k}
    return first_choices(hp, candidates_of([UNCERTAIN], k), torch.tensor([6, 3])).tolist()


def test_the_first_moment_is_the_last_step_before_the_first_prediction():
    """Rollouts of two: step 0 is over. A stream shorter than its first rollout has its last step as the moment."""
    assert chosen() == [[2, 4, 5], [1, 2, -1]]
    assert chosen(predict_every=1) == [[0, 2, 4], [1, 0, 2]]
    assert chosen(rollout=4) == [[4, 5, 3], [2, -1, -1]]


def test_hits_are_of_the_first_choices_alone():
    """As many choices count as steps are scored, and fewer where fewer were made."""
    chosen_BK = torch.tensor([[4, 2, 5], [1, 2, -1], [3, 4, 5], [-1, -1, -1]])
    answers_BA = torch.tensor([[5, 4, -1, -1], [0, 1, 2, 3], [-1, -1, -1, -1], [1, -1, -1, -1]])
    hits_B, counted_B, answers_B = hits_of(chosen_BK, answers_BA)
    assert hits_B.tolist() == [1, 2, 0, 0]
    assert counted_B.tolist() == [2, 2, 0, 0]
    assert answers_B.tolist() == [2, 4, 0, 1]
