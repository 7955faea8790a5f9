"""The training core on a GPU: the CPU's results, no waiting, no memory left behind.

``make gpu`` runs these. They need a GPU and torch, numpy, pandas, Pillow, scikit-learn and pytest; what
needs another package skips and names it.
"""

import copy
import gc
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

import kdlib as kd
from kdlib.identity import weights_hash
from kdlib.training import autocast_dtype

pytest.importorskip("PIL", reason="needs Pillow, for the digits")
pytest.importorskip("sklearn", reason="needs scikit-learn, for the digits")
pytestmark = pytest.mark.gpu
RECIPE = kd.Recipe(epochs=5, batch_size=50, precision="float32")
# How far any logit may be from the CPU's in float32 after 20 steps, which move them by 0.13 on average.
# On a CPU bfloat16 was 0.005 away; a float16 scaler may skip the first steps.
TOLERANCE = {"float32": 1e-4, "bfloat16": 0.02, "float16": 0.05}


@pytest.fixture(params=["cuda", "mps"])
def device(request):
    backend = torch.cuda if request.param == "cuda" else torch.backends.mps
    if not backend.is_available():
        pytest.skip(f"needs a GPU: torch sees no {request.param} here")
    return request.param


@pytest.fixture
def cuda():
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU: torch sees no cuda here")
    return "cuda"


@pytest.fixture(autouse=True)
def whole_float32():
    """Float32 products as exact as the CPU's, whatever was set."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


def small(device):
    return kd.data.load("digits", device=device).limit(200)


def student(seed=1, width=30):
    return kd.models.mlp(width, seed=seed)


def soft(temperature=4.0):
    return kd.SoftTargets(student(seed=0), temperature, alpha=0.9)


def train(model, data, recipe=RECIPE, objective=None, **options):
    return kd.fit(model, objective or soft(), data, recipe, progress=False, **options)


def trained_logits(model, data):
    return kd.logits(model.cpu(), data.test.inputs.cpu())


def supports(device, precision):
    return precision == "float32" or (
        device == "cuda" and (precision == "float16" or torch.cuda.get_device_capability()[0] >= 8)
    )


def assert_alike(there, here, tolerance, rtol=0):
    """Two networks answer alike, wherever they are."""
    there, here = (trained_logits(model, small("cpu")) for model in (there, here))
    torch.testing.assert_close(there, here, atol=tolerance, rtol=rtol)


def waits(work):
    """How often the host waits for the GPU."""
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as record:
        work()
    return sum(
        event.count
        for event in record.key_averages()
        if "Synchronize" in event.key or event.key == "aten::_local_scalar_dense"
    )


def test_load_puts_data_on_the_gpu_and_every_tensor_is_that_of_the_cpu(device):
    there, here = kd.data.load("digits"), kd.data.load("digits", device="cpu")
    for part in ("train", "validation", "test"):
        for name in ("inputs", "labels", "index"):
            tensor = getattr(getattr(there, part), name)
            assert tensor.device.type == device
            torch.testing.assert_close(tensor.cpu(), getattr(getattr(here, part), name))


@pytest.mark.parametrize("precision", TOLERANCE)
@pytest.mark.parametrize("together", [False, True], ids=["alone", "cohort"])
def test_training_gives_the_result_of_the_cpu(device, precision, together):
    if not supports(device, precision):
        pytest.skip(f"{device} does not multiply in {precision} here")

    def result(place, precision):
        data, recipe = small(place), replace(RECIPE, precision=precision)
        if together:
            objectives = [soft(1.0), soft(4.0)]
            return kd.fit_cohort(student, objectives, data, recipe, [1], progress=False).models[1]
        model = student()
        train(model, data, recipe)
        return model

    there = trained_logits(result(device, precision), small("cpu"))
    here = trained_logits(result("cpu", "float32"), small("cpu"))
    start = trained_logits(student(), small("cpu"))
    assert (here - start).abs().mean() > 0.1
    assert (there - here).abs().max() < TOLERANCE[precision]


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_every_optimizer_gives_the_result_of_the_cpu(device, optimizer):
    recipe = replace(RECIPE, optimizer=optimizer, weight_decay=0.01, max_norm=3.0)
    there, here = student(), student()
    histories = [train(there, small(device), recipe), train(here, small("cpu"), recipe)]
    assert_alike(there, here, 1e-3, rtol=1e-3)
    columns = ["soft", "hard", "validation_loss"]
    there, here = (torch.tensor(h.frame[columns].to_numpy()) for h in histories)
    torch.testing.assert_close(there, here, atol=1e-3, rtol=1e-3)


def test_auto_is_what_the_gpu_multiplies_natively(cuda):
    major, _ = torch.cuda.get_device_capability()
    expected = torch.bfloat16 if major >= 8 else torch.float16 if major == 7 else None
    assert autocast_dtype("auto", torch.device(cuda)) == expected
    seen = []
    model = student()
    model[1].register_forward_hook(lambda module, args, out: seen.append(out.dtype))
    train(model, small(cuda), replace(RECIPE, precision="auto"))
    assert seen[0] == (expected or torch.float32)
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_the_views_of_images_are_drawn_there(device):
    images = small(device).train.inputs[:50]

    def views(seed):
        generator = torch.Generator(device).manual_seed(seed)
        return (kd.data.shift(1) + kd.data.flip())(images, generator)

    drawn = views(1)
    assert (drawn.device, drawn.shape) == (images.device, images.shape)
    torch.testing.assert_close(views(1), drawn, rtol=0, atol=0)
    assert not torch.equal(views(2), drawn)
    edge = nn.functional.pad(images, (1, 1, 1, 1), mode="replicate")
    moved = [edge[..., y : y + 28, x : x + 28] for y in range(3) for x in range(3)]
    allowed = torch.stack(moved + [view.flip(-1) for view in moved])  # (18, N, 1, 28, 28)
    found = (allowed == drawn).flatten(2).all(-1)  # (18, N)
    assert found.any(0).all()
    assert found.any(1).sum() > 9  # most of the 18 views occur among 50 images


@pytest.mark.parametrize("home", ["cpu", "gpu"])
def test_the_teacher_stays_where_and_as_it_was(device, home):
    with kd.seeded(0):
        teacher = nn.Sequential(
            nn.Flatten(), nn.Linear(784, 20), nn.BatchNorm1d(20), nn.Dropout(0.5), nn.Linear(20, 10)
        )
    teacher.to(device if home == "gpu" else "cpu").train()
    before, modes = weights_hash(teacher), [m.training for m in teacher.modules()]
    place = next(teacher.parameters()).device
    for augment in (None, kd.data.shift(1)):
        objective = kd.SoftTargets(teacher, 4, 0.9) + 0.1 * kd.LogitMatching(teacher)
        train(student(), small(device), replace(RECIPE, augment=augment), objective)
    assert weights_hash(teacher) == before
    assert [m.training for m in teacher.modules()] == modes
    assert {p.device for p in teacher.parameters()} == {place}
    assert all(p.grad is None and p.requires_grad for p in teacher.parameters())


@pytest.mark.parametrize("precision", TOLERANCE)
def test_a_resumed_training_goes_on_as_if_in_one_go(device, precision, tmp_path):
    if not supports(device, precision):
        pytest.skip(f"{device} does not multiply in {precision} here")
    data, recipe = small(device), replace(RECIPE, epochs=4, precision=precision)
    recipe = replace(recipe, augment=kd.data.shift(2))
    whole = kd.models.mlp(30, dropout=0.3, seed=1)
    train(whole, data, recipe)

    def stop(row):
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    parts = [kd.models.mlp(30, dropout=0.3, seed=1) for _ in range(2)]
    path = tmp_path / "checkpoint"
    assert train(parts[0], data, recipe, checkpoint=path, on_epoch=stop).interrupted
    again = []
    on_epoch = {"on_epoch": lambda row: again.append(row["epoch"])}
    history = train(parts[1], data, recipe, checkpoint=path, **on_epoch)
    assert again == [3, 4] and len(history.frame) == 4
    assert_alike(parts[1], whole, TOLERANCE[precision] / 10)


def memory():
    gc.collect()
    torch.cuda.synchronize()
    return torch.cuda.memory_allocated()


@pytest.mark.parametrize("augment", [None, kd.data.shift(2)], ids=["as they are", "moved"])
def test_memory_is_as_before_once_the_fit_is_over(cuda, augment):
    data, model, recipe = small(cuda), student().cuda(), replace(RECIPE, augment=augment)

    def work():
        objective = soft()  # holds the teacher's table or copy as long as it lives
        train(model, data, recipe, objective)
        kd.evaluate(model, data.test)
        kd.fit_cohort(student, [objective, soft(1.0)], data, recipe, [1, 2], progress=False)
        model.zero_grad(set_to_none=True)

    work()  # from here on CUDA has what it keeps for itself
    before = memory()
    for _ in range(3):
        work()
    assert memory() == before


@pytest.mark.parametrize("precision", TOLERANCE)
@pytest.mark.parametrize(
    "change",
    [{}, {"augment": kd.data.shift(2) + kd.data.flip()}, {"optimizer": "adam", "max_norm": 2.0}],
    ids=str,
)
def test_the_steps_of_an_epoch_do_not_wait_for_the_gpu(cuda, precision, change):
    """The host waits equally often, however many steps an epoch has."""
    if not supports(cuda, precision):
        pytest.skip(f"{cuda} does not multiply in {precision} here")
    data = replace(small(cuda), validation=None)
    objective = soft() + 0.1 * kd.LogitMatching(student(seed=0))
    recipe = replace(RECIPE, epochs=1, precision=precision, **change)

    def work(batch_size):
        train(student(), data, replace(recipe, batch_size=batch_size), objective)

    work(100)
    assert waits(lambda: work(10)) == waits(lambda: work(100)) > 0  # 20 steps, and 2


def test_the_optimizer_is_one_kernel(cuda):
    with profile(activities=[ProfilerActivity.CPU]) as record:
        train(student(), small(cuda), replace(RECIPE, iterations=3))
    fused = [event for event in record.key_averages() if event.key == "aten::_fused_sgd_"]
    assert sum(event.count for event in fused) == 3


def test_an_evaluation_is_that_of_the_cpu(device):
    data, model = small("cpu"), student()
    train(model, data)
    here = kd.evaluate(model, data.test)
    there = kd.evaluate(copy.deepcopy(model).to(device), small(device).test)
    assert there.errors == here.errors
    assert there.loss == pytest.approx(here.loss, abs=1e-4)
    assert there.ece == pytest.approx(here.ece, abs=1e-3)


def test_keep_stores_and_loads(device, capsys):
    pytest.importorskip("safetensors")
    first = kd.keep(student, soft(), small(device), RECIPE, seed=3)
    second = kd.keep(student, soft(), small(device), RECIPE, seed=3)
    assert weights_hash(first) == weights_hash(second)
    assert capsys.readouterr().out.count("loaded a network trained earlier") == 1


def test_the_callers_generators_are_as_they_were(device):
    backend = getattr(torch, device)
    torch.ones(1, device=device)  # in use
    before = backend.get_rng_state()
    train(kd.models.mlp(20, dropout=0.5), small(device), replace(RECIPE, augment=kd.data.shift(1)))
    torch.testing.assert_close(backend.get_rng_state(), before)


def on_features(name):
    teacher = kd.models.resnet(8, width=4, channels=1, seed=0)
    ends = ("stem", "stage1"), ("stage1", "stage2")
    return {
        "hint": lambda: kd.Hint(teacher, hint="stage1", guided="stage1"),
        "fsp": lambda: kd.FSP(teacher, pairs=[(e, e) for e in ends], shuffle_seed=1),
        "joint": lambda: kd.CrossEntropy() + 0.1 * kd.Hint(teacher, hint="stage2", guided="stage2"),
    }[name]()


@pytest.mark.parametrize("name", ["hint", "fsp", "joint"])
@pytest.mark.parametrize("augment", [None, kd.data.shift(2)], ids=["as they are", "moved"])
def test_objectives_on_features_train_and_do_not_wait_for_the_gpu(cuda, name, augment):
    data = replace(small(cuda), validation=None)
    recipe = replace(RECIPE, epochs=1, learning_rate=1e-4, augment=augment)

    def work(batch_size):
        net = kd.models.resnet(8, width=4, channels=1, seed=1)
        history = train(net, data, replace(recipe, batch_size=batch_size), on_features(name))
        assert history.frame.iloc[-1, 3] > 0

    work(100)
    assert waits(lambda: work(10)) == waits(lambda: work(100)) > 0  # 20 steps, and 2
