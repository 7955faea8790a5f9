"""kdlib/recipe.py: values are checked, and schedules give their rates."""

import math

import numpy as np
import pytest

import kdlib as kd
from kdlib.training.checkpoint import recipe_text

REFUSED = [
    ("epochs", [0, 2.0, True, None], ValueError, "whole number of at least 1"),
    ("iterations", [0, 1.5], ValueError, "whole number of at least 1"),
    ("batch_size", [0, -5], ValueError, "whole number of at least 1"),
    ("optimizer", ["rmsprop"], ValueError, "sgd, adam, adamw"),
    ("learning_rate", [0, -0.1, math.inf, math.nan], ValueError, "positive and finite.*0.03"),
    ("learning_rate", ["fast"], TypeError, "a number"),
    ("momentum", [1], ValueError, "below 1.*0.9"),
    ("momentum", [-0.1, math.nan], ValueError, r"\[0, 1\].*0.9"),
    ("schedule", ["cosine"], ValueError, "one_cycle, step, constant, wide_resnet, plateau"),
    ("weight_decay", [-1e-4, math.nan, math.inf], ValueError, "at least 0"),
    ("weight_decay", ["0.1"], TypeError, "a number"),
    ("max_norm", [0, -3.0], ValueError, "positive.*None sets no limit"),
    ("max_gradient", [0, math.inf], ValueError, "positive.*None sets no limit"),
    ("augment", ["shift", 3, kd.data.shift], TypeError, "kd.data.shift, crop or flip, or a fun"),
    ("augment", [lambda x: x, lambda x, y, z: x], TypeError, "function .images, generator"),
    ("precision", ["float8"], ValueError, "auto, float32, float64, bfloat16, float16"),
    ("keep", ["first"], ValueError, "last, best"),
]


@pytest.mark.parametrize(
    ("name", "value", "kind", "remedy"),
    [(name, value, *rest) for name, values, *rest in REFUSED for value in values],
)
def test_a_recipe_refuses_a_value_and_names_it_with_a_remedy(name, value, kind, remedy):
    with pytest.raises(kind, match=f"^{name} must be .*") as caught:
        kd.Recipe(**{name: value})
    found = f"{value!r}" if isinstance(value, str) else f"{value}"
    assert found in str(caught.value)
    caught.match(remedy)


@pytest.mark.parametrize(("optimizer", "rate"), [("sgd", 0.03), ("adam", 0.001), ("adamw", 0.001)])
def test_the_default_rate_goes_with_the_optimizer(optimizer, rate):
    assert kd.Recipe(optimizer=optimizer).peak_rate == rate
    assert kd.Recipe(optimizer=optimizer, learning_rate=0.2).peak_rate == 0.2


def test_one_cycle_climbs_to_its_peak_and_falls_to_nothing():
    recipe = kd.Recipe(learning_rate=0.5)
    assert recipe.rate(0) == pytest.approx(0.02)
    assert recipe.rate(0.15) == pytest.approx((0.02 + 0.5) / 2)
    assert recipe.rate(0.3) == pytest.approx(0.5)
    assert recipe.rate(0.65) == pytest.approx(0.25)
    assert recipe.rate(0.9999) < 1e-6
    rates = [recipe.rate(step / 1000) for step in range(1000)]
    assert max(rates) == pytest.approx(0.5)
    assert rates[:301] == sorted(rates[:301])
    assert rates[300:] == sorted(rates[300:], reverse=True)


def test_step_takes_a_tenth_at_a_half_and_at_three_quarters_and_constant_stays():
    step = kd.Recipe(learning_rate=1.0, schedule="step")
    found = [step.rate(progress) for progress in (0, 0.499, 0.5, 0.749, 0.75, 0.999)]
    assert found == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    constant = kd.Recipe(learning_rate=1.0, schedule="constant")
    assert {constant.rate(progress) for progress in (0, 0.3, 0.999)} == {1.0}


def test_wide_resnet_takes_a_fifth_after_30_60_and_80_percent():
    recipe = kd.Recipe(learning_rate=2.0, schedule="wide_resnet")
    found = [recipe.rate(progress) for progress in (0, 0.299, 0.3, 0.599, 0.6, 0.799, 0.8, 0.999)]
    assert found == pytest.approx([2, 2, 0.4, 0.4, 0.08, 0.08, 0.016, 0.016])


def test_a_field_at_its_default_is_not_in_a_recipes_text():
    """So that a new field leaves earlier checkpoints and kept networks valid."""
    assert recipe_text(kd.Recipe(epochs=3, max_gradient=None)) == "{'epochs': '3'}"
    assert recipe_text(kd.Recipe(max_gradient=0.25)) == "{'max_gradient': '0.25'}"


def test_numbers_of_numpy_become_plain_ones():
    given = {"epochs": 2, "batch_size": 64, "iterations": 5, "max_norm": 3.0, "max_gradient": 2.0}
    given |= {"learning_rate": 0.25, "momentum": 0.5, "weight_decay": 0.125}
    kinds = {int: np.int64, float: np.float32}
    numpys = kd.Recipe(**{name: kinds[type(value)](value) for name, value in given.items()})
    assert numpys == kd.Recipe(**given)
    assert {name: type(getattr(numpys, name)) for name in given} == {
        name: type(value) for name, value in given.items()
    }


@pytest.mark.parametrize(
    ("fields", "length"),
    [
        ({"epochs": 3}, (300, 3)),
        ({"epochs": 9, "iterations": 250}, (250, 3)),
        ({"iterations": 200}, (200, 2)),
        ({"iterations": 1}, (1, 1)),
    ],
)
def test_a_length_is_a_number_of_steps_and_of_begun_epochs(fields, length):
    assert kd.Recipe(**fields).length(100) == length
