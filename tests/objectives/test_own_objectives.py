"""One's own loss: a function, a class with nothing but ``__call__``, or a new Objective, in all that fit can do."""

import functools
import re
import threading
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import kdlib as kd
from kdlib.identity import weights_hash

ONCE = kd.Recipe(epochs=1, batch_size=32)


@pytest.fixture
def few(digits):
    return digits.limit(100)


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """An empty cache, and how many networks are stored in it."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    return lambda: len(list(tmp_path.rglob("*.safetensors")))


def small(seed=0):
    return kd.models.mlp(16, depth=1, seed=seed)


TEACHER = small(9)


class Bare:  # nothing but __call__
    def __call__(self, student, batch):
        return {"bare": kd.losses.cross_entropy(student.logits, batch.labels)}


class Derived(kd.Objective):
    def __call__(self, student, batch):
        return {"derived": kd.losses.cross_entropy(student.logits, batch.labels)}


def four(s, t, y):
    return kd.soft_target_loss(s, t, 4)


OWN = {
    "a function": lambda: kd.Loss(four, TEACHER, name="mine"),
    "a class with nothing but __call__": Bare,
    "an Objective": Derived,
}
every_own = pytest.mark.parametrize("make", OWN.values(), ids=OWN)


def trained(objective, data, recipe=ONCE, **options):
    student = small()
    history = kd.fit(student, objective, data, recipe, progress=False, **options)
    return student, history


# Whatever fit can do


def test_a_loss_of_ones_own_trains_as_the_objective_that_it_is(few):
    ours, history = trained(kd.Loss(four, TEACHER, name="mine"), few)
    theirs, soft = trained(kd.SoftTargets(TEACHER, 4, 1), few.__class__(**vars(few)))
    assert list(history.frame)[3] == "mine"
    assert history.frame["mine"].tolist() == soft.frame["soft"].tolist()
    assert weights_hash(ours) == weights_hash(theirs)


def test_a_class_with_nothing_but_call_trains_as_cross_entropy_does(few):
    for make in (Bare, Derived):
        assert weights_hash(trained(make(), few)[0]) == weights_hash(
            trained(kd.CrossEntropy(), few)[0]
        )


@every_own
def test_it_adds_and_scales(few, make):
    _, history = trained(kd.CrossEntropy() + 0.5 * (kd.CrossEntropy() + make()), few)
    (alone,) = set(trained(make(), few)[1].frame) & {"mine", "bare", "derived"}
    assert {"hard", alone} <= {*history.frame}
    _, other_side = trained(make() + kd.CrossEntropy(), few)
    assert {"hard", alone} <= {*other_side.frame}


@every_own
def test_it_is_kept_and_found_again(few, make, kept, capsys):
    first = kd.keep(small, make(), few, ONCE)
    again = kd.keep(small, make(), few, ONCE)
    assert weights_hash(first) == weights_hash(again) and kept() == 1
    assert "loaded" in capsys.readouterr().out


@every_own
def test_it_goes_on_from_a_checkpoint(few, make, tmp_path):
    recipe = replace(ONCE, epochs=3)

    def stop(row):
        if row["epoch"] == 1:
            raise KeyboardInterrupt

    path = tmp_path / "training.pt"
    _, first = trained(make(), few, recipe, checkpoint=path, on_epoch=stop)
    student, whole = trained(make(), few, recipe, checkpoint=path)
    assert first.interrupted and len(whole.frame) == 3
    assert weights_hash(student) == weights_hash(trained(make(), few, recipe)[0])
    with pytest.raises(ValueError, match="belongs to another training: its objective"):
        trained(kd.CrossEntropy(), few, recipe, checkpoint=path)


@every_own
def test_a_cohort_takes_it(few, make):
    cohort = kd.fit_cohort(small, [make()], few, ONCE, [1, 2], progress=False)
    alone = small(2)
    kd.fit(alone, make(), few, ONCE, seed=2, progress=False)
    assert weights_hash(cohort.models[1]) == weights_hash(alone)


def test_the_line_with_an_8_is_another_training(few, kept, capsys):
    for value in ("4", "8", "4"):
        loss = eval(f"lambda s, t, y: kd.soft_target_loss(s, t, {value})", {"kd": kd})
        kd.keep(small, kd.Loss(loss, TEACHER, name="mine"), few, ONCE)
    assert kept() == 2
    assert capsys.readouterr().out.count("loaded") == 1


def test_what_a_bare_class_notes_down_is_there_afterwards(few):
    class Noting(Bare):
        def __init__(self):
            self._seen = 0

        def __call__(self, student, batch):
            self._seen += 1
            return super().__call__(student, batch)

    objective = Noting()
    before = kd.objectives.base.as_objective(objective).key
    trained(objective, few)
    assert objective._seen == 3
    assert kd.objectives.base.as_objective(objective).key == before  # behind an underscore


def test_a_new_objective_may_have_taps_a_module_and_a_rate(few):
    class Inside(kd.Objective):
        taps, default_rate = ("1",), 0.007

        def prepare(self, student, split, recipe):
            self.module = nn.Linear(16, 1)

        def __call__(self, student, batch):
            return {"inside": self.module(student["1"].float()).square().mean()}

    objective = Inside()
    student, history = trained(objective, few)
    assert history.learning_rate == 0.007 and "learning_rate 0.007" in repr(history)
    assert any(p.grad is not None for p in objective.module.parameters())
    assert torch.equal(student[-1].weight, small()[-1].weight)  # nothing above the tap moves


def test_an_objective_may_run_the_student_again(few):
    class Twice(kd.Objective):
        def __call__(self, student, batch):
            again = student.model(batch.inputs)
            return {
                "apart": (again - student.logits).square().mean()
                + kd.losses.cross_entropy(again, batch.labels)
            }

    assert trained(Twice(), few)[1].frame["apart"].notna().all()


# What a function is given


SEEN = []


@pytest.mark.parametrize(
    ("function", "teacher", "kinds"),
    [
        (lambda s, y: SEEN.append((s, y)) or F.cross_entropy(s, y), None, ("logits", "labels")),
        (lambda s, t: SEEN.append((s, t)) or F.mse_loss(s, t), TEACHER, ("logits", "logits")),
        (
            lambda s, t, y: SEEN.append((s, t, y)) or F.mse_loss(s, t),
            TEACHER,
            ("logits", "logits", "labels"),
        ),
        (
            lambda s, t, T=4, *, a=1: SEEN.append((s, t)) or F.mse_loss(s, t),
            TEACHER,
            ("logits", "logits"),
        ),
        (
            functools.partial(lambda T, s, t: SEEN.append((s, t)) or F.mse_loss(s, t), 4),
            TEACHER,
            ("logits",) * 2,
        ),
    ],
)
def test_the_required_arguments_say_what_is_given(few, function, teacher, kinds):
    SEEN.clear()
    trained(kd.Loss(function, teacher), few, kd.Recipe(iterations=1, batch_size=8))
    (given,) = SEEN
    assert tuple("labels" if x.dtype == torch.int64 else "logits" for x in given) == kinds
    assert given[0].requires_grad and not any(x.requires_grad for x in given[1:])
    assert all(len(x) == 8 for x in given)


def test_a_module_of_torch_is_a_loss(few):
    ours, _ = trained(kd.Loss(nn.CrossEntropyLoss(label_smoothing=0.1)), few)
    theirs, _ = trained(kd.CrossEntropy(0.1), few)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=1e-4, atol=1e-6)


def test_logits_are_float32_whatever_the_products_are(few):
    kinds = []
    loss = kd.Loss(lambda s, t: kinds.append((s.dtype, t.dtype)) or F.mse_loss(s, t), TEACHER)
    recipe = kd.Recipe(iterations=1, precision="bfloat16")
    trained(loss, few, recipe)
    trained(loss, few, replace(recipe, augment=kd.data.shift(1)))
    trained(0.1 * kd.Hint(TEACHER, hint="2", guided="2") + loss, few, recipe)
    assert set(kinds) == {(torch.float32, torch.float32)}


def test_a_list_of_teachers_is_averaged_and_a_table_is_read_by_index(few):
    logits = {}

    def noting(s, t):
        logits["teacher"] = t
        return F.mse_loss(s, t)

    one = kd.Recipe(iterations=1, batch_size=100)
    trained(kd.Loss(noting, [small(1), small(2)]), few, one)
    mean = torch.stack([kd.soften(kd.logits(small(k), few.train)) for k in (1, 2)]).mean(0)
    torch.testing.assert_close(kd.soften(logits["teacher"]).sort(0).values, mean.sort(0).values)
    table = torch.arange(int(few.train.index.max()) + 1.0)[:, None].repeat(1, 10)
    trained(kd.Loss(noting, table), few, one)
    assert sorted(logits["teacher"][:, 0].long().tolist()) == sorted(few.train.index.tolist())


def test_labels_that_are_not_there_are_asked_for_only_where_they_are_used(few):
    blind = replace(few, train=few.train.unlabelled())
    trained(kd.Loss(lambda s, t: F.mse_loss(s, t), TEACHER), blind)
    for loss in (kd.Loss(four, TEACHER, "mine"), kd.Loss(lambda s, y: s.mean(), name="mine")):
        with pytest.raises(ValueError, match="mine needs labels and the training split has none"):
            trained(loss, blind)


# Keys


def test_a_key_covers_code_numbers_and_teacher():
    class Scaled(kd.Objective):
        def __init__(self, k, teacher=None):
            self.k, self.teacher, self._hidden = k, teacher, object()

        def __call__(self, student, batch):
            return {"x": self.k * student.logits.mean()}

    assert Scaled(1).key == Scaled(1).key and Scaled(1).key.startswith(
        "Scaled(k=1, teacher=None; code="
    )
    assert len({Scaled(k, t).key for k in (1, 2) for t in (None, small(), small(1))}) == 6
    one = Scaled(1)

    class Scaled(kd.Objective):
        def __init__(self, k, teacher=None):
            self.k, self.teacher = k, teacher

        def __call__(self, student, batch):
            return {"x": self.k * student.logits.sum()}

    assert Scaled(1).key != one.key


def test_losses_differ_by_function_teacher_and_name():
    losses = [
        kd.Loss(four, TEACHER),
        kd.Loss(four, small()),
        kd.Loss(four, TEACHER, name="mine"),
        kd.Loss(lambda s, t, y: kd.soft_target_loss(s, t, 5), TEACHER),
        kd.Loss(lambda s, t: kd.soft_target_loss(s, t, 4), TEACHER),
    ]
    assert len({loss.key for loss in losses}) == 5


def test_a_key_of_ones_own_takes_the_place_of_the_default():
    class Mine(Derived):
        def __init__(self, key):
            self.key = key

    assert Mine("a").key == "a" and repr(Mine("b")) == "b"


def test_schedules_that_agree_at_five_points_are_told_apart():
    def steps(progress):
        return 1.0 if progress * 4 == int(progress * 4) else 5.0

    assert (steps * kd.CrossEntropy()).key != ((lambda progress: 1.0) * kd.CrossEntropy()).key


def test_what_cannot_be_described_is_trained_and_not_kept(few, kept, capsys, tmp_path):
    lock = threading.Lock()

    def locked(s, t):
        with lock:
            return F.mse_loss(s, t)

    loss = kd.Loss(locked, TEACHER)
    network = kd.keep(small, loss, few, ONCE)
    assert weights_hash(network) == weights_hash(trained(loss, few)[0]) and kept() == 0
    assert re.search(r"not kept: a lock has no text.*objective\.key = ", capsys.readouterr().out)
    assert repr(loss) == "Loss(...)"
    with pytest.raises(
        TypeError, match=r"checkpoint needs .*a lock has no text.*objective\.key = "
    ):
        trained(loss, few, checkpoint=tmp_path / "training.pt")


# Sums


def test_sums_flatten_and_say_so():
    total = 2 * (kd.SoftTargets(TEACHER, 4, 0.9) + 0.5 * kd.CrossEntropy()) + kd.CrossEntropy()
    assert [weight for weight, _ in total.parts] == [2, 1, 1]
    assert not any(isinstance(part, kd.objectives.Sum) for _, part in total.parts)
    assert repr(2 * kd.CrossEntropy()) == "2.0 * (CrossEntropy(label_smoothing=0.0))"


def test_weights_of_sums_within_sums_multiply_also_where_they_change(few):
    inner = (lambda p: 1 + p) * kd.CrossEntropy()
    _, history = trained(3 * (kd.CrossEntropy() + inner), few)
    assert history.frame["weight_CrossEntropy"].tolist() == [3 * (1 + 2 / 3)]


def test_the_rate_of_a_sum_is_its_parts_where_all_have_one():
    hint = kd.Hint(TEACHER, hint="2", guided="2")
    assert (hint + 0.1 * hint).default_rate == 0.001
    assert (hint + kd.CrossEntropy()).default_rate is None


@pytest.mark.parametrize(
    ("recipe", "rate"),
    [
        (kd.Recipe(), 0.001),
        (kd.Recipe(learning_rate=0.02), 0.02),
        (kd.Recipe(optimizer="adam"), 0.001),
    ],
)
def test_the_history_names_the_rate_that_was_used(few, recipe, rate):
    recipe = replace(recipe, iterations=1)
    hint = kd.Hint(TEACHER, hint="2", guided="2")
    assert trained(hint, few, recipe)[1].learning_rate == rate
    plain = recipe.learning_rate or (0.03 if recipe.optimizer == "sgd" else 0.001)
    assert trained(kd.CrossEntropy(), few, recipe)[1].learning_rate == plain


def test_a_recipe_is_not_needed(few):
    assert len(kd.fit(small(), kd.CrossEntropy(), few, progress=False).frame) == 10


# Two objectives on one teacher


@pytest.mark.parametrize("augment", [None, kd.data.shift(1)])
def test_a_teacher_answers_once_for_all_parts_of_a_sum(few, augment):
    teacher, rows = small(7), []
    teacher.register_forward_hook(lambda module, inputs, output: rows.append(len(output)))
    own = kd.Loss(lambda s, t: F.mse_loss(s, t), teacher)
    total = kd.SoftTargets(teacher, 4, 0.9) + kd.LogitMatching(teacher) + own
    trained(total, few, replace(ONCE, augment=augment))
    assert sum(rows) == (100 if augment is None else 96)


def test_equal_teachers_share_their_table_and_changed_ones_do_not(few):
    teachers = [small(8), small(8)]
    objectives = [kd.SoftTargets(teacher, T, 0.9) for teacher in teachers for T in (1, 4)]
    for objective in objectives:
        trained(objective, few)
    first, *others = [objective._source.answers for objective in objectives]
    assert all(answers is first for answers in others)
    with torch.no_grad():
        teachers[1][-1].bias[0] += 1
    trained(objectives[2], few)
    trained(objectives[0], few)
    assert objectives[0]._source.answers is first is not objectives[2]._source.answers
    teachers[0].register_forward_hook(lambda module, inputs, output: 3 * output)
    trained(objectives[0], few)
    assert objectives[0]._source.answers is not first


class Scaled(nn.Module):
    def __init__(self, network, scale):
        super().__init__()
        self.network, self.scale = network, scale

    def forward(self, x):
        return self.scale * self.network(x)


@pytest.mark.parametrize("augment", [None, kd.data.shift(1)])
def test_teachers_of_equal_weights_that_answer_otherwise_share_nothing(few, augment):
    recipe = replace(ONCE, augment=augment)
    plain, twice, tanh = small(3), Scaled(small(3), 2.0), small(3)
    tanh[2] = nn.Tanh()
    held = [kd.LogitMatching(t) for t in (plain, tanh, twice, Scaled(small(3), 3.0))]
    found = [weights_hash(trained(objective, few, recipe)[0]) for objective in held]
    alone = []
    for teacher in (small(3), tanh, Scaled(small(3), 2.0), Scaled(small(3), 3.0)):
        table_free = kd.Loss(kd.logit_matching_loss, teacher)
        alone.append(weights_hash(trained(table_free, few, recipe)[0]))
    assert len(set(found)) == 4 and found == alone
    twice.scale = 3.0  # the very object, changed between two fits
    assert weights_hash(trained(held[2], few, recipe)[0]) == found[3]


def test_lists_share_a_table_where_they_are_averaged_alike(few):
    rows, teachers = [], [small(5), small(6)]
    teachers[0].register_forward_hook(lambda module, inputs, output: rows.append(len(output)))
    objectives = [
        kd.SoftTargets(teachers, 4, 0.9),
        kd.SoftTargets(teachers, 4, 0.5),
        kd.SoftTargets(teachers, 2, 0.5),
        kd.LogitMatching(teachers),
        kd.DKPP(teachers),
        kd.CWTM(teachers),
    ]
    for objective in objectives:
        trained(objective, few)
    assert len(rows) == 4  # at T = 4, at T = 2, centred logits, at T = 1


# Bad input


class NoCall(kd.Objective):
    pass


def returning(value):
    class Returns(kd.Objective):
        def __call__(self, student, batch):
            return value(student) if callable(value) else value

    return Returns()


@pytest.mark.parametrize(
    ("objective", "error", "message"),
    [
        (NoCall(), TypeError, r"__call__\(self, student, batch\), got .*NoCall.*without it"),
        (object(), TypeError, "objective must be one such as .*without it"),
        (Derived, TypeError, r"got the class Derived; Derived\(\.\.\.\) makes one"),
        (four, TypeError, r"got <function four.*kd\.Loss\(function, teacher\) makes one"),
        (
            nn.CrossEntropyLoss(),
            TypeError,
            r"CrossEntropyLoss.*kd\.Loss\(function, teacher\) makes one",
        ),
        (
            returning(lambda s: s.logits.mean()),
            TypeError,
            r'Returns must return a dict .*"mine".*got Tensor',
        ),
        (returning({}), ValueError, "Returns must return at least one term, got an empty dict"),
        (returning(None), TypeError, "Returns must return a dict .*got NoneType"),
        (returning({"a": 1.0}), TypeError, "Returns must return scalar tensors, got float for 'a'"),
        (
            returning(lambda s: {"a": s.logits}),
            TypeError,
            r"scalar tensors, got \(32, 10\) for 'a'; \.mean\(\)",
        ),
        (
            returning(lambda s: {"a": s.logits.mean().detach()}),
            ValueError,
            r"terms \(a\) must depend on the student",
        ),
        (
            kd.Loss(lambda s, t: (s - t).square(), TEACHER),
            TypeError,
            r"Loss must return scalar.*\(32, 10\) for 'loss'",
        ),
    ],
)
def test_what_cannot_be_minimised_is_named(few, objective, error, message):
    with pytest.raises(error, match=message):
        trained(objective, few)
    if error is TypeError and "objective must" in message:
        with pytest.raises(TypeError):
            kd.CrossEntropy() + objective


@pytest.mark.parametrize("objective", [returning({}), returning(lambda s: s.logits.mean())])
def test_the_part_of_a_sum_that_is_wrong_is_named(few, objective):
    with pytest.raises((TypeError, ValueError), match="^Returns must return"):
        trained(kd.CrossEntropy() + objective, few)


@pytest.mark.parametrize(
    ("function", "teacher"),
    [
        (lambda s: s, TEACHER),
        (lambda s, t, y, T: s, TEACHER),
        (lambda s, t, y: s, None),
        (lambda s: s, None),
        (lambda *logits: logits[0], TEACHER),
        (lambda s, t, *, T: s, TEACHER),
        (lambda s=0, t=0: s, TEACHER),
        (max, TEACHER),
        (nn.Identity(), TEACHER),
    ],
)
def test_a_function_of_other_arguments_is_refused(function, teacher):
    wanted = r"\(student, labels\)" if teacher is None else r"\(student, teacher\[, labels\]\)"
    with pytest.raises(TypeError, match=f"function must require the arguments {wanted}, got "):
        kd.Loss(function, teacher)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kd.Loss(3, TEACHER), "function must be a function of logits, got 3"),
        (lambda: kd.Loss(four, 3), "teacher must be a network, a list"),
        (lambda: kd.Loss(four, TEACHER, name=4), "name must be a word"),
    ],
)
def test_a_loss_is_checked_where_it_is_built(call, message):
    with pytest.raises(TypeError, match=message):
        call()


@pytest.mark.parametrize(
    ("data", "remedy"),
    [
        (
            DataLoader(TensorDataset(torch.zeros(4, 2))),
            r"DataLoader; kd\.data\.from_dataset\(loader\.dataset\)",
        ),
        (TensorDataset(torch.zeros(4, 2)), r"TensorDataset; kd\.data\.from_dataset\(dataset\)"),
        ((torch.zeros(4, 2), torch.zeros(4)), r"tuple; kd\.data\.from_arrays\(inputs, labels\)"),
        ("mnist", r'str; kd\.data\.load\("mnist"\)'),
    ],
)
def test_data_of_another_kind_are_told_what_would_do(data, remedy):
    with pytest.raises(TypeError, match=f"data must be a Data, got {remedy}"):
        trained(kd.CrossEntropy(), data)


def test_a_split_is_told_that_its_data_are_wanted(few):
    with pytest.raises(TypeError, match="got Split; .* data, not data.train"):
        trained(kd.CrossEntropy(), few.train)


# What a severe reader found


def test_a_subclass_of_kdlibs_has_a_key_of_its_own():
    class Halved(kd.SoftTargets):
        def __call__(self, student, batch):
            return {name: term / 2 for name, term in super().__call__(student, batch).items()}

    plain, halved = kd.SoftTargets(TEACHER, 4, 1), Halved(TEACHER, 4, 1)
    assert halved.key.removeprefix("Halved") != plain.key.removeprefix("SoftTargets")
    assert "code=" in halved.key and "code=" not in plain.key


def test_a_key_may_be_given_to_any_objective(few, kept):
    for objective in (kd.CrossEntropy(), kd.Loss(four, TEACHER), kd.CrossEntropy() + Derived()):
        objective.key = "mine"
        assert objective.key == "mine"
        kd.keep(small, objective, few, ONCE)
    assert kept() == 1


class Weighted(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(10))

    def forward(self, s, t):
        return (self.weight * (s - t)).square().mean() + (self.weight - 1).square().sum()


def test_a_loss_with_parameters_trains_a_copy_of_them_and_begins_anew(few, tmp_path):
    loss = kd.Loss(Weighted(), TEACHER)
    before = loss.key
    first, again = trained(loss, few)[0], trained(loss, few)[0]
    assert weights_hash(first) == weights_hash(again) and loss.key == before
    assert not torch.equal(loss.module.weight, torch.ones(10)) and loss.function.weight.eq(1).all()
    path = tmp_path / "training.pt"
    for _ in range(2):  # the second time from the first's file
        resumed, history = trained(loss, few, checkpoint=path)
    assert len(history.frame) == 1 and weights_hash(resumed) == weights_hash(first)


def test_a_loss_sees_the_tokens_of_a_text_as_rows():
    text = kd.text.from_texts("to be or not to be " * 40, device="cpu", unroll=5)
    recipe = kd.Recipe(epochs=2, batch_size=4, precision="float32")
    students = [kd.models.lstm(len(text.classes), width=8, seed=1) for _ in range(2)]
    kd.fit(students[0], kd.Loss(kd.losses.cross_entropy), text, recipe, progress=False)
    kd.fit(students[1], kd.CrossEntropy(), text, recipe, progress=False)
    assert weights_hash(students[0]) == weights_hash(students[1])


def test_the_temperature_of_a_list_may_be_changed_between_two_fits(few):
    teachers = [small(5), small(6)]
    objective = kd.SoftTargets(teachers, 1, 1.0)
    trained(objective, few)
    objective.temperature = 20.0
    changed = weights_hash(trained(objective, few)[0])
    assert changed == weights_hash(trained(kd.SoftTargets(teachers, 20, 1.0), few)[0])


@pytest.mark.parametrize("augment", [None, kd.data.shift(1)])
def test_an_objective_can_be_pickled_after_a_fit_and_lets_its_teacher_go(few, augment):
    import gc
    import pickle
    import weakref

    from kdlib.objectives import teachers

    for make in (
        lambda t: kd.SoftTargets([t, small(1)], 4, 0.9),
        lambda t: kd.Hint(t, hint="2", guided="2"),
    ):
        gc.collect()
        teacher = small(7)
        objective = make(teacher)
        trained(objective, few, replace(ONCE, augment=augment))
        assert pickle.loads(pickle.dumps(objective)).key == objective.key
        gone = weakref.ref(objective._source.answers)
        gc.disable()
        try:
            del objective
            assert gone() is None
        finally:
            gc.enable()
    assert not any(answers.asked == [teacher] for answers in teachers._ANSWERS.values())


class Slotted:
    __slots__ = ("scale",)

    def __init__(self, scale=1.0):
        self.scale = scale

    def __call__(self, student, batch):
        return {"slotted": self.scale * kd.losses.cross_entropy(student.logits, batch.labels)}


def test_an_object_without_a_dict_is_an_objective_too(few, kept):
    assert weights_hash(trained(Slotted(), few)[0]) == weights_hash(
        trained(kd.CrossEntropy(), few)[0]
    )
    for scale in (1.0, 2.0, 1.0):
        kd.keep(small, Slotted(scale), few, ONCE)
    assert kept() == 2


def test_weights_of_a_bare_class_are_named_after_it(few):
    _, history = trained(kd.CrossEntropy() + Sum_of(Bare()), few)
    assert "weight_Bare" in history.frame


def Sum_of(bare):
    return kd.objectives.Sum(((lambda progress: progress, bare),))


@pytest.mark.parametrize("name", ["epoch", "seconds", "validation_loss", "weight_mine"])
def test_a_term_may_not_take_the_name_of_a_column(few, name):
    with pytest.raises(ValueError, match=f"Loss must call its term otherwise: .*'{name}'"):
        trained(kd.Loss(four, TEACHER, name=name), few)


def test_names_of_taps_must_be_several(few):
    class OneName(Derived):
        taps = "stage2"

    with pytest.raises(TypeError, match=r"taps must be a tuple of names, got 'stage2'"):
        trained(OneName(), few)


def test_an_objective_is_not_a_weight():
    with pytest.raises(TypeError, match="weight must be a number or a function"):
        kd.CrossEntropy() * kd.CrossEntropy()


@pytest.mark.parametrize("other", [four, Derived, nn.CrossEntropyLoss()])
def test_what_cannot_be_added_says_what_would_do(other):
    with pytest.raises(TypeError, match="objective must be one such as .* makes one"):
        kd.CrossEntropy() + other
    with pytest.raises(TypeError, match="objective must be one such as .* makes one"):
        other + kd.CrossEntropy()


def test_a_rate_of_an_objective_alone_is_heeded_by_a_cohort_too(few):
    objective = kd.CrossEntropy()
    objective.default_rate = 0.3
    cohort = kd.fit_cohort(small, [objective], few, ONCE, [0], progress=False)
    assert weights_hash(cohort.models[0]) == weights_hash(trained(objective, few)[0])


def test_the_whole_networks_features_are_trained_at_the_optimizers_own_rate(few):
    hint = kd.Hint(TEACHER, hint="", guided="", activation=None)
    assert hint.default_rate is None and trained(hint, few)[1].learning_rate == 0.03


def test_an_objective_with_a_temperature_averages_a_list_there_and_has_it_in_its_key(few):
    from kdlib.objectives.logits import _OfTeacher

    class Softened(_OfTeacher):
        def __init__(self, teacher, temperature):
            super().__init__(teacher)
            self.temperature = temperature

        def __call__(self, student, batch):
            return {
                "soft": kd.soft_target_loss(student.logits, self._source(batch), self.temperature)
            }

    teachers = [small(5), small(6)]
    assert Softened(teachers, 1.0).key != Softened(teachers, 20.0).key
    for T in (1.0, 20.0):
        found = trained(Softened(teachers, T), few)[1].frame["soft"].tolist()
        assert found == trained(kd.SoftTargets(teachers, T, 1), few)[1].frame["soft"].tolist()


class Louder(kd.Loss):
    def __init__(self, function, teacher, scale):
        super().__init__(function, teacher)
        self.scale = scale

    def __call__(self, student, batch):
        return {"loud": self.scale * super().__call__(student, batch)["loss"]}


class LouderHint(kd.Hint):
    def __init__(self, scale):
        super().__init__(TEACHER, hint="2", guided="2")
        self.scale = scale


class OneSlot:
    __slots__ = "scale"  # noqa: PLC0205

    def __init__(self, scale):
        self.scale = scale

    def __call__(self, student, batch):
        return {"x": self.scale * student.logits.mean()}


@pytest.mark.parametrize("make", [lambda k: Louder(four, TEACHER, k), LouderHint, OneSlot])
def test_what_a_class_adds_is_in_its_key(make):
    key = {scale: kd.objectives.base.as_objective(make(scale)).key for scale in (1.0, 2.0)}
    assert key[1.0] != key[2.0] and key[1.0] == kd.objectives.base.as_objective(make(1.0)).key


def test_a_list_of_one_is_another_teacher_for_a_loss_of_ones_own():
    assert kd.Loss(four, TEACHER).key != kd.Loss(four, [TEACHER]).key


@pytest.mark.parametrize("augment", [None, kd.data.shift(1)])
def test_a_loss_that_writes_into_what_it_is_given_spoils_nothing(few, augment):
    def writing(s, t):
        t.zero_()
        return F.mse_loss(s.mul(1), t)

    recipe = replace(ONCE, augment=augment, iterations=1)
    plain = kd.Loss(lambda s, t: F.mse_loss(s, t), TEACHER, name="plain")
    both = kd.Loss(writing, TEACHER, name="writing") + plain
    found = trained(both, few, recipe)[1].frame["plain"].tolist()
    assert found == trained(plain, few, recipe)[1].frame["plain"].tolist()


def test_a_key_that_reads_a_data_set_has_no_address(few):
    loss = kd.Loss(lambda s, y: F.cross_entropy(s, y) / len(few.classes))
    before = loss.key
    few.fingerprint()
    trained(loss, few)
    assert loss.key == before


def test_a_weight_is_not_asked_for_the_end_that_training_never_reaches(few):
    total = (lambda progress: 1 / (1 - progress)) * kd.CrossEntropy()
    assert "1.0, " in repr(total) and trained(total, few)[1].frame["hard"].notna().all()


def test_a_pickled_objective_leaves_the_data_behind(few):
    import pickle

    objective = kd.SoftTargets(small(1), 4, 0.9)
    before = len(pickle.dumps(objective))
    trained(objective, few, replace(ONCE, augment=kd.data.shift(1)))
    assert len(pickle.dumps(objective)) < before + 1000


def test_an_objective_that_is_a_module_too_is_an_objective(few):
    class Both(kd.Objective, nn.Module):
        def __init__(self):
            nn.Module.__init__(self)

        def __call__(self, student, batch):
            return {"both": kd.losses.cross_entropy(student.logits, batch.labels)}

    assert "both" in trained(Both(), few)[1].frame
