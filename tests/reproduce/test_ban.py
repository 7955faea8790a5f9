"""kdlib/reproduce/ban.py and ban_lm.py: who teaches whom, and that ways differ in nothing but their teaching."""

import math
from collections import namedtuple
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

import kdlib as kd
from kdlib.identity import weights_hash
from kdlib.objectives import Outputs
from kdlib.reproduce import ban, ban_lm

PROTOCOLS = {"ban": ban, "ban_lm": ban_lm}
every_protocol = pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
CACHES = [
    cached
    for module in PROTOCOLS.values()
    for cached in vars(module).values()
    if hasattr(cached, "cache_clear") and cached.__module__ == module.__name__
]
CLEAN, WRONG, WIDE, FAMILIES = ban.SMOKE
WORDS, CHARACTERS = ban_lm.SMOKE
OF_GENERATION_0 = ("BAN-1", "BAN+L", "CWTM", "DKPP", "smoothed", "argmax", "labels 1")

Training = namedtuple("Training", "start storage objective data recipe seed")


@pytest.fixture(scope="module", autouse=True)
def smoke(one_thread):
    """Digits, a short text and one epoch, and nothing of it left in memory afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDLIB_PROFILE", "smoke")
        patch.setattr(ban, "load", partial(kd.data.load, device="cpu"))
        patch.setattr(ban_lm, "from_texts", partial(kd.text.from_texts, device="cpu"))
        clear()
        yield
    clear()


def clear():
    for cached in CACHES:
        cached.cache_clear()


@pytest.fixture
def lesson(monkeypatch):
    """What is run for the course: looked at here, never run."""

    def load(*arguments, **options):
        raise AssertionError("settings are listed without data")

    monkeypatch.setenv("KDLIB_PROFILE", "lesson")
    monkeypatch.setattr(ban, "load", load)
    for name in ("ptb", "topics", "from_texts"):
        monkeypatch.setattr(ban_lm, name, load)


@pytest.fixture
def trainings(monkeypatch):
    """What each network would be trained on, in the order in which they are born. None is trained."""
    seen = []

    def keep(build, objective, data, recipe, seed):
        net = build(seed)
        storage = {tensor.data_ptr() for tensor in net.state_dict().values()}
        start = weights_hash(net)
        seen.append(Training(start, storage, objective.key, data, recipe, seed))
        kept.append(net)  # so that no storage is used again
        return net.eval()

    kept = []
    for module in PROTOCOLS.values():
        monkeypatch.setattr(module, "keep", keep)
    clear()
    yield seen
    clear()


def begun(trainings, size, ways, lineage=0):
    """The training of each way, its teachers left out."""
    found = {}
    for way in ways:
        before = len(trainings)
        ban._net(size, size.network, way, lineage)
        found[way] = trainings[-1]
        assert len(trainings) > before
    return found


def setting_of(protocol, experiment, name):
    (found,) = [s for s in protocol.settings() if (s.experiment, s.setting) == (experiment, name)]
    return found


def values_of(protocol, experiment, name, metric):
    rows = setting_of(protocol, experiment, name).run()
    return [row.value for row in rows if row.metric == metric]


def assert_same_weights(one, other):
    other = other.state_dict()
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, other[name]), name


# Both protocols


@every_protocol
def test_every_setting_runs_and_gives_finite_rows(protocol, monkeypatch):
    one = [replace(size, lineages=range(1)) for size in (WIDE, FAMILIES)]  # the slow ones
    monkeypatch.setattr(ban, "SMOKE", (CLEAN, WRONG, *one))
    for setting in protocol.settings():
        rows = list(setting.run())
        assert rows, setting.setting
        for row in rows:
            assert math.isfinite(row.value), (setting.experiment, setting.setting, row)


@every_protocol
def test_settings_are_listed_without_data_and_have_names_and_hashes_of_their_own(protocol, lesson):
    settings = protocol.settings()
    assert list(dict.fromkeys(s.protocol for s in settings)) == ["short", "paper"]
    assert len({(s.protocol, s.experiment, s.setting) for s in settings}) == len(settings)
    assert len({s.key for s in settings}) == len({s.recipe for s in settings}) == len(settings)


@every_protocol
def test_smoke_has_settings_of_its_own(protocol):
    assert {s.protocol for s in protocol.settings()} == {"smoke"}


@every_protocol
def test_the_papers_numbers_have_settings_to_stand_beside(protocol, lesson):
    names = {(s.experiment, s.setting.partition(", seed ")[0]) for s in protocol.settings()}
    assert {(p.experiment, p.setting) for p in protocol.PAPER} <= names


def changes(size):
    """The size, each time with one thing changed that shapes its numbers."""
    yield replace(size, recipe=replace(size.recipe, epochs=size.recipe.epochs + 1))
    yield replace(size, recipe=replace(size.recipe, learning_rate=0.123))
    if isinstance(size, ban.Size):
        yield replace(size, network="another")
        yield replace(size, data="another")
        yield replace(size, images=123)
        yield replace(size, lineages=range(7))
        yield replace(size, wrong=0.123)
    else:
        yield replace(size, seeds=range(7))
        yield from (replace(size, **{name: 3}) for name in ("width", "layers", "unroll"))
        yield replace(size, dropout=0.123)


@every_protocol
@pytest.mark.parametrize("group", ["SHORT", "PAPER_SIZE"])
def test_the_hash_tells_what_shapes_the_numbers(protocol, group, lesson, monkeypatch):
    sizes = getattr(protocol, group)
    for place, size in enumerate(sizes):
        before = {s.key for s in protocol._settings(size)}
        for changed in changes(size):
            monkeypatch.setattr(protocol, group, (*sizes[:place], changed, *sizes[place + 1 :]))
            assert before.isdisjoint(s.key for s in protocol.settings())
        monkeypatch.setattr(protocol, group, sizes)
        assert before < {s.key for s in protocol.settings()}
        monkeypatch.setattr(protocol, "VERSION", protocol.VERSION + 1)
        assert before.isdisjoint(s.key for s in protocol.settings())
        monkeypatch.setattr(protocol, "VERSION", protocol.VERSION - 1)


# Images: seeds and starts


@pytest.mark.parametrize("size", [CLEAN, WIDE], ids=lambda size: size.experiment)
def test_students_of_generation_0_begin_alike_and_see_the_images_in_one_order(trainings, size):
    for lineage in size.lineages:
        found = begun(trainings, size, OF_GENERATION_0, lineage)
        assert len({training.start for training in found.values()}) == 1
        assert {training.seed for training in found.values()} == {100 * lineage + 1}
        assert {training.recipe for training in found.values()} == {size.recipe}
        assert len({training.objective for training in found.values()}) == 6  # argmax has labels


@pytest.mark.parametrize("size", [CLEAN, WIDE], ids=lambda size: size.experiment)
def test_generations_have_starts_seeds_and_weights_of_their_own(trainings, size):
    ways = ["labels", "BAN-1", "BAN-2", "BAN-3"]
    found = [
        training
        for lineage in size.lineages
        for training in begun(trainings, size, ways, lineage).values()
    ]
    assert [training.seed for training in found] == [0, 1, 2, 3, 100, 101, 102, 103]
    assert len({training.start for training in found}) == len(found)
    everything = [place for training in found for place in training.storage]
    assert len(set(everything)) == len(everything)


def test_the_controls_of_a_generation_begin_as_it_does(trainings):
    found = begun(trainings, CLEAN, [f"{way}{k}" for k in (1, 2, 3) for way in ("BAN-", "labels ")])
    for k in (1, 2, 3):
        taught, alone = found[f"BAN-{k}"], found[f"labels {k}"]
        assert (taught.start, taught.seed) == (alone.start, alone.seed)


def test_trainings_look_at_nothing_but_the_training_images(trainings):
    for way, training in begun(trainings, WRONG, ban.WAYS).items():
        assert training.data.validation is training.data.test is None, way


# Images: who teaches whom


@pytest.fixture(scope="module")
def by_hand(smoke):
    """Lineage 1 of ``clean``, way by way, trained by nothing but kd.fit."""
    data = kd.data.load("digits", device="cpu").limit(200)
    nets = {}

    def train(way, seed, objective, data=data):
        nets[way] = kd.models.mlp(400, seed=seed)
        kd.fit(nets[way], objective, data, CLEAN.recipe, seed=seed, progress=False)

    train("labels", 100, kd.CrossEntropy())
    teacher = nets["labels"]
    train("BAN-1", 101, kd.SoftTargets(teacher, temperature=1, alpha=1))
    train("BAN-2", 102, kd.SoftTargets(nets["BAN-1"], temperature=1, alpha=1))
    train("BAN-3", 103, kd.SoftTargets(nets["BAN-2"], temperature=1, alpha=1))
    train("BAN+L", 101, kd.SoftTargets(teacher, temperature=1, alpha=0.5))
    train("CWTM", 101, kd.CWTM(teacher))
    train("DKPP", 101, kd.DKPP(teacher))
    for k in (1, 2, 3):
        train(f"labels {k}", 100 + k, kd.CrossEntropy())
    train("smoothed", 101, kd.CrossEntropy(label_smoothing=0.1))
    with torch.no_grad():
        said = teacher(data.train.inputs).argmax(-1)
    assert not torch.equal(said, data.train.labels)
    told = replace(data, train=kd.data.Split(data.train.inputs, said, data.train.index))
    train("argmax", 101, kd.CrossEntropy(), told)
    return nets, data


@pytest.mark.parametrize("way", ban.WAYS)
def test_every_way_is_what_its_name_says_bit_for_bit(by_hand, way):
    nets, _ = by_hand
    assert_same_weights(ban._net(CLEAN, "mlp", way, 1), nets[way])


def test_no_two_ways_give_the_same_network(by_hand):
    nets, _ = by_hand
    assert len({weights_hash(net) for net in nets.values()}) == len(ban.WAYS)


@pytest.mark.parametrize("way", ban.WAYS)
def test_rows_name_student_and_teacher_and_compare_the_two(by_hand, way):
    nets, data = by_hand
    rows = {
        row.metric: row
        for row in setting_of(ban, "clean", way).run()
        if row.student_seed is not None and row.student_seed >= 100
    }
    scores = kd.evaluate(nets[way], data.test)
    assert rows["test_errors"].value == scores.errors
    assert rows["test_loss"].value == pytest.approx(scores.loss)
    before = {"BAN-2": "BAN-1", "BAN-3": "BAN-2"}.get(way, "labels")
    alone = way.startswith("labels") or way == "smoothed"
    taught_by = None if alone else {"labels": 100, "BAN-1": 101, "BAN-2": 102}[before]
    assert {row.teacher_seed for row in rows.values()} <= {taught_by, None}
    assert rows["test_errors"].teacher_seed == taught_by
    assert ("agreement" in rows) == ("divergence" in rows) == (not alone)
    if not alone:
        likeness = kd.fidelity(nets[way], nets[before], data.test)
        assert rows["agreement"].value == likeness.agreement
        assert rows["divergence"].value == pytest.approx(likeness.divergence)


@pytest.mark.parametrize("name, ways", [("Ens*", "BAN-{}"), ("independent*", "labels {}")])
@pytest.mark.parametrize("k", [2, 3])
def test_ensembles_are_the_mean_probability_of_generations_1_to_k(by_hand, name, ways, k):
    nets, data = by_hand
    with torch.no_grad():
        each = [nets[ways.format(g)](data.test.inputs).double() for g in range(1, k + 1)]
    mean = sum(z.softmax(-1) for z in each) / k
    errors = int((mean.argmax(-1) != data.test.labels).sum())
    loss = -mean[torch.arange(len(mean)), data.test.labels].log().mean().item()
    rows = list(setting_of(ban, "clean", f"{name}{k}").run())
    assert [(row.metric, row.student_seed) for row in rows] == [
        (metric, seed) for seed in (1, 101) for metric in ("test_errors", "test_loss")
    ]
    assert [rows[2].value, rows[3].value] == [errors, pytest.approx(loss, rel=1e-5)]


def test_a_wide_network_is_taught_by_the_generation_before():
    data, recipe = kd.data.load("digits", device="cpu").limit(200), WIDE.recipe
    build = partial(kd.models.wide_resnet, 10, channels=1)
    teacher = None
    for seed in range(3):
        net = build(seed=seed)
        objective = kd.SoftTargets(teacher, 1, 1) if teacher else kd.CrossEntropy()
        kd.fit(net, objective, data, recipe, seed=seed, progress=False)
        teacher = net
    assert_same_weights(ban._net(WIDE, "wide", "BAN-2", 0), teacher)


# Images: labels


def test_four_tenths_of_the_training_labels_are_drawn_at_random_and_no_others(trainings):
    size = replace(WRONG, images=1000)
    given, true = ban._data(size), kd.data.load("digits", device="cpu").limit(1000)
    changed = given.train.labels != true.train.labels
    assert changed.double().mean().item() == pytest.approx(0.4 * 0.9, abs=0.04)
    shares = torch.bincount(given.train.labels[changed], minlength=10) / changed.sum()
    assert float(shares.max()) < 0.2
    assert torch.equal(given.train.inputs, true.train.inputs)
    for part in ("validation", "test"):
        assert torch.equal(getattr(given, part).labels, getattr(true, part).labels)
    for size in (CLEAN, WIDE, FAMILIES):
        assert torch.equal(ban._data(size).train.labels, ban._data(CLEAN).train.labels)


def test_all_ways_are_given_the_same_labels_but_argmax_which_has_its_teachers(trainings):
    given = ban._data(WRONG).train
    for lineage in WRONG.lineages:
        found = begun(trainings, WRONG, ban.WAYS, lineage)
        told = found.pop("argmax").data.train
        for training in found.values():
            assert training.data.train.fingerprint() == given.fingerprint()
        teacher = ban._net(WRONG, "mlp", "labels", lineage)
        said = teacher(given.inputs).argmax(-1)
        assert torch.equal(told.labels, said) and not torch.equal(said, given.labels)
        assert torch.equal(told.inputs, given.inputs)


@pytest.mark.parametrize("size", [CLEAN, WRONG], ids=lambda size: size.experiment)
def test_what_generation_0_made_of_its_labels_is_counted_against_the_true_ones(size):
    true = kd.data.load("digits", device="cpu").limit(200).train
    given = ban._data(size).train
    for lineage in size.lineages:
        rows = {
            row.metric: row.value
            for row in setting_of(ban, size.experiment, "labels").run()
            if row.student_seed == 100 * lineage
        }
        said = ban._net(size, "mlp", "labels", lineage)(true.inputs).argmax(-1)
        right = (said == true.labels).double()
        assert rows["right_on_training"] == pytest.approx(right.mean().item())
        assert ("right_where_wrong" in rows) == (size.wrong > 0)
        if size.wrong:
            wrong = given.labels != true.labels
            assert rows["right_where_wrong"] == pytest.approx(right[wrong].mean().item())


# Images: families


def test_students_of_other_kinds_have_the_teachers_their_names_say(trainings, monkeypatch):
    monkeypatch.setattr(ban, "scores", lambda *networks_and_data: ())
    expected = {  # the student's and the teacher's start, by builders alone
        "wide: labels": ("wide", 0, None),
        "dense: labels": ("dense", 0, None),
        "dense: labels 1": ("dense", 1, None),
        "dense: BAN of wide": ("dense", 1, "wide"),
        "residual: labels 1": ("residual", 1, None),
        "residual: BAN": ("residual", 1, "dense"),
    }
    for name, (kind, seed, teacher_kind) in expected.items():
        clear()
        trainings.clear()
        list(of_one_lineage(name).run())
        objective = kd.CrossEntropy()
        if teacher_kind:
            objective = kd.SoftTargets(built(teacher_kind, 0), temperature=1, alpha=1)
        found = [
            (training.start, training.objective)
            for training in trainings
            if training.seed == seed and training.objective == objective.key
        ]
        assert (weights_hash(built(kind, seed)), objective.key) in found, name
    shared = {"residual: labels 1, shared ends", "residual: BAN, shared ends"}
    assert {*expected, *shared} == {*ban.FAMILIES}


def of_one_lineage(name):
    size = replace(FAMILIES, lineages=range(1))
    (found,) = [setting for setting in ban._settings(size) if setting.setting == name]
    return found


def built(kind, seed):
    if kind == "wide":
        return kd.models.wide_resnet(10, channels=1, seed=seed)
    dense = kd.models.densenet(10, growth=16, channels=1, seed=seed if kind == "dense" else 0)
    return dense if kind == "dense" else kd.models.residual_student(dense, seed=seed)


def test_shared_ends_are_the_teachers_and_stay_so():
    ends = ("stem", "head")
    for lineage in FAMILIES.lineages:
        teacher = ban._net(FAMILIES, "dense", "labels", lineage)
        before = weights_hash(teacher)
        alone = ban._net(FAMILIES, "residual", "BAN-1", lineage, "dense")
        of_labels = ban._net(FAMILIES, "residual, shared ends", "labels 1", lineage, "dense")
        shared = ban._net(FAMILIES, "residual, shared ends", "BAN-1", lineage, "dense")
        born = built("residual", 100 * lineage + 1)
        for name in ends:
            assert_same_weights(getattr(shared, name), getattr(teacher, name))
            assert_same_weights(getattr(of_labels, name), getattr(teacher, name))
            assert shared.get_submodule(name).weight is not teacher.get_submodule(name).weight
            assert not torch.equal(getattr(alone, name).weight, getattr(teacher, name).weight)
        assert {n.split(".")[0] for n, p in shared.named_parameters() if not p.requires_grad} == {
            *ends
        }
        moved = [
            not torch.equal(a, b)
            for a, b in zip(shared.stage1.parameters(), born.stage1.parameters(), strict=True)
        ]
        assert all(moved)  # and what lies between is trained
        assert weights_hash(teacher) == before


# Images: the paper's protocol


def test_the_papers_images_have_the_recipe_of_wide_resnets(lesson):
    settings = [s for s in ban.settings() if s.protocol == "paper"]
    assert {s.experiment for s in settings} == {"wide", "wide, 10 classes"}
    for setting in settings:
        for text in (
            "'WRN-28-2', None, 0.0, range(0, 3)",  # all images, none of a wrong label
            "'epochs': 200",
            "'schedule': 'wide_resnet'",
            "'learning_rate': 0.1",
            "'weight_decay': 0.0005",
            "(('crop', 4), ('flip', 0))",
        ):
            assert text in setting.recipe
    for size in ban.PAPER_SIZE:
        assert size.ways == ban.WAYS
        assert size.recipe.batch_size == 128 and size.recipe.momentum == 0.9
        rates = [size.recipe.rate(epoch / 200) for epoch in (0, 59, 60, 119, 120, 159, 160, 199)]
        steps = [0, 0, 1, 1, 2, 2, 3, 3]
        assert rates == pytest.approx([0.1 * 0.2**step for step in steps])


def test_the_papers_network_is_the_wide_one_with_dropout():
    size = replace(ban.PAPER_SIZE[1], name="smoke", images=200)
    net = ban._network(size, "WRN-28-2", 0, seed=3)
    assert_same_weights(net, kd.models.wide_resnet(28, 2, dropout=0.3, channels=1, seed=3))
    assert {m.p for m in net.modules() if isinstance(m, nn.Dropout)} == {0.3}


# Texts: the loss

ALPHAS = (0.0, 0.3, 0.5, 1.0)


def small_lstm(data, seed):
    return kd.models.lstm(len(data.classes), 8, layers=1, seed=seed)


def some_batch(data):
    """Three rows of 20 tokens from the beginning of the training text."""
    rows = (data.train.inputs, data.train.labels, data.train.index)
    inputs, labels, index = (part[:60].view(3, 20) for part in rows)
    return kd.Batch(inputs, labels, index, 0.0, torch.Generator(), first=True)


def larger(net):
    """The same network, surer of itself."""
    with torch.no_grad():
        for weights in net.parameters():
            weights.mul_(8)
    return net


def logits_and_gradient(objective, data, z):
    objective.prepare(small_lstm(data, 1), data.train, kd.Recipe())
    z = z.clone().requires_grad_()
    value = sum(objective(Outputs(z), some_batch(data)).values())
    return value.item(), torch.autograd.grad(value, z)[0]


@pytest.mark.parametrize("alpha", ALPHAS)
def test_blend_is_the_cross_entropy_with_a_mix_of_teacher_and_labels(alpha):
    data = ban_lm._data(CHARACTERS)
    teacher, batch = larger(small_lstm(data, 0)), some_batch(data)
    z = 2 * torch.randn(3, 20, len(data.classes), generator=torch.Generator().manual_seed(0))
    p, q = teacher(batch.inputs).detach().double().softmax(-1), z.double().softmax(-1)
    y = torch.eye(len(data.classes), dtype=torch.float64)[batch.labels]
    mix = alpha * p + (1 - alpha) * y
    value, gradient = logits_and_gradient(ban_lm.Blend(teacher, alpha), data, z)
    assert value == pytest.approx(-(mix * q.log()).sum(-1).mean().item(), rel=1e-5)
    torch.testing.assert_close(gradient.double(), (q - mix) / 60, atol=1e-8, rtol=1e-4)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_blend_has_the_gradient_of_soft_targets_and_its_value_but_for_the_teachers_entropy(alpha):
    data = ban_lm._data(CHARACTERS)
    teacher = larger(small_lstm(data, 0))
    z = 2 * torch.randn(3, 20, len(data.classes), generator=torch.Generator().manual_seed(0))
    value, gradient = logits_and_gradient(ban_lm.Blend(teacher, alpha), data, z)
    expected, of_soft = logits_and_gradient(kd.SoftTargets(teacher, 1, alpha), data, z)
    torch.testing.assert_close(gradient, of_soft, atol=1e-8, rtol=1e-4)
    p = teacher(some_batch(data).inputs).detach().double().softmax(-1)
    entropy = -(p * p.log()).sum(-1).mean().item()
    assert 0.1 < entropy < math.log(len(data.classes)) - 0.1
    assert value - expected == pytest.approx(alpha * entropy, abs=1e-5)


@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_a_training_by_blend_is_one_by_soft_targets(alpha):
    data = ban_lm._data(CHARACTERS)
    # Adam would make steps of rounding errors where a gradient is 0.
    recipe = kd.Recipe(epochs=2, batch_size=4, learning_rate=0.3, precision="float32")
    teacher = larger(small_lstm(data, 0))
    before = weights_hash(teacher)
    nets = [small_lstm(data, 1) for _ in range(3)]
    objectives = (
        ban_lm.Blend(teacher, alpha),
        kd.SoftTargets(teacher, 1, alpha),
        kd.CrossEntropy(),
    )
    for net, objective in zip(nets, objectives, strict=True):
        kd.fit(net, objective, data, recipe, progress=False)
    blend, soft, alone = (nn.utils.parameters_to_vector(net.parameters()).detach() for net in nets)
    torch.testing.assert_close(blend, soft, atol=1e-5, rtol=0)
    assert float((soft - alone).abs().max()) > 0.01
    assert weights_hash(teacher) == before


def test_blends_of_other_teachers_and_weights_have_other_keys():
    data = ban_lm._data(CHARACTERS)
    keys = {
        ban_lm.Blend(small_lstm(data, seed), alpha).key for seed in (0, 1) for alpha in (0.5, 1)
    }
    assert len(keys) == 4
    assert ban_lm.Blend(small_lstm(data, 0), 0.5).key in keys


# Texts: who teaches whom


@pytest.mark.parametrize("size", ban_lm.SMOKE, ids=lambda size: size.text)
def test_a_student_begins_as_the_net_of_labels_of_its_seed_and_is_taught_by_the_next(
    trainings, size
):
    size = replace(size, seeds=range(3))
    for way in size.ways[1:]:
        for seed, teacher_seed in ((0, 1), (1, 2), (2, 0)):
            clear()
            trainings.clear()
            ban_lm._net(size, way, seed)
            teacher, student = trainings
            assert (teacher.seed, student.seed) == (teacher_seed, seed)
            assert teacher.objective == kd.CrossEntropy().key
            taught_by = ban_lm._net(size, "labels", teacher_seed)
            weight = {"BAN+L": 0.5, "BAN": 1.0}[way]
            assert student.objective == ban_lm.Blend(taught_by, weight).key
            ban_lm._net(size, "labels", seed)
            alone = trainings[-1]
            assert (alone.start, alone.seed, alone.recipe) == (
                student.start,
                student.seed,
                student.recipe,
            )
            assert alone.start != teacher.start
            assert not student.storage & teacher.storage


@pytest.mark.parametrize("way, alpha", [("BAN+L", 0.5), ("BAN", 1.0)])
def test_a_language_model_is_taught_by_hand_to_the_same_weights(way, alpha):
    data, recipe = ban_lm._data(CHARACTERS), CHARACTERS.recipe
    nets = [
        kd.models.lstm(len(data.classes), 8, CHARACTERS.layers, CHARACTERS.dropout, seed)
        for seed in (1, 0)
    ]
    teacher, student = nets
    kd.fit(teacher, kd.CrossEntropy(), data, recipe, seed=1, progress=False)
    kd.fit(student, ban_lm.Blend(teacher, alpha), data, recipe, seed=0, progress=False)
    assert_same_weights(ban_lm._net(CHARACTERS, way, 0), student)
    rows = list(setting_of(ban_lm, "topics", f"{way}, seed 0").run())
    for row, part in zip(rows, ("validation", "test"), strict=True):
        assert row.metric == f"{part}_perplexity"
        expected = math.exp(kd.evaluate(student, getattr(data, part)).loss)
        assert row.value == pytest.approx(expected)
        assert (row.student_seed, row.teacher_seed) == (0, 1)


@pytest.mark.parametrize(
    "name, way", [("two of labels", "labels"), ("BAN+L and its teacher", "BAN+L")]
)
def test_pairs_are_the_mean_probability_of_a_net_and_the_next_net_of_labels(name, way):
    data = ban_lm._data(CHARACTERS)
    for seed, following in ((0, 1), (1, 0)):
        pair = ban_lm._net(CHARACTERS, way, seed), ban_lm._net(CHARACTERS, "labels", following)
        for part in ("validation", "test"):
            split = getattr(data, part)
            with torch.no_grad():  # the whole text at once
                each = [net(split.inputs[None])[0].double().softmax(-1) for net in pair]
            mean = sum(each) / 2
            loss = -mean[torch.arange(len(split)), split.labels].log().mean().item()
            (found,) = values_of(ban_lm, "topics", f"{name}, seed {seed}", f"{part}_perplexity")
            assert found == pytest.approx(math.exp(loss), rel=1e-5)


def test_rows_of_labels_name_no_teacher():
    for text in ("ptb", "topics"):
        rows = list(setting_of(ban_lm, text, "labels, seed 1").run())
        assert {(row.student_seed, row.teacher_seed) for row in rows} == {(1, None)}


@pytest.mark.parametrize("size", ban_lm.SMOKE, ids=lambda size: size.text)
def test_counts_are_what_ngrams_predict(size):
    data = ban_lm._data(size)
    for n in size.counts:
        rows = list(setting_of(ban_lm, size.text, f"{n} tokens").run())
        expected = [
            (f"{part}_perplexity", pytest.approx(math.exp(kd.text.ngram_loss(data, n, split))))
            for part, split in (("validation", data.validation), ("test", data.test))
        ]
        assert [(row.metric, row.value) for row in rows] == expected
        assert {row.student_seed for row in rows} == {None}


# Texts: the paper's protocol


def test_the_papers_texts_have_its_network_and_its_plain_descent(lesson):
    settings = [s for s in ban_lm.settings() if s.protocol == "paper"]
    assert {s.experiment for s in settings} == {"ptb"}
    assert not any(s.setting.startswith("BAN, ") for s in settings)
    for setting in settings:
        for text in (
            "(1500, 2, 0.65, 35, 3)",
            "'epochs': 40",
            "'batch_size': 32",
            "'learning_rate': 1.0",
            "'momentum': 0.0",
            "'schedule': 'plateau'",
            "'max_gradient': 5.0",
        ):
            assert text in setting.recipe
    assert ban_lm.PAPER_SIZE[0].recipe.optimizer == "sgd"


def test_only_a_plateau_is_shown_the_validation_text_and_none_the_test_text(trainings):
    plateau = replace(ban_lm.PAPER_SIZE[0], name="smoke", width=8)
    for size, watched in ((plateau, True), (CHARACTERS, False), (WORDS, False)):
        ban_lm._net(size, "BAN+L", 0)
        for training in trainings:
            assert training.data.test is None
            assert (training.data.validation is not None) == watched
        trainings.clear()


def test_the_plateau_of_the_paper_trains():
    recipe = replace(ban_lm.PAPER_SIZE[0].recipe, epochs=2, batch_size=4)
    size = replace(ban_lm.PAPER_SIZE[0], name="smoke", width=8, recipe=recipe, seeds=range(2))
    for setting in ban_lm._settings(size):
        assert all(math.isfinite(row.value) for row in setting.run())
