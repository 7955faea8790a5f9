"""The grading matrix: without a miss for the homework, and never silent about one that is planted."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kdlib.course.exercises import HOMEWORKS
from kdlib.course.grading.exercise import VISIBLE, Exercise
from kdlib.course.grading.matrix import FEWEST_RIGHT, HIDDEN, gaps, rows, show, some

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:reduction. 'mean' divides:UserWarning"),
]
ALL = [(homework, e) for homework, exercises in HOMEWORKS.items() for e in exercises]


@pytest.mark.parametrize(("homework", "exercise"), ALL, ids=[e.name for _, e in ALL])
@pytest.mark.parametrize("seed", [VISIBLE, HIDDEN])
def test_no_known_answer_of_the_homework_is_missed(homework, exercise, seed):
    found = list(rows(homework, exercise, seed))
    assert [f"{row.answer}: {row.miss}" for row in found if row.miss] == []
    assert gaps(exercise, found) == []
    assert len(found) == len(exercise.mistakes) + len(exercise.right)


def test_each_homework_has_its_exercises_once():
    names = [e.name for _, e in ALL]
    assert set(HOMEWORKS) == {"hw1", "hw2", "hw3"} and len(set(names)) == len(names)


# Planted


def product(a, b):
    return a * b


def with_arguments_swapped(x, y):
    return y * x


def by_adding(a, b):
    return sum(a for _ in range(b))


def by_halves(a, b):
    return a * b / 2 + a * b / 2


def always_six(a, b):
    return 6


def always_zero(a, b):
    return 0


def added(a, b):
    return a + b


def subtracted(a, b):
    return 3 * (b - a)


def complete():
    """An exercise that lacks nothing: 2 · 3 is 6, and 0 · 0 is 0."""
    times = Exercise("times", "times(a, b) gives a · b.", minutes=1)

    @times.holds("2 · 3 is 6")
    def _(ask, draw):
        ask(a=2, b=3).should_be(6)

    @times.holds("0 · 0 is 0")
    def _(ask, draw):
        ask(a=0, b=0).should_be(0)

    times.hint("Does it look at its arguments?")(always_six)
    times.hint("Which sign stands there?")(added)
    for right in (product, with_arguments_swapped, by_adding, by_halves):
        times.answer(right)
    return times


def shown(exercise, capsys):
    misses = show({"hw0": (exercise,)})
    return misses, [line for line in capsys.readouterr().out.splitlines() if "MISS" in line]


def test_a_complete_exercise_has_no_misses(capsys):
    assert show({"hw0": (complete(),)}) == 0
    text = capsys.readouterr().out
    assert "MISS" not in text and "6 answers, with two draws of cases each: no misses" in text
    assert "wrong  added" in text and "right  by_halves" in text


def test_a_property_that_no_wrong_answer_fails_alone_is_a_miss(capsys):
    exercise = complete()

    @exercise.holds("What it gives is a number")
    def _(ask, draw):
        found = ask(a=1, b=1)
        found.should(isinstance(found.value, int | float), "a number")

    misses, lines = shown(exercise, capsys)
    assert misses == 2  # in each draw
    assert set(lines) == {'  MISS: no wrong answer fails "What it gives is a number" alone'}


def test_a_property_that_fails_only_beside_another_is_a_miss(capsys):
    exercise = complete()

    @exercise.holds("4 · 5 is 20")
    def _(ask, draw):
        ask(a=4, b=5).should_be(20)

    misses, lines = shown(exercise, capsys)
    assert misses > 0
    assert '  MISS: no wrong answer fails "4 · 5 is 20" alone' in lines


def test_too_few_right_answers_are_a_miss(capsys):
    exercise = complete()
    exercise.right.pop()
    misses, lines = shown(exercise, capsys)
    assert misses == 2
    assert set(lines) == {f"  MISS: {FEWEST_RIGHT - 1} right answers, fewer than {FEWEST_RIGHT}"}


def test_a_right_answer_that_fails_is_a_miss(capsys):
    exercise = complete()
    exercise.answer(subtracted)
    misses, lines = shown(exercise, capsys)
    assert misses == 2
    assert all("subtracted" in line and "a right answer loses points" in line for line in lines)


def test_a_wrong_answer_that_passes_is_a_miss(capsys):
    exercise = complete()
    exercise.hint("Nothing is wrong with it.")(lambda a, b: b * a)
    misses, lines = shown(exercise, capsys)
    assert misses == 2 == len(lines)
    assert all("<lambda>" in line and "a wrong answer passes" in line for line in lines)


def test_a_wrong_answer_that_is_taken_for_another_is_a_miss(capsys):
    exercise = complete()
    exercise.hint("Did you add?")(added_in_another_way)
    misses, lines = shown(exercise, capsys)
    assert misses == 2 == len(lines)
    assert all("added_in_another_way" in line and "recognised as added" in line for line in lines)


def added_in_another_way(a, b):
    return b + a


def test_a_wrong_answer_that_nothing_recognises_is_a_miss():
    exercise, never = complete(), [0]

    @exercise.hint("It is never twice the same.")
    def another_each_time(a, b):
        never[0] += 1
        return 100 + never[0]

    missed = {row.answer: row.miss for row in rows("hw0", exercise, VISIBLE) if row.miss}
    assert missed == {"another_each_time": "recognised as nothing"}


def test_a_miss_in_the_hidden_draw_alone_is_shown(capsys):
    exercise = complete()
    exercise.answer(lambda a, b: exercise_says(a, b))

    def exercise_says(a, b):
        return a * b if seen.pop(0) else -1

    seen = [True, True, False, False]  # two properties, twice
    misses, lines = shown(exercise, capsys)
    assert misses == 1 == len(lines) and "a right answer loses points" in lines[0]


def test_the_command_prints_every_exercise_and_is_content():
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-m", "kdlib.course.grading", "matrix"],
        capture_output=True,
        check=False,
        text=True,
        encoding="utf-8",
        cwd=root,
        env=os.environ | {"PYTHONIOENCODING": "utf-8"},
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    for homework, exercise in ALL:
        assert f"{homework} {exercise.name}: {exercise.points:g} points" in done.stdout
        for answer in [m.name for m in exercise.mistakes] + [r.__name__ for r in exercise.right]:
            assert f" {answer} " in done.stdout
    assert "no misses" in done.stdout and "MISS" not in done.stdout


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        ([], ["hw0", "hw9"]),
        (["hw9"], ["hw9"]),
        (["complete"], ["hw0", "hw9"]),
        (["hw0", "hw9"], ["hw0", "hw9"]),
    ],
)
def test_the_matrix_of_some_homeworks_or_exercises(names, shown):
    exercise = complete()
    everything = {"hw0": (exercise,), "hw9": (exercise,)}
    names = [exercise.name if name == "complete" else name for name in names]
    assert list(some(everything, names)) == shown


def test_the_command_refuses_names_that_it_does_not_know(capsys):
    from kdlib.course.grading import __main__

    for arguments, message in (
        (["matrix", "hw4"], "NAME must be one of hw1, hw2, hw3, soften, "),
        (["grade", "hw1"], "NAME goes with matrix alone, got hw1"),
    ):
        with pytest.raises(SystemExit):
            __main__.main(arguments)
        assert message in capsys.readouterr().err


def test_the_command_fails_where_something_is_missed(monkeypatch, capsys):
    from kdlib.course.grading import __main__

    exercise = complete()
    exercise.right.clear()
    monkeypatch.setattr(__main__, "HOMEWORKS", {"hw0": (exercise,)})
    assert __main__.main(["matrix"]) == 1
    assert "0 right answers" in capsys.readouterr().out
