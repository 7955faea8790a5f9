"""kdlib/models/: the sizes that the papers print; initial weights depend only on the seed."""

import copy
import math
from dataclasses import replace
from functools import partial
from unittest.mock import Mock
from urllib.error import URLError

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import kdlib as kd
from kdlib import models as m


def transfer(*arguments, **named):
    pytest.importorskip("torchvision")
    return m.resnet_for_transfer(*arguments, **named)


def dense(seed=0, **options):
    return m.densenet(10, **({"growth": 4, "channels": 1} | options), seed=seed)


def bottlenecks(depth, width=16, **options):
    return m.preact_resnet(depth, width, bottleneck=True, **options)


BUILDERS = {
    "mlp": lambda seed: m.mlp(16, dropout=0.5, seed=seed),
    "anNet_deep": lambda seed: m.anNet_deep(seed=seed),
    "anNet": lambda seed: m.anNet(seed=seed),
    "resnet": lambda seed: m.resnet(8, seed=seed),
    "fitnets_teacher": lambda seed: m.fitnets_teacher(seed=seed),
    "fitnets_student": lambda seed: m.fitnets_student(seed=seed),
    "resnet_for_transfer": lambda seed: transfer(20, classes=3, seed=seed),
    "wide_resnet": lambda seed: m.wide_resnet(10, dropout=0.3, seed=seed),
    "preact_resnet": lambda seed: m.preact_resnet(8, seed=seed),
    "bottlenecks": lambda seed: bottlenecks(11, 4, seed=seed),
    "densenet": lambda seed: m.densenet(10, growth=4, dropout=0.2, seed=seed),
    "residual_student": lambda seed: m.residual_student(dense(), seed=seed),
    "lstm": lambda seed: m.lstm(20, width=8, dropout=0.5, seed=seed),
}


def equal(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def weighted(net):
    """Convolutions and linear layers, apart from those of shortcuts."""
    return [
        module
        for name, module in net.named_modules()
        if isinstance(module, (nn.Conv2d, nn.Linear))
        and not {"shortcut", "downsample"} & {*name.split(".")}
    ]


# Sizes


@pytest.mark.parametrize(
    ("build", "parameters", "millions"),
    [
        (lambda: m.mlp(1200), 2_395_210, None),
        (lambda: m.mlp(800), 1_276_810, None),
        (lambda: m.mlp(300), 328_810, None),
        (lambda: m.mlp(30), 24_790, None),
        (m.anNet_deep, 322_506, None),
        (m.anNet, 37_570, None),
        (m.fitnets_teacher, 361_066, None),
        (m.fitnets_student, 30_130, None),
        (lambda: m.resnet(8), 75_290, None),
        (lambda: m.resnet(14), 172_506, None),
        (lambda: m.resnet(26), 366_938, None),
        (lambda: m.resnet(14, width=64, classes=100), None, "2.76"),
        (lambda: m.resnet(32, width=64, classes=100), None, "7.41"),
        (lambda: m.wide_resnet(28, 1, classes=100), 375_348, "0.38"),
        (lambda: m.wide_resnet(28, 2, classes=100), 1_479_220, "1.48"),
        (lambda: m.wide_resnet(28, 5, classes=100), 9_161_524, "9.16"),
        (lambda: m.wide_resnet(28, 10, classes=100), 36_536_884, "36.54"),
        (lambda: m.wide_resnet(28, 10), 36_479_194, None),
        (lambda: m.densenet(100, 12), 769_162, "0.8"),
        (lambda: m.densenet(250, 24), 15_324_406, "15.3"),
        (lambda: m.densenet(190, 40), 25_624_430, "25.6"),
        (lambda: bottlenecks(164), 1_703_258, "1.7"),
        (lambda: bottlenecks(1001), None, "10.3"),
        (lambda: transfer(20), 12_870_184, None),
        # one embedding with a bias for each word, and the gates of each layer
        (lambda: m.lstm(10_000, 1500), 15_010_000 + 2 * (8 * 1500**2 + 8 * 1500), None),
        (lambda: m.lstm(10_000, 1500, layers=1), 15_010_000 + 8 * 1500**2 + 8 * 1500, None),
    ],
)
def test_a_network_has_the_parameters_that_its_paper_or_blog_gives(build, parameters, millions):
    with torch.device("meta"):  # some are too large to be drawn
        found = sum(parameter.numel() for parameter in build().parameters())
    assert parameters in (None, found)
    assert millions is None or f"{found / 1e6:.{len(millions.split('.')[1])}f}" == millions
    if build is m.anNet_deep:  # as in the blog's code
        assert sum(buffer.numel() for buffer in build().buffers()) == 772


@pytest.mark.parametrize(
    ("build", "layers"),
    [
        *((lambda depth=depth: m.resnet(depth, width=2), depth) for depth in (8, 14, 20)),
        # the depth of a wide network counts two of its shortcuts
        (lambda: m.wide_resnet(10), 10 - 2),
        (lambda: m.wide_resnet(16, 2), 16 - 2),
        (lambda: m.preact_resnet(8), 8),
        (lambda: m.preact_resnet(14), 14),
        (lambda: bottlenecks(11), 11),
        (lambda: bottlenecks(20), 20),
        (lambda: dense(), 10),
        (lambda: m.densenet(22, growth=4), 22),
        # the depths of the born-again networks, rounded down to whole dense layers
        (lambda: m.densenet(90, growth=4), 4 + 3 * 2 * 14),
        (lambda: m.densenet(80, growth=4), 4 + 3 * 2 * 12),
        (lambda: m.residual_student(dense(), blocks=2), 1 + 3 * 2 * 2 + 1),
    ],
)
def test_a_network_has_the_layers_of_its_depth(build, layers):
    assert len(weighted(build())) == layers


def student(**options):
    return m.residual_student(m.densenet(16, 4, **options), 2)


@pytest.mark.parametrize("side", [28, 32])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("build", "widths", "halved"),
    [
        (lambda **options: m.resnet(8, **options), [16, 16, 32, 64], [0, 0, 1, 2]),
        (lambda **options: m.wide_resnet(10, 2, **options), [16, 32, 64, 128], [0, 0, 1, 2]),
        (lambda **options: m.preact_resnet(8, 4, **options), [4, 4, 8, 16], [0, 0, 1, 2]),
        (lambda **options: bottlenecks(11, 4, **options), [4, 16, 32, 64], [0, 0, 1, 2]),
        (lambda **options: m.densenet(16, 4, **options), [8, 8, 8, 16], [0, 1, 2, 2]),
        (student, [8, 8, 8, 16], [0, 0, 1, 2]),
    ],
    ids=["resnet", "wide", "preact", "bottlenecks", "dense", "student"],
)
def test_a_network_takes_both_image_sizes_and_halves_them_twice(
    build, widths, halved, side, channels
):
    net = build(channels=channels, classes=7).eval()
    stages = ["stem", "stage1", "stage2", "stage3"]
    with torch.no_grad(), kd.taps(net, stages) as features:
        assert net(torch.randn(2, channels, side, side)).shape == (2, 7)
    for name, width, times in zip(stages, widths, halved, strict=True):
        assert features[name].shape == (2, width, side // 2**times, side // 2**times)


@pytest.mark.parametrize(
    ("build", "channels"),
    [(partial(m.fitnets_teacher, 3), 3), (partial(m.fitnets_student, 3), 3)]
    + [(m.anNet_deep, 1), (m.anNet, 1)],
)
def test_the_networks_of_fitnets_and_the_blog_take_other_channels_and_classes(build, channels):
    assert build(classes=5)(torch.randn(3, channels, 28, 28)).shape == (3, 5)


# Multilayer perceptrons


def test_an_mlp_is_hidden_layers_with_dropout_and_a_last_layer_without():
    net = m.mlp(7, depth=3, dropout=0.25, inputs=12, classes=4)
    kinds = [type(layer).__name__ for layer in net]
    assert kinds == ["Flatten", *["Linear", "ReLU", "Dropout"] * 3, "Linear"]
    assert [layer.p for layer in net if isinstance(layer, nn.Dropout)] == [0.25] * 3
    assert net(torch.zeros(5, 1, 3, 4)).shape == (5, 4)
    assert [type(layer).__name__ for layer in m.mlp(7, depth=0)] == ["Flatten", "Linear"]


def test_an_mlp_starts_as_torch_draws_a_linear_layer():
    net = m.mlp(16, seed=5)
    with kd.seeded(5):
        first, second, third = nn.Linear(784, 16), nn.Linear(16, 16), nn.Linear(16, 10)
    assert equal(net, nn.Sequential(nn.Flatten(), first, nn.ReLU(), second, nn.ReLU(), third))


# FitNets


@pytest.mark.parametrize(
    ("build", "sizes"),
    [
        (m.fitnets_teacher, [(48, 21, 10), (48, 9, 4), (24, 6, 3)]),
        (
            m.fitnets_student,
            [(16, 24, 24), (16, 22, 10), (16, 12, 12), (16, 10, 4), (12, 8, 8), (12, 6, 3)],
        ),
    ],
)
def test_the_fitnets_layers_have_the_sizes_of_the_authors_settings(build, sizes):
    net = build(classes=7)
    names = [f"layer{i + 1}" for i in range(len(sizes))]
    # The second module of a layer is its Maxout, the last one its pooling if it has one.
    with kd.taps(net, [*names, *(f"{name}.1" for name in names)]) as features:
        assert net(torch.randn(2, 1, 28, 28)).shape == (2, 7)
    for name, (units, before, after) in zip(names, sizes, strict=True):
        assert features[f"{name}.1"].shape == (2, units, before, before)
        assert features[name].shape == (2, units, after, after)


def test_the_fitnets_teacher_drops_a_fifth_of_the_inputs_and_half_of_each_layer():
    teacher, student = (
        {name: x.p for name, x in net.named_children() if isinstance(x, nn.Dropout)}
        for net in (m.fitnets_teacher(), m.fitnets_student())
    )
    assert teacher == {"input": 0.2, "dropout1": 0.5, "dropout2": 0.5, "dropout3": 0.5}
    assert next(m.fitnets_teacher().named_children())[0] == "input"
    assert student == {}


def test_maxout_is_the_largest_of_neighbouring_channels():
    x = torch.randn(2, 6, 3, 4)
    found = m.Maxout(3)(x)
    assert found.shape == (2, 2, 3, 4)
    for unit in range(2):
        assert torch.equal(found[:, unit], x[:, 3 * unit : 3 * unit + 3].max(1).values)
    assert torch.equal(m.Maxout(1)(x), x)
    with pytest.raises(RuntimeError):
        m.Maxout(4)(x)
    assert repr(m.Maxout(2)) == "Maxout(pieces=2)"
    x = torch.tensor([[1.0, 3.0, -2.0, -1.0]], requires_grad=True)
    m.Maxout(2)(x).sum().backward()
    assert x.grad.tolist() == [[0, 1, 0, 1]]


# ImageNet


def test_a_resnet_for_transfer_of_34_layers_is_torchvisions():
    resnet34 = pytest.importorskip("torchvision").models.resnet34
    with torch.device("meta"):
        ours, theirs = transfer(34).state_dict(), resnet34().state_dict()
    assert list(ours) == list(theirs)
    assert [w.shape for w in ours.values()] == [w.shape for w in theirs.values()]


def test_a_resnet_for_transfer_of_20_layers_has_the_blocks_of_yim_et_al():
    with torch.device("meta"):
        net = transfer(20)
    assert [len(getattr(net, f"layer{i}")) for i in (1, 2, 3, 4)] == [2, 2, 3, 2]
    assert len(weighted(net)) == 20


def test_a_resnet_for_transfer_halves_its_maps_from_stage_to_stage():
    net, stages = transfer(20, classes=5).eval(), ["maxpool", *(f"layer{i}" for i in (1, 2, 3, 4))]
    with torch.no_grad(), kd.taps(net, stages) as features:
        assert net(torch.randn(1, 3, 64, 64)).shape == (1, 5)
    shapes = [tuple(features[name].shape[1:]) for name in stages]
    assert shapes == [(64, 16, 16), (64, 16, 16), (128, 8, 8), (256, 4, 4), (512, 2, 2)]


@pytest.fixture
def imagenet(monkeypatch):
    """What torchvision would download; the download must be asked for exactly once."""
    weights = pytest.importorskip("torchvision").models.ResNet34_Weights
    stored, asked = transfer(34, seed=9).state_dict(), []

    def get(choice, **how):
        asked.append((choice, how))
        return {name: tensor.clone() for name, tensor in stored.items()}

    monkeypatch.setattr(weights, "get_state_dict", get)
    yield stored
    assert asked == [(weights.IMAGENET1K_V1, {"progress": False, "check_hash": True})]


@pytest.mark.parametrize(("classes", "new"), [(1000, "none"), (200, "fc.")])
def test_a_pretrained_resnet_has_imagenets_weights_but_a_new_classifier_for_other_classes(
    imagenet, classes, new
):
    found = transfer(34, classes, pretrained=True, seed=4).state_dict()
    fresh = transfer(34, classes, seed=4).state_dict()
    for name, tensor in found.items():
        assert torch.equal(tensor, (fresh if name.startswith(new) else imagenet)[name])


def test_without_network_pretrained_weights_are_asked_for_by_file_and_folder(monkeypatch):
    monkeypatch.setattr("torch.hub.urlopen", Mock(side_effect=URLError("no route")))
    with pytest.raises(FileNotFoundError, match=r"no route.*resnet34.*/hub/checkpoints, or set "):
        transfer(34, pretrained=True)


# Residual and dense blocks


def test_a_resnets_shortcut_is_the_subsampled_input_padded_with_zeros():
    block = m.resnet(8, width=2).eval().stage2[0]
    nn.init.zeros_(block.norm2.weight)  # silences the residual
    x = torch.rand(1, 2, 6, 6)
    assert torch.equal(block(x)[:, :2], x[:, :, ::2, ::2])
    assert torch.equal(block(x)[:, 2:], torch.zeros(1, 2, 3, 3))
    assert not block(-x).any()  # a ReLU follows the sum


@pytest.mark.parametrize("bottleneck", [False, True])
def test_a_preactivation_block_adds_its_residual_and_nothing_follows_the_sum(bottleneck):
    first = m.preact_resnet(11 if bottleneck else 8, 4, bottleneck).eval().stage2[0]
    x = -torch.rand(2, first.norms[0].num_features, 8, 8)
    assert first(x).abs().max() == 0  # norm and ReLU come first, on the shortcut, too
    same = m.preact_resnet(20 if bottleneck else 14, 4, bottleneck).eval().stage1[1]
    x = -torch.rand(2, same.norms[0].num_features, 8, 8)
    assert torch.equal(same(x), x)  # the residual is 0 if no input is positive
    assert (same(-x) + x).min() < 0  # no ReLU between the last convolution and the sum


def test_every_layer_of_a_dense_block_reads_all_before_it_and_adds_its_growth():
    net = m.densenet(22, growth=5).eval()
    x = torch.randn(2, 10, 6, 6)
    for i in range(3):
        layer = getattr(net.stage1, f"layer{i + 1}")
        assert layer.norm1.num_features == 10 + 5 * i
        after = layer(x)
        assert torch.equal(after[:, : x.shape[1]], x)
        assert after.shape[1] == x.shape[1] + 5
        x = after
    assert net.stage1.transition(x).shape == (2, 12, 3, 3)
    assert not hasattr(net.stage3, "transition")


@pytest.mark.parametrize(
    ("build", "block"),
    [
        (lambda dropout: m.wide_resnet(10, dropout=dropout), lambda net: net.stage1[0]),
        (lambda dropout: dense(dropout=dropout), lambda net: net.stage1.layer1),
    ],
    ids=["wide_resnet", "densenet"],
)
def test_dropout_silences_what_a_block_adds_only_in_training(build, block):
    silent, whole = build(1.0), build(0.0)
    x = torch.rand(2, whole.stem.out_channels, 8, 8)
    for mode in (True, False):
        found, expected = block(silent.train(mode))(x), block(whole.train(mode))(x)
        nothing_added = F.pad(x, (0, 0, 0, 0, 0, expected.shape[1] - x.shape[1]))
        assert torch.equal(found, nothing_added if mode else expected)
        assert not torch.allclose(expected, nothing_added)


def test_a_wide_resnet_drops_before_the_second_convolution_of_a_block():
    block, seen = m.wide_resnet(10, dropout=1.0).stage1[0], []
    block.convs[1].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    block(torch.rand(2, 16, 8, 8))
    assert len(seen) == 1 and not seen[0].any()


# The language model


def test_an_lstm_drops_before_between_and_after_its_layers_only_in_training():
    net, tokens = m.lstm(50, width=40, dropout=0.3), torch.arange(50).repeat(20, 1)
    zeros = []
    for layer in (net.lstm, net.head):
        layer.register_forward_pre_hook(
            lambda module, inputs: zeros.append((inputs[0] == 0).float().mean().item())
        )
    with kd.seeded(0):
        net(tokens)
        assert zeros == pytest.approx([0.3, 0.3], abs=0.02)
        assert net.lstm.dropout == 0.3
        zeros.clear()
        net.eval()(tokens)
    assert zeros == [0, 0]
    assert m.lstm(50, layers=1, width=40, dropout=0.3).lstm.dropout == 0


def test_an_lstm_starts_with_small_uniform_embeddings_and_gives_logits_for_each_token():
    net = m.lstm(500, width=30, seed=3)
    weights = net.embedding.weight
    assert weights.abs().max() < 0.1
    assert weights.std().item() == pytest.approx(0.2 / math.sqrt(12), rel=0.02)
    assert not net.head.bias.any()
    assert net(torch.randint(0, 500, (4, 7))).shape == (4, 7, 500)


def test_an_lstm_sees_no_future_token():
    net, tokens = m.lstm(9, width=6), torch.arange(9).repeat(2, 1)
    later = tokens.clone()
    later[:, 5:] = 0
    first, second = net(tokens), net(later)
    assert torch.equal(first[:, :5], second[:, :5])
    assert not torch.allclose(first[:, 6:], second[:, 6:])


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (torch.zeros(3).long(), r"integers \(N, L\), got torch.int64 of shape \(3,\)"),
        (torch.zeros(2, 3), r"integers \(N, L\), got torch.float32"),
        (torch.tensor([[3, 20]]), "from 0 to 19, got 3 to 20; .*classes"),
    ],
)
def test_an_lstm_takes_only_rows_of_known_tokens(tokens, message):
    with pytest.raises(ValueError, match=f"^tokens must be {message}"):
        m.lstm(20, width=8)(tokens)


def test_an_lstms_embedding_and_last_layer_are_one_tensor_in_copies_as_well():
    net = m.lstm(20, width=8)
    for model in (net, copy.deepcopy(net), copy.deepcopy(net).double()):
        assert model.head.weight is model.embedding.weight
    twin = m.lstm(20, width=8, seed=1)
    twin.load_state_dict(net.state_dict())
    assert twin.head.weight is twin.embedding.weight
    assert equal(twin, net)


def test_an_lstm_keeps_its_state_from_call_to_call_only_while_it_reads_a_text():
    net, tokens = m.lstm(20, width=8), torch.randint(0, 20, (3, 12))
    whole, pieces = net(tokens), tokens.split([5, 4, 3], dim=1)
    for _ in range(2):
        net.begin_text(carry=True)
        torch.testing.assert_close(torch.cat([net(piece) for piece in pieces], 1), whole)
    net.begin_text(carry=False)
    assert torch.equal(net(tokens), whole) and torch.equal(net(tokens), whole)
    apart = torch.cat([net(piece) for piece in pieces], 1)
    assert (apart - whole)[:, 5:].abs().max() > 1e-5


def test_no_gradient_reaches_the_previous_piece_of_a_text():
    net, tokens, seen = m.lstm(20, width=8), torch.randint(0, 20, (3, 10)), []
    net.embedding.register_forward_hook(lambda module, inputs, output: seen.append(output))
    net.begin_text(carry=True)
    for piece in tokens.split(5, dim=1):
        logits = net(piece)
        seen[-1].retain_grad()
    logits[:, -1].sum().backward()
    first, second = (features.grad for features in seen)
    assert first is None
    assert second[:, 0].abs().max() > 0  # but it reaches all of its own piece


def test_an_lstm_within_a_text_refuses_another_number_of_rows():
    net, tokens = m.lstm(20, width=8), torch.zeros(3, 4).long()
    net.begin_text(carry=True)
    net(tokens)
    with pytest.raises(ValueError, match=r"continue the 3 rows .*got 2; begin_text"):
        net(tokens[:2])
    net.begin_text(carry=True)
    net(tokens[:2])


# Networks that share their ends


def test_shared_ends_are_frozen_copies_and_all_other_weights_stay():
    teacher, student = dense(seed=1), m.residual_student(dense(), seed=2)
    fresh = m.residual_student(dense(), seed=2)
    assert not torch.equal(student.stem.weight, teacher.stem.weight)
    assert m.share_ends(student, teacher) is student
    ends = [name for name, p in student.named_parameters() if not p.requires_grad]
    assert ends == ["stem.weight", "head.weight", "head.bias"]
    for name, tensor in student.state_dict().items():
        source = teacher if name in ends else fresh
        assert torch.equal(tensor, source.state_dict()[name])
    assert all(p.requires_grad for p in teacher.parameters())
    with torch.no_grad():
        teacher.stem.weight.zero_()
    assert student.stem.weight.any()


def test_shared_ends_survive_training_with_weight_decay_bit_for_bit(digits):
    teacher = dense(seed=1)
    student = m.share_ends(m.residual_student(teacher, seed=2), teacher)
    before, data = copy.deepcopy(student.state_dict()), replace(digits, validation=None).limit(60)
    recipe = kd.Recipe(iterations=3, batch_size=20, weight_decay=0.1, precision="float32")
    kd.fit(student, kd.SoftTargets(teacher, 1, 1), data, recipe, progress=False)
    for name, weights in student.named_parameters():
        unchanged = torch.equal(weights, before[name])
        assert unchanged == name.startswith(("stem", "head")), name
        assert not unchanged or torch.equal(weights, teacher.state_dict()[name])


@pytest.mark.parametrize(
    ("student", "layer"),
    [
        (lambda: m.residual_student(dense(growth=5)), "stem"),
        (lambda: m.residual_student(dense(channels=3)), "stem"),
        (lambda: m.residual_student(dense(classes=7)), "head"),
        (lambda: m.mlp(8), "stem"),
    ],
)
def test_ends_of_other_shapes_cannot_be_shared(student, layer):
    with pytest.raises(ValueError, match=f"student must have the teacher's {layer}, .*, got "):
        m.share_ends(student(), dense())


# Initial weights


@pytest.mark.parametrize(
    ("name", "fan"),
    [
        ("resnet", lambda conv: 9 * conv.out_channels),  # He et al. 2015
        ("anNet_deep", lambda conv: 9 * (conv.in_channels + conv.out_channels)),  # Xavier
        ("anNet", lambda conv: 9 * (conv.in_channels + conv.out_channels)),
    ],
)
def test_the_initialisation_of_a_paper_or_blog_is_called(name, fan):
    for module in weighted(BUILDERS[name](0)):
        found, n = module.weight.std().item(), module.weight.numel()
        if isinstance(module, nn.Conv2d):  # 54 weights or more; the deviation's is 1 / sqrt(2n)
            assert found == pytest.approx(math.sqrt(2 / fan(module)), rel=4 / math.sqrt(2 * n))
            assert (module.bias is None) == (name == "resnet")
        elif name != "resnet":
            assert found == pytest.approx(0.01, rel=0.02)
        assert name == "resnet" or not module.bias.any()


@pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS)
def test_initial_weights_depend_only_on_the_seed_and_leave_the_callers_generator_alone(build):
    before = torch.get_rng_state()
    first = build(4)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    assert equal(first, build(4))
    assert not equal(first, build(5))


# Errors


@pytest.mark.parametrize(
    ("build", "depth", "message"),
    [
        *((m.resnet, depth, "6n \\+ 2") for depth in (0, 2, 7, 8.0, 18, 34, 51)),
        *((transfer, depth, "34 or 20") for depth in (0, 18, 26, "34", None)),
        *((m.wide_resnet, depth, "6n \\+ 4") for depth in (0, 4, 8, 27, 28.0)),
        *((m.preact_resnet, depth, "6n \\+ 2") for depth in (2, 11, 18, "8")),
        *((bottlenecks, depth, "9n \\+ 2") for depth in (2, 8, 1000)),
        *((m.densenet, depth, "at least 10") for depth in (0, 9, 100.0, None)),
    ],
)
def test_an_impossible_depth_is_refused_with_the_possible_ones(build, depth, message):
    growth = {"growth": 4} if build is m.densenet else {}
    with pytest.raises(ValueError, match=f"depth must be .*{message}.*, got {depth!r}"):
        build(depth, **growth)


GOOD = {
    m.mlp: {"width": 16},
    m.resnet: {"depth": 8},
    transfer: {"depth": 34},
    m.wide_resnet: {"depth": 10},
    m.preact_resnet: {"depth": 8},
    m.densenet: {"depth": 10, "growth": 4},
    m.residual_student: {"teacher": dense()},
    m.lstm: {"vocabulary": 9},
}
BAD = {
    m.mlp: {
        "width": (0, True, 16.0),
        "depth": (-1, 1.5),
        "inputs": (0,),
        "classes": (0,),
        "dropout": (1.1, -0.1),
        "seed": (-1,),
    },
    m.anNet: {"classes": (0,)},
    m.anNet_deep: {"classes": (-3,)},
    m.resnet: {"width": (0,), "channels": (0,), "classes": (0,)},
    m.fitnets_teacher: {"channels": (0,), "classes": (1.5,)},
    m.fitnets_student: {"channels": (-1,), "classes": (0,)},
    m.Maxout: {"pieces": (0, 2.0)},
    transfer: {"classes": (0,)},
    m.wide_resnet: {"width": (0,), "dropout": (1.5,), "channels": (0,)},
    m.preact_resnet: {"width": (1.5,), "classes": (0,)},
    m.densenet: {"growth": (0,), "dropout": (-0.1,), "classes": (True,)},
    m.residual_student: {"blocks": (0,)},
    m.lstm: {"vocabulary": (0,), "width": (0,), "layers": (0,), "dropout": (2,)},
}


@pytest.mark.parametrize("build", BAD)
def test_an_impossible_size_is_refused_by_name(build):
    for argument, values in BAD[build].items():
        for value in values:
            with pytest.raises(ValueError, match=f"^{argument} must be"):
                build(**(GOOD.get(build, {}) | {argument: value}))


def test_pretrained_weights_need_34_layers_and_a_residual_student_a_dense_teacher():
    with pytest.raises(ValueError, match="pretrained must be False for depth 20"):
        transfer(20, pretrained=True)
    with pytest.raises(TypeError, match=r"built by kd\.models\.densenet, got Sequential"):
        m.residual_student(m.mlp(8))
