"""A student's notebook in a process of its own: what it cannot do, and what is done all the same.

A process takes seconds to start, so each notebook here is asked many things.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import kdlib
from kdlib.course.exercises import hw1
from kdlib.course.grading import sandbox
from kdlib.course.grading.exercise import Stopped
from kdlib.course.grading.sandbox import NOTHING, Limits, Process, Runner

pytestmark = pytest.mark.skipif(os.name != "posix", reason="sessions and signals of POSIX")
SMALL = Limits(cell_seconds=2, call_seconds=1, total_seconds=120)
Z = torch.tensor([[0.0, 2.0]])
SOFTEN = "import torch\ndef soften(z, T):\n    return torch.softmax(z / T, -1)"


def runner(*cells, limits=SMALL, student="ada"):
    return Runner(dict(enumerate(cells)), student, limits)


def ask(of, name, instead=None, /, **given):
    return of.source(name, instead)(given)


def softens(of):
    seen = ask(of, "soften", z=Z, T=2.0)
    assert seen.error == ""
    return torch.allclose(seen.value, torch.tensor([[0.2689414, 0.7310586]]))


def is_alive(pid):
    """A process that has ended but that nobody asked about is dead, too."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except ProcessLookupError:
        return False
    except FileNotFoundError:
        return sys.platform != "linux"


def is_dead_soon(pid):
    for _ in range(200):
        if not is_alive(pid):
            return True
        time.sleep(0.05)
    return False


# An ordinary notebook

ORDINARY = {
    "imports": "import os, subprocess, sys\nimport torch\nimport kdlib as kd",
    "name": "student_id = ' Bob '\nprint('hello', student_id)\n1 + 1",
    "loud": "print('x' * 200_000_000)",
    "louder": "block = b'x' * 2**20\nfor _ in range(200):\n    os.write(1, block), os.write(2, block)",
    "asks": "answer = input('your name? ')",
    "greedy": "block = bytearray(5 * 2**30)",
    "fails": "before = 1\nraise ValueError('one\\ntwo')",
    "mumbles": "class Odd(Exception):\n    def __str__(self):\n        raise SystemError\n\nraise Odd",
    "leaves": "sys.exit(3)",
    "no code": "def oops(:",
    "grandchild": "child = subprocess.Popen(['sleep', '1000'])\nprint(child.pid)",
    "picture": "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()",
    "no picture": "from IPython.display import display\n"
    "for data in ('\"><script>', 'aGVsbG8=', 3):\n"
    "    display({'image/png': data, 'text/plain': 'none'}, raw=True)",
    "answers": """
def soften(z, T):
    return 0 * z

def uses(z):
    return soften(z, 2.0)

def borrows(z):
    soften(z, 2.0)
    return kd.soften(z, 2.0)

def who():
    return student_id

def where():
    return [os.getcwd(), dict(os.environ), os.listdir(), sys.argv]

def too_much():
    return torch.zeros(5 * 2**30, dtype=torch.uint8) + 1

def spoils(x):
    x += 1
    return x.sum()
""",
    "odd answers": """
class Unspeakable:
    def __repr__(self):
        raise RuntimeError('no words')

class Disguised:
    @property
    def __class__(self):
        raise RuntimeError('whoever asks')

class Untouchable:
    @classmethod
    def __torch_function__(cls, *args, **kwargs):
        raise RuntimeError('hands off')

class Whole(int):
    pass

def unspeakable(): return Unspeakable()
def disguised(): return [Disguised()]
def untouchable(): return Untouchable()
def whole(): return Whole(3)
def half(): return 'half \\ud800'
""",
}


@pytest.fixture(scope="module")
def ordinary():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDLIB_DATA", "/secret")
        patch.setenv("MY_TOKEN", "secret")
        own = Runner(dict(enumerate(ORDINARY.values())), "ada", Limits(call_seconds=5))
        assert own.own_name() == " Bob "  # which runs all cells
    yield own
    own.close()


def output(of, cell):
    return of.outputs[list(ORDINARY).index(cell)]


def test_no_cell_of_an_ordinary_notebook_is_left_out(ordinary):
    assert ordinary.notes == [] and len(ordinary.outputs) == len(ORDINARY)


def test_what_cells_print_and_give_is_told(ordinary):
    assert output(ordinary, "imports") == NOTHING
    assert output(ordinary, "name")["text"] == "hello  Bob \n2\n"


def test_much_text_is_cut(ordinary):
    text = output(ordinary, "loud")["text"]
    assert len(text) < 21_000 and text.startswith("xxx")
    assert text.endswith("… and 199,980,001 more characters")


def test_text_past_python_goes_nowhere(ordinary):
    assert output(ordinary, "louder") == NOTHING


def test_nobody_answers_an_input(ordinary):
    assert "Error" in output(ordinary, "asks")["error"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits what a process may allocate")
def test_memory_is_limited_in_cells_and_calls(ordinary):
    assert "MemoryError" in output(ordinary, "greedy")["error"]
    assert "memory" in ask(ordinary, "too_much").error


def test_errors_of_cells_are_told_and_the_next_cells_run(ordinary):
    assert output(ordinary, "fails")["error"] == "ValueError: one\ntwo"
    assert output(ordinary, "mumbles")["error"] == "Odd: "
    assert output(ordinary, "leaves")["error"] == "SystemExit: 3"
    assert output(ordinary, "no code")["error"].startswith("SyntaxError: invalid syntax")


def test_pictures_are_pictures(ordinary):
    (picture,) = output(ordinary, "picture")["pictures"]
    assert picture.startswith("iVBOR")
    assert output(ordinary, "no picture")["pictures"] == []


def test_the_process_is_told_nothing_of_the_course(ordinary):
    folder, environment, files, arguments = ask(ordinary, "where").value
    repository = str(Path(kdlib.__file__).resolve().parent.parent)
    assert not folder.startswith((repository, os.getcwd()))
    assert "secret" not in environment.values() and "KDLIB_GRADING_MEMORY" not in environment
    assert not [
        k
        for k, v in environment.items()
        if repository in v
        and k != "PYTHONPATH"
        and k not in ("PATH", "VIRTUAL_ENV", "LD_LIBRARY_PATH")
    ]
    assert environment["HOME"] == environment["TMPDIR"]
    assert not any("homework" in name or name.endswith(".ipynb") for name in files)
    assert len(arguments) == 1


def test_in_place_of_other_functions_right_ones_can_be_put_for_one_call(ordinary):
    right = hw1.soften.right[0]
    assert ask(ordinary, "uses", z=Z).value.tolist() == [[0, 0]]
    seen = ask(ordinary, "uses", {"soften": right, "missing": right}, z=Z)
    torch.testing.assert_close(seen.value, torch.softmax(Z / 2, -1))
    assert seen.borrowed == ""
    assert ask(ordinary, "uses", z=Z).value.tolist() == [[0, 0]]
    assert ask(ordinary, "missing", z=Z).kind == "Missing"


def test_what_was_not_lent_is_borrowed_all_the_same(ordinary):
    assert ask(ordinary, "borrows", {"soften": hw1.soften.right[0]}, z=Z).borrowed == "soften"


def test_a_personal_question_is_about_who_handed_in_not_about_who_signed(ordinary):
    assert ask(ordinary, "who").value == "ada"
    assert ordinary.own_name() == " Bob "


def test_objects_of_odd_classes_are_a_text_or_an_error(ordinary):
    assert ask(ordinary, "unspeakable").value == "a Unspeakable"
    assert "whoever asks" in ask(ordinary, "disguised").error
    assert ask(ordinary, "untouchable").value == "a Untouchable"
    assert ask(ordinary, "whole").value == 3
    assert ask(ordinary, "half").value == "half ?"


def test_a_call_is_seen_as_in_a_notebook(ordinary):
    source = ordinary.source("spoils")
    seen = source({"x": torch.zeros(3)}, after=("x",), size=True)
    assert seen.value == 3 and seen.after["x"].tolist() == [1, 1, 1] and seen.largest == 3
    assert source({"x": torch.zeros(3)}).value == 3
    assert "in-place operation" in source({"x": torch.zeros(3)}, gradients=("x",)).error


def test_a_name_that_is_not_there_is_said(ordinary):
    report = hw1.soft_target_loss.report(ordinary.source("soft_target_loss"), 3)
    assert report.note == "nothing called soft_target_loss is defined when the notebook runs"


def test_in_the_end_its_own_processes_end_with_it(ordinary):
    """The last: the notebook is closed."""
    grandchild, process = int(output(ordinary, "grandchild")["text"]), ordinary._process
    folder = Path(process._folder.name)
    assert is_alive(grandchild) and is_alive(process._process.pid) and folder.exists()
    ordinary.close()
    assert is_dead_soon(grandchild) and is_dead_soon(process._process.pid)
    assert not folder.exists() and not process._listener.is_alive()
    ordinary.close()  # once more does no harm


# Cells and calls that never end, or end too much

LOOPS = "while True:\n    pass"
ENDS = "import os\nos._exit(0)"
CRASHES = "import ctypes\nctypes.string_at(0)"


def in_a_function(name, source):
    body = "\n".join(f"    {line}" for line in source.splitlines())
    return f"def {name}(*given):\n{body}"


NAMELESS = """
class Nameless:
    def __str__(self):
        ends()

student_id = Nameless()
"""


def test_cells_and_calls_that_end_or_never_end_cost_only_themselves():
    functions = [
        in_a_function(*f) for f in (("ends", ENDS), ("crashes", CRASHES), ("loops", LOOPS))
    ]
    own = runner(SOFTEN, LOOPS, "\n" + ENDS, CRASHES, *functions, NAMELESS)
    try:
        assert softens(own)
        assert own.notes == [
            'The cell that begins "while True:" was left out: it took more than 2 s and was stopped.',
            'The cell that begins "import os" was left out: it ended its process.',
            'The cell that begins "import ctypes" was left out: it ended its process.',
        ]
        assert own.outputs[1]["error"] == "it took more than 2 s and was stopped"
        assert own.outputs[2]["error"] == own.outputs[3]["error"] == "it ended its process"
        with pytest.raises(Stopped, match="it ended its process"):
            ask(own, "ends")
        report = hw1.soft_target_loss.report(own.source("crashes"), 3)
        assert report.note == "it ended its process" and report.points == 0
        with pytest.raises(Stopped, match="it took more than 1 s and was stopped"):
            ask(own, "loops", x=1)
        assert own.own_name() == ""
        assert softens(own)
        assert len(own.notes) == 3
    finally:
        own.close()


def test_a_notebook_that_used_up_its_time_is_asked_no_more():
    own = runner(SOFTEN, limits=Limits(total_seconds=0))
    for _ in range(2):
        report = hw1.soften.report(own.source("soften"), 3)
        assert report.note == "the notebook used up its 0 s"
    assert own._process is None and own.own_name() == ""


def test_time_that_runs_out_in_between_is_noticed():
    own = runner(SOFTEN, LOOPS, limits=Limits(total_seconds=3, cell_seconds=100))
    try:
        assert hw1.soften.report(own.source("soften"), 3).note == "the notebook used up its 3 s"
        assert all("left out: the notebook used up its 3 s" in note for note in own.notes)
    finally:
        own.close()


# Mischief

OVERWRITES = """
import sys
import torch
import kdlib.course.grading.exercise as exercise
import kdlib.course.grading.observe as observe
import kdlib.course.grading.report as report
from kdlib.course.exercises import hw1
torch.allclose = torch.equal = lambda *args, **kwargs: True
observe.same = exercise.same = lambda *args, **kwargs: True
exercise.Answer.should_be = exercise.Answer.should = lambda *args, **kwargs: None
report.Report.points = report.Result.earned = property(lambda self: 100.0)
exercise.Exercise._run = lambda *args: []
hw1.soften.properties.clear()
for module in list(sys.modules.values()):
    if hasattr(module, '_rows_sum_to_one'):
        module._rows_sum_to_one = module._proportional = lambda *args: True

def soften(z, T):
    return torch.zeros_like(z)
"""
JUNK = """
import os
for descriptor in range(3, 100):
    try:
        os.write(descriptor, b'junk ' * 100)
    except OSError:
        pass
"""
FORGES = """
import os, struct
import torch
from kdlib.course.grading.observe import Seen, sent

def forged(times, value, answer=b""):
    data = answer or sent(Seen(value=value))
    for descriptor in range(3, 100):
        try:
            os.fstat(descriptor)
            os.write(descriptor, (struct.pack("<Q", len(data)) + data) * times)
        except OSError:
            pass

def loops_behind(x):
    forged(1, 6.0)
    while True:
        pass

def a_pickle(x):
    import pickle
    class Touches:
        def __reduce__(self):
            return os.system, ("touch %s",)
    forged(1, 0, pickle.dumps({"value": Touches()}))

def a_lie(x):
    for descriptor in range(3, 100):
        try:
            os.write(descriptor, struct.pack("<Q", 2**62))
        except OSError:
            pass
    return 3

def honest(x):
    return x.sum()
"""


def test_what_a_notebook_does_to_the_checks_is_worth_nothing():
    own = runner(OVERWRITES)
    try:
        report = hw1.soften.report(own.source("soften"), 3)
        assert own.notes == [] and own.outputs[0]["error"] == ""
        assert report.points == 0 and report.out_of == 4 and not report.note
    finally:
        own.close()


def test_forged_answers_end_the_process_and_the_next_question_is_answered(tmp_path):
    touched = tmp_path / "touched"
    own = runner(FORGES % touched, JUNK, "done = lambda: 1")
    large = torch.ones(400_000)  # more than a pipe holds
    try:
        assert ask(own, "done").value == 1
        assert own.notes == ['The cell that begins "import os" was left out: it ended its process.']
        assert ask(own, "loops_behind", x=large).value == 6  # as if it had returned it
        with pytest.raises(Stopped, match="it took more than 1 s"):  # and nobody reads the next
            ask(own, "honest", x=large)
        with pytest.raises(Stopped, match="it sent what is no answer"):
            ask(own, "a_pickle", x=large)
        with pytest.raises(Stopped, match="it ended its process"):
            ask(own, "a_lie", x=large)
        assert ask(own, "honest", x=large).value == 400_000
        assert not touched.exists()
    finally:
        own.close()


def test_cells_that_are_no_answer_are_left_out():
    class Odd(Process):
        found = None

        def __init__(self, *args):
            self._closed, self._limits = False, SMALL

        def _answer(self, message, seconds):
            return sandbox.Seen(value=self.found)

        def close(self):
            self._closed = True

    odd = {"text": 1, "more": 0, "pictures": 3, "error": 0}
    for found in (None, 3, "text", [], {}, torch.zeros(3), odd, odd | {"more": "many"}):
        process = Odd()
        process.found = found
        with pytest.raises(Stopped, match="it sent what is no answer"):
            process.run("1")
        assert process._closed
    process = Odd()
    process.found = {
        "text": "x" * 10**6,
        "more": 7,
        "pictures": ["a" * 10**7, "<"],
        "error": "e" * 10**6,
    }
    told = process.run("1")
    assert len(told["text"]) < 50_000 and len(told["error"]) < 1000 and told["pictures"] == []


# Starting


def test_a_process_that_does_not_start_is_said(monkeypatch):
    monkeypatch.setattr(sandbox.sys, "executable", "/bin/false")
    report = hw1.soften.report(runner(SOFTEN).source("soften"), 3)
    assert report.note == "it ended its process" and report.points == 0


def test_whoever_grades_can_interrupt_and_nothing_is_left(monkeypatch):
    started = []

    class Interrupted(Process):
        def wait(self):
            started.append(self)
            raise KeyboardInterrupt

    monkeypatch.setattr(sandbox, "Process", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        ask(runner(SOFTEN), "soften", z=Z, T=2.0)
    (process,) = started
    assert process._process.poll() == -signal.SIGKILL
    assert not Path(process._folder.name).exists()


def test_time_to_start_is_not_the_first_cells(monkeypatch):
    """Else a slow machine would leave out a cell that did nothing wrong."""
    seen = []

    class Watched(Process):
        def _next(self, seconds):
            seen.append(seconds)
            return sandbox.Seen(value=NOTHING)

    monkeypatch.setattr(sandbox, "Process", Watched)
    own = runner(SOFTEN)
    try:
        ask(own, "soften", z=Z, T=2.0)
    finally:
        own.close()
    assert seen == [sandbox.START_SECONDS, SMALL.cell_seconds, SMALL.call_seconds]


def test_the_child_runs_without_a_grader_and_ends_with_its_questions():
    command = [sys.executable, "-m", "kdlib.course.grading.child"]
    done = subprocess.run(
        command,
        input=b"",
        capture_output=True,
        check=True,
        env=os.environ | {"KDLIB_GRADING_MEMORY": str(4 * 2**30)},
    )
    assert done.stdout[8:].startswith(b"{") and done.stderr == b""
