"""The steps of a training: optimizers, schedules, limits and precision."""

import contextlib
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune
from torch.profiler import ProfilerActivity, profile
from training_helpers import TINY, Altered, Guided, net, train

import kdlib as kd
from kdlib.identity import weights_hash
from kdlib.training import autocast_dtype
from kdlib.training.steps import Stepper, limit_norms


def linear(split):
    """A network that is one layer, its weights (C, D + 1) with the bias last, and its data."""
    model = kd.models.mlp(1, depth=0, seed=2)
    inputs = split.inputs.double().flatten(1).numpy()
    return model, joined(model), inputs, split.labels.numpy()


def joined(model):
    return torch.cat([model[1].weight, model[1].bias[:, None]], 1).detach().double().numpy()


def softmax_gradient(weights, inputs, labels):
    """The gradient of the mean cross entropy with respect to the weights (C, D + 1)."""
    inputs = np.hstack([inputs, np.ones((len(inputs), 1))])
    z = inputs @ weights.T
    q = np.exp(z - z.max(1, keepdims=True))
    q /= q.sum(1, keepdims=True)
    q[np.arange(len(labels)), labels] -= 1
    return q.T @ inputs / len(labels)


def by_hand(recipe, weights, inputs, labels, rate):
    """Every step's weights, from the formulas of Nesterov's momentum, of Adam and of AdamW."""
    velocity = mean = square = 0
    for step in range(recipe.epochs):
        gradient = softmax_gradient(weights, inputs, labels)
        length, limit = np.linalg.norm(gradient), recipe.max_gradient or math.inf
        gradient = gradient * min(1, limit / length)
        decay = recipe.weight_decay * weights
        if recipe.optimizer != "adamw":
            gradient, decay = gradient + decay, 0
        velocity = recipe.momentum * velocity + gradient
        change = gradient + recipe.momentum * velocity
        if recipe.optimizer != "sgd":
            mean = recipe.momentum * mean + (1 - recipe.momentum) * gradient
            square = 0.999 * square + 0.001 * gradient**2
            size = np.sqrt(square / (1 - 0.999 ** (step + 1))) + 1e-8
            change = mean / (1 - recipe.momentum ** (step + 1)) / size
        weights = weights - rate(step) * (change + decay)
        yield weights


def whole_batches(**options):
    return kd.Recipe(**({"epochs": 7, "batch_size": 200, "precision": "float64"} | options))


@pytest.mark.parametrize("schedule", ["one_cycle", "step", "constant", "wide_resnet"])
@pytest.mark.parametrize(
    "change",
    [
        {"learning_rate": 0.1},
        {"learning_rate": 0.05, "momentum": 0},
        {"learning_rate": 0.01, "momentum": 0.5, "optimizer": "adam"},
        {"learning_rate": 0.01, "momentum": 0.5, "optimizer": "adamw"},
    ],
    ids=["momentum", "no momentum", "adam", "adamw"],
)
def test_steps_are_those_of_the_formulas_with_the_rate_of_the_schedule(small, schedule, change):
    recipe = whole_batches(schedule=schedule, weight_decay=0.1, **change)
    model, *start = linear(small.train)
    *_, weights = by_hand(recipe, *start, lambda step: recipe.rate(step / recipe.epochs))
    train(model, small, recipe)
    assert model[1].weight.dtype == torch.float64
    np.testing.assert_allclose(joined(model), weights, rtol=0, atol=1e-10)


def test_max_gradient_shortens_the_whole_gradient_where_it_is_longer(small):
    recipe = whole_batches(
        epochs=12, learning_rate=0.05, momentum=0, schedule="constant", max_gradient=3.0
    )
    model, *start = linear(small.train)
    before, *_, weights = by_hand(recipe, *start, recipe.rate)
    longest = np.linalg.norm(before - start[0]) / 0.05
    last = np.linalg.norm(softmax_gradient(weights, *start[1:]))
    assert last < longest == pytest.approx(3.0)  # the limit is reached at first, but not later
    train(model, small, recipe)
    np.testing.assert_allclose(joined(model), weights, rtol=0, atol=1e-6)


def test_max_gradient_counts_the_objectives_module(small):
    class Beside(Guided):
        """Trains its layer hard, and the student as labels alone do."""

        def __call__(self, student, batch):
            entropy = nn.functional.cross_entropy
            beside = entropy(self.module(student.logits.detach()), batch.labels)
            return {"hard": entropy(student.logits, batch.labels), "beside": 100 * beside}

    recipe = replace(TINY, iterations=1, momentum=0.0, learning_rate=10.0, max_gradient=0.1)
    start, steps = net(), []
    for objective in (kd.CrossEntropy(), Beside()):
        model = net()
        train(model, small, recipe, objective)
        pairs = zip(model.parameters(), start.parameters(), strict=True)
        steps.append(sum((a - b).square().sum() for a, b in pairs).sqrt().item())
    assert steps[0] == pytest.approx(recipe.rate(0) * 0.1, rel=1e-3)
    assert 0 < steps[1] < 0.2 * steps[0]


@pytest.mark.parametrize(("rate", "quarters"), [(0.1, 1), (0.2, 9)])
def test_plateau_quarters_the_rate_after_an_epoch_without_a_new_lowest_validation_loss(
    small, rate, quarters
):
    """At 0.1 only the second epoch is worse; at 0.2 none is ever as good as the first."""
    recipe = whole_batches(epochs=10, learning_rate=rate, momentum=0, schedule="plateau")
    _, _, held_out, wanted = linear(small.validation)
    model, *start = linear(small.train)
    losses, rates = [], [rate]
    for weights in by_hand(recipe, *start, lambda step: rates[step]):
        z = held_out @ weights[:, :-1].T + weights[:, -1]
        loss = (np.log(np.exp(z).sum(1)) - z[np.arange(len(z)), wanted]).mean()
        rates.append(rates[-1] / (4 if loss >= min(losses, default=math.inf) else 1))
        losses.append(loss)
    history = train(model, small, recipe)
    assert rates[-1] == rate / 4**quarters
    np.testing.assert_allclose(history.frame["validation_loss"], losses, rtol=1e-9)
    np.testing.assert_allclose(joined(model), weights, rtol=0, atol=1e-12)


@pytest.mark.parametrize("limit", [None, 0.5])
def test_a_scaled_gradient_makes_the_step_that_an_unscaled_one_makes(limit):
    """What a float16 GPU does, on the CPU in float64."""
    weights = []
    for scaled in (False, True):
        module = nn.ParameterList([torch.ones(3, dtype=torch.float64)])
        recipe = kd.Recipe(max_gradient=limit, precision="float64")
        stepper = Stepper(module, recipe, torch.device("cpu"))
        stepper.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, enabled=scaled)
        for factor in (2.0, math.inf, 3.0):  # a step with an overflow is left out
            if scaled or math.isfinite(factor):
                with stepper.forward():
                    loss = factor * module[0].square().sum()
                stepper.descend({"loss": loss}, 0.1)
        weights.append(module[0].detach())
    assert weights[0].sub(1).abs().min() > 0.05
    torch.testing.assert_close(weights[1], weights[0], rtol=1e-6, atol=0)


def test_max_norm_holds_for_every_layer_after_training(small):
    def longest(max_norm):
        model = net()
        train(model, small, replace(TINY, learning_rate=0.1, epochs=5, max_norm=max_norm))
        return [layer.weight.norm(dim=1).max().item() for layer in model[1::2]]

    assert len(longest(None)) == 3
    assert min(longest(None)) > 0.6
    assert max(longest(0.5)) == pytest.approx(0.5, abs=1e-5)
    assert longest(1e6) == longest(None)


def test_max_norm_shortens_what_comes_into_a_trained_unit_where_it_is_longer():
    with kd.seeded(0):
        model = nn.Sequential(nn.Conv2d(2, 3, 2), nn.Flatten(), nn.Linear(3, 3), nn.Linear(3, 4))
    with torch.no_grad():
        for layer in (model[0], model[2], model[3]):
            layer.weight[0] *= 100
    model[3].requires_grad_(False)
    model(torch.ones(1, 2, 2, 2)).sum().backward()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    limit_norms(model, 1.5)
    for name, value in model.state_dict().items():
        expected = before[name].flatten(1) if value.ndim > 1 else before[name]
        if name in ("0.weight", "2.weight"):
            lengths = expected.norm(dim=1, keepdim=True)  # (units, 1)
            assert (lengths > 1.5).any() and (lengths < 1.5).any()
            expected = expected * (1.5 / lengths).clamp(max=1)
        torch.testing.assert_close(value, expected.view_as(value), msg=name)


def rows(layer):
    """The lengths of the weights into each unit, from the layer's definition."""
    weight = layer.weight.detach().double().numpy()
    if "Transpose" not in type(layer).__name__:
        return np.linalg.norm(weight.reshape(len(weight), -1), axis=1)
    per_group = len(weight) // layer.groups
    return np.array(
        [
            math.sqrt((weight[g * per_group : (g + 1) * per_group, unit] ** 2).sum())
            for g in range(layer.groups)
            for unit in range(weight.shape[1])
        ]
    )


LAYERS = {
    "linear": (lambda: nn.Linear(4, 6), (2, 4)),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3), (2, 4, 5)),
    "conv2d in groups": (lambda: nn.Conv2d(4, 6, 3, groups=2), (2, 4, 5, 5)),
    "conv3d": (lambda: nn.Conv3d(4, 6, 2), (2, 4, 3, 3, 3)),
    "transposed 1d": (lambda: nn.ConvTranspose1d(4, 6, 3), (2, 4, 5)),
    "transposed 2d in groups": (lambda: nn.ConvTranspose2d(4, 6, 3, groups=2), (2, 4, 5, 5)),
    "transposed 3d": (lambda: nn.ConvTranspose3d(4, 6, 2), (2, 4, 3, 3, 3)),
    "lazy": (lambda: nn.LazyConv1d(6, 3), (2, 4, 5)),
}


@pytest.mark.parametrize(("build", "shape"), LAYERS.values(), ids=LAYERS)
def test_max_norm_limits_what_comes_into_every_unit_of_every_kind_of_layer(build, shape):
    with kd.seeded(0):
        layer, inputs = build(), torch.randn(shape)
    layer(inputs).square().sum().backward()
    before = rows(layer)
    limit = float(np.median(before))
    limit_norms(nn.Sequential(layer), limit)
    assert len(before) == 6
    np.testing.assert_allclose(rows(layer), np.minimum(before, limit), rtol=1e-5)


def test_max_norm_limits_bilinear_layers_and_the_projections_of_attention():
    with kd.seeded(0):
        bilinear = nn.Bilinear(3, 4, 5)
        alike, apart = nn.MultiheadAttention(4, 2), nn.MultiheadAttention(4, 2, kdim=3, vdim=5)
        x, key, value = torch.randn(6, 4), torch.randn(6, 3), torch.randn(6, 5)
    loss = bilinear(key, x).sum() + alike(x, x, x)[0].sum() + apart(x, key, value)[0].sum()
    loss.backward()
    limited = [bilinear.weight, alike.in_proj_weight, alike.out_proj.weight, apart.out_proj.weight]
    limited += [apart.q_proj_weight, apart.k_proj_weight, apart.v_proj_weight]
    limit_norms(nn.ModuleList([bilinear, alike, apart]), 0.1)
    for weight in limited:
        assert weight.detach().flatten(1).norm(dim=1).max() == pytest.approx(0.1, rel=1e-4)


COMPUTED = {
    "weight norm": nn.utils.parametrizations.weight_norm,
    "weight norm by a hook": lambda layer: nn.utils.weight_norm(layer),
    "spectral norm": nn.utils.parametrizations.spectral_norm,
    "spectral norm by a hook": lambda layer: nn.utils.spectral_norm(layer),
    "orthogonal": nn.utils.parametrizations.orthogonal,
    "pruned": lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("compute", COMPUTED.values(), ids=COMPUTED)
def test_max_norm_is_refused_by_layer_where_a_weight_is_computed(small, compute):
    recipe, model = replace(TINY, max_norm=0.5), net()
    compute(model[3])
    before = weights_hash(model)
    with pytest.raises(
        ValueError, match=r"max_norm cannot hold for the layer '3' .* computed from"
    ):
        train(model, small, recipe)
    assert weights_hash(model) == before
    train(model, small, replace(recipe, max_norm=None))
    model[3].requires_grad_(False)  # what does not train needs no limit
    train(model, small, recipe)
    assert model[1].weight.norm(dim=1).max() <= 0.5 + 1e-5


class Unlimited(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer, self.head = layer, nn.Linear(28, 10)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("build", "kind"),
    [
        (lambda: nn.LSTM(28, 28), r"\(LSTM\), which is recurrent"),
        (lambda: nn.GRUCell(28, 28), r"\(GRUCell\), which is recurrent"),
        (lambda: torch.jit.script(nn.Linear(28, 28)), r"\(Linear\), which is TorchScript"),
    ],
    ids=["LSTM", "GRU", "TorchScript"],
)
def test_max_norm_is_refused_by_layer_where_it_has_no_meaning(small, build, kind):
    with pytest.raises(ValueError, match=f"max_norm cannot hold for the layer 'layer' {kind}"):
        train(Unlimited(build()), small, replace(TINY, max_norm=0.5))


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"augment": kd.data.shift(2) + kd.data.flip()},
        {"max_norm": 2.0, "weight_decay": 0.01, "schedule": "step", "precision": "bfloat16"},
        {"max_gradient": 0.1, "schedule": "wide_resnet"},
    ],
    ids=str,
)
def test_the_steps_of_an_epoch_read_no_value_back(small, change):
    """What reads a value makes a GPU wait; it is seen on a CPU as well (but for Adam's counter)."""
    objective = kd.SoftTargets(net(0), 4, 0.9) + 0.1 * kd.LogitMatching(net(0))
    data, once = replace(small, validation=None), replace(TINY, **({"epochs": 1} | change))

    def values_read(batch_size):
        recipe = replace(once, batch_size=batch_size)
        with profile(activities=[ProfilerActivity.CPU]) as record:
            train(net(), data, recipe, objective)
        return sum(e.count for e in record.key_averages() if e.key == "aten::_local_scalar_dense")

    values_read(100)
    assert values_read(10) == values_read(100) > 0  # 20 steps, and 2


def probed():
    """A network that notes the dtypes of its last layer's outputs in training."""
    model, seen = net(), []
    model[-1].register_forward_hook(
        lambda module, inputs, output: seen.append(output.dtype) if module.training else None
    )
    return model, seen


@pytest.mark.parametrize(
    ("precision", "products", "weights"),
    [
        ("float32", torch.float32, torch.float32),
        ("float64", torch.float64, torch.float64),
        ("bfloat16", torch.bfloat16, torch.float32),
    ],
)
def test_precision_is_that_of_the_matrix_products(small, precision, products, weights):
    model, seen = probed()
    frame = train(model, small, replace(TINY, precision=precision)).frame
    assert set(seen) == {products}
    assert {parameter.dtype for parameter in model.parameters()} == {weights}
    assert frame["hard"].iloc[-1] < frame["hard"].iloc[0]
    assert kd.evaluate(model, small.test).accuracy > 0.2


@pytest.mark.parametrize(
    ("kind", "capability", "expected"),
    [
        ("cuda", (12, 0), torch.bfloat16),
        ("cuda", (8, 0), torch.bfloat16),
        ("cuda", (7, 5), torch.float16),  # a T4
        ("cuda", (7, 0), torch.float16),
        ("cuda", (6, 1), None),
        ("mps", None, None),
    ],
)
def test_auto_is_what_a_gpu_multiplies_natively(monkeypatch, kind, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert autocast_dtype("auto", torch.device(kind)) == expected


@pytest.mark.parametrize(
    ("allowed", "flags", "expected"),
    [
        ("", "avx2 avx512f avx512_bf16 amx_bf16", torch.bfloat16),
        ("ALL", "avx2 avx512f avx512_bf16", torch.bfloat16),
        ("AVX512_CORE_BF16", "avx2 avx512f avx512_bf16", torch.bfloat16),
        ("avx512_core_amx", "avx2 avx512f avx512_bf16 amx_bf16", torch.bfloat16),
        ("AVX2", "avx2 avx512f avx512_bf16", None),
        ("AVX512_CORE_VNNI", "avx2 avx512f avx512_bf16", None),
        ("", "avx2 fma", None),
        ("ALL", "avx2 avx512f", None),
        ("", None, None),  # no such file: Windows and macOS
    ],
)
def test_auto_asks_the_processor_and_what_onednn_may_use(monkeypatch, allowed, flags, expected):
    def read_text(path):
        if flags is None:
            raise FileNotFoundError(path)
        return f"processor: 0\nflags: {flags}\n"

    monkeypatch.setattr("kdlib.training.steps.Path.read_text", read_text)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", allowed)
    assert autocast_dtype("auto", torch.device("cpu")) == expected


@pytest.mark.parametrize(
    ("precision", "expected", "refused"),
    [
        ("float32", None, {}),
        ("float64", None, {"mps": "needs a CPU or a CUDA GPU"}),
        ("bfloat16", torch.bfloat16, {}),
        ("float16", torch.float16, {"cpu": "needs a CUDA GPU", "mps": "needs a CUDA GPU"}),
    ],
)
@pytest.mark.parametrize("kind", ["cpu", "cuda", "mps"])
def test_a_named_precision_is_taken_or_refused_by_name(precision, expected, refused, kind):
    if kind in refused:
        message = f'"{precision}" {refused[kind]}, got {kind}; try "auto"'
        with pytest.raises(ValueError, match=message):
            autocast_dtype(precision, torch.device(kind))
    else:
        assert autocast_dtype(precision, torch.device(kind)) == expected


def test_auto_takes_bfloat16_only_where_the_processor_has_it(small, monkeypatch):
    for native, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr("kdlib.training.steps._cpu_has_bfloat16", lambda native=native: native)
        model, seen = probed()
        train(model, small, replace(TINY, precision="auto"))
        assert set(seen) == {expected}


def test_losses_are_computed_in_full_precision_whatever_the_products_are(small):
    seen = set()

    def look(self, terms, student, batch):
        seen.add((student.logits.dtype, (batch.inputs.flatten(1) @ torch.ones(784, 1)).dtype))
        return terms

    train(net(), small, replace(TINY, precision="bfloat16"), Altered(look))
    assert seen == {(torch.bfloat16, torch.float32)}


def test_a_network_of_float64_can_be_trained_in_float32_afterwards(small):
    model = net()
    for precision, dtype in (("float64", torch.float64), ("float32", torch.float32)):
        train(model, small, replace(TINY, epochs=1, precision=precision))
        assert {p.dtype for p in model.parameters()} == {dtype}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_what_the_caller_has_switched_on_does_not_reach_the_training(small, precision):
    recipe, hashes = replace(TINY, epochs=10, precision=precision), set()
    switches = contextlib.nullcontext(), torch.no_grad(), torch.autocast("cpu", torch.bfloat16)
    for switch in switches:
        model = net()
        with switch:
            history = train(model, small, recipe)
        hashes.add(weights_hash(model))
        assert history.frame["hard"].iloc[-1] < 0.9 * history.frame["hard"].iloc[0]
    assert len(hashes) == 1
