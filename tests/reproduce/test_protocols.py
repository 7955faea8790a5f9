"""kdlib/reproduce: guarantees that every protocol gives, whatever its paper."""

import math
from dataclasses import fields, replace

import pytest
from protocols import (
    PROTOCOLS,
    TRIAL_SEED,
    Trace,
    another,
    changes,
    note_trainings,
    numbers,
    put,
    rows_of,
    setting_of,
    trace,
)

import kdlib as kd
from kdlib.reproduce import hinton, student

LISTED = {"student": ["short"], "hinton": ["paper"]}  # all others: short and paper
every_protocol = pytest.mark.parametrize("name", PROTOCOLS)


@pytest.fixture(scope="module", params=PROTOCOLS)
def traced(request, smoke):
    """A protocol's name, the traces of its settings, and all its trainings."""
    with pytest.MonkeyPatch.context() as patch:
        traces, seen = trace(PROTOCOLS[request.param], patch)
    return request.param, traces, seen


def by_experiment(traces):
    found = {}
    for (experiment, name), traced in traces.items():
        found.setdefault(experiment, {})[name] = traced
    return found.items()


# The settings


@every_protocol
def test_settings_are_listed_without_data_and_have_names_and_hashes_of_their_own(name, lesson):
    settings = PROTOCOLS[name].settings()
    protocols = list(dict.fromkeys(s.protocol for s in settings))
    assert protocols == LISTED.get(name, ["short", "paper"])
    for setting in settings:
        assert f"``{setting.experiment}``" in PROTOCOLS[name].__doc__
    assert len({(s.protocol, s.experiment, s.setting) for s in settings}) == len(settings)
    assert len({s.key for s in settings}) == len({s.recipe for s in settings}) == len(settings)


@every_protocol
def test_smoke_is_never_taken_for_a_lesson(name, monkeypatch):
    smoke = PROTOCOLS[name].settings()
    assert {s.protocol for s in smoke} == {"smoke"}
    monkeypatch.setenv("KDLIB_PROFILE", "lesson")
    lesson = PROTOCOLS[name].settings()
    assert {s.key for s in lesson}.isdisjoint(s.key for s in smoke)
    if name != "hinton":  # there, and of teachers, the recipe is the lesson's
        hashes = {s.key[-1] for s in lesson if s.experiment != "teachers"}
        assert hashes.isdisjoint(s.key[-1] for s in smoke if s.experiment != "teachers")


# Hashes


CONCERNED = {  # which settings a constant concerns
    "all": lambda s: True,
    "students": lambda s: (
        s.experiment not in ("teachers", "specialists") and s.setting != "ten members"
    ),
    "specialists": lambda s: s.experiment == "specialists",
}


@pytest.mark.parametrize(
    "name, constant, concerned",
    [
        *((name, "VERSION", "all") for name in PROTOCOLS),
        ("student", "ALPHA", "students"),
        ("hinton", "ALPHA", "all"),
        *(("hinton", constant, "students") for constant in ("TRIAL_SEED", "SEEDS", "FEW")),
        ("hinton", "SPECIALIST_STEPS", "specialists"),
        ("hinton", "COUNTS", "specialists"),
        ("hinton", "SPECIALIST_RATES", "specialists"),
        ("hinton", "SEEDS", "specialists"),
        ("fitnets", "SECOND", "all"),
        ("fitnets", "JOINT", "all"),
        ("fitnets", "TEACHER_RATE", "all"),
        ("fsp", "FSP_RATE", "all"),
        ("fsp", "JOINT", "all"),
        ("fsp", "VEHICLES", "all"),
    ],
)
def test_a_hash_covers_the_constants(lesson, monkeypatch, name, constant, concerned):
    protocol = PROTOCOLS[name]
    before = [s.key for s in protocol.settings() if CONCERNED[concerned](s)]
    monkeypatch.setattr(protocol, constant, another(getattr(protocol, constant)))
    after = [s.key for s in protocol.settings() if CONCERNED[concerned](s)]
    assert before
    assert all(old != new for old, new in zip(before, after, strict=True))


@pytest.mark.parametrize("group", ["SHORT", "PAPER_SIZE"])
@pytest.mark.parametrize("name", ["fitnets", "fsp", "ban", "ban_lm"])
def test_a_hash_covers_every_field_of_a_size(name, group, lesson, monkeypatch):
    protocol = PROTOCOLS[name]
    sizes = getattr(protocol, group)
    for place, size in enumerate(sizes if isinstance(sizes, tuple) else [sizes]):
        experiment = getattr(size, "experiment", getattr(size, "text", None))
        before = {
            s.key
            for s in protocol.settings()
            if s.protocol == size.name and s.experiment == (experiment or s.experiment)
        }
        assert before
        for field, changed in changes(size, "ways", "counts"):  # which only list the settings
            if isinstance(sizes, tuple):
                changed = (*sizes[:place], changed, *sizes[place + 1 :])
            monkeypatch.setattr(protocol, group, changed)
            assert before.isdisjoint(s.key for s in protocol.settings()), field
        monkeypatch.setattr(protocol, group, sizes)


@pytest.mark.parametrize(
    "what, teacher, setting",
    [
        (student.Student(), "small", lambda line: student._line("controls", "T = 4", line)),
        (
            hinton.Line("T = 20"),
            "of a half",
            lambda line: hinton._setting("students", "T = 20", line, list),
        ),
    ],
    ids=["student", "hinton"],
)
def test_a_hash_covers_every_field_of_a_line(lesson, what, teacher, setting):
    changed = [new for _, new in changes(what, "teacher")]
    keys = [setting(one).key for one in (what, replace(what), replace(what, teacher=teacher))]
    keys += [setting(one).key for one in changed]
    assert keys[0] == keys[1]
    assert len({*keys}) == len(fields(what)) + 1
    assert {key[:3] for key in keys} == {keys[0][:3]}


# What is trained, and on what


def test_no_training_sees_the_test_images_and_few_see_those_held_out(traced):
    name, traces, seen = traced
    assert seen
    for (experiment, setting), found in traces.items():
        for training in found.trainings:
            if training.recipe.keep == "best" or (name, training.by) == ("student", "keep"):
                continue  # stopped early; or a teacher whose history nobody reads
            assert training.data.test is None, setting
            watched = (name, experiment) == ("fsp", "faster") and training.seed != TRIAL_SEED
            assert watched or training.data.validation is None, setting


def test_all_ways_of_an_experiment_have_one_budget(traced):
    name, traces, _ = traced
    for experiment, settings in by_experiment(traces):
        budgets, recipes = set(), set()
        for found in settings.values():
            steps = {}
            for training in found.students:
                steps[training.model] = steps.get(training.model, 0) + training.recipe.iterations
            budgets |= {*steps.values()}
            recipes |= {t.recipe for t in found.trainings if name.startswith("ban")}
        if experiment not in ("together", "specialists"):
            assert len(budgets) <= 1 and len(recipes) <= 1, experiment


@pytest.mark.parametrize("traced", ["student", "hinton", "fitnets", "fsp"], indirect=True)
def test_students_of_one_experiment_are_paired_by_seed_and_start(traced):
    _, traces, _ = traced
    for experiment, settings in by_experiment(traces):
        seeds, starts = set(), {}
        for name, found in settings.items():
            mine = {row.student_seed for row in found.rows if row.metric.startswith("test_errors")}
            seeds.add(frozenset(mine - {None}))
            for training in found.students:
                if "copied" in name or "one first stage" in name or "seed" in name:
                    continue
                network = repr(training.model), getattr(training.model, "built", None)
                starts.setdefault((training.seed, str(network)), set()).add(training.start)
        assert len(seeds - {frozenset()}) <= 1, experiment
        assert experiment == "specialists" or all(len(found) == 1 for found in starts.values())


def test_rows_name_the_seeds_that_were_trained_and_trials_a_seed_of_their_own(traced):
    _, traces, seen = traced
    teachers = {training.seed for training in seen if training.by == "keep"}
    assert TRIAL_SEED not in teachers
    for (experiment, _), found in traces.items():
        trained = {training.seed for training in found.trainings}
        assert found.rows
        for row in found.rows:
            assert isinstance(row.value, (int, float)) and math.isfinite(row.value)
            trial = row.metric.startswith("validation_errors ")
            assert (row.student_seed == TRIAL_SEED) == trial
            if row.student_seed is not None and found.students and experiment != "together":
                assert row.student_seed in trained
            assert row.teacher_seed is None or row.teacher_seed in teachers


def test_a_papers_numbers_have_rows_to_stand_beside(traced):
    name, traces, _ = traced
    for number in getattr(PROTOCOLS[name], "PAPER", ()):
        settings = {
            setting.partition(", seed ")[0]: found
            for (e, setting), found in traces.items()
            if e == number.experiment
        }
        assert numbers(settings[number.setting].rows, number.metric)
    assert hasattr(PROTOCOLS[name], "PAPER") == (name != "student")


# Learning rates

CHOOSING = [
    ("student", "controls", "labels"),
    ("student", "grid 30", "T = 4, alpha = 0.5"),
    ("hinton", "students", "labels"),
    ("hinton", "temperature", "labels; 2 x 30"),
    ("fitnets", "mnist", "labels"),
    ("fsp", "smaller", "labels"),
]
every_choice = pytest.mark.parametrize("name, experiment, setting", CHOOSING)


def rates_of(rows):
    return [float(row.metric.split()[-1]) for row in rows if row.student_seed == TRIAL_SEED]


@every_choice
def test_rates_are_chosen_by_validation_errors_whatever_the_test_images_say(
    trainings, monkeypatch, name, experiment, setting
):
    errors = {}

    def evaluate(model, split):
        rate = trainings.of(model).recipe.learning_rate
        right = len(split) == 360  # the test images, on which the other rate is better
        return kd.Scores(100 - errors[rate] if right else errors[rate], 0.5, 0.5, 0.1)

    line = setting_of(PROTOCOLS[name], experiment, setting)
    rates = rates_of(line.run())
    assert len(rates) > 1
    put(monkeypatch, evaluate=evaluate)
    for rate in rates:
        errors.update({other: 7 - 2 * (other == rate) for other in rates})
        rows = list(line.run())
        assert numbers(rows, "learning_rate") == [rate]
        assert {100 - errors[rate]} == {*numbers(rows, "test_errors")}
        for other in rates:
            assert numbers(rows, f"validation_errors at {other:g}") == [errors[other]]
    errors.update(dict.fromkeys(rates, 7))
    assert numbers(line.run(), "learning_rate") == rates[:1]  # the first where all are equal


@every_choice
def test_a_rate_that_diverges_is_noted_and_not_taken(trainings, name, experiment, setting):
    line = setting_of(PROTOCOLS[name], experiment, setting)
    rates = rates_of(line.run())
    for good in rates:
        trainings.diverging = bad = {*rates} - {good}
        rows = list(line.run())
        assert all(math.isnan(*numbers(rows, f"validation_errors at {rate:g}")) for rate in bad)
        assert numbers(rows, "learning_rate") == [good]
        assert len(numbers(rows, "test_errors")) >= 2
    trainings.diverging = rates
    with pytest.raises(FloatingPointError, match="all rates diverged"):
        list(line.run())


@pytest.mark.parametrize(
    "name, experiment, setting",
    [
        *(choice for choice in CHOOSING if choice[1] not in ("grid 30", "temperature")),
        ("hinton", "specialists", "all"),
        ("fsp", "together", "labels"),
    ],
)
def test_an_interrupted_setting_gives_no_rows(trainings, name, experiment, setting):
    trainings.interrupted = True
    with pytest.raises(KeyboardInterrupt):
        list(setting_of(PROTOCOLS[name], experiment, setting).run())


# Real trainings


@pytest.mark.parametrize(
    "name, experiment, setting",
    [
        ("student", "teachers", "small"),
        ("student", "controls", "T = 20, moved"),
        ("student", "controls", "class means"),
        ("student", "annet", "mended"),
        ("student", "grid 30", "T = 4, alpha = 0.5"),
        ("hinton", "teachers", "member, seed 103"),
        ("hinton", "students", "T = 20"),
        ("hinton", "few labels", "labels, stopped early"),
        ("hinton", "ensemble", "T = 4 of ten"),
        ("hinton", "temperature", "T = 4; 2 x 30"),
        ("fitnets", "teachers", "maxout, seed 0"),
        ("fitnets", "layers", "layer4 from layer2"),
        ("fitnets", "depth", "8 layers; hint then labels"),
        ("fsp", "teachers", "teacher, seed 1"),
        ("fsp", "smaller", "labels at 0.3"),
        ("fsp", "faster", "fsp then labels; shuffled"),
    ],
)
def test_rows_are_the_scores_of_the_networks_that_were_trained(
    digits, monkeypatch, name, experiment, setting
):
    seen = note_trainings(monkeypatch, really=True)
    found = Trace(rows_of(PROTOCOLS[name], experiment, setting), seen)
    rates = rates_of(found.rows)
    for rate in rates:
        trial = next(t for t in seen if t.seed == TRIAL_SEED and t.recipe.learning_rate == rate)
        errors = kd.evaluate(trial.model, digits.validation).errors
        assert numbers(found.rows, f"validation_errors at {rate:g}") == [errors]
    if experiment == "teachers":
        networks, rows = {training.model: training for training in seen}, found.rows
        assert {(row.student_seed, row.teacher_seed) for row in rows} == {(None, seen[0].seed)}
    else:
        networks = {training.model: training for training in reversed(found.students)}
        rows = [row for row in found.rows if row.student_seed not in (None, TRIAL_SEED)]
        (taken,) = numbers(found.rows, "learning_rate")
        assert {training.recipe.learning_rate for training in networks.values()} == {taken}
        errors = {rate: numbers(found.rows, f"validation_errors at {rate:g}") for rate in rates}
        assert taken == min(errors, key=errors.get, default=taken)
        assert {row.student_seed for row in rows} == {t.seed for t in networks.values()}
    for model, first in networks.items():
        mine = [row for row in rows if row.student_seed in (None, first.seed)]
        scores, held_out = (kd.evaluate(model, part) for part in (digits.test, digits.validation))
        expected = {
            "test_errors": scores.errors,
            "test_loss": scores.loss,
            "test_ece": scores.ece,
            "validation_errors": held_out.errors,
        }
        if any(row.metric == "agreement" for row in mine):
            expected |= vars(kd.fidelity(model, first.objective.teacher, digits.test))
        values = {row.metric: row.value for row in mine if " " not in row.metric}
        assert values["test_errors"] == expected["test_errors"]
        assert values == {metric: pytest.approx(expected[metric]) for metric in values}
        assert all(row.seconds > 0 for row in mine if row.metric == "test_loss")


@pytest.mark.parametrize(
    "name, experiment, setting",
    [
        ("fsp", "together", "fsp, one first stage"),
        ("fsp", "elsewhere", "hint then labels"),
    ],
)
def test_a_setting_trains_and_gives_the_same_rows_again(name, experiment, setting):
    rows, again = (rows_of(PROTOCOLS[name], experiment, setting) for _ in range(2))
    errors = numbers(rows, "test_errors")
    assert len(errors) >= 2 and all(0 < value <= 360 for value in errors)
    assert [row.value for row in again] == [row.value for row in rows]


@pytest.mark.slow
@every_protocol
def test_every_setting_trains_and_gives_finite_rows(name):
    for setting in PROTOCOLS[name].settings():
        rows = list(setting.run())
        assert rows, setting.setting
        assert all(math.isfinite(row.value) for row in rows), (setting.experiment, setting.setting)
