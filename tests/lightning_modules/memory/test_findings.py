"""Whether a detector finds anything: streams without targets are passed over, data without any is refused."""

import math

import pytest
import torch

from lightning_modules.memory.candidates import candidates_of
from lightning_modules.memory.findings import MANY, Findings, finds, refuse_certainty

NOTHING = torch.full((4, 5), -math.inf)
SOME = torch.tensor([[-math.inf, 0.5, 0.2], [-math.inf] * 3])


@pytest.fixture(params=[lambda u: u, lambda u: candidates_of([u], 2)], ids=["all steps", "candidates"])
def made(request):
    return request.param


def test_it_is_some_lane_that_has_a_step(made):
    assert finds(made(SOME))
    assert not finds(made(NOTHING))


def test_streams_without_targets_are_passed_over_until_they_are_many(made):
    findings = Findings(entropies=True)
    for _ in range(MANY // 4 - 1):
        findings.judge(made(NOTHING))
    findings.judge(made(SOME))
    for _ in range(MANY):
        findings.judge(made(NOTHING))
    with pytest.raises(ValueError, match=f"the detector finds nothing: no step of {MANY} streams has a target"):
        Findings(entropies=True).judge(made(NOTHING.repeat(MANY // 4, 1)))


def test_certainty_is_judged_where_something_is_found_first_and_only_of_entropies(made):
    sure = made(SOME * 1e-3)
    Findings(entropies=False).judge(sure)
    findings = Findings(entropies=True)
    findings.judge(made(NOTHING))
    with pytest.raises(ValueError, match="the local model is sure of every step"):
        findings.judge(sure)
    found = Findings(entropies=True)
    found.judge(made(SOME))
    found.judge(sure)


def test_a_local_model_that_is_sure_of_everything_is_refused():
    refuse_certainty(torch.tensor([[0.0, 0.01, -math.inf]]))
    with pytest.raises(ValueError, match=r"the detector finds nothing: .*largest entropy 9\.0e-04 nats"):
        refuse_certainty(torch.tensor([[0.0, 9e-4, -math.inf]]))
