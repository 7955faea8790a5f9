import copy
import warnings
from dataclasses import replace

import pytest
import torch
from teaching import (
    ONCE,
    assert_equal,
    batch_of,
    close,
    every_view,
    features_of,
    fussy,
    maps,
    prepared,
    state_of,
    trained,
)
from torch import nn

import kdlib as kd
from kdlib.objectives import Outputs

LOW, FLOW = ("low", "low"), ("low", "high")
SLOW = replace(ONCE, learning_rate=1e-4)  # the hint loss sums thousands of features


def hint(teacher=None, hint="low", guided="low", activation=None):
    teacher = maps(9, width=6) if teacher is None else teacher
    return kd.Hint(teacher, hint=hint, guided=guided, activation=activation)


def fsp(teacher=None, shuffle_seed=None, pairs=((LOW, LOW), (FLOW, FLOW))):
    return kd.FSP(teacher or maps(9), pairs=pairs, shuffle_seed=shuffle_seed)


on_features = pytest.mark.parametrize("make", [hint, fsp])


@pytest.fixture(scope="module")
def batch(few):
    return batch_of(few.train, torch.arange(7))


def outputs(network, batch, *names):
    return Outputs(None, features_of(network, batch.inputs, *names or ("low", "high")))


# What is trained


@on_features
@every_view
def test_alone_they_leave_everything_above_as_it_was_to_the_bit(few, make, recipe):
    student = maps()
    before = state_of(student)
    objective = fsp() if make is fsp else hint(None, "high", "low")
    recipe = replace(recipe, learning_rate=1e-4, weight_decay=0.1, max_norm=0.01, epochs=2)
    trained(objective, few, recipe, student)
    moved = {n for n, t in student.state_dict().items() if not torch.equal(t, before[n])}
    assert {"low.0.weight", "low.1.running_mean", "low.1.num_batches_tracked"} <= moved
    above = ("top", "norm", "head") if make is fsp else ("high", "top", "norm", "head")
    assert not any(name.startswith(above) for name in moved)


@on_features
def test_prepare_does_not_change_the_student(few, make):
    student = maps().train()
    before = state_of(student)
    prepared(make(), few, SLOW, student)
    close(state_of(student), before, rtol=0, atol=0)
    assert all(module.training for module in student.modules())


def test_the_regressor_learns_and_is_a_new_one_in_each_training(few):
    objective, starts = hint(), []
    prepare = objective.prepare
    objective.prepare = lambda *a: prepare(*a) or starts.append(state_of(objective.module))
    for _ in range(2):
        trained(objective, few, SLOW, maps())
        assert not torch.equal(objective.module[0][0].weight, starts[-1]["0.0.weight"])
    close(starts[1], starts[0], rtol=0, atol=0)


def test_the_hint_is_fixed_and_cannot_collapse(few, batch):
    """If everything that is trained is zero, the loss is half the hint's squared length."""
    teacher = maps(9, width=6)
    objective = prepared(hint(teacher), few, SLOW, maps())
    for parameter in objective.module.parameters():
        nn.init.zeros_(parameter)
    student = Outputs(None, {"low": torch.zeros(7, 4, 28, 28)})
    low = features_of(teacher, batch.inputs, "low")["low"]
    close(objective(student, batch)["hint"], low.square().sum() / 2 / 7, rtol=1e-4, atol=1e-4)


def test_several_hints_are_the_sum_of_single_ones(few, batch):
    teacher, student = maps(9), maps()
    both = hint(teacher, ["low", "high"], ["low", "high"])
    alone = [hint(teacher, name, name) for name in ("low", "high")]
    for objective in (both, *alone):
        prepared(objective, few, SLOW, student)
    for one, regressor in zip(alone, both.module, strict=True):
        one.module = nn.ModuleList([regressor])
    seen = outputs(student, batch)
    close(both(seen, batch)["hint"], sum(one(seen, batch)["hint"] for one in alone))


def test_fsp_compares_the_students_layers_with_the_teachers_of_other_names(few, batch):
    teacher, student = maps(9, width=8), maps(width=4)  # the student's "high" is as wide as "low"
    objective = prepared(fsp(teacher, pairs=[(("high", "high"), LOW)]), few, SLOW, student)
    assert objective.taps == ("high",)
    ours = features_of(student, batch.inputs, "high")["high"]
    theirs = features_of(teacher, batch.inputs, "low")["low"]
    matrices = [kd.fsp_matrix(x, x) for x in (ours, theirs)]
    expected = (matrices[0] - matrices[1]).square().sum((1, 2)).mean()
    close(objective(outputs(student, batch), batch)["fsp"], expected, rtol=1e-4, atol=1e-5)


def test_a_shuffled_fsp_permutes_the_channels_of_each_layer_by_its_own_order(few, batch):
    with kd.seeded(0):  # two layers of equal width
        teacher = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3))
    pairs = [(("0", "0"), ("0", "0")), (("0", "1"), ("0", "1"))]
    plain, first, again, other = (fsp(teacher, seed, pairs) for seed in (None, 3, 3, 4))
    for objective in (plain, first, again, other):
        prepared(objective, few, SLOW, copy.deepcopy(teacher))
    one, two = (first._source.targets.order(name, torch.empty(1, 8)) for name in ("0", "1"))
    assert sorted(one.tolist()) == list(range(8)) and one.tolist() != two.tolist()
    within, between = plain._source(batch)
    expected = [within[:, one][:, :, one], between[:, one][:, :, two]]
    close(first._source(batch), expected)
    close(again._source(batch), expected)
    assert torch.equal(again._source.targets.order("0", one[None]), one)  # drawn once more
    assert not torch.equal(other._source(batch)[1], expected[1])
    assert len({plain.key, first.key, other.key}) == 3 and first.key == again.key


# Regressors


def test_unequal_widths_and_sizes_get_the_papers_kernel(few):
    with kd.seeded(0):
        teacher = nn.Sequential(nn.Conv2d(1, 5, (6, 9), stride=2), nn.Tanh())  # 12 x 10
    objective = hint(teacher, hint="1", guided="high", activation="tanh")  # from 8 x 14 x 14
    convolution, last = prepared(objective, few, SLOW, maps()).module[0]
    assert convolution.kernel_size == (3, 5) and convolution.padding == (0, 0)
    assert (convolution.in_channels, convolution.out_channels) == (8, 5)
    assert isinstance(last, nn.Tanh)


@pytest.mark.parametrize(
    ("layer", "activation", "kinds"),
    [("1", None, [nn.Linear]), ("3", "relu", [nn.Linear, nn.ReLU])],
)
def test_flat_features_get_a_linear_regressor(few, layer, activation, kinds):
    objective = prepared(hint(fussy(), layer, "1", activation), few, SLOW)
    assert [type(layer) for layer in objective.module[0]] == kinds


@pytest.mark.parametrize(
    ("activation", "last"),
    [
        ("relu", nn.ReLU),
        ("tanh", nn.Tanh),
        (None, nn.Conv2d),
        (kd.models.Maxout(2), kd.models.Maxout),
        (nn.Sigmoid(), nn.Sigmoid),
    ],
)
def test_the_regressor_ends_with_the_given_activation(few, activation, last):
    regressor = prepared(hint(maps(9), activation=activation), few, SLOW, maps()).module[0]
    assert isinstance(regressor[-1], last) and regressor[-1] is not activation
    channels = 8 if last is kd.models.Maxout else 4  # two pieces per channel
    assert regressor[0].out_channels == channels


def test_relu_is_the_default_and_a_warning_names_hints_that_it_cannot_reach(few):
    teacher = maps(9)  # "high" ends with a BatchNorm and has either sign
    assert kd.Hint(teacher, hint="low", guided="low").activation == "relu"
    with pytest.warns(UserWarning, match=r"'high' goes down to -\d.*activation=None"):
        prepared(hint(teacher, "high", "high", "relu"), few, SLOW, maps())
    for name, activation in (("low", "relu"), ("high", None), ("high", "tanh")):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            prepared(hint(teacher, name, name, activation), few, SLOW, maps())


# Training


def test_joint_training_is_one_forward_pass_and_logs_every_term(few):
    student, passes = maps(), []
    student.low.register_forward_hook(lambda *call: passes.append(student.training))
    objective = kd.CrossEntropy() + 0.5 * hint() + 0.1 * fsp()
    frame = trained(objective, few, SLOW, student)[1].frame
    assert sum(passes) == 3  # steps; passes for shapes and validation are in eval mode
    assert list(frame)[3:6] == ["hard", "hint", "fsp"]
    assert frame["validation_accuracy"].notna().all()


def test_a_sum_asks_for_logits_where_a_part_needs_them():
    teacher = maps(9)
    joint = kd.CrossEntropy() + 0.1 * hint(teacher)
    assert joint.taps == ("", "low")
    assert (joint + fsp(teacher)).taps == ("", "low", "high")
    assert (hint(teacher) + fsp(teacher)).taps == ("low", "high")
    assert (kd.CrossEntropy() + kd.LogitMatching(teacher)).taps == ()


def test_validation_is_nan_without_logits(few):
    frame = trained(fsp(), few, SLOW, maps())[1].frame
    assert frame[["validation_loss", "validation_accuracy"]].isna().all(axis=None)


@on_features
@pytest.mark.parametrize("precision", ["float64", "bfloat16"])
def test_students_may_train_in_other_precisions_and_without_labels(few, make, precision):
    unlabelled = replace(few, train=few.train.unlabelled())
    recipe = replace(SLOW, precision=precision)
    assert trained(make(), unlabelled, recipe, maps())[1].frame.iloc[-1, 3] > 0


def test_a_cohort_trains_on_features_as_fit_does_and_its_frame_holds_no_weights(few):
    scheduled = lambda: (lambda progress: 1 - progress) * hint()
    cohort = kd.fit_cohort(maps, [scheduled(), fsp()], few, SLOW, [1], progress=False)
    for model, objective in zip(cohort.models, (scheduled(), fsp()), strict=True):
        assert_equal(trained(objective, few, SLOW, maps(1), seed=1)[0], model)
    assert not any(name.startswith("weight") for name in cohort.frame)


@on_features
def test_the_default_learning_rate_is_a_thousandth_and_stable_on_features_alone(few, make):
    teacher = trained(kd.CrossEntropy(), few, replace(ONCE, epochs=3), maps(9))[0]
    given = trained(make(teacher), few, replace(ONCE, learning_rate=0.001, epochs=4), maps())[0]
    by_default, history = trained(make(teacher), few, replace(ONCE, epochs=4), maps())
    assert_equal(given, by_default)
    losses = history.frame.iloc[:, 3]
    assert losses.iloc[-1] < losses.iloc[0]


# Keys and arguments


def test_keys_differ_by_teacher_layers_order_and_activation():
    one, other = maps(9), maps(8)
    keys = [
        hint(one).key,
        hint(other).key,
        hint(one, "high").key,
        hint(one, "low", "high").key,
        hint(one, ["low", "high"], ["low", "high"]).key,
        *(hint(one, activation=ends).key for ends in ("relu", "tanh", nn.Tanh())),
        fsp(one).key,
        fsp(other).key,
        fsp(one, pairs=[(LOW, LOW)]).key,
        fsp(one, pairs=[(LOW, FLOW)]).key,
    ]
    assert len(set(keys)) == len(keys)
    assert hint(maps(9)).key == hint(maps(9)).key


def test_another_activation_in_the_teacher_is_another_teacher(few):
    with kd.seeded(0):
        teacher = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU())
    objective = hint(teacher, "1", "low")
    trained(objective, few, SLOW, maps())
    before = objective.key
    teacher[1] = nn.Tanh()
    assert objective.key != before
    again = trained(objective, few, SLOW, maps())[0]
    assert_equal(again, trained(hint(teacher, "1", "low"), few, SLOW, maps())[0])


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: hint(hint=["low", "high"]), ValueError, "as many layers as hint: 2, got 1"),
        (lambda: hint(hint=["low", "low"], guided=["low", "high"]), ValueError, "each once"),
        (lambda: hint(hint=[]), ValueError, "hint must name at least one layer"),
        (lambda: hint(guided=3), TypeError, "guided must be a layer's name or a list.*3"),
        (lambda: hint(activation="maxout"), TypeError, "must be one of relu, leaky_relu.*a module"),
        (lambda: hint(activation=nn.ReLU), TypeError, "must be one of relu, leaky_relu.*a module"),
        (lambda: fsp(pairs=[]), ValueError, "pairs must be at least one"),
        (lambda: fsp(pairs=[("low", "high")]), TypeError, "pairs must be.*stem"),
        (lambda: fsp(pairs=[LOW]), TypeError, "pairs must be"),
        (lambda: fsp(pairs=3), TypeError, "pairs must be.*got 3"),
        (lambda: fsp(pairs=[3]), TypeError, "pairs must be.*got 3"),
        (lambda: fsp(shuffle_seed=1.5), TypeError, "shuffle_seed must be a whole number"),
        (lambda: fsp(shuffle_seed=-1), ValueError, "shuffle_seed must be from 0"),
    ],
)
def test_bad_arguments_are_named_where_the_objective_is_built(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: hint(hint="no"), "no module 'no'; it has 'low'"),
        (lambda: hint(guided="no"), "no module 'no'; it has 'low'"),
        (lambda: hint(guided="high"), r"guided 'high' must be.*\(6, 28, 28\), got \(8, 14"),
        (lambda: hint(guided="head"), r"guided 'head' must be flat where"),
        (lambda: fsp(pairs=[(("low", "no"), LOW)]), "no module 'no'"),
        (lambda: fsp(pairs=[(("low", "head"), LOW)]), r"maps \(N, C, H, W\)"),
        (lambda: fsp(maps(9, width=6)), r"\('low', 'low'\) of the student.*\(4, 4\).*\(6, 6\)"),
    ],
)
def test_features_that_do_not_fit_are_refused_before_training(few, make, message):
    student = maps()
    with pytest.raises(ValueError, match=message):
        trained(make(), few, SLOW, student)
    assert_equal(student, maps())
