"""kdlib/data.py: the same samples under the same index, whatever file, order or mirror they came from."""

import hashlib
import http.client
import itertools
import socket
import urllib.error
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import kdlib as kd
from kdlib.data import Data, Split, crop, flip, shift

TRAIN, TEST = 120, 40


def arrays(channels=None, seed=0, side=6):
    """Random images; with channels, each channel has a level of its own."""
    random = np.random.default_rng(seed)
    shape = (TRAIN + TEST, side, side) + (() if channels is None else (channels,))
    top = 200 if channels is None else np.array([60, 130, 250])[:channels]
    images = random.integers(0, top, shape).astype(np.uint8)
    labels = random.integers(0, 10, TRAIN + TEST)
    return {
        "x_train": images[:TRAIN],
        "y_train": labels[:TRAIN],
        "x_test": images[TRAIN:],
        "y_test": labels[TRAIN:],
    }


def shuffled(arrays, seed=1):
    random = np.random.default_rng(seed)
    result = {}
    for part in ("train", "test"):
        order = random.permutation(len(arrays[f"x_{part}"]))
        result |= {f"{xy}_{part}": arrays[f"{xy}_{part}"][order] for xy in "xy"}
    return result


def written(folder, arrays, name="mnist"):
    folder.mkdir(exist_ok=True)
    np.savez(folder / f"{name}.npz", **arrays)
    return folder


def load(folder, name="mnist", validation=20):
    return kd.data.load(name, validation=validation, device="cpu", root=folder)


def same(a, b):
    return (
        torch.equal(a.inputs, b.inputs)
        and torch.equal(a.labels, b.labels)
        and torch.equal(a.index, b.index)
    )


def rows(split):
    """The samples as a set, whatever their order."""
    return {
        (row.tobytes(), int(y)) for row, y in zip(split.inputs.numpy(), split.labels, strict=True)
    }


# The index


@pytest.mark.parametrize("channels", [None, 3])
def test_index_validation_and_normalisation_are_the_same_bits_when_the_files_rows_are_shuffled(
    tmp_path, channels
):
    name = "mnist" if channels is None else "cifar10"
    original = arrays(channels)
    first = load(written(tmp_path / "a", original, name), name)
    second = load(written(tmp_path / "b", shuffled(original), name), name)
    for part in ("train", "validation", "test"):
        assert same(getattr(first, part), getattr(second, part))
    assert same(first.limit(30).train, second.limit(30).train)
    assert first.fingerprint() == second.fingerprint()


def test_index_is_the_row_of_one_order_that_training_and_validation_share(tmp_path):
    folder = written(tmp_path, arrays())
    data, whole = load(folder), load(folder, validation=0)
    assert whole.validation is None
    assert whole.train.index.tolist() == list(range(TRAIN))
    assert data.validation.index.tolist() == list(range(20))
    assert data.train.index.tolist() == list(range(20, TRAIN))
    for split in (data.train, data.validation):
        assert torch.equal(split.inputs, whole.train.inputs[split.index])
        assert torch.equal(split.labels, whole.train.labels[split.index])
    assert data.test.index.tolist() == list(range(TEST))
    assert same(data.test, whole.test)


def test_the_order_is_that_of_a_hash_of_the_pixels(tmp_path):
    original = arrays()
    order = sorted(
        range(TRAIN),
        key=lambda row: hashlib.blake2b(original["x_train"][row].tobytes(), digest_size=8).digest(),
    )
    data = load(written(tmp_path, original), validation=0)
    assert data.train.labels.tolist() == original["y_train"][order].tolist()


def test_equal_images_are_ordered_by_label(tmp_path):
    original = arrays()
    original["x_train"][:8] = original["x_train"][0]
    original["y_train"][:8] = [7, 3, 9, 1, 0, 8, 2, 5]
    first = load(written(tmp_path / "a", original), validation=0)
    second = load(written(tmp_path / "b", shuffled(original)), validation=0)
    assert same(first.train, second.train)
    mine = first.train.inputs.flatten(1)
    _, twins = mine.unique(dim=0, return_inverse=True)
    place = twins == twins.bincount().argmax()
    assert first.train.labels[place].tolist() == [0, 1, 2, 3, 5, 7, 8, 9]


def test_every_selection_keeps_the_index(tmp_path):
    folder = written(tmp_path, arrays())
    data, whole = load(folder), load(folder, validation=0).train
    parts = {
        "limit": data.limit(37, seed=3).train,
        "only": data.train.only([2, 7]),
        "without": data.train.without(4),
        "select": data.train.select(torch.tensor([50, 3, 20])),
        "mask": data.train.select(data.train.labels > 6),
        "chain": data.limit(60).train.without([1, 2]).only([3, 4, 5]),
    }
    for name, part in parts.items():
        assert 0 < len(part) < len(data.train), name
        assert torch.equal(part.inputs, whole.inputs[part.index]), name
        assert torch.equal(part.labels, whole.labels[part.index]), name
    forgotten = parts["limit"].unlabelled()
    assert forgotten.labels is None
    assert torch.equal(forgotten.inputs, whole.inputs[parts["limit"].index])
    assert torch.equal(forgotten.index, parts["limit"].index)
    assert parts["limit"].labels is not None


# Normalisation


@pytest.mark.parametrize("channels", [None, 3])
@pytest.mark.parametrize("validation", [0, 20, 100])
def test_inputs_are_normalised_by_all_training_images_channel_by_channel(
    tmp_path, channels, validation
):
    original = arrays(channels)
    name = "mnist" if channels is None else "cifar10"
    data = load(written(tmp_path, original, name), name, validation)
    train = original["x_train"].astype(np.float64).reshape(TRAIN, 6, 6, -1)
    test = original["x_test"].astype(np.float64).reshape(TEST, 6, 6, -1)
    mean, deviation = train.mean((0, 1, 2)), train.std((0, 1, 2))
    parts = [data.train] + [data.validation] * (validation > 0)
    for pixels, splits in ((train, parts), (test, [data.test])):
        expected = ((pixels - mean) / deviation).transpose(0, 3, 1, 2)  # (N, C, H, W)
        found = np.concatenate([split.inputs.numpy() for split in splits])
        assert found.dtype == np.float32
        assert found.shape == expected.shape
        order = np.lexsort(expected.reshape(len(expected), -1).T)
        places = np.lexsort(found.reshape(len(found), -1).T)
        np.testing.assert_allclose(found[places], expected[order], rtol=1e-5, atol=1e-6)


def test_inputs_are_the_same_bits_for_every_size_of_the_validation_split(tmp_path):
    folder = written(tmp_path, arrays())
    whole = load(folder, validation=0).train.inputs
    for validation in (1, 20, 119):
        data = load(folder, validation=validation)
        assert torch.equal(torch.cat([data.validation.inputs, data.train.inputs]), whole)


def test_a_channel_of_one_value_cannot_be_normalised(tmp_path):
    original = arrays()
    original["x_train"][:] = 7
    with pytest.raises(ValueError, match="x_train must not be constant"):
        load(written(tmp_path, original))


# The digits


def test_digits_are_1137_300_and_360_images_of_28_by_28(digits):
    assert [len(s) for s in (digits.train, digits.validation, digits.test)] == [1137, 300, 360]
    for split in (digits.train, digits.validation, digits.test):
        assert split.inputs.shape[1:] == (1, 28, 28)
        assert split.inputs.dtype == torch.float32
        assert set(split.labels.tolist()) == set(range(10))
    assert digits.classes == tuple("0123456789")


def test_the_test_digits_are_the_last_360_of_the_order(digits):
    from sklearn.datasets import load_digits

    bunch = load_digits()
    small = np.round(bunch.images * 255 / 16).astype(np.uint8)
    order = sorted(
        range(len(small)),
        key=lambda i: (
            hashlib.blake2b(small[i].tobytes(), digest_size=8).digest(),
            bunch.target[i],
        ),
    )
    large = [
        np.asarray(Image.fromarray(x).resize((28, 28), Image.Resampling.BILINEAR), np.float64)
        for x in small
    ]
    train, test = [np.stack([large[i] for i in part]) for part in (order[:-360], order[-360:])]
    expected = ((test - train.mean()) / train.std()).reshape(360, -1)
    found = digits.test.inputs.numpy().reshape(360, -1)
    # The test split has an order of its own, so the images are matched by their contents.
    place = torch.cdist(torch.from_numpy(expected).float(), torch.from_numpy(found)).argmin(1)
    place = place.numpy()
    assert sorted(place) == list(range(360))
    np.testing.assert_allclose(found[place], expected, rtol=1e-4, atol=1e-5)
    assert digits.test.labels[place].tolist() == bunch.target[order[-360:]].tolist()


def test_digits_can_be_loaded_without_holding_any_out():
    data = kd.data.load("digits", validation=0, device="cpu")
    assert data.validation is None
    assert len(data.train) == 1437


# limit, only, without


def test_limit_keeps_the_classes_as_equal_as_can_be(digits):
    for n in (1, 7, 10, 55, 200, 400):
        counts = digits.limit(n).train.labels.bincount(minlength=10)
        assert counts.sum() == n
        assert counts.max() - counts.min() <= 1


def test_limit_takes_all_of_a_class_that_is_too_small():
    labels = np.array([0] * 3 + [1] * 30 + [2] * 30)
    inputs = np.random.default_rng(0).normal(size=(63, 4))
    data = kd.data.from_arrays(inputs, labels, device="cpu")
    assert data.limit(23).train.labels.bincount().tolist() == [3, 10, 10]


def test_limit_is_nested_for_one_seed_and_another_choice_for_another(digits):
    kept = [set(digits.limit(n, seed=1).train.index.tolist()) for n in (10, 55, 100, 600, 1137)]
    for smaller, larger in itertools.pairwise(kept):
        assert smaller < larger
    assert kept[2] != set(digits.limit(100, seed=2).train.index.tolist())
    assert kept[2] == set(digits.limit(100, seed=1).train.index.tolist())


def test_limit_is_the_beginning_of_the_training_split(digits):
    assert same(digits.limit(55, seed=1).train, digits.train.beginning(55, 1))
    assert not same(digits.limit(55, seed=1).train, digits.train.beginning(55, 2))


def test_limit_leaves_validation_test_and_the_callers_generator_alone(digits):
    torch.manual_seed(0)
    part = digits.limit(50)
    found = torch.rand(3)
    torch.manual_seed(0)
    assert torch.equal(found, torch.rand(3))
    assert part.validation is digits.validation
    assert part.test is digits.test
    assert len(digits.train) == 1137


def test_limit_works_on_a_split_without_labels(digits):
    part = replace(digits, train=digits.train.unlabelled()).limit(40)
    assert len(part.train) == 40
    assert part.train.labels is None


@pytest.mark.parametrize("n", [0, -1, 1138, 2.0, "5", None])
def test_limit_refuses_a_number_that_cannot_be_kept(digits, n):
    with pytest.raises(ValueError, match=f"^n must be .*1,137.*got {n!r}"):
        digits.limit(n)


def test_only_and_without_part_a_split_in_two(digits):
    sevens, rest = digits.train.only(7), digits.train.without(7)
    assert sevens.labels.unique().tolist() == [7]
    assert 7 not in rest.labels.tolist()
    assert sorted(torch.cat([sevens.index, rest.index]).tolist()) == digits.train.index.tolist()
    both = digits.train.only([7, 8])
    assert both.labels.unique().tolist() == [7, 8]
    assert len(both) == len(sevens) + len(digits.train.only(np.int64(8)))


@pytest.mark.parametrize("classes", [10, -1, [3, 12], ["7"]])
def test_only_and_without_refuse_a_class_that_does_not_occur(digits, classes):
    for choose in (digits.train.only, digits.train.without):
        with pytest.raises(ValueError, match="classes must be labels that occur in the split"):
            choose(classes)


def test_classes_cannot_be_chosen_without_labels(digits):
    with pytest.raises(ValueError, match="no labels"):
        digits.train.unlabelled().only(3)


def test_a_fingerprint_sees_inputs_labels_and_index_and_no_test_split(digits):
    split = digits.limit(30).train
    swapped = split.select(torch.arange(29, -1, -1))
    brighter = replace(split, inputs=split.inputs + 1e-6)
    relabelled = replace(split, labels=split.labels.roll(1))
    renumbered = replace(split, index=split.index + 1)
    forgotten = split.unlabelled()
    prints = {
        s.fingerprint() for s in (split, swapped, brighter, relabelled, renumbered, forgotten)
    }
    assert len(prints) == 6
    assert replace(digits, test=None).fingerprint() == digits.fingerprint()
    assert replace(digits, validation=None).fingerprint() != digits.fingerprint()


# Batches


def epoch(split, batch_size, seed=0, augment=None):
    order, views = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(9)
    return list(split.batches(batch_size, order, augment, views))


def test_an_epoch_shows_every_sample_once_with_its_own_label_and_index(digits):
    split = digits.limit(120).train
    row_of = {index: row for row, index in enumerate(split.index.tolist())}
    batches = epoch(split, 40)
    seen = torch.cat([index for _, _, index in batches])
    assert sorted(seen.tolist()) == split.index.tolist()
    assert seen.tolist() != split.index.tolist()
    for inputs, labels, index in batches:
        mine = [row_of[i] for i in index.tolist()]
        assert torch.equal(inputs, split.inputs[mine])
        assert torch.equal(labels, split.labels[mine])


def test_the_last_incomplete_batch_is_dropped_unless_it_is_all_there_is(digits):
    split = digits.limit(110).train
    assert [len(index) for _, _, index in epoch(split, 40)] == [40, 40]
    assert [len(index) for _, _, index in epoch(split, 500)] == [110]
    assert (split.steps(40), split.steps(110), split.steps(111)) == (2, 1, 1)


def test_the_order_of_an_epoch_depends_on_its_generator_alone(digits):
    split = digits.limit(60).train
    orders = [torch.cat([i for *_, i in epoch(split, 20, s)]).tolist() for s in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]


def test_an_unlabelled_split_yields_no_labels(digits):
    assert all(labels is None for _, labels, _ in epoch(digits.limit(60).train.unlabelled(), 20))


def test_augmented_batches_keep_order_labels_and_index(digits):
    split = digits.limit(60).train
    plain, moved = epoch(split, 20), epoch(split, 20, augment=shift(2))
    for (x, y, i), (x2, y2, i2) in zip(plain, moved, strict=True):
        assert torch.equal(y, y2)
        assert torch.equal(i, i2)
        assert not torch.equal(x, x2)


@pytest.mark.parametrize("size", [1, 50, 60, 1000])
def test_parts_are_all_samples_in_their_order(digits, size):
    split = digits.limit(60).train
    parts = list(split.parts(size))
    assert max(len(inputs) for inputs, _ in parts) == min(size, 60)
    assert torch.equal(torch.cat([inputs for inputs, _ in parts]), split.inputs)
    assert torch.equal(torch.cat([labels for _, labels in parts]), split.labels)
    assert {labels for _, labels in split.unlabelled().parts(size)} == {None}


def test_images_stand_alone_and_tokens_do_not(digits):
    assert digits.train.stands_alone
    assert not kd.text.from_texts("abcab", device="cpu").train.stands_alone


# One's own arrays


def test_from_arrays_keeps_the_given_order_and_index_is_the_row():
    a = arrays()
    data = kd.data.from_arrays(*a.values(), validation=30, device="cpu")
    joined = torch.cat([data.train.index, data.validation.index])
    assert sorted(joined.tolist()) == list(range(TRAIN))
    for split in (data.train, data.validation):
        assert split.index.tolist() == sorted(split.index.tolist())
        assert split.labels.tolist() == a["y_train"][split.index.numpy()].tolist()
    assert data.test.labels.tolist() == a["y_test"].tolist()
    plain = kd.data.from_arrays(*a.values(), device="cpu")
    assert plain.validation is None
    assert plain.train.labels.tolist() == a["y_train"].tolist()


@pytest.mark.parametrize("channels", [None, 1, 3])
def test_from_arrays_normalises_uint8_images_and_puts_channels_first(channels):
    a = arrays(channels)
    data = kd.data.from_arrays(*a.values(), device="cpu")
    train = a["x_train"].astype(np.float64).reshape(TRAIN, 6, 6, -1)
    test = a["x_test"].astype(np.float64).reshape(TEST, 6, 6, -1)
    mean, deviation = train.mean((0, 1, 2)), train.std((0, 1, 2))
    for split, pixels in ((data.train, train), (data.test, test)):
        expected = ((pixels - mean) / deviation).transpose(0, 3, 1, 2)
        np.testing.assert_allclose(split.inputs, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_from_arrays_takes_floating_point_inputs_as_they_are(dtype):
    inputs = np.random.default_rng(0).normal(3, 5, (20, 2, 3)).astype(dtype)
    data = kd.data.from_arrays(inputs, np.arange(20) % 4, device="cpu")
    assert torch.equal(data.train.inputs, torch.from_numpy(inputs.astype(np.float32)))
    assert data.train.inputs.dtype == torch.float32


def test_from_arrays_takes_tensors_as_well():
    a = arrays()
    tensors = [torch.from_numpy(value) for value in a.values()]
    first = kd.data.from_arrays(*a.values(), validation=9, device="cpu")
    second = kd.data.from_arrays(*tensors, validation=9, device="cpu")
    assert first.fingerprint() == second.fingerprint()


@pytest.mark.parametrize("labelled", [True, False])
def test_from_arrays_holds_out_the_same_samples_in_whatever_order_they_are_given(labelled):
    a, b = arrays(), shuffled(arrays())
    parts = []
    for some in (a, b):
        labels = some["y_train"] if labelled else None
        data = kd.data.from_arrays(some["x_train"], labels, validation=30, device="cpu")
        assert len(data.validation) == 30
        parts.append({row.tobytes() for row in data.validation.inputs.numpy()})
    assert parts[0] == parts[1]


def test_from_arrays_does_without_labels_test_and_class_names():
    inputs = np.random.default_rng(0).normal(size=(12, 5))
    bare = kd.data.from_arrays(inputs, None, device="cpu")
    assert bare.train.labels is None
    assert bare.test is None
    assert bare.classes == ()
    numbered = kd.data.from_arrays(inputs, np.arange(12) % 3, device="cpu")
    assert numbered.classes == ("0", "1", "2")
    named = kd.data.from_arrays(
        inputs, np.arange(12) % 3, classes=["a", "b", "c", "d"], device="cpu"
    )
    assert named.classes == ("a", "b", "c", "d")


OK, Y = np.zeros((6, 4, 4), np.uint8) + np.arange(6, dtype=np.uint8)[:, None, None], np.arange(6)


@pytest.mark.parametrize(
    ("given", "kind", "message"),
    [
        ({"x_train": OK.astype(int)}, TypeError, "x_train must be uint8 images or floating"),
        ({"x_train": OK.reshape(6, 16)}, ValueError, r"x_train must be images \(N, H, W\)"),
        ({"x_train": OK[:0], "y_train": Y[:0]}, ValueError, "x_train must be .*at least one"),
        ({"x_train": np.zeros(6)}, ValueError, r"x_train must be \(N, ...\)"),
        (
            {"y_train": Y[:5]},
            ValueError,
            "y_train must hold one label for each of the 6 inputs, got 5",
        ),
        ({"y_train": Y.astype(float)}, TypeError, "y_train must hold integers, got float64"),
        ({"y_train": Y - 1}, ValueError, "y_train must not be negative, got -1"),
        (
            {"x_test": OK[:, :3], "y_test": Y},
            ValueError,
            "x_test must have x_train's dtype and shape",
        ),
        (
            {"x_test": OK.astype(float), "y_test": Y},
            ValueError,
            "x_test must have x_train's dtype and shape",
        ),
        (
            {"x_test": OK, "y_test": Y[:2]},
            ValueError,
            "y_test must hold one label for each of the 6",
        ),
        ({"y_test": Y}, ValueError, "y_test must come with x_test"),
        ({"classes": ["a", "b"]}, ValueError, "labels of train must be below 2.*got 5"),
        ({"validation": 6}, ValueError, "validation must be .*0 to 5, got 6"),
        ({"validation": -1}, ValueError, "validation must be .*got -1"),
        ({"validation": 0.5}, ValueError, "validation must be a whole number.*got 0.5"),
    ],
)
def test_from_arrays_refuses_what_does_not_fit(given, kind, message):
    with pytest.raises(kind, match=message):
        kd.data.from_arrays(**({"x_train": OK, "y_train": Y, "device": "cpu"} | given))


# A folder of images


def picture(path, value, mode="L", size=(5, 4)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path)


def test_from_folder_reads_grey_images_class_by_class_in_the_order_of_their_names(tmp_path):
    for value, name in enumerate(["dog/b", "cat/z", "cat/a", "dog/a"]):
        picture(tmp_path / "train" / f"{name}.png", 10 * value)
    picture(tmp_path / "test" / "dog" / "x.png", 30)
    data = kd.data.from_folder(tmp_path, device="cpu")
    assert data.classes == ("cat", "dog")
    assert data.name == tmp_path.name
    assert data.train.inputs.shape == (4, 1, 4, 5)
    assert data.train.labels.tolist() == [0, 0, 1, 1]
    assert data.test.labels.tolist() == [1]  # a lone class of the test keeps its number
    levels = np.array([20.0, 10.0, 30.0, 0.0])  # cat/a, cat/z, dog/a, dog/b
    expected = (levels - levels.mean()) / levels.std()
    np.testing.assert_allclose(data.train.inputs[:, 0, 0, 0], expected, rtol=1e-5)
    np.testing.assert_allclose(data.test.inputs[0, 0, 0, 0], expected[2], rtol=1e-5)


def test_from_folder_takes_three_channels_as_soon_as_one_image_is_coloured(tmp_path):
    picture(tmp_path / "train" / "a" / "1.png", 200)
    picture(tmp_path / "train" / "b" / "1.png", (10, 20, 30), "RGB")
    data = kd.data.from_folder(tmp_path, device="cpu")
    assert data.train.inputs.shape == (2, 3, 4, 5)
    np.testing.assert_allclose(data.train.inputs[:, :, 0, 0], [[1, 1, 1], [-1, -1, -1]], rtol=1e-5)
    assert data.test is None


def test_from_folder_asks_for_a_size_where_images_differ_and_then_resizes(tmp_path):
    picture(tmp_path / "train" / "a" / "1.png", 1)
    picture(tmp_path / "train" / "b" / "2.png", 2, size=(7, 4))
    with pytest.raises(ValueError, match=r"size must be given.*2.png has \(4, 7\).*\(4, 5\)"):
        kd.data.from_folder(tmp_path, device="cpu")
    assert kd.data.from_folder(tmp_path, size=8, device="cpu").train.inputs.shape == (2, 1, 8, 8)


def test_from_folder_holds_images_out(tmp_path):
    for value in range(10):
        picture(tmp_path / "train" / "ab"[value % 2] / f"{value}.png", value)
    data = kd.data.from_folder(tmp_path, validation=4, device="cpu")
    assert (len(data.train), len(data.validation)) == (6, 4)


def test_from_folder_says_what_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="train/CLASS/"):
        kd.data.from_folder(tmp_path, device="cpu")
    (tmp_path / "train").mkdir()
    with pytest.raises(FileNotFoundError):
        kd.data.from_folder(tmp_path, device="cpu")
    picture(tmp_path / "train" / "a" / "1.png", 1)
    picture(tmp_path / "test" / "b" / "1.png", 1)
    with pytest.raises(ValueError, match="classes of test must occur in train, got 'b'"):
        kd.data.from_folder(tmp_path, device="cpu")


# Files


def test_kdlib_data_names_the_folder_and_root_goes_before_it(tmp_path, monkeypatch):
    first = written(tmp_path / "a", arrays(seed=1))
    second = written(tmp_path / "b", arrays(seed=2))
    monkeypatch.setenv("KDLIB_DATA", str(first))
    by_variable = kd.data.load("mnist", validation=20, device="cpu")
    by_root = kd.data.load("mnist", validation=20, device="cpu", root=second)
    assert by_variable.fingerprint() == load(first).fingerprint()
    assert by_root.fingerprint() == load(second).fingerprint() != by_variable.fingerprint()


def test_labels_may_come_in_a_column_and_in_bytes_as_keras_has_them(tmp_path):
    original = arrays(3)
    column = original | {
        part: original[part].astype(np.uint8)[:, None] for part in ("y_train", "y_test")
    }
    first = load(written(tmp_path / "a", original, "cifar10"), "cifar10")
    second = load(written(tmp_path / "b", column, "cifar10"), "cifar10")
    assert first.fingerprint() == second.fingerprint()
    assert same(first.test, second.test)


def test_validation_is_5000_images_if_not_given(tmp_path):
    with pytest.raises(ValueError, match="validation must be .*0 to 119, got 5000"):
        kd.data.load("mnist", device="cpu", root=written(tmp_path, arrays()))


@pytest.mark.parametrize("validation", [-1, TRAIN, 2.0, "5"])
def test_a_validation_that_cannot_be_held_out_is_refused(tmp_path, validation):
    with pytest.raises(ValueError, match="^validation must be a whole number from 0 to 119"):
        load(written(tmp_path, arrays()), validation=validation)


def test_an_unknown_name_is_answered_with_the_names_there_are():
    with pytest.raises(ValueError, match="digits, mnist, fashion_mnist, cifar10.*got 'MNIST'"):
        kd.data.load("MNIST")


def test_every_data_set_has_as_many_classes_as_its_name_says(tmp_path):
    for name, classes in (("mnist", 10), ("fashion_mnist", 10), ("cifar10", 10), ("cifar100", 100)):
        data = load(written(tmp_path, arrays(), name), name)
        assert len(set(data.classes)) == classes
        assert data.name == name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x_train": None}, "damaged or lacks x_train"),
        ({"y_test": None}, "damaged or lacks"),
        ({"x_train": arrays()["x_train"] / 255}, "x_train must be uint8 images.*float64"),
        ({"x_test": arrays()["x_test"].reshape(TEST, -1)}, "x_test must be uint8 images"),
        ({"x_test": arrays()["x_test"][:, :5]}, "x_test must have images of x_train's shape"),
        ({"x_test": arrays(3)["x_test"]}, "x_test must have images of x_train's shape"),
        ({"x_test": arrays()["x_test"][:0], "y_test": np.arange(0)}, "x_test must be uint8"),
        ({"y_train": arrays()["y_train"][1:]}, r"y_train must hold 120 integer labels.*\(119,\)"),
        ({"y_train": np.eye(10, dtype=int)[arrays()["y_train"]]}, r"y_train.*\(120, 10\)"),
        ({"y_train": arrays()["y_train"] + 0.5}, "y_train must hold 120 integer labels.*float64"),
        ({"y_train": arrays()["y_train"].astype(str)}, "y_train must hold 120 integer labels"),
        ({"y_train": np.int64(3)}, r"y_train must hold 120 integer labels.*shape \(\)"),
        ({"y_train": np.array([{}] * TRAIN)}, "damaged"),
        ({"y_train": arrays()["y_train"] + 1}, "y_train must hold labels from 0 to 9, got 1 to 10"),
        ({"y_test": arrays()["y_test"] - 1}, "y_test must hold labels from 0 to 9, got -1 to 8"),
    ],
)
def test_a_file_with_the_wrong_contents_is_refused_with_its_name(tmp_path, change, message):
    contents = {name: value for name, value in (arrays() | change).items() if value is not None}
    with pytest.raises(ValueError, match=message) as caught:
        load(written(tmp_path, contents))
    assert str(tmp_path / "mnist.npz") in str(caught.value)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_truncated_or_scrambled_file_is_refused_with_its_name(tmp_path, save):
    path = tmp_path / "mnist.npz"
    save(path, **arrays())
    whole, random = path.read_bytes(), np.random.default_rng(0)
    start = len(whole) // 3  # well inside the training images
    noise = random.integers(0, 256, 40).astype(np.uint8).tobytes()
    scrambled = whole[:start] + noise + whole[start + 40 :]
    short = [whole[:size] for size in (0, 1, 30, len(whole) // 2, len(whole) - 1)]
    for content in [*short, scrambled, b"<html>404</html>"]:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"mnist\.npz is damaged"):
            load(tmp_path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_file_with_changed_bytes_is_refused_or_read_as_it_was(tmp_path, save):
    path = tmp_path / "mnist.npz"
    save(path, **arrays())
    whole, random, refused = path.read_bytes(), np.random.default_rng(0), 0
    original = load(tmp_path).fingerprint()
    for _ in range(300):
        content = bytearray(whole)
        for place in random.integers(0, len(whole), 3):
            content[place] = random.integers(0, 256)
        path.write_bytes(content)
        try:
            assert load(tmp_path).fingerprint() == original
        except ValueError as error:
            assert "mnist.npz" in str(error)
            refused += 1
    assert refused > 250


def test_a_single_array_under_the_name_of_an_npz_is_refused(tmp_path):
    with open(tmp_path / "mnist.npz", "wb") as file:
        np.save(file, arrays()["x_train"])
    with pytest.raises(ValueError, match=r"mnist\.npz is damaged"):
        load(tmp_path)


# torchvision's layout, and downloads


def idx(array):
    """The format of LeCun's files: two zeros, the type, the dimensions, the bytes."""
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
    return header + array.astype(np.uint8).tobytes()


def write_raw(folder, arrays, kind="MNIST"):
    raw = folder / kind / "raw"
    raw.mkdir(parents=True)
    for part, prefix in (("train", "train"), ("test", "t10k")):
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(idx(arrays[f"x_{part}"]))
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(idx(arrays[f"y_{part}"]))
    return raw


class NoNetwork:
    """Every attempt to reach the network fails, half way if there are bytes to give first."""

    def __init__(self, error):
        self.error, self.calls = error, 0

    def __call__(self, *args, **kwargs):
        self.calls += 1
        raise self.error


@pytest.fixture
def no_network(monkeypatch):
    network = NoNetwork(urllib.error.URLError("Temporary failure in name resolution"))
    monkeypatch.setattr("urllib.request.urlopen", network)
    monkeypatch.delenv("KDLIB_DATA", raising=False)
    return network


@pytest.fixture
def cache():
    from pathlib import Path

    return Path(torch.hub.get_dir()) / "kdlib" / "data"


@pytest.mark.parametrize(("name", "kind"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
def test_torchvisions_own_layout_gives_the_same_data_as_the_npz(tmp_path, no_network, name, kind):
    original = arrays()
    write_raw(tmp_path / "raw", shuffled(original), kind)
    first = load(tmp_path / "raw", name)
    second = load(written(tmp_path / "npz", original, name), name)
    assert first.fingerprint() == second.fingerprint()
    assert same(first.test, second.test)
    assert no_network.calls == 0


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


def test_the_npz_goes_before_torchvisions_layout(tmp_path):
    write_raw(tmp_path, arrays(seed=1))
    data = load(written(tmp_path, arrays(seed=2)))
    assert data.fingerprint() == load(written(tmp_path / "b", arrays(seed=2))).fingerprint()


@pytest.mark.parametrize("damage", ["short", "missing"])
def test_a_damaged_torchvision_folder_is_refused_with_its_name(tmp_path, no_network, damage):
    raw = write_raw(tmp_path, arrays())
    file = raw / "train-images-idx3-ubyte"
    if damage == "short":
        file.write_bytes(file.read_bytes()[:-100])
    else:
        file.unlink()
    with pytest.raises(ValueError, match="MNIST/raw is damaged or incomplete.*delete that folder"):
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
def test_without_network_loading_fails_says_what_to_do_and_leaves_nothing_behind(
    no_network, cache, name, error
):
    no_network.error = error
    patience = socket.getdefaulttimeout()
    with pytest.raises(FileNotFoundError) as caught:
        kd.data.load(name, device="cpu")
    for remedy in (f"put {name}.npz", "KDLIB_DATA", 'load("digits")'):
        assert remedy in str(caught.value)
    assert no_network.calls > 0
    assert list(cache.iterdir()) == []
    assert socket.getdefaulttimeout() == patience


def test_without_network_the_message_names_the_root_that_was_looked_into(tmp_path, no_network):
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        load(tmp_path)


def fake_download(monkeypatch, before=lambda root: None):
    """torchvision's MNIST with its download replaced by writing the raw files; counts downloads."""
    from pathlib import Path

    import torchvision

    original, downloads = torchvision.datasets.MNIST, []

    class MNIST(original):
        def __init__(self, root, train=True, download=False):
            if download:
                downloads.append(root)
                before(Path(root))
                write_raw(Path(root), arrays())
            super().__init__(root, train=train)

    MNIST.__name__ = "MNIST"
    monkeypatch.setattr("torchvision.datasets.MNIST", MNIST)
    return downloads


def test_a_download_is_made_once_and_kept_whole(tmp_path, monkeypatch, no_network, cache):
    downloads = fake_download(monkeypatch)
    first = kd.data.load("mnist", validation=20, device="cpu")
    second = kd.data.load("mnist", validation=20, device="cpu")
    assert len(downloads) == 1
    assert [path.name for path in cache.iterdir()] == ["mnist"]
    assert first.fingerprint() == second.fingerprint()
    assert first.fingerprint() == load(written(tmp_path, arrays())).fingerprint()


def test_a_download_that_stops_half_way_leaves_nothing_and_can_be_made_again(
    monkeypatch, no_network, cache
):
    def half(root):
        (root / "MNIST" / "raw").mkdir(parents=True)
        (root / "MNIST" / "raw" / "train-images-idx3-ubyte").write_bytes(b"half a file")
        raise KeyboardInterrupt

    with monkeypatch.context() as once:
        fake_download(once, half)
        with pytest.raises(KeyboardInterrupt):
            kd.data.load("mnist", validation=20, device="cpu")
    assert list(cache.iterdir()) == []
    fake_download(monkeypatch)
    assert len(kd.data.load("mnist", validation=20, device="cpu").train) == 100


def test_two_downloads_at_once_do_not_disturb_each_other(monkeypatch, no_network, cache):
    downloads = fake_download(monkeypatch, lambda root: write_raw(cache / "mnist", arrays()))
    assert len(kd.data.load("mnist", validation=20, device="cpu").train) == 100
    assert len(downloads) == 1
    assert [path.name for path in cache.iterdir()] == ["mnist"]


# Views


def draw(seed=0):
    return torch.Generator().manual_seed(seed)


def noise(n=300, channels=2, height=6, width=8, dtype=torch.float32):
    images = torch.randint(0, 256, (n, channels, height, width), generator=draw(7))
    return images.to(dtype)


def windows(image, pixels, mode):
    """Every window of the padded image, by its offset: slow and plain."""
    _, height, width = image.shape
    padded = np.pad(image, ((0, 0), (pixels, pixels), (pixels, pixels)), mode=mode)
    return {
        (dy, dx): padded[:, dy : dy + height, dx : dx + width]
        for dy in range(2 * pixels + 1)
        for dx in range(2 * pixels + 1)
    }


@pytest.mark.parametrize(("kind", "mode"), [(shift, "edge"), (crop, "reflect")])
@pytest.mark.parametrize("pixels", [1, 2, 5])
def test_shift_and_crop_cut_a_window_out_of_the_padded_image(kind, mode, pixels):
    images = noise(n=400, height=9, width=11)
    views = kind(pixels)(images, draw())
    assert views.shape == images.shape
    offsets = []
    for image, view in zip(images.numpy(), views.numpy(), strict=True):
        found = [o for o, w in windows(image, pixels, mode).items() if np.array_equal(w, view)]
        assert len(found) == 1
        offsets += found
    if pixels <= 2:  # 400 draws reach every one of 25 offsets
        assert len(set(offsets)) == (2 * pixels + 1) ** 2
    down, right = np.array(offsets).T
    assert {down.min(), right.min()} == {0}
    assert {down.max(), right.max()} == {2 * pixels}
    assert abs(np.corrcoef(down, right)[0, 1]) < 0.2  # each direction has a draw of its own


def test_flip_mirrors_about_half_of_the_images_left_to_right():
    images = noise(n=600)
    views = flip()(images, draw()).numpy()
    mirrored = images.numpy()[..., ::-1]
    flipped = np.array([np.array_equal(a, b) for a, b in zip(views, mirrored, strict=True)])
    kept = np.array([np.array_equal(a, b) for a, b in zip(views, images.numpy(), strict=True)])
    assert np.array_equal(flipped, ~kept)
    assert 240 < flipped.sum() < 360


@pytest.mark.parametrize("view", [shift(2), crop(2), flip()], ids=str)
def test_every_image_has_a_draw_of_its_own(view):
    images = noise(n=1).expand(300, -1, -1, -1)
    views = view(images, draw()).flatten(1).unique(dim=0)
    assert len(views) == (2 if str(view) == "flip()" else 25)


@pytest.mark.parametrize("view", [shift(2), crop(3), flip(), crop(2) + flip()], ids=str)
def test_views_depend_on_the_generator_alone_and_move_it_on(view):
    images, generator = noise(), draw(1)
    torch.manual_seed(1)
    first, next_one = view(images, generator), view(images, generator)
    torch.manual_seed(2)
    assert torch.equal(first, view(images, draw(1)))
    assert not torch.equal(first, next_one)
    assert not torch.equal(first, view(images, draw(2)))


def test_views_do_not_draw_from_the_callers_generator_or_write_into_the_images():
    images = noise()
    before = images.clone()
    torch.manual_seed(1)
    (shift(2) + flip())(images, draw())
    found = torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(found, torch.rand(3))
    assert torch.equal(images, before)


def test_a_chain_is_its_links_one_after_the_other():
    images, generator = noise(), draw(3)
    expected = flip()(crop(2)(shift(1)(images, generator), generator), generator)
    chain = shift(1) + crop(2) + flip()
    assert torch.equal(chain(images, draw(3)), expected)
    assert str(chain) == "shift(1) + crop(2) + flip()"
    assert shift(1) + crop(2) + flip() == shift(1) + (crop(2) + flip())
    assert shift(1) + flip() != flip() + shift(1)


def test_a_view_can_only_be_chained_with_a_view():
    with pytest.raises(TypeError):
        shift(1) + 2


@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64]
)
def test_views_keep_dtype_device_and_shape(dtype):
    for channels in (1, 3):
        images = noise(n=5, channels=channels, dtype=dtype)
        views = (shift(2) + crop(2) + flip())(images, draw())
        assert (views.dtype, views.device, views.shape) == (dtype, images.device, images.shape)
        expected = (shift(2) + crop(2) + flip())(images.double(), draw())
        assert torch.equal(views.double(), expected)


@pytest.mark.parametrize("pixels", [0, -1, 1.5, "2", None])
@pytest.mark.parametrize("kind", [shift, crop])
def test_a_view_by_no_whole_number_of_pixels_is_refused(kind, pixels):
    with pytest.raises(ValueError, match=f"pixels must be .*at least 1, got {pixels!r}"):
        kind(pixels)


@pytest.mark.parametrize("kind", [shift, crop])
def test_a_view_must_be_smaller_than_the_image(kind):
    kind(5)(noise(), draw())
    with pytest.raises(ValueError, match="pixels must be smaller than the image, 6 x 8, got 6"):
        kind(6)(noise(), draw())


def test_views_are_for_images_only():
    for bad in (torch.zeros(3, 784), torch.zeros(1, 28, 28)):
        with pytest.raises(ValueError, match=r"images must be \(N, C, H, W\)"):
            shift(1)(bad, draw())


# Split and Data


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"inputs": torch.zeros(0, 2)}, ValueError, "inputs must hold at least one sample"),
        ({"labels": torch.zeros(3)}, TypeError, "labels must be an int64 .*torch.float32"),
        ({"labels": torch.zeros(3, dtype=torch.int32)}, TypeError, "labels must be an int64"),
        ({"labels": [0, 1, 2]}, TypeError, "labels must be an int64 tensor, got list"),
        ({"labels": torch.tensor([0, 1])}, ValueError, "labels must hold one for each of the 3"),
        ({"labels": torch.zeros(3, 1).long()}, ValueError, "labels must hold one for each"),
        ({"labels": torch.tensor([0, -1, 1])}, ValueError, "labels must not be negative, got -1"),
        ({"index": torch.arange(3.0)}, TypeError, "index must be an int64"),
        ({"index": None}, TypeError, "index must be an int64 tensor, got NoneType"),
        ({"index": torch.arange(4)}, ValueError, "index must hold one for each"),
        ({"index": torch.arange(3) - 2}, ValueError, "index must not be negative, got -2"),
    ],
)
def test_a_split_refuses_what_does_not_fit(change, kind, message):
    good = {"inputs": torch.zeros(3, 2), "labels": torch.arange(3), "index": torch.arange(3)}
    Split(**good)
    with pytest.raises(kind, match=message):
        Split(**(good | change))


def test_choosing_nothing_is_refused(digits):
    with pytest.raises(ValueError, match="at least one sample, got an empty split"):
        digits.train.select(digits.train.labels > 9)
    with pytest.raises(ValueError, match="empty split"):
        digits.train.without(range(10))


@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_data_refuses_a_label_beyond_its_classes(part):
    split = Split(torch.zeros(3, 2), torch.arange(3), torch.arange(3))
    parts = dict.fromkeys(("train", "validation", "test"), split)
    Data(**parts, classes=("a", "b", "c"), name="mine")
    parts[part] = replace(split, labels=torch.tensor([0, 3, 1]))
    with pytest.raises(ValueError, match=f"labels of {part} must be below 3.*got 3"):
        Data(**parts, classes=("a", "b", "c"), name="mine")


def test_data_and_splits_say_what_they_hold(digits):
    assert repr(digits.test) == "Split(360 labelled samples of 1 x 28 x 28 on cpu)"
    assert "unlabelled" in repr(digits.test.unlabelled())
    assert repr(replace(digits, validation=None)) == (
        "Data(digits: 1,137 training, no validation and 360 test samples of 10 classes on cpu)"
    )


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
def test_the_real_sets_have_the_shapes_counts_and_levels_that_everybody_knows(
    real_data, monkeypatch, name, shape, mean, deviation
):
    monkeypatch.setenv("KDLIB_DATA", str(real_data))
    data = kd.data.load(name, device="cpu")
    n = 60_000 if shape[0] == 1 else 50_000
    assert [len(s) for s in (data.train, data.validation, data.test)] == [n - 5000, 5000, 10_000]
    assert {s.inputs.shape[1:] for s in (data.train, data.validation, data.test)} == {shape}
    labels = torch.cat([data.train.labels, data.validation.labels])
    counts, test_counts = labels.bincount().tolist(), data.test.labels.bincount().tolist()
    if name == "mnist":
        assert counts == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
        assert test_counts == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    else:
        assert counts == [n // 10] * 10
        assert test_counts == [1000] * 10
    # Pixels of 0 and 255 occur in every channel: their images give mean and deviation back.
    low, high = data.train.inputs.amin((0, 2, 3)), data.train.inputs.amax((0, 2, 3))
    np.testing.assert_allclose(1 / (high - low), deviation, atol=6e-5)
    np.testing.assert_allclose(-low / (high - low), mean, atol=6e-5)
    # Validation images are spread over the classes, not the first rows of a sorted file.
    share = data.validation.labels.bincount(minlength=10) / 500
    assert share.min() > 0.8
    assert share.max() < 1.25


@pytest.mark.real_data
def test_real_mnist_is_the_same_under_another_order_of_its_rows(real_data, tmp_path):
    with np.load(real_data / "mnist.npz") as file:
        original = {name: file[name] for name in ("x_train", "y_train", "x_test", "y_test")}
    first = kd.data.load("mnist", device="cpu", root=real_data)
    second = load(written(tmp_path, shuffled(original)), validation=5000)
    assert first.fingerprint() == second.fingerprint()
    assert same(first.test, second.test)


def test_images_that_would_be_cut_short_and_a_size_of_zero_are_refused(tmp_path):
    folder = tmp_path / "train" / "a"
    folder.mkdir(parents=True)
    deep = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000
    Image.fromarray(deep).save(folder / "deep.png")
    with pytest.raises(ValueError, match=r"deep\.png has pixels of mode"):
        kd.data.from_folder(tmp_path)
    with pytest.raises(ValueError, match="size must be a whole number of at least 1, got 0"):
        kd.data.from_folder(tmp_path, size=0)
