"""The oracle works in decimal arithmetic of 60 digits, from the definitions alone."""

import math
from decimal import Decimal, localcontext
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdlib.losses import (
    cross_entropy,
    hinton_loss,
    logit_matching_loss,
    soft_target_loss,
    soften,
)

many_cases = settings(deadline=None, max_examples=40, derandomize=True)


def softmax_of(row, T=1):
    powers = [(value / T).exp() for value in row]
    return [power / sum(powers) for power in powers]


def soft_of(z, v, T):
    """T^2 * sum_i p_i log(p_i / q_i)."""
    p, q = softmax_of(v, T), softmax_of(z, T)
    return T * T * sum(a * (a / b).ln() for a, b in zip(p, q, strict=True))


def soft_gradient_of(z, v, T):
    """T * (q - p)."""
    p, q = softmax_of(v, T), softmax_of(z, T)
    return [T * (b - a) for a, b in zip(p, q, strict=True)]


def matching_of(z, v):
    """1/2 * mean of the squared difference, both zero-meaned."""
    z, v = ([value - sum(row) / len(row) for value in row] for row in (z, v))
    return sum((a - b) ** 2 for a, b in zip(z, v, strict=True)) / (2 * len(z))


def hard_of(z, label, smoothing=Decimal(0)):
    """-sum_i y_i log q_i, y one-hot or smoothed."""
    q = softmax_of(z)
    y = [smoothing / len(z) + (1 - smoothing) * (i == label) for i in range(len(z))]
    return -sum(a * b.ln() for a, b in zip(y, q, strict=True))


def oracle(formula, *tensors, **numbers):
    """The formula row by row, in float64, whatever leading dimensions the tensors have."""
    lead = tensors[0].shape[:-1]
    numbers = {name: Decimal(float(value)) for name, value in numbers.items()}
    with localcontext() as context:
        context.prec = 60
        rows = [
            formula(
                *(
                    [Decimal(x) for x in t[place].tolist()]
                    if t.is_floating_point()
                    else int(t[place])
                    for t in tensors
                ),
                **numbers,
            )
            for place in np.ndindex(*lead)
        ]
    values = torch.tensor(np.array(rows, dtype=float))
    return values.reshape((*lead, *values.shape[1:]))


def pair(*shape, scale=3.0, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return tuple(
        (torch.randn(shape, generator=generator, dtype=torch.float64) * scale).to(dtype)
        for _ in range(2)
    )


def labels_for(logits, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(logits.shape[-1], logits.shape[:-1], generator=generator)


def student_gradient(loss, student, *rest, **options):
    student = student.detach().clone().requires_grad_()
    loss(student, *rest, **options).backward()
    return student.grad


close = torch.testing.assert_close
LOSSES = {
    "soft": lambda z, v, y, **o: soft_target_loss(z, v, 3, **o),
    "hinton": lambda z, v, y, **o: hinton_loss(z, v, y, 3, 0.7, **o),
    "matching": lambda z, v, y, **o: logit_matching_loss(z, v, **o),
    "hard": lambda z, v, y, **o: cross_entropy(z, y, **o),
    "smoothed": lambda z, v, y, **o: cross_entropy(z, y, label_smoothing=0.2, **o),
}
ORACLES = {
    "soft": lambda z, v, y: oracle(soft_of, z, v, T=3),
    "hinton": lambda z, v, y: 0.7 * oracle(soft_of, z, v, T=3) + 0.3 * oracle(hard_of, z, y),
    "matching": lambda z, v, y: oracle(matching_of, z, v),
    "hard": lambda z, v, y: oracle(hard_of, z, y),
    "smoothed": lambda z, v, y: oracle(hard_of, z, y, smoothing=0.2),
}
every_loss = pytest.mark.parametrize("name", LOSSES)


LN2, LN3 = math.log(2), math.log(3)


def test_softened_logits_by_hand():
    # exp(ln 3) : exp(0) = 3 : 1, and at T = 2 it is sqrt 3 : 1
    logits = torch.tensor([LN3, 0.0], dtype=torch.float64)
    close(soften(logits), torch.tensor([3 / 4, 1 / 4], dtype=torch.float64))
    root = math.sqrt(3)
    close(
        soften(logits, 2),
        torch.tensor([root / (root + 1), 1 / (root + 1)], dtype=torch.float64),
    )


def test_soft_target_loss_by_hand():
    # At T = 2 the teacher's (ln 16, 0) becomes p = (4/5, 1/5), the student's (0, 0) q = (1/2, 1/2).
    # KL = 4/5 ln(8/5) + 1/5 ln(2/5) = 4/5 (3 ln 2 - ln 5) + 1/5 (ln 2 - ln 5) = 13/5 ln 2 - ln 5
    teacher = torch.tensor([[4 * LN2, 0.0]], dtype=torch.float64)
    student = torch.zeros(1, 2, dtype=torch.float64)
    expected = 4 * (13 / 5 * LN2 - math.log(5))
    assert soft_target_loss(student, teacher, 2).item() == pytest.approx(expected, rel=1e-12)


def test_soft_target_loss_sums_over_classes_and_is_not_symmetric():
    # Three classes, T = 1: p = (1/2, 1/4, 1/4), q = (1/4, 1/4, 1/2).
    # KL(p || q) = 1/2 ln 2 + 1/4 ln 1 + 1/4 ln(1/2) = 1/4 ln 2
    one, other = torch.tensor([[LN2, 0, 0]]), torch.tensor([[0, 0, LN2]])
    assert soft_target_loss(one, other).item() == pytest.approx(LN2 / 4, rel=1e-6)
    # Against p = (1, 1, 1)/3 the two directions differ: KL(p || q) = ln(4/3) - 1/3 ln 2 and
    # KL(q || p) = ln(3/2) - 1/2 ln 2. The teacher is the p.
    even = torch.zeros(1, 3)
    towards_teacher = soft_target_loss(student=one, teacher=even)
    towards_student = soft_target_loss(student=even, teacher=one)
    assert towards_teacher.item() == pytest.approx(math.log(4 / 3) - LN2 / 3, rel=1e-5)
    assert towards_student.item() == pytest.approx(math.log(3 / 2) - LN2 / 2, rel=1e-5)


def test_hinton_loss_by_hand():
    # soft = 4 (13/5 ln 2 - ln 5) as above; the student's (0, 0) has cross entropy ln 2
    teacher = torch.tensor([[4 * LN2, 0.0]], dtype=torch.float64)
    student = torch.zeros(1, 2, dtype=torch.float64)
    expected = 0.75 * 4 * (13 / 5 * LN2 - math.log(5)) + 0.25 * LN2
    loss = hinton_loss(student, teacher, torch.tensor([1]), temperature=2, alpha=0.75)
    assert loss.item() == pytest.approx(expected, rel=1e-12)


def test_logit_matching_loss_by_hand():
    # z - v = (4, 0, -1), its mean 1, centred (3, -1, -2): 1/2 * (9 + 1 + 4) / 3 = 7/3
    student, teacher = torch.tensor([[5.0, 2.0, 0.0]]), torch.tensor([[1.0, 2.0, 1.0]])
    assert logit_matching_loss(student, teacher).item() == pytest.approx(7 / 3)


def test_cross_entropy_by_hand():
    # q = (3/4, 1/4): -ln(1/4) = 2 ln 2; smoothed by 0.2 the target is (0.1, 0.9):
    # -0.1 ln(3/4) - 0.9 ln(1/4) = 2 ln 2 - 0.1 ln 3
    logits, label = torch.tensor([[LN3, 0.0]]), torch.tensor([1])
    assert cross_entropy(logits, label).item() == pytest.approx(2 * LN2)
    smoothed = cross_entropy(logits, label, label_smoothing=0.2)
    assert smoothed.item() == pytest.approx(2 * LN2 - 0.1 * LN3)


@every_loss
@pytest.mark.parametrize("shape", [(4,), (5, 4), (2, 3, 4), (1, 1), (2, 100)])
def test_value_is_the_definitions_for_any_leading_dimensions(name, shape):
    student, teacher = pair(*shape)
    labels = labels_for(student)
    expected = ORACLES[name](student, teacher, labels)
    close(LOSSES[name](student, teacher, labels, reduction="none"), expected)
    close(LOSSES[name](student, teacher, labels), expected.mean())


@pytest.mark.parametrize("T", [0.5, 1, 4, 20])
def test_softened_logits_are_the_definitions(T):
    logits, _ = pair(3, 4)
    close(soften(logits, T), oracle(softmax_of, logits, T=T))


@every_loss
def test_gradient_is_that_of_the_value(name):
    student, teacher = pair(3, 4)
    labels = labels_for(student)
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: LOSSES[name](z, teacher, labels), student)


@pytest.mark.parametrize("T", [0.3, 1, 4, 20, 300])
def test_gradient_of_the_soft_target_loss_is_T_times_q_minus_p_over_N(T):
    student, teacher = pair(6, 5)
    expected = oracle(soft_gradient_of, student, teacher, T=T) / 6
    close(student_gradient(soft_target_loss, student, teacher, T), expected)


@pytest.mark.parametrize("T", [1, 4, 20, 200, 2000])
@pytest.mark.parametrize("apart", [1e-3, 1.0, 10.0], ids=lambda apart: f"apart by {apart}")
def test_float32_keeps_four_digits_however_small_the_value(T, apart):
    teacher, noise = pair(16, 10, dtype=torch.float32)
    student = teacher + apart * noise / 3
    value = soft_target_loss(student, teacher, T, reduction="none")
    gradient = student_gradient(soft_target_loss, student, teacher, T)
    assert value.dtype == torch.float32
    close(value.double(), oracle(soft_of, student, teacher, T=T), rtol=1e-4, atol=0)
    expected = oracle(soft_gradient_of, student, teacher, T=T) / 16
    close(gradient.double(), expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


def test_high_temperature_is_logit_matching():
    student, teacher = pair(6, 10)
    centred = student_gradient(logit_matching_loss, student, teacher)
    distances = []
    for T in (100, 1000, 10_000):
        close(
            soft_target_loss(student, teacher, T),
            logit_matching_loss(student, teacher),
            rtol=30 / T,
            atol=0,
        )
        gradient = student_gradient(soft_target_loss, student, teacher, T)
        distances.append(((gradient - centred).norm() / centred.norm()).item())
    assert distances[0] < 0.1
    for near, nearer in pairwise(distances):
        assert nearer == pytest.approx(near / 10, rel=0.2)  # the distance falls as 1 / T
    uncentred = (student - teacher) / 60
    assert ((uncentred - centred).norm() / centred.norm()).item() > 0.1


def test_float32_reaches_logit_matching_at_a_temperature_of_a_million():
    student, teacher = pair(6, 10, dtype=torch.float32)
    close(
        soft_target_loss(student, teacher, 1e6),
        logit_matching_loss(student, teacher),
        rtol=1e-4,
        atol=0,
    )


def test_temperature_one_is_plain_divergence():
    student, teacher = pair(6, 5)
    expected = torch.nn.functional.kl_div(
        student.log_softmax(-1), teacher.softmax(-1), reduction="batchmean"
    )
    close(soft_target_loss(student, teacher), expected)
    close(soft_target_loss(student, teacher, 1), expected)


def test_alpha_one_is_soft_targets_alone_and_alpha_zero_labels_alone():
    student, teacher = pair(6, 5)
    labels = labels_for(student)
    soft = oracle(soft_of, student, teacher, T=4).mean()
    hard = oracle(hard_of, student, labels).mean()
    close(hinton_loss(student, teacher, labels, 4, 1), soft)
    close(hinton_loss(student, teacher, labels, 4, 0), hard)
    assert not torch.isclose(soft, hard)


def test_hinton_loss_is_continuous_where_alpha_vanishes():
    student, teacher = pair(6, 5)
    labels = labels_for(student)
    at_zero = hinton_loss(student, teacher, labels, 20, 0)
    slope = oracle(soft_of, student, teacher, T=20).mean() - at_zero
    for alpha in (1e-2, 1e-4, 1e-6):
        close(hinton_loss(student, teacher, labels, 20, alpha) - at_zero, alpha * slope)


def test_hard_part_of_the_hinton_loss_is_at_temperature_one():
    student, teacher = pair(6, 5)
    labels = labels_for(student)
    cold, warm = (student_gradient(hinton_loss, student, teacher, labels, T, 0.0) for T in (1, 20))
    close(cold, warm)


numbers = st.floats(-30, 30, width=32)
temperatures = st.floats(0.1, 2000)


@st.composite
def logit_pairs(draw, dtype=torch.float64):
    n, classes = draw(st.integers(1, 4)), draw(st.integers(2, 6))
    one = st.lists(numbers, min_size=n * classes, max_size=n * classes)
    return tuple(torch.tensor(draw(one), dtype=dtype).reshape(n, classes) for _ in range(2))


@many_cases
@given(logit_pairs(torch.float32), temperatures)
def test_soft_target_loss_is_never_negative(logits, T):
    assert soft_target_loss(*logits, T, reduction="none").min() >= 0


@pytest.mark.parametrize("scale", [50, 200, 1e4])
@pytest.mark.parametrize("T", [0.5, 1, 4, 20])
def test_soft_target_loss_is_never_negative_where_exponentials_overflow(scale, T):
    teacher, other = pair(5000, 5, scale=scale, dtype=torch.float32)
    kept = torch.rand(teacher.shape, generator=torch.Generator().manual_seed(1)) < 0.7
    moved = torch.randn(5000, 1, generator=torch.Generator().manual_seed(2)) * scale
    student = torch.where(kept, teacher, other) + moved
    assert soft_target_loss(student, teacher, T, reduction="none").min() >= 0


def test_a_rare_class_counts_where_its_exponential_overflows():
    # p = (1 - e^-92, e^-92) and q = (1 - e^-22, e^-22) nearly: the divergence is close to e^-22
    teacher, student = torch.tensor([[0.0, -92.0]]), torch.tensor([[0.0, -22.0]])
    value = soft_target_loss(student, teacher)
    close(value.double(), oracle(soft_of, student, teacher, T=1).mean(), rtol=1e-4, atol=0)


@many_cases
@given(logit_pairs(torch.float32), temperatures)
def test_soft_target_loss_is_exactly_zero_where_both_agree(logits, T):
    teacher, _ = logits
    assert soft_target_loss(teacher.clone(), teacher, T).item() == 0
    assert student_gradient(soft_target_loss, teacher, teacher, T).count_nonzero() == 0


@many_cases
@given(logit_pairs(), temperatures, numbers, numbers)
def test_a_constant_added_to_all_logits_changes_nothing(logits, T, c, e):
    student, teacher = logits
    for loss in (lambda z, v: soft_target_loss(z, v, T), logit_matching_loss):
        close(loss(student + c, teacher + e), loss(student, teacher), rtol=1e-6, atol=1e-9)


@many_cases
@given(logit_pairs(), temperatures, st.floats(0, 1))
def test_gradient_rows_sum_to_zero(logits, T, alpha):
    student, teacher = logits
    labels = labels_for(student)
    zero = torch.zeros(len(student), dtype=torch.float64)
    for gradient in (
        student_gradient(soft_target_loss, student, teacher, T),
        student_gradient(hinton_loss, student, teacher, labels, T, alpha),
        student_gradient(logit_matching_loss, student, teacher),
        student_gradient(cross_entropy, student, labels),
    ):
        close(gradient.sum(-1), zero, atol=1e-9 * (1 + T), rtol=0)


@many_cases
@given(logit_pairs(), temperatures)
def test_gradient_is_T_times_q_minus_p_over_N(logits, T):
    student, teacher = logits
    expected = oracle(soft_gradient_of, student, teacher, T=T) / len(student)
    gradient = student_gradient(soft_target_loss, student, teacher, T)
    close(gradient, expected, rtol=1e-6, atol=1e-9)


@every_loss
def test_a_batch_seen_twice_leaves_value_and_sum_of_gradients_equal(name):
    student, teacher = pair(5, 4)
    labels = labels_for(student)
    twice = [torch.cat([x, x]) for x in (student, teacher, labels)]
    close(LOSSES[name](*twice), LOSSES[name](student, teacher, labels))
    once = student_gradient(LOSSES[name], student, teacher, labels)
    close(student_gradient(LOSSES[name], *twice), torch.cat([once, once]) / 2)


def test_classes_seen_twice_do_not_halve_the_divergence():
    # Every class split in two equal halves: sum p log(p / q) stays the same.
    student, teacher = pair(5, 4)
    doubled = soft_target_loss(student.repeat(1, 2), teacher.repeat(1, 2), 4)
    close(doubled, soft_target_loss(student, teacher, 4))


@every_loss
def test_mean_is_over_all_leading_dimensions(name):
    student, teacher = pair(2, 3, 4)
    labels = labels_for(student)
    flat = LOSSES[name](student.flatten(0, 1), teacher.flatten(0, 1), labels.flatten())
    close(LOSSES[name](student, teacher, labels), flat)
    assert LOSSES[name](student, teacher, labels).shape == ()
    assert LOSSES[name](student, teacher, labels, reduction="none").shape == (2, 3)


@every_loss
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_computed_in_float32(name, dtype):
    student, teacher = pair(6, 10, dtype=dtype)
    labels = labels_for(student)
    value = LOSSES[name](student, teacher, labels)
    assert value.dtype == torch.float32
    close(value.double(), ORACLES[name](student, teacher, labels).mean(), rtol=1e-5, atol=0)
    assert soften(student, 2).dtype == torch.float32


def test_double_precision_stays():
    student, teacher = pair(2, 3)
    assert soft_target_loss(student, teacher, 2).dtype == torch.float64
    assert soften(student).dtype == torch.float64


@every_loss
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_extreme_logits_have_a_finite_value_and_gradient(name, dtype):
    student = torch.tensor([[1e4, -1e4, 0], [0, 1e4, -1e4], [-1e4, -1e4, 1e4]]).to(dtype)
    labels = torch.tensor([1, 2, 0])
    assert LOSSES[name](student, -student, labels).isfinite()
    assert LOSSES[name](student, -student, labels) > 100
    assert student_gradient(LOSSES[name], student, -student, labels).isfinite().all()


@pytest.mark.parametrize("T", [0.01, 1, 20, 2000])
def test_extreme_logits_stay_right_at_every_temperature(T):
    student = torch.tensor([[1e4, -1e4, 0], [0, 1e4, -1e4], [-1e4, -1e4, 1e4]])
    expected = oracle(soft_of, student, -student, T=T)
    value = soft_target_loss(student, -student, T, reduction="none")
    close(value.double(), expected, rtol=1e-4, atol=0)
    gradient = student_gradient(soft_target_loss, student, -student, T)
    expected = oracle(soft_gradient_of, student, -student, T=T) / 3
    close(gradient.double(), expected, rtol=1e-4, atol=1e-30)


def test_teacher_gets_no_gradient():
    student, teacher = (x.requires_grad_() for x in pair(3, 4))
    labels = labels_for(student)
    total = (
        soft_target_loss(student, teacher, 2)
        + hinton_loss(student, teacher, labels, 2, 0.5)
        + logit_matching_loss(student, teacher)
    )
    total.backward()
    assert teacher.grad is None
    assert student.grad.count_nonzero() == student.numel()


def test_one_temperature_and_alpha_a_student_against_shared_or_own_logits():
    T = torch.tensor([[1.0], [4.0], [20.0]], dtype=torch.float64)  # (S, 1)
    alpha = torch.tensor([[0.0], [0.5], [1.0]], dtype=torch.float64)
    student, teacher = pair(3, 5, 4)  # (S, N, C)
    labels = labels_for(student)
    value = hinton_loss(student, teacher, labels, T, alpha, reduction="none")  # (S, N)
    for s in range(3):
        own = hinton_loss(
            student[s], teacher[s], labels[s], T[s].item(), alpha[s].item(), reduction="none"
        )
        close(value[s], own)
    shared = hinton_loss(student[0], teacher[0], labels[0], T, alpha, reduction="none")
    assert shared.shape == (3, 5)
    for s in range(3):
        own = hinton_loss(
            student[0], teacher[0], labels[0], T[s].item(), alpha[s].item(), reduction="none"
        )
        close(shared[s], own)


def test_one_temperature_and_alpha_an_example():
    student, teacher = pair(3, 4)
    labels = labels_for(student)
    T, alpha = torch.tensor([1.0, 4.0, 20.0]), torch.tensor([0.25, 0.5, 1.0])
    value = hinton_loss(student, teacher, labels, T, alpha, reduction="none")
    for i in range(3):
        own = hinton_loss(student[i], teacher[i], labels[i], T[i].item(), alpha[i].item())
        close(value[i], own)
        close(soften(student, T)[i], soften(student[i], T[i].item()))


def test_a_tensor_without_dimensions_is_a_number():
    student, teacher = pair(3, 4)
    T, alpha = torch.tensor(4), torch.tensor(0.5)
    labels = labels_for(student)
    close(
        hinton_loss(student, teacher, labels, T, alpha),
        hinton_loss(student, teacher, labels, 4, 0.5),
    )
    close(soft_target_loss(student[0], teacher[0], T), soft_target_loss(student[0], teacher[0], 4))


def test_a_tensor_of_alphas_keeps_its_digits_beside_bfloat16_logits():
    student, teacher = pair(6, 4, dtype=torch.bfloat16)
    labels = labels_for(student)
    close(
        hinton_loss(student, teacher, labels, 4, torch.tensor(0.9)),
        hinton_loss(student, teacher, labels, 4, 0.9),
    )


@pytest.mark.parametrize("number", [np.float32(4), np.float64(4), np.int64(4), 4])
def test_numbers_of_numpy_are_numbers(number):
    student, teacher = pair(3, 4)
    close(soft_target_loss(student, teacher, number), soft_target_loss(student, teacher, 4.0))
    labels = labels_for(student)
    close(
        hinton_loss(student, teacher, labels, number, np.float64(0.5)),
        hinton_loss(student, teacher, labels, 4.0, 0.5),
    )


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
    gradient = torch.func.grad(hinton_loss)
    batched = torch.func.vmap(gradient, in_dims=(None, None, None, 0, 0))
    for i, row in enumerate(batched(student, teacher, labels, T, alpha)):
        close(
            row,
            student_gradient(hinton_loss, student, teacher, labels, T[i].item(), alpha[i].item()),
        )


def test_compiles_without_a_graph_break_for_a_sweep_of_numbers_and_tensors():
    compiled = torch.compile(hinton_loss, fullgraph=True, backend="eager")
    student, teacher = pair(5, 4)
    labels = labels_for(student)
    for T, alpha in [(1.5, 0.1), (2.5, 0.2), (20, 0.9), (torch.tensor([[1.0], [8.0]]), 0.5)]:
        expected = hinton_loss(student, teacher, labels, T, alpha)
        close(compiled(student, teacher, labels, T, alpha), expected)
    matching = torch.compile(logit_matching_loss, fullgraph=True, backend="eager")
    close(matching(student, teacher), logit_matching_loss(student, teacher))


Z = torch.zeros(2, 3)
Y = torch.tensor([0, 2])


@pytest.mark.parametrize("T", [0, -1.0, math.nan, math.inf, np.float32("inf")])
def test_temperature_must_be_positive_and_finite(T):
    for call in (
        lambda: soften(Z, T),
        lambda: soft_target_loss(Z, Z, T),
        lambda: hinton_loss(Z, Z, Y, T, 0.5),
    ):
        with pytest.raises(ValueError, match=rf"temperature must be positive and finite, got {T};"):
            call()


@pytest.mark.parametrize("value", ["4", None, [4.0], 4j])
def test_temperature_and_alpha_must_be_numbers(value):
    with pytest.raises(TypeError, match="temperature must be a number, got "):
        soft_target_loss(Z, Z, value)
    with pytest.raises(TypeError, match="alpha must be a number, got "):
        hinton_loss(Z, Z, Y, 4, value)


@pytest.mark.parametrize("alpha", [-0.1, 1.01, math.nan, math.inf])
def test_alpha_must_be_a_fraction(alpha):
    wording = rf"alpha must be in \[0, 1\], got {alpha}; it weighs the soft targets"
    with pytest.raises(ValueError, match=wording):
        hinton_loss(Z, Z, Y, 4, alpha)


def test_tensors_of_temperatures_and_alphas_must_broadcast():
    wording = r" must be a number or broadcast against the leading dimensions \(2,\) .*\(5,\)"
    with pytest.raises(ValueError, match="temperature" + wording):
        soft_target_loss(Z, Z, torch.ones(5))
    with pytest.raises(ValueError, match="temperature" + wording):
        soften(Z, torch.ones(5))
    with pytest.raises(ValueError, match="alpha" + wording):
        hinton_loss(Z, Z, Y, 4, torch.ones(5))


@pytest.mark.parametrize("loss", [soft_target_loss, logit_matching_loss])
def test_student_and_teacher_must_have_one_shape(loss):
    with pytest.raises(ValueError, match="it has 4, the student 3; .* class by class"):
        loss(Z, torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"student's shape \(2, 3\), got \(1, 3\)"):
        loss(Z, torch.zeros(1, 3))
    with pytest.raises(ValueError, match=r"student's shape \(2, 3\), got \(3,\)"):
        loss(Z, torch.zeros(3))


@pytest.mark.parametrize("loss", [soft_target_loss, logit_matching_loss])
@pytest.mark.parametrize(
    "logits, found",
    [(torch.zeros(2, 3, dtype=torch.int64), "torch.int64"), ([[1.0, 2.0]], "list")],
)
def test_logits_must_be_floating_point_tensors(loss, logits, found):
    for name, arguments in (("student", (logits, Z)), ("teacher", (Z, logits))):
        with pytest.raises(TypeError, match=f"{name} must be a floating-point .*, got {found}"):
            loss(*arguments)
    with pytest.raises(TypeError, match=f"logits must be a floating-point .*, got {found}"):
        soften(logits)
    for alpha in (0.5, torch.tensor(0.5)):
        with pytest.raises(TypeError, match=f"student must be a floating-point .*, got {found}"):
            hinton_loss(logits, Z, Y, 4, alpha)


@pytest.mark.parametrize("shape", [(0, 3), (2, 0), ()])
def test_empty_logits_are_refused(shape):
    empty = torch.zeros(shape)
    for call in (
        lambda: soft_target_loss(empty, empty),
        lambda: logit_matching_loss(empty, empty),
        lambda: soften(empty),
        lambda: cross_entropy(empty, torch.zeros(shape[:-1], dtype=torch.int64)),
    ):
        with pytest.raises(ValueError, match="at least one row of at least one class, got shape"):
            call()


@pytest.mark.parametrize(
    "loss",
    [
        cross_entropy,
        lambda z, y: cross_entropy(z, y, label_smoothing=0.1),
        lambda z, y: hinton_loss(z, z, y, 4, 0.5),
    ],
    ids=["hard", "smoothed", "hinton"],
)
def test_labels_must_be_class_numbers_one_a_row(loss):
    for label in (3, -1, -100, -(2**31) - 1):
        with pytest.raises(ValueError, match=f"class numbers from 0 to 2, got {label}"):
            loss(Z, torch.tensor([0, label]))
    for labels, found in ((Y.float(), "torch.float32"), (Y.int(), "torch.int32"), ([0, 1], "list")):
        with pytest.raises(TypeError, match=f"labels must be an int64 tensor .*, got {found}"):
            loss(Z, labels)
    for labels in (torch.tensor([0]), torch.zeros(2, 3, dtype=torch.int64), torch.tensor(0)):
        with pytest.raises(ValueError, match=r"labels must have the leading dimensions \(2,\)"):
            loss(Z, labels)


@pytest.mark.parametrize("smoothing", [-0.1, 1.5, math.nan])
def test_label_smoothing_must_be_a_fraction(smoothing):
    wording = rf"label_smoothing must be in \[0, 1\], got {smoothing}"
    with pytest.raises(ValueError, match=wording):
        cross_entropy(Z, Y, label_smoothing=smoothing)


@every_loss
@pytest.mark.parametrize("reduction", ["sum", "batchmean", None])
def test_an_unknown_reduction_is_refused(name, reduction):
    with pytest.raises(ValueError, match=f'"mean" or "none", got {reduction!r}'):
        LOSSES[name](Z, Z, Y, reduction=reduction)


def test_a_wide_student_is_compared_with_a_narrow_teacher_in_the_wider_dtype():
    student, teacher = pair(5, 4)
    narrow = teacher.float()
    narrow_loss = soft_target_loss(student, narrow, 3)
    close(narrow_loss, soft_target_loss(student, narrow.double(), 3), rtol=1e-14, atol=0)
    assert soft_target_loss(student.float(), narrow.double(), 3).dtype == torch.float64
