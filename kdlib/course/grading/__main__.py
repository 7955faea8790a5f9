"""The grader's commands.

``python -m kdlib.course.grading matrix``: check the grader on every answer it knows, or, with names of
homeworks or exercises (``matrix hw1``, ``matrix soft_target_loss``), on theirs.
``python -m kdlib.course.grading release``: build the students' notebooks from those with solutions.
``python -m kdlib.course.grading grade``: grade all submissions, write feedback and grades.
``python -m kdlib.course.grading feedback``: write both again, once the open answers are read by hand.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from kdlib._console import say
from kdlib.course.exercises import HOMEWORKS


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m kdlib.course.grading", description="Homework that grades itself."
    )
    parser.add_argument("command", choices=("matrix", "release", "grade", "feedback"))
    parser.add_argument("names", nargs="*", metavar="NAME", help="matrix: homeworks or exercises")
    parser.add_argument(
        "--course", type=Path, default=Path("notebooks/homework"), help="default: %(default)s"
    )
    parser.add_argument(
        "--answers",
        type=Path,
        metavar="FOLDER",
        help="matrix: where other right answers are; default: tests/grading/right of a checkout",
    )
    chosen = parser.parse_args(arguments)
    if chosen.command == "matrix":
        import torch

        from kdlib.course.grading.matrix import show, some
        from kdlib.course.grading.observe import ANSWERS

        torch.set_num_threads(1)  # on several, threads wait for each other with tensors this small
        folder = chosen.answers or (ANSWERS if ANSWERS.is_dir() else None)
        if folder and not folder.is_dir():
            parser.error(f"--answers must be a folder with answers, got {folder}")
        try:
            return bool(show(some(HOMEWORKS, chosen.names), folder))
        except ValueError as error:
            parser.error(str(error))
    if chosen.names:
        parser.error(f"NAME goes with matrix alone, got {' '.join(chosen.names)}")
    chosen.course = chosen.course.expanduser()  # no shell expands the ~ of --course=~/course
    if not (chosen.course / "nbgrader_config.py").exists():
        parser.error(f"--course must be the folder with nbgrader_config.py, got {chosen.course}")
    try:
        from kdlib.course.grading import course
    except ModuleNotFoundError as error:
        parser.error(f"{error}; pip install 'kdlib[homework]' brings what grading needs")
    try:
        if chosen.command == "release":
            changed = course.release(chosen.course)
            say("\n".join(f"wrote {path}" for path in changed) or "the release is up to date")
        elif chosen.command == "grade":
            course.grade(chosen.course)
            say(
                f"\nScores: {chosen.course}/grades.csv. For each student: {chosen.course}/feedback/"
            )
        else:
            course.feedback(chosen.course)
    except ValueError as error:
        parser.error(str(error))
    except RuntimeError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
