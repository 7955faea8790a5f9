"""kdlib/reproduce/ban_lm.py: the loss, who teaches whom, and counts of N-grams."""

import math
from dataclasses import replace

import pytest
import torch
from protocols import clear, numbers, rows_of, same_weights

import kdlib as kd
from kdlib.objectives import Outputs
from kdlib.reproduce import ban_lm

WORDS, CHARACTERS = ban_lm.SMOKE
every_text = pytest.mark.parametrize("size", ban_lm.SMOKE, ids=lambda size: size.text)


@pytest.fixture(scope="module")
def data(smoke):
    return ban_lm._data(CHARACTERS)


# The loss


def small_lstm(data, seed):
    return kd.models.lstm(len(data.classes), 8, layers=1, seed=seed)


@pytest.fixture
def teacher(data):
    """A network with more confident predictions than a new one."""
    net = small_lstm(data, 0)
    with torch.no_grad():
        for weights in net.parameters():
            weights.mul_(8)
    return net


def batch_of(data):
    """Three rows of 20 tokens from the beginning of the training text."""
    rows = (data.train.inputs, data.train.labels, data.train.index)
    inputs, labels, index = (part[:60].view(3, 20) for part in rows)
    return kd.Batch(inputs, labels, index, 0.0, torch.Generator(), first=True)


def value_and_gradient(objective, data, z):
    objective.prepare(small_lstm(data, 1), data.train, kd.Recipe())
    z = z.clone().requires_grad_()
    value = sum(objective(Outputs(z), batch_of(data)).values())
    return value.item(), torch.autograd.grad(value, z)[0]


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
def test_blend_is_the_cross_entropy_with_a_mix_of_teacher_and_labels(data, teacher, alpha):
    """It has the gradient of soft targets, and their value but for the teacher's entropy."""
    batch, draws = batch_of(data), torch.Generator().manual_seed(0)
    z = 2 * torch.randn(3, 20, len(data.classes), generator=draws)
    p, q = teacher(batch.inputs).detach().double().softmax(-1), z.double().softmax(-1)
    y = torch.eye(len(data.classes), dtype=torch.float64)[batch.labels]
    mix = alpha * p + (1 - alpha) * y
    value, gradient = value_and_gradient(ban_lm.Blend(teacher, alpha), data, z)
    assert value == pytest.approx(-(mix * q.log()).sum(-1).mean().item(), rel=1e-5)
    torch.testing.assert_close(gradient.double(), (q - mix) / 60, atol=1e-8, rtol=1e-4)
    expected, of_soft = value_and_gradient(kd.SoftTargets(teacher, 1, alpha), data, z)
    torch.testing.assert_close(gradient, of_soft, atol=1e-8, rtol=1e-4)
    entropy = -(p * p.log()).sum(-1).mean().item()
    assert 0.1 < entropy < math.log(len(data.classes)) - 0.1
    assert value - expected == pytest.approx(alpha * entropy, abs=1e-5)


def test_blends_of_other_teachers_and_weights_have_other_keys(data):
    cases = [(seed, alpha) for seed in (0, 1) for alpha in (0.5, 1)]
    keys = [ban_lm.Blend(small_lstm(data, seed), alpha).key for seed, alpha in cases]
    assert len({*keys}) == 4
    assert ban_lm.Blend(small_lstm(data, 0), 0.5).key == keys[0]


# Who teaches whom


@every_text
def test_a_student_begins_as_the_net_of_labels_of_its_seed_and_is_taught_by_the_next(
    trainings, size
):
    size = replace(size, seeds=range(3))
    for way in size.ways[1:]:
        for seed, teacher_seed in ((0, 1), (1, 2), (2, 0)):
            clear()
            trainings.clear()
            ban_lm._net(size, way, seed)
            teacher, student = trainings
            assert (teacher.seed, student.seed) == (teacher_seed, seed)
            assert teacher.objective.key == kd.CrossEntropy().key
            weight = {"BAN+L": 0.5, "BAN": 1.0}[way]
            assert student.objective.key == ban_lm.Blend(teacher.model, weight).key
            ban_lm._net(size, "labels", seed)
            alone = trainings[-1]
            assert (alone.start, alone.seed) == (student.start, student.seed)
            assert alone.recipe == student.recipe
            assert alone.start != teacher.start


@pytest.mark.parametrize("way, alpha", [("BAN+L", 0.5), ("BAN", 1.0)])
def test_a_language_model_is_taught_by_hand_to_the_same_weights(data, way, alpha):
    shape = len(data.classes), 8, CHARACTERS.layers, CHARACTERS.dropout
    teacher, student = (kd.models.lstm(*shape, seed) for seed in (1, 0))
    recipe = CHARACTERS.recipe
    kd.fit(teacher, kd.CrossEntropy(), data, recipe, seed=1, progress=False)
    kd.fit(student, ban_lm.Blend(teacher, alpha), data, recipe, seed=0, progress=False)
    assert same_weights(ban_lm._net(CHARACTERS, way, 0), student)
    rows = rows_of(ban_lm, "topics", f"{way}, seed 0")
    for row, part in zip(rows, ("validation", "test"), strict=True):
        assert row.metric == f"{part}_perplexity"
        expected = math.exp(kd.evaluate(student, getattr(data, part)).loss)
        assert row.value == pytest.approx(expected)
        assert (row.student_seed, row.teacher_seed) == (0, 1)


@pytest.mark.parametrize(
    "name, way", [("two of labels", "labels"), ("BAN+L and its teacher", "BAN+L")]
)
@pytest.mark.parametrize("seed, following", [(0, 1), (1, 0)])
def test_pairs_are_the_mean_probability_of_a_net_and_the_next_net_of_labels(
    data, name, way, seed, following
):
    pair = ban_lm._net(CHARACTERS, way, seed), ban_lm._net(CHARACTERS, "labels", following)
    for part in ("validation", "test"):
        split = getattr(data, part)
        with torch.no_grad():  # the whole text at once
            mean = sum(net(split.inputs[None])[0].double().softmax(-1) for net in pair) / 2
        loss = -mean[torch.arange(len(split)), split.labels].log().mean().item()
        rows = rows_of(ban_lm, "topics", f"{name}, seed {seed}")
        assert numbers(rows, f"{part}_perplexity") == pytest.approx([math.exp(loss)], rel=1e-5)


@every_text
def test_rows_of_labels_name_no_teacher(trainings, size):
    rows = rows_of(ban_lm, size.text, "labels, seed 1")
    assert {(row.student_seed, row.teacher_seed) for row in rows} == {(1, None)}


@every_text
def test_counts_are_what_ngrams_predict(size):
    data = ban_lm._data(size)
    for n in size.counts:
        rows = rows_of(ban_lm, size.text, f"{n} tokens")
        expected = [
            (f"{part}_perplexity", pytest.approx(math.exp(kd.text.ngram_loss(data, n, split))))
            for part, split in (("validation", data.validation), ("test", data.test))
        ]
        assert [(row.metric, row.value) for row in rows] == expected
        assert {row.student_seed for row in rows} == {None}


# The paper's protocol

(PAPER,) = ban_lm.PAPER_SIZE


def test_the_papers_texts_have_its_network_and_its_plain_descent():
    assert (PAPER.text, PAPER.ways) == ("ptb", ("labels", "BAN+L"))
    shape = PAPER.width, PAPER.layers, PAPER.dropout, PAPER.unroll, len(PAPER.seeds)
    assert shape == (1500, 2, 0.65, 35, 3)
    assert PAPER.recipe == kd.Recipe(
        epochs=40,
        batch_size=32,
        learning_rate=1.0,
        optimizer="sgd",
        momentum=0.0,
        schedule="plateau",
        max_gradient=5.0,
    )


def test_only_a_plateau_is_shown_the_validation_text_and_none_the_test_text(trainings):
    for size, watched in (
        (replace(PAPER, name="smoke", width=8), True),
        (CHARACTERS, False),
        (WORDS, False),
    ):
        ban_lm._net(size, "BAN+L", 0)
        for training in trainings:
            assert training.data.test is None
            assert (training.data.validation is not None) == watched
        trainings.clear()


def test_the_plateau_of_the_paper_trains():
    recipe = replace(PAPER.recipe, epochs=2, batch_size=4)
    size = replace(PAPER, name="smoke", width=8, recipe=recipe, seeds=range(2))
    for setting in ban_lm._settings(size):
        assert all(math.isfinite(row.value) for row in setting.run())
