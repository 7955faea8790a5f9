"""kdlib/models.py: the sizes that the papers print, and starts that depend on the seed alone."""

import math

import pytest
import torch
from torch import nn

import kdlib as kd
from kdlib.taps import reach

BUILDERS = {
    "mlp": lambda seed: kd.models.mlp(16, dropout=0.5, seed=seed),
    "anNet_deep": lambda seed: kd.models.anNet_deep(seed=seed),
    "anNet": lambda seed: kd.models.anNet(seed=seed),
    "resnet": lambda seed: kd.models.resnet(8, seed=seed),
    "fitnets_teacher": lambda seed: kd.models.fitnets_teacher(seed=seed),
    "fitnets_student": lambda seed: kd.models.fitnets_student(seed=seed),
    "resnet_for_transfer": lambda seed: transfer(20, classes=3, seed=seed),
}


def transfer(*arguments, **named):
    pytest.importorskip("torchvision")
    return kd.models.resnet_for_transfer(*arguments, **named)


def size(net):
    return sum(parameter.numel() for parameter in net.parameters())


def equal(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(
    ("width", "parameters"), [(1200, 2_395_210), (800, 1_276_810), (300, 328_810), (30, 24_790)]
)
def test_an_mlp_has_the_parameters_of_the_paper(width, parameters):
    assert size(kd.models.mlp(width)) == parameters


def test_the_blogs_networks_have_the_parameters_of_its_code():
    teacher = kd.models.anNet_deep()
    assert size(teacher) == 322_506
    assert sum(buffer.numel() for buffer in teacher.buffers()) == 772
    assert size(kd.models.anNet()) == 37_570


@pytest.mark.parametrize(("depth", "parameters"), [(8, 75_290), (14, 172_506), (26, 366_938)])
def test_a_resnet_of_width_16_has_the_parameters_of_the_fsp_paper(depth, parameters):
    assert size(kd.models.resnet(depth)) == parameters


@pytest.mark.parametrize(("depth", "millions"), [(14, 2.76), (32, 7.41)])
def test_a_resnet_of_width_64_has_the_parameters_of_the_cifar_100_table(depth, millions):
    assert round(size(kd.models.resnet(depth, width=64, classes=100)) / 1e6, 2) == millions


def test_the_fitnets_networks_have_the_parameters_of_the_paper():
    assert size(kd.models.fitnets_teacher()) == 361_066
    assert size(kd.models.fitnets_student()) == 30_130


@pytest.mark.parametrize("depth", [8, 14, 20])
def test_a_resnets_depth_counts_its_convolutions_and_the_last_layer(depth):
    net = kd.models.resnet(depth, width=2)
    layers = [m for m in net.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert len(layers) == depth


def test_an_mlp_is_hidden_layers_with_dropout_and_a_last_layer_without():
    net = kd.models.mlp(7, depth=3, dropout=0.25, inputs=12, classes=4)
    kinds = [type(layer).__name__ for layer in net]
    assert kinds == ["Flatten", *["Linear", "ReLU", "Dropout"] * 3, "Linear"]
    assert [layer.p for layer in net if isinstance(layer, nn.Dropout)] == [0.25] * 3
    assert net(torch.zeros(5, 1, 3, 4)).shape == (5, 4)


def test_an_mlp_of_depth_0_is_a_linear_classifier():
    assert [type(layer).__name__ for layer in kd.models.mlp(7, depth=0)] == ["Flatten", "Linear"]


@pytest.mark.parametrize("side", [28, 32])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_resnet_takes_both_image_sizes_and_halves_them_twice(side, channels):
    net = kd.models.resnet(8, channels=channels, classes=7).eval()
    shapes, names = (
        {},
        {getattr(net, name): name for name in ("stem", "stage1", "stage2", "stage3")},
    )

    def note(module, inputs, output):
        shapes[names[module]] = output.shape

    for module in names:
        module.register_forward_hook(note)
    assert net(torch.randn(2, channels, side, side)).shape == (2, 7)
    half, quarter = side // 2, side // 4
    assert shapes == {
        "stem": (2, 16, side, side),
        "stage1": (2, 16, side, side),
        "stage2": (2, 32, half, half),
        "stage3": (2, 64, quarter, quarter),
    }


def test_a_resnets_shortcut_is_the_input_thinned_out_and_padded_with_zeros():
    net = kd.models.resnet(8, width=2).eval()
    block = net.stage2[0]
    nn.init.zeros_(block.norm2.weight)  # silences the residual
    x = torch.rand(1, 2, 6, 6)
    assert torch.equal(block(x)[:, :2], x[:, :, ::2, ::2])
    assert torch.equal(block(x)[:, 2:], torch.zeros(1, 2, 3, 3))


def test_the_blogs_networks_take_28_by_28_images():
    images = torch.randn(3, 1, 28, 28)
    assert kd.models.anNet_deep(classes=5)(images).shape == (3, 5)
    assert kd.models.anNet(classes=5)(images).shape == (3, 5)


@pytest.mark.parametrize(
    ("build", "sizes"),
    [
        (kd.models.fitnets_teacher, [(48, 21, 10), (48, 9, 4), (24, 6, 3)]),
        (
            kd.models.fitnets_student,
            [(16, 24, 24), (16, 22, 10), (16, 12, 12), (16, 10, 4), (12, 8, 8), (12, 6, 3)],
        ),
    ],
)
def test_the_fitnets_layers_have_the_sizes_of_the_authors_settings(build, sizes):
    net = build(classes=7)
    names = [f"layer{i + 1}" for i in range(len(sizes))]
    # The second module of a layer is its Maxout, the last one its pool if it has one.
    with kd.taps(net, [*names, *(f"{name}.1" for name in names)]) as features:
        assert net(torch.randn(2, 1, 28, 28)).shape == (2, 7)
    for name, (units, before, after) in zip(names, sizes, strict=True):
        assert features[f"{name}.1"].shape == (2, units, before, before)
        assert features[name].shape == (2, units, after, after)


def test_the_fitnets_hint_and_guided_layers_are_of_one_size():
    teacher, student = kd.models.fitnets_teacher(), kd.models.fitnets_student()
    images = torch.randn(2, 1, 28, 28)
    hint = reach(teacher, images, ["layer2"])["layer2"]
    guided = reach(student, images, ["layer4"])["layer4"]
    assert hint.shape == (2, 48, 4, 4)
    assert guided.shape == (2, 16, 4, 4)


def test_the_fitnets_teacher_drops_a_fifth_of_the_inputs_and_half_of_each_layer():
    teacher, student = kd.models.fitnets_teacher(), kd.models.fitnets_student()
    drops = {
        name: module.p for name, module in teacher.named_modules() if isinstance(module, nn.Dropout)
    }
    assert drops == {"input": 0.2, "dropout1": 0.5, "dropout2": 0.5, "dropout3": 0.5}
    assert next(iter(drops)) == next(name for name, _ in teacher.named_children())
    assert not any(isinstance(module, nn.Dropout) for module in student.modules())


def test_the_fitnets_networks_take_other_channels_and_classes():
    for build in (kd.models.fitnets_teacher, kd.models.fitnets_student):
        assert build(channels=3, classes=4)(torch.randn(2, 3, 28, 28)).shape == (2, 4)


def test_maxout_is_the_largest_of_neighbouring_channels():
    x = torch.randn(2, 6, 3, 4)
    found = kd.models.Maxout(3)(x)
    assert found.shape == (2, 2, 3, 4)
    for unit in range(2):
        assert torch.equal(found[:, unit], x[:, 3 * unit : 3 * unit + 3].max(1).values)
    assert torch.equal(kd.models.Maxout(1)(x), x)


def test_maxout_passes_the_gradient_to_the_largest_piece_alone():
    x = torch.tensor([[1.0, 3.0, -2.0, -1.0]], requires_grad=True)
    kd.models.Maxout(2)(x).sum().backward()
    assert x.grad.tolist() == [[0, 1, 0, 1]]


def test_maxout_refuses_channels_that_are_no_multiple_of_its_pieces():
    with pytest.raises(RuntimeError):
        kd.models.Maxout(2)(torch.zeros(1, 3))


def test_maxout_shows_its_pieces():
    assert repr(kd.models.Maxout(2)) == "Maxout(pieces=2)"


def test_a_resnet_for_transfer_of_34_layers_is_torchvisions():
    resnet34 = pytest.importorskip("torchvision").models.resnet34
    ours, theirs = transfer(34).state_dict(), resnet34().state_dict()
    assert list(ours) == list(theirs)
    assert [w.shape for w in ours.values()] == [w.shape for w in theirs.values()]


@pytest.mark.parametrize(("depth", "blocks"), [(34, [3, 4, 6, 3]), (20, [2, 2, 3, 2])])
def test_a_resnet_for_transfer_has_the_blocks_and_layers_of_the_fsp_paper(depth, blocks):
    net = transfer(depth)
    assert [len(getattr(net, f"layer{i}")) for i in (1, 2, 3, 4)] == blocks
    weighted = [
        module
        for name, module in net.named_modules()
        if isinstance(module, (nn.Conv2d, nn.Linear)) and "downsample" not in name
    ]
    assert len(weighted) == depth
    assert size(net) == {34: 21_797_672, 20: 12_870_184}[depth]


def test_a_resnet_for_transfer_halves_its_maps_from_stage_to_stage():
    net, stages = transfer(20, classes=5).eval(), ["maxpool", *(f"layer{i}" for i in (1, 2, 3, 4))]
    with torch.no_grad(), kd.taps(net, stages) as features:
        assert net(torch.randn(1, 3, 64, 64)).shape == (1, 5)
    shapes = [tuple(features[name].shape[1:]) for name in stages]
    assert shapes == [(64, 16, 16), (64, 16, 16), (128, 8, 8), (256, 4, 4), (512, 2, 2)]


@pytest.fixture
def imagenet(monkeypatch):
    """What torchvision would download, and how it was asked for."""
    weights = pytest.importorskip("torchvision").models.ResNet34_Weights
    stored, asked = transfer(34, seed=9).state_dict(), []

    def get(choice, **how):
        asked.append((choice, how))
        return {name: tensor.clone() for name, tensor in stored.items()}

    monkeypatch.setattr(weights, "get_state_dict", get)
    yield stored
    assert asked == [(weights.IMAGENET1K_V1, {"progress": False, "check_hash": True})]


def test_a_pretrained_resnet_has_the_weights_of_imagenet(imagenet):
    found = transfer(34, pretrained=True).state_dict()
    assert all(torch.equal(found[name], imagenet[name]) for name in imagenet)


def test_a_pretrained_resnet_for_other_classes_has_a_new_classifier(imagenet):
    found, fresh = (transfer(34, 200, pretrained=p, seed=4).state_dict() for p in (True, False))
    for name, tensor in found.items():
        assert torch.equal(tensor, (fresh if name.startswith("fc.") else imagenet)[name])


@pytest.mark.parametrize("depth", [0, 18, 26, "34", None])
def test_a_resnet_for_transfer_of_another_depth_is_refused(depth):
    with pytest.raises(ValueError, match=f"depth must be 34 or 20, got {depth!r}"):
        transfer(depth)


def test_no_weights_are_offered_for_20_layers():
    with pytest.raises(ValueError, match="pretrained must be False for depth 20"):
        transfer(20, pretrained=True)


@pytest.mark.parametrize("name", ["anNet_deep", "anNet"])
def test_the_blogs_initialisation_is_really_called(name):
    for module in BUILDERS[name](0).modules():
        if isinstance(module, nn.Conv2d):
            fan_in, fan_out = module.in_channels * 9, module.out_channels * 9
            xavier = math.sqrt(2 / (fan_in + fan_out))
            n = module.weight.numel()  # 54 at the least: the spread of a deviation is 1 / sqrt(2n)
            assert module.weight.std().item() == pytest.approx(xavier, rel=4 / math.sqrt(2 * n))
        if isinstance(module, nn.Linear):
            assert module.weight.std().item() == pytest.approx(0.01, rel=0.02)
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            assert not module.bias.any()


def test_a_resnets_convolutions_start_as_he_et_al_have_it():
    convolutions = [m for m in kd.models.resnet(14).modules() if isinstance(m, nn.Conv2d)]
    for module in convolutions:
        he = math.sqrt(2 / (9 * module.out_channels))
        n = module.weight.numel()
        assert module.bias is None
        assert module.weight.std().item() == pytest.approx(he, rel=4 / math.sqrt(2 * n))


def test_an_mlp_starts_as_torch_draws_a_linear_layer():
    net = kd.models.mlp(16, seed=5)
    with kd.seeded(5):
        first, second, third = nn.Linear(784, 16), nn.Linear(16, 16), nn.Linear(16, 10)
    assert equal(net, nn.Sequential(nn.Flatten(), first, nn.ReLU(), second, nn.ReLU(), third))


@pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS)
def test_one_seed_gives_one_start_whatever_was_drawn_before(build):
    torch.manual_seed(1)
    first = build(4)
    torch.manual_seed(2)
    torch.randn(1000)
    assert equal(first, build(4))
    assert not equal(first, build(5))


@pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS)
def test_building_does_not_move_the_callers_generator(build):
    torch.manual_seed(1)
    build(4)
    found = torch.rand(5)
    torch.manual_seed(1)
    assert torch.equal(found, torch.rand(5))


@pytest.mark.parametrize(
    ("build", "argument"),
    [
        (lambda: kd.models.mlp(0), "width"),
        (lambda: kd.models.mlp(True), "width"),
        (lambda: kd.models.mlp(16.0), "width"),
        (lambda: kd.models.mlp(16, depth=-1), "depth"),
        (lambda: kd.models.mlp(16, depth=1.5), "depth"),
        (lambda: kd.models.mlp(16, inputs=0), "inputs"),
        (lambda: kd.models.mlp(16, classes=0), "classes"),
        (lambda: kd.models.mlp(16, dropout=1.1), "dropout"),
        (lambda: kd.models.mlp(16, dropout=-0.1), "dropout"),
        (lambda: kd.models.mlp(16, seed=-1), "seed"),
        (lambda: kd.models.anNet(classes=0), "classes"),
        (lambda: kd.models.anNet_deep(classes=-3), "classes"),
        (lambda: kd.models.resnet(8, width=0), "width"),
        (lambda: kd.models.resnet(8, channels=0), "channels"),
        (lambda: kd.models.resnet(8, classes=0), "classes"),
        (lambda: kd.models.resnet(8.0), "depth"),
        (lambda: kd.models.fitnets_teacher(channels=0), "channels"),
        (lambda: kd.models.fitnets_teacher(classes=1.5), "classes"),
        (lambda: kd.models.fitnets_student(channels=-1), "channels"),
        (lambda: kd.models.fitnets_student(classes=0), "classes"),
        (lambda: kd.models.Maxout(0), "pieces"),
        (lambda: kd.models.Maxout(2.0), "pieces"),
        (lambda: transfer(34, classes=0), "classes"),
    ],
)
def test_a_size_that_cannot_be_is_refused_by_name(build, argument):
    with pytest.raises(ValueError, match=f"^{argument} must be"):
        build()


@pytest.mark.parametrize("depth", [0, 2, 7, 18, 34, 51])
def test_a_resnet_of_another_depth_than_6n_plus_2_is_refused(depth):
    with pytest.raises(ValueError, match=f"6n \\+ 2 .*got {depth}"):
        kd.models.resnet(depth)


@pytest.mark.parametrize("seed", [1.0, "1", None, True])
def test_a_seed_must_be_a_whole_number(seed):
    with pytest.raises(TypeError, match="seed must be a whole number"):
        kd.models.mlp(4, seed=seed)
