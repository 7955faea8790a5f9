"""The bug museum: grade a reader's test of a known bug, and show the bug in our words.

A test is a function of the code under test. It must pass on right code and fail on the bug, and it
sees neither the bug's name nor its source.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import textwrap
import warnings
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType

import pandas as pd
from torch import Tensor

from kdlib.course.grading.observe import NOT_WRITTEN, in_a_line
from kdlib.course.grading.report import Failed, Known, Report, Result
from kdlib.course.museum import mistakes
from kdlib.course.museum.mistakes import MISTAKES, Mistake
from kdlib.losses import cross_entropy, fsp_loss, permute_dark_knowledge, soft_target_loss
from kdlib.networks import logits
from kdlib.seeding import seeded

_NAMES = {mistake.name: mistake for mistake in MISTAKES}


def check_test(name: str, test: Callable[[Callable], None], *, hints: int = 1) -> Report:
    """Report whether ``test`` tells right code from a bug: it must raise where code is wrong.

    It is called with the right twin, with the bug, and with the right twin again; for some bugs
    also with right code that is written in another way. Every call starts from the same seed.

    Args:
        name: a bug of ``catalogue()``.
        test: takes the code under test, which has the signature that ``wrong_code(name)`` shows.
        hints: how many hints the text shows; a notebook shows all of them, folded.

    Raises:
        ValueError: no bug has this name.
        TypeError: test is not a function.

    >>> import torch
    >>> def agreement_costs_nothing(loss):
    ...     assert loss(torch.zeros(1, 3), torch.zeros(1, 3), 4.0) == 0
    >>> check_test("t_squared_forgotten", agreement_costs_nothing)
    t_squared_forgotten: 1 of 4 properties fail, 3 of 4 points so far.
      ✓ It passes on the right code
      ✓ It passes on right code that is written in another way
      ✗ It fails on the bug
          with      the bug
          got       no exception
          expected  an exception, such as that of an assert that does not hold
      ✓ It passes on the right code once more
      Hint 1: At one temperature a factor can be anything. Compare several.
      (one more with hints=2)
    """
    mistake = _found(name)
    if not callable(test):
        raise TypeError(f"test must be a function of the code under test, got {test!r}")
    try:
        results = tuple(Result(says, 1.0, failed) for says, failed in _asked(mistake, test))
    except NotImplementedError:
        return Report(name, (), note=NOT_WRITTEN)
    known = Known(mistake.wrong, HINTS.get(name, (mistake.symptom,)))
    missed = [result.says for result in results if result.failed] == [_ON_THE_BUG]
    return Report(name, results, (known,) if missed else (), shown=hints)


_ON_THE_BUG = "It fails on the bug"
_NO_WORD = "returned; a test reports only by raising, as assert does, not by what it returns"


def _asked(mistake: Mistake, test: Callable) -> Iterator[tuple[str, Failed | None]]:
    """Each property, with its failure if it fails."""
    first = _raised(test, mistake.right, mistake)
    yield "It passes on the right code", _passes("the right code", first)
    if mistake.right in _OTHERS:
        other = _raised(test, _OTHERS[mistake.right], mistake)
        yield (
            "It passes on right code that is written in another way",
            _passes("other right code", other),
        )
    yield _ON_THE_BUG, _fails(_raised(test, mistake.wrong, mistake), first)
    again = _raised(test, mistake.right, mistake)
    yield "It passes on the right code once more", _passes("the right code, a second time", again)


def _passes(given: str, raised: str) -> Failed | None:
    return Failed(given, raised, "no exception") if raised else None


def _fails(raised: str, on_right_code: str) -> Failed | None:
    if not raised or raised.endswith(_NO_WORD):
        wanted = "an exception, such as that of an assert that does not hold"
        return Failed("the bug", raised or "no exception", wanted)
    if on_right_code:
        return Failed("the bug", raised, "an exception that the right code does not cause")
    return None


def _raised(test: Callable, code: Callable, mistake: Mistake) -> str:
    """The exception in one line, "" if there was none."""
    try:
        with seeded(0), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            said = test(_anonymous(code, inspect.signature(mistake.right)))
    except (NotImplementedError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # noqa: BLE001  pytest's own failures are not Exceptions
        return in_a_line(error).replace(":  (in", " (in")
    return f"{said}, {_NO_WORD}" if isinstance(said, bool) else ""


def _anonymous(code: Callable, signature: inspect.Signature) -> Callable:
    def function(*args, **kwargs):
        return code(*args, **kwargs)

    function.__signature__ = signature
    function.__qualname__, function.__module__ = "function", "code_under_test"
    return function


def _found(name: str) -> Mistake:
    if name not in _NAMES:
        close = difflib.get_close_matches(str(name), _NAMES, n=3, cutoff=0.4)
        near = f"; near it {', '.join(close)}" if close else ""
        raise ValueError(f"name must be one of kd.grading.catalogue(), got {name!r}{near}")
    return _NAMES[name]


class Code(str):
    """Python source; a notebook shows it highlighted."""

    def _repr_markdown_(self) -> str:
        return f"```python\n{self}\n```"


def wrong_code(name: str) -> Code:
    """The bug, written in our words, with the private helpers that it calls.

    Raises:
        ValueError: no bug has this name.

    >>> print(wrong_code("best_never_updated"))
    def best_never_updated(accuracies: Sequence[float]) -> int:
        best, kept = -math.inf, 0
        for epoch, accuracy in enumerate(accuracies, start=1):
            if accuracy > best:
                kept = epoch
        return kept
    """
    wrong = _found(name).wrong
    private = dict.fromkeys(name for name in _names_in(wrong.__code__) if name.startswith("_"))
    helpers = [wrong.__globals__.get(name) for name in private]
    shown = [wrong, *(h for h in helpers if isinstance(h, FunctionType | type))]
    return Code("\n\n\n".join(map(_bare, shown)))


def _names_in(code: CodeType) -> list[str]:
    """The names that the code uses, in its comprehensions and lambdas, too."""
    inner = [name for c in code.co_consts if isinstance(c, CodeType) for name in _names_in(c)]
    return [*code.co_names, *inner]


def _bare(code: Callable) -> str:
    """The source without its docstring and without the decorator that tells the story."""
    source = textwrap.dedent(inspect.getsource(code)).rstrip()
    (node,) = ast.parse(source).body
    lines = source.splitlines()
    if ast.get_docstring(node) is not None:
        docstring = node.body[0]
        del lines[docstring.lineno - 1 : docstring.end_lineno]
    return "\n".join(lines[node.lineno - 1 :])


def catalogue() -> pd.DataFrame:
    """List all bugs of the museum: the symptom, and where each was seen.

    >>> catalogue().loc["divided_by_batches", "symptom"]
    'An accuracy above 1, as large as the batches are.'
    """
    rows = {m.name: {"symptom": m.symptom, "source": m.source} for m in MISTAKES}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("name")


# Right code in another form, which a test must not reject. All of it calls kdlib's own functions.


def _last_class_first(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    each = soft_target_loss(student.flip(-1), teacher.flip(-1), temperature, reduction="none")
    return each.sum() / len(student)


def _weighed_apart(
    student: Tensor, teacher: Tensor, labels: Tensor, temperature: float, alpha: float
) -> Tensor:
    hard = cross_entropy(student, labels)
    return hard + alpha * (_last_class_first(student, teacher, temperature) - hard)


def _asked_batch_by_batch(teacher, split, seed: int):
    batches = mistakes.targets_by_index(teacher, split, seed)
    return [(inputs, logits(teacher, inputs)) for inputs, _ in batches]


def _pair_by_pair(student, teacher) -> Tensor:
    matrices = [
        [mistakes.fsp_matrix(*pair) for pair in reversed(side)] for side in (student, teacher)
    ]
    return sum(fsp_loss([s], [t]) for s, t in zip(*matrices, strict=True))


def _permuted_twice(teacher: Tensor, generator) -> Tensor:
    return permute_dark_knowledge(permute_dark_knowledge(teacher, generator), generator)


_OTHERS = {
    mistakes.soft_term: _last_class_first,
    mistakes.both_terms: _weighed_apart,
    mistakes.targets_by_index: _asked_batch_by_batch,
    mistakes.fsp_term: _pair_by_pair,
    mistakes.permute_dark_knowledge: _permuted_twice,
}

# Hints at the property that the bug breaks.
HINTS = {
    "kl_averaged_over_classes": (
        "A mean over what? Work the loss out by hand for one image and two classes.",
        "List every class twice: the divergence of the two softmaxes does not change.",
    ),
    "t_squared_forgotten": (
        "At one temperature a factor can be anything. Compare several.",
        "For small logits the gradient has about the same size at T = 4, 8 and 16.",
    ),
    "both_sides_are_the_teacher": (
        "Leave the labels out of it: which alpha does that?",
        "At alpha = 1 the student gets a gradient other than zero, unless the logits agree.",
    ),
    "roles_swapped": (
        "One of the two networks must move, the other must not.",
        "Copy both state dicts before a step and compare them afterwards.",
    ),
    "teacher_in_train_mode": (
        "Take a network with dropout or BatchNorm, in train mode, and call it twice on one batch.",
        "The call also leaves a trace: compare the buffers of the state dict before and after.",
    ),
    "evaluated_in_train_mode": (
        "Take a network with dropout or BatchNorm, in train mode, and score it twice.",
        "Count the errors yourself with a copy in eval mode; look at its buffers, too.",
    ),
    "targets_by_position": (
        "Each pair is a batch and its targets. What does the teacher itself output for this batch?",
        "Ask the teacher for the inputs of each pair and compare. Use more than one batch!",
    ),
    "cached_despite_augmentation": (
        "Each pair is a batch of views and its targets. Whose targets?",
        "Ask the teacher for the views of each pair and compare; kd.data.shift(2) shifts images.",
    ),
    "hint_trains_the_teacher": (
        "Who should get a gradient from this loss?",
        "Let both arguments require gradients, call backward, and look at both .grad.",
    ),
    "batch_divided_twice": (
        "What happens to a loss that is a mean over images if every image is there twice?",
        "torch.cat([maps, maps]) in each pair of layers, for student and teacher.",
    ),
    "samples_permuted": (
        "Which part of a row may change, and which must not?",
        "Sorted, every row has the same entries as before, and its largest is still in place.",
    ),
    "chosen_by_test": (
        "Make up the errors of three epochs so that validation and test disagree.",
        "Change the test errors only: the chosen epoch must stay.",
    ),
}
