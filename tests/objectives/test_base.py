"""The interface, sums, and losses of the reader's own: functions, bare classes and new objectives in all that fit can do."""

import functools
import re
import threading
from dataclasses import replace

import pytest
import torch
from teaching import ONCE, batch_of, close, every_view, prepared, small, student_of, trained
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import kdlib as kd
from kdlib.identity import weights_hash
from kdlib.losses import cross_entropy, soft_target_loss
from kdlib.objectives.base import as_objective

TEACHER = small(9)


class Bare:  # nothing but __call__
    def __call__(self, student, batch):
        return {"bare": cross_entropy(student.logits, batch.labels)}


class Derived(kd.Objective):
    def __call__(self, student, batch):
        return {"derived": cross_entropy(student.logits, batch.labels)}


def four(s, t, y):
    return soft_target_loss(s, t, 4)


def mse(s, t):
    return F.mse_loss(s, t)


def hint():
    return kd.Hint(TEACHER, hint="2", guided="2")


OWN = {
    "a function": lambda: kd.Loss(four, TEACHER, name="mine"),
    "a class with nothing but __call__": Bare,
    "an Objective": Derived,
}
every_own = pytest.mark.parametrize("make", OWN.values(), ids=OWN)


def weights_of(objective, data, recipe=ONCE):
    return weights_hash(trained(objective, data, recipe)[0])


# Whatever fit can do


def test_a_loss_of_the_readers_trains_like_the_objective_that_it_is(few):
    ours, history = trained(OWN["a function"](), few)
    theirs, soft = trained(kd.SoftTargets(TEACHER, 4, 1), few)
    assert list(history.frame)[3] == "mine"
    assert history.frame["mine"].tolist() == soft.frame["soft"].tolist()
    assert weights_hash(ours) == weights_hash(theirs)
    expected = weights_of(kd.CrossEntropy(), few)
    assert all(weights_of(make(), few) == expected for make in (Bare, Derived, Slotted))


@every_own
def test_it_is_kept_and_found_again(few, make, kept, capsys):
    first, again = (kd.keep(small, make(), few, ONCE) for _ in range(2))
    assert weights_hash(first) == weights_hash(again) and kept() == 1
    assert "loaded" in capsys.readouterr().out


@every_own
def test_it_goes_on_from_a_checkpoint(few, make, tmp_path):
    recipe, path = replace(ONCE, epochs=3), tmp_path / "training.pt"

    def stop(row):
        if row["epoch"] == 1:
            raise KeyboardInterrupt

    _, first = trained(make(), few, recipe, checkpoint=path, on_epoch=stop)
    student, whole = trained(make(), few, recipe, checkpoint=path)
    assert first.interrupted and len(whole.frame) == 3
    assert weights_hash(student) == weights_of(make(), few, recipe)
    with pytest.raises(ValueError, match="belongs to another training: its objective"):
        trained(kd.CrossEntropy(), few, recipe, checkpoint=path)


@every_own
def test_a_cohort_takes_it(few, make):
    cohort = kd.fit_cohort(small, [make()], few, ONCE, [1, 2], progress=False)
    alone = trained(make(), few, ONCE, small(2), seed=2)[0]
    assert weights_hash(cohort.models[1]) == weights_hash(alone)


def test_what_a_bare_class_records_is_there_afterwards_and_not_in_its_key(few):
    class Recording(Bare):
        def __init__(self):
            self._seen = 0

        def __call__(self, student, batch):
            self._seen += 1
            return super().__call__(student, batch)

    objective = Recording()
    before = as_objective(objective).key
    trained(objective, few)
    assert objective._seen == 3
    assert as_objective(objective).key == before


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


def test_an_objective_may_run_the_student_again_and_be_a_module(few):
    class Twice(kd.Objective, nn.Module):
        def __init__(self):
            nn.Module.__init__(self)

        def __call__(self, student, batch):
            again = student.model(batch.inputs)
            hard = cross_entropy(again, batch.labels)
            return {"apart": (again - student.logits).square().mean() + hard}

    assert trained(Twice(), few)[1].frame["apart"].notna().all()


# The arguments of a function

SEEN = []


def seen(loss, *arguments):
    SEEN.append(arguments)
    return loss(*arguments[:2])


@pytest.mark.parametrize(
    ("function", "teacher", "kinds"),
    [
        (lambda s, y: seen(F.cross_entropy, s, y), None, ["logits", "labels"]),
        (lambda s, t: seen(mse, s, t), TEACHER, ["logits", "logits"]),
        (lambda s, t, y: seen(mse, s, t, y), TEACHER, ["logits", "logits", "labels"]),
        (lambda s, t, T=4, *, a=1: seen(mse, s, t), TEACHER, ["logits", "logits"]),
        (functools.partial(lambda T, s, t: seen(mse, s, t), 4), TEACHER, ["logits", "logits"]),
    ],
)
def test_the_required_arguments_decide_what_a_function_receives(few, function, teacher, kinds):
    SEEN.clear()
    trained(kd.Loss(function, teacher), few, kd.Recipe(iterations=1, batch_size=8))
    (given,) = SEEN
    assert ["labels" if x.dtype == torch.int64 else "logits" for x in given] == kinds
    assert given[0].requires_grad and not any(x.requires_grad for x in given[1:])
    assert all(len(x) == 8 for x in given)


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


def test_a_module_of_torch_is_a_loss(few):
    ours, _ = trained(kd.Loss(nn.CrossEntropyLoss(label_smoothing=0.1)), few)
    theirs, _ = trained(kd.CrossEntropy(0.1), few)
    close(ours.state_dict(), theirs.state_dict(), rtol=1e-4, atol=1e-6)


class Weighted(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(10))

    def forward(self, s, t):
        return (self.weight * (s - t)).square().mean() + (self.weight - 1).square().sum()


def test_a_loss_with_parameters_trains_a_copy_of_them_and_starts_anew(few, tmp_path):
    loss, path = kd.Loss(Weighted(), TEACHER), tmp_path / "training.pt"
    before = loss.key
    first = weights_of(loss, few)
    assert weights_of(loss, few) == first and loss.key == before
    assert not torch.equal(loss.module.weight, torch.ones(10)) and loss.function.weight.eq(1).all()
    for _ in range(2):  # the second time from the first's file
        resumed, history = trained(loss, few, checkpoint=path)
    assert len(history.frame) == 1 and weights_hash(resumed) == first


def test_a_loss_sees_float32_logits_whatever_the_precision_of_training(few):
    kinds = []
    loss = kd.Loss(lambda s, t: kinds.append((s.dtype, t.dtype)) or mse(s, t), TEACHER)
    recipe = replace(ONCE, iterations=1, precision="bfloat16")
    for objective, views in ((loss, None), (loss, kd.data.shift(1)), (0.1 * hint() + loss, None)):
        trained(objective, few, replace(recipe, augment=views))
    assert kinds == [(torch.float32, torch.float32)] * 3


def test_a_loss_sees_the_tokens_of_a_text_as_rows():
    text = kd.text.from_texts("to be or not to be " * 40, device="cpu", unroll=5)
    hashes = []
    for objective in (kd.Loss(cross_entropy), kd.CrossEntropy()):
        student = kd.models.lstm(len(text.classes), width=8, seed=1)
        hashes.append(weights_hash(trained(objective, text, ONCE, student)[0]))
    assert hashes[0] == hashes[1]


def test_labels_are_required_only_where_a_loss_uses_them(few):
    unlabelled = replace(few, train=few.train.unlabelled())
    trained(kd.Loss(mse, TEACHER), unlabelled)
    for loss in (kd.Loss(four, TEACHER, "mine"), kd.Loss(lambda s, y: s.mean(), name="mine")):
        with pytest.raises(ValueError, match="mine needs labels and the training split has none"):
            trained(loss, unlabelled)


@every_view
def test_a_loss_that_writes_into_its_arguments_spoils_nothing(few, recipe):
    def writing(s, t):
        t.zero_()
        return mse(s.mul(1), t)

    recipe = replace(recipe, iterations=1)
    plain = kd.Loss(lambda s, t: mse(s, t), TEACHER, name="plain")
    both = kd.Loss(writing, TEACHER, name="writing") + plain
    found = trained(both, few, recipe)[1].frame["plain"].tolist()
    assert found == trained(plain, few, recipe)[1].frame["plain"].tolist()


# Keys


def test_a_key_covers_code_numbers_and_teacher():
    def scaled(reduced):
        class Scaled(kd.Objective):
            def __init__(self, k, teacher=None):
                self.k, self.teacher, self._hidden = k, teacher, object()

            __call__ = reduced

        return Scaled

    mean = scaled(lambda self, student, batch: {"x": self.k * student.logits.mean()})
    total = scaled(lambda self, student, batch: {"x": self.k * student.logits.sum()})
    assert mean(1).key == mean(1).key != total(1).key
    assert mean(1).key.startswith("Scaled(k=1, teacher=None; code=")
    assert len({mean(k, t).key for k in (1, 2) for t in (None, small(), small(1))}) == 6


def test_keys_of_losses_differ_by_function_teacher_and_name():
    losses = [
        kd.Loss(four, TEACHER),
        kd.Loss(four, small()),
        kd.Loss(four, TEACHER, name="mine"),
        kd.Loss(lambda s, t, y: soft_target_loss(s, t, 5), TEACHER),
        kd.Loss(lambda s, t: soft_target_loss(s, t, 4), TEACHER),
    ]
    assert len({loss.key for loss in losses}) == 5


def test_any_objective_may_be_given_a_key(few, kept):
    class Mine(Derived):
        def __init__(self, key):
            self.key = key

    assert Mine("a").key == "a" and repr(Mine("b")) == "b"
    for objective in (kd.CrossEntropy(), kd.Loss(four, TEACHER), kd.CrossEntropy() + Derived()):
        objective.key = "mine"
        assert objective.key == "mine"
        kd.keep(small, objective, few, ONCE)
    assert kept() == 1


def test_what_cannot_be_described_is_trained_and_not_kept(few, kept, capsys, tmp_path):
    lock = threading.Lock()

    def locked(s, t):
        with lock:
            return mse(s, t)

    loss = kd.Loss(locked, TEACHER)
    network = kd.keep(small, loss, few, ONCE)
    assert weights_hash(network) == weights_of(loss, few) and kept() == 0
    assert re.search(r"not kept: a lock has no text.*objective\.key = ", capsys.readouterr().out)
    assert repr(loss) == "Loss(...)"
    wording = r"checkpoint needs .*a lock has no text.*objective\.key = "
    with pytest.raises(TypeError, match=wording):
        trained(loss, few, checkpoint=tmp_path / "training.pt")


class Halved(kd.SoftTargets):
    def __call__(self, student, batch):
        return {name: term / 2 for name, term in super().__call__(student, batch).items()}


def test_a_subclass_of_kdlibs_has_its_own_key():
    plain, halved = kd.SoftTargets(TEACHER, 4, 1), Halved(TEACHER, 4, 1)
    assert halved.key.removeprefix("Halved") != plain.key.removeprefix("SoftTargets")
    assert "code=" in halved.key and "code=" not in plain.key


class Louder(kd.Loss):
    def __init__(self, scale):
        super().__init__(four, TEACHER)
        self.scale = scale


class LouderHint(kd.Hint):
    def __init__(self, scale):
        super().__init__(TEACHER, hint="2", guided="2")
        self.scale = scale


class Slotted:
    __slots__ = ("scale",)

    def __init__(self, scale=1.0):
        self.scale = scale

    def __call__(self, student, batch):
        return {"slotted": self.scale * cross_entropy(student.logits, batch.labels)}


class OneSlot(Slotted):
    __slots__ = "other"  # noqa: PLC0205

    def __init__(self, other):
        super().__init__()
        self.other = other


@pytest.mark.parametrize("make", [Louder, LouderHint, Slotted, OneSlot])
def test_what_a_class_adds_is_in_its_key(make):
    one, same, other = (as_objective(make(scale)).key for scale in (1.0, 1.0, 2.0))
    assert one == same != other


def test_a_key_of_a_function_that_reads_a_data_set_has_no_address(few):
    loss = kd.Loss(lambda s, y: F.cross_entropy(s, y) / len(few.classes))
    before = loss.key
    few.fingerprint()
    trained(loss, few)
    assert loss.key == before


# Sums


def test_sums_scale_and_add_terms_of_equal_name(few):
    batch = batch_of(few.train, torch.arange(7))
    student = student_of(batch)
    parts = (
        kd.SoftTargets(small(1), 4, 0.9),
        kd.SoftTargets(small(2), 8, 0.5),
        kd.LogitMatching(small(1)),
        kd.CrossEntropy(),
    )
    a, b, c, d = (prepared(part, few)(student, batch) for part in parts)
    terms = prepared(parts[0] + 0.25 * parts[1] + parts[2] * 3 + (-1) * parts[3], few)
    expected = {
        "soft": a["soft"] + 0.25 * b["soft"],
        "hard": a["hard"] + 0.25 * b["hard"] - d["hard"],
        "logits": 3 * c["logits"],
    }
    close(terms(student, batch), expected)
    twice = prepared(2 * (parts[2] + parts[3]), few)(student, batch)
    close(twice, {"logits": 2 * c["logits"], "hard": 2 * d["hard"]})
    assert prepared(0 * parts[3], few)(student, batch)["hard"] == 0
    falling = prepared((lambda progress: 4 - 3 * progress) * parts[3], few)
    for progress in (0.0, 0.5, 0.9):
        later = batch_of(few.train, torch.arange(7), progress)
        close(falling(student, later)["hard"], (4 - 3 * progress) * d["hard"])
    for total in (Bare() + parts[3], parts[3] + Bare()):
        assert {*total(student, batch)} == {"bare", "hard"}


def test_sums_flatten_and_print_their_parts():
    total = 2 * (kd.SoftTargets(TEACHER, 4, 0.9) + 0.5 * kd.CrossEntropy()) + kd.CrossEntropy()
    assert [weight for weight, _ in total.parts] == [2, 1, 1]
    assert not any(isinstance(part, kd.objectives.Sum) for _, part in total.parts)
    assert repr(2 * kd.CrossEntropy()) == "2.0 * (CrossEntropy(label_smoothing=0.0))"


def test_a_sum_prepares_and_trains_all_its_parts(few):
    class WithModule(kd.CrossEntropy):
        def __init__(self):
            super().__init__()
            self.module, self.calls = nn.Linear(2, 2), 0

        def prepare(self, *arguments):
            self.calls += 1

    one, other = WithModule(), WithModule()
    total = prepared(one + 2 * (kd.CrossEntropy() + other), few)
    assert (one.calls, other.calls) == (1, 1)
    assert [*total.module] == [one.module, other.module]
    assert (kd.CrossEntropy() + kd.CrossEntropy()).module is None


def test_fit_calls_a_weight_with_the_progress_of_each_step_and_never_with_1(few):
    asked = []
    weight = lambda progress: asked.append(progress) or 1 / (1 - progress)
    total = weight * kd.CrossEntropy()
    assert "1.0, " in repr(total)
    asked.clear()
    trained(total, few, kd.Recipe(epochs=2, batch_size=25))
    steps = [step / 8 for step in range(8)]
    assert list(dict.fromkeys(asked[-10:])) == steps  # the last one of an epoch is logged, too


def test_a_changing_weight_is_logged_with_its_values(few):
    """FitNets' second stage: lambda from 4 to 1, in the paper's weighting."""
    soft = kd.SoftTargets(small(), temperature=3, alpha=1)
    lam = lambda progress: 4 - 3 * progress
    last_steps = [(3 * epoch - 1) / 12 for epoch in (1, 2, 3, 4)]
    expected = pytest.approx([lam(progress) / 9 for progress in last_steps])
    ninth = kd.CrossEntropy() + (lambda progress: lam(progress) / 9) * soft
    for objective in (ninth, kd.CrossEntropy() + lam * (1 / 9 * soft)):
        frame = trained(objective, few, replace(ONCE, epochs=4))[1].frame
        assert frame["weight_SoftTargets"].tolist() == expected
    nested = (lambda progress: 2.0) * (0.5 * soft + ninth) + kd.objectives.Sum(((lam, Bare()),))
    row = trained(nested, few)[1].frame.iloc[-1]
    assert row["weight_SoftTargets"] == 1 and row["weight_CrossEntropy"] == 2
    assert row["weight_SoftTargets_2"] == pytest.approx(2 * lam(2 / 3) / 9)
    assert row["weight_Bare"] == pytest.approx(lam(2 / 3))
    assert not trained(kd.CrossEntropy() + 0.5 * soft, few)[1].frame.filter(like="weight").size


def test_the_rate_of_a_sum_is_the_lowest_of_its_parts_if_all_have_one():
    slow, fast = hint(), hint()
    whole = kd.Hint(TEACHER, hint="", guided="", activation=None)
    assert whole.default_rate is None  # the whole network is trained
    faster = Derived()
    faster.default_rate = 0.02
    assert (slow + 0.1 * fast).default_rate == (faster + slow).default_rate == 0.001
    assert (slow + kd.CrossEntropy()).default_rate is None


def test_a_cohort_uses_the_rate_of_an_objective(few):
    objective = kd.CrossEntropy()
    objective.default_rate = 0.3
    cohort = kd.fit_cohort(small, [objective], few, ONCE, [0], progress=False)
    assert weights_hash(cohort.models[0]) == weights_of(objective, few)
    assert weights_of(objective, few) != weights_of(kd.CrossEntropy(), few)


def test_a_recipe_is_not_needed(few):
    assert len(kd.fit(small(), kd.CrossEntropy(), few, progress=False).frame) == 10


# Bad input


class NoCall(kd.Objective):
    pass


def returning(value):
    class Returns(kd.Objective):
        def __call__(self, student, batch):
            return value(student) if callable(value) else value

    return Returns()


MAKES_ONE = r".*kd\.Loss\(function, teacher\) makes one"


@pytest.mark.parametrize(
    ("objective", "error", "message"),
    [
        (NoCall(), TypeError, r"__call__\(self, student, batch\), got .*NoCall.*without it"),
        (object(), TypeError, "objective must be one such as .*without it"),
        (Derived, TypeError, r"objective must .*, got the class Derived; Derived\(\.\.\.\) makes"),
        (four, TypeError, "objective must .*, got <function four" + MAKES_ONE),
        (nn.CrossEntropyLoss(), TypeError, "objective must .*, got CrossEntropyLoss" + MAKES_ONE),
        (returning(lambda s: s.logits.mean()), TypeError, '^Returns .*a dict .*"mine".*got Tensor'),
        (returning({}), ValueError, "^Returns must return at least one term, got an empty dict"),
        (returning(None), TypeError, "^Returns must return a dict .*got NoneType"),
        (returning({"a": 1.0}), TypeError, "^Returns .* scalar tensors, got float for 'a'"),
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
        *(
            (kd.Loss(four, TEACHER, name=name), ValueError, f"Loss must name its term .*'{name}'")
            for name in ("epoch", "seconds", "validation_loss", "weight_mine")
        ),
    ],
)
def test_what_cannot_be_minimised_is_named_alone_and_in_a_sum(few, objective, error, message):
    with pytest.raises(error, match=message):
        trained(objective, few)
    if "depend on the student" not in message:  # beside another term it adds a constant
        for add in (lambda x: kd.CrossEntropy() + x, lambda x: x + kd.CrossEntropy()):
            with pytest.raises(TypeError if objective.__class__ is object else error):
                trained(add(objective), few)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: kd.Loss(3, TEACHER), TypeError, "function must be a function of logits, got 3"),
        (lambda: kd.Loss(four, 3), TypeError, "teacher must be a network, a list"),
        (lambda: kd.Loss(four, TEACHER, name=4), TypeError, "name must be a non-empty string"),
        (lambda: kd.CrossEntropy() + 1, TypeError, "unsupported operand"),
        (lambda: float("nan") * kd.CrossEntropy(), ValueError, "weight must be finite, got nan"),
        (lambda: float("inf") * kd.CrossEntropy(), ValueError, "weight must be finite, got inf"),
        *(
            (lambda weight=weight: kd.CrossEntropy() * weight, TypeError, "a number or a function")
            for weight in ("2", None, torch.tensor(2.0), kd.CrossEntropy())
        ),
    ],
)
def test_arguments_are_checked_where_an_objective_is_built(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_taps_must_be_a_tuple_of_names(few):
    class OneName(Derived):
        taps = "stage2"

    with pytest.raises(TypeError, match=r"taps must be a tuple of names, got 'stage2'"):
        trained(OneName(), few)


LOADER = DataLoader(TensorDataset(torch.zeros(4, 2)))


@pytest.mark.parametrize(
    ("data", "remedy"),
    [
        (LOADER, r"DataLoader; kd\.data\.from_dataset\(loader\.dataset\)"),
        (LOADER.dataset, r"TensorDataset; kd\.data\.from_dataset\(dataset\)"),
        ((torch.zeros(4, 2), torch.zeros(4)), r"tuple; kd\.data\.from_arrays\(inputs, labels\)"),
        ("mnist", r'str; kd\.data\.load\("mnist"\)'),
    ],
)
def test_data_of_another_type_are_refused_with_the_remedy(few, data, remedy):
    with pytest.raises(TypeError, match=f"data must be a Data, got {remedy}"):
        trained(kd.CrossEntropy(), data)
    with pytest.raises(TypeError, match="got Split; .* data, not data.train"):
        trained(kd.CrossEntropy(), few.train)
