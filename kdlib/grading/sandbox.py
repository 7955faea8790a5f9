"""Run a student's notebook in a process of its own, and ask its functions from outside.

The checks and what they expect stay in the grader's process. A cell or a call that takes too long, or
ends its process, costs what it was about; the process is started again without it, and the rest is
graded. This keeps mistakes and mischief apart from scores. It is no prison: the code runs with the
rights of whoever grades (see the teacher's guide on how to isolate it).
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import kdlib
from kdlib.grading._child import read_frame, write_frame
from kdlib.grading._exercise import Stopped
from kdlib.grading._observe import Seen, packed, received

LARGEST_MESSAGE = 64 * 2**20


@dataclass(frozen=True)
class Limits:
    """What one submission may use.

    Attributes:
        cell_seconds: for a cell of the notebook.
        call_seconds: for one call of a function.
        total_seconds: for the whole submission; what is left then is not graded.
        memory: bytes of data (on Linux; elsewhere there is no such limit).
    """

    cell_seconds: float = 30
    call_seconds: float = 10
    total_seconds: float = 120
    memory: int = 4 * 2**30


class Process:
    """One run of a notebook: the cells that went before, and their names to be asked."""

    def __init__(self, limits: Limits, deadline: float):
        self._limits, self._deadline = limits, deadline
        self._folder = tempfile.TemporaryDirectory(
            prefix="kdlib-grading-", ignore_cleanup_errors=True
        )
        self._process = subprocess.Popen(
            [sys.executable, "-m", "kdlib.grading._child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=self._folder.name,
            env=_environment(self._folder.name, limits),
            start_new_session=True,
        )
        self._frames: queue.Queue[bytes | None] = queue.Queue(maxsize=2)
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        """Frames as they come; None where the process has ended, or sends what no answer is."""
        try:
            while (frame := read_frame(self._process.stdout, LARGEST_MESSAGE)) is not None:
                self._frames.put(frame)
        except (OSError, ValueError):
            pass
        self._frames.put(None)

    def run(self, source: str) -> dict[str, Any]:
        """A cell's text, pictures and error."""
        found = self._answer(("cell", source), self._limits.cell_seconds).value
        try:
            pictures = [str(picture) for picture in found["pictures"]]
            return {"text": str(found["text"]), "pictures": pictures, "error": str(found["error"])}
        except (KeyError, TypeError):
            self.close()
            raise Stopped("it sent what is no answer") from None

    def ask(self, name: str, instead: dict[str, Any], given: dict[str, Any], wanted: dict) -> Seen:
        return self._answer(("ask", name, instead, given, wanted), self._limits.call_seconds)

    def _answer(self, message: tuple, seconds: float) -> Seen:
        left = min(seconds, self._deadline - time.monotonic())
        try:
            write_frame(self._process.stdin, packed(message))
            frame = self._frames.get(timeout=max(left, 0.01))
        except queue.Empty:
            self.close()
            raise Stopped(f"it took more than {seconds:g} s and was stopped") from None
        except OSError:
            frame = None
        if frame is None:
            self.close()
            raise Stopped("it ended its process")
        try:
            return received(frame)
        except Exception:  # noqa: BLE001  whatever a hostile process may send
            self.close()
            raise Stopped("it sent what is no answer") from None

    def close(self) -> None:
        """End the process, and what it has started."""
        try:
            if hasattr(os, "killpg"):
                os.killpg(self._process.pid, signal.SIGKILL)
            else:
                self._process.kill()
        except (ProcessLookupError, PermissionError):
            pass
        self._process.wait()
        while True:  # let the listener end
            try:
                self._frames.get_nowait()
            except queue.Empty:
                break
        self._folder.cleanup()


def _environment(folder: str, limits: Limits) -> dict[str, str]:
    """Little of ours: no course folder, no seed, no network for pip."""
    kept = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "SYSTEMROOT", "VIRTUAL_ENV")
    return {name: os.environ[name] for name in kept if name in os.environ} | {
        "HOME": folder,
        "IPYTHONDIR": folder,
        "MPLCONFIGDIR": str(_fonts()),
        "TORCH_HOME": folder,
        "TMPDIR": folder,
        "PYTHONPATH": str(Path(kdlib.__file__).resolve().parent.parent),
        "PYTHONDONTWRITEBYTECODE": "1",
        "KDLIB_PROFILE": "smoke",
        "KDLIB_GRADING_MEMORY": str(limits.memory),
        "OMP_NUM_THREADS": "1",
        "PIP_NO_INDEX": "1",
    }


def _fonts() -> Path:
    """matplotlib's cache of fonts, which takes seconds to make."""
    import matplotlib

    return Path(matplotlib.get_cachedir())


class Runner:
    """A student's notebook, run and asked, as often as it takes.

    Attributes:
        outputs: of each cell that ran, by its place: text, pictures, error.
        notes: on cells that had to be left out.
    """

    def __init__(self, cells: dict[int, str], student: str, limits: Limits | None = None):
        self._cells, self._student = cells, student
        self._limits = limits or Limits()
        self._deadline = time.monotonic() + self._limits.total_seconds
        self._process: Process | None = None
        self.outputs: dict[int, dict[str, Any]] = {}
        self.notes: list[str] = []

    def source(
        self, name: str, instead: Mapping[str, Callable] | None = None
    ) -> Callable[..., Seen]:
        """Ask the notebook's function of this name.

        With ``instead`` other functions of the notebook are replaced while it runs: right ones of
        kdlib's own, so that an answer does not suffer for those that it calls.
        """
        others = {"student_id": self._student, **(instead or {})}

        def ask(given: dict[str, Any], **wanted: Any) -> Seen:
            if time.monotonic() > self._deadline:
                raise Stopped(f"the notebook used up its {self._limits.total_seconds:g} s")
            process = self._started()
            try:
                seen = process.ask(name, others, given, wanted)
            except Stopped:
                self._process = None
                raise
            return replace(seen, borrowed="") if instead else seen

        return ask

    def own_name(self) -> str:
        """The student_id that the notebook gives, "" where it gives none."""
        try:
            return str(self._started().ask("student_id", {}, {}, {}).value)
        except Stopped:
            return ""

    def _started(self) -> Process:
        """A process in which all cells ran but those that would not let it live."""
        while self._process is None:
            if time.monotonic() > self._deadline:
                raise Stopped(f"the notebook used up its {self._limits.total_seconds:g} s")
            process = Process(self._limits, self._deadline)
            for place, source in list(self._cells.items()):
                try:
                    self.outputs[place] = process.run(source)
                except Stopped as stopped:
                    first = next((line for line in source.splitlines() if line.strip()), "")
                    self.notes.append(
                        f'The cell that begins "{first[:60]}" was left out: {stopped}.'
                    )
                    self.outputs[place] = {"text": "", "pictures": [], "error": str(stopped)}
                    del self._cells[place]
                    break
            else:
                self._process = process
        return self._process

    def close(self) -> None:
        if self._process is not None:
            self._process.close()
            self._process = None
