"""Whether a detector finds anything: streams without targets are passed over, data without any is refused."""

import math

import pytest
import torch

from lightning_modules.memory.candidates import candidates_of
from lightning_modules.memory.findings import MANY, Findings

NOTHING = torch.full((4, 5), -math.inf)
SOME = torch.tensor([[-math.inf, 0.5, 0.2], [-math.inf] * 3])


@pytest.fixture(params=[lambda u: u, lambda u: candidates_of([u], 2)], ids=["all steps", "candidates"])
def made(request):
    return request.param


def test_streams_without_targets_are_passed_over_until_they_are_many(made):
    findings = Findings(entropies=True)
    for _ in range(MANY // 4 - 1):
        findings.judge(made(NOTHING))
    findings.judge(made(SOME))
    for _ in range(MANY):
        findings.judge(made(NOTHING))
    with pytest.raises(ValueError, match=f"the detector finds nothing: no step of {MANY} streams has a target"):
        Findings(entropies=True).judge(made(NOTHING.repeat(MANY // 4, 1)))


def test_certainty_is_judged_of_many_streams_and_only_of_entropies(made):
    """It was judged of the streams that began first: one lane that was sure ended the run."""
    sure = made(SOME * 1e-3)
    number = Findings(entropies=False)
    number.judge(sure)
    assert number.some
    findings = Findings(entropies=True)
    for _ in range(MANY // 2 - 1):
        findings.judge(sure)
    assert not findings.some
    message = rf"sure of every step of {MANY} streams \(largest entropy 5\.0e-04 nats, expected 0\.001 or more\)"
    with pytest.raises(ValueError, match=message):
        findings.judge(made(NOTHING[:2]))
    found = Findings(entropies=True)
    found.judge(sure)
    found.judge(made(SOME))
    assert found.some
    for _ in range(MANY):
        found.judge(sure)


def test_it_goes_on_with_what_was_counted(made):
    findings, other = Findings(entropies=True), Findings(entropies=True)
    for _ in range(MANY // 2 - 1):
        findings.judge(made(SOME * 1e-3))
    other.load_state_dict(findings.state_dict())
    with pytest.raises(ValueError, match=f"sure of every step of {MANY} streams"):
        other.judge(made(NOTHING[:2]))


def test_streams_without_any_step_to_keep_are_counted():
    findings = Findings(entropies=True)
    with pytest.raises(ValueError, match="has a target"):
        findings.judge(candidates_of([NOTHING.repeat(MANY // 4, 1)], 2))
