"""kdlib/reproduce/hinton.py: every line trains what its name says, and its hash says how."""

import copy
import re
from dataclasses import replace
from functools import cache
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from protocols import TRIAL_SEED, changes, clear, numbers, rows_of, setting_of, trace

import kdlib as kd
from kdlib.class_subsets.omitted import bias_by_errors, bias_by_mass
from kdlib.class_subsets.specialists import (
    clusters,
    combine,
    dustbin_correction,
    specialist_data,
    specialist_of,
)
from kdlib.identity import weights_hash
from kdlib.reproduce import hinton as protocol
from kdlib.reproduce.hinton import ALPHA, SEEDS, TEACHER_SEEDS, TEACHERS

LEFT_OUT = {"no 3s": [3], "only 7s and 8s": [0, 1, 2, 3, 4, 5, 6, 9]}
OTHERS = {"images": "all", "left_out": (), "keep": "last", "held_out": False, "together": False}


class Course(NamedTuple):
    """A lesson's settings, traced on small data in the place of MNIST and Fashion-MNIST."""

    traces: dict
    trainings: list
    loaded: dict  # data by name and options

    def teachers(self, name, seed):
        """The network, or all members of the ensemble, that students are taught by."""
        if name == protocol.ENSEMBLE:
            return [self.teachers("member", member) for member in TEACHER_SEEDS["member"]]
        return self.traces["teachers", f"{name}, seed {seed}"].trainings[0].model


@pytest.fixture(scope="module")
def course(digits):
    whole = kd.data.load("digits", validation=0, device="cpu")
    images, labels = whole.train.inputs.repeat(2, 1, 1, 1), whole.train.labels.repeat(2)
    clothes = torch.rand(images.shape, generator=torch.Generator().manual_seed(0)) ** 2 * 7 - 3
    loaded = {}

    @cache
    def load(name, validation=300):
        inputs = {"mnist": images, "fashion_mnist": clothes}[name]
        test = whole.test.inputs, whole.test.labels
        data = kd.data.from_arrays(inputs, labels, *test, validation=validation, device="cpu")
        loaded[name, validation > 0] = data
        return data

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDLIB_PROFILE", "lesson")
        patch.setattr(protocol, "load", load)
        traces, seen = trace(protocol, patch)
    clear()
    return Course(traces, seen, loaded)


def lines(course):
    """Settings that train students, with their traces and what their names promise."""
    for (experiment, name), traced in course.traces.items():
        if experiment not in ("teachers", "specialists") and name != protocol.ENSEMBLE:
            yield experiment, name, traced, promised(experiment, name)


def promised(experiment, name):
    """What a line's name and the protocol's docstring say about it."""
    first, _, second = name.partition("; ")
    found = {"way": first.removesuffix(", twice as long"), "teacher": "teacher", "width": 800}
    if experiment == "temperature":
        found |= {"width": int(second.removeprefix("2 x ")), "together": True}
    elif experiment == "left out":
        found |= {"way": second, "left_out": LEFT_OUT[first], "held_out": True}
    elif experiment == "few labels":
        found |= {"images": "few labels", "held_out": True}
        if name.startswith("labels, "):
            found["way"] = "labels" if name != "labels, moved" else name
        found["keep"] = "best" if name.endswith("stopped early") else "last"
        found["teacher"] = "of few labels" if second else "teacher"
    elif experiment == "ensemble":
        teacher = protocol.ENSEMBLE if name.endswith("of ten") else "member"
        found |= {"way": "T = 4", "teacher": teacher, "width": 300}
    elif experiment == "transfer set":
        found |= {"way": "T = 20, alone", "images": name, "teacher": "of a half"}
    elif experiment == "label smoothing":
        teacher = {"usual teacher": "of six epochs", "label-smoothed teacher": "label-smoothed"}
        found |= {"teacher": teacher[second], "width": 300}
    return SimpleNamespace(**OTHERS | found)


def images_of(course, want, seed, held_out):
    """The images of a line, or of a teacher, by the protocol's docstring."""
    train = course.loaded["mnist", held_out or want.images == "few labels"].train
    half = len(train) // 2
    if want.images == "few labels":
        return course.loaded["mnist", True].limit(1_800, seed=seed % 5).train  # 3 % of 60,000
    if want.images == "own half":
        return train.select(slice(half))
    if want.images == "other half":
        return train.select(slice(half, None)).unlabelled()
    if want.images in ("Fashion-MNIST", "noise"):
        return course.traces["transfer set", want.images].trainings[0].data.train  # see below
    if want.left_out:
        return train.select(torch.from_numpy(~np.isin(train.labels.numpy(), want.left_out)))
    return train


# A lesson


def test_every_line_trains_the_network_way_and_views_of_its_name_on_its_images(course):
    for _, name, traced, want in lines(course):
        for training in traced.trainings:
            held_out = want.held_out or training.seed == TRIAL_SEED
            seed = traced.trainings[0].seed if want.together else training.seed
            expected = images_of(course, want, seed, held_out)
            assert training.data.train.fingerprint() == expected.fingerprint(), name
            assert training.model.built == (want.width, {"seed": training.seed}), name
            assert training.by == ("fit_cohort" if want.together else "fit"), name
            recipe, moved = training.recipe, kd.data.shift(2) if "moved" in name else None
            assert recipe == kd.Recipe(
                iterations=recipe.iterations,
                learning_rate=recipe.learning_rate,
                augment=moved,
                keep=want.keep,
            ), name
            if want.way.startswith("labels"):
                assert training.objective.key == kd.CrossEntropy().key, name
                continue
            seeds = TEACHER_SEEDS.get(want.teacher, [0])
            turn = seeds[0 if want.together else training.seed % len(seeds)]
            teacher, objective = course.teachers(want.teacher, turn), training.objective
            assert objective.teacher == teacher, name
            if want.way == "logit matching":
                assert objective.key == kd.LogitMatching(teacher).key
            else:
                temperature = float(re.match(r"T = (\d+)", want.way)[1])
                alpha = 1 if "alone" in want.way else ALPHA
                assert objective.key == kd.SoftTargets(teacher, temperature, alpha).key, name
                assert alpha == 1 or training.data.train.labels is not None, name


def test_rates_are_tried_for_a_quarter_of_the_steps_and_five_students_trained(course):
    several, budgets = 0, {}
    for experiment, name, traced, want in lines(course):
        trials = [t for t in traced.trainings if t.seed == TRIAL_SEED]
        assert [t.seed for t in traced.students] == [0, 1, 2, 3, 4] == list(SEEDS), name
        ((steps, rate),) = {(t.recipe.iterations, t.recipe.learning_rate) for t in traced.students}
        assert numbers(traced.rows, "learning_rate") == [rate]
        assert {t.recipe.iterations for t in trials} <= {steps // 4}
        tried = [t.recipe.learning_rate for t in trials]
        assert len(set(tried)) == len(tried) != 1
        assert not tried or rate == tried[0]  # all score alike, and the first is taken
        several += len(tried) > 1
        steps /= 2 if name.endswith("twice as long") else 1
        network = None if experiment == "temperature" else want.width
        budgets.setdefault(experiment, set()).add((steps, network))
    assert several > 5
    assert all(len(found) == 1 for found in budgets.values()), budgets
    assert all(steps > 100 for found in budgets.values() for steps, _ in found)


SCORES = {"test_errors", "test_loss", "test_ece"}
PUT_RIGHT = {"errors on them"} | {
    f"{what} by {way}"
    for what in ("bias", "test_errors", "errors on them")
    for way in ("validation", "mass", "test")
}


def test_a_lines_rows_are_the_metrics_of_the_docstring_each_once(course):
    for _, name, traced, want in lines(course):
        taught = not want.way.startswith("labels")
        metrics = SCORES | ({"agreement", "divergence"} if taught else set())
        metrics |= {"validation_errors"} if want.held_out else set()
        metrics |= PUT_RIGHT if want.left_out else set()
        for seed in SEEDS:
            rows = [row for row in traced.rows if row.student_seed == seed]
            assert sorted(row.metric for row in rows) == sorted(metrics), name
            assert {row.seconds > 0 for row in rows} == {True} or want.together
            seeds = TEACHER_SEEDS.get(want.teacher) if taught else None
            turn = seeds and seeds[0 if want.together else seed % len(seeds)]
            assert {row.teacher_seed for row in rows} == {turn}, name
        others = [row.metric for row in traced.rows if row.student_seed not in SEEDS]
        trials = [m for m in others if m.startswith("validation_errors at ")]
        assert others == [*trials, "learning_rate"] and len(set(trials)) == len(trials)


def test_teachers_are_the_networks_that_are_named_and_measured_before_they_teach(course):
    """No other setting trains a teacher, so every student finds its teacher trained."""
    for (experiment, name), traced in course.traces.items():
        if experiment != "teachers":
            assert not any(t.by == "keep" for t in traced.trainings), name
            continue
        ((_, model, _, objective, data, recipe, seed),) = traced.trainings
        which = name.removesuffix(f", seed {seed}")
        what = TEACHERS[which]
        assert seed in TEACHER_SEEDS[which] and name == f"{which}, seed {seed}"
        assert model.built == (what.width, {"dropout": what.dropout, "seed": seed})
        assert objective.key == kd.CrossEntropy(what.label_smoothing).key
        augment = kd.data.shift(2) if what.moved else None
        assert recipe == kd.Recipe(iterations=what.steps, learning_rate=what.rate, augment=augment)
        images = {"of a half": "own half", "of few labels": "few labels"}.get(which, "all")
        want = SimpleNamespace(**OTHERS | {"images": images})
        assert what.images == images
        expected = images_of(course, want, seed, False)
        assert data.train.fingerprint() == expected.fingerprint()
    first = TEACHERS["teacher"]
    assert (first.width, first.images, first.moved) == (1200, "all", True)
    assert first.dropout > 0 and len(TEACHER_SEEDS["teacher"]) > 1
    assert len(TEACHER_SEEDS["member"]) == 10
    assert not {*TEACHER_SEEDS["member"]} & {*SEEDS, TRIAL_SEED}  # no student begins as one did


@pytest.mark.parametrize("name", ["Fashion-MNIST", "noise"])
def test_other_images_have_black_and_white_where_the_digits_have_and_no_labels(course, name):
    own = course.traces["transfer set", "own half"].trainings[0].data.train
    seen = [t.data.train for t in course.traces["transfer set", name].students]
    assert len({split.fingerprint() for split in seen}) == 1
    other = seen[0]
    assert other.labels is None
    assert (other.inputs.shape, other.inputs.dtype) == (own.inputs.shape, own.inputs.dtype)
    assert other.index.unique().tolist() == sorted(own.index.tolist())
    for end in (torch.min, torch.max):
        torch.testing.assert_close(end(other.inputs), end(own.inputs))
    grey = (other.inputs - own.inputs.min()) / (own.inputs.max() - own.inputs.min())
    if name == "noise":
        assert (torch.histc(grey, 10, 0, 1) / grey.numel() - 0.1).abs().max() < 0.01
    else:
        expected = course.loaded["fashion_mnist", False].train.inputs[: len(own)]
        expected = (expected - expected.min()) / (expected.max() - expected.min())
        torch.testing.assert_close(grey, expected, rtol=0, atol=1e-5)


def test_label_smoothed_teachers_differ_from_the_usual_in_that_alone():
    smoothed = TEACHERS["label-smoothed"]
    assert smoothed.label_smoothing == 0.1
    assert replace(smoothed, label_smoothing=0.0) == TEACHERS["of six epochs"]


def test_the_ensembles_line_has_the_scores_of_all_ten_together():
    data = kd.data.load("digits", validation=0, device="cpu")
    members = [protocol._teacher("member", seed) for seed in TEACHER_SEEDS["member"]]
    scores = kd.evaluate(members, data.test)
    rows = rows_of(protocol, "ensemble", protocol.ENSEMBLE)
    assert {row.metric: row.value for row in rows} == {
        "test_errors": scores.errors,
        "test_loss": scores.loss,
        "test_ece": scores.ece,
    }
    assert {(row.teacher_seed, row.student_seed) for row in rows} == {(None, None)}
    assert scores.loss != kd.evaluate(members[0], data.test).loss


# Digits that were left out


@pytest.fixture(scope="module")
def generalist(digits):
    """A network better than those of smoke size, so that its answers mean something."""
    model = kd.models.mlp(16, seed=2)
    recipe = kd.Recipe(iterations=60, learning_rate=0.05)
    kd.fit(model, kd.CrossEntropy(), digits, recipe, progress=False)
    return model


def test_biases_are_raised_by_what_each_of_three_ways_finds(digits, generalist):
    missing, student = (3, 5), copy.deepcopy(generalist)
    with torch.no_grad():  # now it predicts 3s and 5s too rarely
        student[-1].bias[[3, 5]] -= 4.0
    rows = dict(protocol._scores(student, None, digits, missing))
    held_out, test = (kd.logits(student, split) for split in (digits.validation, digits.test))
    y = digits.test.labels.numpy()
    of_them = np.isin(y, missing)
    share = np.isin(digits.validation.labels.numpy(), missing).mean()
    biases = {
        "validation": bias_by_errors(held_out, digits.validation.labels, missing),
        "mass": bias_by_mass(held_out, missing, share),
        "test": bias_by_errors(test, digits.test.labels, missing),
    }
    assert len(set(biases.values())) == 3

    def wrong(bias):
        z = test.double().numpy().copy()
        z[:, missing] += bias
        return z.argmax(1) != y

    assert rows["test_errors"] == wrong(0).sum()  # with the bias that it has
    assert rows["errors on them"] == wrong(0)[of_them].sum()
    for way, bias in biases.items():
        assert rows[f"bias by {way}"] == pytest.approx(bias)
        assert rows[f"test_errors by {way}"] == wrong(bias).sum()
        assert rows[f"errors on them by {way}"] == wrong(bias)[of_them].sum()
    assert 0 < rows["errors on them by mass"] < rows["errors on them"]


# Specialists

WHATS = "generalist", "specialists", "specialists, dustbin uncorrected", "trained on", "ensemble"
RATES_OF = {"specialists": 0.05, "trained on": 0.02, "ensemble": 0.04}


def test_answers_are_those_of_specialists_and_of_controls_with_as_many_steps(digits, generalist):
    before = weights_hash(generalist)
    groups = clusters(kd.soften(kd.logits(generalist, digits.validation), 4), 3)
    groups = [classes for classes in groups if len(classes) > 1]  # a class alone is not a group
    assert len(groups) > 1
    found = protocol._answers(generalist, digits, digits.test, 3, RATES_OF, 5)
    assert tuple(found) == WHATS
    assert weights_hash(generalist) == before

    def trained(net, rate, steps, seed, data=digits):
        recipe = kd.Recipe(iterations=steps, learning_rate=rate)
        kd.fit(net, kd.CrossEntropy(), data, recipe, seed=seed, progress=False)
        return kd.logits(net, digits.test)

    z, said = kd.logits(generalist, digits.test), {True: [], False: []}
    for classes in groups:
        special = specialist_data(digits, classes)
        logits = trained(specialist_of(generalist, classes), 0.05, 2, 5, special)
        dustbin = torch.tensor([0.0] * len(classes) + [dustbin_correction(digits, special)])
        said[False].append((classes, logits))
        said[True].append((classes, logits + dustbin))
    corrected, plain = combine(z, said[True]), combine(z, said[False])
    assert (corrected - plain).abs().max() > 0.01
    longer = trained(copy.deepcopy(generalist), 0.02, 2 * len(groups), 5)
    seeds = range(6_000, 6_000 + len(groups))  # of seed 5; no other generalist has them
    others = [trained(copy.deepcopy(generalist), 0.04, 2, seed) for seed in seeds]
    mean = sum(logits.softmax(-1) for logits in (z, *others)) / (1 + len(others))
    expected = [z.softmax(-1), corrected, plain, longer.softmax(-1), mean]
    found["ensemble"] = found["ensemble"] / found["ensemble"].sum(-1, keepdim=True)
    for what, probabilities in zip(WHATS, expected, strict=True):
        torch.testing.assert_close(found[what], probabilities, rtol=1e-5, atol=1e-6)


def test_copies_of_other_generalists_are_trained_with_other_seeds(course):
    seeds = [t.seed for t in course.traces["specialists", "all"].trainings]
    first = seeds.index(SEEDS[0])  # after the trials
    trials, last = (
        [s for s in part if s not in (*SEEDS, TRIAL_SEED)]
        for part in (seeds[:first], seeds[first:])
    )
    assert len({*last}) == len(last) >= len(SEEDS)
    assert trials and {*trials}.isdisjoint(last)


def test_a_generalist_is_the_network_trained_alone_and_errors_are_its_wrong_answers(digits):
    data, found = protocol._generalist(3)
    alone, what = kd.models.mlp(8, seed=3), protocol.SPECIALISTS
    augment = kd.data.shift(2) if what.moved else None
    recipe = kd.Recipe(iterations=2, learning_rate=what.rate, augment=augment)
    kd.fit(alone, kd.CrossEntropy(), digits, recipe, seed=3, progress=False)
    assert data.fingerprint() == digits.fingerprint()
    assert weights_hash(found) == weights_hash(alone)
    p = torch.eye(10)[digits.test.labels]
    p[:7] = p[:7].roll(1, dims=1)
    assert protocol._wrong({"a": p, "b": 5 * p}, digits.test) == {"a": 7, "b": 7}


@pytest.mark.parametrize("k", [0, 1])
def test_how_many_specialists_and_each_rate_are_those_with_the_fewest_errors_on_validation(
    monkeypatch, k
):
    counts, rates = protocol.COUNTS, protocol.SPECIALIST_RATES
    best, asked = (counts[k], rates[-1]), []

    def answers(model, data, split, count, rates, seed):
        asked.append((model, split, count, dict(rates), seed))
        return asked[-1]

    def wrong(answers, split):
        _, asked_split, count, rates, seed = answers
        assert split == asked_split
        if split == "test":
            return dict.fromkeys(WHATS, seed)
        near = abs(count - best[0])
        return {
            "generalist": 50,
            "specialists": 30 + near + (rates["specialists"] != best[1]),
            "specialists, dustbin uncorrected": 1,
            "trained on": 20 - 10 * near + (rates["trained on"] != protocol.SPECIALIST_RATES[0]),
            "ensemble": 20 - 10 * near + (rates["ensemble"] != best[1]),
        }

    monkeypatch.setenv("KDLIB_PROFILE", "lesson")
    data = SimpleNamespace(validation="validation", test="test")
    monkeypatch.setattr(protocol, "_generalist", lambda seed: (data, seed))
    monkeypatch.setattr(protocol, "_answers", answers)
    monkeypatch.setattr(protocol, "_wrong", wrong)
    rows = rows_of(protocol, "specialists", "all")
    assert asked[:-5] == [
        (TRIAL_SEED, "validation", count, dict.fromkeys(RATES_OF, rate), TRIAL_SEED)
        for count in counts
        for rate in rates
    ]
    chosen = {"specialists": best[1], "trained on": rates[0], "ensemble": best[1]}
    assert asked[-5:] == [(seed, "test", best[0], chosen, seed) for seed in SEEDS]
    trials = [
        f"validation_errors of {what}, {count} at {rate:g}"
        for count in counts
        for rate in rates
        for what in WHATS
    ]
    assert [row.metric for row in rows[: len(trials)]] == trials
    assert [(row.metric, row.value, row.student_seed) for row in rows[len(trials) :]] == [
        ("clusters", best[0], None),
        *((f"learning_rate of {what}", rate, None) for what, rate in chosen.items()),
        *((f"test_errors of {what}", seed, seed) for seed in SEEDS for what in WHATS),
    ]


# Hashes


@pytest.mark.parametrize("name", TEACHERS)
def test_a_hash_covers_every_change_of_its_teacher(lesson, monkeypatch, name):
    before = protocol.settings()
    expected = {("teachers", f"{name}, seed {seed}") for seed in TEACHER_SEEDS[name]}
    names = {name, protocol.ENSEMBLE} if name == "member" else {name}
    for setting in before:
        want = promised(setting.experiment, setting.setting)
        students = setting.experiment not in ("teachers", "specialists")
        if students and want.teacher in names and not want.way.startswith("labels"):
            expected.add((setting.experiment, setting.setting))
    for field, changed in changes(TEACHERS[name]):
        with monkeypatch.context() as patch:
            patch.setitem(TEACHERS, name, changed)
            pairs = zip(before, protocol.settings(), strict=True)
            found = {(b.experiment, b.setting) for b, a in pairs if b.key != a.key}
        assert found == expected, field


def test_a_hash_covers_the_generalist(lesson, monkeypatch):
    before = setting_of(protocol, "specialists", "all").key
    for field, changed in changes(protocol.SPECIALISTS):
        monkeypatch.setattr(protocol, "SPECIALISTS", changed)
        assert setting_of(protocol, "specialists", "all").key != before, field
