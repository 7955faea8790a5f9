import math

import numpy as np
import pytest
from scipy.stats import ttest_1samp, ttest_rel

import kdlib as kd


@pytest.mark.parametrize("n", [2, 5, 30])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.99])
def test_interval_is_that_of_the_paired_t_test(n, confidence):
    generator = np.random.default_rng(n)
    seeds = generator.normal(98, 3, n)  # what pairs share is large beside what tells them apart
    a, b = seeds + generator.normal(0.3, 0.1, n), seeds + generator.normal(0, 0.1, n)
    result = kd.paired(a, b, confidence)
    interval = ttest_rel(a, b).confidence_interval(confidence)
    assert (result.low, result.high) == pytest.approx((interval.low, interval.high))
    assert result.difference == pytest.approx(np.mean(a - b))
    assert result.n == n


def test_interval_by_hand():
    # Differences 1, 2, 3: mean 2, s = 1, t(0.975, 2) = 4.302653, margin 4.302653 / sqrt 3 = 2.484138
    result = kd.paired([2, 4, 6], [1, 2, 3])
    assert (result.difference, result.n) == (2, 3)
    assert (result.low, result.high) == pytest.approx((-0.484138, 4.484138), abs=1e-6)
    assert result.verdict == "no difference seen"


@pytest.mark.parametrize(
    "a, b, lower_is_better, verdict",
    [
        ([9.0, 9.1, 9.2], [8.0, 8.1, 8.3], False, "better"),
        ([9.0, 9.1, 9.2], [8.0, 8.1, 8.3], True, "worse"),
        ([8.0, 8.1, 8.3], [9.0, 9.1, 9.2], False, "worse"),
        ([8.0, 8.1, 8.3], [9.0, 9.1, 9.2], True, "better"),
        ([9.0, 8.1, 9.2], [8.0, 9.1, 8.3], False, "no difference seen"),
        ([9.0, 8.1, 9.2], [8.0, 9.1, 8.3], True, "no difference seen"),
        ([9.0, 8.0], [9.0, 8.0], False, "no difference seen"),
        ([9.0, 8.0], [8.5, 7.5], False, "better"),  # the same in every pair: no width at all
    ],
)
def test_verdict_is_that_of_the_first(a, b, lower_is_better, verdict):
    assert kd.paired(a, b, lower_is_better=lower_is_better).verdict == verdict


def test_a_wider_confidence_withdraws_a_verdict():
    a, b = [2.0, 4.0, 6.0], [1.0, 2.0, 3.0]
    assert kd.paired(a, b, confidence=0.8).verdict == "better"
    assert kd.paired(a, b, confidence=0.99).verdict == "no difference seen"


def test_pairs_matter_and_not_only_the_two_sets_of_scores():
    a = [90.2, 95.3, 99.2]
    assert kd.paired(a, [90.0, 95.0, 99.0]).verdict == "better"
    assert kd.paired(a, [99.0, 90.0, 95.0]).verdict == "no difference seen"


def test_a_comparison_reads_as_a_sentence():
    text = str(kd.paired([98.1, 98.3, 98.2], [97.5, 97.9, 97.7]))
    assert text == "+0.5 [+0.2516, +0.7484], n = 3, paired: better"


@pytest.mark.parametrize("a, b", [([1.0], [2.0]), ([1.0, 2.0], [1.0]), ([], []), (1.0, 2.0)])
def test_fewer_than_two_pairs_or_unequal_lengths_are_refused(a, b):
    with pytest.raises(ValueError, match="the same number of scores, at least two, got shapes"):
        kd.paired(a, b)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_scores_must_be_finite(bad):
    for a, b in (([1.0, bad], [1.0, 2.0]), ([1.0, 2.0], [1.0, bad])):
        with pytest.raises(ValueError, match=f"a and b must be finite, got .*{bad}"):
            kd.paired(a, b)


@pytest.mark.parametrize("confidence", [0, 1, 95, -0.5, math.nan])
def test_confidence_must_lie_between_zero_and_one(confidence):
    wording = f"confidence must be between 0 and 1, got {confidence}; 0.95 is usual"
    with pytest.raises(ValueError, match=wording):
        kd.paired([1.0, 2.0], [1.0, 3.0], confidence)


def test_confidence_must_be_a_number():
    with pytest.raises(TypeError, match="confidence must be a number, got '95 %'"):
        kd.paired([1.0, 2.0], [1.0, 3.0], "95 %")


def test_the_same_score_computed_in_two_ways_is_no_difference():
    assert kd.paired([0.3] * 5, [0.1 + 0.2] * 5).verdict == "no difference seen"


# The mean of one treatment


@pytest.mark.parametrize("n", [2, 5, 30])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.99])
def test_interval_of_one_treatment_is_that_of_the_t_test(n, confidence):
    values = np.random.default_rng(n).normal(74, 3, n)
    result = kd.interval(values, confidence)
    expected = ttest_1samp(values, 0).confidence_interval(confidence)
    assert (result.low, result.high) == pytest.approx((expected.low, expected.high))
    assert result.mean == pytest.approx(np.mean(values))
    assert result.n == n


def test_interval_of_one_treatment_by_hand():
    # Mean 76, s = 2, t(0.975, 2) = 4.302653, margin 2 * 4.302653 / sqrt 3 = 4.968275
    result = kd.interval([74, 78, 76])
    assert (result.mean, result.n) == (76, 3)
    assert (result.low, result.high) == pytest.approx((71.031725, 80.968275), abs=1e-6)
    assert str(result) == "76 [71.03, 80.97], n = 3"


def test_equal_scores_have_an_interval_without_width():
    assert kd.interval([74, 74, 74]) == kd.Interval(74, 74, 74, 3)


def test_an_interval_over_several_dimensions_or_fewer_than_two_scores_is_refused():
    for values in ([], [74.0], 74.0, [[74.0, 75.0]]):
        with pytest.raises(
            ValueError, match="values must hold at least two finite scores, got"
        ) as e:
            kd.interval(values)
        assert str(e.value).endswith(f"got {values}")


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_scores_of_an_interval_must_be_finite(bad):
    with pytest.raises(ValueError, match=f"at least two finite scores, got .*{bad}"):
        kd.interval([74.0, bad, 76.0])


@pytest.mark.parametrize("confidence", [0, 1, 95, -0.5, math.nan])
def test_confidence_of_an_interval_must_lie_between_zero_and_one(confidence):
    wording = f"confidence must be between 0 and 1, got {confidence}; 0.95 is usual"
    with pytest.raises(ValueError, match=wording):
        kd.interval([74.0, 76.0], confidence)
    with pytest.raises(TypeError, match="confidence must be a number, got '95 %'"):
        kd.interval([74.0, 76.0], "95 %")
