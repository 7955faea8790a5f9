"""Networks as others write them: what they return, and whether they were compiled, scripted or quantised."""

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from training_helpers import TINY, modes, net, same, train

import kdlib as kd
from kdlib.identity import network_hash


class Says(nn.Module):
    """A network that returns its logits in some form."""

    def __init__(self, form, network=None):
        super().__init__()
        self.net, self.form = network or net(1), form

    def forward(self, x):
        return self.form(self.net(x))


FORMS = {
    "an attribute": lambda z: SimpleNamespace(loss=None, logits=z),
    "an entry": lambda z: {"logits": z, "features": [z]},
    "a tensor": lambda z: z,
}
NO_LOGITS = {
    "a tuple": (lambda z: (z, z), r"got a tuple of Tensor, Tensor"),
    "another entry": (lambda z: {"out": z}, r"got a dict with 'out'"),
    "logits of none": (lambda z: SimpleNamespace(logits=None), r"got a SimpleNamespace"),
    "nothing": (lambda z: None, r"got a NoneType"),
}


def uses(make, data):
    """What a network can be used for, by name."""
    soft = lambda **views: train(
        net(2), data, kd.Recipe(epochs=1, batch_size=50, **views), kd.SoftTargets(make(), 4, 0.5)
    )
    return {
        "student": lambda: train(make(), data),
        "teacher": soft,
        "teacher of random views": lambda: soft(augment=kd.data.shift(1)),
        "teacher of an ensemble": lambda: train(
            net(2), data, TINY, kd.SoftTargets([make(), net(3)], 4, 0.5)
        ),
        "evaluate": lambda: kd.evaluate(make(), data.test),
        "fidelity": lambda: kd.fidelity(net(2), make(), data.test),
        "logits": lambda: kd.logits(make(), data.test),
        "whole network tapped": lambda: train(
            net(2), data, TINY, kd.Hint(make(), hint="", guided="", activation=None)
        ),
    }


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_logits_are_found_in_what_a_network_returns(small, form):
    plain = uses(lambda: Says(FORMS["a tensor"]), small)
    for name, use in uses(lambda: Says(form), small).items():
        found, expected = use(), plain[name]()
        if isinstance(found, kd.History):
            found, expected = (h.frame.drop(columns="seconds") for h in (found, expected))
            assert found.equals(expected), name
        else:
            assert torch.equal(torch.as_tensor(found == expected).all(), torch.tensor(True)), name


@pytest.mark.parametrize(("form", "got"), NO_LOGITS.values(), ids=NO_LOGITS)
def test_any_other_answer_is_refused_with_what_came_and_how_to_wrap_it(small, form, got):
    for name, use in uses(lambda: Says(form), small).items():
        with pytest.raises(TypeError, match=got + r".*wrap it in an nn\.Module"):
            pytest.fail(f"{name} took {use()!r}")


class Holding(nn.Sequential):
    """A network that keeps a feature, with its graph, as an attribute."""

    def forward(self, x):
        self.feature = self[1](self[0](x))
        return self[5](self[4](self[3](self[2](self.feature))))


class Extra(Says):
    def __init__(self):
        super().__init__(FORMS["a tensor"])

    def get_extra_state(self):
        return {"version": 1}

    def set_extra_state(self, state):
        pass


def holding():
    model = Holding(*net(1))
    model(torch.randn(2, 1, 28, 28))
    return model


class Keeping(Says):
    def __init__(self):
        super().__init__(FORMS["a tensor"])
        self.kept = []

    def forward(self, x):
        self.kept.append(super().forward(x))
        return self.kept[-1]


def keeping():
    model = Keeping()
    model(torch.randn(2, 1, 28, 28))
    return model


class Counting(Says):
    def __init__(self):
        super().__init__(FORMS["a tensor"])
        self.first = nn.Parameter(torch.tensor([3], dtype=torch.uint8), requires_grad=False)


def old_weight_norm():
    model = net(1)
    nn.utils.weight_norm(model[1])
    return model


def compiled_inside():
    model = net(1)
    model[3] = torch.compile(model[3], backend="eager")
    return model


def compiled_in_place():
    model = net(1)
    model.compile(backend="eager")
    return model


def quantised():
    layers = {nn.Linear}
    return torch.ao.quantization.quantize_dynamic(net(1), layers, dtype=torch.qint8)


SHIPPED = {
    "compiled": lambda: torch.compile(net(1), backend="eager"),
    "compiled in place": compiled_in_place,
    "compiled inside": compiled_inside,
    "traced": lambda: torch.jit.trace(net(1).eval(), torch.zeros(2, 1, 28, 28)),
    "scripted": lambda: torch.jit.script(net(1)),
    "quantised": quantised,
    "half": lambda: net(1).bfloat16(),
    "extra state": Extra,
    "weight norm by a hook": old_weight_norm,
    "keeps a feature": holding,
    "keeps features in a list": keeping,
    "in parallel": lambda: nn.DataParallel(net(1)),
    "integers among its weights": Counting,
}
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.mark.parametrize("make", SHIPPED.values(), ids=SHIPPED)
def test_a_network_teaches_however_it_is_shipped_and_stays_as_it_was(small, make):
    for views in ({}, {"augment": kd.data.shift(1)}):
        teacher = make()
        before, state = network_hash(teacher), modes(teacher)
        objective = kd.SoftTargets(teacher, 4, 1.0)
        history = train(net(2), small, kd.Recipe(epochs=1, batch_size=50, **views), objective)
        assert 0 < history.frame["soft"][0] < 1
        assert network_hash(teacher) == before and modes(teacher) == state
    answers = kd.logits(make(), small.test).float()
    table = kd.logits(net(1), small.test)
    assert torch.allclose(answers, table, atol=0.02)
    assert kd.evaluate(make(), small.test).loss == pytest.approx(
        kd.evaluate(net(1), small.test).loss, abs=0.01
    )
    assert kd.fidelity(net(1), make(), small.test).agreement > 0.9


@pytest.mark.parametrize("name", [k for k in SHIPPED if k not in ("quantised", "half")])
def test_a_network_that_torch_can_train_is_a_student(small, tmp_path, name):
    student, expected = SHIPPED[name](), net(1)
    if name == "weight norm by a hook":  # another parametrization, so other steps
        expected = old_weight_norm()
    for model in (student, expected):
        train(model, small, checkpoint=tmp_path / f"{model is student}.pt")
    said, wanted = (kd.logits(model, small.test) for model in (student, expected))
    assert torch.allclose(said, wanted, atol=1e-5)


def test_a_quantised_network_is_refused_as_a_student_before_training(small):
    with pytest.raises(ValueError, match="model has no parameter that requires a gradient"):
        train(quantised(), small)


@pytest.mark.parametrize("make", [SHIPPED[k] for k in SHIPPED if "compiled" in k])
@pytest.mark.parametrize("ran", [False, True])
def test_a_compiled_network_is_tapped_as_the_plain_one(small, make, ran):
    def taught(student, teacher):
        if ran:
            for model in (student, teacher):
                train(model, small)
        return train(student, small, TINY, kd.Hint(teacher, hint="2", guided="2")).frame["hint"]

    found, expected = taught(make(), make()), taught(net(1), net(1))
    assert found.tolist() == expected.tolist()


def test_taps_of_a_compiled_network_are_filled_whenever_they_are_set():
    images = torch.randn(3, 1, 28, 28)
    compiled = torch.compile(net(1), backend="eager")
    compiled(images)
    for name in ("2", "_orig_mod.2"):
        with kd.taps(compiled, [name, ""]) as features:
            logits = compiled(images)
        assert torch.equal(features[name], net(1)[:3](images)) and features[""] is logits
    with (
        pytest.raises(ValueError, match="no module 'two'; it has '0', '1'"),
        kd.taps(compiled, ["two"]),
    ):
        pass


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile])
def test_a_wrapped_network_has_the_names_and_checkpoints_of_the_plain_one(small, tmp_path, wrap):
    wrapped, alone, path = wrap(net(1)), net(1), tmp_path / "run.pt"
    inside = "module" if wrap is nn.DataParallel else "_orig_mod"
    for name in ("2", f"{inside}.2"):
        found = train(wrap(net(1)), small, TINY, kd.Hint(wrap(net(3)), hint=name, guided=name))
        expected = train(net(1), small, TINY, kd.Hint(net(3), hint="2", guided="2"))
        assert found.frame["hint"].tolist() == expected.frame["hint"].tolist()
    if wrap is nn.DataParallel:  # the compiler itself may not be there
        train(alone, small, checkpoint=path)
        train(wrapped, small, checkpoint=path)
        assert same(wrapped.module, alone)


IN_SCRIPT = {"traced": SHIPPED["traced"], "scripted": SHIPPED["scripted"]}


@pytest.mark.parametrize("make", IN_SCRIPT.values(), ids=IN_SCRIPT)
@pytest.mark.parametrize("name", ["2", ""])
def test_features_of_torchscript_are_refused_not_left_out(small, make, name):
    for student, teacher in ((net(1), make()), (make(), net(1))):
        with pytest.raises(ValueError, match=f"the module '{name}' is TorchScript"):
            train(student, small, TINY, kd.Hint(teacher, hint=name, guided=name, activation=None))
    with pytest.raises(ValueError, match="is TorchScript"), kd.taps(make(), [name]):
        pass


def test_a_hint_of_a_module_that_does_not_run_is_refused_by_name(small):
    idle = net(1)
    idle.unused = nn.Linear(1, 1)
    idle.forward = lambda x: nn.Sequential(*list(idle)[:-1])(x)
    for student, teacher in ((idle, net(2)), (net(2), idle)):
        names = {"guided" if student is idle else "hint": "unused"}
        with pytest.raises(ValueError, match=r"that run in a forward pass, got \['unused'\]"):
            train(student, small, TINY, kd.Hint(teacher, **({"hint": "2", "guided": "2"} | names)))


def test_an_exported_network_teaches_and_is_scored_and_is_refused_as_a_student(small):
    rows = ({0: torch.export.Dim("rows")},)
    network = torch.export.export(
        net(1), (torch.zeros(2, 1, 28, 28),), dynamic_shapes=rows
    ).module()
    table = kd.logits(net(1), small.test)
    assert torch.allclose(kd.logits(network, small.test), table, atol=1e-5)
    assert kd.fidelity(net(1), network, small.test).agreement == 1
    for views in (None, kd.data.shift(1)):
        recipe = kd.Recipe(epochs=1, batch_size=50, augment=views)
        found, expected = (
            train(net(2), small, recipe, kd.SoftTargets(t, 4, 1.0)).frame["soft"][0]
            for t in (network, net(1))
        )
        assert found == pytest.approx(expected, rel=1e-4)
    with pytest.raises(TypeError, match=r"torch\.export has none"):
        train(network, small)


def test_a_language_model_may_answer_with_an_entry_too():
    text = kd.text.from_texts(*["to be or not to be " * 20] * 3, device="cpu", unroll=5)
    plain = lambda seed: kd.models.lstm(len(text.classes), width=8, seed=seed)
    wrapped = lambda seed: Says(FORMS["an entry"], plain(seed))
    found, expected = wrapped(0), plain(0)
    for model, teacher in ((found, wrapped(1)), (expected, plain(1))):
        train(model, text, kd.Recipe(epochs=1, batch_size=4), kd.SoftTargets(teacher, 2, 0.5))
    assert same(found.net, expected)
    assert kd.evaluate(found, text.test) == kd.evaluate(expected, text.test)
    said, wanted = (kd.text.sample(model, text, 9, prompt="to ") for model in (found, expected))
    assert said == wanted


def lazy():
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(10))


def test_a_lazy_network_is_refused_with_its_layer_until_it_has_run_once(small, tmp_path):
    for use in (kd.evaluate, kd.logits, lambda model, split: kd.fidelity(net(1), model, split)):
        with pytest.raises(ValueError, match=r"model must have its weights.*\(LazyLinear\)"):
            use(lazy(), small.test)
    cases = {
        "model": lambda model: train(model, small, checkpoint=tmp_path / "run.pt"),
        "teacher": lambda model: train(net(), small, TINY, kd.SoftTargets(model, 4, 0.5)),
    }
    for who, use in cases.items():
        model = lazy()
        with pytest.raises(ValueError, match=rf"{who} must have its weights.*'1' \(LazyLinear\)"):
            use(model)
        model(small.train.inputs[:2])
        use(model)
    with pytest.raises(ValueError, match="teacher must have its weights"):
        train(net(), small, TINY, kd.Hint(lazy(), hint="1", guided="2"))


class Locked(Says):
    def __init__(self):
        super().__init__(FORMS["a tensor"])
        self.rows = (row for row in ())


def test_a_teacher_that_cannot_be_copied_is_refused_with_a_way_on(small):
    with pytest.raises(TypeError, match=r"pass its logits by sample index instead: table\[data"):
        train(net(), small, TINY, kd.SoftTargets(Locked(), 4, 0.5))
    table = torch.zeros(int(small.train.index.max()) + 1, 10)
    table[small.train.index] = kd.logits(Locked(), small.train)
    train(net(), small, TINY, kd.SoftTargets(table, 4, 0.5))


def wide(classes):
    return kd.models.mlp(16, classes=classes)


def test_other_numbers_of_classes_are_named(small):
    with pytest.raises(ValueError, match="same classes, got 10 and 12"):
        kd.fidelity(wide(10), wide(12), small.test)
    for use in (
        lambda: kd.evaluate([wide(10), wide(12)], small.test),
        lambda: train(wide(10), small, TINY, kd.SoftTargets([wide(10), wide(12)], 4, 0.5)),
        lambda: train(wide(10), small, TINY, kd.LogitMatching([wide(10), wide(12)])),
    ):
        with pytest.raises(
            ValueError, match=r"networks of the same classes, got .*, 10\), \(\d+, 12\)"
        ):
            use()
    with pytest.raises(ValueError, match="it has 12, the student 10"):
        train(wide(10), small, TINY, kd.SoftTargets(wide(12), 4, 0.5))


@pytest.fixture(scope="module")
def vectors():
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    return kd.data.from_arrays(x, None, device="cpu")


ONE = {
    "soft targets": lambda t: kd.SoftTargets(t, 4, 1.0),
    "logit matching": kd.LogitMatching,
    "DKPP": kd.DKPP,
}


@pytest.mark.parametrize("objective", ONE.values(), ids=ONE)
def test_one_output_is_refused_where_nothing_could_be_learned(vectors, objective):
    with pytest.raises(
        ValueError, match="at least two classes.*softmax over one class is always 1"
    ):
        train(nn.Linear(8, 1), vectors, TINY, objective(nn.Linear(8, 1)))


def test_one_output_is_refused_in_a_loss_of_ones_own_that_takes_its_softmax(vectors):
    soft = kd.Loss(lambda s, t: kd.soft_target_loss(s, t, 4), nn.Linear(8, 1))
    with pytest.raises(ValueError, match="at least two classes"):
        train(nn.Linear(8, 1), vectors, TINY, soft)


def test_one_output_has_no_scores(vectors):
    labelled = kd.data.from_arrays(vectors.train.inputs, torch.zeros(64).long(), device="cpu")
    for use in (
        lambda: kd.fidelity(nn.Linear(8, 1), nn.Linear(8, 1), vectors.train),
        lambda: kd.evaluate(nn.Linear(8, 1), labelled.train),
        lambda: train(nn.Linear(8, 1), labelled),
    ):
        with pytest.raises(ValueError, match="at least two classes"):
            use()


def test_one_output_learns_by_a_loss_of_the_readers_own(vectors):
    teacher, student = nn.Linear(8, 1), nn.Linear(8, 1)
    mine = kd.Loss(lambda s, t: (s - t).square().mean(), teacher)
    losses = train(student, vectors, kd.Recipe(epochs=20, batch_size=16), mine).frame["loss"]
    assert losses.iloc[-1] < 0.1 * losses[0]


class Dense(nn.Module):
    """One answer for each place."""

    def __init__(self, seed, layer=nn.Conv2d, last=False):
        super().__init__()
        with kd.seeded(seed):
            self.layer = layer(1, 5, 3, padding=1)
        self.last = last

    def forward(self, x):
        maps = self.layer(x)
        return maps.movedim(1, -1).flatten(1, -2) if self.last else maps


SHAPES = {
    "images": (nn.Conv2d, (16, 12)),
    "signals": (nn.Conv1d, (12,)),
    "volumes": (nn.Conv3d, (3, 4, 5)),
}


def of_maps(data):
    """Where answers are read row by row."""
    views = kd.Recipe(epochs=1, batch_size=16, augment=lambda x, generator: x)
    fixed = kd.Recipe(epochs=1, batch_size=16)
    own = lambda t: kd.Loss(lambda s, t: (s - t).square().mean(), t)
    both = [kd.LogitMatching, lambda t: kd.SoftTargets(t, 4, 1.0), kd.DKPP, own]
    return [
        lambda make: kd.fidelity(make(0), make(1), data.train),
        *(
            lambda make, objective=objective, recipe=recipe: train(
                make(1), data, recipe, objective(make(0))
            )
            for objective in both
            for recipe in (fixed, views)
        ),
    ]


@pytest.mark.parametrize(("layer", "size"), SHAPES.values(), ids=SHAPES)
def test_maps_are_refused_with_the_line_that_moves_the_classes_last_and_that_line_works(
    layer, size
):
    x = torch.randn(64, 1, *size, generator=torch.Generator().manual_seed(7))
    data = kd.data.from_arrays(x, None, device="cpu")
    for use in of_maps(data):
        with pytest.raises(ValueError, match=r"classes last.*maps\.movedim\(1, -1\)\.flatten"):
            use(lambda seed: Dense(seed, layer))
        use(lambda seed: Dense(seed, layer, last=True))
    a, b = (kd.logits(Dense(seed, layer), data.train).argmax(1) for seed in (0, 1))
    found = kd.fidelity(*(Dense(seed, layer, last=True) for seed in (0, 1)), data.train)
    assert found.agreement == pytest.approx((a == b).float().mean().item())


def test_sequences_whose_last_dimension_is_the_classes_are_taken():
    data = kd.data.from_arrays(torch.randn(16, 20, 5), None, device="cpu")
    for classes in (3, 5):
        a, b = (nn.Linear(5, classes) for _ in range(2))
        said = [kd.logits(model, data.train).argmax(-1) for model in (a, b)]
        found = kd.fidelity(a, b, data.train).agreement
        assert found == pytest.approx((said[0] == said[1]).float().mean().item())
        train(a, data, TINY, kd.SoftTargets(b, 4, 1.0))


def test_more_answers_than_labels_are_refused_in_scores():
    data = kd.data.from_arrays(torch.randn(12, 1, 6, 6), torch.arange(12) % 5, device="cpu")
    with pytest.raises(ValueError, match="one row of logits for each label, got 432 for 12"):
        kd.evaluate(Dense(0, last=True), data.train)
    with pytest.raises(ValueError, match="networks of the same classes, got logits of shapes"):
        kd.evaluate(
            [Dense(0, last=True), nn.Sequential(nn.Flatten(), nn.Linear(36, 5))], data.train
        )


def test_an_answer_without_classes_is_refused(vectors):
    class Flat(nn.Linear):
        def forward(self, x):
            return super().forward(x)[:, 0]

    with pytest.raises(ValueError, match=r"one row for each sample, got shape \(64,\)"):
        kd.fidelity(Flat(8, 2), Flat(8, 2), vectors.train)


def test_googlenet_trains_with_its_auxiliary_heads_left_alone():
    torchvision = pytest.importorskip("torchvision")
    data = kd.data.from_arrays(torch.randn(8, 3, 32, 32), torch.arange(8) % 3, device="cpu")
    with kd.seeded(0):
        model = torchvision.models.googlenet(num_classes=3, aux_logits=True, init_weights=False)
    before = copy.deepcopy(model)
    train(model, data, kd.Recipe(epochs=1, batch_size=4))
    assert not same(model, before) and same(model.aux1.fc1, before.aux1.fc1)


def hugging_face():
    """Tiny randomly initialised networks of the package transformers, each with its data."""
    transformers = pytest.importorskip("transformers", exc_type=ImportError)
    tiny = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    tiny |= {"intermediate_size": 32, "num_labels": 10, "hidden_dropout_prob": 0.1}
    of_pictures = transformers.ViTConfig(image_size=28, patch_size=7, num_channels=1, **tiny)
    of_tokens = transformers.BertConfig(vocab_size=20, max_position_embeddings=16, **tiny)
    draws = torch.Generator().manual_seed(0)
    tokens, labels = torch.randint(20, (200, 12), generator=draws), torch.arange(200) % 10
    split = kd.data.Split(tokens[:150], labels[:150], torch.arange(150))
    rest = kd.data.Split(tokens[150:], labels[150:], torch.arange(150, 200))
    classes = tuple(map(str, range(10)))
    return {
        "vit": (
            lambda: transformers.ViTForImageClassification(of_pictures),
            kd.data.load("digits", device="cpu").limit(200),
        ),
        "bert": (
            lambda: transformers.BertForSequenceClassification(of_tokens),
            kd.data.Data(split, rest, rest, classes, "tokens"),
        ),
    }


@pytest.mark.parametrize("name", ["vit", "bert"])
def test_hugging_faces_networks_teach_learn_and_are_scored_as_they_are(tmp_path, name):
    make, data = hugging_face()[name]

    def built(seed):
        with kd.seeded(seed):
            return make()

    teacher = built(0)
    recipe = kd.Recipe(epochs=2, batch_size=50, optimizer="adamw", precision="float32")
    path = tmp_path / "run.pt"
    train(teacher, data, recipe, checkpoint=path)
    again = built(0)
    train(again, data, recipe, checkpoint=path)  # taken up by a network of the same code
    assert same(again, teacher)
    known = kd.logits(teacher, data.test)
    assert known.shape == (len(data.test), 10)
    hint = kd.Hint(teacher, hint="classifier", guided="classifier", activation=None)
    both = kd.SoftTargets(teacher, 4, 0.5) + 0.01 * hint
    for objective in (kd.SoftTargets(teacher, 4, 0.5), both):
        before = network_hash(teacher)
        history = train(built(1), data, recipe, objective)
        assert history.frame["soft"].between(0, 5).all() and network_hash(teacher) == before
    kept = [kd.keep(built, kd.CrossEntropy(), data, recipe, seed=3) for _ in range(2)]
    assert same(*kept)
    assert kd.evaluate(teacher, data.test).errors <= len(data.test)
    assert kd.fidelity(teacher, again, data.test).agreement == 1
