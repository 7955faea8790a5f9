"""kdlib/reproduce/student.py: every line trains what its name says, and its hash says how."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import entr, softmax
from torch import nn

import kdlib as kd
from kdlib.identity import weights_hash
from kdlib.objectives import Outputs
from kdlib.reproduce import stages
from kdlib.reproduce import student as protocol
from kdlib.reproduce.student import ANNET_WAYS, GRID, TEACHERS, WAYS, AsPrinted, Student

SIZE = Student(images=140)


@pytest.fixture(scope="module", autouse=True)
def smoke():
    """Digits and two steps, and nothing of it left in memory afterwards."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDLIB_PROFILE", "smoke")
        patch.setattr(protocol, "load", lambda name: kd.data.load(name, device="cpu"))
        protocol._data.cache_clear()
        protocol._teacher.cache_clear()
        yield
    protocol._data.cache_clear()
    protocol._teacher.cache_clear()
    torch.set_num_threads(threads)


@pytest.fixture
def lesson(monkeypatch):
    """What is run for the course: looked at here, never run."""
    monkeypatch.setenv("KDLIB_PROFILE", "lesson")


@pytest.fixture(scope="module")
def few(digits):
    return digits.limit(140)


@pytest.fixture(scope="module")
def own(few):
    """The teacher's logits for the images, (N, C) in float64."""
    return kd.logits(protocol._teacher("24 epochs"), few.train).double().numpy()


def line(experiment, setting):
    (found,) = [
        s for s in protocol.settings() if (s.experiment, s.setting) == (experiment, setting)
    ]
    return found


def shape(setting):
    """The Student of a line."""
    return setting.run.args[1]


def targets(name, few):
    """What a way that teaches by a table gives for each image, (N, C)."""
    objective, moved = WAYS[name](few, SIZE)
    assert type(objective) is kd.SoftTargets
    assert (objective.temperature, objective.alpha, moved) == (20, 0.9, False)
    return objective.teacher[few.train.index].double().numpy()


def mean_entropy(logits, temperature):
    return entr(softmax(logits / temperature, axis=1)).sum(1).mean()


def origins(rows, own):
    """Whose targets each image has: the place of the row that it got."""
    equal = (rows[:, None] == own.astype(np.float32)).all(2)
    assert (equal.sum(1) == 1).all()
    return equal.argmax(1)


# The controls


def test_class_means_are_one_target_for_all_images_of_a_class(few, own):
    rows, labels = targets("class means", few), few.train.labels.numpy()
    for k in range(10):
        (found,) = np.unique(rows[labels == k], axis=0)
        np.testing.assert_allclose(found, own[labels == k].mean(0), rtol=0, atol=1e-5)
    assert len(np.unique(rows, axis=0)) == 10


def test_targets_shuffled_within_a_class_are_those_of_another_image_of_it(few, own):
    places = origins(targets("shuffled within a class", few), own)
    labels = few.train.labels.numpy()
    assert sorted(places) == list(range(140))
    assert (places != np.arange(140)).all()
    assert (labels[places] == labels).all()


def test_targets_shuffled_over_all_are_those_of_any_other_image(few, own):
    places = origins(targets("shuffled over all", few), own)
    labels = few.train.labels.numpy()
    assert sorted(places) == list(range(140))
    assert (places != np.arange(140)).all()
    assert (labels[places] == labels).mean() < 0.3


def test_smoothed_labels_are_as_uncertain_as_the_soft_targets_and_know_only_the_label(few, own):
    # The real teacher is surer than one of smoke size.
    rows = targets("smoothed labels of equal entropy", few)
    assert mean_entropy(rows, 20) == pytest.approx(mean_entropy(own, 20), abs=1e-3)
    labels = few.train.labels.numpy()
    others = np.delete(rows - rows[np.arange(140), labels][:, None], 0, axis=1)
    assert (rows.argmax(1) == labels).all()
    assert len(np.unique(rows, axis=0)) == 10
    assert len(np.unique(others)) == 2


@pytest.mark.parametrize("scale", [1, 30, 300])
def test_entropies_are_equal_however_sure_the_teacher_is(few, own, monkeypatch, scale):
    sure = torch.from_numpy(scale * own).float()
    monkeypatch.setattr(protocol, "_own", lambda few, student: sure)
    rows = targets("smoothed labels of equal entropy", few)
    assert mean_entropy(rows, 20) == pytest.approx(mean_entropy(scale * own, 20), abs=1e-3)


@pytest.mark.parametrize("name", ["class means", "shuffled over all"])
def test_a_table_has_no_targets_for_images_that_are_not_shown(few, name):
    objective, _ = WAYS[name](few, SIZE)
    shown = torch.zeros(len(objective.teacher), dtype=torch.bool)
    shown[few.train.index] = True
    assert objective.teacher[~shown].isnan().all()
    assert objective.teacher[shown].isfinite().all()


@pytest.mark.parametrize(
    ("name", "teacher", "temperature", "moved"),
    [
        ("T = 1", "24 epochs", 1, False),
        ("T = 4", "24 epochs", 4, False),
        ("T = 20", "24 epochs", 20, False),
        ("T = 20, moved", "24 epochs", 20, True),
        ("teacher of the same images", "same images", 20, False),
        ("untrained teacher", "untrained", 20, False),
    ],
)
def test_soft_targets_are_of_the_teacher_and_temperature_named(
    few, name, teacher, temperature, moved
):
    line = next(s for s in protocol.settings() if s.setting == name)
    student = line.run.args[1]
    assert student.teacher == teacher and str(TEACHERS[teacher]) in line.recipe
    objective, found = WAYS[name](few, student)
    assert type(objective) is kd.SoftTargets
    assert objective.teacher is protocol._teacher(teacher)
    assert (objective.temperature, objective.alpha, found) == (temperature, 0.9, moved)


def test_the_other_ways_are_what_they_are_called(few):
    expected = {
        "labels": (kd.CrossEntropy(), False),
        "labels, moved": (kd.CrossEntropy(), True),
        "label smoothing 0.1": (kd.CrossEntropy(label_smoothing=0.1), False),
        "logit matching": (kd.LogitMatching(protocol._teacher("24 epochs")), False),
    }
    for name, (objective, moved) in expected.items():
        found = WAYS[name](few, SIZE)
        assert (found[0].key, found[1]) == (objective.key, moved)


def test_a_line_of_another_teacher_is_taught_by_that(few):
    for name in ("same images", "small"):
        objective, _ = WAYS["T = 20"](few, replace(SIZE, teacher=name))
        assert objective.teacher is protocol._teacher(name)
    rows = {
        name: WAYS["class means"](few, replace(SIZE, teacher=name))[0].teacher[few.train.index]
        for name in ("24 epochs", "small")
    }
    assert not torch.allclose(*rows.values())


# A blog's loss


def stepped(objective, few, logits):
    """Terms of a step on the first 20 images, and the gradient by the student's logits."""
    logits = logits.clone().requires_grad_()
    rows = torch.arange(20)
    part = few.train.select(rows)
    batch = kd.Batch(part.inputs, part.labels, part.index, 0.0, torch.Generator())
    objective.prepare(kd.models.mlp(1), few.train, kd.Recipe())
    terms = objective(Outputs(logits), batch)
    sum(terms.values()).backward()
    return {name: term.item() for name, term in terms.items()}, logits.grad


@pytest.mark.parametrize(("temperature", "alpha"), [(2, 0.5), (20, 0.9)])
def test_as_printed_teaches_the_labels_only(few, temperature, alpha):
    taught = kd.models.mlp(12, seed=3)
    with torch.no_grad():
        taught[-1].weight *= 20
    logits = 3 * torch.randn(20, 10, generator=torch.Generator().manual_seed(0))
    terms, gradient = stepped(AsPrinted(taught, temperature, alpha), few, logits)
    hard, expected = stepped(kd.CrossEntropy(), few, logits)
    assert terms["soft"] == pytest.approx(0, abs=1e-4)
    assert terms["hard"] == pytest.approx((1 - alpha) * hard["hard"])
    torch.testing.assert_close(gradient, (1 - alpha) * expected)


def test_mended_teaches_the_soft_targets_as_well(few):
    size = replace(SIZE, teacher="small")
    (printed, _), (mended, moved) = (ANNET_WAYS[way](few, size) for way in ("as printed", "mended"))
    assert (printed.teacher, mended.teacher) == (protocol._teacher("small"),) * 2
    assert (printed.temperature, printed.alpha) == (mended.temperature, mended.alpha) == (2, 0.5)
    assert not moved
    logits = 3 * torch.randn(20, 10, generator=torch.Generator().manual_seed(0))
    terms, gradient = stepped(mended, few, logits)
    _, labels = stepped(kd.CrossEntropy(), few, logits)
    assert terms["soft"] > 0.1
    assert (gradient - 0.5 * labels).abs().max() > 0.01


# The teachers


def test_an_untrained_teacher_is_as_it_was_built():
    built = kd.models.mlp(1200, dropout=0.5, seed=0)
    assert weights_hash(protocol._teacher("untrained")) == weights_hash(built)


@pytest.mark.parametrize(
    ("name", "build", "moved"),
    [
        ("24 epochs", lambda: kd.models.mlp(1200, dropout=0.2), True),
        ("8 epochs", lambda: kd.models.mlp(1200, dropout=0.5), True),
        ("small", lambda: kd.models.mlp(30), False),
    ],
)
def test_a_teacher_is_the_network_trained_on_its_images(digits, name, build, moved):
    alone = build()
    recipe = kd.Recipe(epochs=1, augment=kd.data.shift(2) if moved else None)
    kd.fit(alone, kd.CrossEntropy(), digits.limit(100), recipe, progress=False)
    assert weights_hash(protocol._teacher(name)) == weights_hash(alone)


def test_in_a_lesson_teachers_see_the_images_and_epochs_that_their_lines_name(lesson, monkeypatch):
    class Mnist:
        def limit(self, images):
            return images

    monkeypatch.setattr(protocol, "_data", Mnist)
    monkeypatch.setattr(protocol, "keep", lambda build, objective, images, recipe: (images, recipe))
    for name, (_, images, epochs, moved) in TEACHERS.items():
        if epochs:
            augment = kd.data.shift(2) if moved else None
            expected = (images, kd.Recipe(epochs=epochs, augment=augment))
            assert protocol._teacher.__wrapped__(name) == expected
    assert [TEACHERS[f"{epochs} epochs"][2] for epochs in (8, 12, 24)] == [8, 12, 24]


def test_a_teachers_line_has_its_scores(digits):
    rows = {row.metric: row for row in line("teachers", "small").run()}
    scores = kd.evaluate(protocol._teacher("small"), digits.test)
    assert rows["test_errors"].value == scores.errors
    assert rows["test_loss"].value == scores.loss
    assert rows["test_ece"].value == scores.ece
    held_out = kd.evaluate(protocol._teacher("small"), digits.validation)
    assert rows["validation_errors"].value == held_out.errors
    assert {(row.teacher_seed, row.student_seed) for row in rows.values()} == {(0, None)}
    assert len(rows) == 4


# A line


def numbers(rows, metric):
    return [row.value for row in rows if row.metric == metric]


@pytest.mark.parametrize(
    ("experiment", "way"),
    [
        ("controls", "labels"),
        ("controls", "T = 20, moved"),
        ("controls", "class means"),
        ("annet", "mended"),
        ("grid 30", "T = 4, alpha = 0.5"),
    ],
)
def test_a_line_tries_its_rates_and_trains_every_seed_with_the_best(digits, experiment, way):
    setting = line(experiment, way)
    size, rows = shape(setting), list(setting.run())
    data = digits.limit(size.images)
    objective, moved = (WAYS | ANNET_WAYS | GRID)[way](data, size)
    grid = experiment == "grid 30"  # by fit_cohort, so that rounding may move an image

    def alone(rate, seed):
        model = protocol._build(size.network, seed)
        augment = kd.data.shift(2) if moved else None
        recipe = kd.Recipe(iterations=2, learning_rate=rate, augment=augment)
        kd.fit(model, objective, data, recipe, seed=seed, progress=False)
        return [kd.evaluate(model, split) for split in (data.validation, data.test)]

    trials = [numbers(rows, f"validation_errors at {rate:g}") for rate in size.rates]
    expected = [[alone(rate, 99)[0].errors] for rate in size.rates]
    np.testing.assert_allclose(trials, expected, rtol=0, atol=grid)
    best = size.rates[int(np.argmin(trials))]
    assert numbers(rows, "learning_rate") == [best]
    held_out, test = zip(*(alone(best, seed) for seed in size.seeds), strict=True)
    for metric, wanted, off in (
        ("validation_errors", [scores.errors for scores in held_out], grid),
        ("test_errors", [scores.errors for scores in test], grid),
        ("test_loss", [scores.loss for scores in test], 1e-4 * grid),
        ("test_ece", [scores.ece for scores in test], 1e-2 * grid),
    ):
        np.testing.assert_allclose(numbers(rows, metric), wanted, rtol=0, atol=off)
    assert [row.student_seed for row in rows] == [99, 99, None, *[0] * 4, *[1] * 4]
    assert all(row.seconds > 0 for row in rows if row.student_seed in (0, 1))


@pytest.mark.parametrize("held_out", [(7, 5), (5, 7), (5, 5)])
def test_the_rate_with_the_fewest_errors_on_validation_is_taken(monkeypatch, held_out):
    setting = line("controls", "labels")
    rates = shape(setting).rates
    errors = dict(zip(rates, held_out, strict=True))

    def fit(model, objective, data, recipe, **options):
        model.rate = recipe.learning_rate
        return kd.History(pd.DataFrame(), interrupted=False)

    def evaluate(model, split):
        of_test = len(split) == len(protocol._data().test)  # where the other rate is better
        return kd.Scores(100 - errors[model.rate] if of_test else errors[model.rate], 0, 0, 0)

    monkeypatch.setattr(stages, "fit", fit)
    for module in (protocol, stages):  # trials and scores
        monkeypatch.setattr(module, "evaluate", evaluate)
    rows = list(setting.run())
    best = rates[held_out.index(min(held_out))]  # the lower where both are equal
    assert numbers(rows, "learning_rate") == [best]
    assert numbers(rows, "test_errors") == [100 - min(held_out)] * 2


def test_test_and_validation_are_not_looked_at_in_training(monkeypatch):
    seen = []

    def noted(model, objective, data, *arguments, **options):
        seen.append((data.validation, data.test))
        return kd.fit(model, objective, data, *arguments, **options)

    monkeypatch.setattr(stages, "fit", noted)
    list(line("controls", "labels").run())
    assert seen == [(None, None)] * 4


def diverging(*rates):
    def fit(model, objective, data, recipe, **options):
        if recipe.learning_rate in rates:
            raise FloatingPointError
        return kd.fit(model, objective, data, recipe, **options)

    return fit


def test_a_rate_that_diverges_is_not_taken(monkeypatch):
    setting = line("controls", "labels")
    low, high = shape(setting).rates
    for bad, good in ((low, high), (high, low)):
        monkeypatch.setattr(stages, "fit", diverging(bad))
        rows = list(setting.run())
        assert math.isnan(*numbers(rows, f"validation_errors at {bad:g}"))
        assert numbers(rows, "learning_rate") == [good]
        assert len(numbers(rows, "test_errors")) == 2


def test_a_line_that_is_interrupted_gives_no_more_rows(monkeypatch):
    def interrupted(*arguments, **options):
        return replace(kd.fit(*arguments, **options), interrupted=True)

    monkeypatch.setattr(stages, "fit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(line("controls", "labels").run())


# The settings and their hashes


@pytest.mark.parametrize("profile", ["smoke", "lesson"])
def test_no_two_settings_are_one(monkeypatch, profile):
    monkeypatch.setenv("KDLIB_PROFILE", profile)
    settings = protocol.settings()
    assert len({s.key for s in settings}) == len(settings) > 70
    assert len({(s.experiment, s.setting) for s in settings}) == len(settings)
    assert {s.protocol for s in settings} == {{"smoke": "smoke", "lesson": "short"}[profile]}
    experiments = (
        "teachers, controls, teacher, weak teacher, images, all images, annet, grid 30, grid 800"
    )
    assert list(dict.fromkeys(s.experiment for s in settings)) == experiments.split(", ")


def test_smoke_is_never_taken_for_a_lesson(monkeypatch):
    keys = []
    for profile in ("smoke", "lesson"):
        monkeypatch.setenv("KDLIB_PROFILE", profile)
        keys.append({s.key[-1] for s in protocol.settings() if s.experiment != "teachers"})
    assert not keys[0] & keys[1]


CHANGES = {
    "images": 9_999,
    "iterations": 1_171,
    "rates": (0.01, 0.03, 0.1),
    "seeds": (0, 1, 2, 3),
    "network": "2 x 801",
    "teacher": "12 epochs",
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_recipe_tells_every_change_of_its_students(lesson, name):
    before = protocol._line("controls", "T = 4", Student())
    after = protocol._line("controls", "T = 4", replace(Student(), **{name: CHANGES[name]}))
    assert before.key != after.key
    assert before.key[:3] == after.key[:3]
    assert before.key == protocol._line("controls", "T = 4", Student()).key


@pytest.mark.parametrize(
    "change",
    [("dropout 0.2", 55_000, 25, True), ("dropout 0.2", 50_000, 24, True)]
    + [("dropout 0.5", 55_000, 24, True), ("dropout 0.2", 55_000, 24, False)],
    ids=["epochs", "images", "network", "views"],
)
def test_a_recipe_tells_every_change_of_its_teacher(lesson, monkeypatch, change):
    def taught(settings):
        return [s for s in settings if s.experiment != "teachers"]

    before = protocol.settings()
    monkeypatch.setitem(TEACHERS, "24 epochs", change)
    after = protocol.settings()
    changed = {b.setting for b, a in zip(before, after, strict=True) if b.key != a.key}
    named = [s for s in taught(before) if shape(s).teacher == "24 epochs"]
    assert changed == {"24 epochs"} | {s.setting for s in named}
    assert {"T = 20", "T = 4", "T = 1, alpha = 0", "class means; 1,000 images"} <= changed
    assert "T = 20; 12 epochs" not in changed


@pytest.mark.parametrize(("name", "value"), [("VERSION", 99), ("ALPHA", 0.8)])
def test_a_recipe_tells_the_version_and_the_weight_of_soft_targets(
    lesson, monkeypatch, name, value
):
    before = line("controls", "T = 20")
    monkeypatch.setattr(protocol, name, value)
    assert line("controls", "T = 20").key != before.key


def test_lines_have_the_images_steps_network_and_teacher_that_they_name(lesson):
    for setting in protocol.settings():
        if setting.experiment == "teachers":
            continue
        size = shape(setting)
        expected = {"images": (None, 1_170), "all images": (55_000, 6 * (55_000 // 128))}
        images, steps = expected.get(setting.experiment, (10_000, 15 * (10_000 // 128)))
        if setting.experiment == "images":
            images = int(setting.setting.split("; ")[1].removesuffix(" images").replace(",", ""))
        assert (size.images, size.iterations) == (images, steps)
        assert size.seeds == (0, 1, 2, 3, 4)
        network = {"annet": "anNet", "grid 30": "2 x 30"}.get(setting.experiment, "2 x 800")
        assert size.network == network
        teachers = {"weak teacher": "small", "annet": "anNet_deep"}
        teachers["teacher"] = setting.setting.split("; ")[-1]
        if setting.experiment == "controls":
            others = {"teacher of the same images": "same images", "untrained teacher": "untrained"}
            teachers["controls"] = others.get(setting.setting, "24 epochs")
        assert size.teacher == teachers.get(setting.experiment, "24 epochs")


def test_students_are_of_the_network_that_is_named():
    for width in (30, 800):
        found = protocol._build(f"2 x {width}", seed=3)
        assert weights_hash(found) == weights_hash(kd.models.mlp(width, seed=3))
    found = protocol._build("anNet", seed=3)
    assert weights_hash(found) == weights_hash(kd.models.anNet(seed=3))
    assert isinstance(found[0], nn.Conv2d)


def test_the_grid_is_every_temperature_with_every_alpha(few):
    assert len(GRID) == 5 * 3 + 1
    for name, way in GRID.items():
        objective, moved = way(few, replace(SIZE, teacher="small"))
        assert name == f"T = {objective.temperature:g}, alpha = {objective.alpha:g}"
        assert objective.teacher is protocol._teacher("small")
        assert not moved
    found = {(o.temperature, o.alpha) for o, _ in (way(few, SIZE) for way in GRID.values())}
    assert {T for T, _ in found} == {1, 2, 4, 8, 20}
    assert {(T, alpha) for T, alpha in found if alpha == 0} == {(1, 0)}
    assert {alpha for _, alpha in found} == {0, 0.5, 0.9, 1}
