import pytest
import torch
from torch import nn

import kdlib as kd
from kdlib.taps import reach

close = torch.testing.assert_close


@pytest.fixture
def resnet():
    return kd.models.resnet(8, channels=1)


def images(n=3):
    return torch.randn(n, 1, 28, 28, generator=torch.Generator().manual_seed(n))


def hooks_of(model):
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    return [hook for module in model.modules() for kind in kinds for hook in getattr(module, kind)]


def test_features_are_the_outputs_of_the_modules(resnet):
    resnet.eval()
    with kd.taps(resnet, ["stage2", "stem.0", "stem"]) as features:
        logits = resnet(images())
    close(features["stem.0"], resnet.stem[0](images()))
    close(features["stem"], resnet.stem(images()))
    close(features["stage2"], resnet.stage2(resnet.stage1(resnet.stem(images()))))
    close(logits, resnet(images()))


def test_each_forward_pass_replaces_the_features_of_the_one_before(resnet):
    with kd.taps(resnet, ["stage1", "stage3"]) as features:
        resnet(images(2))
        resnet(images(5))
    assert {name: len(x) for name, x in features.items()} == {"stage1": 5, "stage3": 5}


def test_hooks_are_removed_afterwards_even_after_an_error(resnet):
    with kd.taps(resnet, ["stage1"]) as features:
        assert hooks_of(resnet)
    assert not hooks_of(resnet)
    with pytest.raises(RuntimeError, match="mine"), kd.taps(resnet, ["stage1"]):
        raise RuntimeError("mine")
    with pytest.raises(ValueError, match="no module"), kd.taps(resnet, ["stage1", "no"]):
        pass
    assert not hooks_of(resnet)
    resnet(images())
    assert features == {}


def test_the_networks_own_hooks_stay(resnet):
    seen = []
    resnet.stage1.register_forward_hook(lambda *call: seen.append("mine"))
    with kd.taps(resnet, ["stage1"]):
        resnet(images())
    resnet(images())
    assert seen == ["mine", "mine"]


def test_nested_taps_do_not_disturb_each_other(resnet):
    with kd.taps(resnet, ["stage1"]) as outer, kd.taps(resnet, ["stage1", "stem"]) as inner:
        resnet(images())
    assert outer["stage1"] is inner["stage1"]
    assert set(inner) == {"stage1", "stem"}


@pytest.mark.parametrize(
    ("names", "error", "message"),
    [
        ("stage2", TypeError, "names must be a list"),
        ([2], TypeError, "names must be a list"),
        (None, TypeError, "names must be a list"),
        ([], ValueError, "at least one, each once"),
        (["stem", "stem"], ValueError, "at least one, each once"),
        (["layer2"], ValueError, r"no module 'layer2'; it has 'stem', 'stem.0'.*'stage2'"),
    ],
)
def test_names_must_be_a_list_of_different_modules(resnet, names, error, message):
    with pytest.raises(error, match=message), kd.taps(resnet, names):
        pass


def test_a_module_that_runs_twice_in_a_pass_is_refused():
    shared = nn.ReLU()
    net = nn.Sequential(nn.Linear(3, 3), shared, nn.Linear(3, 3), shared)
    for name in ("1", "3"):
        with pytest.raises(ValueError, match=f"{name}.*runs twice"), kd.taps(net, [name]):
            net(torch.zeros(2, 3))


def test_a_feature_that_a_later_module_changes_in_place_is_refused():
    net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.ReLU(inplace=True), nn.Linear(3, 2))
    with pytest.raises(ValueError, match="'1' is changed in place"), kd.taps(net, ["1"]):
        net(torch.randn(4, 3))
    with pytest.raises(ValueError, match="'1' is changed in place"):
        reach(net, torch.randn(4, 3), ["1", "3"])
    with kd.taps(net, ["2"]) as features:
        net(torch.randn(4, 3))
    assert features["2"].min() == 0


def test_reach_stops_before_a_later_module_changes_the_feature_in_place():
    net = nn.Sequential(nn.Linear(3, 3), nn.ReLU(inplace=True))
    x = torch.randn(4, 3)
    close(reach(net, x, ["0"])["0"], net[0](x))


def test_features_can_be_read_in_inference_mode(resnet):
    with torch.inference_mode():
        assert reach(resnet, images(), ["stage1"])["stage1"].shape == (3, 16, 28, 28)


def test_a_module_must_return_a_single_tensor():
    net = nn.Sequential(nn.LSTM(3, 4))
    with pytest.raises(TypeError, match="a single tensor, got tuple"), kd.taps(net, ["0"]):
        net(torch.zeros(2, 1, 3))


def test_reach_runs_nothing_above_the_last_name(resnet):
    ran = []
    for name, module in resnet.named_modules():
        module.register_forward_hook(lambda *call, name=name: ran.append(name))
    before = {name: tensor.clone() for name, tensor in resnet.state_dict().items()}
    features = reach(resnet.train(), images(), ["stage2", "stem"])
    assert set(features) == {"stem", "stage2"}
    assert not any(name.startswith(("stage3", "head")) or name == "" for name in ran)
    moved = {n for n, t in resnet.state_dict().items() if not torch.equal(t, before[n])}
    assert "stage2.0.norm2.running_mean" in moved
    assert not any(name.startswith(("stage3", "head")) for name in moved)


def test_reach_with_the_empty_name_goes_the_whole_way(resnet):
    features = reach(resnet.eval(), images(), ["stem", ""])
    close(features[""], resnet(images()))


def test_a_module_that_does_not_run_is_named():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.idle = nn.Linear(3, 2), nn.Linear(3, 2)

        def forward(self, x):
            return self.used(x)

    with pytest.raises(ValueError, match=r"\['idle'\], which do not"):
        reach(Net(), torch.zeros(2, 3), ["used", "idle"])
