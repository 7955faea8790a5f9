"""The list of planted faults is complete, and each can still be planted (``make mutations`` plants them)."""

from dataclasses import is_dataclass
from pathlib import Path

import mutations
import pytest

import kdlib as kd
from kdlib import losses, objectives, training

PUBLIC = [
    name
    for module in (losses, objectives, training)
    for name in module.__all__
    if not is_dataclass(getattr(module, name)) and name != "GradientTerms"  # these hold values
]


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_function_has_four_faults(name):
    assert len({new for _, new in mutations.FAULTS[name][2]}) >= 4


def test_each_fault_can_be_planted():
    package = Path(kd.__file__).parent
    for fault in mutations.planted():
        assert not mutations.wrong_with(fault, (package / fault.file).read_text())
