"""What an honest answer does not mention, under the names that modules have today."""

import importlib.util
import pkgutil
import sys

import pytest
import torch

import kdlib as kd
from kdlib.course.exercises import HOMEWORKS
from kdlib.course.grading import marking
from kdlib.course.grading.matrix import right_answers
from kdlib.course.grading.observe import ANSWERS, BORROWED, PLACES, observe

COURSE = "kdlib.course"
GIVEN = {"s": torch.zeros(1, 3), "t": torch.zeros(1, 3), "T": 1.0}


def modules_of(room):
    package = importlib.import_module(f"{COURSE}.{room}")
    return [(room, module.name) for module in pkgutil.iter_modules(package.__path__)]


@pytest.mark.parametrize(
    ("room", "module"), [pair for r in ("exercises", "grading", "museum") for pair in modules_of(r)]
)
def test_every_module_of_the_grader_is_peeping_however_it_is_imported(room, module):
    for source in (
        f"from {COURSE}.{room}.{module} import anything",
        f"from {COURSE}.{room} import {module}",
        f"import {COURSE}.{room}.{module} as harmless",
        f"kdlib.course.{room}.{module}.anything",
    ):
        assert module in marking.peeped(source), source


def test_the_course_and_what_lies_deeper_in_it_are_peeping_and_a_word_is_not():
    for source in ("from kdlib.course import grading, museum", "import kdlib.course as harmless"):
        assert marking.peeped(source) == ["kdlib.course"]
    for source in (
        f"from {COURSE}.exercises.hw1.soften import soften",
        f"from {COURSE}.exercises.hw1 import soften",
        "kd.course.exercises.hw1.soften.soften.right",
    ):
        assert "hw1" in marking.peeped(source)
    assert marking.peeped("# of course. material things; the grading. interval is done") == []


def test_files_and_new_checks_are_peeping_and_the_checks_themselves_are_not():
    assert marking.peeped('open("grading_seed.txt")') == ["grading_seed"]
    assert marking.peeped("kd.grading.check_soften = print") == ["grading.check_soften"]
    for honest in ("kd.grading.check_soften(soften)", "z = kd.grading.teacher_logits(student_id)"):
        assert marking.peeped(honest) == []


@pytest.mark.parametrize("room", BORROWED)
def test_every_room_whose_functions_are_borrowed_is_there_and_in_its_place(room):
    home = importlib.import_module(room).__file__
    assert home.startswith(PLACES[BORROWED.index(room)])


def test_a_borrower_cannot_hide():
    """Try a copy of the file, a way inside, a module's name for a cell, an unwatched call."""

    def copies(s, t, T):
        spec = importlib.util.spec_from_file_location("mine_all_along", kd.stats.__file__)
        copy = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = copy
        spec.loader.exec_module(copy)
        return copy.interval([1, 2]).mean

    def inside(s, t, T):
        from kdlib._exact import divergence

        return (T**2 * divergence(s, t, T)).mean()

    scope = {"__name__": "kdlib.training", "kd": kd}
    exec("def renamed(s, t, T):\n    return kd.soft_target_loss(s, t, T)", scope)  # noqa: S102

    def blind(s, t, T):
        sys.setprofile(None)
        return kd.soft_target_loss(s, t, T)

    found = [observe(f, GIVEN).borrowed for f in (copies, inside, scope["renamed"], blind)]
    assert found[0] and found[1:] == ["divergence", "soft_target_loss", "sys.setprofile"]
    sys.modules.pop("mine_all_along")


def test_the_right_answers_of_a_checkout_are_borrowed_too():
    for answer in right_answers("hw1", HOMEWORKS["hw1"][1], ANSWERS)[1:]:
        assert observe(answer, GIVEN).borrowed
