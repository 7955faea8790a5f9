"""The process in which a student's notebook runs: it gets cells and questions, and returns answers.

It knows nothing that the grader knows: no expected value, no score, no seed. Whatever the notebook
does to this process, only answers come out of it.
"""

from __future__ import annotations

import base64
import builtins
import getpass
import os
import signal
import struct
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from typing import Any, BinaryIO
from unittest.mock import MagicMock

from kdlib.course.grading.observe import Seen, message_of, observe, sent, unpacked

LONGEST = 20_000  # characters of a cell's text
LARGEST_PICTURE = 2_000_000  # bytes, as text
MOST_PICTURES = 5  # of a cell


def main() -> None:
    questions, answers = _private(0, "rb"), _private(1, "wb")
    _limited(memory=int(os.environ.pop("KDLIB_GRADING_MEMORY")), file=100 * 2**20)
    os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
    threading.Thread(target=_end_with, args=[os.getppid()], daemon=True).start()
    shell = _shell()
    at_check: dict[str, dict[str, Any]] = {}  # the notebook's names as each check found them
    write_frame(answers, sent(Seen()))  # ready
    while (message := read_frame(questions)) is not None:
        kind, *rest = unpacked(message)
        if kind == "cell":
            write_frame(answers, sent(Seen(value=_run(shell, *rest))))
        elif kind == "check":
            at_check[rest[0]] = dict(shell.user_ns)
        elif kind == "changed":
            write_frame(answers, sent(Seen(value=_changed(at_check, *rest))))
        elif kind == "ask":
            name, found = rest[0], at_check.get(rest[0])
            below = found is not None and name in shell.user_ns and name not in found
            *rest, own = rest
            with _as_found(shell.user_ns, found):
                shell.user_ns.update({other: at_check[other][other] for other in own})
                seen = _ask(shell.user_ns, *rest)
            if below:
                seen = Seen(error=f"{name} is defined only below its check", kind="Missing")
            write_frame(answers, sent(seen))


def _end_with(parent: int) -> None:
    """End this process, and what it started, when the grader has ended, whatever a cell is doing."""
    while os.getppid() == parent:
        time.sleep(1)
    if hasattr(os, "getsid") and os.getsid(0) == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def _shell() -> Any:
    """A shell that takes a cell as Jupyter's kernel does, and shows nothing."""
    from ipykernel.zmqshell import KernelMagics
    from IPython.core.interactiveshell import InteractiveShell

    class ZMQInteractiveShell(InteractiveShell):  # notebooks ask for the name of Jupyter's
        def ask_exit(self) -> None:
            """``exit`` ends a kernel when its cell has run; here the cells below still run."""

        def enable_gui(self, gui=None) -> None:
            pass

        def enable_matplotlib(self, gui=None) -> tuple:
            return super().enable_matplotlib("inline")  # there is no window for any other

        def run_line_magic(self, magic_name, line, _stack_depth=1) -> Any:
            # One that runs code fails as its code does. Any other may lack a package, a display or the
            # internet here: what stands below it must run all the same.
            if magic_name in ("time", "timeit", "run", "prun"):
                return super().run_line_magic(magic_name, line, _stack_depth + 1)
            try:
                return super().run_line_magic(magic_name, line, _stack_depth + 1)
            except Exception as error:  # noqa: BLE001  a magic may raise anything
                print(f"%{magic_name} did not work where this was graded: {message_of(error)}")
                return None

    shell = ZMQInteractiveShell.instance(history_load_length=0)
    shell.history_manager.enabled = False
    shell.register_magics(KernelMagics)
    # Errors are reported in one line.
    shell.showtraceback = shell.showsyntaxerror = lambda *args, **kwargs: None
    shell.displayhook.write_output_prompt = lambda: None
    builtins.input = getpass.getpass = _no_answer
    return shell


def _no_answer(*prompt: object) -> str:
    raise EOFError("the cell asks for input, and nobody answers while a notebook is graded")


class _Colab(MetaPathFinder, Loader):
    """Stands in for Google Colab's own package once a cell failed without it: its calls do nothing.

    Before that it is missing as in Jupyter, for a notebook that asks whether it is run in Colab.
    """

    def find_spec(self, name, path=None, target=None) -> ModuleSpec | None:
        known = name == "google" or name.startswith("google.colab")
        return ModuleSpec(name, self, is_package=True) if known else None

    def create_module(self, spec) -> Any:
        return MagicMock(name=spec.name, __path__=[], __spec__=spec, __name__=spec.name)

    def exec_module(self, module) -> None:
        pass


def _changed(at_check: dict[str, dict[str, Any]], name: str, others: list[str]) -> list[str]:
    """Other functions that are no longer, where this one's check stands, what their own checks found."""
    there = at_check.get(name, {})
    own = {other: at_check[other][other] for other in others if other in at_check.get(other, {})}
    return [other for other, function in own.items() if there.get(other) is not function]


@contextmanager
def _as_found(names: dict[str, Any], found: dict[str, Any] | None) -> Iterator[None]:
    """Inside, the notebook's names have the values that its check found.

    The dictionary stays the same object, since it holds the globals of all the notebook's functions.
    """
    if found is None:
        yield
        return
    later = dict(names)
    try:
        names.clear()
        names.update(found)
        yield
    finally:
        names.clear()
        names.update(later)


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
    missing = error.name if isinstance(error, ImportError) else None
    there = any(isinstance(finder, _Colab) for finder in sys.meta_path)
    if str(missing).partition(".")[0] == "google" and not there:
        sys.meta_path.append(_Colab())
        return _run(shell, source)
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
