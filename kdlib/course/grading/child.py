"""The process in which a student's notebook runs: it gets cells and questions, and returns answers.

It knows nothing that the grader knows: no expected value, no score, no seed. Whatever the notebook
does to this process, only answers come out of it.
"""

from __future__ import annotations

import base64
import os
import struct
import sys
from typing import Any, BinaryIO

from kdlib.course.grading.observe import Seen, message_of, observe, sent, unpacked

LONGEST = 20_000  # characters of a cell's text
LARGEST_PICTURE = 2_000_000  # bytes, as text
MOST_PICTURES = 5  # of a cell


def main() -> None:
    questions, answers = _private(0, "rb"), _private(1, "wb")
    _limited(memory=int(os.environ.pop("KDLIB_GRADING_MEMORY")), file=100 * 2**20)
    os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell.instance(history_load_length=0)
    shell.history_manager.enabled = False
    shell.showtraceback = shell.showsyntaxerror = lambda *args, **kwargs: (
        None
    )  # reported in one line
    shell.displayhook.write_output_prompt = lambda: None
    write_frame(answers, sent(Seen()))  # ready
    while (message := read_frame(questions)) is not None:
        kind, *rest = unpacked(message)
        if kind == "cell":
            write_frame(answers, sent(Seen(value=_run(shell, *rest))))
        elif kind == "ask":
            write_frame(answers, sent(_ask(shell.user_ns, *rest)))


def _private(descriptor: int, mode: str) -> BinaryIO:
    """Move the pipe to another descriptor: the notebook finds nothing at the usual one."""
    pipe = os.fdopen(os.dup(descriptor), mode)
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)
    return pipe


def _limited(memory: int, file: int) -> None:
    try:
        import resource
    except ImportError:  # Windows has no such limits
        return
    for what, most in ((resource.RLIMIT_DATA, memory), (resource.RLIMIT_FSIZE, file)):
        resource.setrlimit(what, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _run(shell: Any, source: str) -> dict[str, Any]:
    """Run one cell; return its text, its pictures and its error in one line."""
    from IPython.utils.capture import capture_output

    with capture_output() as seen:
        result = shell.run_cell(source, store_history=False)
        shell.events.trigger("post_execute")
    error = result.error_before_exec or result.error_in_exec
    texts, pictures = [seen.stdout], []
    for output in seen.outputs:
        data = output.data or {}
        if isinstance(data.get("image/png"), str | bytes):
            pictures.append(_as_text(data["image/png"]))
        elif "text/plain" in data:
            texts.append(str(data["text/plain"]))
    text = "\n".join(t for t in texts if t)
    more = max(len(text) - LONGEST, 0)
    return {
        "text": text[:LONGEST] + (f"\n… and {more:,} more characters" if more else ""),
        "more": more,
        "pictures": [p for p in pictures[:MOST_PICTURES] if len(p) < LARGEST_PICTURE],
        "error": f"{type(error).__name__}: {message_of(error)}"[:500] if error else "",
    }


def _as_text(picture: str | bytes) -> str:
    return picture if isinstance(picture, str) else base64.b64encode(picture).decode()


def _ask(
    names: dict[str, Any], name: str, instead: dict[str, Any], given: dict[str, Any], wanted: dict
) -> Seen:
    """Call the notebook's function while ``instead`` replaces some of the notebook's other names."""
    if name == "student_id":
        return Seen(value=str(names.get("student_id", ""))[:200])
    if name not in names:
        return Seen(
            error=f"nothing called {name} is defined when the notebook runs", kind="Missing"
        )
    own = {other: names[other] for other in instead if other in names}
    names.update(instead)
    lent = [function for function in instead.values() if callable(function)]
    try:
        return observe(names[name], given, allowed=lent, **wanted)
    finally:
        for other in instead:
            names.pop(other, None)
        names.update(own)


def read_frame(stream: BinaryIO, most: int | None = None) -> bytes | None:
    """Read a message, None at the end; ValueError if it is longer than ``most``."""
    head = stream.read(8)
    if len(head) < 8:
        return None
    (size,) = struct.unpack("<Q", head)
    if most is not None and size > most:
        raise ValueError(f"the message has {size} bytes, more than {most}")
    data = stream.read(size)
    return data if len(data) == size else None


def write_frame(stream: BinaryIO, data: bytes) -> None:
    stream.write(struct.pack("<Q", len(data)))
    stream.write(data)
    stream.flush()


if __name__ == "__main__":
    sys.exit(main())
