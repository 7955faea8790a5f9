"""kdlib/class_subsets/omitted.py: the oracle tries every bias of a fine grid, in numpy's float64."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax

from kdlib.class_subsets.omitted import bias_by_errors, bias_by_mass

many_cases = settings(deadline=None, max_examples=100, derandomize=True)


def raised(z, classes, b):
    """Logits with a bias, (N, C); with several, (B, N, C)."""
    chosen = np.isin(np.arange(z.shape[1]), classes)
    return z.double().numpy() + np.asarray(b, dtype=float)[..., None, None] * chosen


def errors_of(z, y, classes, b):
    return (raised(z, classes, b).argmax(-1) != y.numpy()).sum(-1)


def mass_of(z, classes, b):
    return softmax(raised(z, classes, b), axis=-1)[:, classes].sum(1).mean()


def student(seed, classes, scale=1.5, n=100, dtype=torch.float64):
    """Logits for ten classes, some of which are predicted too rarely, and the labels."""
    draws = np.random.default_rng(seed)
    y = draws.integers(0, 10, n)
    z = draws.normal(0, scale, (n, 10))
    z[np.arange(n), y] += 2 * scale
    z[:, classes] -= 2.5 * scale
    return torch.tensor(z, dtype=dtype), torch.tensor(y)


SOME = [[3], [7, 8], [0, 1, 2, 3, 4, 5, 6, 9]]


# By errors


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("classes", SOME)
def test_no_bias_on_a_fine_grid_makes_fewer_errors(classes, seed):
    z, y = student(seed, classes)
    found = errors_of(z, y, classes, bias_by_errors(z, y, classes))
    assert found == errors_of(z, y, classes, np.linspace(-15, 15, 3_001)).min()
    assert found < errors_of(z, y, classes, 0)


@st.composite
def whole_numbers(draw):
    """Few examples, many equal margins."""
    n, count = draw(st.integers(2, 6)), draw(st.integers(2, 4))
    row = st.lists(st.integers(-3, 3), min_size=count, max_size=count)
    z = draw(st.lists(row, min_size=n, max_size=n))
    chosen = draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=count - 1, unique=True))
    others = [k for k in range(count) if k not in chosen]
    y = [draw(st.sampled_from(chosen)), draw(st.sampled_from(others))]
    y += draw(st.lists(st.integers(0, count - 1), min_size=n - 2, max_size=n - 2))
    return torch.tensor(z).double(), torch.tensor(y), chosen


@many_cases
@given(whole_numbers())
def test_no_bias_makes_fewer_errors_however_few_the_examples_and_equal_their_margins(case):
    z, y, classes = case
    between = np.arange(-8, 8) + 0.5  # every margin, where two classes tie, is a whole number
    found = errors_of(z, y, classes, bias_by_errors(z, y, classes))
    assert found == errors_of(z, y, classes, between).min()


@many_cases
@given(st.sets(st.integers(-20, 20), min_size=2, max_size=9), st.data())
def test_of_the_best_intervals_the_middle_of_the_widest_is_taken(margins, data):
    margins = sorted(margins)
    labels = [1, *(data.draw(st.integers(0, 1)) for _ in margins[1:-1]), 0]  # best is not far out
    z, y = torch.tensor([[m, 0.0] for m in margins]), torch.tensor(labels)
    grid = np.arange(margins[0], margins[-1], 0.5) + 0.25
    errors = errors_of(z, y, [1], grid)
    edges = np.flatnonzero(np.diff([0, *(errors == errors.min()), 0]))
    runs = [(end - start, (grid[start] + grid[end - 1]) / 2) for start, end in edges.reshape(-1, 2)]
    widest = max(runs)[0]
    assert bias_by_errors(z, y, 1) in [middle for width, middle in runs if width == widest]


def test_an_interval_without_end_gives_a_finite_number_on_its_side():
    z = torch.tensor([[3.0, 0.0], [3.0, 0.0], [8.0, 0.0], [9.0, 0.0]])
    assert -math.inf < bias_by_errors(z, torch.tensor([0, 0, 0, 1]), 1) < 3
    assert 9 < bias_by_errors(z, torch.tensor([0, 1, 1, 1]), 1) < math.inf


def thousands(seed):
    """Logits of about +-1000 for four classes, and labels."""
    draws = np.random.default_rng(seed)
    z = draws.choice([-1000, 1000], (60, 4)) + draws.normal(0, 3, (60, 4))
    return torch.tensor(z), torch.tensor(draws.integers(0, 4, 60))


@pytest.mark.parametrize("seed", range(5))
def test_errors_are_the_fewest_at_logits_of_a_thousand(seed):
    z, y = thousands(seed)
    exact = z.numpy()
    margins = np.unique(exact[:, :2].max(1) - exact[:, 2:].max(1))
    assert margins[0] < -1990 and margins[-1] > 1990
    between = [-3000, *((margins[1:] + margins[:-1]) / 2), 3000]
    found = errors_of(z, y, [2, 3], bias_by_errors(z, y, [2, 3]))
    assert found == errors_of(z, y, [2, 3], between).min()


# By mass


@pytest.mark.parametrize("share", [1e-30, 0.1, 0.5, 0.9, 0.9999])
@pytest.mark.parametrize("classes", SOME)
def test_the_mean_probability_of_the_classes_becomes_their_share(classes, share):
    z, _ = student(5, classes)
    found = mass_of(z, classes, bias_by_mass(z, classes, share))
    assert found == pytest.approx(share, rel=1e-6, abs=0)


@pytest.mark.parametrize("share", [0.01, 0.3, 0.97])
@pytest.mark.parametrize("seed", range(3))
def test_the_mass_is_the_share_at_logits_of_a_thousand(seed, share):
    z, _ = thousands(seed)
    assert abs(mass_of(z, [2, 3], bias_by_mass(z, [2, 3], share)) - share) < 1e-6


# Both


@pytest.fixture(params=["errors", "mass"])
def bias(request):
    """Either function, its other arguments given."""
    _, y = student(2, [7, 8])
    if request.param == "errors":
        return lambda z, classes, y=y: bias_by_errors(z, y, classes)
    return lambda z, classes: bias_by_mass(z, classes, 0.2)


def test_classes_may_be_one_or_several_in_any_order(bias):
    z, _ = student(2, [7, 8])
    assert bias(z, 7) == bias(z, [7]) == bias(z, np.int64(7)) != bias(z, 8)
    assert bias(z, [7, 8]) == bias(z, (8, 7)) == bias(z, iter([8, 7, 8])) != bias(z, [3, 7])


def test_logits_are_compared_within_a_row_and_left_as_they_are(bias):
    z, _ = student(2, [7, 8])
    before = z.clone()
    moved = z + torch.linspace(-9, 9, len(z)).double()[:, None]
    assert bias(moved, [7, 8]) == pytest.approx(bias(z, [7, 8]), abs=1e-9)
    assert torch.equal(z, before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_narrow_logits_are_taken_as_the_numbers_they_are(bias, dtype):
    z, _ = student(2, [7, 8], dtype=dtype)
    found = bias(z, [7, 8])
    assert isinstance(found, float)
    assert found == bias(z.double(), [7, 8])


@pytest.mark.parametrize(
    ("classes", "message"),
    [([3, -1], "from 0 to 9, got -1"), (range(10), "some of the 10, not all")],
)
def test_classes_must_be_some_class_numbers_and_not_all(bias, classes, message):
    z, _ = student(2, [7, 8])
    with pytest.raises(ValueError, match=f"classes must be .*{message}"):
        bias(z, classes)


@pytest.mark.parametrize(
    ("z", "error", "message"),
    [
        (torch.zeros(100, 10).long(), TypeError, "logits must be a floating-point tensor.*int64"),
        (torch.zeros(10), ValueError, r"logits must be \(N, C\), got shape \(10,\)"),
        (torch.zeros(5, 3, 10), ValueError, r"logits must be \(N, C\), got shape \(5, 3, 10\)"),
        (torch.zeros(0, 10), ValueError, r"logits must be .* got shape \(0, 10\)"),
        *(
            (torch.tensor([[bad, *[0.0] * 9]] * 100), ValueError, "logits must be finite")
            for bad in (math.nan, math.inf, -math.inf)
        ),
    ],
)
def test_logits_must_be_finite_floats_in_rows(bias, z, error, message):
    with pytest.raises(error, match=message):
        bias(z, 3)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 0, 0], r"labels must have .*\(4,\).* got shape \(3,\)"),
        ([0, 7, 1, 1], "labels must be class numbers from 0 to 2, got 7"),
        ([1, 1, 1, 1], "of classes and of others, got none of 0, 2"),
        ([0, 0, 2, 0], "of classes and of others, got only of 0, 2"),
    ],
)
def test_labels_must_be_class_numbers_inside_and_outside_the_classes(labels, message):
    with pytest.raises(ValueError, match=message):
        bias_by_errors(torch.zeros(4, 3), torch.tensor(labels), [2, 0])


@pytest.mark.parametrize("share", [0, 1, -0.1, 10, math.nan, "10 %"])
def test_a_share_must_be_a_number_between_zero_and_one(share):
    error, message = ValueError, f"share must be between 0 and 1, got {share}"
    if isinstance(share, str):
        error, message = TypeError, "share must be a number, got '10 %'"
    with pytest.raises(error, match=message):
        bias_by_mass(torch.zeros(2, 3), 1, share)
