"""kdlib/_files.py: a file is there whole or not at all."""

import os

import pytest

from kdlib._files import write_whole


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_written_and_nothing_else_and_folders_on_the_way_are_made(tmp_path):
    ordinary, path = tmp_path / "ordinary.csv", tmp_path / "deep" / "er" / "table.csv"
    ordinary.write_text("")
    write_whole(path, lambda part: part.write_text("new"))
    assert path.read_text() == "new"
    assert names(path.parent) == ["table.csv"]
    assert path.stat().st_mode == ordinary.stat().st_mode  # others may read it as any other file


def test_the_old_file_stands_until_the_new_one_is_whole(tmp_path):
    path, seen = tmp_path / "table.csv", []
    path.write_text("old")

    def write(part):
        with part.open("w") as file:
            file.write("half of it")
            file.flush()
            seen.append((part, path.read_text()))
            file.write(", and the rest")

    write_whole(path, write)
    assert path.read_text() == "half of it, and the rest"
    assert names(tmp_path) == ["table.csv"]
    ((part, before),) = seen
    assert before == "old"
    assert part.name == path.name  # some writers go by the suffix
    assert part != path
    assert tmp_path in part.parents  # on the same disk


@pytest.mark.parametrize(
    ("how", "error"),
    [("write", OSError), ("write", KeyboardInterrupt), ("move", PermissionError)]
    + [("nothing written", FileNotFoundError)],
)
@pytest.mark.parametrize("before", [None, "old"])
def test_a_failure_leaves_everything_as_it_was(tmp_path, monkeypatch, how, error, before):
    path = tmp_path / "table.csv"
    if before is not None:
        path.write_text(before)

    def fail(*arguments):
        raise error

    def write(part):
        if how != "nothing written":
            part.write_text("half of it")
        if how == "write":
            fail()

    if how == "move":
        monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(error):
        write_whole(path, write)
    assert names(tmp_path) == ([] if before is None else ["table.csv"])
    assert before is None or path.read_text() == before
