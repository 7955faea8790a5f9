"""Notebooks as students hand them in: the release with other people's answers pasted into it."""

import ast
import inspect
import os
import re
import shutil
import textwrap
from dataclasses import dataclass
from pathlib import Path

import nbformat

from kdlib.course.exercises import HOMEWORKS
from kdlib.course.grading.matrix import right_answers
from kdlib.course.grading.observe import ANSWERS

COURSE = Path(__file__).resolve().parents[2] / "notebooks" / "homework"
IMPORTS = """
import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

cross_entropy = F.cross_entropy
"""


def notebook(kind, homework):
    """The one of ``source`` or ``release``."""
    (path,) = (COURSE / kind / homework).glob("*.ipynb")
    return path


def read(kind, homework):
    return nbformat.read(notebook(kind, homework), as_version=4)


def name_of(cell):
    return cell.metadata.get("nbgrader", {}).get("grade_id", "")


def cell_of(notebook, name):
    return next(cell for cell in notebook.cells if name_of(cell) == name)


def of_student(homework, answers):
    """A release with these answers, texts of cells by the name of the exercise."""
    handed_in = read("release", homework)
    first = next(k for k, cell in enumerate(handed_in.cells) if cell.id == "imports")
    handed_in.cells.insert(first + 1, nbformat.v4.new_code_cell(IMPORTS))
    for cell in handed_in.cells:
        cell.source = answers.get(name_of(cell), cell.source)
    return handed_in


def model_solution(homework, kind="source"):
    """The answers of the source, or the stubs of the release."""
    return {
        name_of(cell): cell.source
        for cell in read(kind, homework).cells
        if cell.metadata.get("nbgrader", {}).get("solution")
    }


def pasted(exercise, answer, student):
    """A known answer as a student's cell: its source, under the exercise's name."""
    if exercise.personal:
        return f"def {exercise.name}():\n    return {plain(answer(student))!r}"
    source = textwrap.dedent(inspect.getsource(answer))
    source = source[re.search(r"^def ", source, re.MULTILINE).start() :]
    head, *body = source.splitlines()
    head = re.sub(r"^def \w+", f"def {exercise.name}", head)
    return "\n".join([head, *_table_entry(answer), *body])


def _table_entry(answer):
    """The entry of a table that this answer is made from: numbers, or lambdas as their source."""
    for name, value in inspect.getclosurevars(answer).nonlocals.items():
        if inspect.isfunction(value):
            tree = ast.parse(Path(inspect.getfile(value)).read_text())
            line = value.__code__.co_firstlineno
            lambdas = (n for n in ast.walk(tree) if isinstance(n, ast.Lambda) and n.lineno == line)
            (value,) = map(ast.unparse, lambdas)
        yield f"    {name} = {value}"


def plain(value):
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value


def known_answers(homework, exercise, kind):
    """Every wrong answer, or every right one."""
    if kind == "wrong":
        return [mistake.wrong for mistake in exercise.mistakes]
    return right_answers(homework, exercise, ANSWERS)


def one_of_each(homework, kind, k):
    """The k-th wrong (or right) answer to every exercise, from the start again where there are fewer."""
    known = {e.name: known_answers(homework, e, kind) for e in HOMEWORKS[homework]}
    return {name: answers[k % len(answers)] for name, answers in known.items()}


def hand_in(course, student, homework, handed_in):
    """Into ``submitted``: a notebook, or any bytes."""
    folder = course / "submitted" / student / homework
    folder.mkdir(parents=True, exist_ok=True)
    data = handed_in if isinstance(handed_in, bytes) else nbformat.writes(handed_in).encode()
    (folder / notebook("release", homework).name).write_bytes(data)


def copied_course(folder):
    """A course of one's own, with nothing handed in yet."""
    course = Path(folder) / "course"
    for part in ("source", "release"):
        shutil.copytree(COURSE / part, course / part)
    shutil.copy(COURSE / "nbgrader_config.py", course)
    (course / "grading_seed.txt").write_text("2027\n")  # the same cases in every run of a test
    return course


@dataclass
class Touches:
    """Makes a folder when it is unpickled."""

    path: Path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)
