"""Which module may import which, read from the source; each rule is shown a breach of it."""

import ast
from functools import cache
from pathlib import Path

import pytest

import kdlib as kd

ROOT = Path(kd.__file__).resolve().parent
UPPER = ("reproduce", "check", "distill", "course")  # everything else is the core
SHARED = ("_checks", "_console", "_files", "_exact")  # private to the library, not to a folder
NAMES = """
    CWTM DKPP FSP Batch Cohort Comparison CrossEntropy Fidelity GradientTerms Hint History Interval
    LogitMatching Loss Objective Outputs Recipe Scores SoftTargets against_the_paper cwtm_loss
    cwtm_weights data dkpp_loss evaluate fidelity fit fit_cohort fsp_loss fsp_matrix gradient_terms
    grading hint_loss hinton_loss hinton_terms interval keep logit_matching_loss logits losses
    measured mistakes models objectives omitted paired permute_dark_knowledge pick plots predict
    results seeded soft_target_loss soften specialists stats taps text widgets
"""


def sources():
    """Map each module's name to its source, a package's name being ``kdlib.data.__init__``."""
    files = (path.relative_to(ROOT.parent) for path in sorted(ROOT.rglob("*.py")))
    return {
        ".".join(path.with_suffix("").parts): (ROOT.parent / path).read_text() for path in files
    }


@cache
def nodes(source):
    return [*ast.walk(ast.parse(source))]


def folder(module):
    return module.rpartition(".")[0]


def layer(module):
    """``course`` for ``kdlib.course.museum.check``, "" for the core."""
    first = module.split(".")[1]
    return first if first in UPPER else ""


def imports(modules):
    """Map each module to the modules it imports anywhere; other packages by their first name."""
    found, known = {}, names(modules)
    for module, source in modules.items():
        there = found[module] = set()
        for node in nodes(source):
            if isinstance(node, ast.Import):
                there |= {full(alias.name, modules) for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                start = origin(module, node)
                inside = [f"{start}.{alias.name}" for alias in node.names]
                there |= {full(x if x in known else start, modules) for x in inside}
            elif isinstance(node, ast.Constant) and node.value in known - {"kdlib"}:
                there.add(full(node.value, modules))  # for import_module
    return found


def origin(module, node):
    """Return the absolute name that ``from ... import`` reads from."""
    if not node.level:
        return node.module
    base = module.split(".")[: len(module.split(".")) - node.level]
    return ".".join([*base, *filter(None, [node.module])])


def names(modules):
    return {module.removesuffix(".__init__") for module in modules}


def full(target, modules):
    if target.split(".")[0] != "kdlib":
        return target.split(".")[0]
    return f"{target}.__init__" if f"{target}.__init__" in modules else target


def layers(modules):
    """Imports go down: the core at the bottom, reproduce above it, the course on top.

    ``check`` and ``distill`` stand on the core and on the named parts of the course.
    """
    allowed = {
        "": [],
        "reproduce": [],
        "check": ["course.museum", "course.grading.report"],
        "distill": ["course.plots"],
        "course": ["reproduce"],
    }
    for module, targets in imports(modules).items():
        mine = layer(module)
        for target in (t for t in targets if t.startswith("kdlib.")):
            part = target.removeprefix("kdlib.")
            down = layer(target) in (mine, "")
            if not down and not any(f"{part}.".startswith(f"{may}.") for may in allowed[mine]):
                yield f"{module} imports {target}"


def losses_and_objectives(modules):
    """``losses`` needs only torch, the checks and the exact divergence; objectives never train."""
    allowed = {"torch", "kdlib._checks", "kdlib._exact"}
    allowed |= {"__future__", "collections", "contextlib", "typing"}
    for module, targets in imports(modules).items():
        if module == "kdlib.losses":
            yield from (f"{module} imports {x}" for x in targets - allowed)
        if module.startswith("kdlib.objectives."):
            yield from (f"{module} imports {x}" for x in targets if x.startswith("kdlib.training"))


def no_module_imports_kdlib_itself(modules):
    for module, targets in imports(modules).items():
        if targets & {"kdlib", "kdlib.__init__"}:
            yield f"{module} imports kdlib itself"


def cycles(modules):
    """Find modules that import each other; a package on the way counts, and so do type hints."""
    edges = {}
    for module, targets in imports(modules).items():
        edges[module] = set()
        for target in targets:
            parts = target.split(".")
            packages = [".".join([*parts[:n], "__init__"]) for n in range(2, len(parts))]
            outside = [x for x in packages if not module.startswith(f"{folder(x)}.")]
            edges[module] |= {target, *outside} & modules.keys()
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


def privacy(modules):
    """No ``_name`` is used outside its folder, whether imported or reached through its module."""
    known = names(modules)
    for module, source in modules.items():
        bound = {}
        for node in nodes(source):
            if isinstance(node, ast.ImportFrom) and origin(module, node).split(".")[0] == "kdlib":
                start = origin(module, node)
                for alias in node.names:
                    whole = f"{start}.{alias.name}"
                    bound[alias.asname or alias.name] = whole
                    home = folder(whole) if whole in known else folder(start)
                    private = any(p.startswith("_") and p not in SHARED for p in whole.split("."))
                    if private and home != folder(module):
                        yield f"{module} imports {whole}"
            elif isinstance(node, ast.Import):
                bound |= {alias.asname or alias.name: alias.name for alias in node.names}
        for node in nodes(source):
            if isinstance(node, ast.Attribute) and node.attr.startswith("_"):
                home = bound.get(ast.unparse(node.value), "")
                private = not node.attr.startswith("__")
                if private and home in known and folder(home) != folder(module):
                    yield f"{module} uses {home}.{node.attr}"


RULES = (layers, losses_and_objectives, no_module_imports_kdlib_itself, cycles, privacy)
PLANNED = {"kdlib.check.__init__": "", "kdlib.check.run": "", "kdlib.distill.run": ""}


@pytest.mark.parametrize("rule", RULES)
def test_the_library_keeps(rule):
    assert list(rule(sources())) == []
    assert list(rule(PLANNED | sources())) == []


HINT = (
    "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from kdlib.course.plots import style"
)
BY_NAME = "from importlib import import_module\nimport_module('kdlib.course.plots')"
BREACHES = [
    (layers, "stats", "from kdlib.course import plots"),
    (layers, "stats", "def f():\n    import kdlib.reproduce"),
    (layers, "stats", BY_NAME),
    (layers, "data.own", HINT),
    (layers, "reproduce.run", "from kdlib.course.plots import style"),
    (layers, "losses", "from kdlib.check import check"),
    (layers, "check.run", "import kdlib.course.exercises.hw1"),
    (layers, "distill.run", "import kdlib.reproduce"),
    (layers, "course.predict", "import kdlib.check"),
    (losses_and_objectives, "losses", "from kdlib.networks import logits"),
    (losses_and_objectives, "losses", "import numpy as np"),
    (losses_and_objectives, "objectives.base", "import kdlib.training.fit"),
    (no_module_imports_kdlib_itself, "stats", "import kdlib"),
    (no_module_imports_kdlib_itself, "stats", "from kdlib import evaluate"),
    (cycles, "recipe", "from kdlib.training.fit import fit"),
    # data/__init__.py imports a module that imports seeding
    (cycles, "seeding", "from kdlib.data.views import shift"),
    (cycles, "data.splits", "from .load import load"),
    (privacy, "networks", "from kdlib.data.splits import _version"),
    (privacy, "networks", "from .data.splits import _version"),
    (privacy, "networks", "import kdlib.data.splits\nkdlib.data.splits._version"),
    (privacy, "stats", "import x\nfrom kdlib.course.widgets._saved import y"),
    (privacy, "stats", "from kdlib.training import cohort\ncohort._STACK_WEIGHTS"),
]


@pytest.mark.parametrize(("rule", "module", "source"), BREACHES)
def test_each_rule_sees_a_breach(rule, module, source):
    modules, module = PLANNED | sources(), f"kdlib.{module}"
    broken = modules | {module: f"{modules[module]}\n{source}\n"}
    assert any(module in breach for breach in rule(broken))


def test_checks_and_reports_may_import_the_parts_of_the_course_they_show():
    modules = sources() | {
        "kdlib.check.run": "import kdlib.course.museum.check, kdlib.course.grading.report",
        "kdlib.distill.run": "from kdlib.course.plots import style",
    }
    assert list(layers(modules)) == []


def test_the_public_names_are_these_and_each_can_be_listed_and_loaded():
    assert sorted(kd.__all__) == sorted(NAMES.split())
    assert {*kd.__all__} <= {*dir(kd)}
    assert all(getattr(kd, name) is not None for name in kd.__all__)


def test_the_top_folder_is_small_and_no_file_of_the_core_is_long():
    assert len([path for path in ROOT.iterdir() if path.name != "__pycache__"]) <= 20
    for path in ROOT.rglob("*.py"):
        free = path.is_relative_to(ROOT / "course") or path.name == "losses.py"
        assert free or len(path.read_text().splitlines()) <= 500, path
