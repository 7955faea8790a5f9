"""Read what was handed in, whatever happened to it on the way, and repair what can be repaired.

nbgrader ties an answer to its question by cell metadata, which copying, splitting and deleting cells
break. Lost cells are put back from the release, duplicates are resolved, and a student's answer is
found by the name of its function. A note reports every repair.
"""

from __future__ import annotations

import ast
import copy
import json
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from kdlib.course.grading.observe import writable
from kdlib.course.grading.prose import pictures

LARGEST = 300 * 2**20  # bytes of a file that is read at all
LARGEST_BESIDE = 50 * 2**20  # bytes of all files beside a notebook
MOST_NAMED = 20  # of the files left out


@dataclass(frozen=True)
class Submission:
    """What one student handed in for one homework.

    Attributes:
        student: the name of the student's folder.
        homework: such as ``hw1``.
        name: the notebook's name without its suffix.
        data: the file's bytes; None if there is no notebook.
        note: what was odd about the file, "" if nothing was.
        files: what lies beside it, by path from its folder.
        left_out: paths of files that were not read, each with the reason.
    """

    student: str
    homework: str
    name: str
    data: bytes | None
    note: str = ""
    files: Mapping[str, bytes] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()


def found(submitted: Path, names: dict[str, str]) -> list[Submission]:
    """Read all submissions under ``submitted/STUDENT/HOMEWORK/`` into memory.

    Args:
        submitted: the folder.
        names: the name of each homework's notebook.
    """
    students = (
        sorted(path for path in submitted.iterdir() if path.is_dir()) if submitted.is_dir() else []
    )
    for student in students:
        _check_name(student.name)
    folders = [folder for student in students for folder in sorted(student.iterdir())]
    return [
        _read(folder, names[folder.name])
        for folder in folders
        if folder.name in names and folder.is_dir()
    ]


def passed_over(submitted: Path, names: dict[str, str]) -> list[str]:
    """Paths below ``submitted`` that are not the folder of a student's homework."""
    if not submitted.is_dir():
        return []
    paths = sorted(p for p in [*submitted.glob("*"), *submitted.glob("*/*")] if p.name[:1] != ".")
    known = [p for p in paths if p.is_dir() and (p.parent == submitted or p.name in names)]
    return [str(p.relative_to(submitted)) for p in paths if p not in known]


def _check_name(student: str) -> None:
    """Refuse a name that nbgrader reads as a pattern, a database refuses or a spreadsheet runs."""
    if not student.isprintable() or set(student) & set("[]*?") or student[0] in ".=+-@":
        raise ValueError(
            f"a student's folder must have a plain name, got {student!r}: rename it; other programs "
            "give a meaning to [ ] * ? anywhere in it, and to . = + - @ at its start"
        )


def _read(folder: Path, name: str) -> Submission:
    student, homework = unicodedata.normalize("NFC", folder.parent.name), folder.name
    expected = folder / f"{name}.ipynb"
    files = [path for path in folder.glob("[!.]*.ipynb") if path.is_file()]  # "._x": a Mac's zip
    files.sort(key=lambda path: path.stat().st_mtime)
    note = ""
    if expected in files:
        file = expected
    elif files:
        file = files[-1]
        others = f" (the newest of {len(files)})" if len(files) > 1 else ""
        note = f"Graded {file.name}{others}, as there is no {expected.name}."
    else:
        return Submission(student, homework, name, None, "There is no notebook in the folder.")
    try:
        if file.stat().st_size > LARGEST:
            note = f"The file is larger than {LARGEST >> 20} MB and was not read."
            return Submission(student, homework, name, None, note)
        beside, left_out = _beside(file)
        return Submission(student, homework, name, file.read_bytes(), note, beside, left_out)
    except OSError as error:
        note = f"The file could not be read ({error.strerror})."
        return Submission(student, homework, name, None, note)


def _beside(notebook: Path) -> tuple[dict[str, bytes], tuple[str, ...]]:
    """What lies in the notebook's folder but notebooks, and which of them are too large or lead out of it."""
    files: dict[str, bytes] = {}
    left_out, room = [], LARGEST_BESIDE
    for path in sorted(notebook.parent.rglob("*")):
        name = path.relative_to(notebook.parent)
        hidden = any(part[0] == "." or part == "__pycache__" for part in name.parts)
        if hidden or path.suffix == ".ipynb" or (path.is_dir() and not path.is_symlink()):
            continue
        try:
            inside = path.resolve().is_relative_to(notebook.parent.resolve()) and path.is_file()
            if not inside:
                left_out.append(f"{name.as_posix()} (it is not a file of this folder)")
            elif path.stat().st_size > room:
                limit = f"all files together may have {LARGEST_BESIDE >> 20} MB"
                left_out.append(f"{name.as_posix()} ({limit})")
            else:
                files[name.as_posix()] = path.read_bytes()
                room -= len(files[name.as_posix()])
        except (OSError, RuntimeError) as error:  # no right to read it; a link to itself
            left_out.append(f"{name.as_posix()} (it cannot be read: {type(error).__name__})")
    if more := left_out[MOST_NAMED:]:
        left_out[MOST_NAMED:] = [f"{len(more)} more, the first of them {more[0]}"]
    return files, tuple(left_out)


def mended(submission: Submission, release: NotebookNode) -> tuple[NotebookNode, list[str]]:
    """Return the notebook with each graded cell of the release once, and notes on the repairs."""
    notes = [submission.note] if submission.note else []
    if submission.data is None:
        return _emptied(release), notes
    try:
        notebook = _parsed(submission.data.decode("utf-8-sig"))
        notebook.cells = [_whole(cell) for cell in notebook.cells if isinstance(cell, dict)]
    except Exception as error:  # noqa: BLE001  anything may be wrong with the file
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else ""
        notes.append(
            f"The file is not a notebook ({type(error).__name__}: {reason}); "
            "it was graded as an empty one."
        )
        return _emptied(release), notes
    notes += _repair(notebook, release)
    notebook.metadata = copy.deepcopy(release.metadata)
    notebook.nbformat, notebook.nbformat_minor = release.nbformat, release.nbformat_minor
    _fresh_ids(notebook)
    return notebook, notes


def _parsed(text: str) -> NotebookNode:
    """Parse without validating: a notebook may be malformed in a harmless way."""
    found = json.loads(text)
    return nbformat.from_dict(found) if found["nbformat"] == 4 else nbformat.reads(text, 4)


def _emptied(release: NotebookNode) -> NotebookNode:
    return copy.deepcopy(release)


def _whole(cell: NotebookNode) -> NotebookNode:
    """Keep what grading needs of a cell, and none of its outputs."""
    source = cell.get("source") or ""
    source = source if isinstance(source, str) else "".join(map(str, source))
    make = {"code": nbformat.v4.new_code_cell, "markdown": nbformat.v4.new_markdown_cell}
    made = make.get(str(cell.get("cell_type")), nbformat.v4.new_raw_cell)(writable(source))
    if isinstance(cell.get("id"), str):
        made.id = cell["id"]
    if made.cell_type == "markdown" and (kept := pictures(cell.get("attachments"))):
        made.attachments = kept
    metadata = cell.get("metadata")
    nbgrader = metadata.get("nbgrader") if isinstance(metadata, dict) else None
    if isinstance(nbgrader, dict) and isinstance(nbgrader.get("grade_id"), str):
        made.metadata.nbgrader = NotebookNode(nbgrader)
    return made


def grade_id(cell: NotebookNode) -> str | None:
    return cell.metadata.get("nbgrader", {}).get("grade_id")


def _repair(notebook: NotebookNode, release: NotebookNode) -> list[str]:
    notes, restored = [], {}
    wanted = [cell for cell in release.cells if grade_id(cell)]
    known = {grade_id(cell) for cell in wanted}
    checks = {cell.source.strip(): cell.metadata.nbgrader for cell in wanted if is_check(cell)}
    for cell in notebook.cells:
        if grade_id(cell) not in known:
            cell.metadata.pop("nbgrader", None)
            if cell.cell_type == "code" and cell.source.strip() in checks:  # a copied check is one
                cell.metadata.nbgrader = copy.deepcopy(checks[cell.source.strip()])
    before = None  # the graded cell above, as it is in the notebook
    for model in wanted:
        name = grade_id(model)
        cells = [
            c for c in notebook.cells if grade_id(c) == name and c.cell_type == model.cell_type
        ]
        if cells:
            cell = _chosen(_above_the_check(notebook, cells, name) or cells, model)
        else:
            cell, how = _restored(notebook, release, model, before)
            restored.setdefault(how, []).append(f'"{name}"')
        if len(cells) > 1:
            place = 1 + next(k for k, c in enumerate(cells) if c is cell)
            notes.append(f'The cell "{name}" appeared {len(cells)} times; number {place} counts.')
        for other in notebook.cells:
            if other is not cell and grade_id(other) == name:
                other.metadata.pop("nbgrader")
        if model.metadata.nbgrader.get("solution") and _written(cell, model):
            _keep_stubs_from_running(notebook, model, cell)
        unread = model.cell_type == "markdown" and not _written(cell, model)
        if unread and (text := _written_below(notebook, release, cell)):
            cell.source = text
            notes.append(f'The answer to "{name}" was written in a new cell below; it counts.')
        if is_check(model) and cell.source.strip() != model.source.strip():
            notes.append(f'The cell "{name}" was changed; the original check was used.')
        if is_check(model):
            cell.source = model.source
        cell.metadata.nbgrader = copy.deepcopy(model.metadata.nbgrader)
        before = cell
    return notes + [f"{how}: {', '.join(names)}." for how, names in restored.items()]


def is_check(cell: NotebookNode) -> bool:
    about = cell.metadata.get("nbgrader", {})
    return bool(about.get("grade")) and not about.get("solution")


def _chosen(cells: list[NotebookNode], model: NotebookNode) -> NotebookNode:
    """The last cell that was worked on, as when the notebook runs; of checks, an unchanged one."""
    if is_check(model):
        return ([c for c in cells if c.source.strip() == model.source.strip()] or cells)[-1]
    written = [c for c in cells if _written(c, model)]
    defining = [c for c in written if grade_id(model) in defined(c.source)]
    return (defining or written or cells)[-1]


def _above_the_check(
    notebook: NotebookNode, cells: list[NotebookNode], name: str
) -> list[NotebookNode]:
    """Those of an answer's cells that its last check finds; all if it has none."""
    places = [k for k, c in enumerate(notebook.cells) if grade_id(c) == f"check_{name}"]
    above = notebook.cells[: places[-1]] if places else notebook.cells
    return [cell for cell in cells if any(cell is c for c in above)]


def _written(cell: NotebookNode, model: NotebookNode) -> bool:
    """Whether a cell was worked on; a ``raise`` left below a ``return`` does not make it a stub."""
    returns = re.search(r"^[ \t]+return\b", cell.source, flags=re.MULTILINE)
    stub = "NotImplementedError" in cell.source and not returns
    return not stub and cell.source.split() != model.source.split()


def _keep_stubs_from_running(
    notebook: NotebookNode, model: NotebookNode, answer: NotebookNode
) -> None:
    """Comment out empty copies below an answer, which would replace it when the notebook runs."""
    place = next(k for k, c in enumerate(notebook.cells) if c is answer)
    below = [c for c in notebook.cells[place + 1 :] if c.cell_type == "code" and not grade_id(c)]
    for cell in below:
        if grade_id(model) in defined(cell.source) and not _written(cell, model):
            lines = ["A copy without an answer:", *cell.source.splitlines()]
            cell.source = "\n".join(f"# {line}" for line in lines)


def _restored(
    notebook: NotebookNode, release: NotebookNode, model: NotebookNode, before: NotebookNode | None
) -> tuple[NotebookNode, str]:
    """Find the lost cell of a question by its name or place, or put it back as it was handed out."""
    name = grade_id(model)
    if model.metadata.nbgrader.get("solution"):
        if model.cell_type == "code":
            own = [c for c in notebook.cells if c.cell_type == "code" and not grade_id(c)]
            defining = [c for c in own if name in defined(c.source)]
            if defining:
                found = _above_the_check(notebook, defining, name) or defining
                return _chosen(found, model), "Cells without their metadata, found by name"
        else:
            answer = _below_the_question(notebook, release, model)
            if answer is not None:
                return answer, "Cells without their metadata, found by their place"
    cell = copy.deepcopy(model)
    notebook.cells.insert(_place_of_lost(notebook, release, model, before), cell)
    if model.metadata.nbgrader.get("solution"):
        code = [c for c in notebook.cells if c.cell_type == "code" and c is not cell]
        if any(name in defined(c.source) and _written(c, model) for c in code):
            cell.source = f"# {name} is written in another answer's cell."
            return cell, "Answers without a cell of their own, found in another answer's cell"
        return cell, "Missing answers, put back as empty cells"
    return cell, "Check cells that were missing and were put back"


def _place_of_lost(
    notebook: NotebookNode, release: NotebookNode, model: NotebookNode, before: NotebookNode | None
) -> int:
    """Below the graded cell above it; a check goes below all that its function may need."""
    cells, ours = notebook.cells, {c.source for c in release.cells}
    place = 1 + next((k for k, c in enumerate(cells) if c is before), -1)
    if not is_check(model):
        return place
    name = grade_id(model).removeprefix("check_")
    code = {k: defined(c.source) for k, c in enumerate(cells) if c.cell_type == "code"}
    if before is None or name not in defined(before.source):  # written in another answer's cell
        place = max([place, *(1 + k for k, names in code.items() if name in names)])
    while place in code and not grade_id(cells[place]) and cells[place].source not in ours:
        if name in code[place]:  # a cell that takes the name for something else
            break
        place += 1
    return place


def _below_the_question(
    notebook: NotebookNode, release: NotebookNode, model: NotebookNode
) -> NotebookNode | None:
    place = next(k for k, c in enumerate(release.cells) if c is model)
    question = release.cells[place - 1].source
    texts = {c.source for c in release.cells}
    for above, cell in zip(notebook.cells, notebook.cells[1:], strict=False):
        if above.source == question and cell.cell_type == "markdown" and cell.source not in texts:
            return cell
    return None


def _written_below(notebook: NotebookNode, release: NotebookNode, cell: NotebookNode) -> str:
    """What a student wrote in new cells below the cell for an open answer, left as it was."""
    texts = {c.source for c in release.cells}
    place = next(k for k, c in enumerate(notebook.cells) if c is cell)
    found = []
    for below in notebook.cells[place + 1 :]:
        if below.cell_type != "markdown" or grade_id(below) or below.source in texts:
            break
        found.append(below.source)
    return "\n\n".join(found)


def defined(source: str) -> set[str]:
    """Names of the functions and variables that a cell defines, even if it does not parse."""
    try:
        tree = ast.parse(re.sub(r"^[ \t]*[%!].*$", "", source, flags=re.MULTILINE))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return set(re.findall(r"^def +(\w+) *\(", source, flags=re.MULTILINE))
    names = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


def _fresh_ids(notebook: NotebookNode) -> None:
    """Replace ids that are missing, invalid or duplicated."""
    seen = set()
    for cell in notebook.cells:
        if not re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", cell.get("id", "")) or cell.id in seen:
            cell.id = nbformat.v4.new_code_cell().id
        seen.add(cell.id)
