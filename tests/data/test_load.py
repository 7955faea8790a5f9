"""kdlib/data/load.py: each sample has the same index, whatever file or mirror it comes from."""

import gzip
import hashlib
import http.client
import io
import socket
import urllib.error
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image
from random_arrays import TEST, TRAIN, arrays, by_pixels, load, normalised, same, shuffled, written

import kdlib as kd

GOOD = arrays()


# The index and the normalisation


grey_and_coloured = pytest.mark.parametrize(("name", "channels"), [("mnist", None), ("cifar10", 3)])


@grey_and_coloured
def test_shuffling_a_files_rows_changes_no_bit_of_the_data(tmp_path, name, channels):
    original = arrays(channels)
    first = load(written(tmp_path / "a", original, name), name)
    second = load(written(tmp_path / "b", shuffled(original), name), name)
    for part in ("train", "validation", "test"):
        assert same(getattr(first, part), getattr(second, part))
    assert same(first.limit(30).train, second.limit(30).train)
    assert first.fingerprint() == second.fingerprint()


@pytest.mark.parametrize("validation", [1, 20, 119])
def test_training_and_validation_are_rows_of_one_order(tmp_path, validation):
    folder = written(tmp_path, arrays())
    data, whole = load(folder, validation=validation), load(folder, validation=0)
    assert whole.validation is None
    assert whole.train.index.tolist() == list(range(TRAIN))
    assert data.validation.index.tolist() == list(range(validation))
    assert data.train.index.tolist() == list(range(validation, TRAIN))
    for split in (data.train, data.validation):
        assert same(split, whole.train.select(split.index))
    assert data.test.index.tolist() == list(range(TEST))
    assert same(data.test, whole.test)


@grey_and_coloured
def test_images_are_sorted_by_pixels_then_label_and_normalised_by_channel(tmp_path, name, channels):
    original = arrays(channels)
    original["x_train"][:8] = original["x_train"][0]
    original["y_train"][:8] = [7, 3, 9, 1, 0, 8, 2, 5]
    data = load(written(tmp_path, original, name), name, validation=0)
    for split, part, pixels in zip(
        (data.train, data.test), ("train", "test"), normalised(original), strict=True
    ):
        order = by_pixels(original[f"x_{part}"], original[f"y_{part}"])
        assert split.labels.tolist() == original[f"y_{part}"][order].tolist()
        assert split.inputs.dtype == torch.float32
        np.testing.assert_allclose(split.inputs, pixels[order], rtol=1e-5, atol=1e-6)


def test_a_channel_of_one_value_cannot_be_normalised(tmp_path):
    constant = GOOD | {"x_train": np.full_like(GOOD["x_train"], 7)}
    with pytest.raises(ValueError, match="x_train must not be constant"):
        load(written(tmp_path, constant))


# The digits


def test_digits_are_1137_300_and_360_images_of_28_by_28(digits):
    assert [len(s) for s in (digits.train, digits.validation, digits.test)] == [1137, 300, 360]
    for split in (digits.train, digits.validation, digits.test):
        assert split.inputs.shape[1:] == (1, 28, 28)
        assert split.inputs.dtype == torch.float32
        assert set(split.labels.tolist()) == set(range(10))
    assert digits.classes == tuple("0123456789")


def test_the_test_digits_are_the_last_360_of_the_order_of_the_small_images():
    from sklearn.datasets import load_digits

    bunch = load_digits()
    small = np.round(bunch.images * 255 / 16).astype(np.uint8)
    large = np.stack(
        [Image.fromarray(x).resize((28, 28), Image.Resampling.BILINEAR) for x in small]
    )
    order = by_pixels(small, bunch.target)
    train, test = order[:-360], order[-360:]
    expected = normalised({"x_train": large[train], "x_test": large[test]})
    data = kd.data.load("digits", validation=0, device="cpu")
    assert data.validation is None
    for split, rows, pixels in zip((data.train, data.test), (train, test), expected, strict=True):
        within = by_pixels(large[rows], bunch.target[rows])
        np.testing.assert_allclose(split.inputs, pixels[within], rtol=1e-4, atol=1e-5)
        assert split.labels.tolist() == bunch.target[rows][within].tolist()


# Files


def test_root_takes_precedence_over_the_folder_named_by_kdlib_data(tmp_path, monkeypatch):
    first, second = (written(tmp_path / f"{seed}", arrays(seed=seed)) for seed in (1, 2))
    monkeypatch.setenv("KDLIB_DATA", str(first))
    by_variable, by_root = load(None).fingerprint(), load(second).fingerprint()
    monkeypatch.setenv("KDLIB_DATA", str(second))
    assert (load(first).fingerprint(), load(None).fingerprint()) == (by_variable, by_root)
    assert by_variable != by_root


def test_labels_may_be_a_column_of_bytes_as_in_keras(tmp_path):
    original = arrays(3)
    column = {x: a.astype(np.uint8)[:, None] if x[0] == "y" else a for x, a in original.items()}
    first = load(written(tmp_path / "a", original, "cifar10"), "cifar10")
    second = load(written(tmp_path / "b", column, "cifar10"), "cifar10")
    assert first.fingerprint() == second.fingerprint()
    assert same(first.test, second.test)


@pytest.mark.parametrize("validation", [-1, TRAIN, 2.0, "5", None])
def test_a_validation_that_cannot_be_held_out_is_refused(tmp_path, validation):
    shown = "5000" if validation is None else repr(validation)  # the default
    with pytest.raises(ValueError, match=f"^validation must be .* from 0 to 119, got {shown}"):
        load(written(tmp_path, GOOD), validation=validation)


def test_the_error_for_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match="digits, mnist, fashion_mnist, cifar10.*got 'MNIST'"):
        kd.data.load("MNIST")


@pytest.mark.parametrize(
    ("name", "classes"), [("mnist", 10), ("fashion_mnist", 10), ("cifar10", 10), ("cifar100", 100)]
)
def test_a_data_set_has_its_name_and_its_classes(tmp_path, name, classes):
    data = load(written(tmp_path, arrays(), name), name)
    assert len(set(data.classes)) == classes
    assert data.name == name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x_train": None}, "damaged or lacks x_train"),
        ({"x_train": GOOD["x_train"] / 255}, "x_train must be uint8 images.*float64"),
        ({"x_test": GOOD["x_test"].reshape(TEST, -1)}, "x_test must be uint8 images"),
        ({"x_test": GOOD["x_test"][:, :5]}, "x_test must have images of x_train's shape"),
        ({"x_test": GOOD["x_test"][:0], "y_test": np.arange(0)}, "x_test must be uint8"),
        ({"y_train": GOOD["y_train"][1:]}, r"y_train must hold 120 integer labels.*\(119,\)"),
        ({"y_train": np.eye(10, dtype=int)[GOOD["y_train"]]}, r"y_train.*\(120, 10\)"),
        ({"y_train": GOOD["y_train"] + 0.5}, "y_train must hold 120 integer labels.*float64"),
        ({"y_train": GOOD["y_train"].astype(str)}, "y_train must hold 120 integer labels"),
        ({"y_train": np.int64(3)}, r"y_train must hold 120 integer labels.*shape \(\)"),
        ({"y_train": np.array([{}] * TRAIN)}, "damaged"),
        ({"y_train": GOOD["y_train"] + 1}, "y_train must hold labels from 0 to 9, got 1 to 10"),
        ({"y_test": GOOD["y_test"] - 1}, "y_test must hold labels from 0 to 9, got -1 to 8"),
    ],
)
def test_a_file_with_the_wrong_contents_is_refused_with_its_name(tmp_path, change, message):
    contents = {name: value for name, value in (GOOD | change).items() if value is not None}
    with pytest.raises(ValueError, match=message) as caught:
        load(written(tmp_path, contents))
    assert str(tmp_path / "mnist.npz") in str(caught.value)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_truncated_or_scrambled_file_is_refused_with_its_name(tmp_path, save):
    path = tmp_path / "mnist.npz"
    with open(path, "wb") as file:
        np.save(file, GOOD["x_train"])
    single = path.read_bytes()  # one array under the name of an npz
    save(path, **GOOD)
    whole, random = path.read_bytes(), np.random.default_rng(0)
    start = len(whole) // 3  # well inside the training images
    noise = random.integers(0, 256, 40).astype(np.uint8).tobytes()
    scrambled = whole[:start] + noise + whole[start + 40 :]
    short = [whole[:size] for size in (0, 1, 30, len(whole) // 2, len(whole) - 1)]
    for content in [*short, scrambled, single, b"<html>404</html>"]:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"mnist\.npz is damaged"):
            load(tmp_path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_file_with_changed_bytes_is_refused_or_gives_the_same_data(tmp_path, save):
    path = tmp_path / "mnist.npz"
    save(path, **GOOD)
    whole, random, refused = path.read_bytes(), np.random.default_rng(0), 0
    original = load(tmp_path).fingerprint()
    for _ in range(150):
        content = bytearray(whole)
        for place in random.integers(0, len(whole), 3):
            content[place] = random.integers(0, 256)
        path.write_bytes(content)
        try:
            assert load(tmp_path).fingerprint() == original
        except ValueError as error:
            assert "mnist.npz" in str(error)
            refused += 1
    assert refused > 120


# torchvision's layout, and downloads


def idx(array):
    """Encode an array as LeCun's files do: two zeros, the type, the dimensions, the bytes."""
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
    return header + array.astype(np.uint8).tobytes()


def raw_files(arrays):
    files = {}
    for part, prefix in (("train", "train"), ("test", "t10k")):
        files[f"{prefix}-images-idx3-ubyte"] = idx(arrays[f"x_{part}"])
        files[f"{prefix}-labels-idx1-ubyte"] = idx(arrays[f"y_{part}"])
    return files


def write_raw(folder, arrays, kind="MNIST"):
    raw = folder / kind / "raw"
    raw.mkdir(parents=True)
    for name, content in raw_files(arrays).items():
        (raw / name).write_bytes(content)
    return raw


@pytest.fixture
def no_network(monkeypatch):
    network = Mock(side_effect=urllib.error.URLError("Temporary failure in name resolution"))
    monkeypatch.setattr("urllib.request.urlopen", network)
    monkeypatch.delenv("KDLIB_DATA", raising=False)
    return network


@pytest.fixture
def cache():
    return Path(torch.hub.get_dir()) / "kdlib" / "data"


@pytest.mark.parametrize(("name", "kind"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
def test_torchvisions_own_layout_gives_the_same_data_as_the_npz(tmp_path, no_network, name, kind):
    write_raw(tmp_path / "raw", shuffled(GOOD), kind)
    first = load(tmp_path / "raw", name)
    second = load(written(tmp_path / "npz", GOOD, name), name)
    assert first.fingerprint() == second.fingerprint()
    assert same(first.test, second.test)
    assert not no_network.called


def test_torchvisions_cifar_gives_the_same_data_as_the_npz(tmp_path, monkeypatch, no_network):
    original = arrays(3)

    class CIFAR10:
        def __init__(self, root, train):
            part = "train" if train else "test"
            self.data, self.targets = original[f"x_{part}"], original[f"y_{part}"].tolist()

    (tmp_path / "there" / "cifar-10-batches-py").mkdir(parents=True)
    monkeypatch.setattr("torchvision.datasets.CIFAR10", CIFAR10)
    first = load(tmp_path / "there", "cifar10")
    second = load(written(tmp_path / "npz", original, "cifar10"), "cifar10")
    assert first.fingerprint() == second.fingerprint()


def test_the_npz_takes_precedence_over_torchvisions_layout(tmp_path):
    write_raw(tmp_path, arrays(seed=1))
    data = load(written(tmp_path, arrays(seed=2)))
    assert data.fingerprint() == load(written(tmp_path / "b", arrays(seed=2))).fingerprint()


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.write_bytes(file.read_bytes()[:-100]),
        lambda file: file.write_bytes(b"xx"),
        Path.unlink,
    ],
)
def test_a_damaged_torchvision_folder_is_refused_with_its_name(tmp_path, no_network, damage):
    damage(write_raw(tmp_path, GOOD) / "train-images-idx3-ubyte")
    with pytest.raises(
        ValueError, match=r"MNIST/raw is damaged or incomplete \(\w.*delete that folder"
    ):
        load(tmp_path)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "cifar100"])
@pytest.mark.parametrize(
    "error",
    [
        urllib.error.URLError("no route"),
        ConnectionResetError("reset"),
        http.client.IncompleteRead(b"half"),
        TimeoutError("timed out"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_without_network_the_error_names_every_mirror_and_both_ways_on_and_nothing_is_left(
    no_network, cache, tmp_path, name, error
):
    import torchvision

    no_network.side_effect = error
    patience = socket.getdefaulttimeout()
    with pytest.raises(FileNotFoundError) as caught:
        kd.data.load(name, device="cpu")
    message = str(caught.value)
    for way_on in (f"Put {name}.npz", "KDLIB_DATA=", "KDLIB_PROFILE=smoke", 'load("digits")'):
        assert way_on in message
    kinds = {kind.lower(): kind for kind in torchvision.datasets.__all__}
    kind = getattr(torchvision.datasets, kinds[name.replace("_", "")])
    for mirror in getattr(kind, "mirrors", None) or [kind.url]:
        assert f"\n  {mirror}: " in message
    with pytest.raises(FileNotFoundError, match=f"^{tmp_path} has neither {name}.npz nor "):
        load(tmp_path, name)
    assert no_network.called
    assert list(cache.iterdir()) == []
    assert socket.getdefaulttimeout() == patience


class Response(io.BytesIO):
    url = length = None  # as torchvision asks for them


@pytest.fixture
def answer_with(monkeypatch, no_network):
    """Let each mirror of MNIST answer as a function of (file, content) does."""
    import torchvision

    def answer(*functions):
        files = {f"{name}.gz": gzip.compress(raw) for name, raw in raw_files(GOOD).items()}
        hashes = [(name, hashlib.md5(content).hexdigest()) for name, content in files.items()]
        mirrors = {f"http://mirror{i}.test": f for i, f in enumerate(functions, start=1)}

        def urlopen(request):
            assert socket.getdefaulttimeout() == 30
            mirror, file = request.full_url.rsplit("/", 1)
            return Response(mirrors[mirror](file, files[file]))

        no_network.side_effect = urlopen
        monkeypatch.setattr(torchvision.datasets.MNIST, "resources", hashes)
        monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [f"{m}/" for m in mirrors])

    return answer


def deliver(file, content):
    return content


def refuse(file, content):
    raise urllib.error.URLError(ConnectionRefusedError(111, "Connection refused"))


def time_out(file, content):
    raise TimeoutError("timed out")


def stop_before_the_last_file(file, content):
    if file.startswith("t10k-labels"):
        raise http.client.RemoteDisconnected("Remote end closed connection")
    return content


def deliver_half(file, content):
    return content[: len(content) // 2]


def ask_for_a_password(file, content):
    return b"<html>Log in to this network</html>"


@pytest.mark.parametrize(
    "fail", [refuse, time_out, stop_before_the_last_file, deliver_half, ask_for_a_password]
)
def test_the_next_mirror_is_tried_however_the_first_one_fails(tmp_path, answer_with, cache, fail):
    answer_with(fail, deliver)
    assert load(None).fingerprint() == load(written(tmp_path, GOOD)).fingerprint()
    assert [path.name for path in cache.iterdir()] == ["mnist"]


def test_if_all_mirrors_fail_the_error_has_each_ones_reason_and_no_long_traceback(
    answer_with, cache
):
    answer_with(time_out, ask_for_a_password, stop_before_the_last_file)
    with pytest.raises(FileNotFoundError) as caught:
        load(None)
    assert str(caught.value).splitlines()[:4] == [
        "mnist could not be downloaded:",
        "  http://mirror1.test/: timed out",
        "  http://mirror2.test/: File not found or corrupted.",
        "  http://mirror3.test/: Remote end closed connection",
    ]
    assert caught.value.__context__ is None  # its traceback would come first
    assert list(cache.iterdir()) == []


def fake_download(monkeypatch, before=lambda root: None):
    """Let torchvision's MNIST write raw files instead of downloading; returns the downloads."""
    import torchvision

    downloads = []

    class MNIST(torchvision.datasets.MNIST):
        def __init__(self, root, train=True, download=False):
            if download:
                downloads.append(root)
                before(Path(root))
                write_raw(Path(root), GOOD)
            super().__init__(root, train=train)

    monkeypatch.setattr("torchvision.datasets.MNIST", MNIST)
    return downloads


def test_a_download_is_made_once_and_kept_complete(tmp_path, monkeypatch, no_network, cache):
    downloads = fake_download(monkeypatch)
    first, second = load(None), load(None)
    assert len(downloads) == 1
    assert [path.name for path in cache.iterdir()] == ["mnist"]
    assert first.fingerprint() == second.fingerprint()
    assert first.fingerprint() == load(written(tmp_path, GOOD)).fingerprint()


def test_an_interrupted_download_leaves_nothing_and_can_be_repeated(monkeypatch, no_network, cache):
    def half(root):
        (root / "MNIST" / "raw").mkdir(parents=True)
        (root / "MNIST" / "raw" / "train-images-idx3-ubyte").write_bytes(b"half a file")
        raise KeyboardInterrupt

    with monkeypatch.context() as once:
        fake_download(once, half)
        with pytest.raises(KeyboardInterrupt):
            load(None)
    assert list(cache.iterdir()) == []
    fake_download(monkeypatch)
    assert len(load(None).train) == 100


def test_two_downloads_at_once_do_not_disturb_each_other(monkeypatch, no_network, cache):
    downloads = fake_download(monkeypatch, lambda root: write_raw(cache / "mnist", GOOD))
    assert len(load(None).train) == 100
    assert len(downloads) == 1
    assert [path.name for path in cache.iterdir()] == ["mnist"]


# The real sets


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "shape", "mean", "deviation"),
    [
        ("mnist", (1, 28, 28), [0.1307], [0.3081]),
        ("fashion_mnist", (1, 28, 28), [0.2860], [0.3530]),
        ("cifar10", (3, 32, 32), [0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]),
    ],
)
def test_the_real_sets_have_their_known_shapes_counts_and_levels(
    real_data, name, shape, mean, deviation
):
    real = kd.data.load(name, device="cpu", root=real_data)
    n = 60_000 if shape[0] == 1 else 50_000
    splits = real.train, real.validation, real.test
    assert [len(s) for s in splits] == [n - 5000, 5000, 10_000]
    assert {s.inputs.shape[1:] for s in splits} == {shape}
    counts = torch.cat([real.train.labels, real.validation.labels]).bincount().tolist()
    test_counts = real.test.labels.bincount().tolist()
    if name == "mnist":
        assert counts == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
        assert test_counts == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    else:
        assert counts == [n // 10] * 10
        assert test_counts == [1000] * 10
    # Pixels of 0 and 255 occur in every channel: their values reveal mean and deviation.
    low, high = real.train.inputs.amin((0, 2, 3)), real.train.inputs.amax((0, 2, 3))
    np.testing.assert_allclose(1 / (high - low), deviation, atol=6e-5)
    np.testing.assert_allclose(-low / (high - low), mean, atol=6e-5)
    # Validation images are spread over the classes, not the first rows of a sorted file.
    share = real.validation.labels.bincount(minlength=10) / 500
    assert share.min() > 0.8
    assert share.max() < 1.25
