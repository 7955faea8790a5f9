"""The steps of a training: optimizers, schedules, limits and precision."""

import contextlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile
from training_helpers import TINY, Guided, net, same, train

import kdlib as kd
from kdlib.identity import weights_hash
from kdlib.training import autocast_dtype


def softmax_gradient(weights, inputs, labels):
    """By the weights (C, D + 1), the last column a bias, of the mean cross entropy."""
    inputs = np.hstack([inputs, np.ones((len(inputs), 1))])
    z = inputs @ weights.T
    q = np.exp(z - z.max(1, keepdims=True))
    q /= q.sum(1, keepdims=True)
    q[np.arange(len(labels)), labels] -= 1
    return q.T @ inputs / len(labels)


@pytest.mark.parametrize("schedule", ["one_cycle", "step", "constant", "wide_resnet"])
def test_sgd_is_nesterov_momentum_with_the_rate_of_the_schedule(small, schedule):
    rate, decay, steps = 0.1, 0.01, 7
    recipe = kd.Recipe(
        epochs=steps,
        batch_size=200,
        learning_rate=rate,
        weight_decay=decay,
        schedule=schedule,
        precision="float64",
    )
    model = kd.models.mlp(1, depth=0, seed=2)
    weights = torch.cat([model[1].weight, model[1].bias[:, None]], 1).detach().double().numpy()
    inputs, labels = small.train.inputs.double().flatten(1).numpy(), small.train.labels.numpy()
    velocity = 0
    for step in range(steps):
        gradient = softmax_gradient(weights, inputs, labels) + decay * weights
        velocity = 0.9 * velocity + gradient
        weights = weights - recipe.rate(step / steps) * (gradient + 0.9 * velocity)
    train(model, small, recipe)
    assert model[1].weight.dtype == torch.float64
    np.testing.assert_allclose(model[1].weight.detach(), weights[:, :-1], rtol=0, atol=1e-12)
    np.testing.assert_allclose(model[1].bias.detach(), weights[:, -1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_the_first_step_of_adam_moves_every_weight_by_the_rate(small, optimizer):
    recipe = kd.Recipe(
        iterations=1,
        optimizer=optimizer,
        learning_rate=0.01,
        schedule="constant",
        weight_decay=0.5,
        precision="float64",
    )
    model = kd.models.mlp(1, depth=0, seed=2)
    before = model[1].bias.detach().double().clone()
    train(model, small, recipe)
    moved = model[1].bias.detach() - before
    if optimizer == "adamw":  # its decay is apart from the gradient
        moved = moved + 0.01 * 0.5 * before
    torch.testing.assert_close(moved.abs(), torch.full_like(moved, 0.01), rtol=1e-4, atol=0)


def test_max_norm_holds_for_every_layer_after_training(small):
    def longest(max_norm):
        model = net()
        train(model, small, replace(TINY, learning_rate=0.1, epochs=5, max_norm=max_norm))
        linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
        assert len(linear) == 3
        return [layer.weight.norm(dim=1).max().item() for layer in linear]

    assert min(longest(None)) > 0.6
    assert max(longest(0.5)) == pytest.approx(0.5, abs=1e-5)
    assert longest(1e6) == longest(None)


def test_max_norm_leaves_shorter_rows_and_biases_as_they_are(small):
    limited, free = net(), net()
    with torch.no_grad():
        for model in (limited, free):
            model[1].weight[0] *= 100
    recipe = replace(TINY, learning_rate=1e-9, iterations=1, max_norm=5.0)
    train(limited, small, recipe)
    train(free, small, replace(recipe, max_norm=None))
    assert limited[1].weight[0].norm().item() == pytest.approx(5.0, abs=1e-5)
    assert torch.equal(limited[1].weight[1:], free[1].weight[1:])
    assert torch.equal(limited[1].bias, free[1].bias)


def test_max_gradient_shortens_the_gradient_by_all_weights_together_where_it_is_longer(small):
    limit, steps, rate = 3.0, 12, 0.05
    model = kd.models.mlp(1, depth=0, seed=2)
    weights = torch.cat([model[1].weight, model[1].bias[:, None]], 1).detach().double().numpy()
    inputs, labels = small.train.inputs.double().flatten(1).numpy(), small.train.labels.numpy()
    shortened = 0
    for _ in range(steps):
        gradient = softmax_gradient(weights, inputs, labels)
        length = np.sqrt((gradient**2).sum())
        if length > limit:
            gradient, shortened = gradient * limit / length, shortened + 1
        weights = weights - rate * gradient
    recipe = kd.Recipe(
        epochs=steps,
        batch_size=200,
        learning_rate=rate,
        momentum=0,
        schedule="constant",
        max_gradient=limit,
        precision="float64",
    )
    train(model, small, recipe)
    assert 0 < shortened < steps
    np.testing.assert_allclose(model[1].weight.detach(), weights[:, :-1], rtol=0, atol=1e-6)
    np.testing.assert_allclose(model[1].bias.detach(), weights[:, -1], rtol=0, atol=1e-6)


def test_a_gradient_limit_that_is_never_reached_changes_nothing(small):
    free, limited = net(), net()
    train(free, small)
    train(limited, small, replace(TINY, max_gradient=1e6))
    assert same(free, limited)


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
def test_plateau_takes_a_quarter_after_every_epoch_whose_validation_loss_is_no_new_lowest(
    small, rate, quarters
):
    """At 0.1 the second epoch alone is worse; at 0.2 none is ever as good as the first."""
    epochs, start = 10, kd.models.mlp(1, depth=0, seed=2)
    layer = start[1]
    weights = torch.cat([layer.weight, layer.bias[:, None]], 1).detach().double().numpy()
    parts = (small.train, small.validation)
    inputs, held_out = (part.inputs.double().flatten(1).numpy() for part in parts)
    labels, wanted = (part.labels.numpy() for part in parts)

    def loss(weights):
        z = held_out @ weights[:, :-1].T + weights[:, -1]
        return (np.log(np.exp(z).sum(1)) - z[np.arange(len(z)), wanted]).mean()

    losses, now = [], rate
    for _ in range(epochs):
        weights = weights - now * softmax_gradient(weights, inputs, labels)
        if losses and loss(weights) >= min(losses):
            now /= 4
        losses.append(loss(weights))
    recipe = kd.Recipe(
        epochs=epochs,
        batch_size=200,
        learning_rate=rate,
        momentum=0,
        schedule="plateau",
        precision="float64",
    )
    history = train(start, small, recipe)
    assert now == rate / 4**quarters
    np.testing.assert_allclose(history.frame["validation_loss"], losses, rtol=1e-9)
    np.testing.assert_allclose(layer.weight.detach(), weights[:, :-1], rtol=0, atol=1e-12)
    np.testing.assert_allclose(layer.bias.detach(), weights[:, -1], rtol=0, atol=1e-12)


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
        ("cuda", (9, 0), torch.bfloat16),
        ("cuda", (8, 6), torch.bfloat16),
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


@pytest.mark.parametrize("kind", ["cpu", "cuda", "mps"])
def test_a_precision_that_is_named_is_taken_or_refused_by_name(kind):
    device = torch.device(kind)
    assert autocast_dtype("float32", device) is None
    if kind == "mps":
        with pytest.raises(ValueError, match='"float64" needs a CPU or a CUDA GPU, got mps'):
            autocast_dtype("float64", device)
    else:
        assert autocast_dtype("float64", device) is None
    assert autocast_dtype("bfloat16", device) == torch.bfloat16
    if kind == "cuda":
        assert autocast_dtype("float16", device) == torch.float16
    else:
        with pytest.raises(ValueError, match=f'"float16" needs a CUDA GPU, got {kind}'):
            autocast_dtype("float16", device)


def test_auto_takes_bfloat16_only_where_the_processor_has_it(small, monkeypatch):
    for native, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr("kdlib.training.steps._cpu_has_bfloat16", lambda native=native: native)
        model, seen = probed()
        train(model, small, replace(TINY, precision="auto"))
        assert set(seen) == {expected}


def test_float16_on_a_cpu_is_refused_with_a_way_out(small):
    with pytest.raises(ValueError, match='"float16" needs a CUDA GPU, got cpu; try "auto"'):
        train(net(), small, replace(TINY, precision="float16"))


def test_a_network_of_float64_can_be_trained_in_float32_afterwards(small):
    model = net()
    for precision, dtype in (("float64", torch.float64), ("float32", torch.float32)):
        recipe = kd.Recipe(epochs=1, precision=precision)
        kd.fit(model, kd.CrossEntropy(), small, recipe, progress=False)
        assert {p.dtype for p in model.parameters()} == {dtype}


def test_max_norm_leaves_frozen_layers_alone(small):
    model = net()
    model[1].requires_grad_(False)
    before = model[1].weight.clone()
    recipe = kd.Recipe(epochs=1, max_norm=0.1)
    kd.fit(model, kd.CrossEntropy(), small, recipe, progress=False)
    assert torch.equal(model[1].weight, before)
    assert (model[-1].weight.norm(dim=1) <= 0.1 + 1e-6).all()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_what_the_caller_has_switched_on_does_not_reach_the_training(small, precision):
    recipe, hashes = kd.Recipe(epochs=20, precision=precision), set()
    for switch in (
        contextlib.nullcontext(),
        torch.no_grad(),
        torch.autocast("cpu", torch.bfloat16),
    ):
        model = net()
        with switch:
            history = kd.fit(model, kd.CrossEntropy(), small, recipe, progress=False)
        hashes.add(weights_hash(model))
        assert history.frame["hard"].iloc[-1] < 0.9 * history.frame["hard"].iloc[0]
    assert len(hashes) == 1
