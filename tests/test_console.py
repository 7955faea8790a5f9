"""Lines on standard output: shown as well as it can, and never a reason to stop."""

import io
import subprocess
import sys

import pytest

from kdlib._console import say

NAMES = {
    "ascii": ("Müller", r"M\xfcller"),
    "cp1252": ("Жанна ✗", r"\u0416\u0430\u043d\u043d\u0430 \u2717"),
    "utf-8": ("Жанна", "Жанна"),
    "UTF-8": ("na\udce4me", r"na\udce4me"),  # a file's name in another encoding, as Python reads it
}


@pytest.mark.parametrize("encoding", NAMES)
def test_what_the_output_cannot_encode_is_printed_as_escapes(encoding, monkeypatch):
    line, shown = NAMES[encoding]
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding, newline=""))
    say(line)
    assert raw.getvalue().decode(encoding) == f"{shown}\n"


class Full(io.StringIO):
    encoding = "utf-8"

    def write(self, text):
        raise OSError(28, "No space left on device")


def closed():
    file = io.StringIO()
    file.close()
    return file


@pytest.mark.parametrize("output", [Full(), closed(), None], ids=["full", "closed", "none"])
def test_an_output_that_takes_no_line_stops_nothing(output, monkeypatch):
    monkeypatch.setattr(sys, "stdout", output)
    say("one")
    say("two")


def test_the_work_goes_on_when_the_reader_of_a_pipe_has_left(tmp_path):
    work = (
        "import sys; from pathlib import Path; from kdlib._console import say\n"
        "sys.stdin.read()\n"
        "for k in range(3): say('line')\n"
        f"Path({str(tmp_path / 'done')!r}).touch()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", work], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=-1
    )
    process.stdout.close()  # what head does once it has its lines
    process.stdin.close()
    said = process.stderr.read()
    assert (process.wait(), said) == (0, b"")
    assert (tmp_path / "done").exists()
