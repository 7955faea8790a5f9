"""kdlib/reproduce/student.py: every line trains what its name says, and its hash says how."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from protocols import TRIAL_SEED, rows_of, same_weights, some_batch
from scipy.special import entr, softmax

import kdlib as kd
from kdlib.objectives import Outputs
from kdlib.reproduce import student as protocol
from kdlib.reproduce.student import ANNET_WAYS, GRID, TEACHERS, WAYS, AsPrinted, Student

SIZE = Student(images=140)


@pytest.fixture(scope="module")
def few(digits):
    return digits.limit(140)


@pytest.fixture(scope="module")
def own(few):
    """The teacher's logits for the images, (N, C) in float64."""
    return kd.logits(protocol._teacher("24 epochs"), few.train).double().numpy()


def shape(setting):
    """The Student of a line."""
    return setting.run.args[1]


def targets(name, few):
    """The targets of a way that teaches from a table, (N, C); other images have none there."""
    objective, moved = WAYS[name](few, SIZE)
    assert type(objective) is kd.SoftTargets
    assert (objective.temperature, objective.alpha, moved) == (20, 0.9, False)
    rows = objective.teacher[few.train.index]
    assert rows.isfinite().all()
    assert objective.teacher.isfinite().sum() == rows.numel() < objective.teacher.numel()
    return rows.double().numpy()


def mean_entropy(logits, temperature):
    return entr(softmax(logits / temperature, axis=1)).sum(1).mean()


# The controls


def test_class_means_are_one_target_for_all_images_of_a_class(few, own):
    rows, labels = targets("class means", few), few.train.labels.numpy()
    for k in range(10):
        (found,) = np.unique(rows[labels == k], axis=0)
        np.testing.assert_allclose(found, own[labels == k].mean(0), rtol=0, atol=1e-5)
    assert len(np.unique(rows, axis=0)) == 10


@pytest.mark.parametrize("name", ["shuffled within a class", "shuffled over all"])
def test_shuffled_targets_are_those_of_another_image_of_the_class_or_of_any(few, own, name):
    equal = (targets(name, few)[:, None] == own.astype(np.float32)).all(2)
    assert (equal.sum(1) == 1).all()
    places, labels = equal.argmax(1), few.train.labels.numpy()
    assert sorted(places) == list(range(140))
    assert (places != np.arange(140)).all()
    share = (labels[places] == labels).mean()
    assert share == 1 if "class" in name else share < 0.3


@pytest.mark.parametrize("scale", [1, 30, 300])
def test_smoothed_labels_tell_the_label_only_and_are_as_uncertain_as_the_soft_targets(
    few, own, monkeypatch, scale
):
    sure = torch.from_numpy(scale * own).float()  # a real teacher is surer than one of smoke size
    monkeypatch.setattr(protocol, "logits", lambda model, split: sure)
    rows = targets("smoothed labels of equal entropy", few)
    assert (rows.argmax(1) == few.train.labels.numpy()).all()
    assert len(np.unique(rows)) == 2
    assert len(np.unique(rows, axis=0)) == 10
    assert mean_entropy(rows, 20) == pytest.approx(mean_entropy(scale * own, 20), abs=1e-3)


# The other ways


def test_the_other_ways_are_what_they_are_called(few):
    teacher = protocol._teacher("24 epochs")
    expected = {
        "labels": (kd.CrossEntropy(), False),
        "labels, moved": (kd.CrossEntropy(), True),
        "label smoothing 0.1": (kd.CrossEntropy(label_smoothing=0.1), False),
        "T = 1": (kd.SoftTargets(teacher, 1, 0.9), False),
        "T = 4": (kd.SoftTargets(teacher, 4, 0.9), False),
        "T = 20": (kd.SoftTargets(teacher, 20, 0.9), False),
        "T = 20, moved": (kd.SoftTargets(teacher, 20, 0.9), True),
        "logit matching": (kd.LogitMatching(teacher), False),
        "teacher of the same images": (kd.SoftTargets(teacher, 20, 0.9), False),
        "untrained teacher": (kd.SoftTargets(teacher, 20, 0.9), False),
    }
    for name, (objective, moved) in expected.items():
        found = WAYS[name](few, SIZE)
        assert (found[0].key, found[1]) == (objective.key, moved), name


def test_a_line_with_another_teacher_is_taught_by_it(few):
    for name, way in (
        ("small", "T = 20"),
        ("same images", "teacher of the same images"),
        ("untrained", "untrained teacher"),
    ):
        objective, _ = WAYS[way](few, replace(SIZE, teacher=name))
        assert objective.teacher is protocol._teacher(name)
    rows = (
        WAYS["class means"](few, replace(SIZE, teacher=name))[0].teacher[few.train.index]
        for name in ("24 epochs", "small")
    )
    assert not torch.allclose(*rows)


def test_the_grid_is_every_temperature_with_every_alpha(few):
    found = set()
    for name, way in GRID.items():
        objective, moved = way(few, replace(SIZE, teacher="small"))
        assert name == f"T = {objective.temperature:g}, alpha = {objective.alpha:g}"
        assert objective.teacher is protocol._teacher("small")
        assert not moved
        found.add((objective.temperature, objective.alpha))
    assert found == {(T, alpha) for T in (1, 2, 4, 8, 20) for alpha in (0.5, 0.9, 1)} | {(1, 0)}


# A blog's loss


def stepped(objective, few, logits):
    """Terms of a step on the first 20 images, and the gradient with respect to the logits."""
    logits = logits.clone().requires_grad_()
    objective.prepare(kd.models.mlp(1), few.train, kd.Recipe())
    terms = objective(Outputs(logits), some_batch(few.train, torch.arange(20)))
    sum(terms.values()).backward()
    return {name: term.item() for name, term in terms.items()}, logits.grad


LOGITS = 3 * torch.randn(20, 10, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("temperature", "alpha"), [(2, 0.5), (20, 0.9)])
def test_as_printed_teaches_the_labels_only(few, temperature, alpha):
    taught = kd.models.mlp(12, seed=3)
    with torch.no_grad():
        taught[-1].weight *= 20
    terms, gradient = stepped(AsPrinted(taught, temperature, alpha), few, LOGITS)
    hard, expected = stepped(kd.CrossEntropy(), few, LOGITS)
    assert terms["soft"] == pytest.approx(0, abs=1e-4)
    assert terms["hard"] == pytest.approx((1 - alpha) * hard["hard"])
    torch.testing.assert_close(gradient, (1 - alpha) * expected)


def test_as_printed_and_mended_have_one_teacher_and_mended_teaches_its_soft_targets(few):
    size, teacher = replace(SIZE, teacher="small"), protocol._teacher("small")
    (printed, _), (mended, moved) = (ANNET_WAYS[way](few, size) for way in ("as printed", "mended"))
    assert (printed.teacher, printed.temperature, printed.alpha) == (teacher, 2, 0.5)
    assert (mended.key, moved) == (kd.SoftTargets(teacher, 2, 0.5).key, False)


# The teachers


@pytest.mark.parametrize(
    ("name", "build", "moved"),
    [
        ("24 epochs", lambda: kd.models.mlp(1200, dropout=0.2), True),
        ("8 epochs", lambda: kd.models.mlp(1200, dropout=0.5), True),
        ("small", lambda: kd.models.mlp(30), False),
        ("untrained", lambda: kd.models.mlp(1200, dropout=0.5), None),
    ],
)
def test_a_teacher_is_the_network_trained_on_its_images(digits, name, build, moved):
    alone = build()
    if moved is not None:
        recipe = kd.Recipe(epochs=1, augment=kd.data.shift(2) if moved else None)
        kd.fit(alone, kd.CrossEntropy(), digits.limit(100), recipe, progress=False)
    assert same_weights(protocol._teacher(name), alone)


def test_in_a_lesson_teachers_see_the_images_and_epochs_that_their_lines_name(
    digits, trainings, monkeypatch
):
    asked = []
    mnist = SimpleNamespace(
        limit=lambda images: asked.append(images) or digits, test=digits.test, validation=None
    )
    monkeypatch.setenv("KDLIB_PROFILE", "lesson")
    monkeypatch.setattr(protocol, "load", lambda name: {"mnist": mnist}[name])
    for name, (_, images, epochs, moved) in TEACHERS.items():
        rows_of(protocol, "teachers", name)
        if epochs:
            assert asked.pop() == images
            augment = kd.data.shift(2) if moved else None
            assert trainings.pop().recipe == kd.Recipe(epochs=epochs, augment=augment)
        assert not asked and not trainings
    assert [TEACHERS[f"{epochs} epochs"][2] for epochs in (8, 12, 24)] == [8, 12, 24]


# The settings and their hashes


@pytest.mark.parametrize(
    "change",
    [
        ("dropout 0.5", 55_000, 24, True),
        ("dropout 0.2", 50_000, 24, True),
        ("dropout 0.2", 55_000, 25, True),
        ("dropout 0.2", 55_000, 24, False),
    ],
)
def test_a_hash_covers_every_change_of_its_teacher(lesson, monkeypatch, change):
    before = protocol.settings()
    monkeypatch.setitem(TEACHERS, "24 epochs", change)
    after = protocol.settings()
    changed = {b.setting for b, a in zip(before, after, strict=True) if b.key != a.key}
    lines = [s for s in before if s.experiment != "teachers"]
    taught = {s.setting for s in lines if shape(s).teacher == "24 epochs"}
    assert changed == {"24 epochs"} | taught
    assert {"T = 20", "T = 4", "T = 1, alpha = 0", "class means; 1,000 images"} <= changed
    assert "T = 20; 12 epochs" not in changed


def test_lines_have_the_images_steps_network_and_teacher_that_they_name(lesson):
    settings = [s for s in protocol.settings() if s.experiment != "teachers"]
    assert len(settings) > 60
    for setting in settings:
        size, (_, _, note) = shape(setting), setting.setting.partition("; ")
        expected = {"images": (None, 1_170), "all images": (55_000, 6 * (55_000 // 128))}
        images, steps = expected.get(setting.experiment, (10_000, 15 * (10_000 // 128)))
        if setting.experiment == "images":
            images = int(note.removesuffix(" images").replace(",", ""))
        assert (size.images, size.iterations) == (images, steps)
        assert size.seeds == (0, 1, 2, 3, 4)
        network = {"annet": "anNet", "grid 30": "2 x 30"}.get(setting.experiment, "2 x 800")
        assert size.network == network
        teachers = {"weak teacher": "small", "annet": "anNet_deep", "teacher": note}
        if setting.experiment == "controls":
            others = {"teacher of the same images": "same images", "untrained teacher": "untrained"}
            teachers["controls"] = others.get(setting.setting, "24 epochs")
        assert size.teacher == teachers.get(setting.experiment, "24 epochs")


def test_every_line_trains_its_way_on_its_images(digits, trainings):
    for setting in protocol.settings():
        if setting.experiment == "teachers":
            continue
        trainings.clear()
        list(setting.run())
        size, data = shape(setting), digits.limit(shape(setting).images)
        way = (WAYS | ANNET_WAYS | GRID)[setting.setting.partition("; ")[0]]
        objective, moved = way(data, size)
        students = [training for training in trainings if training.by != "keep"]
        assert [t.seed for t in students] == [TRIAL_SEED, TRIAL_SEED, 0, 1]
        for training in students:
            assert training.objective.key == objective.key, setting.setting
            assert torch.equal(training.data.train.index, data.train.index)
            assert training.recipe == kd.Recipe(
                iterations=2,
                learning_rate=training.recipe.learning_rate,
                augment=kd.data.shift(2) if moved else None,
            )
            assert training.by == ("fit_cohort" if "grid" in setting.experiment else "fit")
            if size.network == "anNet":
                assert same_weights(training.model, kd.models.anNet(seed=training.seed))
            else:
                width = int(size.network.removeprefix("2 x "))
                assert training.model.built == (width, {"seed": training.seed})
