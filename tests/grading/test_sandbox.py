"""A student's notebook in a process of its own: what it cannot do, and what is graded regardless.

A process takes seconds to start, so each notebook here is asked many things.
"""

import os
import pickle
import queue
import signal
import subprocess
import sys
import time
from contextlib import closing, suppress
from pathlib import Path
from textwrap import indent

import psutil
import pytest
import torch
from answers import Touches

import kdlib
from kdlib.course.exercises import hw1
from kdlib.course.grading import sandbox
from kdlib.course.grading.exercise import Stopped
from kdlib.course.grading.sandbox import NOTHING, Limits, Process, Runner

pytestmark = pytest.mark.skipif(os.name != "posix", reason="sessions and signals of POSIX")
SMALL = Limits(cell_seconds=3, call_seconds=2, total_seconds=300)
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


def is_dead_soon(pid):
    """Whether a process ends; one that has ended but was not waited for is dead, too."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for _ in range(200):
            if process.status() == psutil.STATUS_ZOMBIE:
                return True
            time.sleep(0.05)
        return False
    return True


# An ordinary notebook

ORDINARY = {
    "imports": "import os, subprocess, sys\nimport torch\nimport kdlib as kd",
    "name": "student_id = ' Bob '\nprint('hello', student_id)\n1 + 1",
    "loud": "print('x' * 2_000_000)",
    "louder": "block = b'x' * 2**20  # more than a pipe holds\n"
    "_ = os.write(1, block), os.write(2, block)",
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
}


MAGICS = [
    "%matplotlib inline",
    "%matplotlib notebook",
    "%matplotlib widget",
    "%matplotlib qt",
    "%matplotlib",
    "%pylab inline",
    "%gui qt",
    "%config InlineBackend.figure_format = 'retina'",
    "%load_ext autoreload",
    "%autoreload 2",
    "%load_ext no_such_extension",
    "%store answer",
    "exit",
    "%no_such_magic 3",
    "%autosave 60",
    "%env A=1",
    "%cd no_such_folder",
    "%pip --version",
    "!no_such_program",
    "display(3)",
    "get_ipython().run_line_magic('matplotlib', 'inline')",
]
FAILING = {
    "%time 1 / 0\nx = 1": "ZeroDivisionError",
    "%timeit -n1 -r1 1 / 0\nx = 1": "ZeroDivisionError",
    "T = float(input('T? '))\nx = 1": "EOFError: the cell asks for input",
    "import getpass\ngetpass.getpass()\nx = 1": "EOFError: the cell asks for input",
    "import no_such_package\nx = 1": "ModuleNotFoundError: No module named 'no_such_package'",
    "%%no_such_cell_magic\nx = 1": "UsageError: Cell magic `%%no_such_cell_magic` not found.",
}


@pytest.fixture(scope="module")
def lives():
    """A notebook of magics, Colab's cells, files beside it, and names that later cells take again."""
    cells = {k: f"{magic}\nv{k} = {k}" for k, magic in enumerate(MAGICS)}
    cells |= {50 + k: source for k, source in enumerate(FAILING)}
    cells |= {
        60: "from google.colab import drive, files\ndrive.mount('/content/drive')\n"
        "files.upload()\ncolab = lambda: 3",
        61: "import google.colab.data_table as t\nt.enable_dataframe_formatter()\nboth = lambda: 4",
        40: "try:\n    import google.colab\nexcept ImportError:\n    here = 'not Colab'",
        41: "jupyter = get_ipython().__class__.__name__",
        42: "!pip install git+https://kdlib.invalid/kdlib",
        70: "import helpers, torch\nfrom pathlib import Path\nimport deep.er\n"
        "beside = lambda: [helpers.two(), deep.er.THREE, Path('data/x.txt').read_text()]\n"
        "still = lambda: [torch.__name__, str(hasattr(torch, 'Tensor'))]",
        80: SOFTEN + "\nF = 2.0\ndef double(x):\n    return F * x",
        82: "soften = soften(torch.zeros(1, 2), 2.0)\nF = 3.0\nseen = [1]",
        84: "def twice(x):\n    return soften(x, 1.0)",
        86: "def below(x):\n    return x",
    }
    checks = {81: "soften", 83: "double", 85: "twice", 86: "below"}
    cells[87] = cells.pop(86)
    files = {
        "helpers.py": b"def two():\n    return 2\n",
        "deep/er.py": b"THREE = 3\n",
        "data/x.txt": b"four",
        "torch.py": b"raise ImportError('shadowed')\n",
        "kdlib/losses.py": b"raise ImportError('shadowed')\n",
    }
    with closing(Runner(cells, "ada", SMALL, checks, files)) as own:
        own.own_name()
        yield own


def test_lines_below_a_magic_run_as_in_jupyter(lives):
    for k, magic in enumerate(MAGICS):
        assert lives.outputs[k]["error"] == "", magic
        assert lives.source(f"v{k}")({}).value == k, magic


def test_a_cell_that_fails_in_jupyter_fails_with_its_error(lives):
    for k, (source, error) in enumerate(FAILING.items()):
        assert lives.outputs[50 + k]["error"].startswith(error), source
    assert lives.source("x")({}).kind == "Missing"


def test_cells_written_in_colab_run_on(lives):
    assert [lives.source(name)({}).value for name in ("colab", "both")] == [3, 4]
    assert lives.outputs[60]["error"] == lives.outputs[61]["error"] == ""


def test_a_notebook_that_asks_where_it_runs_is_not_told_colab(lives):
    assert lives.outputs[40]["error"] == "" and lives.source("here")({}).value == "not Colab"
    assert lives.source("jupyter")({}).value == "ZMQInteractiveShell"


def test_nothing_is_installed_while_a_notebook_is_graded(lives):
    assert "not allowed" in lives.outputs[42]["text"]


def test_files_beside_the_notebook_are_there_and_do_not_stand_in_for_libraries(lives):
    assert lives.source("beside")({}).value == [2, 3, "four"]
    assert lives.source("still")({}).value == ["torch", "True"]
    assert softens(lives)


def test_a_function_is_asked_with_the_names_that_its_check_found(lives):
    assert softens(lives)
    assert ask(lives, "double", x=torch.tensor(1.0)).value == 3  # as its own check finds it
    assert ask(lives, "twice", x=Z).kind == "TypeError"  # in Jupyter, too
    assert lives.changed("twice", ["soften", "double"]) == ["soften"]
    put_back = lives.source("twice", None, ["soften"])({"x": Z})
    assert torch.allclose(put_back.value, torch.softmax(Z, -1))
    assert softens(lives) and lives.source("seen")({}).value == [1]
    assert ask(lives, "below", x=Z).error == "below is defined only below its check"


@pytest.fixture(scope="module")
def ordinary():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDLIB_DATA", "/secret")
        patch.setenv("MY_TOKEN", "secret")
        own = Runner(dict(enumerate(ORDINARY.values())), "ada", Limits(120, 120, 1200))
        assert own.own_name() == " Bob "  # which runs all cells
    yield own
    own.close()


def output(of, cell):
    return of.outputs[list(ORDINARY).index(cell)]


def test_all_cells_of_an_ordinary_notebook_run_and_their_text_is_kept_or_cut(ordinary):
    assert ordinary.notes == [] and len(ordinary.outputs) == len(ORDINARY)
    assert output(ordinary, "imports") == NOTHING
    assert output(ordinary, "name")["text"] == "hello  Bob \n2\n"
    assert output(ordinary, "louder") == NOTHING  # what is written past Python goes nowhere
    text = output(ordinary, "loud")["text"]
    assert len(text) < 21_000 and text.startswith("xxx")
    assert text.endswith("… and 1,980,001 more characters")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits what a process may allocate")
def test_memory_is_limited_in_cells_and_calls(ordinary):
    assert "MemoryError" in output(ordinary, "greedy")["error"]
    assert "memory" in ask(ordinary, "too_much").error


def test_errors_and_pictures_of_cells_are_kept_and_the_next_cells_run(ordinary):
    assert "Error" in output(ordinary, "asks")["error"]
    assert output(ordinary, "fails")["error"] == "ValueError: one\ntwo"
    assert output(ordinary, "mumbles")["error"] == "Odd: "
    assert output(ordinary, "leaves")["error"] == "SystemExit: 3"
    assert output(ordinary, "no code")["error"].startswith("SyntaxError: invalid syntax")
    (picture,) = output(ordinary, "picture")["pictures"]
    assert picture.startswith("iVBOR")
    assert output(ordinary, "no picture")["pictures"] == []


def test_the_process_learns_nothing_about_the_course(ordinary):
    folder, environment, files, arguments = ask(ordinary, "where").value
    repository = str(Path(kdlib.__file__).resolve().parent.parent)
    assert not folder.startswith((repository, os.getcwd()))
    assert "secret" not in environment.values() and "KDLIB_GRADING_MEMORY" not in environment
    of_python = {"PYTHONPATH", "PATH", "VIRTUAL_ENV", "LD_LIBRARY_PATH"}
    assert {name for name, value in environment.items() if repository in value} <= of_python
    assert environment["HOME"] == environment["TMPDIR"]
    assert not any("homework" in name or name.endswith(".ipynb") for name in files)
    assert len(arguments) == 1


def test_right_functions_can_replace_others_for_one_call(ordinary):
    right = hw1.soften.right
    assert ask(ordinary, "uses", z=Z).value.tolist() == [[0, 0]]
    seen = ask(ordinary, "uses", {"soften": right, "missing": right}, z=Z)
    torch.testing.assert_close(seen.value, torch.softmax(Z / 2, -1))
    assert seen.borrowed == ""
    assert ask(ordinary, "uses", z=Z).value.tolist() == [[0, 0]]
    assert ask(ordinary, "borrows", {"soften": right}, z=Z).borrowed == "soften"  # not the one lent


def test_a_personal_question_is_about_who_handed_in_not_about_who_signed(ordinary):
    assert ask(ordinary, "who").value == "ada"
    assert ordinary.own_name() == " Bob "


def test_a_call_is_observed_as_in_a_notebook(ordinary):
    source = ordinary.source("spoils")
    seen = source({"x": torch.zeros(3)}, after=("x",), size=True)
    assert seen.value == 3 and seen.after["x"].tolist() == [1, 1, 1] and seen.largest == 3
    assert source({"x": torch.zeros(3)}).value == 3
    assert "in-place operation" in source({"x": torch.zeros(3)}, gradients=("x",)).error


def test_a_missing_function_is_named(ordinary):
    assert ask(ordinary, "missing", z=Z).kind == "Missing"
    report = hw1.soft_target_loss.report(ordinary.source("soft_target_loss"), 3)
    assert report.note == "nothing called soft_target_loss is defined when the notebook runs"


def test_closing_a_notebook_ends_the_processes_that_it_started(ordinary):
    assert ordinary.own_name()  # it runs again if this is not its first test
    grandchild, process = int(output(ordinary, "grandchild")["text"]), ordinary._process
    folder = Path(process._folder.name)
    assert psutil.pid_exists(grandchild) and process._process.poll() is None and folder.exists()
    ordinary.close()
    assert is_dead_soon(grandchild) and is_dead_soon(process._process.pid)
    assert not folder.exists() and not process._listener.is_alive()
    ordinary.close()  # once more does no harm


# Cells and calls that never end, or that end their process

LOOPS = "while True:\n    pass"
ENDS = "import os\nos._exit(0)"
CRASHES = "import ctypes\nctypes.string_at(0)"


NAMELESS = """
class Nameless:
    def __str__(self):
        crashes()

student_id = Nameless()
"""


def test_cells_and_calls_that_end_or_never_end_cost_only_themselves():
    functions = [
        f"def {name}(*given):\n{indent(source, '    ')}"
        for name, source in (("crashes", CRASHES), ("loops", LOOPS))
    ]
    with closing(runner(SOFTEN, LOOPS, "\n" + ENDS, *functions, NAMELESS)) as own:
        assert softens(own)
        assert own.notes == [
            'The cell that begins "while True:" was left out: it took more than 3 s and was stopped.',
            'The cell that begins "import os" was left out: it ended its process.',
        ]
        assert own.outputs[1]["error"] == "it took more than 3 s and was stopped"
        assert own.outputs[2]["error"] == "it ended its process"
        report = hw1.soft_target_loss.report(own.source("crashes"), 3)
        assert report.note == "it ended its process" and report.points == 0
        with pytest.raises(Stopped, match="it took more than 2 s and was stopped"):
            ask(own, "loops", x=1)
        assert softens(own)
        assert own.own_name() == ""
        assert len(own.notes) == 2


class Silent(Process):
    """A process that never starts: it answers with the frames or the value given here, if any."""

    value = None

    def __init__(self, limits=SMALL, deadline=float("inf")):
        self._limits, self._deadline, self._closed = limits, deadline, False
        self._messages, self._frames = queue.Queue(), queue.Queue()

    def _next(self, seconds):
        return super()._next(seconds) if self.value is None else sandbox.Seen(value=self.value)

    def wait(self, files):
        pass

    def close(self):
        self._closed = True


def test_a_notebook_that_used_up_its_time_is_not_run():
    own = runner(SOFTEN, limits=Limits(total_seconds=0))
    for _ in range(2):
        report = hw1.soften.report(own.source("soften"), 3)
        assert report.note == "the notebook used up its 0 s"
    assert own._process is None and own.own_name() == ""


def test_the_time_of_a_notebook_may_run_out_within_a_cell(monkeypatch):
    monkeypatch.setattr(sandbox, "Process", Silent)
    own = runner(SOFTEN, limits=Limits(total_seconds=0.1, cell_seconds=100))
    assert hw1.soften.report(own.source("soften"), 3).note == "the notebook used up its 0.1 s"
    left_out = 'The cell that begins "import torch" was left out: the notebook used up its 0.1 s.'
    assert own.notes == [left_out]


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
FORGES = """
import os, struct
from kdlib.course.grading.observe import Seen, sent

def to_all_pipes(data):
    for descriptor in range(3, 100):
        try:
            os.fstat(descriptor)
            os.write(descriptor, data)
        except OSError:
            pass

def loops_behind(x):
    data = sent(Seen(value=6.0))
    to_all_pipes(struct.pack("<Q", len(data)) + data)
    while True:
        pass

def claims_too_much(x):
    to_all_pipes(struct.pack("<Q", 2**62))
    return 3

def honest(x):
    return x.sum()
"""


def test_overwritten_checks_and_forged_answers_gain_nothing():
    large = torch.ones(400_000)  # more than a pipe holds
    with closing(runner(OVERWRITES, FORGES)) as own:
        report = hw1.soften.report(own.source("soften"), 3)
        assert own.notes == [] and own.outputs[0]["error"] == ""
        assert report.points == 0 and report.out_of == 4 and not report.note
        assert ask(own, "loops_behind", x=large).value == 6  # as if it had returned it
        with pytest.raises(Stopped, match="it took more than 2 s"):  # and nobody reads the next
            ask(own, "honest", x=large)
        with pytest.raises(Stopped, match="it ended its process"):
            ask(own, "claims_too_much", x=large)
        assert ask(own, "honest", x=large).value == 400_000


ODD = {"text": 1, "more": 0, "pictures": 3, "error": 0}


@pytest.mark.parametrize(
    "value", [3, "text", [], {}, torch.zeros(3), ODD, ODD | {"more": "many"}], ids=repr
)
def test_a_cells_result_of_another_form_ends_its_process(value):
    process = Silent()
    process.value = value
    with pytest.raises(Stopped, match="it sent something that is not an answer"):
        process.run("1")
    assert process._closed


def test_a_frame_that_would_run_code_ends_its_process(tmp_path):
    process = Silent()
    process._frames.put(pickle.dumps({"value": Touches(tmp_path / "touched")}))
    with pytest.raises(Stopped, match="it sent something that is not an answer"):
        process.ask("f", {}, {}, {})
    assert process._closed and not (tmp_path / "touched").exists()


def test_a_cells_result_is_cut_to_size():
    process = Silent()
    pictures = ["a" * 10**7, "<"]
    process.value = {"text": "x" * 10**6, "more": 7, "pictures": pictures, "error": "e" * 10**6}
    result = process.run("1")
    assert len(result["text"]) < 50_000 and len(result["error"]) < 1000 and result["pictures"] == []


# Starting


def test_a_process_that_does_not_start_is_reported(monkeypatch):
    monkeypatch.setattr(sandbox.sys, "executable", "/bin/false")
    report = hw1.soften.report(runner(SOFTEN).source("soften"), 3)
    assert report.note == "it ended its process" and report.points == 0


def test_an_interrupt_from_the_keyboard_leaves_no_process_behind(monkeypatch):
    started = []

    class Interrupted(Process):
        def wait(self, files):
            started.append(self)
            raise KeyboardInterrupt

    monkeypatch.setattr(sandbox, "Process", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        ask(runner(SOFTEN), "soften", z=Z, T=2.0)
    (process,) = started
    assert process._process.poll() == -signal.SIGKILL
    assert not Path(process._folder.name).exists()


def test_a_killed_grader_leaves_no_process_behind(tmp_path):
    started = tmp_path / "started"
    cell = (
        "import os, pathlib, subprocess\nsleeps = subprocess.Popen(['sleep', '1000'])\n"
        f"pathlib.Path({str(started)!r}).write_text(f'{{os.getpid()}} {{sleeps.pid}} ')\n{LOOPS}"
    )
    grader = f"from kdlib.course.grading.sandbox import Runner\nRunner({{0: {cell!r}}}, 'ada').own_name()"
    with subprocess.Popen([sys.executable, "-c", grader]) as process:
        while not (started.exists() and started.read_text().endswith(" ")):
            assert process.poll() is None
            time.sleep(0.1)
        process.kill()
    assert all(is_dead_soon(int(pid)) for pid in started.read_text().split())


def test_the_time_to_start_is_not_charged_to_the_first_cell(monkeypatch):
    """Otherwise a slow machine would leave out a cell that did nothing wrong."""
    seconds_given = []

    class Watched(Silent):
        wait = Process.wait

        def _next(self, seconds):
            seconds_given.append(seconds)
            return sandbox.Seen(value=NOTHING)

    monkeypatch.setattr(sandbox, "Process", Watched)
    ask(runner(SOFTEN), "soften", z=Z, T=2.0)
    assert seconds_given == [sandbox.START_SECONDS, SMALL.cell_seconds, SMALL.call_seconds]


def test_the_child_runs_without_a_grader_and_ends_with_its_questions():
    done = subprocess.run(
        [sys.executable, "-m", "kdlib.course.grading.child"],
        input=b"",
        capture_output=True,
        check=True,
        env=os.environ | {"KDLIB_GRADING_MEMORY": str(4 * 2**30)},
    )
    assert done.stdout[8:].startswith(b"{") and done.stderr == b""
