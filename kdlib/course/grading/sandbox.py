"""Run a student's notebook in a process of its own, and call its functions from outside.

The checks and what they expect stay in the grader's process. A cell or a call that takes too long, or
ends its process, costs only its own points; the process is restarted without it, and the rest is
graded. This keeps mistakes and mischief away from the scores. It is not a prison: the code runs with
the rights of whoever grades (the teacher's guide says how to isolate it).
"""

from __future__ import annotations

import base64
import os
import queue
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdlib.course.grading.child import LARGEST_PICTURE, LONGEST, MOST_PICTURES, read_frame
from kdlib.course.grading.exercise import Stopped
from kdlib.course.grading.observe import HOME, Seen, packed, received

NOTHING = {"text": "", "more": 0, "pictures": [], "error": ""}  # what a silent cell shows
LARGEST_MESSAGE = 64 * 2**20
START_SECONDS = 60  # for a process to load torch; what it does later has its own limits


@dataclass(frozen=True)
class Limits:
    """What one submission may use.

    Attributes:
        cell_seconds: for each cell of the notebook.
        call_seconds: for each call of a function.
        total_seconds: for the whole submission; what has not run by then is not graded.
        memory: bytes of data (on Linux; there is no such limit elsewhere).
    """

    cell_seconds: float = 30
    call_seconds: float = 10
    total_seconds: float = 120
    memory: int = 4 * 2**30

    def used_up(self) -> Stopped:
        return Stopped(f"the notebook used up its {self.total_seconds:g} s")


DEFAULT = Limits()


class Process:
    """One run of a notebook: its cells run in order, then the names that they define can be asked."""

    def __init__(self, limits: Limits, deadline: float):
        self._limits, self._deadline = limits, deadline
        self._folder = tempfile.TemporaryDirectory(
            prefix="kdlib-grading-", ignore_cleanup_errors=True
        )
        self._beside = Path(self._folder.name, "notebook")
        self._beside.mkdir()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "kdlib.course.grading.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=self._beside,
            env=_environment(self._folder.name, limits),
            start_new_session=True,
        )
        self._messages: queue.Queue[bytes | None] = queue.Queue()
        self._frames: queue.Queue[bytes | None] = queue.Queue(maxsize=2)
        self._closed = False
        threading.Thread(target=self._speak, daemon=True).start()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _speak(self) -> None:
        """Write the messages in order; a process that does not read holds up only this thread."""
        try:
            while (message := self._messages.get()) is not None:
                left = memoryview(struct.pack("<Q", len(message)) + message)
                while left:
                    left = left[os.write(self._process.stdin.fileno(), left) :]
        except (OSError, ValueError):  # it has ended
            pass

    def _listen(self) -> None:
        """Read frames as they arrive; None when the process has ended or a frame is too long."""
        try:
            while (frame := read_frame(self._process.stdout, LARGEST_MESSAGE)) is not None:
                self._frames.put(frame)
                if self._closed:
                    return
        except (OSError, ValueError):
            pass
        self._frames.put(None)

    def wait(self, files: Mapping[str, bytes]) -> None:
        """Wait until the process is ready for the first cell, and put the files beside it.

        Only then, since one that is called ``torch.py`` would be loaded in place of torch.
        """
        self._next(START_SECONDS)
        for path, data in files.items():
            file = self._beside / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)

    def run(self, source: str) -> dict[str, Any]:
        """Run a cell; return its text, its pictures and its error."""
        found = self._answer(("cell", source), self._limits.cell_seconds).value
        try:
            found = found if isinstance(found, dict) else {}
            return {
                "text": str(found["text"])[: 2 * LONGEST],
                "more": int(found["more"]),
                "pictures": list(filter(_is_picture, found["pictures"][:MOST_PICTURES])),
                "error": str(found["error"])[:500],
            }
        except (KeyError, TypeError, ValueError, OverflowError):
            self.close()
            raise Stopped("it sent something that is not an answer") from None

    def check(self, name: str) -> None:
        """Remember the notebook's names as they are now, for the questions about this function."""
        self._messages.put(packed(("check", name)))

    def ask(
        self,
        name: str,
        instead: dict[str, Any],
        given: dict[str, Any],
        wanted: dict,
        own: Sequence[str] = (),
    ) -> Seen:
        message = ("ask", name, instead, given, wanted, list(own))
        return self._answer(message, self._limits.call_seconds)

    def changed(self, name: str, others: Sequence[str]) -> list[str]:
        found = self._answer(("changed", name, list(others)), self._limits.call_seconds).value
        return [other for other in others if isinstance(found, list) and other in found]

    def _answer(self, message: tuple, seconds: float) -> Seen:
        self._messages.put(packed(message))
        return self._next(seconds)

    def _next(self, seconds: float) -> Seen:
        if self._closed:
            raise Stopped("it ended its process")
        left = self._deadline - time.monotonic()
        try:
            frame = self._frames.get(timeout=max(min(seconds, left), 0.01))
        except queue.Empty:
            self.close()
            if left < seconds:
                raise self._limits.used_up() from None
            raise Stopped(f"it took more than {seconds:g} s and was stopped") from None
        if frame is None:
            self.close()
            raise Stopped("it ended its process")
        try:
            return received(frame)
        except Exception:  # noqa: BLE001  a hostile process may send anything
            self.close()
            raise Stopped("it sent something that is not an answer") from None

    def close(self) -> None:
        """End the process and everything that it started."""
        if self._closed:
            return
        try:
            if hasattr(os, "killpg"):
                os.killpg(self._process.pid, signal.SIGKILL)
            else:
                self._process.kill()
        except (ProcessLookupError, PermissionError):
            pass
        self._process.wait()
        self._closed = True
        self._messages.put(None)
        for _ in range(20):  # let the listener end, unless another process holds its pipe
            self._listener.join(0.05)
            if not self._listener.is_alive():
                self._process.stdin.close()
                self._process.stdout.close()
                break
            with suppress(queue.Empty):
                while True:
                    self._frames.get_nowait()
        self._folder.cleanup()


def _is_picture(data: Any) -> bool:
    try:
        found = base64.b64decode(data.strip(), validate=True)
    except (AttributeError, TypeError, ValueError):
        return False
    return len(data) < LARGEST_PICTURE and found.startswith(b"\x89PNG")


def _environment(folder: str, limits: Limits) -> dict[str, str]:
    """Keep little of our environment: no course folder, no seed; pip neither downloads nor installs."""
    kept = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "SYSTEMROOT", "VIRTUAL_ENV")
    return {name: os.environ[name] for name in kept if name in os.environ} | {
        "HOME": folder,
        "USERPROFILE": folder,
        "TEMP": folder,
        "TMP": folder,
        "IPYTHONDIR": folder,
        "MPLCONFIGDIR": str(_fonts()),
        "TORCH_HOME": folder,
        "TMPDIR": folder,
        "PYTHONPATH": str(HOME.parent),
        "PYTHONDONTWRITEBYTECODE": "1",
        "KDLIB_PROFILE": "smoke",
        "KDLIB_GRADING_MEMORY": str(limits.memory),
        "OMP_NUM_THREADS": "1",
        "PIP_NO_INDEX": "1",
        "PIP_DRY_RUN": "1",
        "GIT_ALLOW_PROTOCOL": "none",
    }


def _fonts() -> Path:
    """matplotlib's font cache, which takes seconds to build."""
    import matplotlib

    return Path(matplotlib.get_cachedir())


def named(source: str) -> str:
    """Refer to a cell by its first words."""
    first = next((line for line in source.splitlines() if line.strip()), "")
    return f'The cell that begins "{first[:60]}"'


class Runner:
    """A student's notebook, run again whenever its process has ended.

    A function is asked with the names as they were where its check stands, whatever later cells made
    of them.

    Args:
        cells: the notebook's code by place.
        student: who handed it in.
        limits: what it may use.
        checks: the names of functions, by the places of their checks.
        files: what was handed in beside the notebook, by path.

    Attributes:
        outputs: for each cell that ran, by place: its text, how many characters of it were cut, its
            pictures, its error.
        notes: on cells that had to be left out.
    """

    def __init__(
        self,
        cells: dict[int, str],
        student: str,
        limits: Limits | None = None,
        checks: Mapping[int, str] | None = None,
        files: Mapping[str, bytes] | None = None,
    ):
        self._cells, self._student = dict(cells), student
        self._checks, self._files = dict(checks or {}), dict(files or {})
        self._limits = limits or DEFAULT
        self._deadline = time.monotonic() + self._limits.total_seconds
        self._process: Process | None = None
        self.outputs: dict[int, dict[str, Any]] = {}
        self.notes: list[str] = []

    def source(
        self, name: str, instead: Mapping[str, Callable] | None = None, own: Sequence[str] = ()
    ) -> Callable[..., Seen]:
        """Return a function that calls the notebook's function of this name.

        ``instead`` replaces other functions of the notebook during the call, by kdlib's right ones, so
        that an answer does not suffer for the functions that it calls. ``own`` are functions that are
        put back for the call as their own checks found them.
        """
        others = {"student_id": self._student, **(instead or {})}

        def ask(given: dict[str, Any], **wanted: Any) -> Seen:
            if time.monotonic() > self._deadline:
                raise self._limits.used_up()
            process = self._started()
            try:
                return process.ask(name, others, given, wanted, own)
            except Stopped:
                self._process = None
                raise

        return ask

    def changed(self, name: str, others: Sequence[str]) -> list[str]:
        """Those of the others whose names a cell took again between their checks and this one's."""
        try:
            return self._started().changed(name, others) if others else []
        except Stopped:
            self._process = None
            return []

    def own_name(self) -> str:
        """The student_id that the notebook sets, "" if it sets none."""
        try:
            return str(self._started().ask("student_id", {}, {}, {}).value)
        except Stopped:
            self._process = None
            return ""

    def _started(self) -> Process:
        """A process in which every cell has run, except those that ended it."""
        while self._process is None:
            if time.monotonic() > self._deadline:
                raise self._limits.used_up()
            process = Process(self._limits, self._deadline)
            try:
                process.wait(self._files)
                if self._run_all(process):
                    self._process = process
            except BaseException:  # an interrupt from the keyboard, too: leave no process behind
                process.close()
                raise
        return self._process

    def _run_all(self, process: Process) -> bool:
        """Run all cells; false if one ended the process, which is left out from now on."""
        for place in sorted(self._cells | self._checks):
            if place in self._checks:
                process.check(self._checks[place])
                continue
            source = self._cells[place]
            try:
                self.outputs[place] = process.run(source)
            except Stopped as stopped:
                self.notes.append(f"{named(source)} was left out: {stopped}.")
                self.outputs[place] = NOTHING | {"error": str(stopped)}
                del self._cells[place]
                return False
        return True

    def close(self) -> None:
        if self._process is not None:
            self._process.close()
            self._process = None
