"""kdlib/reproduce/ban.py: who teaches whom, and that ways differ in nothing but their teaching."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from protocols import rows_of, same_weights
from torch import nn

import kdlib as kd
from kdlib.identity import weights_hash
from kdlib.reproduce import ban

CLEAN, WRONG, WIDE, FAMILIES = ban.SMOKE


def begun(trainings, size, ways, lineage):
    """The training of each way, its teachers left out."""
    return {way: trainings.of(ban._net(size, size.network, way, lineage)) for way in ways}


def test_generations_have_their_own_starts_seeds_and_weights_and_the_one_before_as_teacher(
    trainings,
):
    found = []
    for lineage in WIDE.lineages:
        generations = list(begun(trainings, WIDE, ban.WAYS[:4], lineage).values())
        for before, training in pairwise(generations):
            soft = kd.SoftTargets(before.model, temperature=1, alpha=1)
            assert training.objective.key == soft.key
        found += generations
    assert [training.seed for training in found] == [0, 1, 2, 3, 100, 101, 102, 103]
    starts = [kd.models.wide_resnet(10, channels=1, seed=training.seed) for training in found]
    assert [training.start for training in found] == [*map(weights_hash, starts)]
    assert len({training.start for training in found}) == len(found)
    places = [t.data_ptr() for training in found for t in training.model.state_dict().values()]
    assert len(set(places)) == len(places)


# Who teaches whom


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
    assert len({weights_hash(net) for net in nets.values()}) == len(ban.WAYS)
    return nets, data


@pytest.mark.parametrize("way", ban.WAYS)
def test_every_way_is_what_its_name_says_and_its_rows_compare_it_with_its_teacher(by_hand, way):
    nets, data = by_hand
    assert same_weights(ban._net(CLEAN, "mlp", way, 1), nets[way])
    rows = {row.metric: row for row in rows_of(ban, "clean", way) if row.student_seed >= 100}
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
    rows = rows_of(ban, "clean", f"{name}{k}")
    assert [(row.metric, row.student_seed) for row in rows] == [
        (metric, seed) for seed in (1, 101) for metric in ("test_errors", "test_loss")
    ]
    assert [rows[2].value, rows[3].value] == [errors, pytest.approx(loss, rel=1e-5)]


# Labels, seeds and starts


def test_four_tenths_of_the_training_labels_are_drawn_at_random_and_no_others():
    given = ban._data(replace(WRONG, images=1000))
    true = kd.data.load("digits", device="cpu").limit(1000)
    changed = given.train.labels != true.train.labels
    assert changed.double().mean().item() == pytest.approx(0.4 * 0.9, abs=0.04)
    shares = torch.bincount(given.train.labels[changed], minlength=10) / changed.sum()
    assert float(shares.max()) < 0.2
    assert torch.equal(given.train.inputs, true.train.inputs)
    for part in ("validation", "test"):
        assert torch.equal(getattr(given, part).labels, getattr(true, part).labels)
    labels = kd.data.load("digits", device="cpu").limit(200).train.labels
    for size in (CLEAN, WIDE, FAMILIES):
        assert torch.equal(ban._data(size).train.labels, labels)


def test_all_ways_are_given_the_same_labels_but_argmax_which_has_its_teachers(trainings):
    """Students of generation 0 begin alike, too, and see the images in one order."""
    given = ban._data(WRONG).train
    students = {"BAN-1", "BAN+L", "CWTM", "DKPP", "labels 1", "smoothed", "argmax"}
    for lineage in WRONG.lineages:
        found = begun(trainings, WRONG, ban.WAYS, lineage)
        assert {found[way].seed for way in students} == {100 * lineage + 1}
        assert len({found[way].start for way in students}) == 1
        assert {training.recipe for training in found.values()} == {WRONG.recipe}
        told = found.pop("argmax").data.train
        for training in found.values():
            assert training.data.train.fingerprint() == given.fingerprint()
        said = found["labels"].model(given.inputs).argmax(-1)
        assert torch.equal(told.labels, said) and not torch.equal(said, given.labels)
        assert torch.equal(told.inputs, given.inputs)


@pytest.mark.parametrize("size", [CLEAN, WRONG], ids=["clean", "wrong"])
def test_what_generation_0_learnt_from_its_labels_is_counted_against_the_true_ones(size):
    true = kd.data.load("digits", device="cpu").limit(200).train
    wrong = ban._data(size).train.labels != true.labels
    for lineage in size.lineages:
        rows = rows_of(ban, size.experiment, "labels")
        rows = {row.metric: row.value for row in rows if row.student_seed == 100 * lineage}
        said = ban._net(size, "mlp", "labels", lineage)(true.inputs).argmax(-1)
        right = (said == true.labels).double()
        assert rows["right_on_training"] == pytest.approx(right.mean().item())
        assert ("right_where_wrong" in rows) == (size.wrong > 0)
        if size.wrong:
            assert rows["right_where_wrong"] == pytest.approx(right[wrong].mean().item())


# Families


def built(kind, seed):
    if kind == "wide":
        return kd.models.wide_resnet(10, channels=1, seed=seed)
    dense = kd.models.densenet(10, growth=16, channels=1, seed=seed if kind == "dense" else 0)
    return dense if kind == "dense" else kd.models.residual_student(dense, seed=seed)


EXPECTED = {  # the student's kind and seed, and its teacher's kind
    "wide: labels": ("wide", 0, None),
    "dense: labels": ("dense", 0, None),
    "dense: labels 1": ("dense", 1, None),
    "dense: BAN of wide": ("dense", 1, "wide"),
    "residual: labels 1": ("residual", 1, None),
    "residual: BAN": ("residual", 1, "dense"),
}


def test_students_of_other_kinds_have_the_teachers_their_names_say(trainings):
    shared = {"residual: labels 1, shared ends", "residual: BAN, shared ends"}
    assert {*EXPECTED, *shared} == {*ban.FAMILIES}
    for name, (kind, seed, teacher_kind) in EXPECTED.items():
        rows_of(ban, "families", name)
        objective = kd.CrossEntropy()
        if teacher_kind:
            objective = kd.SoftTargets(built(teacher_kind, 0), temperature=1, alpha=1)
        found = [(t.start, t.seed, t.objective.key) for t in trainings]
        assert (weights_hash(built(kind, seed)), seed, objective.key) in found, name


def test_shared_ends_are_the_teachers_and_stay_so():
    teacher = ban._net(FAMILIES, "dense", "labels", 1)
    before = weights_hash(teacher)
    alone = ban._net(FAMILIES, "residual", "BAN-1", 1, "dense")
    of_labels = ban._net(FAMILIES, "residual, shared ends", "labels 1", 1, "dense")
    shared = ban._net(FAMILIES, "residual, shared ends", "BAN-1", 1, "dense")
    for name in ("stem", "head"):
        end = getattr(teacher, name)
        assert same_weights(getattr(shared, name), end)
        assert same_weights(getattr(of_labels, name), end)
        assert getattr(shared, name).weight is not end.weight
        assert not torch.equal(getattr(alone, name).weight, end.weight)
    frozen = {n.split(".")[0] for n, p in shared.named_parameters() if not p.requires_grad}
    assert frozen == {"stem", "head"}
    born = built("residual", 101).stage1.parameters()
    pairs = zip(shared.stage1.parameters(), born, strict=True)
    assert all(not torch.equal(a, b) for a, b in pairs)  # what lies between is trained
    assert weights_hash(teacher) == before


# The paper's protocol


def test_the_papers_images_have_the_recipe_of_wide_resnets(lesson):
    settings = [s for s in ban.settings() if s.protocol == "paper"]
    assert {s.experiment for s in settings} == {"wide", "wide, 10 classes"}
    for size in ban.PAPER_SIZE:
        assert (size.network, size.images, size.wrong) == ("WRN-28-2", None, 0.0)
        assert (size.ways, size.lineages) == (ban.WAYS, range(3))
        assert size.recipe == kd.Recipe(
            epochs=200,
            batch_size=128,
            learning_rate=0.1,
            momentum=0.9,
            schedule="wide_resnet",
            weight_decay=5e-4,
            augment=kd.data.crop(4) + kd.data.flip(),
        )


def test_the_papers_network_is_the_wide_one_with_dropout(trainings):
    size = replace(ban.PAPER_SIZE[1], name="smoke", images=200)
    net = ban._net(size, "WRN-28-2", "labels", 0)
    assert same_weights(net, kd.models.wide_resnet(28, 2, dropout=0.3, channels=1, seed=0))
    assert {m.p for m in net.modules() if isinstance(m, nn.Dropout)} == {0.3}
