"""What `skip-sideways probes` says of figures that are given."""

import pytest

from app.probes_report import Health, LayerHealth, advice, report, rounded_up


def test_where_no_share_is_good_enough_it_says_stay_exact():
    layer = LayerHealth("a", (2, 4, 4), {0.25: 4}, {0.25: 9.0}, 0.1, 14, 14)
    health = Health([layer], {}, 1.0, {0.25: 900.0, 0.9: 1.0}, 3.0, 4, whole=False)
    assert "stay exact (--model.probes 0)" in advice(health)
    (line,) = [line for line in report(health).splitlines() if line.startswith("a ")]
    assert line.split() == ["a", "2x4x4", "9.000", "exact", "0.100", "14", "or", "more:", "exact"]


@pytest.mark.parametrize(("share", "expected"), [(0.0712, 0.072), (0.07, 0.07), (0.996, 1), (1.7, 1), (4e-5, 4e-5)])
def test_a_share_is_rounded_up(share, expected):
    assert rounded_up(share) == pytest.approx(expected, rel=1e-9)


def test_minibatches_that_are_all_alike_have_no_noise_to_compare_with():
    layer = LayerHealth("a", (2, 4, 4), {0.25: 4}, {0.25: 0.5}, 0.0, 14, 14)
    lines = report(Health([layer], {}, 0.0, {0.25: 3.0}, float("inf"), 4, whole=False)).splitlines()
    assert [line.split()[-1] for line in lines if line.startswith(("exact ", "share "))] == ["-", "-"]
