"""kdlib/class_subsets/specialists.py: eq. 5 from its definition, Bayes' rule, and the training data."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import softmax
from torch import nn

import kdlib as kd
from kdlib.class_subsets.specialists import (
    clusters,
    combine,
    dustbin_correction,
    specialist_data,
    specialist_of,
)
from kdlib.identity import weights_hash


def drawn(*shape, seed=0, scale=2.0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64) * scale


# Combining


def called(p_g, specialists):
    """Those for the generalist's best class, for one image."""
    return [(classes, p_m) for classes, p_m in specialists if int(p_g.argmax()) in classes]


def disagreement(log_q, p_g, specialists):
    """Eq. 5 for one image: KL(p_g || q) + sum of KL(p_m || q), the dustbin against q's sum."""
    total = (p_g * (p_g.log() - log_q)).sum()
    for classes, p_m in called(p_g, specialists):
        others = [k for k in range(len(p_g)) if k not in classes]
        log_q_m = torch.cat([log_q[classes], log_q[others].logsumexp(0)[None]])
        total = total + (p_m * (p_m.log() - log_q_m)).sum()
    return total


def descended(p_g, specialists):
    """The q of least disagreement, by descent on its logits from equal ones."""
    z = torch.zeros_like(p_g, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [z], max_iter=500, tolerance_grad=1e-11, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        loss = disagreement(z.log_softmax(0), p_g, specialists)
        loss.backward()
        return loss

    optimizer.step(closure)
    return z.detach().log_softmax(0)


OVERLAPPING = [[0, 1, 2], [2, 3], [5, 2, 0, 4], [1, 5]]


def committee(n=12, seed=0, scale=2.0, groups=OVERLAPPING, count=6):
    """Logits of a generalist and of specialists, and what each specialist is for."""
    z = drawn(n, count, seed=seed, scale=scale)
    z[torch.arange(n), torch.arange(n) % count] += 3 * scale  # every class is some image's best
    said = [
        (classes, drawn(n, len(classes) + 1, seed=seed + 100 + place, scale=scale))
        for place, classes in enumerate(groups)
    ]
    return z, said


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("groups", [[[0, 1]], [[0, 1, 2], [3, 4]], OVERLAPPING])
def test_no_probabilities_agree_better_by_gradient_descent(groups, seed):
    z, said = committee(seed=seed, groups=groups)
    q = combine(z, said)
    assert q.dtype == torch.float64
    assert (q > 0).all() and q.sum(-1).numpy() == pytest.approx(1, abs=1e-12)
    at_work = set()
    for row, p_g in enumerate(z.softmax(-1)):
        them = [(classes, logits[row].softmax(-1)) for classes, logits in said]
        at_work.add(len(called(p_g, them)))
        best = descended(p_g, them)
        torch.testing.assert_close(q[row], best.exp(), rtol=0, atol=1e-6)
        least = disagreement(best, p_g, them).item()
        assert disagreement(q[row].log(), p_g, them).item() <= least + 1e-10
    assert max(at_work) == (3 if groups is OVERLAPPING else 1)


def test_without_specialists_the_generalist_is_alone_and_no_logits_are_changed():
    z, said = committee()
    before = z.clone(), [logits.clone() for _, logits in said]
    torch.testing.assert_close(combine(z, []), z.softmax(-1), rtol=0, atol=1e-12)
    combine(z, said)
    assert torch.equal(z, before[0])
    assert all(torch.equal(a, b) for (_, a), b in zip(said, before[1], strict=True))


@pytest.mark.parametrize("seed", range(5))
def test_logits_of_a_thousand_give_finite_numbers(seed):
    z, said = committee(n=40, seed=seed)
    z = 1000 * z.sign()
    said = [(classes, 1000 * logits.sign()) for classes, logits in said]
    q = combine(z, said)
    assert q.isfinite().all()
    assert (q >= 0).all() and (q <= 1 + 1e-9).all()


def test_logits_of_a_thousand_count():
    z = torch.tensor([[1000.0, 1000.0, -1000.0], [-1000.0, 1000.0, 0.0]])
    said = [([0, 1], torch.tensor([[1000.0, -1000.0, -1000.0], [1000.0, -1000.0, -1000.0]]))]
    expected = torch.tensor([[0.75, 0.25, 0], [0.5, 0.5, 0]], dtype=torch.float64)
    torch.testing.assert_close(combine(z, said), expected)


@pytest.mark.parametrize("shape", [(5, 2), (5, 4), (4, 3), (3,)])
def test_a_specialists_logits_of_another_shape_are_refused(shape):
    message = re.escape(
        "a specialist's logits must be (5, 3): a row for each image, a column for each class and the "
        f"dustbin, got {shape}"
    )
    with pytest.raises(ValueError, match=message):
        combine(torch.zeros(5, 4), [([0, 1], torch.zeros(shape))])


def test_something_that_is_not_logits_is_refused_by_name():
    with pytest.raises(TypeError, match="generalist must be a floating-point tensor.*int64"):
        combine(torch.zeros(5, 4, dtype=torch.int64), [])
    with pytest.raises(TypeError, match="specialist must be a floating-point tensor.*int64"):
        combine(torch.zeros(5, 4), [([0], torch.zeros(5, 2, dtype=torch.int64))])


# The dustbin's prior


@pytest.mark.parametrize("classes", [[3], [1, 4, 7], list(range(8))])
def test_the_correction_is_bayes_rule_for_the_data_of_a_specialist(digits, classes):
    mine = np.isin(digits.train.labels.numpy(), classes)
    natural = mine.mean()
    seen = mine.sum() / (mine.sum() + min(mine.sum(), (~mine).sum()))
    expected = np.log(seen / (1 - seen)) - np.log(natural / (1 - natural))
    found = dustbin_correction(digits, specialist_data(digits, classes))
    assert found == pytest.approx(expected, abs=1e-12)


# A specialist's data


def test_half_of_a_specialists_examples_are_of_its_classes_and_all_of_them(digits):
    before = digits.fingerprint(), digits.test.fingerprint()
    special = specialist_data(digits, [8, 3])
    assert (digits.fingerprint(), digits.test.fingerprint()) == before
    label = dict(zip(digits.train.index.tolist(), digits.train.labels.tolist(), strict=True))
    mine = {index for index, k in label.items() if k in (3, 8)}
    found = set(special.train.index.tolist())
    assert len(special.train) == len(found) == 2 * len(mine)
    assert mine < found
    assert {label[index] for index in found - mine} == {0, 1, 2, 4, 5, 6, 7, 9}


@pytest.mark.parametrize("classes", [[8, 3], [0], [9, 2, 5, 1]])
def test_labels_are_places_in_the_classes_and_images_keep_their_index(digits, classes):
    special = specialist_data(digits, iter(classes))
    expected = {label: len(classes) for label in range(10)} | {k: i for i, k in enumerate(classes)}
    for name in ("train", "validation", "test"):
        whole, part = getattr(digits, name), getattr(special, name)
        place = {index: row for row, index in enumerate(whole.index.tolist())}
        rows = [place[index] for index in part.index.tolist()]
        assert torch.equal(part.inputs, whole.inputs[rows])
        labels = whole.labels[rows].tolist()
        assert part.labels.tolist() == [expected[label] for label in labels]
        if name != "train":
            assert rows == list(range(len(whole)))
    assert special.classes == (*map(str, classes), "dustbin")
    assert special.name == digits.name


def test_where_others_are_fewer_all_of_them_are_taken(digits):
    special = specialist_data(digits, range(8))
    assert sorted(special.train.index.tolist()) == sorted(digits.train.index.tolist())
    assert (special.train.labels == 8).sum() == (digits.train.labels >= 8).sum()


def test_a_seed_gives_the_others_and_another_gives_other_ones(digits):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first, again, other = (specialist_data(digits, [8, 3], seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert first.fingerprint() == again.fingerprint() != other.fingerprint()
    assert first.fingerprint() == specialist_data(digits, [8, 3]).fingerprint()

    def dustbin(data):
        return set(data.train.index[data.train.labels == 2].tolist())

    assert 0 < len(dustbin(first) & dustbin(other)) < len(dustbin(first))


def test_data_may_lack_validation_and_labels_for_the_test_split(digits):
    special = specialist_data(replace(digits, validation=None), [8, 3])
    assert special.validation is None
    unlabelled = replace(digits, test=digits.test.unlabelled())
    special = specialist_data(unlabelled, [8, 3])
    assert special.test.labels is None
    assert len(special.test) == len(digits.test)


# A specialist's start


def generalist(last=None):
    """Not as it was built, so that no weight is small by chance."""
    model = kd.models.mlp(12, dropout=0.3, seed=3)
    with torch.no_grad():
        for weights in model.parameters():
            weights.mul_(4)
    return model if last is None else nn.Sequential(*model[:-1], last)


@pytest.mark.parametrize("classes", [[3], [7, 2, 8], [9, 8, 7, 6, 5, 4, 3, 2, 1]])
@pytest.mark.parametrize(
    "build", [generalist, lambda: kd.models.resnet(8, channels=1)], ids=["mlp", "resnet"]
)
def test_a_specialist_begins_with_the_generalists_logits_for_its_classes(digits, build, classes):
    model = build()
    images = digits.test.inputs[:20]
    z = kd.logits(model, images)
    found = kd.logits(specialist_of(model, classes), images)
    others = [k for k in range(10) if k not in classes]
    dustbin = z[:, others].double().mean(1) + math.log(len(others))
    assert found.shape == (20, len(classes) + 1)
    torch.testing.assert_close(found[:, :-1], z[:, classes], rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(found[:, -1].double(), dustbin, rtol=1e-5, atol=1e-4)


def test_a_last_layer_may_lack_biases_and_have_another_dtype(digits):
    with kd.seeded(0):
        model = generalist(nn.Linear(12, 10, bias=False))
    specialist = specialist_of(model, [7, 2])
    z, found = kd.logits(model, digits.test), kd.logits(specialist, digits.test)
    assert specialist[-1].bias is None
    assert specialist_of(model.double(), [7])[-1].weight.dtype == torch.float64
    torch.testing.assert_close(found[:, :-1], z[:, [7, 2]], rtol=1e-5, atol=1e-5)


def test_the_generalist_stays_as_it_was_whatever_is_done_to_the_specialist(digits):
    model = generalist().train()
    before = weights_hash(model), [m.training for m in model.modules()], repr(model)
    specialist = specialist_of(model, [7, 2])
    own = {weights.untyped_storage().data_ptr() for weights in model.state_dict().values()}
    theirs = {weights.untyped_storage().data_ptr() for weights in specialist.state_dict().values()}
    assert not own & theirs
    special = specialist_data(digits.limit(100), [7, 2])
    start = weights_hash(specialist)
    kd.fit(specialist, kd.CrossEntropy(), special, kd.Recipe(epochs=1), progress=False)
    assert weights_hash(specialist) != start
    assert (weights_hash(model), [m.training for m in model.modules()], repr(model)) == before
    assert all(weights.grad is None for weights in model.parameters())


def test_the_callers_generator_is_as_it_was():
    model = generalist()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = specialist_of(model, [7, 2])
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(9)
    assert weights_hash(specialist_of(model, [7, 2])) == weights_hash(first)


def test_a_network_that_does_not_end_in_a_linear_layer_is_refused():
    with pytest.raises(TypeError, match="generalist must end in a Linear layer, got Softmax"):
        specialist_of(nn.Sequential(nn.Flatten(), nn.Linear(784, 10), nn.Softmax(-1)), [1])


@pytest.mark.parametrize(
    "refuse",
    [
        lambda classes: combine(torch.zeros(5, 10), [(classes, torch.zeros(5, len(classes) + 1))]),
        lambda classes: specialist_data(kd.data.load("digits", device="cpu"), classes),
        lambda classes: specialist_of(generalist(), classes),
    ],
    ids=["combine", "specialist_data", "specialist_of"],
)
@pytest.mark.parametrize(
    ("classes", "message"),
    [([3, 5, 3], "some of the 10, not all, each once"), ([3, 10], "from 0 to 9")],
)
def test_a_specialist_is_for_some_classes_not_all_each_once(refuse, classes, message):
    with pytest.raises(ValueError, match=f"classes must be .*{message}"):
        refuse(classes)


# Which classes belong together

PLANTED = [[0, 5, 7], [1, 4], [2, 3, 6]]


def confused(groups=PLANTED, n=600, seed=0):
    """Predictions that spread over the group of the image's class, and little elsewhere."""
    draws = np.random.default_rng(seed)
    z = draws.normal(0, 1, (n, sum(map(len, groups))))
    for row, group in enumerate(draws.integers(0, len(groups), n)):
        z[row, groups[group]] += 4
    return torch.tensor(softmax(z, 1))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_planted_groups_that_are_confused_are_found(seed, dtype):
    assert clusters(confused(seed=seed).to(dtype), 3, seed) == PLANTED


def test_groups_are_classes_predicted_together_not_classes_equally_common():
    groups = [[0, 3], [1, 2]]
    p = confused(groups)
    counts = np.array([4, 1, 4, 1])  # 0 and 2 are common, and so are 1 and 3 rare
    weighted = torch.tensor(softmax(np.log(p.numpy()) + 0.2 * counts, 1))
    assert clusters(weighted, 2) == groups


@pytest.mark.parametrize("count", [1, 2, 5, 8])
def test_every_class_is_in_one_cluster_and_clusters_go_by_their_lowest(count):
    found = clusters(confused(), count)
    assert len(found) == count
    assert sorted(k for group in found for k in group) == list(range(8))
    assert found == sorted(map(sorted, found))
    assert all(isinstance(k, int) for group in found for k in group)


def test_the_same_seed_gives_the_same_clusters_whatever_was_drawn_before():
    p = torch.tensor(softmax(np.random.default_rng(1).normal(0, 2, (50, 12)), 1))
    found = []
    for noise in (3, 9):
        np.random.seed(noise)
        before = np.random.get_state()[1].copy()
        found.append(clusters(p.clone().requires_grad_(), 4, seed=3))
        assert (np.random.get_state()[1] == before).all()
    assert found[0] == found[1]


@pytest.mark.parametrize("shape", [(5,), (1, 5), (2, 5, 5)])
def test_probabilities_of_another_shape_are_refused(shape):
    message = re.escape(f"probabilities must be (N, C) with N > 1, got shape {shape}")
    with pytest.raises(ValueError, match=message):
        clusters(torch.full(shape, 0.2), 2)


@pytest.mark.parametrize("count", [0, -1, 9, 2.5, "2"])
def test_a_number_of_clusters_must_be_from_1_to_the_number_of_classes(count):
    with pytest.raises(
        ValueError, match=f"count must be a whole number from 1 to 8, got {count!r}"
    ):
        clusters(confused(), count)
