"""kdlib/data/own.py and views.py: a Dataset of torch, views of one's own, fingerprints that are kept."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, TensorDataset

import kdlib as kd
from kdlib.data import splits
from kdlib.data.splits import Split
from kdlib.identity import weights_hash


class Pairs(Dataset):
    def __init__(self, pairs, **more):
        self.pairs = pairs
        vars(self).update(more)

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, i):
        return self.pairs[i]


PIXELS = np.random.default_rng(0).integers(0, 256, (12, 6, 6, 3)).astype("uint8")
LABELS = np.arange(12) % 3


def from_pairs(images, **options):
    pairs = list(zip(images, LABELS.tolist(), strict=True))
    return kd.data.from_dataset(Pairs(pairs), device="cpu", **options)


@pytest.mark.parametrize(
    "image_of",
    [Image.fromarray, np.asarray, lambda x: torch.from_numpy(x).permute(2, 0, 1)],
    ids=["PIL", "array", "uint8 tensor"],
)
def test_a_dataset_gives_what_its_arrays_do_in_their_order(image_of):
    expected = kd.data.from_arrays(PIXELS, LABELS, device="cpu", validation=4, name="dataset")
    found = from_pairs([image_of(x) for x in PIXELS], validation=4)
    assert found.fingerprint() == expected.fingerprint() and found.classes == ("0", "1", "2")
    assert torch.equal(found.train.index, expected.train.index)


def test_pictures_with_a_palette_are_read_as_their_colours():
    pictures = [Image.fromarray(x).quantize(16) for x in PIXELS]
    assert pictures[0].mode == "P"
    expected = from_pairs([np.asarray(picture.convert("RGB")) for picture in pictures])
    assert torch.equal(from_pairs(pictures).train.inputs, expected.train.inputs)


def test_grey_pictures_and_floating_point_tensors_are_taken_as_they_are():
    grey = from_pairs([Image.fromarray(x[..., 0]) for x in PIXELS])
    assert grey.train.inputs.shape == (12, 1, 6, 6)
    images = torch.randn(12, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(from_pairs(images).train.inputs, images)


def test_a_dataset_has_a_test_part_and_names_of_classes():
    pairs = list(zip(PIXELS, LABELS.tolist(), strict=True))
    train, test = Pairs(pairs, classes=["a", "b", "c"]), Pairs(pairs[:5])
    data = kd.data.from_dataset(train, test, device="cpu", name="mine")
    assert (len(data.test), data.classes, data.name) == (5, ("a", "b", "c"), "mine")
    assert kd.data.from_dataset(train, classes=["x", "y", "z"], device="cpu").classes == (
        "x",
        "y",
        "z",
    )


def test_names_of_classes_are_those_of_what_a_subset_is_part_of():
    whole = Pairs(list(zip(PIXELS, LABELS.tolist(), strict=True)), classes=["a", "b", "c"])
    part = torch.utils.data.Subset(whole, range(6))
    assert kd.data.from_dataset(part, device="cpu").classes == ("a", "b", "c")


def test_a_loaders_dataset_trains(tmp_path):
    loader = DataLoader(
        TensorDataset(torch.randn(40, 1, 28, 28), torch.arange(40) % 10), batch_size=8
    )
    data = kd.data.from_dataset(loader.dataset, device="cpu")
    kd.fit(
        kd.models.mlp(8), kd.CrossEntropy(), data, kd.Recipe(epochs=1, batch_size=8), progress=False
    )


@pytest.mark.parametrize(
    ("dataset", "error", "message"),
    [
        (
            DataLoader(Pairs([(PIXELS[0], 0)])),
            TypeError,
            r"train must be a dataset.*pass a DataLoader's \.dataset",
        ),
        (Pairs([]), TypeError, "length above 0"),
        (iter([1]), TypeError, "train must be a dataset of .image, label."),
        (Pairs([PIXELS[0]]), TypeError, "pairs .image, label., got ndarray for sample 0"),
        (
            Pairs([(PIXELS[0], 0, 1)]),
            TypeError,
            "pairs .image, label., got tuple of 3 for sample 0",
        ),
        (
            Pairs([(PIXELS[0], 0), (PIXELS[0][:4], 1)]),
            ValueError,
            r"one shape: sample 1 has \(4, 6, 3\), the first \(6, 6, 3\)",
        ),
        (
            Pairs([(PIXELS[0], "cat")]),
            TypeError,
            "label of sample 0 must be an integer, got 'cat'",
        ),
        (Pairs([(PIXELS[0], 1.5)]), TypeError, "must be an integer, got 1.5"),
        (Pairs([(Image.new("I;16", (6, 6)), 0)]), ValueError, "an image has pixels of mode 'I;16'"),
        (
            Pairs([(PIXELS[0], torch.tensor([0, 1]))]),
            TypeError,
            r"must be an integer, got tensor\(\[0, 1",
        ),
        (
            Pairs([(PIXELS[0] / 255.0, 0)]),
            TypeError,
            r"must be tensors \(C, H, W\), got a numpy array",
        ),
        (
            Pairs([(PIXELS[0].astype(int), 0)]),
            TypeError,
            "x_train must be uint8 images or floating",
        ),
    ],
)
def test_what_is_not_a_dataset_of_images_is_refused(dataset, error, message):
    with pytest.raises(error, match=message):
        kd.data.from_dataset(dataset)


# Views of one's own


def flipped_down(images, generator):
    down = torch.rand(len(images), generator=generator) < 0.5
    return torch.where(down[:, None, None, None], images.flip(-2), images)


def weights_after(data, augment, seed=0):
    student = kd.models.mlp(16, depth=1)
    recipe = kd.Recipe(epochs=2, batch_size=32, augment=augment)
    kd.fit(student, kd.CrossEntropy(), data, recipe, seed=seed, progress=False)
    return weights_hash(student)


def test_any_function_of_images_and_generator_gives_views(digits):
    few = digits.limit(100)
    once = weights_after(few, flipped_down)
    assert once == weights_after(few, flipped_down) != weights_after(few, flipped_down, seed=1)
    assert len({once, weights_after(few, None), weights_after(few, kd.data.shift(1))}) == 3
    assert weights_after(few, lambda images, generator: images) == weights_after(few, None)


def test_views_of_ones_own_are_told_apart_by_their_code(digits, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    few = digits.limit(64)
    for k in (1, 2, 1):
        views = eval(f"lambda images, generator: {k} * images", {})
        recipe = kd.Recipe(epochs=1, batch_size=32, augment=views)
        kd.keep(lambda: kd.models.mlp(8), kd.CrossEntropy(), few, recipe)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 2
    assert capsys.readouterr().out.count("loaded") == 1


def test_a_table_of_logits_is_refused_beside_views_of_ones_own(digits):
    with pytest.raises(ValueError, match="teacher must be a network where augment is set"):
        kd.fit(
            kd.models.mlp(8),
            kd.LogitMatching(torch.zeros(2000, 10)),
            digits.limit(64),
            kd.Recipe(epochs=1, augment=flipped_down),
        )


@pytest.mark.parametrize(
    ("augment", "error", "message"),
    [
        (
            lambda x, g: x[:, :, 1:],
            ValueError,
            r"augment must keep shape and dtype, .*28, 28.*27, 28",
        ),
        (
            lambda x, g: x.double(),
            ValueError,
            "augment must keep shape and dtype, .*float32.*float64",
        ),
        (lambda x, g: x[:5], ValueError, "augment must keep shape and dtype"),
        (
            lambda x, g: x.numpy(),
            TypeError,
            "augment must return a tensor, got ndarray from <function",
        ),
        (lambda x, g: None, TypeError, "augment must return a tensor, got NoneType"),
    ],
)
def test_views_of_another_shape_or_dtype_are_refused(digits, augment, error, message):
    with pytest.raises(error, match=message):
        weights_after(digits.limit(64), augment)


@pytest.mark.parametrize(
    "augment", [3, "shift", lambda images: images, lambda a, b, c: a, kd.data.shift]
)
def test_what_is_not_a_function_of_images_and_generator_is_refused_at_once(augment):
    with pytest.raises(
        TypeError, match=r"augment must be kd\.data\.shift, crop or flip, or a function"
    ):
        kd.Recipe(augment=augment)


# Fingerprints


@pytest.fixture
def hashed(monkeypatch):
    calls = []

    def counting(parts):
        calls.append(parts)
        return "0" * 63 + str(len(calls) % 10)

    monkeypatch.setattr(splits, "tensors_hash", counting)
    return calls


def a_split():
    return Split(torch.zeros(4, 2), torch.zeros(4, dtype=torch.int64), torch.arange(4))


def test_a_fingerprint_is_computed_once_a_split(hashed):
    split = a_split()
    for _ in range(3):
        split.fingerprint()
    assert len(hashed) == 1
    replace(split).fingerprint()
    assert len(hashed) == 2


@pytest.mark.parametrize("name", ["inputs", "labels", "index"])
def test_a_tensor_that_was_changed_in_place_is_hashed_again(name):
    split = a_split()
    before = split.fingerprint()
    getattr(split, name)[0] += 1
    assert split.fingerprint() != before
    getattr(split, name)[0] -= 1
    assert split.fingerprint() == before


def test_a_copy_of_a_split_is_hashed_by_itself():
    import copy

    split = a_split()
    before = split.fingerprint()
    twin = copy.deepcopy(split)
    twin.inputs[0] += 1
    assert twin.fingerprint() != before == split.fingerprint()


def test_a_split_knows_its_device_and_whether_it_has_labels():
    split = a_split()
    data = kd.data.Data(split, split.unlabelled(), None, ("a",), "mine")
    assert split.labelled and not split.unlabelled().labelled and split.device.type == "cpu"
    assert [data.labelled(part) for part in ("train", "validation", "test")] == [True, False, False]
