"""The house: who may import whom, read from the imports themselves; each rule is shown a breach of it."""

import ast
from functools import cache
from pathlib import Path

import pytest

import kdlib as kd

ROOT = Path(kd.__file__).resolve().parent
ROOMS = ("reproduce", "check", "distill", "course")  # what stands above the core
SHARED = ("_checks", "_files", "_exact")  # private to the library, not to a folder
NAMES = """
    CWTM DKPP FSP Batch Cohort Comparison CrossEntropy Fidelity GradientTerms Hint History Interval
    LogitMatching Loss Objective Outputs Recipe Scores SoftTargets against_the_paper cwtm_loss cwtm_weights
    data dkpp_loss evaluate fidelity fit fit_cohort fsp_loss fsp_matrix gradient_terms grading hint_loss
    hinton_loss hinton_terms interval keep logit_matching_loss logits losses measured mistakes models
    objectives omitted paired permute_dark_knowledge pick plots predict results seeded soft_target_loss
    soften specialists stats taps text widgets
"""


def sources():
    """Every module of the library by its name, a package as ``kdlib.data.__init__``."""
    files = (path.relative_to(ROOT.parent) for path in sorted(ROOT.rglob("*.py")))
    return {
        ".".join(path.with_suffix("").parts): (ROOT.parent / path).read_text() for path in files
    }


@cache
def parsed(source):
    return ast.parse(source)


def folder(module):
    return module.rpartition(".")[0]


def room(module):
    """``course`` of ``kdlib.course.museum.check``, "" of what lies in the core."""
    first = module.split(".")[1]
    return first if first in ROOMS else ""


def imports(modules):
    """What each module imports of the library, wherever in its text, and of others by their first name."""
    found = {}
    for module, source in modules.items():
        there = found[module] = set()
        for node in ast.walk(parsed(source)):
            if isinstance(node, ast.Import):
                there |= {named(alias.name, modules) for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                start = origin(module, node)
                inside = [f"{start}.{alias.name}" for alias in node.names]
                there |= {named(x if x in names(modules) else start, modules) for x in inside}
            elif isinstance(node, ast.Constant) and node.value in names(modules) - {"kdlib"}:
                there.add(named(node.value, modules))  # for import_module
    return found


def origin(module, node):
    """What ``from ... import`` names, a relative one too."""
    if not node.level:
        return node.module
    base = module.split(".")[: len(module.split(".")) - node.level]
    return ".".join([*base, *filter(None, [node.module])])


def names(modules):
    return {module.removesuffix(".__init__") for module in modules}


def named(target, modules):
    if target.split(".")[0] != "kdlib":
        return target.split(".")[0]
    return f"{target}.__init__" if f"{target}.__init__" in modules else target


def breaches_of_floors(modules):
    """Imports go down: core, then reproduce, check and distill, then the course; check and distill stand aside."""
    allowed = {
        "": set(),
        "reproduce": {""},
        "check": {"", "course.museum", "course.grading.report"},
        "distill": {"", "course.plots"},
        "course": {"", "reproduce"},
    }
    for module, targets in imports(modules).items():
        for target in targets:
            if target.startswith("kdlib.") and room(target) not in {
                room(module),
                *allowed[room(module)],
            }:
                part = target.removeprefix("kdlib.")
                if not any(
                    part == may or part.startswith(f"{may}.")
                    for may in allowed[room(module)] - {""}
                ):
                    yield f"{module} imports {target}"


def breaches_of_the_heart(modules):
    """``losses`` imports torch, the checks and the exact divergence; objectives never import training."""
    for module, targets in imports(modules).items():
        if module == "kdlib.losses":
            rest = targets - {"torch", "kdlib._checks", "kdlib._exact"}
            yield from (
                f"{module} imports {x}"
                for x in rest - {"__future__", "collections", "contextlib", "typing"}
            )
        if module.startswith("kdlib.objectives."):
            yield from (f"{module} imports {x}" for x in targets if x.startswith("kdlib.training"))


def breaches_of_the_face(modules):
    """Nothing inside imports ``kdlib`` itself."""
    for module, targets in imports(modules).items():
        if targets & {"kdlib", "kdlib.__init__"}:
            yield f"{module} imports the face"


def circles(modules):
    """Modules that import each other, type hints included, and the packages that are imported on the way."""
    edges = {}
    for module, targets in imports(modules).items():
        edges[module] = set()
        for target in targets:
            parts = target.split(".")
            ways = [".".join([*parts[:n], "__init__"]) for n in range(2, len(parts))]
            own = module.startswith
            edges[module] |= {
                x for x in [target, *ways] if x in modules and not own(f"{folder(x)}.")
            } | ({target} & modules.keys())
        edges[module].discard("kdlib.__init__")
    done, under_way = set(), []

    def visit(module):
        if module in under_way:
            yield " -> ".join([*under_way[under_way.index(module) :], module])
        elif module not in done:
            under_way.append(module)
            for target in sorted(edges[module] - {module}):
                yield from visit(target)
            under_way.pop()
            done.add(module)

    for module in edges:
        if module != "kdlib.__init__":
            yield from visit(module)


def breaches_of_privacy(modules):
    """No ``_name`` of one folder is used in another, neither imported nor reached through its module."""
    for module, source in modules.items():
        tree, bound = parsed(source), {}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and origin(module, node).split(".")[0] == "kdlib":
                start = origin(module, node)
                for alias in node.names:
                    whole = f"{start}.{alias.name}"
                    bound[alias.asname or alias.name] = whole
                    home = folder(whole) if whole in names(modules) else folder(start)
                    private = any(p.startswith("_") and p not in SHARED for p in whole.split("."))
                    if private and home != folder(module):
                        yield f"{module} imports {whole}"
            elif isinstance(node, ast.Import):
                bound |= {alias.asname or alias.name: alias.name for alias in node.names}
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr.startswith("_"):
                home = bound.get(ast.unparse(node.value), "")
                private = not node.attr.startswith("__")
                if private and home in names(modules) and folder(home) != folder(module):
                    yield f"{module} uses {home}.{node.attr}"


RULES = (
    breaches_of_floors,
    breaches_of_the_heart,
    breaches_of_the_face,
    circles,
    breaches_of_privacy,
)


@pytest.mark.parametrize("rule", RULES)
def test_the_library_keeps(rule):
    assert list(rule(sources())) == []


BREACHES = {
    "the core imports the course": (
        breaches_of_floors,
        "kdlib.stats",
        "from kdlib.course import plots",
    ),
    "in a function": (breaches_of_floors, "kdlib.stats", "def f():\n    import kdlib.reproduce"),
    "for a type": (
        breaches_of_floors,
        "kdlib.data.own",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from kdlib.course.plots import style",
    ),
    "a protocol imports the course": (
        breaches_of_floors,
        "kdlib.reproduce.run",
        "from kdlib.course.plots import style",
    ),
    "the core imports a check": (
        breaches_of_floors,
        "kdlib.losses",
        "from kdlib.check import check",
    ),
    "a check imports an exercise": (
        breaches_of_floors,
        "kdlib.check.run",
        "import kdlib.course.exercises.hw1",
    ),
    "the course imports a check": (
        breaches_of_floors,
        "kdlib.course.predict",
        "import kdlib.check",
    ),
    "the heart knows networks": (
        breaches_of_the_heart,
        "kdlib.losses",
        "from kdlib.networks import logits",
    ),
    "the heart knows numpy": (breaches_of_the_heart, "kdlib.losses", "import numpy as np"),
    "an objective trains": (
        breaches_of_the_heart,
        "kdlib.objectives.base",
        "import kdlib.training.fit",
    ),
    "the face": (breaches_of_the_face, "kdlib.stats", "import kdlib"),
    "the face for a module": (breaches_of_the_face, "kdlib.stats", "from kdlib import evaluate"),
    "a circle of two": (circles, "kdlib.recipe", "from kdlib.training.fit import fit"),
    "a circle through a package": (
        circles,
        "kdlib.seeding",
        "from kdlib.data.views import shift",  # data's own __init__ loads what imports seeding
    ),
    "a circle of relative imports": (circles, "kdlib.data.splits", "from .load import load"),
    "a private name": (
        breaches_of_privacy,
        "kdlib.networks",
        "from kdlib.data.splits import _version",
    ),
    "a private module": (
        breaches_of_privacy,
        "kdlib.stats",
        "import x\nfrom kdlib.course.widgets._saved import y",
    ),
    "by a relative import": (
        breaches_of_privacy,
        "kdlib.networks",
        "from .data.splits import _version",
    ),
    "through its whole name": (
        breaches_of_privacy,
        "kdlib.networks",
        "import kdlib.data.splits\nkdlib.data.splits._version",
    ),
    "by its name as a text": (
        breaches_of_floors,
        "kdlib.stats",
        "from importlib import import_module\nimport_module('kdlib.course.plots')",
    ),
    "through its module": (
        breaches_of_privacy,
        "kdlib.stats",
        "from kdlib.training import cohort\ncohort._STACK_WEIGHTS",
    ),
}


@pytest.mark.parametrize(("rule", "module", "source"), BREACHES.values(), ids=BREACHES)
def test_each_rule_sees_a_breach(rule, module, source):
    modules = sources() | {"kdlib.check.__init__": "", "kdlib.check.run": ""}
    assert list(rule(modules)) == []
    broken = modules | {module: f"{modules[module]}\n{source}\n"}
    assert any(module in breach for breach in rule(broken))


def test_checks_and_reports_may_read_what_they_are_made_of():
    modules = sources() | {
        "kdlib.check.run": "import kdlib.course.museum.check, kdlib.course.grading.report",
        "kdlib.distill.run": "from kdlib.course.plots import style",
    }
    assert list(breaches_of_floors(modules)) == []


def test_the_public_names_are_these_and_all_of_them_can_be_listed_and_had():
    assert sorted(kd.__all__) == sorted(NAMES.split())
    assert {*kd.__all__} <= {*dir(kd)}
    assert all(getattr(kd, name) is not None for name in kd.__all__)


def test_the_hall_is_small_and_no_file_of_the_core_is_long():
    hall = [path for path in ROOT.iterdir() if path.name != "__pycache__"]
    assert len(hall) <= 20
    for path in ROOT.rglob("*.py"):
        lines = len(path.read_text().splitlines())
        assert lines <= 500 or path.is_relative_to(ROOT / "course") or path.name == "losses.py", (
            path
        )
