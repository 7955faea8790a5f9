import copy
import gc
import math
import pickle
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from teaching import (
    ONCE,
    SHIFTED,
    Spy,
    assert_taught_by,
    batch_of,
    close,
    every_view,
    features_of,
    fresh,
    fussy,
    maps,
    prepared,
    small,
    state_of,
    student_of,
    trained,
)
from torch import nn

import kdlib as kd
from kdlib.losses import logit_matching_loss, soft_target_loss
from kdlib.objectives import teachers as module

LOW, FLOW = ("low", "low"), ("low", "high")
ON_LOGITS = {
    "SoftTargets": lambda teacher: kd.SoftTargets(teacher, 4, 0.9),
    "LogitMatching": kd.LogitMatching,
    "CWTM": kd.CWTM,
    "DKPP": kd.DKPP,
    "Loss": lambda teacher: kd.Loss(logit_matching_loss, teacher),
}
ON_FEATURES = {
    "Hint": lambda teacher: kd.Hint(teacher, hint="low", guided="low", activation=None),
    "FSP": lambda teacher: kd.FSP(teacher, pairs=[(LOW, LOW), (FLOW, FLOW)]),
}
on_logits = pytest.mark.parametrize("build", ON_LOGITS.values(), ids=ON_LOGITS)
on_features = pytest.mark.parametrize("build", ON_FEATURES.values(), ids=ON_FEATURES)


# Looked up by sample index


@on_logits
def test_a_table_of_logits_is_read_by_sample_index(few, build):
    split, rows = few.train, torch.tensor([40, 3, 99])
    table = torch.randn(int(split.index.max()) + 1, 10, generator=torch.Generator().manual_seed(0))
    source = prepared(build(table), few)._source
    close(source(batch_of(split, rows)), table[split.index[rows]])


@on_logits
def test_a_table_of_logits_is_refused_where_views_are_random(few, build):
    text = kd.text.from_texts("abcab" * 20, device="cpu")
    for data in (few, text):
        with pytest.raises(ValueError, match="teacher must be a network where augment is set"):
            prepared(build(torch.zeros(2000, 10)), data, SHIFTED)


def test_a_table_must_have_a_row_for_every_sample_index(few):
    last = int(few.train.index.max())
    wording = f"every sample index of the training split, up to {last}: got {last} rows"
    with pytest.raises(ValueError, match=wording):
        prepared(kd.LogitMatching(torch.zeros(last, 10)), few)
    prepared(kd.LogitMatching(torch.zeros(last + 1, 10)), few)


@on_logits
@pytest.mark.parametrize("table", [torch.zeros(4), torch.zeros(2, 3, 4), torch.eye(3).long()])
def test_a_table_must_hold_one_row_of_logits_per_sample(build, table):
    with pytest.raises(TypeError, match=r"must hold floating-point logits \(rows, C\)"):
        build(table)


def test_the_teacher_runs_once_per_image_where_views_are_fixed(few):
    teacher, rows = small(), []
    teacher.register_forward_hook(lambda module, inputs, output: rows.append(len(output)))
    objective = kd.SoftTargets(teacher, 4, 0.9)
    for seed in (1, 2):
        trained(objective, few, replace(ONCE, epochs=3), small(seed))
    assert sum(rows) == 100


def test_features_of_few_images_are_computed_once_and_of_many_in_every_step(few, monkeypatch):
    teacher, passes = maps(9), []
    teacher.low[0].register_forward_hook(lambda module, inputs, output: passes.append(len(output)))
    objective = ON_FEATURES["FSP"](teacher)
    for seed in (0, 1):
        trained(objective, few, replace(ONCE, epochs=3), maps(seed))
    assert sum(passes) <= 100 + 2  # and one image in each fit, for the shapes
    monkeypatch.setattr(module, "_TABLE_BYTES", 1000)
    passes.clear()
    trained(Spy(ON_FEATURES["FSP"](teacher)), few, ONCE, maps())
    assert sum(passes) == 1 + 3 * 32  # each batch once, however often it is asked for


def test_a_table_of_features_holds_the_splits_images_alone(digits):
    data = replace(digits, train=digits.train.select(torch.arange(500, 600)))
    source = prepared(ON_FEATURES["FSP"](maps(9)), data, student=maps())._source
    assert [len(table) for table in source.answers.tables] == [100, 100]


# Computed on the views of the batch


@every_view
@pytest.mark.parametrize("several", [False, True], ids=["one", "two"])
def test_the_teacher_sees_the_same_views_as_the_student_in_eval_mode(few, recipe, several):
    networks = [fussy(0), fussy(1).eval()] if several else [fussy(0)]
    spy = Spy(kd.LogitMatching(networks if several else networks[0]))
    trained(spy, few, replace(recipe, epochs=2))
    changed = 0
    for logits, batch, terms, _ in spy.seen:
        rows = sum(fresh(network, batch.inputs) for network in networks) / len(networks)
        close(terms["logits"].detach(), logit_matching_loss(logits, rows))
        images = few.train.inputs[torch.searchsorted(few.train.index, batch.index)]
        changed += int((images != batch.inputs).flatten(1).any(1).sum())
    assert changed > 100 if recipe is SHIFTED else changed == 0  # of 192


@on_features
@every_view
def test_features_are_those_of_the_same_views_in_eval_mode(few, build, recipe):
    teacher = maps(9).train()
    spy = Spy(build(teacher))
    trained(spy, few, replace(recipe, epochs=2, learning_rate=1e-4), maps())
    assert len(spy.seen) == 6
    for _, batch, _, targets in spy.seen:
        low, high = features_of(teacher, batch.inputs, "low", "high").values()
        fsp = [kd.fsp_matrix(low, low), kd.fsp_matrix(low, high)]
        expected = [low] if len(targets) == 1 else fsp
        close(targets, expected, rtol=1e-4, atol=1e-5)


def test_a_live_teacher_answers_once_per_batch_and_anew_for_the_next(few):
    source, passes = prepared(kd.SoftTargets(fussy(), 4, 0.9), few, SHIFTED)._source, []
    source.answers.networks[0].register_forward_hook(lambda *call: passes.append(1))
    one, other = (batch_of(few.train, torch.arange(k, k + 7)) for k in (0, 7))
    for batch, so_far in ((one, 1), (one, 1), (other, 2), (one, 3)):
        close(source(batch), fresh(fussy(), batch.inputs))
        assert len(passes) == so_far


@every_view
def test_one_objective_serves_any_number_of_fits_and_splits(few, digits, recipe):
    teacher = small()
    spy = Spy(kd.SoftTargets(teacher, 4, 0.9))
    assert not torch.equal(few.train.index, torch.arange(100))  # rows are not an index
    for data in (few, digits.limit(80, seed=9), few):
        spy.seen.clear()
        trained(spy, data, recipe, small(1))
        assert_taught_by(teacher, spy)


# The teacher's state


def everything(network):
    """A network's tensors, modes and gradients."""
    grads = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    flags = [x.training for x in network.modules()], [p.requires_grad for p in network.parameters()]
    return copy.deepcopy((dict(network.state_dict()), grads, flags))


@every_view
@pytest.mark.parametrize("kind", ["one", "two", "features"])
def test_the_teacher_is_bit_identical_after_fit_and_the_student_is_not(few, recipe, kind):
    if kind == "features":
        teachers, student = [maps(9)], maps()
        objective = sum((build(teachers[0]) for build in ON_FEATURES.values()), kd.CrossEntropy())
    else:
        teachers, student = [fussy(seed) for seed in ((0, 1) if kind == "two" else (0,))], small(1)
        taught = teachers if kind == "two" else teachers[0]
        soft = kd.SoftTargets(taught, 4, 0.9) + kd.LogitMatching(taught)
        objective = soft + kd.CWTM(taught) + kd.DKPP(taught)
    for teacher in teachers:
        teacher.train()[1].eval()  # modes may differ from module to module
        first, *_, last = teacher.parameters()
        first.requires_grad_(False)
        last.grad = torch.ones_like(last)
    before, start = [everything(teacher) for teacher in teachers], state_of(student)
    trained(objective, few, replace(recipe, learning_rate=1e-3), student)
    close([everything(teacher) for teacher in teachers], before, rtol=0, atol=0)
    weights = {name: t for name, t in student.state_dict().items() if t.ndim > 1}
    assert not any(torch.equal(start[name], t) for name, t in weights.items())


@every_view
def test_a_teacher_changed_between_two_fits_is_noticed(few, recipe):
    teacher = fussy()
    spy = Spy(kd.SoftTargets(teacher, 4, 0.9))
    for tensor in (None, teacher[-1].weight, teacher[2].running_mean):
        with torch.no_grad():
            if tensor is not None:
                tensor.add_(torch.randn(tensor.shape))
        spy.seen.clear()
        trained(spy, few, recipe, small(1))
        assert_taught_by(teacher, spy)


@every_view
def test_a_network_that_teaches_itself_teaches_what_it_was_at_the_start(few, recipe):
    network = small()
    start, spy = copy.deepcopy(network), Spy(kd.SoftTargets(network, 4, 0.5))
    trained(spy, few, recipe, network)
    assert_taught_by(start, spy)
    assert spy.seen[-1][2]["soft"] > 1e-4
    inside = maps()
    start, spy = copy.deepcopy(inside), Spy(ON_FEATURES["FSP"](inside))
    trained(spy, few, replace(recipe, learning_rate=1e-3), inside)
    *_, batch, _, targets = spy.seen[-1]
    (low,) = features_of(start, batch.inputs, "low").values()
    close(targets[0], kd.fsp_matrix(low, low), rtol=1e-4, atol=1e-5)


# Lists of teachers


@pytest.mark.parametrize("T", [1, 4, 20])
@every_view
def test_soft_targets_of_several_teachers_are_the_mean_of_their_probabilities(few, T, recipe):
    teachers = [small(0), small(1), small(2)]
    for scale, teacher in zip((30, 20, 1), teachers, strict=True):  # they disagree, some strongly
        with torch.no_grad():
            teacher[-1].weight.mul_(scale)
    batch = batch_of(few.train, torch.tensor([40, 3, 99]))
    student = student_of(batch)
    rows = [fresh(teacher, batch.inputs).double() for teacher in teachers]
    p = torch.stack([torch.softmax(t / T, -1) for t in rows]).mean(0).numpy()
    q = torch.softmax(student.logits.double() / T, -1).numpy()
    expected = T**2 * (p * np.log(p / q)).sum(-1).mean()
    soft = prepared(kd.SoftTargets(teachers, T, 1), few, recipe)(student, batch)["soft"]
    assert soft.item() == pytest.approx(expected, rel=1e-4)
    of_mean_logits = soft_target_loss(student.logits, sum(rows) / 3, T)
    assert of_mean_logits.item() != pytest.approx(expected, rel=1e-3)


@every_view
def test_logit_matching_of_several_teachers_is_to_the_mean_of_their_centred_logits(few, recipe):
    teachers = [small(0), small(1)]
    with torch.no_grad():
        teachers[1][-1].bias += 50
    batch = batch_of(few.train, torch.tensor([40, 3, 99]))
    rows = [fresh(teacher, batch.inputs) for teacher in teachers]
    expected = sum(t - t.mean(-1, keepdim=True) for t in rows) / 2
    found = prepared(kd.LogitMatching(teachers), few, recipe)._source(batch)
    close(found, expected, rtol=1e-4, atol=1e-4)


@on_logits
def test_copies_of_one_teacher_teach_like_one(few, build):
    batch = batch_of(few.train, torch.arange(7))
    student, state = student_of(batch), batch.generator.get_state()
    expected = prepared(build(small()), few)(student, batch)
    for copies in ([small()] * 3, (small(),)):
        batch.generator.set_state(state)
        close(prepared(build(copies), few)(student, batch), expected)


def test_the_temperature_of_a_list_may_be_changed_between_two_fits(few):
    teachers, batch = [small(5), small(6)], batch_of(few.train, torch.arange(7))
    objective, hot = kd.SoftTargets(teachers, 1, 1.0), kd.SoftTargets(teachers, 20, 1.0)
    prepared(objective, few).temperature = 20.0
    close(prepared(objective, few)._source(batch), prepared(hot, few)._source(batch))


# Several objectives with one teacher


@every_view
def test_a_teacher_answers_once_for_all_parts_of_a_sum(few, recipe):
    teacher, rows = small(7), []
    teacher.register_forward_hook(lambda module, inputs, output: rows.append(len(output)))
    own = kd.Loss(logit_matching_loss, teacher)
    trained(kd.SoftTargets(teacher, 4, 0.9) + kd.LogitMatching(teacher) + own, few, recipe)
    assert sum(rows) == (96 if recipe is SHIFTED else 100)


def test_equal_teachers_share_their_table_and_changed_ones_do_not(few):
    teachers = [small(8), small(8)]
    objectives = [kd.SoftTargets(teacher, T, 0.9) for teacher in teachers for T in (1, 4)]
    first, *others = [prepared(objective, few)._source.answers for objective in objectives]
    assert all(answers is first for answers in others)
    with torch.no_grad():
        teachers[1][-1].bias[0] += 1
    assert prepared(objectives[2], few)._source.answers is not first
    assert prepared(objectives[0], few)._source.answers is first
    teachers[0].register_forward_hook(lambda module, inputs, output: 3 * output)
    assert prepared(objectives[0], few)._source.answers is not first


class Scaled(nn.Module):
    def __init__(self, network, scale):
        super().__init__()
        self.network, self.scale = network, scale

    def forward(self, x):
        return self.scale * self.network(x)


@every_view
def test_teachers_of_equal_weights_and_other_outputs_share_nothing(few, recipe):
    plain, twice, thrice, tanh = small(3), Scaled(small(3), 2.0), Scaled(small(3), 3.0), small(3)
    tanh[2] = nn.Tanh()
    batch = batch_of(few.train, torch.arange(7))
    held = [kd.LogitMatching(teacher) for teacher in (plain, tanh, twice, thrice)]
    for objective in held:
        close(
            prepared(objective, few, recipe)._source(batch), fresh(objective.teacher, batch.inputs)
        )
    twice.scale = 3.0  # the same object, changed between two fits
    again = prepared(held[2], few, recipe)._source(batch)
    close(again, fresh(thrice, batch.inputs))


def test_lists_share_a_table_where_they_are_averaged_alike(few):
    rows, teachers = [], [small(5), small(6)]
    teachers[0].register_forward_hook(lambda module, inputs, output: rows.append(len(output)))
    soft = [kd.SoftTargets(teachers, *numbers) for numbers in ((4, 0.9), (4, 0.5), (2, 0.5))]
    others = [kind(teachers) for kind in (kd.LogitMatching, kd.DKPP, kd.CWTM)]
    for objective in (*soft, *others):
        prepared(objective, few)
    assert sum(rows) == 4 * len(few.train)  # at T = 4, at T = 2, centred logits, at T = 1


@every_view
@pytest.mark.parametrize("kind", ["logits", "features"])
def test_a_fitted_objective_can_be_pickled_and_frees_its_answers(few, recipe, kind):
    gc.collect()
    teacher = small(7)
    hint = lambda: kd.Hint(teacher, hint="2", guided="2")
    objective = kd.SoftTargets([teacher, small(1)], 4, 0.9) if kind == "logits" else hint()
    before = len(pickle.dumps(objective))
    prepared(objective, few, recipe)
    dumped = pickle.dumps(objective)
    assert pickle.loads(dumped).key == objective.key
    if kind == "logits":  # a hint's regressor is in it
        assert len(dumped) < before + 1000  # neither the data nor the answers
    gone = weakref.ref(objective._source.answers)
    gc.disable()
    try:
        del objective
        assert gone() is None
    finally:
        gc.enable()
    assert not any(answers.asked == [teacher] for answers in module._ANSWERS.values())


# Bad teachers


@on_logits
@pytest.mark.parametrize(
    "teacher, found",
    [("mlp", "str"), ([None], "NoneType"), (np.eye(3), "ndarray"), (kd.models.mlp, "function")]
    + [([small(), torch.eye(3)], "Tensor")],
)
def test_a_teacher_must_be_networks_or_logits(build, teacher, found):
    wording = f"teacher must be a network, a list of networks or a tensor of logits .* got {found}"
    with pytest.raises(TypeError, match=wording):
        build(teacher)


@on_logits
def test_an_empty_list_and_a_module_list_are_not_teachers(build):
    with pytest.raises(ValueError, match="at least one network, got an empty list"):
        build([])
    with pytest.raises(TypeError, match="got ModuleList"):
        build(nn.ModuleList([small()]))


@on_features
@pytest.mark.parametrize(
    "teacher", [[maps(), maps()], nn.ModuleList([maps()]), torch.zeros(3, 10), None]
)
def test_a_teacher_of_features_must_be_one_network(build, teacher):
    with pytest.raises(TypeError, match=f"must be one network.*{type(teacher).__name__}"):
        build(teacher)


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_a_teacher_without_finite_logits_is_refused_before_training(few, value):
    table, index = torch.zeros(int(few.train.index.max()) + 1, 10), int(few.train.index[3])
    table[index, 5] = value
    network = small()
    nn.init.constant_(network[-1].bias, value)
    for teacher, found in ((table, f"1 samples, the first with index {index}"), (network, "100 s")):
        with pytest.raises(ValueError, match=f"finite logits, got NaN or infinity for {found}"):
            prepared(kd.SoftTargets(teacher, 4, 0.9), few)


@on_features
@every_view
def test_a_teacher_without_finite_features_is_refused(few, build, recipe):
    teacher = maps(9)
    nn.init.constant_(teacher.low[0].weight, math.nan)
    with pytest.raises(ValueError, match="teacher must give finite features at low"):
        prepared(build(teacher), few, recipe, maps())


@on_features
@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside labels"])
def test_objectives_on_features_refuse_a_text(build, beside):
    text = kd.text.from_texts("abcab" * 20, device="cpu", unroll=5)
    objective = kd.CrossEntropy() + build(maps()) if beside else build(maps())
    with pytest.raises(ValueError, match="for images, but the training split is a text"):
        trained(objective, text, ONCE, kd.models.lstm(3, width=4))
