"""The distillation explorer's Python side: the numbers of the table, and nothing between them."""

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import kdlib as kd
from kdlib.course.widgets import DistillationExplorer


def grid(width=30):
    table = kd.results("student")
    return table[table["experiment"] == f"grid {width}"]


def students(temperatures=(1.0, 4.0), alphas=(0.0, 0.5), seeds=(0, 1, 2), **columns):
    rows = itertools.product(temperatures, alphas, seeds)
    table = pd.DataFrame(rows, columns=["temperature", "alpha", "seed"])
    errors = 100 - 10 * table["alpha"] * table["temperature"] + table["seed"]
    return table.assign(**({"test_errors": errors} | columns))


@pytest.mark.parametrize("width", [30, 800])
def test_every_setting_of_the_shipped_grid_is_there_with_its_mean_and_interval(width):
    explorer = DistillationExplorer(grid(width))
    for T in explorer._temperatures:
        for alpha in explorer._alphas[1:]:
            explorer.temperature, explorer.alpha = T, alpha
            rows = grid(width).query("metric == 'test_errors'")
            errors = rows[rows["setting"] == f"T = {T:g}, alpha = {alpha:g}"]["value"].to_numpy()
            interval = stats.t.interval(0.95, len(errors) - 1, errors.mean(), stats.sem(errors))
            assert explorer.cell["errors"] == errors.tolist()
            assert explorer.cell["mean"] == pytest.approx(errors.mean())
            assert (explorer.cell["low"], explorer.cell["high"]) == pytest.approx(interval)


def test_a_setting_is_compared_with_labels_only_seed_by_seed():
    table = students()
    table.loc[table["alpha"] > 0, "test_errors"] -= [0, 1, 2, 0, 1, 2]
    explorer = DistillationExplorer(table)
    wanted = kd.paired([80.0] * 3, [100.0, 101.0, 102.0], lower_is_better=True)
    assert explorer.cell["against"] == vars(wanted)
    assert explorer.cell["against"]["verdict"] == "better"


def test_without_soft_targets_every_temperature_is_the_same_students():
    explorer = DistillationExplorer(grid())
    explorer.alpha = 0.0
    for temperature in explorer._temperatures:
        explorer.temperature = temperature
        assert explorer.cell is explorer._cells[0]


def test_loss_terms_are_shown_if_the_table_has_them():
    terms = students(soft=np.arange(12.0), hard=1.0, objective="SoftTargets")
    explorer = DistillationExplorer(terms)
    explorer.temperature = 1.0
    wanted = terms.query("temperature == 1 and alpha == 0.5")["soft"].mean()
    assert explorer.cell["terms"] == {"soft": wanted, "hard": 1.0}
    assert DistillationExplorer(students()).cell["terms"] is None
    assert DistillationExplorer(students(soft=np.nan, hard=1.0)).cell["terms"] is None


def test_the_frame_of_a_real_cohort_is_a_table(digits):
    teacher = kd.models.mlp(8, depth=1, seed=0)
    objectives = [kd.SoftTargets(teacher, T, alpha) for T in (1, 4) for alpha in (0, 0.5)]
    build, recipe = lambda seed: kd.models.mlp(4, 1, seed=seed), kd.Recipe(iterations=2)
    cohort = kd.fit_cohort(build, objectives, digits, recipe, [0, 1], progress=False)
    explorer = DistillationExplorer(cohort.frame)
    assert explorer._temperatures == [1, 4]
    assert explorer._alphas == [0, 0.5]
    assert set(explorer.cell["terms"]) == {"soft", "hard"}


def test_only_what_was_measured_can_be_chosen():
    explorer = DistillationExplorer(grid())
    with pytest.raises(ValueError, match="temperature must be one of 1, 2, 4, 8, 20, got 3"):
        explorer.temperature = 3
    with pytest.raises(ValueError, match="alpha must be one of 0, 0.5, 0.9, 1, got 0.7"):
        explorer.alpha = 0.7


def test_its_still_picture_is_drawn_and_the_alt_text_gives_the_mean():
    explorer = DistillationExplorer(grid())
    for shown in (explorer, DistillationExplorer(students(temperatures=(4.0,)))):
        assert shown.picture().startswith(b"\x89PNG")
    assert f"{explorer.cell['mean']:.0f} on average" in explorer.alt()


def test_a_table_that_it_cannot_show_is_refused():
    whole = kd.results("student")
    for table, error, words in (
        ([1, 2], TypeError, "table must be a pandas table"),
        (whole, ValueError, "table must be one experiment .* got grid 30 and grid 800"),
        (whole[whole["experiment"] == "images"], ValueError, "table must be one experiment"),
        (pd.concat([grid(), grid()]), ValueError, "table must hold each student once"),
        (students().drop(columns="seed"), ValueError, "table must have the column seed"),
        (students(test_errors=np.nan), ValueError, "table must have temperature.* got nan"),
        (students(alphas=(0.5, 1.0)), ValueError, "table must have students of alpha = 0"),
        (students(seeds=(0,)), ValueError, "the same seeds in every setting, at least two"),
        (students().drop(index=5), ValueError, "the same seeds in every setting"),
        (students(alphas=(0.0,)), ValueError, "above 0, got those of alpha = 0 alone"),
        (students().query("temperature == 1 or alpha == 0"), ValueError, "got none of T = 4"),
    ):
        with pytest.raises(error, match=words):
            DistillationExplorer(table)


def test_an_impossible_number_of_test_images_is_refused():
    for number, error, words in (
        (100, ValueError, "at least the 102 errors of a student, got 100"),
        (0, ValueError, "test_images must be at least"),
        (1e4, TypeError, "whole number, got 10000.0"),
        (True, TypeError, "whole number, got True"),
    ):
        with pytest.raises(error, match=words):
            DistillationExplorer(students(), test_images=number)
