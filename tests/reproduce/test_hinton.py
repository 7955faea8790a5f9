"""kdlib/reproduce/hinton.py: every line trains what its name says, and its hash says how."""

import copy
import math
import re
from dataclasses import fields, replace
from functools import cache, partial
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

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
from kdlib.reproduce import stages
from kdlib.reproduce.hinton import ALPHA, SEEDS, TEACHER_SEEDS, TEACHERS, TRIAL_SEED, Line, Teacher

TWICE = ", twice as long"
OTHERS_THAN_7_AND_8 = (0, 1, 2, 3, 4, 5, 6, 9)


@pytest.fixture(scope="module", autouse=True)
def smoke():
    """Digits and two steps, and nothing of it left in memory afterwards."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    caches = protocol._load, protocol._teacher, protocol._taught, rows_of
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDLIB_PROFILE", "smoke")
        patch.setattr(protocol, "load", partial(kd.data.load, device="cpu"))
        for cached in caches:
            cached.cache_clear()
        yield
    for cached in caches:
        cached.cache_clear()
    torch.set_num_threads(threads)


@pytest.fixture
def lesson(monkeypatch):
    """What is run for the course: looked at here, never run."""
    monkeypatch.setenv("KDLIB_PROFILE", "lesson")


@pytest.fixture(scope="module")
def whole():
    """Nothing held out."""
    return kd.data.load("digits", validation=0, device="cpu")


def setting_of(experiment, name):
    (found,) = [s for s in protocol.settings() if (s.experiment, s.setting) == (experiment, name)]
    return found


def lines():
    """The settings that are students', with what shapes them."""
    return [
        (setting, *setting.run.args)
        for setting in protocol.settings()
        if getattr(setting.run, "func", None) is protocol._measure
    ]


def shape(experiment, name):
    """The Line of a setting."""
    return setting_of(experiment, name).run.args[0]


@cache
def rows_of(experiment, name):
    return list(setting_of(experiment, name).run())


def numbers(rows, metric):
    return [row.value for row in rows if row.metric == metric]


def teacher(name, student):
    """Students take turns."""
    seeds = list(TEACHER_SEEDS[name])
    return protocol._teacher(name, seeds[student % len(seeds)])


def members():
    return [protocol._teacher("member", seed) for seed in TEACHER_SEEDS["member"]]


# The settings


@pytest.mark.parametrize(("profile", "name"), [("smoke", "smoke"), ("lesson", "paper")])
def test_no_two_settings_are_one(monkeypatch, profile, name):
    monkeypatch.setenv("KDLIB_PROFILE", profile)
    settings = protocol.settings()
    assert len({s.key for s in settings}) == len(settings)
    assert len({(s.experiment, s.setting) for s in settings}) == len(settings)
    assert {s.protocol for s in settings} == {name}
    experiments = {s.experiment for s in settings}
    promised = "teachers, students, temperature, left out, few labels, ensemble, transfer set"
    assert {*promised.split(", "), "specialists"} <= experiments


def test_smoke_is_never_taken_for_a_lesson(monkeypatch):
    keys = []
    for profile in ("smoke", "lesson"):
        monkeypatch.setenv("KDLIB_PROFILE", profile)
        keys.append({s.key for s in protocol.settings()})
    assert not keys[0] & keys[1]


def test_each_teacher_is_measured_with_each_seed_before_the_first_that_it_teaches():
    place = {(s.experiment, s.setting): i for i, s in enumerate(protocol.settings())}
    for setting, line in lines():
        if line.way.startswith("labels"):
            continue
        name = "member" if line.teacher == protocol.ENSEMBLE else line.teacher
        for seed in TEACHER_SEEDS[name]:
            its = place["teachers", f"{name}, seed {seed}"]
            assert its < place[setting.experiment, setting.setting]
    for setting in protocol.settings():
        if setting.experiment == "teachers":
            name, seed = setting.run.args
            assert setting.setting == f"{name}, seed {seed}"
            assert seed in TEACHER_SEEDS[name]


def promised(experiment, name):
    """What the name of a line and the protocol's docstring say of it."""
    found = {"left_out": (), "held_out": False, "keep": "last", "together": False, "images": "all"}
    first, _, second = name.partition("; ")
    if experiment == "students":
        way = name.removesuffix(TWICE)
        found |= {"way": way, "teacher": "teacher", "network": "2 x 800"}
    elif experiment == "temperature":
        found |= {"way": first, "network": second, "teacher": "teacher", "together": True}
    elif experiment == "left out":
        digits = {"no 3s": (3,), "only 7s and 8s": OTHERS_THAN_7_AND_8}[first]
        found |= {"way": second, "left_out": digits, "held_out": True, "teacher": "teacher"}
    elif experiment == "few labels":
        way = name if name == "labels, moved" else first.partition(", ")[0]
        found |= {"way": way, "images": "few labels", "held_out": True}
        found |= {"keep": "best" if name.endswith("stopped early") else "last"}
        found |= {"teacher": "of few labels" if second else "teacher"}
    elif experiment == "ensemble":
        of = {"of ten": "ten members", "of one member": "member"}
        found |= {"way": "T = 4", "teacher": of[name.removeprefix("T = 4 ")]}
    elif experiment == "transfer set":
        found |= {"way": "T = 20, alone", "images": name, "teacher": "of a half"}
    return found


def test_lines_are_what_their_names_say(lesson):
    seen = set()
    for setting, line in lines():
        seen.add(setting.experiment)
        for name, value in promised(setting.experiment, setting.setting).items():
            assert (name, getattr(line, name)) == (name, value), setting.setting
    assert len(seen) >= 6


def test_lines_of_one_experiment_have_one_budget_and_one_network_but_where_that_is_asked(lesson):
    found = {}
    for setting, line in lines():
        network = setting.experiment != "temperature" and line.network
        longer = 2 if setting.setting.endswith(TWICE) else 1
        found.setdefault(setting.experiment, set()).add((line.steps / longer, network))
    assert all(len(budgets) == 1 for budgets in found.values()), found
    assert all(steps > 100 for budgets in found.values() for steps, _ in budgets)


def test_every_temperature_is_tried_at_every_width_beside_the_labels():
    found = {}
    for setting, line in lines():
        if setting.experiment == "temperature":
            found.setdefault(line.network, []).append(line.way)
    ways = ["labels", *(f"T = {T}" for T in protocol.TEMPERATURES)]
    assert len(found) > 1
    assert all(sorted(way) == sorted(ways) for way in found.values())
    assert {1, 20} < set(protocol.TEMPERATURES)


def test_label_smoothed_teachers_differ_from_the_usual_in_that_alone():
    pair = {
        "label-smoothed" in setting.setting: line
        for setting, line in lines()
        if setting.experiment == "label smoothing"
    }
    smoothed, usual = (TEACHERS[pair[which].teacher] for which in (True, False))
    assert smoothed.label_smoothing == 0.1
    assert replace(smoothed, label_smoothing=0.0) == usual
    assert replace(pair[True], teacher="") == replace(pair[False], teacher="")


def test_numbers_of_the_paper_are_of_lines_that_there_are():
    there = {(s.experiment, s.setting.partition(", seed ")[0]) for s in protocol.settings()}
    assert {(number.experiment, number.setting) for number in protocol.PAPER} <= there
    for number in protocol.PAPER:
        rows = rows_of(
            number.experiment, number.setting + ", seed 0" * (number.setting in TEACHERS)
        )
        assert numbers(rows, number.metric)


# Images


def test_students_see_all_images_unless_some_are_held_out(digits, whole):
    data = protocol._images(Line("labels"), 3)
    assert data.validation is None
    assert data.fingerprint() == whole.fingerprint()
    data = protocol._images(Line("labels", held_out=True), 3)
    assert data.fingerprint() == digits.fingerprint()
    assert data.test.fingerprint() == digits.test.fingerprint()


def test_digits_that_are_left_out_are_in_no_training_image_and_in_every_other(digits):
    for setting, line in lines():
        if setting.experiment != "left out":
            continue
        data = protocol._images(line, 0)
        assert not set(data.train.labels.tolist()) & set(line.left_out)
        stay = ~np.isin(digits.train.labels.numpy(), line.left_out)
        assert torch.equal(data.train.index, digits.train.index[torch.from_numpy(stay)])
        for part in ("validation", "test"):
            assert set(getattr(data, part).labels.tolist()) == set(range(10))


def test_few_labels_are_balanced_and_another_part_for_another_seed(digits):
    line = shape("few labels", "labels, to the end")
    parts = [protocol._images(line, seed).train for seed in SEEDS]
    assert len({part.fingerprint() for part in parts}) == len(SEEDS)
    for seed, part in zip(SEEDS, parts, strict=True):
        assert torch.bincount(part.labels).tolist() == [len(part) // 10] * 10
        more = digits.limit(4 * len(part), seed=seed).train
        assert set(part.index.tolist()) < set(more.index.tolist())
    assert protocol._images(line, 0).validation.fingerprint() == digits.validation.fingerprint()


def test_few_labels_are_three_in_a_hundred(lesson, monkeypatch):
    numbers = torch.arange(60_000)
    mnist = kd.data.from_arrays(numbers[:, None].float(), numbers.numpy() % 10, device="cpu")
    monkeypatch.setattr(protocol, "_load", lambda name, held_out: mnist)
    data = protocol._images(shape("few labels", "T = 20"), 0)
    assert len(data.train) == 0.03 * 60_000


def test_the_teacher_of_the_same_labels_saw_those_of_its_student():
    line = shape("few labels", "T = 20; teacher of the same labels")
    for seed in (*SEEDS, TRIAL_SEED):
        _, of_teacher = protocol._teacher_of(line, seed)
        taught = protocol._images(TEACHERS["of few labels"], of_teacher).train
        assert protocol._images(line, seed).train.fingerprint() == taught.fingerprint()


def test_one_half_is_the_teachers_and_the_other_is_neither_seen_by_it_nor_labelled(whole):
    own, other = (
        protocol._images(shape("transfer set", name), 0).train
        for name in ("own half", "other half")
    )
    assert not set(own.index.tolist()) & set(other.index.tolist())
    assert set(own.index.tolist()) | set(other.index.tolist()) == set(whole.train.index.tolist())
    assert abs(len(own) - len(other)) <= 1
    assert other.labels is None
    taught = protocol._images(TEACHERS["of a half"], 0).train
    assert taught.fingerprint() == own.fingerprint()
    assert torch.equal(own.inputs, whole.train.inputs[own.index])
    assert torch.equal(other.inputs, whole.train.inputs[other.index])


@pytest.mark.parametrize("name", ["Fashion-MNIST", "noise"])
def test_other_images_have_black_and_white_where_the_digits_have_and_no_labels(monkeypatch, name):
    own = protocol._images(shape("transfer set", "own half"), 0).train
    clothes = torch.rand(2 * len(own), 1, 28, 28).square() * 7 - 3
    fashion = kd.data.from_arrays(clothes, None, device="cpu")
    load = protocol._load
    monkeypatch.setattr(
        protocol, "_load", lambda which, held: fashion if which != "mnist" else load(which, held)
    )
    line = shape("transfer set", name)
    other = protocol._images(line, 0).train
    assert other.labels is None
    assert other.inputs.shape == own.inputs.shape
    assert other.inputs.dtype == own.inputs.dtype
    for end in (torch.min, torch.max):
        torch.testing.assert_close(end(other.inputs), end(own.inputs))
    assert other.index.unique().tolist() == sorted(own.index.tolist())
    assert protocol._images(line, 1).train.fingerprint() == other.fingerprint()
    grey = (other.inputs - own.inputs.min()) / (own.inputs.max() - own.inputs.min())
    if name == "noise":
        counts = torch.histc(grey, 10, 0, 1) / grey.numel()
        assert (counts - 0.1).abs().max() < 0.01
    else:
        expected = clothes[: len(own)]
        expected = (expected - expected.min()) / (expected.max() - expected.min())
        torch.testing.assert_close(grey, expected, rtol=0, atol=1e-5)


def test_in_a_lesson_the_images_are_the_real_ones(lesson, monkeypatch):
    monkeypatch.setattr(protocol, "load", lambda name, **options: (name, options))
    assert protocol._load.__wrapped__("mnist", True) == ("mnist", {})
    assert protocol._load.__wrapped__("mnist", False) == ("mnist", {"validation": 0})
    assert protocol._load.__wrapped__("fashion_mnist", True) == ("fashion_mnist", {})


# Teachers


@pytest.mark.parametrize("name", TEACHERS)
def test_a_teacher_is_the_network_trained_on_its_images(digits, whole, name):
    what, seed = TEACHERS[name], TEACHER_SEEDS[name][-1]
    half = replace(whole, train=whole.train.select(torch.arange(len(whole.train) // 2)))
    data = {"all": whole, "own half": half}.get(what.images) or digits.limit(50, seed=seed)
    alone = kd.models.mlp(8, dropout=what.dropout, seed=seed)
    augment = kd.data.shift(2) if what.moved else None
    recipe = kd.Recipe(iterations=2, learning_rate=what.rate, augment=augment)
    objective = kd.CrossEntropy(0.1 if name == "label-smoothed" else 0.0)
    kd.fit(alone, objective, data, recipe, seed=seed, progress=False)
    assert weights_hash(protocol._teacher(name, seed)) == weights_hash(alone)
    assert what.images == {"of a half": "own half", "of few labels": "few labels"}.get(name, "all")


def test_in_a_lesson_teachers_are_of_the_size_and_length_that_their_lines_name(
    digits, lesson, monkeypatch
):
    monkeypatch.setattr(protocol, "_images", lambda what, seed: digits)
    monkeypatch.setattr(protocol, "keep", lambda build, *arguments: (build(7), *arguments))
    for name, what in TEACHERS.items():
        model, objective, data, recipe, seed = protocol._teacher.__wrapped__(name, 7)
        built = kd.models.mlp(what.width, dropout=what.dropout, seed=7)
        assert repr(model) == repr(built)
        assert weights_hash(model) == weights_hash(built)
        assert objective.key == kd.CrossEntropy(what.label_smoothing).key
        assert (data.validation, data.test, seed) == (None, None, 7)
        augment = kd.data.shift(2) if what.moved else None
        assert recipe == kd.Recipe(iterations=what.steps, learning_rate=what.rate, augment=augment)
    first = TEACHERS["teacher"]
    assert (first.width, first.images, first.moved) == (1200, "all", True)
    assert first.dropout > 0


def test_a_teacher_is_kept_and_asked_for_once():
    first = protocol._teacher("teacher", 0)
    assert protocol._teacher("teacher", 0) is first
    assert protocol._teacher("teacher", 1) is not first


def test_students_take_turns_with_the_teachers_that_are_several():
    for setting, line in lines():
        for student in (*SEEDS, TRIAL_SEED):
            network, seed = protocol._teacher_of(line, student)
            if line.way.startswith("labels"):
                assert (network, seed) == (None, None)
            elif line.teacher == "ten members":
                assert network == members()
                assert (len(network), seed) == (10, None)
            else:
                seeds = TEACHER_SEEDS[line.teacher]
                turn = 0 if setting.experiment == "temperature" else student % len(seeds)
                assert seed == seeds[turn]
                assert network is protocol._teacher(line.teacher, seed)
    assert len(TEACHER_SEEDS["teacher"]) > 1


def test_no_student_begins_as_a_member_of_its_ensemble_did():
    seeds = set(TEACHER_SEEDS["member"])
    assert len(seeds) == 10
    assert not seeds & {*SEEDS, TRIAL_SEED}


def test_a_teachers_line_has_its_scores(whole):
    seed = TEACHER_SEEDS["member"][3]
    rows = {row.metric: row for row in rows_of("teachers", f"member, seed {seed}")}
    scores = kd.evaluate(protocol._teacher("member", seed), whole.test)
    assert {metric: row.value for metric, row in rows.items()} == {
        "test_errors": scores.errors,
        "test_loss": scores.loss,
        "test_ece": scores.ece,
    }
    assert {(row.teacher_seed, row.student_seed) for row in rows.values()} == {(seed, None)}


def test_the_ensembles_line_has_the_scores_of_all_ten_together(whole):
    scores = kd.evaluate(members(), whole.test)
    rows = rows_of("ensemble", protocol.ENSEMBLE)
    assert {row.metric: row.value for row in rows} == {
        "test_errors": scores.errors,
        "test_loss": scores.loss,
        "test_ece": scores.ece,
    }
    assert {(row.teacher_seed, row.student_seed) for row in rows} == {(None, None)}
    assert scores.loss != kd.evaluate(members()[0], whole.test).loss


# Lines


@pytest.fixture
def fits(monkeypatch):
    """Every training that would have been, as its arguments; none of them is done."""
    calls = []

    def fit(model, objective, data, recipe, **options):
        calls.append((model, objective, data, recipe, options["seed"]))
        return kd.History(pd.DataFrame({"seconds": [0.5]}))

    def fit_cohort(build, objectives, data, recipe, seeds, **options):
        models = [build(seed) for seed in seeds]
        for objective in objectives:
            calls.extend(
                (m, objective, data, recipe, s) for m, s in zip(models, seeds, strict=True)
            )
        return SimpleNamespace(models=models)

    monkeypatch.setattr(stages, "fit", fit)
    monkeypatch.setattr(protocol, "fit_cohort", fit_cohort)
    return calls


def test_every_line_trains_the_network_way_and_views_of_its_name_on_its_images(fits):
    for setting, line in lines():
        fits.clear()
        line = replace(line, steps=3)
        ((seed, student, data, _),) = protocol._trained(line, 0.07, [4])
        ((model, objective, seen, recipe, fit_seed),) = fits
        name, way = setting.setting, line.way
        assert model is student
        width = int(line.network.removeprefix("2 x "))
        assert weights_hash(model) == weights_hash(kd.models.mlp(width, seed=4))
        assert seed == fit_seed == 4
        augment = kd.data.shift(2) if "moved" in name else None
        keep = "best" if "stopped early" in name else "last"
        assert recipe == kd.Recipe(iterations=3, learning_rate=0.07, augment=augment, keep=keep)
        expected = protocol._images(line, 0 if line.together else 4)
        assert seen.train.fingerprint() == expected.train.fingerprint()
        assert data.fingerprint() == expected.fingerprint()
        taught, _ = protocol._teacher_of(line, 4)
        if way.startswith("labels"):
            assert objective.key == kd.CrossEntropy().key
        elif way == "logit matching":
            assert objective.key == kd.LogitMatching(taught).key
        else:
            temperature = float(re.match(r"T = (\d+)", way)[1])
            alone = "alone" in way
            assert objective.key == kd.SoftTargets(taught, temperature, 1 if alone else ALPHA).key
            assert alone or seen.train.labels is not None


def test_test_and_validation_are_not_looked_at_in_training_unless_it_stops_early(fits):
    for setting, line in lines():
        fits.clear()
        list(protocol._trained(replace(line, steps=1, held_out=True), 0.1, [0]))
        ((_, _, data, _, _),) = fits
        early = "stopped early" in setting.setting
        assert (data.validation is None) == (not early)
        assert early or data.test is None


def test_students_side_by_side_are_of_all_seeds_and_of_the_first_teacher(fits):
    line = replace(shape("temperature", "T = 4; 2 x 30"), steps=1)
    found = list(protocol._trained(line, 0.1, [2, 5, 7]))
    assert [seed for seed, *_ in found] == [2, 5, 7] == [seed for *_, seed in fits]
    assert [student for _, student, _, _ in found] == [model for model, *_ in fits]
    assert {objective.teacher for _, objective, *_ in fits} == {teacher("teacher", 0)}


TAUGHT = {
    ("students", "T = 20"): lambda data, seed: (data, soft("teacher", seed, 20)),
    ("students", "labels, moved"): lambda data, seed: (data, kd.CrossEntropy()),
    ("students", "logit matching"): lambda data, seed: (
        data,
        kd.LogitMatching(teacher("teacher", seed)),
    ),
    ("left out", "no 3s; T = 20, alone"): lambda data, seed: (
        replace(data, train=data.train.select(data.train.labels != 3)),
        soft("teacher", seed, 20, 1),
    ),
    ("few labels", "labels, stopped early"): lambda data, seed: (
        data.limit(50, seed=seed % 5),
        kd.CrossEntropy(),
    ),
    ("few labels", "T = 20; teacher of the same labels"): lambda data, seed: (
        data.limit(50, seed=seed % 5),
        soft("of few labels", seed, 20),
    ),
    ("transfer set", "other half"): lambda data, seed: (
        replace(data, train=data.train.select(slice(len(data.train) // 2, None)).unlabelled()),
        soft("of a half", seed, 20, 1),
    ),
    ("ensemble", "T = 4 of ten"): lambda data, seed: (data, kd.SoftTargets(members(), 4, ALPHA)),
    ("temperature", "T = 4; 2 x 30"): lambda data, seed: (data, soft("teacher", 0, 4)),
}


def soft(name, student, temperature, alpha=ALPHA):
    return kd.SoftTargets(teacher(name, student), temperature, alpha)


@pytest.mark.parametrize(("experiment", "name"), TAUGHT)
def test_a_line_tries_its_rates_and_trains_every_seed_with_the_best(
    digits, whole, experiment, name
):
    line, rows = shape(experiment, name), rows_of(experiment, name)
    off = experiment == "temperature"  # by fit_cohort, so that rounding may move an image

    def alone(rate, seed, steps, data):
        part, objective = TAUGHT[experiment, name](data, seed)
        model = kd.models.mlp(int(line.network.removeprefix("2 x ")), seed=seed)
        augment = kd.data.shift(2) if "moved" in name else None
        keep = "best" if "early" in name else "last"
        recipe = kd.Recipe(iterations=steps, learning_rate=rate, augment=augment, keep=keep)
        kd.fit(model, objective, part, recipe, seed=seed, progress=False)
        return model, getattr(objective, "teacher", None)

    rates = line.rates[:2]
    best = rates[0]
    if len(rates) > 1:
        trials = [numbers(rows, f"validation_errors at {rate:g}") for rate in rates]
        expected = [
            [kd.evaluate(alone(rate, TRIAL_SEED, 1, digits)[0], digits.validation).errors]
            for rate in rates
        ]
        np.testing.assert_allclose(trials, expected, rtol=0, atol=off)
        best = rates[int(np.argmin(trials))]
    assert numbers(rows, "learning_rate") == [best]
    data = digits if experiment in ("left out", "few labels") else whole
    for seed in (0, 1):
        mine = {row.metric: row.value for row in rows if row.student_seed == seed}
        model, taught = alone(best, seed, 2, data)
        scores = kd.evaluate(model, data.test)
        assert mine["test_errors"] == pytest.approx(scores.errors, abs=off)
        assert mine["test_loss"] == pytest.approx(scores.loss, abs=1e-4 * off)
        assert mine["test_ece"] == pytest.approx(scores.ece, abs=1e-2 * off)
        if data.validation is not None:
            assert mine["validation_errors"] == kd.evaluate(model, data.validation).errors
        if taught is not None:
            likeness = kd.fidelity(model, taught, data.test)
            assert mine["agreement"] == pytest.approx(likeness.agreement, abs=0.01 * off)
            assert mine["divergence"] == pytest.approx(likeness.divergence, abs=1e-4 * off)


SCORES = {"test_errors", "test_loss", "test_ece"}
LIKENESS = {"agreement", "divergence"}
PUT_RIGHT = {"errors on them"} | {
    f"{what} by {way}"
    for what in ("bias", "test_errors", "errors on them")
    for way in ("validation", "mass", "test")
}


@pytest.mark.parametrize(("experiment", "name"), TAUGHT)
def test_a_lines_rows_are_the_metrics_of_the_docstring_each_once(experiment, name):
    line, rows = shape(experiment, name), rows_of(experiment, name)
    of_students = SCORES | (LIKENESS if not line.way.startswith("labels") else set())
    of_students |= {"validation_errors"} if line.held_out else set()
    of_students |= PUT_RIGHT if experiment == "left out" else set()
    rates = line.rates[:2]
    trials = {f"validation_errors at {rate:g}" for rate in rates} if len(rates) > 1 else set()
    found = {}
    for row in rows:
        found.setdefault(row.student_seed, []).append(row.metric)
        assert isinstance(row.value, (int, float))
    assert {seed: sorted(metrics) for seed, metrics in found.items()} == {
        **({TRIAL_SEED: sorted(trials)} if trials else {}),
        None: ["learning_rate"],
        0: sorted(of_students),
        1: sorted(of_students),
    }
    for row in rows:
        if row.student_seed in (0, 1):
            assert row.seconds > 0
            assert row.teacher_seed == protocol._teacher_of(line, row.student_seed)[1]


def measured(line, monkeypatch, errors=lambda rate: 0):
    """What a line would train: (line, rate, seeds) each, and its rows."""
    calls = []

    def trained(line, rate, seeds):
        calls.append((line, rate, list(seeds)))
        for seed in seeds:
            yield seed, rate, SimpleNamespace(validation=None), 0.5

    monkeypatch.setattr(protocol, "_trained", trained)
    monkeypatch.setattr(protocol, "_teacher_of", lambda line, seed: (None, None))
    monkeypatch.setattr(protocol, "_scores", lambda *arguments: [("test_errors", 1)])
    scored = kd.Scores(0, 0.0, 0.0, 0.0)
    monkeypatch.setattr(
        protocol, "evaluate", lambda rate, split: replace(scored, errors=errors(rate))
    )
    return calls, list(protocol._measure(line))


def test_in_a_lesson_rates_are_tried_for_a_quarter_of_the_steps_and_five_students_trained(
    lesson, monkeypatch
):
    several = 0
    for _, line in lines():
        with monkeypatch.context() as patch:
            calls, rows = measured(line, patch, errors=lambda rate: round(1 / rate))
        *tried, (last, rate, seeds) = calls
        assert last == line
        assert seeds == [0, 1, 2, 3, 4]
        assert rate == max(line.rates)
        assert [row.student_seed for row in rows if row.metric == "test_errors"] == seeds
        if len(line.rates) == 1:
            assert tried == []
            continue
        several += 1
        trial = replace(line, steps=line.steps // 4, held_out=True)
        assert tried == [(trial, r, [TRIAL_SEED]) for r in line.rates]
    assert several > 5
    assert TRIAL_SEED not in SEEDS


@pytest.mark.parametrize("best", range(3))
def test_the_rate_with_the_fewest_errors_on_validation_is_taken(lesson, monkeypatch, best):
    line = Line("labels", rates=(0.01, 0.02, 0.04))
    errors = dict(zip(line.rates, np.roll([7, 9, 7], best).tolist(), strict=True))
    calls, rows = measured(line, monkeypatch, errors.get)
    first = min(line.rates, key=lambda rate: (errors[rate], rate))  # the lower where both are equal
    assert numbers(rows, "learning_rate") == [first] == [calls[-1][1]]
    for rate in line.rates:
        assert numbers(rows, f"validation_errors at {rate:g}") == [errors[rate]]


def test_trials_are_judged_on_validation_and_not_on_test(digits, monkeypatch):
    seen = []

    def evaluate(model, split):
        seen.append((len(seen), len(split)))
        return kd.evaluate(model, split)

    monkeypatch.setattr(protocol, "evaluate", evaluate)
    for rate in (0.01, 0.1):
        protocol._trial_errors(replace(shape("students", "labels"), steps=4), rate)
    assert seen == [(0, len(digits.validation)), (1, len(digits.validation))]


def diverging(real, *rates):
    def fit(model, objective, data, recipe, *arguments, **options):
        if recipe.learning_rate in rates:
            raise FloatingPointError
        return real(model, objective, data, recipe, *arguments, **options)

    return fit


@pytest.mark.parametrize(
    ("experiment", "name"), [("students", "labels"), ("temperature", "labels; 2 x 30")]
)
def test_a_rate_that_diverges_is_nan_and_never_taken(monkeypatch, experiment, name):
    setting = setting_of(experiment, name)
    low, high = shape(experiment, name).rates[:2]
    for bad, good in ((low, high), (high, low)):
        with monkeypatch.context() as patch:
            patch.setattr(stages, "fit", diverging(kd.fit, bad))
            patch.setattr(protocol, "fit_cohort", diverging(kd.fit_cohort, bad))
            rows = list(setting.run())
        assert math.isnan(*numbers(rows, f"validation_errors at {bad:g}"))
        assert numbers(rows, "learning_rate") == [good]
        assert len(numbers(rows, "test_errors")) == 2


def test_a_line_that_is_interrupted_gives_no_more_rows(monkeypatch):
    def interrupted(*arguments, **options):
        return replace(kd.fit(*arguments, **options), interrupted=True)

    monkeypatch.setattr(stages, "fit", interrupted)
    for experiment, name in (("students", "labels"), ("specialists", "all")):
        with pytest.raises(KeyboardInterrupt):
            list(setting_of(experiment, name).run())


# Digits that were left out


@pytest.fixture(scope="module")
def omitting(digits):
    """A student that tells 3s and 5s from others and holds them to be rare."""
    model = kd.models.mlp(16, seed=1)
    recipe = kd.Recipe(iterations=60, learning_rate=0.05)
    kd.fit(model, kd.CrossEntropy(), digits, recipe, progress=False)
    with torch.no_grad():
        model[-1].bias[[3, 5]] -= 4.0
    return model


def test_biases_are_raised_by_what_each_of_three_ways_finds(digits, omitting):
    missing = (3, 5)
    rows = dict(protocol._put_right(omitting, digits, missing))
    assert set(rows) == PUT_RIGHT
    held_out, test = (kd.logits(omitting, split) for split in (digits.validation, digits.test))
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

    assert rows["errors on them"] == wrong(0)[of_them].sum()
    for way, bias in biases.items():
        assert rows[f"bias by {way}"] == pytest.approx(bias)
        assert rows[f"test_errors by {way}"] == wrong(bias).sum()
        assert rows[f"errors on them by {way}"] == wrong(bias)[of_them].sum()
    assert rows["test_errors by test"] <= rows["test_errors by validation"]
    assert rows["test_errors by test"] < wrong(0).sum()
    assert 0 < rows["errors on them by mass"] < rows["errors on them"]


def test_the_students_scores_beside_are_of_the_bias_it_has(digits, omitting):
    rows = dict(protocol._scores(omitting, None, digits, (3, 5)))
    assert rows["test_errors"] == kd.evaluate(omitting, digits.test).errors
    assert rows["validation_errors"] == kd.evaluate(omitting, digits.validation).errors
    assert rows["test_errors by test"] < rows["test_errors"]


# Specialists

WHATS = ["generalist", "specialists", "specialists, dustbin uncorrected", "trained on", "ensemble"]
RATES_OF = {"specialists": 0.05, "trained on": 0.02, "ensemble": 0.04}


@pytest.fixture(scope="module")
def generalist(digits):
    """Better than one of smoke size, so that its answers are worth something."""
    model = kd.models.mlp(16, seed=2)
    recipe = kd.Recipe(iterations=60, learning_rate=0.05)
    kd.fit(model, kd.CrossEntropy(), digits, recipe, progress=False)
    return model


def groups_of(model, data, count):
    """By softened answers for images that it was not trained on; a class alone is no group."""
    found = clusters(kd.soften(kd.logits(model, data.validation), 4), count)
    return [classes for classes in found if len(classes) > 1]


def test_answers_are_of_the_specialists_with_the_dustbin_corrected_and_not(digits, generalist):
    found = protocol._answers(generalist, digits, digits.test, 3, RATES_OF, 5)
    assert list(found) == WHATS
    z, said = kd.logits(generalist, digits.test), {True: [], False: []}
    for classes in groups_of(generalist, digits, 3):
        special, net = specialist_data(digits, classes), specialist_of(generalist, classes)
        recipe = kd.Recipe(iterations=2, learning_rate=0.05)
        kd.fit(net, kd.CrossEntropy(), special, recipe, seed=5, progress=False)
        logits = kd.logits(net, digits.test)
        said[False].append((classes, logits))
        dustbin = torch.tensor([0.0] * len(classes) + [dustbin_correction(digits, special)])
        said[True].append((classes, logits + dustbin))
    corrected, plain = combine(z, said[True]), combine(z, said[False])
    assert (corrected - plain).abs().max() > 0.01
    torch.testing.assert_close(found["generalist"], z.softmax(-1))
    torch.testing.assert_close(found["specialists"], corrected, rtol=0, atol=1e-6)
    torch.testing.assert_close(found["specialists, dustbin uncorrected"], plain, rtol=0, atol=1e-6)


def test_the_controls_have_the_generalists_start_and_as_many_steps(digits, generalist, monkeypatch):
    calls, before = [], weights_hash(generalist)
    many = len(groups_of(generalist, digits, 3))
    assert many > 1

    def fit(model, objective, data, recipe, *, seed, progress):
        calls.append((weights_hash(model), len(data.classes), data.test, seed, recipe))
        return kd.fit(model, objective, data, recipe, seed=seed, progress=progress)

    monkeypatch.setattr(stages, "fit", fit)
    found = protocol._answers(generalist, digits, digits.test, 3, RATES_OF, 5)
    assert weights_hash(generalist) == before
    assert all(test is None for _, _, test, _, _ in calls)
    by_rate = {
        what: [call for call in calls if call[-1].learning_rate == rate]
        for what, rate in RATES_OF.items()
    }
    steps = {what: sum(call[-1].iterations for call in by_rate[what]) for what in RATES_OF}
    assert len(set(steps.values())) == 1
    assert [len(by_rate[what]) for what in RATES_OF] == [many, 1, many]
    assert sum(map(len, by_rate.values())) == len(calls)
    for what in ("trained on", "ensemble"):
        assert {(start, classes) for start, classes, *_ in by_rate[what]} == {(before, 10)}
    assert len({seed for *_, seed, _ in by_rate["ensemble"]}) == many
    longer = copy.deepcopy(generalist)
    recipe = kd.Recipe(iterations=2 * many, learning_rate=0.02)
    kd.fit(longer, kd.CrossEntropy(), digits, recipe, seed=5, progress=False)
    torch.testing.assert_close(found["trained on"], kd.logits(longer, digits.test).softmax(-1))
    nets = [generalist]
    for *_, seed, _ in by_rate["ensemble"]:
        nets.append(copy.deepcopy(generalist))
        recipe = kd.Recipe(iterations=2, learning_rate=0.04)
        kd.fit(nets[-1], kd.CrossEntropy(), digits, recipe, seed=seed, progress=False)
    mean = sum(kd.logits(net, digits.test).softmax(-1) for net in nets) / len(nets)
    together = found["ensemble"] / found["ensemble"].sum(-1, keepdim=True)
    torch.testing.assert_close(together, mean)


def test_copies_of_other_generalists_are_trained_with_other_seeds(digits, generalist, monkeypatch):
    seeds = []

    def fit(model, objective, data, recipe, *, seed, progress):
        if recipe.learning_rate == RATES_OF["ensemble"]:
            seeds.append(seed)
        return kd.History(pd.DataFrame())

    monkeypatch.setattr(stages, "fit", fit)
    many = len(groups_of(generalist, digits, 3))
    for seed in (*SEEDS, TRIAL_SEED):
        protocol._answers(generalist, digits, digits.test, 3, RATES_OF, seed)
    assert len(set(seeds)) == len(seeds) == many * (len(SEEDS) + 1) > 0


def test_a_generalist_is_the_network_trained_alone(digits):
    data, found = protocol._generalist(3)
    alone = kd.models.mlp(8, seed=3)
    what = protocol.SPECIALISTS
    augment = kd.data.shift(2) if what.moved else None
    recipe = kd.Recipe(iterations=2, learning_rate=what.rate, augment=augment)
    kd.fit(alone, kd.CrossEntropy(), digits, recipe, seed=3, progress=False)
    assert data.fingerprint() == digits.fingerprint()
    assert weights_hash(found) == weights_hash(alone)


def test_errors_are_counted_where_the_most_probable_class_is_another(digits):
    p = torch.eye(10)[digits.test.labels]
    p[:7] = p[:7].roll(1, dims=1)
    assert protocol._wrong({"a": p, "b": 5 * p[:, :]}, digits.test) == {"a": 7, "b": 7}


def test_the_specialists_rows_are_errors_of_each_and_what_was_chosen(digits):
    rows = rows_of("specialists", "all")
    trials = [
        (*re.fullmatch(r"validation_errors of (.+), (\d+) at (\S+)", row.metric).groups(), row)
        for row in rows
        if row.metric.startswith("validation_errors")
    ]
    assert [what for what, *_ in trials] == WHATS
    ((count, rate),) = {(int(count), float(rate)) for _, count, rate, _ in trials}
    assert {row.student_seed for *_, row in trials} == {TRIAL_SEED}
    assert numbers(rows, "clusters") == [count]
    for what in ("specialists", "trained on", "ensemble"):
        assert numbers(rows, f"learning_rate of {what}") == [rate]
    for what in WHATS:
        mine = [row for row in rows if row.metric == f"test_errors of {what}"]
        assert [row.student_seed for row in mine] == [0, 1]
    assert len(rows) == 5 + 1 + 3 + 2 * 5
    rates = dict.fromkeys(("specialists", "trained on", "ensemble"), rate)
    for place, seed in enumerate((0, 1)):
        _, model = protocol._generalist(seed)
        found = numbers(rows, "test_errors of generalist")[place]
        assert found == kd.evaluate(model, digits.test).errors
        answers = protocol._answers(model, digits, digits.test, count, rates, seed)
        for what, p in answers.items():
            errors = int((p.argmax(-1) != digits.test.labels).sum())
            assert numbers(rows, f"test_errors of {what}")[place] == errors


def test_how_many_specialists_and_each_rate_are_those_with_the_fewest_errors_on_validation(
    lesson, monkeypatch
):
    counts, rates = protocol.COUNTS, protocol.SPECIALIST_RATES
    best = (counts[1], rates[-1])
    asked = []

    def generalist(seed):
        return SimpleNamespace(validation="validation", test="test"), seed

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

    monkeypatch.setattr(protocol, "_generalist", generalist)
    monkeypatch.setattr(protocol, "_answers", answers)
    monkeypatch.setattr(protocol, "_wrong", wrong)
    rows = list(setting_of("specialists", "all").run())
    trials, last = asked[:-5], asked[-5:]
    assert [(count, set(of.values())) for _, _, count, of, _ in trials] == [
        (count, {rate}) for count in counts for rate in rates
    ]
    assert {(model, split, seed) for model, split, _, _, seed in trials} == {
        (TRIAL_SEED, "validation", TRIAL_SEED)
    }
    chosen = {"specialists": best[1], "trained on": rates[0], "ensemble": best[1]}
    assert last == [(seed, "test", best[0], chosen, seed) for seed in SEEDS]
    assert numbers(rows, "clusters") == [best[0]]
    for what, rate in chosen.items():
        assert numbers(rows, f"learning_rate of {what}") == [rate]
    for what in WHATS:
        assert numbers(rows, f"test_errors of {what}") == list(SEEDS)


# Hashes


def another(name, value):
    """Another value of a field of Line or Teacher."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return 2 * value + 0.125
    if isinstance(value, tuple):
        return (*value, 0.77)
    return "of a half" if name == "teacher" else f"{value}?"


@pytest.mark.parametrize("what", [Line("T = 20"), Teacher()], ids=["line", "teacher"])
def test_a_recipe_tells_every_change_of_what_shapes_a_line(lesson, what):
    def key(what):
        return protocol._setting("students", "T = 20", what, list).key

    changed = [
        replace(what, **{field.name: another(field.name, getattr(what, field.name))})
        for field in fields(what)
    ]
    keys = [key(what), *map(key, changed)]
    assert len(set(keys)) == 1 + len(fields(what))
    assert {found[:3] for found in keys} == {keys[0][:3]}
    assert key(what) == key(replace(what))


@pytest.mark.parametrize("name", TEACHERS)
def test_a_recipe_tells_every_change_of_its_teacher(lesson, monkeypatch, name):
    before = protocol.settings()
    expected = {("teachers", f"{name}, seed {seed}") for seed in TEACHER_SEEDS[name]}
    names = {name, "ten members"} if name == "member" else {name}
    expected |= {
        (setting.experiment, setting.setting)
        for setting, line in lines()
        if line.teacher in names and not line.way.startswith("labels")
    }
    if name == "member":
        expected.add(("ensemble", protocol.ENSEMBLE))
    for field in fields(Teacher):
        value = another(field.name, getattr(TEACHERS[name], field.name))
        with monkeypatch.context() as patch:
            patch.setitem(TEACHERS, name, replace(TEACHERS[name], **{field.name: value}))
            after = protocol.settings()
        pairs = zip(before, after, strict=True)
        changed = {(b.experiment, b.setting) for b, a in pairs if b.key != a.key}
        assert changed == expected, field.name


@pytest.mark.parametrize(("name", "value"), [("VERSION", 99), ("ALPHA", 0.77)])
def test_every_recipe_tells_the_version_and_the_weight_of_soft_targets(
    lesson, monkeypatch, name, value
):
    before = [setting.key for setting in protocol.settings()]
    monkeypatch.setattr(protocol, name, value)
    after = [setting.key for setting in protocol.settings()]
    assert all(b != a for b, a in zip(before, after, strict=True))


@pytest.mark.parametrize(
    ("name", "value"), [("TRIAL_SEED", 98), ("SEEDS", (0, 1, 2, 3)), ("FEW", 1_700)]
)
def test_a_students_recipe_tells_the_seeds_and_how_many_labels_are_few(
    lesson, monkeypatch, name, value
):
    before = {s.key for s in protocol.settings() if s.experiment != "teachers"}
    monkeypatch.setattr(protocol, name, value)
    same = before & {s.key for s in protocol.settings()}
    assert {key[:2] for key in same} <= {("ensemble", protocol.ENSEMBLE), ("specialists", "all")}


@pytest.mark.parametrize("name", ["SPECIALIST_STEPS", "COUNTS", "SPECIALIST_RATES", "SEEDS"])
def test_the_specialists_recipe_tells_their_steps_counts_rates_and_seeds(lesson, monkeypatch, name):
    before = setting_of("specialists", "all").key
    value = getattr(protocol, name)
    monkeypatch.setattr(protocol, name, value[:1] if isinstance(value, tuple) else value + 1)
    assert setting_of("specialists", "all").key != before


def test_a_changed_generalist_is_another_setting(lesson, monkeypatch):
    before = setting_of("specialists", "all").key
    wider = replace(protocol.SPECIALISTS, width=protocol.SPECIALISTS.width + 1)
    monkeypatch.setattr(protocol, "SPECIALISTS", wider)
    assert setting_of("specialists", "all").key != before
