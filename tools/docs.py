"""Write into the documentation what it takes from elsewhere: results, lessons, what each teaches.

``python tools/docs.py``, or ``make docs``; with ``--check`` it writes nothing and fails if a file differs. A
block stands between ``<!-- written: NAME -->`` and ``<!-- end: NAME -->``, each alone on its line. ``lessons``
and ``outcomes`` come from the notebooks' metadata, all others from the tables that ship with the package:
the README's ``result``, ``example`` and ``hinton``; ``fsp/paper``, the paper's numbers beside ours; ``fsp/runs``,
how ours came about; and ``fsp/smaller``, the experiment of that name.
"""

from __future__ import annotations

import argparse
import hashlib
import html
import re
import sys
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from textwrap import fill

import heads
import nbformat
import pandas as pd
from thumbnails import first_picture

import kdlib as kd
from kdlib._files import write_whole
from kdlib.reproduce.settings import PROTOCOLS, TRIAL_SEED

ROOT = Path(__file__).resolve().parent.parent
WIDTH = 110  # of a line of prose
FILES = ("README.md", "docs/results.md", "notebooks/homework/TEACHING.md")
BLOCK = re.compile(r"^<!-- written: (.+) -->\n(?:.*\n)*?<!-- end: \1 -->$", re.MULTILINE)
MARK = re.compile(r"<!-- (?:written|end):.*-->")

PAPERS = {
    "hinton": "Hinton et al. 2015",
    "fitnets": "Romero et al. 2015",
    "fsp": "Yim et al. 2017",
    "ban": "Furlanello et al. 2018",
    "ban_lm": "Furlanello et al. 2018",
}
FIVE = {  # of Hinton's results, for the README; None: the paper has no such number
    "teacher": "teacher, 2 x 1200",
    "student trained on labels": "student, 2 x 800, trained on labels",
    "student trained on labels, shifted images": None,
    "student trained on soft targets": "student trained on soft targets, T = 20",
    "student that never saw a 3: errors on the 3s": "no 3s: errors on the 3s",
}
METRICS = {  # those that are shown: heading and format
    "test_errors": ("test errors", ",.0f"),
    "errors on them": ("on the missing classes", ",.0f"),
    "test_errors by validation": ("bias chosen on validation", ",.0f"),
    "test_errors by mass": ("bias by probability mass", ",.0f"),
    "test_errors by test": ("bias chosen on test", ",.0f"),
    "test_errors of generalist": ("generalist", ",.0f"),
    "test_errors of specialists": ("with specialists", ",.0f"),
    "test_errors of trained on": ("generalist, trained longer", ",.0f"),
    "test_errors of ensemble": ("several generalists", ",.0f"),
    "test_errors without animals": ("never trained on animals", ",.0f"),
    "test_errors of three": ("three together", ",.0f"),
    "correlation": ("correlation of errors", ".2f"),
    "agreement": ("agreement", ".3f"),
    "right_on_training": ("right on training images", ".3f"),
    "right_where_wrong": ("right where the label is wrong", ".3f"),
    "validation_perplexity": ("validation perplexity", ",.2f"),
    "test_perplexity": ("test perplexity", ",.2f"),
}
GRIDS = {  # experiments with two dimensions, and what separates these in a setting's name
    "hinton/temperature": "; ",
    "fitnets/depth": "; ",
    "student/images": "; ",
    "student/teacher": "; ",
    "student/grid 30": ", ",
    "student/grid 800": ", ",
}


def main(arguments: Sequence[str] = ()) -> int:
    """Write the files, or with ``--check`` name those that differ; return the exit status."""
    parser = argparse.ArgumentParser(prog="python tools/docs.py", description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="write nothing, fail if a file differs"
    )
    check = parser.parse_args(arguments).check
    differing = stale()
    for name, text in differing.items():
        if check:
            print(f"{name} differs from what make docs writes", file=sys.stderr)
            continue
        write_whole(ROOT / name, lambda part, text=text: part.write_text(text, encoding="utf-8"))
        print(f"wrote {name}")
    return int(check and bool(differing))


def stale() -> dict[str, str]:
    """The files that differ from what this command writes, and what it writes."""
    before = {name: (ROOT / name).read_text(encoding="utf-8") for name in FILES}
    after = {name: filled(text, name) for name, text in before.items()}
    return {name: text for name, text in after.items() if text != before[name]}


def filled(text: str, file: str) -> str:
    """The text with every block written anew.

    Raises:
        ValueError: a block has no end or no beginning, or its name is unknown.
    """
    if alone := MARK.search(BLOCK.sub("", text)):
        raise ValueError(
            f"{file} must have a beginning and an end for each block, got {alone[0]} alone"
        )

    def block(found: re.Match) -> str:
        name = found[1]
        return f"<!-- written: {name} -->\n\n{written(name)}\n\n<!-- end: {name} -->"

    return BLOCK.sub(block, text)


def written(name: str) -> str:
    """The content of a block.

    Raises:
        ValueError: the name is unknown.
    """
    if name in BY_NAME:
        return BY_NAME[name]()
    protocol, _, what = name.partition("/")
    if what == "paper" and protocol in PAPERS:
        return against(protocol)
    if what == "runs" and protocol in PROTOCOLS:
        return runs(protocol)
    if protocol in PROTOCOLS and what in {*shipped(protocol)["experiment"]}:
        return (grid if name in GRIDS else lines)(protocol, what)
    raise ValueError(f"block must be one that tools/docs.py can write, got {name!r}")


# The README and the guide for teachers


def result() -> str:
    """What distillation achieves, in a paragraph, the cheap rival beside it."""
    teacher = errors("hinton", "teachers", "teacher").split()[0]
    ways = ("labels", "T = 20", "labels, moved")
    labels, soft, shifted = (errors("hinton", "students", way) for way in ways)
    return fill(
        f"On MNIST's 10,000 test digits a small network trained on labels makes **{labels} errors**. "
        f"Trained on its teacher's outputs as well, the same network makes **{soft}**; the teacher makes "
        f"{teacher}. Shifting the images by up to two pixels, without a teacher, gets to {shifted}. (Means of "
        "five students, 95% intervals; twelve epochs each, the teachers fifty on shifted images.)",
        WIDTH,
    )


def example() -> str:
    """The results of the README's example and its rivals: settings of ``student``, with other seeds, too."""
    teacher, best = (errors("student", "teachers", f"{n} epochs") for n in (8, 24))
    rows = [
        ("trained on labels", errors("student", "controls", "labels")),
        ("on labels, shifted images", errors("student", "controls", "labels, moved")),
        (f"this example, teacher: {teacher}", errors("student", "teacher", "T = 20; 8 epochs")),
        (f"a better teacher: {best}", errors("student", "controls", "T = 20")),
        ("the same, shifted images", errors("student", "controls", "T = 20, moved")),
    ]
    return markdown(["student of 10,000 images", "errors, five seeds"], rows)


def errors(protocol: str, experiment: str, setting: str) -> str:
    """A mean, with its interval if there are several seeds."""
    return cell(shipped(protocol), experiment, setting, "test_errors").partition(", n =")[0]


def lessons() -> str:
    """The README's table."""
    rows, read, run = [], 0, 0
    for name, notebook in heads.lessons(ROOT).items():
        about, path = heads.lesson(notebook), f"notebooks/{name}.ipynb"
        alt = first_picture(notebook).alt
        alt = html.escape(alt, quote=False).replace('"', "&quot;").replace("|", "&#124;")
        picture = f'<img src="docs/thumbnails/{name}.png" width="200" alt="{alt}">'
        minutes = heads.reading_minutes(notebook), about.minutes
        read, run = read + minutes[0], run + minutes[1]
        words = f"[**{about.label}**]({path}): {about.question} *{about.data}*"
        rows.append((f"[{picture}]({path})", words, f"{minutes[0]}", f"{minutes[1]}"))
    rows.append(("", "together", f"{read}", f"{run}"))
    return markdown(["", "question, *data*", "minutes to read", "to run, on two cores"], rows)


def outcomes() -> str:
    """What each lesson and each homework needs and gives."""
    rows = [
        (f"[{heads.lesson(notebook).label}](../{name}.ipynb)", notebook)
        for name, notebook in heads.lessons(ROOT).items()
    ]
    source = ROOT / "notebooks" / "homework" / "source"
    for path in sorted(source.glob("*/*.ipynb")):
        link = f"[{path.parent.name}](release/{path.relative_to(source).as_posix()})"
        rows.append((link, nbformat.read(path, as_version=4)))
    body = []
    for link, notebook in rows:
        about = heads.lesson(notebook)
        body.append((link, about.needs, "; ".join(about.outcomes)))
    return markdown(["", "what one must know before", "what one can do after"], body)


# Results


def shipped(protocol: str) -> pd.DataFrame:
    """The table that ships with the package; of two protocols the paper's own."""
    table = kd.results(protocol)
    full = table["protocol"] == "paper"
    return table[full] if full.any() else table


def five() -> str:
    """Five of Hinton's results beside ours."""
    found, body = beside("hinton"), []
    for what, published in FIVE.items():
        ours = cell(shipped("hinton"), "students", "labels, moved", "test_errors")
        body.append((what, *(found[published] if published else ("–", ours))))
    return markdown(["", PAPERS["hinton"], "ours"], body)


def against(protocol: str) -> str:
    """A paper's numbers beside ours."""
    body = [(what, *numbers) for what, numbers in beside(protocol).items()]
    return markdown(["", PAPERS[protocol], "ours: mean [95 % interval], seeds"], body)


def beside(protocol: str) -> dict[str, tuple[str, str]]:
    """A paper's number and ours, by what they measure."""
    digits = ",.1f" if protocol == "ban_lm" else ",.0f"
    return {
        what: (f"{row.paper:{digits}}", of_interval(row.ours, row.low, row.high, row.n, digits))
        for what, row in kd.against_the_paper(protocol).iterrows()
    }


def runs(protocol: str) -> str:
    """What a table's rows say about the runs that they come from."""
    table = shipped(protocol)
    trial = table["student_seed"] == TRIAL_SEED
    seeds = {
        who: ranges(table.loc[~trial.fillna(False), f"{who}_seed"].dropna().astype(int))
        for who in ("teacher", "student")
    }
    body = [
        ("protocol", ", ".join(f"`{name}`" for name in unique(table["protocol"]))),
        ("hardware", "; ".join(unique(table["hardware"]))),
        ("versions", "; ".join(unique(table["versions"]))),
        ("SHA-256 of the table", f"`{digest(table)}`"),
        *((f"seeds of {who}s", text) for who, text in seeds.items() if text),
    ]
    return markdown(["", f'`kd.results("{protocol}")`, {len(table):,} rows'], body)


def digest(table: pd.DataFrame) -> str:
    """A hash of every cell, so that no number of a shipped table changes without its page."""
    return hashlib.sha256(table.to_csv(index=False).encode()).hexdigest()[:16]


def lines(protocol: str, experiment: str) -> str:
    """An experiment with a row for each setting and a column for each metric that is shown."""
    table = shipped(protocol)
    there = table[table["experiment"] == experiment]
    metrics = [metric for metric in METRICS if metric in {*there["metric"]}]
    body = [
        (f"`{setting}`", *(cell(table, experiment, setting, metric) for metric in metrics))
        for setting in settings(there)
    ]
    return markdown(["", *(METRICS[metric][0] for metric in metrics)], body)


def grid(protocol: str, experiment: str) -> str:
    """Test errors of an experiment whose settings' names have two parts."""
    table, between = shipped(protocol), GRIDS[f"{protocol}/{experiment}"]
    parts = [name.split(between) for name in settings(table[table["experiment"] == experiment])]
    columns = unique(column for _, column in parts)
    body = []
    for row in unique(row for row, _ in parts):
        names = [f"{row}{between}{column}" for column in columns]
        body.append((f"`{row}`", *(cell(table, experiment, n, "test_errors") for n in names)))
    return markdown(["test errors", *(f"`{column}`" for column in columns)], body)


def settings(table: pd.DataFrame) -> list[str]:
    """The settings' names without their seeds, in the order of the table."""
    return unique(table["setting"].str.partition(", seed ")[0])


def cell(table: pd.DataFrame, experiment: str, setting: str, metric: str) -> str:
    """A setting's mean, its interval and the number of seeds; a dash if it was not measured."""
    try:
        values = kd.measured(table, experiment, setting, metric)
    except ValueError:
        return "–"
    digits = METRICS[metric][1]
    if len(values) == 1:
        return f"{values[0]:{digits}}, n = 1"
    ours = kd.interval(values)
    return of_interval(ours.mean, ours.low, ours.high, ours.n, digits)


def of_interval(mean: float, low: float, high: float, n: float, digits: str) -> str:
    return f"{mean:{digits}} [{low:{digits}}, {high:{digits}}], n = {n:.0f}"


def ranges(numbers: Iterable[int]) -> str:
    """Whole numbers in words: ``0 to 4, 100``."""
    runs = []
    for _, run in groupby(enumerate(sorted({*numbers})), lambda pair: pair[1] - pair[0]):
        first, *_, last = [number for _, number in [*run] * 2]
        runs.append(f"{first} to {last}" if first < last else f"{first}")
    return ", ".join(runs)


def unique(items: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(items))


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows))


BY_NAME = {
    "result": result,
    "example": example,
    "lessons": lessons,
    "outcomes": outcomes,
    "hinton": five,
}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
