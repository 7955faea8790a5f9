"""kdlib/_checks.py: what a bad argument is told, asked of the functions that check theirs with it."""

import math
import re

import numpy as np
import pytest
import torch

import kdlib as kd
from kdlib._checks import sizes, some_classes
from kdlib.losses import cross_entropy

Z, Y = torch.zeros(2, 3), torch.tensor([0, 2])
MAPS = torch.zeros(2, 3, 4, 4)
MATRIX = torch.zeros(3, 4, 4)
GENERATOR = torch.Generator()

of_pairs = pytest.mark.parametrize(
    "loss",
    [
        kd.soft_target_loss,
        kd.logit_matching_loss,
        lambda s, t: kd.hinton_loss(s, t, Y, 4, 0.5),
        lambda s, t: kd.gradient_terms(s, t, Y),
        lambda s, t: kd.cwtm_loss(s, t, Y),
        lambda s, t: kd.dkpp_loss(s, t, GENERATOR),
    ],
    ids=["soft", "matching", "hinton", "terms", "cwtm", "dkpp"],
)


def refused(error, message, *calls):
    for call in calls:
        with pytest.raises(error, match=message):
            call()


@pytest.mark.parametrize("T", [0, -1.0, math.nan, math.inf, np.float32("inf")])
def test_temperature_must_be_positive_and_finite(T):
    refused(
        ValueError,
        rf"temperature must be positive and finite, got {T};",
        lambda: kd.soften(Z, T),
        lambda: kd.soft_target_loss(Z, Z, T),
        lambda: kd.hinton_loss(Z, Z, Y, T, 0.5),
    )


@pytest.mark.parametrize("value", ["4", None, [4.0], 4j])
def test_temperature_and_alpha_must_be_numbers(value):
    wording = re.escape(f"must be a number, got {value!r}")
    refused(TypeError, f"temperature {wording}", lambda: kd.soft_target_loss(Z, Z, value))
    refused(TypeError, f"alpha {wording}", lambda: kd.hinton_loss(Z, Z, Y, 4, value))


@pytest.mark.parametrize("value", [-0.1, 1.01, math.nan, math.inf])
def test_alpha_and_label_smoothing_must_be_fractions(value):
    alpha = rf"alpha must be in \[0, 1\], got {value}; it weighs the soft targets"
    refused(ValueError, alpha, lambda: kd.hinton_loss(Z, Z, Y, 4, value))
    smoothing = rf"label_smoothing must be in \[0, 1\], got {value}"
    refused(ValueError, smoothing, lambda: cross_entropy(Z, Y, label_smoothing=value))


def test_tensors_of_temperatures_and_alphas_must_broadcast():
    wording = r" must be a number or broadcast against the leading dimensions \(2,\) .*\(5,\)"
    five = torch.ones(5)
    refused(
        ValueError,
        "temperature" + wording,
        lambda: kd.soft_target_loss(Z, Z, five),
        lambda: kd.soften(Z, five),
    )
    refused(ValueError, "alpha" + wording, lambda: kd.hinton_loss(Z, Z, Y, 4, five))


@of_pairs
def test_student_and_teacher_must_have_one_shape(loss):
    classes = "it has 4, the student 3; .* class by class"
    refused(ValueError, classes, lambda: loss(Z, torch.zeros(2, 4)))
    for shape, text in (((1, 3), r"\(1, 3\)"), ((3,), r"\(3,\)"), ((2, 2, 3), r"\(2, 2, 3\)")):
        wording = rf"student's shape \(2, 3\), got {text}"
        refused(ValueError, wording, lambda shape=shape: loss(Z, torch.zeros(shape)))


@of_pairs
@pytest.mark.parametrize(
    "logits, found", [(torch.zeros(2, 3, dtype=torch.int64), "torch.int64"), ([[1.0]], "list")]
)
def test_logits_must_be_floating_point_tensors(loss, logits, found):
    wording = f" must be a floating-point .*, got {found}"
    refused(TypeError, "student" + wording, lambda: loss(logits, Z))
    refused(TypeError, "teacher" + wording, lambda: loss(Z, logits))
    tensor = torch.tensor(0.5)  # a tensor of alphas takes the logits' dtype
    refused(TypeError, "student" + wording, lambda: kd.hinton_loss(logits, Z, Y, 4, tensor))
    refused(TypeError, "logits" + wording, lambda: kd.soften(logits))


@pytest.mark.parametrize("shape", [(0, 3), (2, 0), ()])
def test_logits_must_not_be_empty(shape):
    empty = torch.zeros(shape)
    refused(
        ValueError,
        "at least one row of at least one class, got shape",
        lambda: kd.soft_target_loss(empty, empty),
        lambda: kd.logit_matching_loss(empty, empty),
        lambda: kd.soften(empty),
        lambda: cross_entropy(empty, torch.zeros(shape[:-1], dtype=torch.int64)),
    )


@pytest.mark.parametrize(
    "loss",
    [
        cross_entropy,
        lambda s, y: cross_entropy(s, y, label_smoothing=0.1),
        lambda s, y: kd.hinton_loss(s, s, y, 4, 0.5),
        lambda s, y: kd.cwtm_loss(s, s, y),
        lambda s, y: kd.gradient_terms(s, s, y),
    ],
    ids=["hard", "smoothed", "hinton", "cwtm", "terms"],
)
def test_labels_must_be_class_numbers_one_per_row(loss):
    for label in (3, -1, -100, -(2**31) - 1):
        wording = f"class numbers from 0 to 2, got {label}"
        refused(ValueError, wording, lambda label=label: loss(Z, torch.tensor([0, label])))
    for labels, found in ((Y.float(), "torch.float32"), (Y.int(), "torch.int32"), ([0, 1], "list")):
        wording = f"labels must be an int64 tensor .*, got {found}"
        refused(TypeError, wording, lambda labels=labels: loss(Z, labels))
    for labels in (torch.tensor([0]), torch.zeros(2, 3, dtype=torch.int64), torch.tensor(0)):
        wording = r"labels must have the leading dimensions \(2,\)"
        refused(ValueError, wording, lambda labels=labels: loss(Z, labels))


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: kd.hint_loss(MAPS, MAPS[:1]), ValueError, r"have the hint's shape \(1, 3, 4, 4\)"),
        (lambda: kd.hint_loss(MAPS.long(), MAPS), TypeError, "guided must be a floating.*int64"),
        (lambda: kd.hint_loss(MAPS, [1]), TypeError, "hint must be a floating.*list"),
        (lambda: kd.hint_loss(Z[0], Z[0]), ValueError, r"guided must be features"),
        (lambda: kd.hint_loss(MAPS[:0], MAPS[:0]), ValueError, "not empty, got shape"),
        (lambda: kd.hint_loss(MAPS, MAPS, reduction="sum"), ValueError, 'reduction must be "mean"'),
        (lambda: kd.fsp_matrix(MAPS, MAPS[:1]), ValueError, "of the same N examples"),
        (lambda: kd.fsp_matrix(MATRIX, MATRIX), ValueError, r"first must be maps \(N, C, H, W\)"),
        (lambda: kd.fsp_matrix(MAPS, "x"), TypeError, "second must be a floating.*str"),
        (lambda: kd.fsp_matrix(MAPS[:0], MAPS[:0]), ValueError, "not empty, got shape"),
        (
            lambda: kd.fsp_matrix(MAPS[..., :2], MAPS[..., :2, :]),
            ValueError,
            "first is 4 x 2, second 2 x 4",
        ),
        (lambda: kd.fsp_loss(MATRIX, [MATRIX]), TypeError, "student_matrices must be a list"),
        (lambda: kd.fsp_loss([MATRIX], MATRIX), TypeError, "teacher_matrices must be a list"),
        (lambda: kd.fsp_loss([MATRIX], []), ValueError, "got 1 and 0"),
        (lambda: kd.fsp_loss([], []), ValueError, "at least one, got 0 and 0"),
        (
            lambda: kd.fsp_loss([MATRIX, MATRIX[:, :2]], [MATRIX, MATRIX]),
            ValueError,
            r"student_matrices\[1\] must be.*equal widths",
        ),
        (
            lambda: kd.fsp_loss([MATRIX, MATRIX[:1]], [MATRIX, MATRIX[:1]]),
            ValueError,
            "of the same examples, got 3 and 1",
        ),
        (lambda: kd.fsp_loss([MAPS], [MAPS]), ValueError, r"must be \(N, C1, C2\)"),
        (lambda: kd.fsp_loss([MATRIX.int()], [MATRIX]), TypeError, r"student_matrices\[0\].*int32"),
        (
            lambda: kd.fsp_loss([MATRIX], [MATRIX], [1, 1]),
            ValueError,
            "weights must be a list of 1",
        ),
        (lambda: kd.fsp_loss([MATRIX], [MATRIX], 0.5), ValueError, "weights must be a list of 1"),
        (lambda: kd.fsp_loss([MATRIX], [MATRIX], [-1]), ValueError, "weights must be at least 0"),
        (lambda: kd.fsp_loss([MATRIX], [MATRIX], [math.inf]), ValueError, "and finite"),
        (lambda: kd.fsp_loss([MATRIX], [MATRIX], ["1"]), TypeError, "weights must be a number"),
        (lambda: kd.fsp_loss([MATRIX], [MATRIX], reduction="x"), ValueError, "reduction must be"),
        (lambda: kd.permute_dark_knowledge(Z, 0), TypeError, "must be a torch.Generator, got int"),
        (lambda: sizes(width=0), ValueError, "width must be a whole number of at least 1, got 0"),
        (lambda: sizes(depth=True), ValueError, "depth must be .*, got True"),
        (lambda: some_classes("3", 10, once=False), ValueError, "from 0 to 9, got '3'"),
        (lambda: some_classes(3.0, 10, once=False), TypeError, r"got 3.0; one alone is 3 or \[3\]"),
        (lambda: some_classes([3, 10], 10, once=False), ValueError, "from 0 to 9, got 10"),
        (lambda: some_classes([], 10, once=False), ValueError, "some of the 10, not all"),
        (lambda: some_classes(range(10), 10, once=False), ValueError, "some of the 10, not all"),
        (lambda: some_classes([3, 3], 10, once=True), ValueError, r"each once, got \[3, 3\]"),
    ],
)
def test_a_bad_argument_is_named(call, error, message):
    refused(error, message, call)


def test_some_classes_may_be_one_number_any_numbers_or_repeated_where_that_is_allowed():
    assert some_classes(3, 10, once=True) == [3]
    assert some_classes(np.array([3, 5]), 10, once=True) == [3, 5]
    assert some_classes((3, 3), 10, once=False) == [3, 3]
    sizes(width=1, depth=np.int64(2))
