import pytest

import kdlib as kd


@pytest.mark.parametrize(
    ("name", "value"), [("smoke", 1), ("lesson", 2), ("", 2), (None, 2)], ids=repr
)
def test_the_environment_names_the_profile_and_readers_get_lesson(name, value, monkeypatch):
    monkeypatch.delenv("KDLIB_PROFILE", raising=False)
    assert kd.pick(smoke=1, lesson=2) == 2
    if name is not None:
        monkeypatch.setenv("KDLIB_PROFILE", name)  # read at every call
    assert kd.pick(smoke=1, lesson=2) == value


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
