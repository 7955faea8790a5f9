"""fit_cohort: student (objective, seed) is the one that fit trains alone."""

import copy
import functools
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import kdlib as kd
import kdlib.training.cohort as cohorts
from kdlib.identity import weights_hash

EXACT = kd.Recipe(epochs=2, batch_size=50, precision="float64")
SEEDS = (3, 8)
TERMS = ("soft", "hard", "logits", "extra")


@pytest.fixture(scope="module")
def small(digits):
    """Two batches of 50 and an incomplete one."""
    return digits.limit(120)


@pytest.fixture
def fits(monkeypatch):
    """One entry for every student that the cohort leaves to fit."""
    calls = []

    def noted(*arguments, **options):
        calls.append(1)
        return kd.fit(*arguments, **options)

    monkeypatch.setattr(cohorts, "fit", noted)
    return calls


def net(seed, depth=1, width=8, **options):
    return kd.models.mlp(width, depth, seed=seed, **options)


@pytest.fixture(params=[0, 0.3], ids=["stacked", "one by one"])
def build(request):
    """A builder whose students are trained by batched products, and one whose students are not."""
    return functools.partial(net, dropout=request.param)


def hashes(cohort):
    return [weights_hash(model) for model in cohort.models]


def weights_of_seeds():
    return len(SEEDS) * sum(p.numel() for p in net(0).parameters())


def teacher(seed=0):
    """Bold enough that temperatures differ; its outputs depend on its mode."""
    with kd.seeded(seed):
        model = nn.Sequential(
            nn.Flatten(), nn.Linear(784, 12), nn.BatchNorm1d(12), nn.Dropout(0.5), nn.Linear(12, 10)
        )
    with torch.no_grad():
        model[-1].weight *= 10
    return model


def plain_teacher(seed=0, middle=nn.ReLU):
    with kd.seeded(seed):
        return nn.Sequential(nn.Flatten(), nn.Linear(784, 12), middle(), nn.Linear(12, 10))


def trained(objectives, data, recipe=EXACT, seeds=SEEDS, build=net):
    return kd.fit_cohort(build, objectives, data, recipe, seeds, progress=False)


@torch.no_grad()
def distance(model, other):
    """The largest difference of any weight or buffer."""
    pairs = zip(model.state_dict().values(), other.state_dict().values(), strict=True)
    return max((one - two).abs().max().item() for one, two in pairs)


def assert_as_fit_alone(objectives, data, recipe=EXACT, seeds=SEEDS, build=net):
    """Students, order, terms and errors of a cohort are those of fit and evaluate.

    ``objectives`` makes them, so that the two sides share nothing.
    """
    cohort = trained(objectives(), data, recipe, seeds, build)
    expected = [(objective, seed) for objective in objectives() for seed in seeds]
    rows = cohort.frame.to_dict("records")
    for row, model, (objective, seed) in zip(rows, cohort.models, expected, strict=True):
        with kd.seeded(seed):
            alone = build(seed)
        start = copy.deepcopy(alone).double()
        frame = kd.fit(alone, objective, data, recipe, seed=seed, progress=False).frame
        assert distance(alone, start) > 1e-4
        assert distance(model, alone) < 1e-9
        for found, wanted in zip(model.parameters(), alone.parameters(), strict=True):
            assert (found.dtype, found.requires_grad) == (wanted.dtype, wanted.requires_grad)
        assert (row["objective"], row["seed"]) == (objective.key, seed)
        for term in set(TERMS) & set(frame):
            assert row[term] == pytest.approx(frame[term].iloc[-1], rel=0, abs=1e-9)
        for term in set(TERMS) & set(row) - set(frame):
            assert math.isnan(row[term])
        assert row["validation_errors"] == kd.evaluate(alone, data.validation).errors
        assert row["test_errors"] == kd.evaluate(alone, data.test).errors
    return cohort


def softs():
    taught = teacher()
    return [kd.SoftTargets(taught, T, alpha) for T, alpha in [(1, 0.5), (4, 0.9), (20, 1), (4, 0)]]


def every_kind():
    """More than one stack, objectives of one stack apart from each other, and repetitions."""
    one, two = both = [teacher(), plain_teacher(1)]
    entropy, soft = kd.CrossEntropy(), kd.SoftTargets(one, 4, 0.9)
    table = torch.linspace(-3, 3, 20_000).reshape(-1, 10).sin() * 4
    return [
        soft,
        entropy,
        kd.SoftTargets(two, 4, 0.9),
        kd.LogitMatching(one),
        kd.SoftTargets(one, 20, 0.3),
        kd.CrossEntropy(label_smoothing=0.2),
        entropy,
        kd.CrossEntropy(),
        soft,
        kd.SoftTargets(both, 4, 0.5),
        kd.SoftTargets(both, 2, 0.5),
        kd.LogitMatching(both),
        kd.SoftTargets(table, 3, 0.7),
        kd.SoftTargets(table, 5, 0.7),
        kd.LogitMatching(table),
        kd.SoftTargets(two, torch.tensor(4.0), torch.tensor(0.25)),
        kd.SoftTargets(two, torch.linspace(1, 9, 50), 0.5),
    ]


# Batched products


@pytest.mark.parametrize(
    ("depth", "change"),
    [
        (1, {"optimizer": "adam", "schedule": "step", "epochs": 3}),
        (1, {"optimizer": "adamw", "weight_decay": 0.1, "schedule": "wide_resnet", "epochs": 5}),
        (0, {"weight_decay": 0.1, "momentum": 0.5, "batch_size": 120}),
        (3, {"momentum": 0, "schedule": "constant", "iterations": 5, "epochs": 99}),
        (3, {"batch_size": 128, "epochs": 3}),
    ],
    ids=str,
)
def test_students_are_those_of_fit_at_any_depth_whatever_the_recipe(small, fits, depth, change):
    build = functools.partial(net, depth=depth)
    assert_as_fit_alone(softs, small, replace(EXACT, **change), build=build)
    assert fits == []


def test_students_are_those_of_fit_whatever_they_are_trained_on(small, fits):
    cohort = assert_as_fit_alone(every_kind, small)
    assert fits == []
    assert cohort.frame["test_errors"].nunique() > 10


def test_students_are_those_of_fit_without_labels(small, fits):
    taught = teacher()
    make = lambda: [kd.SoftTargets(taught, T, 1) for T in (1, 20)] + [kd.LogitMatching(taught)]
    assert_as_fit_alone(make, replace(small, train=small.train.unlabelled()))
    assert fits == []


def test_errors_are_counted_over_splits_of_any_size(small, digits):
    assert len(digits.train) > 1000
    cohort = assert_as_fit_alone(softs, replace(small, test=digits.train, validation=small.train))
    for name in ("validation_errors", "test_errors"):
        assert cohort.frame[name].dtype == np.int64


def test_teachers_of_equal_weights_and_other_functions_are_told_apart(small):
    def objectives():
        return [kd.SoftTargets(plain_teacher(0, kind), 4, 0.5) for kind in (nn.ReLU, nn.Tanh)]

    first, second = objectives()
    assert first.key != second.key
    assert_as_fit_alone(objectives, small)


def test_products_are_of_the_recipes_precision(small):
    def loss(precision):
        cohort = trained([kd.CrossEntropy()], small, replace(EXACT, precision=precision))
        return cohort.models[0][1].weight.dtype, cohort.frame["hard"][0]

    (wide, exact), (single, near), (rounded, far) = map(loss, ("float64", "float32", "bfloat16"))
    assert (wide, single, rounded) == (torch.float64, torch.float32, torch.float32)
    assert 0 < abs(near - exact) < 1e-6 * exact < 1e-5 * exact < abs(far - exact) < 1e-2 * exact


def test_what_the_caller_set_for_torch_does_not_matter(small):
    expected = trained(softs(), small)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = trained(softs(), small)
    assert hashes(found) == hashes(expected)
    assert found.frame.equals(expected.frame)


@pytest.mark.parametrize(
    ("limit", "stacks"), [(99, [4]), (2.9, [2, 2]), (3.0, [3, 1]), (1, [1] * 4), (0.99, [])]
)
def test_objectives_on_one_teacher_share_stacks_of_so_many_weights_at_most(
    small, monkeypatch, fits, limit, stacks
):
    found, train = [], cohorts._train

    def noted(stack, *arguments):
        found.append(stack.objectives)
        return train(stack, *arguments)

    monkeypatch.setattr(cohorts, "_train", noted)
    monkeypatch.setattr(cohorts, "_STACK_WEIGHTS", int(limit * weights_of_seeds()))
    assert_as_fit_alone(softs, small)
    assert found == stacks
    assert len(fits) == (0 if stacks else 8)  # one by one where the seeds alone fill a stack


# One by one


class Doubled(nn.Sequential):
    """Looks plain, but is not."""

    def forward(self, inputs):
        return 2 * super().forward(inputs)


def convolutional(seed):
    with kd.seeded(seed):
        return nn.Sequential(nn.Conv2d(1, 2, 5, stride=4), nn.Flatten(), nn.Linear(72, 10))


def halved(module, inputs, output):
    return 0.5 * output


def share_layer(model):
    model.insert(4, nn.ReLU()).insert(5, model[3])


CHANGES = {  # a depth, and what is changed in the plain network
    "forward hook": (1, lambda net: net[1].register_forward_hook(halved)),
    "batch norm": (1, lambda net: net.insert(2, nn.BatchNorm1d(8))),
    "tanh": (1, lambda net: net.__setitem__(2, nn.Tanh())),
    "relu twice": (1, lambda net: net.insert(2, nn.ReLU())),
    "no relu": (1, lambda net: net.__delitem__(2)),
    "no bias": (1, lambda net: net[1].register_parameter("bias", None)),
    "relu last": (1, lambda net: net.append(nn.ReLU())),
    "more before": (1, lambda net: net.insert(0, nn.Identity())),
    "shared layer": (2, share_layer),
    "shared weight": (3, lambda net: setattr(net[5], "weight", net[3].weight)),
    "frozen layer": (1, lambda net: net[1].requires_grad_(False)),
}
BUILDERS = {
    "dropout": functools.partial(net, dropout=0.3),
    "convolution": convolutional,
    "subclass": lambda seed: Doubled(*net(seed)),
    "widths by seed": lambda seed: net(seed, width=seed),
    "depths by seed": lambda seed: net(seed, depth=seed % 2),
}


@pytest.mark.parametrize("kind", [*CHANGES, *BUILDERS])
def test_other_networks_are_trained_by_fit(small, fits, kind):
    def changed(seed):
        depth, change = CHANGES[kind]
        model = net(seed, depth)
        change(model)
        return model

    assert_as_fit_alone(lambda: softs()[:2], small, build=BUILDERS.get(kind, changed))
    assert len(fits) == 4


def test_a_network_with_computed_weights_is_trained_by_fit(small, fits):
    def computed(seed):  # its weight is made anew from others in every forward pass
        model = net(seed)
        torch.nn.utils.spectral_norm(model[1])
        return model

    trained(softs()[:2], small, build=computed)
    assert len(fits) == 4


@pytest.mark.parametrize(
    "change",
    [
        {"augment": kd.data.shift(2)},
        {"max_norm": 0.4},
        {"max_gradient": 0.1},
        {"keep": "best", "learning_rate": 2.0},
        {"schedule": "plateau", "learning_rate": 2.0},
    ],
    ids=lambda change: next(iter(change)),
)
def test_recipes_that_batched_products_do_not_know_are_left_to_fit(small, fits, change):
    recipe = replace(EXACT, epochs=4, **change)
    cohort = assert_as_fit_alone(lambda: softs()[:2], small, recipe)
    assert len(fits) == 4
    plain = {"augment": None, "max_norm": None, "max_gradient": None, "keep": "last"}
    plain["schedule"] = recipe.schedule.replace("plateau", "constant")
    without = trained(softs()[:2], small, replace(recipe, **plain))
    assert hashes(without)[0] != hashes(cohort)[0]


def test_a_table_of_temperatures_means_what_it_means_to_fit(small, fits):
    taught, hot = teacher(), torch.tensor([[1.0], [20.0]])  # as many rows as there are seeds
    assert_as_fit_alone(lambda: [kd.SoftTargets(taught, hot, 0.5)], small)
    assert len(fits) == 2


def test_a_float16_scaler_is_left_to_fit(small, fits, monkeypatch):
    monkeypatch.setattr(cohorts, "autocast_dtype", lambda precision, device: torch.float16)
    trained(softs()[:1], small)
    assert len(fits) == 2


class Own(kd.CrossEntropy):
    """A reader's own objective, whose calls a test may interrupt."""

    def __init__(self, change=None):
        super().__init__()
        self.change, self.calls = change, 0

    @property
    def key(self):
        return "Own()"

    def __call__(self, student, batch):
        self.calls += 1
        if self.change is not None:
            self.change(self)
        terms = super().__call__(student, batch)
        return terms | {"extra": 0.1 * student.logits.square().mean()}


@pytest.mark.parametrize(
    "kind",
    [
        lambda: kd.SoftTargets(teacher(), 4, 0.5) + 0.1 * kd.LogitMatching(teacher(1)),
        lambda: 2 * kd.CrossEntropy(),
        Own,
    ],
    ids=["sum", "scaled", "own"],
)
def test_other_objectives_are_trained_by_fit_and_take_the_others_with_them(small, fits, kind):
    assert_as_fit_alone(lambda: [kd.CrossEntropy(), kind()], small)
    assert len(fits) == 4


# Starts


def test_students_start_as_build_makes_them_from_the_seed(small):
    def unseeded(seed):
        return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))

    def by_name(seed=None):
        return net(seed)

    assert_as_fit_alone(softs, small, build=unseeded)
    expected = hashes(trained(softs()[:1], small))
    for builder in (by_name, functools.partial(kd.models.mlp, 8, 1), lambda s: net(s)):
        assert hashes(trained(softs()[:1], small, build=builder)) == expected


def test_what_build_gives_stays_as_it_was(small, build):
    starts = {seed: build(seed) for seed in SEEDS}
    before = {seed: copy.deepcopy(start) for seed, start in starts.items()}
    trained(softs(), small, build=starts.get)
    for seed, start in starts.items():
        assert weights_hash(start) == weights_hash(before[seed])  # float32 still
        assert start.training
        assert all(p.grad is None for p in start.parameters())


def test_one_network_may_be_the_start_of_all(small):
    start = net(0)
    cohort = assert_as_fit_alone(softs, small, build=lambda seed: copy.deepcopy(start))
    assert hashes(trained(softs(), small, build=lambda seed: start)) == hashes(cohort)


def test_every_student_is_a_network_of_its_own_in_eval_mode(small, build):
    entropy = kd.CrossEntropy()
    models = trained([entropy, *softs(), entropy], small, build=build).models
    assert len(models) == 12
    memory = {p.untyped_storage().data_ptr() for model in models for p in model.parameters()}
    assert len(memory) == 12 * 4
    for model in models:
        assert not any(module.training for module in model.modules())
        assert all(p.requires_grad and p.is_leaf for p in model.parameters())
        assert {p.dtype for p in model.parameters()} == {torch.float64}


class Drawing(nn.Linear):
    """A teacher that draws random numbers whenever it runs."""

    def forward(self, inputs):
        torch.rand(3)
        return super().forward(inputs.flatten(1))


def test_the_callers_generator_is_as_it_was(small, build):
    def drawing(seed):
        torch.rand(3)
        return build(seed)

    soft = kd.SoftTargets(Drawing(784, 10), 4, 0.5)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    trained([soft], small, build=drawing)
    assert torch.equal(torch.get_rng_state(), before)


# Teachers


@pytest.mark.parametrize("augment", [None, kd.data.shift(1)])
def test_the_teacher_stays_as_it_was(small, build, augment):
    taught = teacher()
    taught[3].eval()
    before, modes = weights_hash(taught), [module.training for module in taught.modules()]
    objectives = [kd.SoftTargets(taught, 4, 0.5), kd.LogitMatching(taught)]
    trained(objectives, small, replace(EXACT, augment=augment), build=build)
    assert weights_hash(taught) == before
    assert [module.training for module in taught.modules()] == modes
    assert all(p.grad is None and p.requires_grad for p in taught.parameters())


def test_a_teacher_runs_once_for_all_students_and_objectives(small, build, monkeypatch):
    taught, rows = teacher(), []
    taught.register_forward_hook(lambda module, inputs, output: rows.append(len(output)))
    objectives = [kd.SoftTargets(taught, T, 0.5) for T in (1, 4, 20)] + [kd.LogitMatching(taught)]
    # The first three in two stacks.
    monkeypatch.setattr(cohorts, "_STACK_WEIGHTS", 2 * weights_of_seeds())
    trained(objectives, small, build=build)
    assert sum(rows) == len(small.train)
    rows.clear()
    taught[-1].bias.data += 1  # so that nothing is remembered
    trained([kd.SoftTargets(taught, T, 0.5) + kd.LogitMatching(taught) for T in (1, 4)], small)
    assert sum(rows) == len(small.train)


# What comes back


def test_rows_and_models_go_objective_by_objective_and_seed_by_seed(small):
    objectives, seeds = [*softs(), kd.CrossEntropy()], (7, 2, 5)
    cohort = trained(objectives, small, seeds=seeds)
    assert cohort.frame["objective"].tolist() == [o.key for o in objectives for _ in seeds]
    assert cohort.frame["seed"].tolist() == [7, 2, 5] * 5
    numbers = cohort.frame[["temperature", "alpha"]]
    assert numbers[:12:3].values.tolist() == [[1, 0.5], [4, 0.9], [20, 1], [4, 0]]
    assert numbers[12:].isna().all(axis=None)
    for model, errors in zip(cohort.models, cohort.frame["test_errors"], strict=True):
        assert kd.evaluate(model, small.test).errors == errors


def test_the_frame_has_its_columns_whatever_the_objectives(small, build):
    columns = ["objective", "seed", "temperature", "alpha", "soft", "hard"]
    columns += ["validation_errors", "test_errors"]
    frame = trained([kd.CrossEntropy()], small, build=build).frame
    assert list(frame.columns) == columns
    assert frame["soft"].isna().all()
    matching = kd.LogitMatching(teacher())
    frame = trained([matching, kd.CrossEntropy()], small, build=build).frame
    assert list(frame.columns) == [*columns, "logits"]
    assert frame["logits"].notna().tolist() == [True, True, False, False]
    assert frame["hard"].notna().tolist() == [False, False, True, True]
    table = kd.SoftTargets(teacher(), torch.tensor(4.0), torch.tensor(0.5))
    frame = trained([table], small, build=build).frame
    assert frame[["temperature", "alpha"]].isna().all(axis=None)


@pytest.mark.parametrize("name", ["validation", "test"])
@pytest.mark.parametrize("kind", ["none", "unlabelled"])
def test_errors_are_nan_without_a_labelled_split_and_students_the_same(small, build, kind, name):
    held_out = None if kind == "none" else getattr(small, name).unlabelled()
    whole = trained(softs(), small, build=build)
    without = trained(softs(), replace(small, **{name: held_out}), build=build)
    other = {"validation": "test_errors", "test": "validation_errors"}[name]
    assert without.frame[f"{name}_errors"].isna().all()
    assert without.frame[other].equals(whole.frame[other])
    assert hashes(without) == hashes(whole)


@pytest.mark.parametrize(("dropout", "shown"), [(0, "epochs: .*0/3"), (0.3, "students: .*0/2")])
def test_a_bar_is_shown_only_if_wanted(small, dropout, shown, capsys):
    arguments = [kd.CrossEntropy()], small, replace(EXACT, epochs=3), SEEDS
    build = functools.partial(net, dropout=dropout)
    kd.fit_cohort(build, *arguments, progress=False)
    assert capsys.readouterr() == ("", "")
    kd.fit_cohort(build, *arguments)
    out, err = capsys.readouterr()
    assert out == ""
    assert re.search(shown, err)


# What goes wrong


def test_a_loss_that_diverges_stops_the_cohort(small, build, fits):
    taught, recipe = plain_teacher(), replace(EXACT, precision="float32")
    objectives = [kd.SoftTargets(taught, T, 0.9) for T in (4, 1e25, 1)]
    with pytest.raises(FloatingPointError, match="in epoch 1.*0.03.* a tenth of it") as caught:
        trained(objectives, small, recipe, build=build)
    assert fits or "of 2 of 6 students stopped being finite" in str(caught.value)


def steep_teacher():
    taught = plain_teacher()
    with torch.no_grad():
        taught[-1].weight *= 1e4
    return taught


@pytest.mark.parametrize(
    ("objective", "rate", "message"),
    [
        (lambda: kd.SoftTargets(steep_teacher(), 20, 1), 3e38, "the loss or the weights of 2 of 2"),
        # Its square is infinite, its gradient is not.
        (lambda: kd.LogitMatching(1e20 * torch.eye(10).repeat(2000, 1)), 0.03, "the loss or the"),
        (kd.CrossEntropy, 1e20, "the validation logits of 2 of 2 students .* epoch 1;"),
    ],
    ids=["weights", "loss", "last step"],
)
def test_a_divergence_in_the_first_and_last_step_stops_the_cohort_as_it_does_fit(
    small, objective, rate, message
):
    recipe = kd.Recipe(
        iterations=1, batch_size=50, learning_rate=rate, schedule="constant", precision="float32"
    )
    with pytest.raises(FloatingPointError):
        kd.fit(net(3), objective(), small, recipe, progress=False)
    with pytest.raises(FloatingPointError, match=message):
        trained([objective()], small, recipe)


def test_a_term_of_the_name_of_a_column_does_not_take_its_place(small):
    class Seeded(Own):
        def __call__(self, student, batch):
            return super().__call__(student, batch) | {"seed": student.logits.square().mean()}

    assert trained([Seeded()], small).frame["seed"].tolist() == list(SEEDS)


def test_ctrl_c_in_the_loop_stops_the_cohort(small, fits):
    def stop(objective):
        if objective.calls == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match="an incomplete cohort is not"):
        trained([Own(stop)], small, seeds=range(5))
    assert len(fits) == 2


def test_ctrl_c_stops_batched_products(small, monkeypatch):
    def stop(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(kd.CrossEntropy, "each", stop)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    with pytest.raises(KeyboardInterrupt):
        trained([kd.CrossEntropy()], small)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"objectives": []}, ValueError, "objectives must hold at least one, got none"),
        ({"objectives": iter([])}, ValueError, "objectives must hold at least one"),
        ({"seeds": []}, ValueError, "seeds must hold at least one, got none"),
        ({"objectives": kd.CrossEntropy()}, TypeError, "objectives must be a list, got CrossEnt"),
        ({"seeds": 3}, TypeError, "seeds must be a list, got 3; one alone is .3."),
        ({"seeds": [0, 1, 0]}, ValueError, "seeds must differ, got .0, 1, 0."),
        ({"seeds": [0, 1.5]}, TypeError, "seed must be a whole number, got 1.5"),
        ({"seeds": [0, -1]}, ValueError, "seed must be from 0.*got -1"),
        ({"objectives": [kd.CrossEntropy]}, TypeError, "objective must be one such as"),
        ({"objectives": [kd.CrossEntropy(), 4]}, TypeError, "objective must be.*got 4"),
        ({"build": lambda seed: "mlp"}, TypeError, "model must be a Module, got str"),
        ({"data": "digits"}, TypeError, "data must be a Data, got str"),
        ({"recipe": 10}, TypeError, "recipe must be a Recipe, got int"),
    ],
)
def test_a_cohort_refuses_what_it_cannot_train(small, change, kind, message):
    good = {"objectives": [kd.CrossEntropy()], "data": small, "recipe": EXACT, "seeds": [0]}
    with pytest.raises(kind, match=message):
        kd.fit_cohort(**{"build": net, **good} | change, progress=False)


@pytest.mark.parametrize("alphas", [[0.5], [1, 0.5], []])
def test_a_cohort_refuses_labels_that_are_not_there(small, alphas):
    taught, data = plain_teacher(), replace(small, train=small.train.unlabelled())
    objectives = [kd.SoftTargets(taught, 4, alpha) for alpha in alphas] or [kd.CrossEntropy()]
    with pytest.raises(ValueError, match="alpha must be 1|CrossEntropy needs labels"):
        trained(objectives, data)


def test_a_cohort_refuses_the_networks_and_inputs_that_fit_refuses(small):
    with pytest.raises(ValueError, match=r"model must give logits \(N, 10\)"):
        trained([kd.CrossEntropy()], small, build=functools.partial(net, classes=5))
    with pytest.raises(RuntimeError):
        trained([kd.CrossEntropy()], small, build=functools.partial(net, inputs=100))
    for model in (nn.Sequential(), nn.Sequential(nn.Flatten(2), *net(0)[1:])):
        with pytest.raises((RuntimeError, ValueError)):
            trained([kd.CrossEntropy()], small, build=lambda seed, model=model: model, seeds=[0])
    with pytest.raises(ValueError, match='keep="best" needs'):
        trained([kd.CrossEntropy()], replace(small, validation=None), replace(EXACT, keep="best"))
    whole_numbers = replace(small.train, inputs=small.train.inputs.long())
    with pytest.raises(RuntimeError, match="dtype"):
        trained([kd.CrossEntropy()], replace(small, train=whole_numbers))


def test_seeds_and_objectives_may_come_from_anywhere(small):
    found = trained((o for o in softs()), small, seeds=np.arange(2))
    expected = trained(softs(), small, seeds=[0, 1])
    assert found.frame.equals(expected.frame)
