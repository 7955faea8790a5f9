"""What an honest answer does not mention, by the names that modules have today."""

import importlib
import pkgutil

import pytest

import kdlib as kd
from kdlib.grading import marking
from kdlib.grading._observe import BORROWED, observe

FACE = kd.grading.__name__


def modules_of(package):
    return [module.name for module in pkgutil.iter_modules(importlib.import_module(package).__path__)]


@pytest.mark.parametrize("module", modules_of(FACE))
def test_every_module_of_the_grader_is_peeping_however_it_is_imported(module):
    for source in (
        f"from {FACE}.{module} import anything",
        f"from {FACE} import {module}",
        f"import {FACE}.{module} as harmless",
        f"kd.grading.{module}.anything",
    ):
        assert marking.peeped(source) == [module], source


def test_files_and_new_checks_are_peeping_and_the_checks_themselves_are_not():
    assert marking.peeped('open("grading_seed.txt")') == ["grading_seed"]
    assert marking.peeped("kd.grading.check_soften = print") == ["grading.check_soften"]
    for honest in ("kd.grading.check_soften(soften)", "z = kd.grading.teacher_logits(student_id)"):
        assert marking.peeped(honest) == []


@pytest.mark.parametrize("room", BORROWED)
def test_every_room_whose_functions_are_borrowed_is_there(room):
    importlib.import_module(room)


def test_a_cell_that_takes_a_modules_name_still_borrows():
    scope = {"__name__": "kdlib.training", "kd": kd}
    exec("def mine(s, t, T):\n    return kd.soft_target_loss(s, t, T)", scope)
    import torch

    z = torch.zeros(1, 3)
    assert observe(scope["mine"], {"s": z, "t": z, "T": 1.0}).borrowed == "soft_target_loss"
