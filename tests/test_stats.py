import math

import numpy as np
import pytest
from scipy.stats import ttest_1samp, ttest_rel

import kdlib as kd


@pytest.mark.parametrize("n", [2, 5, 30])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.99])
def test_both_intervals_are_those_of_the_t_tests(n, confidence):
    generator = np.random.default_rng(n)
    seeds = generator.normal(98, 3, n)  # the seeds differ much more than the treatments
    a, b = seeds + generator.normal(0.3, 0.1, n), seeds + generator.normal(0, 0.1, n)
    for result, mean, test in (
        (kd.interval(a, confidence), np.mean(a), ttest_1samp(a, 0)),
        (kd.paired(a, b, confidence), np.mean(a - b), ttest_rel(a, b)),
    ):
        expected = test.confidence_interval(confidence)
        assert (result.low, result.high) == pytest.approx((expected.low, expected.high))
        assert getattr(result, "mean", getattr(result, "difference", None)) == pytest.approx(mean)
        assert result.n == n


def test_intervals_read_as_sentences():
    # s = 2, t(0.975, 2) = 4.302653, margin 2 * 4.302653 / sqrt 3 = 4.968275
    assert str(kd.interval([74, 78, 76])) == "76 [71.03, 80.97], n = 3"
    text = str(kd.paired([98.1, 98.3, 98.2], [97.5, 97.9, 97.7]))
    assert text == "+0.5 [+0.2516, +0.7484], n = 3, paired: better"


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
        ([9.0, 8.0], [8.5, 7.5], False, "better"),  # an interval without width
        ([0.3] * 5, [0.1 + 0.2] * 5, False, "no difference seen"),  # equal up to rounding
        # the same scores, paired in two ways
        ([90.2, 95.3, 99.2], [90.0, 95.0, 99.0], False, "better"),
        ([90.2, 95.3, 99.2], [99.0, 90.0, 95.0], False, "no difference seen"),
    ],
)
def test_the_verdict_is_about_the_first_treatment(a, b, lower_is_better, verdict):
    assert kd.paired(a, b, lower_is_better=lower_is_better).verdict == verdict


def test_a_higher_confidence_withdraws_a_verdict():
    a, b = [2.0, 4.0, 6.0], [1.0, 2.0, 3.0]
    assert kd.paired(a, b, confidence=0.8).verdict == "better"
    assert kd.paired(a, b, confidence=0.99).verdict == "no difference seen"


def test_equal_scores_have_an_interval_without_width():
    assert kd.interval([74, 74, 74]) == kd.Interval(74, 74, 74, 3)


@pytest.mark.parametrize("a, b", [([1.0], [2.0]), ([1.0, 2.0], [1.0]), ([], []), (1.0, 2.0)])
def test_fewer_than_two_pairs_or_unequal_lengths_are_refused(a, b):
    with pytest.raises(ValueError, match="the same number of scores, at least two, got shapes"):
        kd.paired(a, b)


@pytest.mark.parametrize("values", [[], [74.0], 74.0, [[74.0, 75.0], [76.0, 77.0]]])
def test_an_interval_needs_two_scores_in_one_dimension(values):
    with pytest.raises(ValueError, match="values must hold at least two finite scores, got") as e:
        kd.interval(values)
    assert str(e.value).endswith(f"got {values}")


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_scores_must_be_finite(bad):
    for a, b in (([1.0, bad], [1.0, 2.0]), ([1.0, 2.0], [1.0, bad])):
        with pytest.raises(ValueError, match=f"a and b must be finite, got .*{bad}"):
            kd.paired(a, b)
    with pytest.raises(ValueError, match=f"at least two finite scores, got .*{bad}"):
        kd.interval([74.0, bad, 76.0])


@pytest.mark.parametrize(
    "compute", [kd.interval, lambda values, confidence: kd.paired(values, [0.0, 0.0], confidence)]
)
def test_confidence_must_be_a_number_between_zero_and_one(compute):
    for confidence in (0, 1, 95, -0.5, math.nan):
        wording = f"confidence must be between 0 and 1, got {confidence}; 0.95 is usual"
        with pytest.raises(ValueError, match=wording):
            compute([1.0, 2.0], confidence)
    with pytest.raises(TypeError, match="confidence must be a number, got '95 %'"):
        compute([1.0, 2.0], "95 %")
