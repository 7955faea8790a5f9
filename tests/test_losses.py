"""The oracles are written from the definitions: in numpy's and scipy's float64, and where that is not enough
in decimal arithmetic of 60 digits.
"""

import math
from decimal import Decimal, localcontext
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, rel_entr, softmax

import kdlib as kd
from kdlib.losses import cross_entropy

close = torch.testing.assert_close
many_cases = settings(deadline=None, max_examples=40, derandomize=True)
LN2 = math.log(2)


def normal(*shape, seed=0, scale=1.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=generator, dtype=torch.float64) * scale).to(dtype)


def pair(*shape, scale=3.0, dtype=torch.float64):
    return tuple(normal(*shape, seed=seed, scale=scale, dtype=dtype) for seed in (0, 1))


def labels_for(logits):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(logits.shape[-1], logits.shape[:-1], generator=generator)


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


def student_gradient(loss, student, *rest):
    student = student.detach().clone().requires_grad_()
    loss(student, *rest).backward()
    return student.grad


# Oracles: (s, t, y) in float64, one value per example


def soft_of(s, t, y, T=3):
    """T^2 * sum_i p_i log(p_i / q_i)."""
    return T**2 * rel_entr(softmax(t / T, -1), softmax(s / T, -1)).sum(-1)


def hard_of(s, t, y, smoothing=0.0):
    """-sum_i y_i log q_i, y one-hot or smoothed."""
    classes = s.shape[-1]
    target = smoothing / classes + (1 - smoothing) * np.eye(classes)[y]
    return -(target * log_softmax(s, -1)).sum(-1)


LOSSES = {
    "soft": lambda s, t, y, **o: kd.soft_target_loss(s, t, 3, **o),
    "hinton": lambda s, t, y, **o: kd.hinton_loss(s, t, y, 3, 0.7, **o),
    "matching": lambda s, t, y, **o: kd.logit_matching_loss(s, t, **o),
    "hard": lambda s, t, y, **o: cross_entropy(s, y, **o),
    "smoothed": lambda s, t, y, **o: cross_entropy(s, y, label_smoothing=0.2, **o),
}
ORACLES = {
    "soft": soft_of,
    "hinton": lambda s, t, y: 0.7 * soft_of(s, t, y) + 0.3 * hard_of(s, t, y),
    "matching": lambda s, t, y: np.var(s - t, axis=-1) / 2,  # the variance centres s - t
    "hard": hard_of,
    "smoothed": lambda s, t, y: hard_of(s, t, y, smoothing=0.2),
}
every_loss = pytest.mark.parametrize("name", LOSSES)


def oracle(name, student, teacher, labels):
    s, t = student.double().numpy(), teacher.double().numpy()
    return torch.tensor(ORACLES[name](s, t, labels.numpy()))


def exact(formula, student, teacher, T):
    """The formula row by row in decimal arithmetic of 60 digits, rounded to float64."""
    with localcontext() as context:
        context.prec = 60
        rows = [
            formula(*([Decimal(x) for x in row] for row in rows), Decimal(T))
            for rows in zip(student.tolist(), teacher.tolist(), strict=True)
        ]
    return torch.tensor(np.array(rows, dtype=float))


def exact_softmax(row, T):
    powers = [(value / T).exp() for value in row]
    return [power / sum(powers) for power in powers]


def exact_soft(s, t, T):
    q, p = exact_softmax(s, T), exact_softmax(t, T)
    return T * T * sum(a * (a / b).ln() for a, b in zip(p, q, strict=True))


def exact_gradient(s, t, T):
    """T * (q - p)."""
    q, p = exact_softmax(s, T), exact_softmax(t, T)
    return [T * (b - a) for a, b in zip(p, q, strict=True)]


# Values


def test_soft_target_and_hinton_loss_by_hand():
    # At T = 2 the teacher's (ln 16, 0) becomes p = (4/5, 1/5), the student's (0, 0) q = (1/2, 1/2).
    # KL = 4/5 ln(8/5) + 1/5 ln(2/5) = 13/5 ln 2 - ln 5; the student's cross entropy is ln 2.
    teacher = torch.tensor([[4 * LN2, 0.0]], dtype=torch.float64)
    student, soft = torch.zeros_like(teacher), 4 * (13 / 5 * LN2 - math.log(5))
    assert kd.soft_target_loss(student, teacher, 2).item() == pytest.approx(soft, rel=1e-12)
    loss = kd.hinton_loss(student, teacher, torch.tensor([1]), temperature=2, alpha=0.75)
    assert loss.item() == pytest.approx(0.75 * soft + 0.25 * LN2, rel=1e-12)


def test_logit_matching_loss_by_hand():
    # s - t = (4, 0, -1), its mean 1, centred (3, -1, -2): 1/2 * (9 + 1 + 4) / 3 = 7/3
    student, teacher = torch.tensor([[5.0, 2.0, 0.0]]), torch.tensor([[1.0, 2.0, 1.0]])
    assert kd.logit_matching_loss(student, teacher).item() == pytest.approx(7 / 3)


@every_loss
@pytest.mark.parametrize("shape", [(4,), (5, 4), (2, 3, 4), (1, 2), (2, 100)])
def test_value_is_the_definitions_for_any_leading_dimensions(name, shape):
    student, teacher = pair(*shape)
    labels = labels_for(student)
    expected = oracle(name, student, teacher, labels)
    close(LOSSES[name](student, teacher, labels, reduction="none"), expected)
    close(LOSSES[name](student, teacher, labels), expected.mean())


ONE_CLASS = {
    **LOSSES,
    "gradient_terms": kd.gradient_terms,
    "cwtm": kd.cwtm_loss,
    "dkpp": lambda s, t, y: kd.dkpp_loss(s, t, draws()),
    "hinton_terms": lambda s, t, y: kd.hinton_terms(s, t, y, 4, 0.5),
}


@pytest.mark.parametrize("name", ONE_CLASS)
@pytest.mark.parametrize("shape", [(3, 1), (1,), (2, 3, 1)])
def test_one_class_is_refused_with_the_reason(name, shape):
    student, teacher = pair(*shape)
    with pytest.raises(ValueError, match=r"at least two classes.*always 1.*two outputs"):
        ONE_CLASS[name](student, teacher, labels_for(student))


@pytest.mark.parametrize("T", [0.5, 1, 4, 20])
def test_softened_logits_are_the_definitions(T):
    logits = normal(3, 4, scale=3)
    close(kd.soften(logits, T), torch.tensor(softmax(logits.numpy() / T, -1)))
    close(kd.soften(logits), kd.soften(logits, 1))


@pytest.mark.parametrize("alpha", [0, 1e-6, 1e-2, 0.5, 1])
def test_alpha_weighs_the_soft_targets_and_one_minus_alpha_the_labels(alpha):
    student, teacher = pair(6, 5)
    labels = labels_for(student)
    s, t, y = student.numpy(), teacher.numpy(), labels.numpy()
    soft = torch.tensor(alpha * soft_of(s, t, y, T=20))
    hard = torch.tensor((1 - alpha) * hard_of(s, t, y))
    close(kd.hinton_terms(student, teacher, labels, 20, alpha), (soft, hard), rtol=1e-6, atol=1e-14)
    loss = kd.hinton_loss(student, teacher, labels, 20, alpha)
    close(loss, (soft + hard).mean(), rtol=1e-9, atol=0)


@pytest.mark.parametrize("T", [1, 4, 20, 200, 2000])
@pytest.mark.parametrize("apart", [1e-3, 1.0, 10.0], ids=lambda apart: f"apart by {apart}")
def test_float32_keeps_four_digits_however_small_the_value(T, apart):
    teacher, noise = pair(16, 10, dtype=torch.float32)
    student = teacher + apart * noise / 3
    value = kd.soft_target_loss(student, teacher, T, reduction="none")
    assert value.dtype == torch.float32
    close(value.double(), exact(exact_soft, student, teacher, T), rtol=1e-4, atol=0)
    gradient = student_gradient(kd.soft_target_loss, student, teacher, T)
    expected = exact(exact_gradient, student, teacher, T) / 16
    close(gradient.double(), expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


def test_high_temperature_is_logit_matching():
    student, teacher = pair(6, 10)
    matching = kd.logit_matching_loss(student, teacher)
    centred = student_gradient(kd.logit_matching_loss, student, teacher)
    distances = []
    for T in (100, 1000, 10_000):
        close(kd.soft_target_loss(student, teacher, T), matching, rtol=30 / T, atol=0)
        gradient = student_gradient(kd.soft_target_loss, student, teacher, T)
        distances.append(((gradient - centred).norm() / centred.norm()).item())
    assert distances[0] < 0.1
    for near, nearer in pairwise(distances):
        assert nearer == pytest.approx(near / 10, rel=0.2)  # the distance falls as 1 / T
    uncentred = (student - teacher) / 60
    assert ((uncentred - centred).norm() / centred.norm()).item() > 0.1
    narrow = kd.soft_target_loss(student.float(), teacher.float(), 1e6)
    close(narrow.double(), matching, rtol=1e-4, atol=0)


def test_a_rare_class_counts_where_its_exponential_overflows():
    # p = (1 - e^-92, e^-92) and q = (1 - e^-22, e^-22) nearly: the divergence is close to e^-22
    teacher, student = torch.tensor([[0.0, -92.0]]), torch.tensor([[0.0, -22.0]])
    value = kd.soft_target_loss(student, teacher, reduction="none")
    close(value.double(), exact(exact_soft, student, teacher, 1), rtol=1e-4, atol=0)


EXTREME = torch.tensor([[1e4, -1e4, 0], [0, 1e4, -1e4], [-1e4, -1e4, 1e4]])


@pytest.mark.parametrize("T", [0.01, 1, 20, 2000])
def test_extreme_logits_stay_right_at_every_temperature(T):
    value = kd.soft_target_loss(EXTREME, -EXTREME, T, reduction="none")
    close(value.double(), exact(exact_soft, EXTREME, -EXTREME, T), rtol=1e-4, atol=0)
    gradient = student_gradient(kd.soft_target_loss, EXTREME, -EXTREME, T)
    expected = exact(exact_gradient, EXTREME, -EXTREME, T) / 3
    close(gradient.double(), expected, rtol=1e-4, atol=1e-30)


@every_loss
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_extreme_logits_have_a_finite_value_and_gradient(name, dtype):
    student, labels = EXTREME.to(dtype), torch.tensor([1, 2, 0])
    assert 100 < LOSSES[name](student, -student, labels) < math.inf
    assert student_gradient(LOSSES[name], student, -student, labels).isfinite().all()


@every_loss
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_computed_in_float32(name, dtype):
    student, teacher = pair(6, 10, dtype=dtype)
    labels = labels_for(student)
    value = LOSSES[name](student, teacher, labels)
    assert value.dtype == kd.soften(student, 2).dtype == torch.float32
    close(value.double(), oracle(name, student, teacher, labels).mean(), rtol=1e-5, atol=0)


def test_a_wide_student_is_compared_with_a_narrow_teacher_in_the_wider_dtype():
    student, teacher = pair(5, 4)
    narrow = teacher.float()
    expected = kd.soft_target_loss(student, narrow.double(), 3)
    close(kd.soft_target_loss(student, narrow, 3), expected, rtol=1e-14, atol=0)
    assert kd.soft_target_loss(student.float(), narrow.double(), 3).dtype == torch.float64


# Properties


numbers = st.floats(-30, 30, width=32)
temperatures = st.floats(0.1, 2000)


@st.composite
def logit_pairs(draw, dtype=torch.float64):
    n, classes = draw(st.integers(1, 4)), draw(st.integers(2, 6))
    one = st.lists(numbers, min_size=n * classes, max_size=n * classes)
    return tuple(torch.tensor(draw(one), dtype=dtype).reshape(n, classes) for _ in range(2))


@many_cases
@given(logit_pairs(torch.float32), temperatures)
def test_soft_target_loss_is_never_negative_and_exactly_zero_where_both_agree(logits, T):
    student, teacher = logits
    assert kd.soft_target_loss(student, teacher, T, reduction="none").min() >= 0
    assert kd.soft_target_loss(teacher.clone(), teacher, T).item() == 0
    assert student_gradient(kd.soft_target_loss, teacher, teacher, T).count_nonzero() == 0


@pytest.mark.parametrize("scale", [50, 200, 1e4])
@pytest.mark.parametrize("T", [0.5, 1, 4, 20])
def test_soft_target_loss_is_never_negative_where_exponentials_overflow(scale, T):
    teacher, other = pair(5000, 5, scale=scale, dtype=torch.float32)
    kept = torch.rand(teacher.shape, generator=draws(1)) < 0.7
    shift = torch.randn(5000, 1, generator=draws(2)) * scale
    student = torch.where(kept, teacher, other) + shift
    assert kd.soft_target_loss(student, teacher, T, reduction="none").min() >= 0


@many_cases
@given(logit_pairs(), temperatures, numbers, numbers)
def test_a_constant_added_to_all_logits_changes_nothing(logits, T, c, e):
    student, teacher = logits
    for loss in (lambda s, t: kd.soft_target_loss(s, t, T), kd.logit_matching_loss):
        close(loss(student + c, teacher + e), loss(student, teacher), rtol=1e-6, atol=1e-9)


@many_cases
@given(logit_pairs(), temperatures)
def test_gradient_of_the_soft_target_loss_is_T_times_q_minus_p_over_N(logits, T):
    s, t = (x.numpy() / T for x in logits)
    expected = torch.tensor(T * (softmax(s, -1) - softmax(t, -1)) / len(s))
    close(student_gradient(kd.soft_target_loss, *logits, T), expected, rtol=1e-6, atol=1e-9)


@every_loss
def test_gradient_is_that_of_the_value(name):
    student, teacher = pair(3, 4)
    labels = labels_for(student)
    assert torch.autograd.gradcheck(
        lambda s: LOSSES[name](s, teacher, labels), student.requires_grad_()
    )


@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_finite_gradients_reach_the_student_and_never_the_teacher(scale):
    labels = torch.tensor([0, 1, 2])
    on_logits = {
        "soft": lambda s, t: kd.soft_target_loss(s, t, 2),
        "hinton": lambda s, t: kd.hinton_loss(s, t, labels, 2, 0.5),
        "matching": kd.logit_matching_loss,
        "cwtm": lambda s, t: kd.cwtm_loss(s, t, labels),
        "dkpp": lambda s, t: kd.dkpp_loss(s, t, draws()),
        "hint": kd.hint_loss,
        "fsp": lambda s, t: kd.fsp_loss([s[..., None]], [t[..., None]]),
    }
    for name, loss in on_logits.items():
        student, teacher = (x.requires_grad_() for x in pair(3, 4, scale=scale))
        loss(student, teacher).backward()
        assert teacher.grad is None, name
        assert student.grad.isfinite().all() and student.grad.any(), name
    for constant in (*kd.gradient_terms(student, teacher, labels), kd.cwtm_weights(teacher)):
        assert not constant.requires_grad
    assert not kd.permute_dark_knowledge(teacher, draws()).requires_grad


# Numbers and tensors of temperatures and alphas


@pytest.mark.parametrize(
    ("rows", "shape"),
    [((3, 5), ()), ((3, 5), (5,)), ((3, 5), (3, 1)), ((3, 5), (3, 5)), ((5,), (3, 1))],
)
def test_temperature_and_alpha_may_be_tensors_that_broadcast(rows, shape):
    student, teacher = pair(*rows, 4)
    labels = labels_for(student)
    T, alpha = 1 + 20 * torch.rand(shape, generator=draws()), torch.rand(shape, generator=draws(1))
    value = kd.hinton_loss(student, teacher, labels, T, alpha, reduction="none")
    softened = kd.soften(student, T)
    assert value.shape == (3, 5)
    each_T, each_alpha = T.expand(3, 5), alpha.expand(3, 5)
    for place in np.ndindex(3, 5):
        row = place[-len(rows) :]  # shared by all temperatures where there are more of them
        numbers = each_T[place].item(), each_alpha[place].item()
        own = kd.hinton_loss(student[row], teacher[row], labels[row], *numbers)
        close(value[place], own)
        close(softened[place], kd.soften(student[row], numbers[0]))


def test_tensors_of_numbers_keep_their_digits_and_the_losses_dtype():
    student, teacher = pair(6, 4, dtype=torch.bfloat16)
    labels = labels_for(student)
    expected = kd.hinton_loss(student, teacher, labels, 4, 0.9)
    for dtype in (torch.float32, torch.float64):
        T, alpha = (torch.tensor(number, dtype=dtype) for number in (4, 0.9))
        close(kd.hinton_loss(student, teacher, labels, T, alpha), expected)
        assert kd.soften(student, T).dtype == torch.float32


@pytest.mark.parametrize("number", [np.float32(4), np.float64(4), np.int64(4), 4])
def test_numbers_of_numpy_are_numbers(number):
    student, teacher = pair(3, 4)
    labels = labels_for(student)
    expected = kd.hinton_loss(student, teacher, labels, 4.0, 0.5)
    close(kd.hinton_loss(student, teacher, labels, number, np.float64(0.5)), expected)


@every_loss
def test_vmap_gives_the_rows_one_by_one(name):
    student, teacher = pair(5, 4)
    labels = labels_for(student)
    rows = torch.func.vmap(LOSSES[name])(student, teacher, labels)
    close(rows, LOSSES[name](student, teacher, labels, reduction="none"))


def test_vmap_over_temperatures_alphas_and_gradients():
    student, teacher = pair(5, 4)
    labels = labels_for(student)
    T, alpha = torch.tensor([1.0, 4.0]), torch.tensor([0.25, 0.75])
    gradients = torch.func.vmap(torch.func.grad(kd.hinton_loss), in_dims=(None, None, None, 0, 0))
    for i, row in enumerate(gradients(student, teacher, labels, T, alpha)):
        numbers = T[i].item(), alpha[i].item()
        close(row, student_gradient(kd.hinton_loss, student, teacher, labels, *numbers))


def test_losses_compile_without_a_graph_break_for_a_sweep_of_numbers_and_tensors():
    compiled = torch.compile(kd.hinton_loss, fullgraph=True, backend="eager")
    student, teacher = pair(5, 4)
    labels = labels_for(student)
    for T, alpha in [(1.5, 0.1), (2.5, 0.2), (20, 0.9), (torch.tensor([[1.0], [8.0]]), 0.5)]:
        expected = kd.hinton_loss(student, teacher, labels, T, alpha)
        close(compiled(student, teacher, labels, T, alpha), expected)
    matching = torch.compile(kd.logit_matching_loss, fullgraph=True, backend="eager")
    close(matching(student, teacher), kd.logit_matching_loss(student, teacher))


# Features


def fsp_oracle(first, second):
    """Max-pooled window by window where one size is a multiple of the other, then an einsum."""
    first, second = first.double().numpy(), second.double().numpy()
    height, width = (min(first.shape[i], second.shape[i]) for i in (2, 3))
    windows = (
        x.reshape(*x.shape[:2], height, x.shape[2] // height, width, x.shape[3] // width)
        for x in (first, second)
    )
    first, second = (x.max(axis=(3, 5)) for x in windows)
    return torch.tensor(np.einsum("nihw,njhw->nij", first, second) / (height * width))


def test_hint_loss_by_hand():
    # example 1: 1/2 (2^2 + 1^2) = 5/2; example 2: 1/2 (3^2) = 9/2; their mean is 7/2
    guided = torch.tensor([[1.0, 2.0], [0.0, 1.0]])
    hint = torch.tensor([[3.0, 1.0], [0.0, 4.0]])
    close(kd.hint_loss(guided, hint), torch.tensor(3.5))
    close(kd.hint_loss(guided, hint, reduction="none"), torch.tensor([2.5, 4.5]))
    assert kd.hint_loss(hint, hint) == 0


@many_cases
@given(st.lists(st.integers(1, 4), min_size=2, max_size=4), st.integers(0, 99))
def test_hint_loss_sums_over_all_features_of_an_example(shape, seed):
    guided, hint = normal(*shape, seed=seed), normal(*shape, seed=seed + 100)
    by_hand = [((g - h) ** 2).sum() / 2 for g, h in zip(guided.numpy(), hint.numpy(), strict=True)]
    close(kd.hint_loss(guided, hint, reduction="none"), torch.tensor(np.array(by_hand)))
    close(kd.hint_loss(guided, hint), torch.tensor(np.mean(by_hand)))


def test_fsp_matrix_by_hand():
    # The 4 x 4 map's four windows have the largest values 4, 2, 0, 1; an average would give others.
    rows = [[1, 2, 2, 2], [3, 4, 2, 2], [0, 0, 1, 1], [0, -5, 1, -9]]
    first = torch.tensor([[rows]], dtype=torch.float64)
    second = torch.tensor([[[[1, 0], [1, 2]], [[0, 0], [0, 8]]]], dtype=torch.float64)
    # (4 * 1 + 2 * 0 + 0 * 1 + 1 * 2) / 4 and (1 * 8) / 4
    close(kd.fsp_matrix(first, second), torch.tensor([[[1.5, 2.0]]], dtype=torch.float64))
    close(kd.fsp_matrix(second, first), torch.tensor([[[1.5], [2.0]]], dtype=torch.float64))


SIZES = [
    ((1, 3, 4, 4), (1, 5, 4, 4)),
    ((1, 1, 1, 1), (1, 1, 1, 1)),
    ((3, 2, 8, 8), (3, 7, 4, 4)),
    ((3, 7, 2, 6), (3, 2, 4, 6)),
    ((2, 4, 12, 4), (2, 3, 3, 2)),
    ((5, 16, 7, 7), (5, 32, 7, 7)),
]


@pytest.mark.parametrize("one, other", SIZES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_fsp_matrix_is_the_einsum_in_float64_and_float32_or_wider(one, other, dtype):
    maps = normal(*one, dtype=dtype), normal(*other, seed=1, dtype=dtype)
    found, digits = kd.fsp_matrix(*maps), 1e-12 if dtype == torch.float64 else 1e-5
    assert found.dtype == torch.promote_types(dtype, torch.float32)
    close(found.double(), fsp_oracle(*maps), rtol=digits, atol=digits)


@pytest.mark.parametrize("one, other", [((2, 2, 4, 4), (2, 3, 2, 2)), ((2, 2, 1, 3), (2, 1, 2, 3))])
def test_gradients_of_matrix_and_losses_are_those_of_the_value(one, other):
    first, second = normal(*one).requires_grad_(), normal(*other, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(kd.fsp_matrix, (first, second))
    teacher, hint = kd.fsp_matrix(first, second).detach().flip(1) + 1, first.detach().flip(0)
    loss = lambda f, s: kd.fsp_loss([kd.fsp_matrix(f, s)], [teacher], [0.3]) + kd.hint_loss(f, hint)
    assert torch.autograd.gradcheck(loss, (first, second))


def test_pooling_windows_overlap_where_sizes_are_not_multiples():
    first = torch.arange(7.0).view(1, 1, 1, 7)
    second = torch.eye(3).view(1, 3, 1, 3)  # reads the three windows: 0 to 2, 2 to 4, 4 to 6
    close(3 * kd.fsp_matrix(first, second), torch.tensor([[[2.0, 4.0, 6.0]]]))


def test_fsp_matrix_keeps_its_precision_within_autocast():
    first, second = (normal(2, 8, 6, 6, seed=s, dtype=torch.float32) for s in (0, 1))
    with torch.autocast("cpu", torch.bfloat16):
        found = kd.fsp_matrix(first, second)
    close(found, fsp_oracle(first, second).float())


def test_fsp_loss_is_the_mean_over_examples_of_weighted_squared_norms():
    student = [normal(3, 2, 4), normal(3, 4, 1, seed=1)]
    teacher = [normal(3, 2, 4, seed=2), normal(3, 4, 1, seed=3)]
    distances = [
        np.linalg.norm((s - t).numpy(), axis=(1, 2)) ** 2
        for s, t in zip(student, teacher, strict=True)
    ]
    expected = torch.tensor(0.5 * distances[0] + 2 * distances[1])
    close(kd.fsp_loss(student, teacher, [0.5, 2], reduction="none"), expected)
    close(kd.fsp_loss(student, teacher, [0.5, 2]), expected.mean())
    close(kd.fsp_loss(student, teacher), kd.fsp_loss(student, teacher, [1, 1]))
    assert kd.fsp_loss(student, student) == kd.fsp_loss(student, teacher, [0, 0]) == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_feature_losses_are_computed_in_float32_or_wider(dtype):
    one, other = (normal(2, 300, seed=seed, scale=30, dtype=dtype) for seed in (0, 1))
    assert kd.hint_loss(one, other).dtype == torch.float32
    assert math.isfinite(kd.hint_loss(one * 10, other * 10))
    assert kd.hint_loss(one, other.double()).dtype == torch.float64
    matrices = [one.view(2, 15, 20)], [other.view(2, 15, 20)]
    assert kd.fsp_loss(*matrices).dtype == torch.float32


def test_fsp_matrices_can_be_vmapped():
    first, second = normal(4, 3, 4, 4), normal(4, 5, 2, 2, seed=1)
    stacked = torch.func.vmap(kd.fsp_matrix)(first.view(2, 2, 3, 4, 4), second.view(2, 2, 5, 2, 2))
    close(stacked.flatten(0, 1), kd.fsp_matrix(first, second))


# Born-again networks


def probabilities(z):
    return torch.tensor(softmax(z.numpy(), -1))


@pytest.mark.parametrize("shape", [(5, 4), (2, 3, 7), (1, 2), (6,)])
def test_gradient_terms_add_up_to_the_gradient_and_split_at_the_label(shape):
    student, teacher = pair(*shape)
    labels = labels_for(student)
    truth, dark = kd.gradient_terms(student, teacher, labels)
    examples = max(1, labels.numel())
    close(truth + dark, student_gradient(kd.soft_target_loss, student, teacher, 1) * examples)
    labelled = torch.nn.functional.one_hot(labels, shape[-1]).bool()
    assert not truth[~labelled].any() and not dark[labelled].any()
    close(truth[labelled], (probabilities(student) - probabilities(teacher))[labelled])


def test_cwtm_weighs_by_shares_of_the_batch_and_its_gradient_is_w_times_q_minus_y():
    student, teacher = pair(6, 4)
    labels = labels_for(student)
    largest, q = probabilities(teacher).amax(-1), probabilities(student)
    weights, y = largest / largest.sum(), torch.nn.functional.one_hot(labels, 4)
    close(kd.cwtm_weights(teacher), weights)
    close(kd.cwtm_weights(teacher.reshape(2, 3, 4)).flatten(), weights)
    close(kd.cwtm_loss(student, teacher, labels), -(weights[:, None] * y * q.log()).sum())
    gradient = student_gradient(kd.cwtm_loss, student, teacher, labels)
    close(gradient, weights[:, None] * (q - y))


@pytest.mark.parametrize("shape", [(200, 10), (4, 5, 6), (3, 2), (3, 1), (8,)])
def test_permuted_rows_keep_their_entries_and_their_largest_in_its_place(shape):
    teacher = normal(*shape)
    permuted = kd.permute_dark_knowledge(teacher, draws())
    assert torch.equal(permuted.sort(-1).values, teacher.sort(-1).values)
    assert torch.equal(permuted.argmax(-1), teacher.argmax(-1))


def test_each_row_has_its_own_permutation_and_each_call_draws_new_ones():
    teacher, generator = torch.arange(10.0).expand(50, 10), draws()
    first, second = (kd.permute_dark_knowledge(teacher, generator) for _ in range(2))
    assert len(set(map(tuple, first.tolist()))) == 50
    assert not torch.equal(first, second)
    assert torch.equal(first, kd.permute_dark_knowledge(teacher, draws()))


def test_all_permutations_of_the_other_entries_are_equally_likely():
    teacher = torch.tensor([1.0, 9.0, 2.0, 3.0]).expand(6000, 4)
    permuted = kd.permute_dark_knowledge(teacher, draws())[:, [0, 2, 3]]
    counts = torch.unique(permuted, dim=0, return_counts=True)[1]
    assert len(counts) == 6 and (counts - 1000).abs().max() < 150  # five standard deviations


def test_among_equal_largest_entries_the_one_that_argmax_finds_stays():
    teacher = torch.tensor([[2.0, 2.0, 0.0, 1.0]])
    for seed in range(20):
        assert kd.permute_dark_knowledge(teacher, draws(seed))[0, teacher.argmax()] == 2


def test_dkpp_loss_is_the_cross_entropy_with_the_permuted_targets():
    student, teacher = pair(6, 5)
    targets, q = kd.permute_dark_knowledge(probabilities(teacher), draws()), probabilities(student)
    close(kd.dkpp_loss(student, teacher, draws()), -(targets * q.log()).sum(-1).mean())
    close(student_gradient(kd.dkpp_loss, student, teacher, draws()), (q - targets) / 6)


def test_born_again_losses_widen_half_precision():
    student, teacher = pair(4, 3, dtype=torch.bfloat16)
    labels, wide = labels_for(student), (student.float(), teacher.float())
    assert kd.cwtm_weights(teacher).dtype == torch.float32
    close(kd.cwtm_loss(student, teacher, labels), kd.cwtm_loss(*wide, labels))
    close(kd.dkpp_loss(student, teacher, draws()), kd.dkpp_loss(*wide, draws()))


@every_loss
@pytest.mark.parametrize("reduction", ["sum", "batchmean", None])
def test_an_unknown_reduction_is_refused(name, reduction):
    logits, labels = torch.zeros(2, 3), torch.tensor([0, 2])
    with pytest.raises(ValueError, match=f'"mean" or "none", got {reduction!r}'):
        LOSSES[name](logits, logits, labels, reduction=reduction)
