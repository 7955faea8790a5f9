"""kdlib/_files.py: a file is there whole or not at all."""

import os

import pytest

from kdlib._files import write_whole


def writing(text):
    return lambda part: part.write_text(text)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_written_and_nothing_else(tmp_path):
    path = tmp_path / "table.csv"
    write_whole(path, writing("new"))
    assert path.read_text() == "new"
    assert names(tmp_path) == ["table.csv"]


def test_folders_on_the_way_are_made(tmp_path):
    path = tmp_path / "deep" / "er" / "table.csv"
    write_whole(path, writing("new"))
    assert path.read_text() == "new"
    assert names(path.parent) == ["table.csv"]


def test_until_all_is_written_the_old_file_stands(tmp_path):
    path, seen = tmp_path / "table.csv", []
    path.write_text("old")

    def write(part):
        with part.open("w") as file:
            file.write("half of it")
            file.flush()
            seen.append(path.read_text())
            file.write(", and the rest")

    write_whole(path, write)
    assert seen == ["old"]
    assert path.read_text() == "half of it, and the rest"
    assert names(tmp_path) == ["table.csv"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
@pytest.mark.parametrize("before", [None, "old"])
def test_a_write_that_fails_halfway_leaves_everything_as_it_was(tmp_path, error, before):
    path = tmp_path / "table.csv"
    if before is not None:
        path.write_text(before)

    def write(part):
        part.write_text("half of it")
        raise error

    with pytest.raises(error):
        write_whole(path, write)
    assert names(tmp_path) == ([] if before is None else ["table.csv"])
    assert before is None or path.read_text() == before


def test_a_move_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "table.csv"
    path.write_text("old")

    def refuse(source, target):
        raise PermissionError

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(PermissionError):
        write_whole(path, writing("new"))
    assert path.read_text() == "old"
    assert names(tmp_path) == ["table.csv"]


def test_writing_nothing_is_an_error_and_leaves_the_old_file(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(FileNotFoundError):
        write_whole(path, lambda part: None)
    assert path.read_text() == "old"


def test_the_part_has_the_name_of_the_whole_and_lies_on_the_same_disk(tmp_path):
    path, parts = tmp_path / "model.safetensors", []

    def write(part):
        parts.append(part)
        part.write_text("new")

    write_whole(path, write)
    (part,) = parts
    assert part.name == path.name  # some writers go by the suffix
    assert part != path
    assert tmp_path in part.parents


def test_others_may_read_the_file_as_they_may_any_other(tmp_path):
    ordinary, path = tmp_path / "ordinary.csv", tmp_path / "table.csv"
    ordinary.write_text("")
    write_whole(path, writing(""))
    assert path.stat().st_mode == ordinary.stat().st_mode
