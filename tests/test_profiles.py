import pytest

import kdlib as kd


@pytest.mark.parametrize("name", ["smoke", "lesson"])
def test_the_environment_names_the_profile(name, monkeypatch):
    monkeypatch.setenv("KDLIB_PROFILE", name)
    assert kd.pick(smoke="smoke", lesson="lesson") == name


def test_lesson_is_what_readers_get(monkeypatch):
    monkeypatch.delenv("KDLIB_PROFILE", raising=False)
    assert kd.pick(smoke=1, lesson=2) == 2
    monkeypatch.setenv("KDLIB_PROFILE", "")
    assert kd.pick(smoke=1, lesson=2) == 2


def test_the_profile_is_read_at_every_call(monkeypatch):
    monkeypatch.setenv("KDLIB_PROFILE", "smoke")
    first = kd.pick(smoke=1, lesson=2)
    monkeypatch.setenv("KDLIB_PROFILE", "lesson")
    assert (first, kd.pick(smoke=1, lesson=2)) == (1, 2)


@pytest.mark.parametrize("name", ["paper", "SMOKE", " smoke"])
def test_an_unknown_profile_is_refused(name, monkeypatch):
    monkeypatch.setenv("KDLIB_PROFILE", name)
    with pytest.raises(ValueError, match=f"KDLIB_PROFILE must be smoke or lesson, got '{name}'"):
        kd.pick(smoke=1, lesson=2)


def test_both_values_must_be_given_by_name():
    with pytest.raises(TypeError, match="lesson"):
        kd.pick(smoke=1)
    with pytest.raises(TypeError, match="positional"):
        kd.pick(1, 2)
