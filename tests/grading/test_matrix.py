"""The grading matrix: it has no miss for the homework, and reports every miss that is planted."""

import itertools
import runpy
import sys

import pytest
import torch

from kdlib.course.exercises import HOMEWORKS
from kdlib.course.grading import __main__, matrix, observe
from kdlib.course.grading.exercise import VISIBLE, Exercise
from kdlib.course.grading.matrix import FEWEST_RIGHT, HIDDEN, gaps, right_answers, rows
from kdlib.course.grading.observe import ANSWERS

pytestmark = pytest.mark.filterwarnings("ignore:reduction. 'mean' divides:UserWarning")
ALL = [(homework, e) for homework, exercises in HOMEWORKS.items() for e in exercises]
each_exercise = pytest.mark.parametrize(("homework", "exercise"), ALL, ids=[e.name for _, e in ALL])


@each_exercise
@pytest.mark.parametrize("seed", [VISIBLE, HIDDEN])
def test_no_known_answer_of_the_homework_is_missed(homework, exercise, seed):
    found = list(rows(homework, exercise, seed, right_answers(homework, exercise, ANSWERS)))
    assert [f"{row.answer}: {row.miss}" for row in found if row.miss] == []
    assert gaps(exercise, found) == []
    assert sum(not row.right for row in found) == len(exercise.mistakes)


def test_each_homework_has_its_exercises_once_and_every_file_of_right_answers_has_an_exercise():
    names = [e.name for _, e in ALL]
    assert set(HOMEWORKS) == {"hw1", "hw2", "hw3"} and len(set(names)) == len(names)
    files = {(path.parent.name, path.stem) for path in ANSWERS.glob("*/*.py")}
    assert files == {(homework, e.name) for homework, e in ALL}


@each_exercise
def test_properties_and_answers_have_names_that_a_traceback_can_tell_apart(homework, exercise):
    properties = [p.check.__name__ for p in exercise.properties]
    answers = [m.name for m in exercise.mistakes]
    answers += [f.__name__ for f in right_answers(homework, exercise, ANSWERS)]
    assert len({*properties, *answers}) == len(properties) + len(answers)
    assert not any(name.startswith("_") for name in properties + answers)


# Planted


def product(a, b):
    return a * b


def always_six(a, b):
    return 6


def added(a, b):
    return a + b


def added_the_other_way_round(a, b):
    return b + a


def subtracted(a, b):
    return 3 * (b - a)


def another_each_time(a, b, never=itertools.count(100)):  # noqa: B008
    return next(never)


OTHERS = """
from operator import mul

def with_arguments_swapped(x, y):
    return mul(y, x)

def by_adding(a, b):
    return sum(a for _ in range(b))

def by_halves(a, b):
    return a * b / 2 + a * b / 2
"""


def times_is(a, b, c):
    return lambda ask, draw: ask(a=a, b=b).should_be(c)


def complete():
    """An exercise that lacks nothing: 2 · 3 is 6, and 0 · 0 is 0."""
    times = Exercise("times", "times(a, b) gives a · b.", minutes=1)
    times.holds("2 · 3 is 6")(times_is(2, 3, 6))
    times.holds("0 · 0 is 0")(times_is(0, 0, 0))
    times.hint("Does it look at its arguments?")(always_six)
    times.hint("Which sign stands there?")(added)
    times.answer(product)
    return times


@pytest.fixture
def show(tmp_path, capsys):
    """Show the matrix of an exercise, with other right answers from a folder: misses and lines."""
    (tmp_path / "hw0").mkdir()
    (tmp_path / "hw0" / "times.py").write_text(OTHERS)

    def shown(exercise):
        misses = matrix.show({"hw0": (exercise,)}, tmp_path)
        return misses, capsys.readouterr().out.splitlines()

    return shown


def test_a_complete_exercise_has_no_misses(show):
    misses, lines = show(complete())
    assert misses == 0
    assert lines[-1] == "6 answers, with two draws of cases each: no misses"
    kinds = [line.split()[:2] for line in lines if line.startswith(("  wrong", "  right"))]
    wrong, right = ["always_six", "added"], ["product", "with_arguments_swapped"]
    assert kinds == [["wrong", name] for name in wrong] + [
        ["right", name] for name in [*right, "by_adding", "by_halves"]
    ]


MISSES = {
    "a property that no wrong answer fails": (
        lambda e: e.holds("7 · 1 is 7 or 8")(
            lambda ask, draw: ask(a=7, b=1).should(ask.last.value in (6, 7, 8), "7 or 8")
        ),
        'no wrong answer fails "7 · 1 is 7 or 8" alone',
    ),
    "a property that fails only beside another": (
        lambda e: e.holds("4 · 5 is 20")(times_is(4, 5, 20)),
        'no wrong answer fails "4 · 5 is 20" alone',
    ),
    "too few right answers": (
        lambda e: setattr(e, "right", None),
        f"{FEWEST_RIGHT - 1} right answers, fewer than {FEWEST_RIGHT}",
    ),
    "a right answer that fails": (
        lambda e: e.answer(subtracted),
        "subtracted: a right answer loses points",
    ),
    "a wrong answer that passes": (
        lambda e: e.hint("Nothing is wrong with it.")(lambda a, b: b * a),
        "<lambda>: a wrong answer passes",
    ),
    "a wrong answer taken for another": (
        lambda e: e.hint("Did you add?")(added_the_other_way_round),
        "added_the_other_way_round: recognised as added",
    ),
    "a wrong answer that nothing recognises": (
        lambda e: e.hint("It is never twice the same.")(another_each_time),
        "another_each_time: recognised as nothing",
    ),
}


@pytest.mark.parametrize(("plant", "expected"), MISSES.values(), ids=MISSES)
def test_a_planted_miss_is_shown_in_both_draws(show, plant, expected):
    exercise = complete()
    plant(exercise)
    misses, lines = show(exercise)
    found = [line.partition("MISS: ") for line in lines if "MISS: " in line]
    named = [f"{line.split()[1]}: {miss}" if line.split() else miss for line, _, miss in found]
    assert misses == len(named)
    assert named.count(expected) == 2
    if "4 · 5" not in expected:  # added, which fails both, now leaves 2 · 3 without a witness
        assert set(named) == {expected}


def test_a_miss_in_the_hidden_draw_alone_is_shown(show):
    exercise = complete()
    right = [True, True, False, False]  # two properties, twice
    exercise.answer(lambda a, b: a * b if right.pop(0) else -1)
    misses, lines = show(exercise)
    (line,) = (line for line in lines if "MISS" in line)
    assert misses == 1 and "a right answer loses points" in line


def test_the_matrix_of_some_homeworks_or_exercises():
    everything = {"hw0": (complete(),), "hw9": (complete(),)}
    assert list(matrix.some(everything, ["hw9"])) == ["hw9"]
    for names in ([], ["times"], ["hw0", "hw9"]):
        assert list(matrix.some(everything, names)) == ["hw0", "hw9"]


# The command


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
def test_the_command_shows_every_answer_of_an_exercise_and_is_content(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["grading", "matrix", "soften"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("kdlib.course.grading", run_name="__main__")
    assert ended.value.code == 0
    text = capsys.readouterr().out
    exercise = HOMEWORKS["hw1"][0]
    assert "hw1 soften: 4 points (kdlib.course.exercises.hw1.soften)" in text
    right = right_answers("hw1", exercise, ANSWERS)
    for answer in [m.name for m in exercise.mistakes] + [r.__name__ for r in right]:
        assert f" {answer} " in text
    assert "no misses" in text and "MISS" not in text


def test_the_command_runs_in_one_thread_and_without_the_tests_of_a_checkout(
    monkeypatch, capsys, tmp_path
):
    monkeypatch.setattr(observe, "ANSWERS", tmp_path / "nowhere")
    torch.set_num_threads(2)
    try:
        assert __main__.main(["matrix", "choose_temperature"]) == 0
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(1)
    assert "One right answer for each exercise" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["matrix", "hw4"], "NAME must be one of hw1, hw2, hw3, soften, "),
        (["grade", "hw1"], "NAME goes with matrix alone, got hw1"),
        (["matrix", "--answers", "nowhere"], "--answers must be a folder with answers, got now"),
    ],
)
def test_the_command_refuses_what_it_does_not_know(arguments, message, capsys):
    with pytest.raises(SystemExit):
        __main__.main(arguments)
    assert message in capsys.readouterr().err


def test_the_command_fails_where_something_is_missed(monkeypatch, capsys):
    exercise = complete()
    exercise.right = None
    monkeypatch.setattr(__main__, "HOMEWORKS", {"hw0": (exercise,)})
    assert __main__.main(["matrix"]) == 1
    assert "0 right answers" in capsys.readouterr().out
