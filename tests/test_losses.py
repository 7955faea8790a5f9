"""The oracles work from the definitions alone: of logits in decimal arithmetic of 60 digits, of features by
loops and einsums in float64.
"""

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
    cwtm_loss,
    cwtm_weights,
    dkpp_loss,
    fsp_loss,
    fsp_matrix,
    gradient_terms,
    hint_loss,
    hinton_loss,
    logit_matching_loss,
    permute_dark_knowledge,
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


# Features


def normal(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def pooled(x, height, width):
    """Max pool to whole fractions of the size, window by window."""
    x = np.asarray(x)
    N, C, H, W = x.shape
    windows = x.reshape(N, C, height, H // height, width, W // width)
    return windows.max(axis=(3, 5))


def fsp_oracle(first, second):
    first, second = first.double().numpy(), second.double().numpy()
    height = min(first.shape[2], second.shape[2])
    width = min(first.shape[3], second.shape[3])
    first, second = pooled(first, height, width), pooled(second, height, width)
    return torch.tensor(np.einsum("nist,njst->nij", first, second) / (height * width))


def test_hint_loss_by_hand():
    # example 1: 1/2 (2^2 + 1^2) = 5/2; example 2: 1/2 (3^2) = 9/2; their mean is 7/2
    guided = torch.tensor([[1.0, 2.0], [0.0, 1.0]])
    hint = torch.tensor([[3.0, 1.0], [0.0, 4.0]])
    close(hint_loss(guided, hint), torch.tensor(3.5))
    close(hint_loss(guided, hint, reduction="none"), torch.tensor([2.5, 4.5]))
    assert hint_loss(hint, hint) == 0


@many_cases
@given(st.lists(st.integers(1, 4), min_size=2, max_size=4), st.integers(0, 99))
def test_hint_loss_sums_over_all_of_an_examples_features(shape, seed):
    guided, hint = normal(*shape, seed=seed), normal(*shape, seed=seed + 100)
    by_hand = [((g - h) ** 2).sum() / 2 for g, h in zip(guided.numpy(), hint.numpy(), strict=True)]
    close(hint_loss(guided, hint, reduction="none"), torch.tensor(np.array(by_hand)))
    close(hint_loss(guided, hint), torch.tensor(np.mean(by_hand)))


def test_hint_gradients_reach_the_guided_features_only():
    guided, hint = normal(2, 3).requires_grad_(), normal(2, 3, seed=1).requires_grad_()
    hint_loss(guided, hint).backward()
    assert hint.grad is None
    close(guided.grad, (guided - hint).detach() / 2)  # of two examples


def test_fsp_matrix_by_hand():
    # The 4 x 4 map's four windows have the largest values 4, 2, 0, 1; an average would give others.
    first = torch.tensor(
        [[1, 2, 2, 2], [3, 4, 2, 2], [0, 0, 1, 1], [0, -5, 1, -9]], dtype=torch.float64
    ).view(1, 1, 4, 4)
    second = torch.tensor([[[1, 0], [1, 2]], [[0, 0], [0, 8]]], dtype=torch.float64)[None]
    # (4 * 1 + 2 * 0 + 0 * 1 + 1 * 2) / 4 and (1 * 8) / 4
    close(fsp_matrix(first, second), torch.tensor([[[1.5, 2.0]]], dtype=torch.float64))
    close(fsp_matrix(second, first), torch.tensor([[[1.5], [2.0]]], dtype=torch.float64))


SIZES = [
    ((1, 3, 4, 4), (1, 5, 4, 4)),
    ((1, 1, 1, 1), (1, 1, 1, 1)),
    ((3, 2, 8, 8), (3, 7, 4, 4)),
    ((3, 7, 2, 6), (3, 2, 4, 6)),
    ((2, 4, 12, 4), (2, 3, 3, 2)),
    ((5, 16, 7, 7), (5, 32, 7, 7)),
]


@pytest.mark.parametrize("one, other", SIZES)
def test_fsp_matrix_is_the_einsum_in_float64(one, other):
    first, second = normal(*one), normal(*other, seed=1)
    close(fsp_matrix(first, second), fsp_oracle(first, second), rtol=1e-12, atol=1e-13)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        narrow = first.to(dtype), second.to(dtype)
        found = fsp_matrix(*narrow)
        assert found.dtype == torch.float32
        close(found.double(), fsp_oracle(*narrow), rtol=1e-5, atol=1e-5)


FEW_NUMBERS = [
    ((1, 1, 1, 1), (1, 1, 1, 1)),
    ((1, 3, 2, 2), (1, 2, 2, 2)),
    ((2, 2, 4, 4), (2, 3, 2, 2)),
    ((2, 2, 1, 3), (2, 1, 2, 3)),
    ((2, 1, 6, 4), (2, 2, 3, 2)),
]


@pytest.mark.parametrize("one, other", FEW_NUMBERS)
def test_gradcheck_of_matrix_and_losses(one, other):
    first, second = normal(*one).requires_grad_(), normal(*other, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(fsp_matrix, (first, second))
    matrix = fsp_matrix(first, second).detach()
    assert torch.autograd.gradcheck(
        lambda f, s: fsp_loss([fsp_matrix(f, s)], [matrix.flip(1) + 1], [0.3]), (first, second)
    )
    hint = first.detach().flip(0)
    assert torch.autograd.gradcheck(lambda f: hint_loss(f, hint), (first,))


def test_the_gradient_of_the_fsp_loss_is_the_one_of_the_formula():
    # by F1 at one place: 2 / (H W) * D F2 there, and D transposed for F2; mean over N examples
    first, second = normal(4, 3, 5, 5).requires_grad_(), normal(4, 2, 5, 5, seed=1).requires_grad_()
    teacher = normal(4, 3, 2, seed=2)
    matrix = fsp_matrix(first, second)
    fsp_loss([matrix], [teacher]).backward()
    D = (matrix - teacher).detach()
    by_first = 2 / 25 * torch.einsum("nij,njst->nist", D, second.detach()) / 4
    by_second = 2 / 25 * torch.einsum("nij,nist->njst", D, first.detach()) / 4
    close(first.grad, by_first)
    close(second.grad, by_second)


def test_sizes_that_are_no_multiples_are_pooled_by_overlapping_windows():
    first = torch.arange(7.0).view(1, 1, 1, 7)
    second = torch.eye(3).view(1, 3, 1, 3)  # reads the three windows: 0 to 2, 2 to 4, 4 to 6
    close(3 * fsp_matrix(first, second), torch.tensor([[[2.0, 4.0, 6.0]]]))


def test_fsp_matrix_keeps_its_precision_within_autocast():
    first, second = (normal(2, 8, 6, 6, seed=s, dtype=torch.float32) for s in (0, 1))
    with torch.autocast("cpu", torch.bfloat16):
        found = fsp_matrix(first, second)
    close(found, fsp_oracle(first, second).float())


def test_fsp_matrices_of_moved_places_are_equal():
    """What hints deny: an orthogonal map of the places, applied to both layers, changes nothing."""
    first, second = normal(2, 4, 3, 3), normal(2, 5, 3, 3, seed=1)
    turn = torch.linalg.qr(normal(9, 9, seed=2)).Q
    moved = [(x.flatten(2) @ turn).view_as(x) for x in (first, second)]
    close(fsp_matrix(*moved), fsp_matrix(first, second))
    assert hint_loss(moved[0], first) > 1


def test_permuted_channels_permute_rows_and_columns():
    first, second = normal(2, 4, 3, 3), normal(2, 5, 3, 3, seed=1)
    rows, columns = torch.tensor([2, 0, 3, 1]), torch.tensor([4, 1, 0, 2, 3])
    expected = fsp_matrix(first, second)[:, rows][:, :, columns]
    close(fsp_matrix(first[:, rows], second[:, columns]), expected)


def test_fsp_loss_is_the_mean_over_examples_of_weighted_squared_norms():
    student = [normal(3, 2, 4), normal(3, 4, 1, seed=1)]
    teacher = [normal(3, 2, 4, seed=2), normal(3, 4, 1, seed=3)]
    norms = [
        [float(np.linalg.norm((s - t)[n].numpy()) ** 2) for n in range(3)]
        for s, t in zip(student, teacher, strict=True)
    ]
    each = [0.5 * norms[0][n] + 2 * norms[1][n] for n in range(3)]
    found = fsp_loss(student, teacher, [0.5, 2], reduction="none")
    close(found, torch.tensor(each, dtype=torch.float64))
    close(fsp_loss(student, teacher, [0.5, 2]), found.mean())
    close(fsp_loss(student, teacher), fsp_loss(student, teacher, [1, 1]))
    assert fsp_loss(student, student) == 0


def test_doubling_the_batch_by_repetition_leaves_the_losses_equal():
    maps = [normal(3, 4, 6, 6), normal(3, 5, 3, 3, seed=1), normal(3, 4, 6, 6, seed=2)]
    twice = [x.repeat(2, 1, 1, 1) for x in maps]
    for losses in (
        lambda f, s, t: fsp_loss([fsp_matrix(f, s)], [fsp_matrix(t, s)]),
        lambda f, s, t: hint_loss(f, t),
    ):
        close(losses(*twice), losses(*maps))


def test_halving_the_error_quarters_the_losses():
    one, other = normal(2, 3, 4), normal(2, 3, 4, seed=1)
    nearer = (one + other) / 2
    close(fsp_loss([nearer], [other]), fsp_loss([one], [other]) / 4)
    close(hint_loss(nearer, other), hint_loss(one, other) / 4)


def test_weights_have_an_effect_and_the_teacher_gets_no_gradient():
    student, teacher = normal(2, 3, 4).requires_grad_(), normal(2, 3, 4, seed=1).requires_grad_()
    assert fsp_loss([student], [teacher], [0.0]) == 0
    close(fsp_loss([student], [teacher], [3]), 3 * fsp_loss([student], [teacher]))
    fsp_loss([student], [teacher]).backward()
    assert teacher.grad is None and student.grad is not None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_losses_are_computed_in_float32_or_wider(dtype):
    one, other = normal(2, 300, seed=0, dtype=dtype) * 30, normal(2, 300, seed=1, dtype=dtype) * 30
    assert hint_loss(one, other).dtype == torch.float32
    assert math.isfinite(hint_loss(one * 10, other * 10))
    assert hint_loss(one, other.double()).dtype == torch.float64
    matrices = one.view(2, 15, 20), other.view(2, 15, 20)
    assert fsp_loss([matrices[0]], [matrices[1]]).dtype == torch.float32


def test_losses_run_in_compiled_and_vmapped_functions():
    first, second = normal(4, 3, 4, 4), normal(4, 5, 2, 2, seed=1)
    stacked = torch.func.vmap(fsp_matrix)(first.view(2, 2, 3, 4, 4), second.view(2, 2, 5, 2, 2))
    close(stacked.flatten(0, 1), fsp_matrix(first, second))


MAPS = normal(2, 3, 4, 4)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (
            lambda: hint_loss(MAPS, MAPS[:1]),
            ValueError,
            r"guided must have the hint's shape \(1, 3",
        ),
        (lambda: hint_loss(MAPS.long(), MAPS), TypeError, "guided must be a floating.*int64"),
        (lambda: hint_loss(MAPS, [1]), TypeError, "hint must be a floating.*list"),
        (lambda: hint_loss(MAPS[0, 0, 0], MAPS[0, 0, 0]), ValueError, r"guided must be features"),
        (lambda: hint_loss(MAPS[:0], MAPS[:0]), ValueError, "none of them empty"),
        (lambda: hint_loss(MAPS, MAPS, reduction="sum"), ValueError, 'reduction must be "mean"'),
        (lambda: fsp_matrix(MAPS, MAPS[:1]), ValueError, "of the same N examples"),
        (lambda: fsp_matrix(MAPS[0], MAPS[0]), ValueError, r"first must be maps \(N, C, H, W\)"),
        (lambda: fsp_matrix(MAPS, "x"), TypeError, "second must be a floating.*str"),
        (lambda: fsp_matrix(MAPS[:0], MAPS[:0]), ValueError, "none of them empty"),
        (
            lambda: fsp_matrix(MAPS[..., :2], MAPS[..., :2, :]),
            ValueError,
            "first is 4 x 2, second 2 x 4",
        ),
        (lambda: fsp_loss(MAPS[0], [MAPS[0]]), TypeError, "student_matrices must be a list"),
        (lambda: fsp_loss([MAPS[0]], MAPS[0]), TypeError, "teacher_matrices must be a list"),
        (lambda: fsp_loss([MAPS[0]], []), ValueError, "got 1 and 0"),
        (lambda: fsp_loss([], []), ValueError, "at least one, got 0 and 0"),
        (
            lambda: fsp_loss([MAPS[0], MAPS[0, :, :2]], [MAPS[0], MAPS[0]]),
            ValueError,
            r"student_matrices\[1\] must be.*same widths",
        ),
        (
            lambda: fsp_loss([MAPS[0], MAPS[0, :1]], [MAPS[0], MAPS[0, :1]]),
            ValueError,
            "of the same examples, got 3 and 1",
        ),
        (lambda: fsp_loss([MAPS], [MAPS]), ValueError, r"must be \(N, C1, C2\)"),
        (lambda: fsp_loss([MAPS[0].int()], [MAPS[0]]), TypeError, r"student_matrices\[0\].*int32"),
        (lambda: fsp_loss([MAPS[0]], [MAPS[0]], [1, 1]), ValueError, "weights must be a list of 1"),
        (lambda: fsp_loss([MAPS[0]], [MAPS[0]], 0.5), ValueError, "weights must be a list of 1"),
        (lambda: fsp_loss([MAPS[0]], [MAPS[0]], [-1]), ValueError, "weights must be at least 0"),
        (lambda: fsp_loss([MAPS[0]], [MAPS[0]], [math.inf]), ValueError, "and finite"),
        (lambda: fsp_loss([MAPS[0]], [MAPS[0]], ["1"]), TypeError, "weights must be a number"),
        (lambda: fsp_loss([MAPS[0]], [MAPS[0]], reduction="x"), ValueError, "reduction must be"),
    ],
)
def test_bad_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


# Born-again networks


def seeded_draws(seed=0):
    return torch.Generator().manual_seed(seed)


def distributions(z):
    """Softmax by its definition."""
    e = (z - z.amax(-1, keepdim=True)).exp()
    return e / e.sum(-1, keepdim=True)


@pytest.mark.parametrize("shape", [(5, 4), (2, 3, 7), (1, 1), (6,)])
def test_gradient_terms_add_up_to_the_gradient_and_split_at_the_label(shape):
    student, teacher = pair(*shape)
    labels = labels_for(student)
    truth, dark = gradient_terms(student, teacher, labels)
    examples = max(1, labels.numel())
    close(truth + dark, student_gradient(soft_target_loss, student, teacher, 1) * examples)
    labelled = torch.nn.functional.one_hot(labels, shape[-1]).bool()
    assert (truth[~labelled] == 0).all() and (dark[labelled] == 0).all()
    close(truth[labelled], (distributions(student) - distributions(teacher))[labelled])


def test_gradient_terms_are_told_apart_by_the_label_and_not_by_the_teachers_answer():
    student, teacher = torch.zeros(1, 3), torch.tensor([[5.0, 0.0, 0.0]])
    assert gradient_terms(student, teacher, torch.tensor([1])).truth[0].nonzero().tolist() == [[1]]


def test_cwtm_weights_are_the_largest_probabilities_as_shares_of_the_batch():
    teacher, _ = pair(6, 4)
    surest = distributions(teacher).amax(-1)
    close(cwtm_weights(teacher), surest / surest.sum())
    close(cwtm_weights(teacher).sum(), torch.tensor(1.0, dtype=torch.float64))
    close(cwtm_weights(teacher.reshape(2, 3, 4)).flatten(), cwtm_weights(teacher))


def test_cwtm_loss_is_the_weighted_sum_and_its_gradient_w_times_q_minus_y():
    student, teacher = pair(6, 4)
    labels, weights = labels_for(student), cwtm_weights(teacher)
    one_by_one = [-math.log(q[y]) for q, y in zip(distributions(student), labels, strict=True)]
    expected = sum(float(w) * loss for w, loss in zip(weights, one_by_one, strict=True))
    close(cwtm_loss(student, teacher, labels).item(), expected)
    y = torch.nn.functional.one_hot(labels, 4)
    gradient = student_gradient(cwtm_loss, student, teacher, labels)
    close(gradient, weights[:, None] * (distributions(student) - y))


def test_an_equally_sure_teacher_gives_the_plain_mean():
    student, teacher = pair(6, 4)
    orders = torch.rand(6, 4, generator=seeded_draws()).argsort(-1)
    labels = labels_for(student)
    close(
        cwtm_loss(student, teacher[:1].expand(6, 4).gather(-1, orders), labels),
        cross_entropy(student, labels),
    )


@pytest.mark.parametrize("shape", [(200, 10), (4, 5, 6), (3, 2), (3, 1), (8,)])
def test_permuted_rows_keep_their_entries_and_their_largest_in_its_place(shape):
    teacher, _ = pair(*shape)
    permuted = permute_dark_knowledge(teacher, seeded_draws())
    assert torch.equal(permuted.sort(-1).values, teacher.sort(-1).values)
    assert torch.equal(permuted.argmax(-1), teacher.argmax(-1))
    assert torch.equal(permuted.amax(-1), teacher.amax(-1))


def test_each_row_has_an_order_of_its_own_and_each_call_new_ones():
    teacher = torch.arange(10.0).expand(50, 10)
    draws = seeded_draws()
    first, second = (permute_dark_knowledge(teacher, draws) for _ in range(2))
    assert len(set(map(tuple, first.tolist()))) == 50
    assert not torch.equal(first, second)
    assert torch.equal(first, permute_dark_knowledge(teacher, seeded_draws()))


def test_every_order_of_the_others_is_as_likely():
    teacher = torch.tensor([1.0, 9.0, 2.0, 3.0]).expand(6000, 4)
    permuted = permute_dark_knowledge(teacher, seeded_draws())[:, [0, 2, 3]]
    counts = torch.unique(permuted, dim=0, return_counts=True)[1]
    assert len(counts) == 6 and (counts - 1000).abs().max() < 150  # five standard deviations


def test_the_largest_of_equals_stays_where_argmax_finds_it():
    teacher = torch.tensor([[2.0, 2.0, 0.0, 1.0]])
    for seed in range(20):
        permuted = permute_dark_knowledge(teacher, seeded_draws(seed))
        assert permuted[0, teacher.argmax()] == 2


def test_logits_and_probabilities_are_permuted_alike():
    teacher, _ = pair(20, 6)
    close(
        distributions(permute_dark_knowledge(teacher, seeded_draws())),
        permute_dark_knowledge(distributions(teacher), seeded_draws()),
    )


def test_dkpp_loss_is_the_cross_entropy_with_the_permuted_targets():
    student, teacher = pair(6, 5)
    targets = distributions(permute_dark_knowledge(teacher, seeded_draws()))
    expected = -(targets * distributions(student).log()).sum(-1).mean()
    close(dkpp_loss(student, teacher, seeded_draws()), expected)
    gradient = student_gradient(dkpp_loss, student, teacher, seeded_draws())
    close(gradient, (distributions(student) - targets) / 6)


def test_of_two_classes_nothing_can_be_permuted():
    student, teacher = pair(6, 2)
    soft = soft_target_loss(student, teacher)
    p = distributions(teacher)
    close(dkpp_loss(student, teacher, seeded_draws()), soft - (p * p.log()).sum(-1).mean())


def test_born_again_losses_reach_the_student_only_and_stay_finite():
    labels = torch.tensor([0, 1])
    for scale in (1.0, 1000.0):
        student, teacher = (x.requires_grad_() for x in pair(2, 3, scale=scale))
        loss = cwtm_loss(student, teacher, labels) + dkpp_loss(student, teacher, seeded_draws())
        loss.backward()
        assert teacher.grad is None and student.grad.isfinite().all() and loss.isfinite()


def test_born_again_losses_widen_half_precision():
    student, teacher = pair(4, 3, dtype=torch.bfloat16)
    labels = labels_for(student)
    assert cwtm_weights(teacher).dtype == torch.float32
    close(cwtm_loss(student, teacher, labels), cwtm_loss(student.float(), teacher.float(), labels))
    close(
        dkpp_loss(student, teacher, seeded_draws()),
        dkpp_loss(student.float(), teacher.float(), seeded_draws()),
    )


def test_born_again_losses_say_what_is_wrong():
    student, teacher = pair(4, 3)
    labels = labels_for(student)
    with pytest.raises(TypeError, match="generator must be a torch.Generator, got int"):
        permute_dark_knowledge(teacher, 0)
    with pytest.raises(ValueError, match="teacher must have the student's classes: it has 2"):
        dkpp_loss(student, teacher[:, :2], seeded_draws())
    for loss in (cwtm_loss, gradient_terms):
        with pytest.raises(ValueError, match="labels must be class numbers from 0 to 2, got 3"):
            loss(student, teacher, torch.tensor([0, 1, 2, 3]))
        with pytest.raises(TypeError, match="labels must be an int64 tensor"):
            loss(student, teacher, labels.float())
