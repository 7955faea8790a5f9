"""kdlib/models/: the sizes that the papers print, and starts that depend on the seed alone."""

import copy
import math
from dataclasses import replace

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
    "wide_resnet": lambda seed: kd.models.wide_resnet(10, dropout=0.3, seed=seed),
    "preact_resnet": lambda seed: kd.models.preact_resnet(8, seed=seed),
    "bottlenecks": lambda seed: kd.models.preact_resnet(11, width=4, bottleneck=True, seed=seed),
    "densenet": lambda seed: kd.models.densenet(10, growth=4, dropout=0.2, seed=seed),
    "residual_student": lambda seed: kd.models.residual_student(dense(), seed=seed),
    "lstm": lambda seed: kd.models.lstm(20, width=8, dropout=0.5, seed=seed),
}


def transfer(*arguments, **named):
    pytest.importorskip("torchvision")
    return kd.models.resnet_for_transfer(*arguments, **named)


def dense(seed=0, **options):
    return kd.models.densenet(10, **({"growth": 4, "channels": 1} | options), seed=seed)


def bottlenecks(depth):
    return kd.models.preact_resnet(depth, bottleneck=True)


def counted(build, *arguments, **named):
    """The parameters of a network too large to be drawn."""
    with torch.device("meta"):
        return size(build(*arguments, **named))


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


@pytest.mark.parametrize(
    ("width", "parameters", "millions"),
    [(1, 375_348, 0.38), (2, 1_479_220, 1.48), (5, 9_161_524, 9.16), (10, 36_536_884, 36.54)],
)
def test_a_wide_resnet_28_has_the_parameters_of_the_born_again_paper(width, parameters, millions):
    found = counted(kd.models.wide_resnet, 28, width, classes=100)
    assert found == parameters
    assert round(found / 1e6, 2) == millions


def test_a_wide_resnet_28_10_has_the_parameters_of_its_paper():
    assert counted(kd.models.wide_resnet, 28, width=10) == 36_479_194


@pytest.mark.parametrize(
    ("depth", "growth", "parameters", "millions"),
    [(100, 12, 769_162, 0.8), (250, 24, 15_324_406, 15.3), (190, 40, 25_624_430, 25.6)],
)
def test_a_densenet_has_the_parameters_of_its_paper(depth, growth, parameters, millions):
    found = counted(kd.models.densenet, depth, growth)
    assert found == parameters
    assert round(found / 1e6, 1) == millions


@pytest.mark.parametrize(("depth", "millions"), [(164, 1.7), (1001, 10.3)])
def test_a_preact_resnet_of_bottlenecks_has_the_parameters_of_its_paper(depth, millions):
    found = counted(kd.models.preact_resnet, depth, bottleneck=True)
    assert round(found / 1e6, 1) == pytest.approx(millions)
    assert depth != 164 or found == 1_703_258


@pytest.mark.parametrize(("layers", "parameters"), [(2, 51_034_000), (1, 33_022_000)])
def test_an_lstm_has_the_parameters_of_one_embedding_and_its_layers(layers, parameters):
    words, width = 10_000, 1500
    assert parameters == words * width + words + layers * (8 * width * width + 8 * width)
    assert counted(kd.models.lstm, words, width, layers=layers) == parameters


@pytest.mark.parametrize(
    ("build", "layers"),
    [
        (lambda: kd.models.wide_resnet(10), 10 - 2),
        (lambda: kd.models.wide_resnet(16, 2), 16 - 2),
        (lambda: kd.models.preact_resnet(8), 8),
        (lambda: kd.models.preact_resnet(14), 14),
        (lambda: bottlenecks(11), 11),
        (lambda: bottlenecks(20), 20),
        (lambda: kd.models.densenet(10, growth=4), 10),
        (lambda: kd.models.densenet(22, growth=4), 22),
    ],
)
def test_preactivation_and_dense_networks_have_the_layers_of_their_depth(build, layers):
    """Shortcuts apart, of which a wide network's depth counts two."""
    found = [
        name
        for name, module in build().named_modules()
        if isinstance(module, (nn.Conv2d, nn.Linear)) and "shortcut" not in name
    ]
    assert len(found) == layers


@pytest.mark.parametrize("side", [28, 32])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("build", "widths", "halved"),
    [
        (lambda **of: kd.models.wide_resnet(10, 2, **of), [16, 32, 64, 128], [0, 0, 1, 2]),
        (lambda **of: kd.models.preact_resnet(8, 4, **of), [4, 4, 8, 16], [0, 0, 1, 2]),
        (
            lambda **of: kd.models.preact_resnet(11, 4, bottleneck=True, **of),
            [4, 16, 32, 64],
            [0, 0, 1, 2],
        ),
        (lambda **of: kd.models.densenet(16, 4, **of), [8, 8, 8, 16], [0, 1, 2, 2]),
        (
            lambda **of: kd.models.residual_student(kd.models.densenet(16, 4, **of), 2),
            [8, 8, 8, 16],
            [0, 0, 1, 2],
        ),
    ],
    ids=["wide", "preact", "bottlenecks", "dense", "student"],
)
def test_preactivation_and_dense_networks_take_both_image_sizes_and_halve_them_twice(
    build, widths, halved, side, channels
):
    net = build(channels=channels, classes=7).eval()
    stages = ["stem", "stage1", "stage2", "stage3"]
    with torch.no_grad(), kd.taps(net, stages) as features:
        assert net(torch.randn(2, channels, side, side)).shape == (2, 7)
    for name, width, times in zip(stages, widths, halved, strict=True):
        assert features[name].shape == (2, width, side // 2**times, side // 2**times)


@pytest.mark.parametrize("bottleneck", [False, True])
def test_a_preactivation_block_adds_its_residual_and_nothing_comes_after_the_sum(bottleneck):
    net = kd.models.preact_resnet(11 if bottleneck else 8, 4, bottleneck).eval()
    first = net.stage2[0]
    x = -torch.rand(2, first.norms[0].num_features, 8, 8)
    assert first(x).abs().max() == 0  # norm and ReLU come first, on the shortcut's way, too
    same = kd.models.preact_resnet(20 if bottleneck else 14, 4, bottleneck).eval().stage1[1]
    x = -torch.rand(2, same.norms[0].num_features, 8, 8)
    assert torch.equal(same(x), x)  # silent where no input is positive, and x as it was
    assert not torch.allclose(same(-x), -x)


def test_every_layer_of_a_dense_block_sees_all_before_it_and_adds_its_growth():
    net = kd.models.densenet(22, growth=5).eval()
    x = torch.randn(2, 10, 6, 6)
    for i in range(3):
        layer = getattr(net.stage1, f"layer{i + 1}")
        assert layer.norm1.num_features == 10 + 5 * i
        after = layer(x)
        assert torch.equal(after[:, : x.shape[1]], x)
        assert after.shape[1] == x.shape[1] + 5
        x = after
    halved = net.stage1.transition(x)
    assert halved.shape == (2, 12, 3, 3)
    assert not hasattr(net.stage3, "transition")


@pytest.mark.parametrize("depth", [90, 80])
def test_the_born_again_depths_of_densenets_take_the_whole_part(depth):
    with torch.device("meta"):
        net = kd.models.densenet(depth, growth=4)
    assert len([name for name, _ in net.stage3.named_children()]) == (depth - 4) // 6


def zeros(features):
    return (features == 0).float().mean().item()


def test_a_wide_resnet_drops_between_the_convolutions_of_a_block_in_training_alone():
    silent, whole = kd.models.wide_resnet(10, dropout=1.0), kd.models.wide_resnet(10)
    x = torch.rand(2, 16, 8, 8)
    for mode in (True, False):
        found, expected = silent.train(mode).stage1[0](x), whole.train(mode).stage1[0](x)
        assert torch.equal(found, x if mode else expected)
        assert not torch.allclose(expected, x)


def test_a_densenet_drops_what_a_layer_adds_in_training_alone():
    silent, whole = dense(dropout=1.0), dense()
    x = torch.rand(2, 8, 6, 6)
    for mode in (True, False):
        found = silent.train(mode).stage1.layer1(x)
        expected = whole.train(mode).stage1.layer1(x)
        assert torch.equal(found[:, :8], x)
        assert torch.equal(found[:, 8:], torch.zeros(2, 4, 6, 6) if mode else expected[:, 8:])
        assert expected[:, 8:].abs().max() > 0


def test_an_lstm_drops_before_between_and_after_its_layers_in_training_alone():
    net, tokens = kd.models.lstm(50, width=40, dropout=0.3), torch.arange(50).repeat(20, 1)
    seen = []
    net.lstm.register_forward_pre_hook(lambda module, inputs: seen.append(zeros(inputs[0])))
    net.head.register_forward_pre_hook(lambda module, inputs: seen.append(zeros(inputs[0])))
    with kd.seeded(0):
        net(tokens)
        assert seen == pytest.approx([0.3, 0.3], abs=0.02)
        assert net.lstm.dropout == 0.3
        seen.clear()
        net.eval()(tokens)
    assert seen == [0, 0]
    assert kd.models.lstm(50, layers=1, width=40, dropout=0.3).lstm.dropout == 0


# The language model


def test_an_lstm_starts_with_small_uniform_embeddings_and_says_a_logit_a_token():
    net = kd.models.lstm(500, width=30, seed=3)
    weights = net.embedding.weight
    assert weights.abs().max() < 0.1
    assert weights.std().item() == pytest.approx(0.2 / math.sqrt(12), rel=0.02)
    assert not net.head.bias.any()
    assert net(torch.randint(0, 500, (4, 7))).shape == (4, 7, 500)


def test_an_lstm_looks_at_no_token_to_come():
    net, tokens = kd.models.lstm(9, width=6), torch.arange(9).repeat(2, 1)
    later = tokens.clone()
    later[:, 5:] = 0
    first, second = net(tokens), net(later)
    assert torch.equal(first[:, :5], second[:, :5])
    assert not torch.allclose(first[:, 6:], second[:, 6:])


@pytest.mark.parametrize("tokens", [torch.zeros(3).long(), torch.zeros(2, 3)])
def test_an_lstm_takes_rows_of_whole_numbers_only(tokens):
    with pytest.raises(ValueError, match=r"tokens must be integers \(N, L\), got torch"):
        kd.models.lstm(5, width=4)(tokens)


def test_an_lstms_embedding_and_last_layer_are_one_tensor_also_in_a_copy():
    net = kd.models.lstm(20, width=8)
    for model in (net, copy.deepcopy(net), copy.deepcopy(net).double()):
        assert model.head.weight is model.embedding.weight
    twin = kd.models.lstm(20, width=8, seed=1)
    twin.load_state_dict(net.state_dict())
    assert twin.head.weight is twin.embedding.weight
    assert equal(twin, net)


def test_an_lstm_goes_on_from_call_to_call_only_where_it_is_told_to():
    net, tokens = kd.models.lstm(20, width=8), torch.randint(0, 20, (3, 12))
    whole, pieces = net(tokens), tokens.split([5, 4, 3], dim=1)
    close = torch.testing.assert_close
    for _ in range(2):
        net.begin_text(carry=True)
        close(torch.cat([net(piece) for piece in pieces], 1), whole)
    net.begin_text(carry=False)
    assert torch.equal(net(tokens), whole) and torch.equal(net(tokens), whole)
    apart = torch.cat([net(piece) for piece in pieces], 1)
    assert (apart - whole)[:, 5:].abs().max() > 1e-5


def test_no_gradient_reaches_what_was_read_before():
    net, tokens, seen = kd.models.lstm(20, width=8), torch.randint(0, 20, (3, 10)), []
    net.embedding.register_forward_hook(lambda module, inputs, output: seen.append(output))
    net.begin_text(carry=True)
    for piece in tokens.split(5, dim=1):
        logits = net(piece)
        seen[-1].retain_grad()
    logits[:, -1].sum().backward()
    first, second = (features.grad for features in seen)
    assert first is None
    assert second[:, 0].abs().max() > 0  # but all the way through its own piece


def test_an_lstm_in_the_middle_of_a_text_takes_no_other_number_of_rows():
    net, tokens = kd.models.lstm(20, width=8), torch.zeros(3, 4).long()
    net.begin_text(carry=True)
    net(tokens)
    with pytest.raises(ValueError, match=r"continue the 3 rows .*got 2; begin_text"):
        net(tokens[:2])
    net.begin_text(carry=True)
    net(tokens[:2])


def test_an_lstm_refuses_a_token_beyond_its_vocabulary_by_name():
    with pytest.raises(ValueError, match=r"^tokens must be from 0 to 19, got 3 to 20; .*classes"):
        kd.models.lstm(20, width=8)(torch.tensor([[3, 20]]))


# Networks that share their ends


def test_a_residual_student_has_its_teachers_channels_after_every_stage():
    teacher = kd.models.densenet(22, growth=6, channels=1, classes=7)
    student = kd.models.residual_student(teacher, blocks=2, seed=1)
    stages = ["stem", "stage1", "stage2", "stage3"]
    found = []
    for net in (teacher, student):
        with torch.no_grad(), kd.taps(net.eval(), stages) as features:
            assert net(torch.randn(2, 1, 28, 28)).shape == (2, 7)
        found.append([features[name].shape[1] for name in stages])
    assert found[0] == found[1]
    assert [len(getattr(student, name)) for name in stages[1:]] == [2, 2, 2]


def test_shared_ends_are_copies_and_frozen_and_the_rest_stays_as_it_was():
    teacher, student = dense(seed=1), kd.models.residual_student(dense(), seed=2)
    fresh = kd.models.residual_student(dense(), seed=2)
    assert not torch.equal(student.stem.weight, teacher.stem.weight)
    assert kd.models.share_ends(student, teacher) is student
    ends = [name for name, p in student.named_parameters() if not p.requires_grad]
    assert ends == ["stem.weight", "head.weight", "head.bias"]
    for name, tensor in student.state_dict().items():
        source = teacher if name in ends else fresh
        assert torch.equal(tensor, source.state_dict()[name])
    assert all(p.requires_grad for p in teacher.parameters())
    with torch.no_grad():
        teacher.stem.weight.zero_()
    assert student.stem.weight.any()


def test_shared_ends_stay_bit_for_bit_through_a_training_with_weight_decay(digits):
    teacher = dense(seed=1)
    student = kd.models.share_ends(kd.models.residual_student(teacher, seed=2), teacher)
    before, data = copy.deepcopy(student.state_dict()), replace(digits, validation=None).limit(60)
    recipe = kd.Recipe(iterations=3, batch_size=20, weight_decay=0.1, precision="float32")
    kd.fit(student, kd.SoftTargets(teacher, 1, 1), data, recipe, progress=False)
    for name, weights in student.named_parameters():
        unmoved = torch.equal(weights, before[name])
        assert unmoved == name.startswith(("stem", "head")), name
        assert not unmoved or torch.equal(weights, teacher.state_dict()[name])


@pytest.mark.parametrize(
    ("student", "layer"),
    [
        (lambda: kd.models.residual_student(dense(growth=5)), "stem"),
        (lambda: kd.models.residual_student(dense(channels=3)), "stem"),
        (lambda: kd.models.residual_student(dense(classes=7)), "head"),
        (lambda: kd.models.mlp(8), "stem"),
    ],
)
def test_ends_of_other_shapes_cannot_be_shared(student, layer):
    with pytest.raises(ValueError, match=f"student must have the teacher's {layer}, .*, got "):
        kd.models.share_ends(student(), dense())


def test_a_residual_student_needs_a_dense_teacher():
    with pytest.raises(TypeError, match=r"built by kd\.models\.densenet, got Sequential"):
        kd.models.residual_student(kd.models.mlp(8))


@pytest.mark.parametrize(
    ("build", "depth", "message"),
    [
        *((kd.models.wide_resnet, depth, "6n \\+ 4") for depth in (0, 4, 8, 27, 28.0)),
        *((kd.models.preact_resnet, depth, "6n \\+ 2") for depth in (2, 11, 18, "8")),
        *((bottlenecks, depth, "9n \\+ 2") for depth in (2, 8, 1000)),
        *((kd.models.densenet, depth, "at least 10") for depth in (0, 9, 100.0, None)),
    ],
)
def test_a_depth_that_cannot_be_is_refused_with_those_that_can(build, depth, message):
    growth = {"growth": 4} if build is kd.models.densenet else {}
    with pytest.raises(ValueError, match=f"depth must be .*{message}.*, got {depth!r}"):
        build(depth, **growth)


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
        (lambda: kd.models.wide_resnet(10, width=0), "width"),
        (lambda: kd.models.wide_resnet(10, dropout=1.5), "dropout"),
        (lambda: kd.models.wide_resnet(10, channels=0), "channels"),
        (lambda: kd.models.preact_resnet(8, width=1.5), "width"),
        (lambda: kd.models.preact_resnet(8, classes=0), "classes"),
        (lambda: kd.models.densenet(10, growth=0), "growth"),
        (lambda: kd.models.densenet(10, growth=4, dropout=-0.1), "dropout"),
        (lambda: kd.models.densenet(10, growth=4, classes=True), "classes"),
        (lambda: kd.models.residual_student(dense(), blocks=0), "blocks"),
        (lambda: kd.models.lstm(0), "vocabulary"),
        (lambda: kd.models.lstm(9, width=0), "width"),
        (lambda: kd.models.lstm(9, layers=0), "layers"),
        (lambda: kd.models.lstm(9, dropout=2), "dropout"),
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
