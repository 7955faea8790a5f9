"""Protocols run at smoke size on the CPU; a lesson's settings are only listed."""

from functools import partial

import pytest
from protocols import clear, note_trainings, put

import kdlib as kd


@pytest.fixture(scope="module", autouse=True)
def smoke():
    """Digits and a few steps; nothing of it stays in memory afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDLIB_PROFILE", "smoke")
        put(patch, load=partial(kd.data.load, device="cpu"))
        put(patch, from_texts=partial(kd.text.from_texts, device="cpu"))
        clear()
        yield
    clear()


@pytest.fixture
def lesson(monkeypatch):
    """The settings of the real runs; listing them loads nothing."""

    def load(*arguments, **options):
        raise AssertionError("settings are listed without data")

    monkeypatch.setenv("KDLIB_PROFILE", "lesson")
    put(monkeypatch, **dict.fromkeys(("load", "ptb", "topics", "from_texts"), load))


@pytest.fixture
def trainings(monkeypatch):
    """The trainings that a setting asks for; none is done, and every network scores alike."""
    yield note_trainings(monkeypatch)
    clear()
