"""kdlib/data/own.py: data sets of a reader's own arrays, folders of images and torch Datasets."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from random_arrays import TRAIN, arrays, normalised, shuffled
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

import kdlib as kd

# Arrays


def test_from_arrays_keeps_the_order_of_arrays_or_tensors_and_index_is_the_row():
    a = arrays()
    data = kd.data.from_arrays(*a.values(), validation=30, device="cpu")
    joined = torch.cat([data.train.index, data.validation.index])
    assert sorted(joined.tolist()) == list(range(TRAIN))
    for split in (data.train, data.validation):
        assert split.index.tolist() == sorted(split.index.tolist())
        assert split.labels.tolist() == a["y_train"][split.index.numpy()].tolist()
    assert data.test.labels.tolist() == a["y_test"].tolist()
    assert kd.data.from_arrays(*a.values(), device="cpu").validation is None
    tensors = [torch.from_numpy(value) for value in a.values()]
    again = kd.data.from_arrays(*tensors, validation=30, device="cpu")
    assert again.fingerprint() == data.fingerprint()


@pytest.mark.parametrize("validation", [0, 20, 100])
@pytest.mark.parametrize("channels", [None, 1, 3])
def test_from_arrays_normalises_by_all_training_images_and_puts_channels_first(
    channels, validation
):
    a = arrays(channels)
    data = kd.data.from_arrays(*a.values(), device="cpu", validation=validation)
    train, test = normalised(a)
    parts = [data.train] + [data.validation] * (validation > 0)
    for split, expected in (*((part, train) for part in parts), (data.test, test)):
        assert split.inputs.dtype == torch.float32
        np.testing.assert_allclose(split.inputs, expected[split.index], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_from_arrays_only_casts_floating_point_inputs(dtype):
    inputs = np.random.default_rng(0).normal(3, 5, (20, 2, 3)).astype(dtype)
    data = kd.data.from_arrays(inputs, np.arange(20) % 4, device="cpu")
    assert torch.equal(data.train.inputs, torch.from_numpy(inputs.astype(np.float32)))
    assert data.train.inputs.dtype == torch.float32


@pytest.mark.parametrize("labelled", [True, False])
def test_from_arrays_holds_out_the_same_samples_in_any_order_of_the_rows(labelled):
    parts = []
    for some in (arrays(), shuffled(arrays())):
        labels = some["y_train"] if labelled else None
        data = kd.data.from_arrays(some["x_train"], labels, validation=30, device="cpu")
        assert len(data.validation) == 30
        parts.append({row.tobytes() for row in data.validation.inputs.numpy()})
    assert parts[0] == parts[1]


def test_from_arrays_needs_neither_labels_nor_test_nor_class_names():
    inputs, labels = np.random.default_rng(0).normal(size=(12, 5)), np.arange(12) % 3
    bare = kd.data.from_arrays(inputs, None, device="cpu")
    assert (bare.train.labels, bare.test, bare.classes) == (None, None, ())
    assert kd.data.from_arrays(inputs, labels, device="cpu").classes == ("0", "1", "2")
    four = kd.data.from_arrays(inputs, labels, classes=["a", "b", "c", "d"], device="cpu")
    assert four.classes == ("a", "b", "c", "d")


OK, Y = np.zeros((6, 4, 4), np.uint8) + np.arange(6, dtype=np.uint8)[:, None, None], np.arange(6)


@pytest.mark.parametrize(
    ("given", "kind", "message"),
    [
        ({"x_train": OK.astype(int)}, TypeError, "x_train must be uint8 images or floating"),
        ({"x_train": OK.reshape(6, 16)}, ValueError, r"x_train must be images \(N, H, W\)"),
        ({"x_train": OK[:0], "y_train": Y[:0]}, ValueError, "x_train must be .*at least one"),
        ({"x_train": np.zeros(6)}, ValueError, r"x_train must be \(N, ...\)"),
        ({"y_train": Y[:5]}, ValueError, "y_train must hold one label for each of the 6 .*got 5"),
        ({"y_train": Y.astype(float)}, TypeError, "y_train must hold integers, got float64"),
        ({"y_train": Y - 1}, ValueError, "y_train must not be negative, got -1"),
        ({"x_test": OK[:, :3], "y_test": Y}, ValueError, "x_test must have x_train's dtype and"),
        ({"x_test": OK / 1.0, "y_test": Y}, ValueError, "x_test must have x_train's dtype and"),
        ({"x_test": OK, "y_test": Y[:2]}, ValueError, "y_test must hold one label for each of"),
        ({"y_test": Y}, ValueError, "y_test must come with x_test"),
        ({"classes": ["a", "b"]}, ValueError, "labels of train must be below 2.*got 5"),
        ({"validation": 6}, ValueError, "validation must be .*0 to 5, got 6"),
        ({"validation": -1}, ValueError, "validation must be .*got -1"),
        ({"validation": 0.5}, ValueError, "validation must be a whole number.*got 0.5"),
        (
            {"x_train": np.arange(12).reshape(6, 2) - 3},
            ValueError,
            r"tokens from 0 .*got -3; .astype",
        ),
        ({"x_train": np.ma.masked_equal(OK, 1)}, TypeError, "x_train must not have masked values"),
        ({"y_train": np.ma.masked_equal(Y, 1)}, TypeError, "y_train must not have masked values"),
        ({"x_train": [[0.5], [0.5, 1.0]]}, ValueError, "x_train must be one array, got rows"),
        (
            {"x_train": TensorDataset(torch.zeros(6, 2))},
            TypeError,
            r"kd\.data\.from_dataset\(dataset\)",
        ),
        ({"x_train": DataLoader(TensorDataset(torch.zeros(6)))}, TypeError, r"\(loader\.dataset\)"),
    ],
)
def test_from_arrays_refuses_arrays_that_do_not_fit(given, kind, message):
    with pytest.raises(kind, match=message):
        kd.data.from_arrays(**({"x_train": OK, "y_train": Y, "device": "cpu"} | given))


FLAWS = {
    "NaN": lambda x: x[7].fill_(torch.nan),
    "infinity": lambda x: x[7, 0].fill_(torch.inf),
    "too large for float32": lambda x: x[7, 1].fill_(1e60),
}


@pytest.mark.parametrize("flaw", FLAWS.values(), ids=FLAWS)
def test_inputs_that_are_not_finite_are_refused_with_their_row(flaw):
    inputs, labels = torch.randn(12, 4, dtype=torch.float64), torch.arange(12) % 2
    flaw(inputs)
    makes = {
        "train": lambda: kd.data.from_arrays(inputs, labels, device="cpu"),
        "test": lambda: kd.data.from_arrays(inputs[:5], None, inputs, labels, device="cpu"),
        "train ": lambda: kd.data.from_dataset(TensorDataset(inputs, labels), device="cpu"),
        "validation": lambda: replace(
            kd.data.from_arrays(inputs[:5], labels[:5], device="cpu"),
            validation=kd.data.Split(inputs.float(), labels, torch.arange(12)),
        ),
    }
    for part, make in makes.items():
        with pytest.raises(ValueError, match=f"inputs of {part.strip()} must be finite.*index 7 "):
            make()


KINDS = {
    "bfloat16": lambda x: x.bfloat16(),
    "big-endian": lambda x: x.numpy().astype(">f4"),
    "with a gradient": lambda x: x.clone().requires_grad_(),
    "backwards in memory": lambda x: x.flip(0).numpy()[::-1],
    "columns first": lambda x: np.asfortranarray(x.numpy()),
    "read only": lambda x: np.broadcast_to(x.numpy(), x.shape),
    "a list": lambda x: x.tolist(),
    "sparse": lambda x: x.to_sparse(),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_arrays_are_read_however_they_lie_in_memory(kind):
    inputs = torch.randint(-8, 9, (12, 4)).float()
    data = kd.data.from_arrays(kind(inputs), np.arange(12).astype(">i8") % 2, device="cpu")
    assert torch.equal(data.train.inputs, inputs)
    assert data.train.labels.tolist() == [0, 1] * 6


def test_integers_of_two_dimensions_are_tokens_and_stay_what_they_are():
    tokens = torch.randint(50, (12, 7))
    for dtype in (torch.int64, torch.int32):
        data = kd.data.from_arrays(
            tokens.to(dtype), torch.arange(12) % 2, validation=2, device="cpu"
        )
        assert data.train.inputs.dtype == torch.int64
        assert torch.equal(data.train.inputs, tokens[data.train.index])
    again = kd.data.from_arrays(tokens + 1, torch.arange(12) % 2, validation=2, device="cpu")
    assert again.fingerprint() != data.fingerprint()
    pairs = TensorDataset(tokens, torch.arange(12) % 2)
    assert torch.equal(kd.data.from_dataset(pairs, device="cpu").train.inputs, tokens)


# A folder of images


def picture(path, value, mode="L", size=(5, 4)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path)


def test_from_folder_sorts_grey_images_by_class_and_name(tmp_path):
    for value, name in enumerate(["dog/b", "cat/z", "cat/a", "dog/a"]):
        picture(tmp_path / "train" / f"{name}.png", 10 * value)
    picture(tmp_path / "test" / "dog" / "x.png", 30)
    data = kd.data.from_folder(tmp_path, device="cpu")
    assert data.classes == ("cat", "dog")
    assert data.name == tmp_path.name
    assert data.train.inputs.shape == (4, 1, 4, 5)
    assert data.train.labels.tolist() == [0, 0, 1, 1]
    assert data.test.labels.tolist() == [1]  # a test class keeps its number, even if it is alone
    levels = np.array([20.0, 10.0, 30.0, 0.0])  # cat/a, cat/z, dog/a, dog/b
    expected = (levels - levels.mean()) / levels.std()
    np.testing.assert_allclose(data.train.inputs[:, 0, 0, 0], expected, rtol=1e-5)
    np.testing.assert_allclose(data.test.inputs[0, 0, 0, 0], expected[2], rtol=1e-5)


def test_a_folders_own_images_come_before_those_of_its_subfolders(tmp_path):
    for value, name in enumerate(["a/z", "a/deep/1", "b/1"]):
        picture(tmp_path / "train" / f"{name}.png", 10 * value)
    first = kd.data.from_folder(tmp_path, device="cpu").train.inputs[:, 0, 0, 0]
    assert first.argsort().tolist() == [0, 1, 2]


def test_from_folder_makes_three_channels_as_soon_as_one_image_is_coloured(tmp_path):
    picture(tmp_path / "train" / "a" / "1.png", 200)
    picture(tmp_path / "train" / "b" / "1.png", (10, 20, 30), "RGB")
    data = kd.data.from_folder(tmp_path, device="cpu")
    assert data.train.inputs.shape == (2, 3, 4, 5)
    np.testing.assert_allclose(data.train.inputs[:, :, 0, 0], [[1, 1, 1], [-1, -1, -1]], rtol=1e-5)
    assert data.test is None


def test_from_folder_turns_a_photograph_as_its_camera_says(tmp_path):
    upright = Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3))
    orientation = Image.Exif()
    orientation[0x0112] = 6  # the camera was turned by a quarter
    for name in ("a", "b"):
        (tmp_path / "train" / name).mkdir(parents=True)
        upright.save(tmp_path / "train" / name / "1.png", exif=orientation)
    (picture, _) = kd.data.from_folder(tmp_path, device="cpu").train.inputs
    assert picture.shape == (1, 3, 2) and picture[0, 0, 0] > picture[0, 0, 1]


def test_from_folder_needs_a_size_if_images_differ_and_resizes_to_it(tmp_path):
    picture(tmp_path / "train" / "a" / "1.png", 1)
    picture(tmp_path / "train" / "b" / "2.png", 2, size=(7, 4))
    with pytest.raises(ValueError, match=r"size must be given.*2.png has \(4, 7\).*\(4, 5\)"):
        kd.data.from_folder(tmp_path, device="cpu")
    assert kd.data.from_folder(tmp_path, size=8, device="cpu").train.inputs.shape == (2, 1, 8, 8)
    with pytest.raises(ValueError, match="size must be a whole number of at least 1, got 0"):
        kd.data.from_folder(tmp_path, size=0)


def test_from_folder_holds_images_out(tmp_path):
    for value in range(10):
        picture(tmp_path / "train" / "ab"[value % 2] / f"{value}.png", value)
    data = kd.data.from_folder(tmp_path, validation=4, device="cpu")
    assert (len(data.train), len(data.validation)) == (6, 4)


def test_from_folder_names_the_folder_or_class_that_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="train/CLASS/"):
        kd.data.from_folder(tmp_path, device="cpu")
    (tmp_path / "train").mkdir()
    with pytest.raises(FileNotFoundError):
        kd.data.from_folder(tmp_path, device="cpu")
    picture(tmp_path / "train" / "a" / "1.png", 1)
    picture(tmp_path / "test" / "b" / "1.png", 1)
    with pytest.raises(ValueError, match="classes of test must occur in train, got 'b'"):
        kd.data.from_folder(tmp_path, device="cpu")


@pytest.mark.parametrize("coloured", [False, True])
def test_from_folder_refuses_images_that_would_be_truncated(tmp_path, coloured):
    if coloured:
        picture(tmp_path / "train" / "_a" / "1.png", (10, 20, 30), "RGB", (8, 8))
    folder = tmp_path / "train" / "a"
    folder.mkdir(parents=True)
    Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000).save(folder / "deep.png")
    with pytest.raises(ValueError, match=r"deep\.png has pixels of mode"):
        kd.data.from_folder(tmp_path)


LEFT_BEHIND = [
    "train/.ipynb_checkpoints/a-checkpoint.png",
    "train/a/.ipynb_checkpoints/1-checkpoint.png",
    "train/a/deep/.ipynb_checkpoints/1-checkpoint.png",
    "train/__MACOSX/a/1.png",
    "train/b/__MACOSX/1.png",
    "train/a/._1.png",
    "train/a/.DS_Store",
    "train/b/Thumbs.db",
    "train/b/@eaDir/1.png",
    "test/.ipynb_checkpoints/1-checkpoint.png",
    "test/b/desktop.ini",
]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("file", LEFT_BEHIND)
def test_what_other_programs_leave_behind_is_neither_a_class_nor_an_image(tmp_path, file):
    for name in ("train/a/1", "train/a/deep/2", "train/b/1", "test/b/1"):
        picture(tmp_path / f"{name}.png", len(name))
    plain = kd.data.from_folder(tmp_path, device="cpu")
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_bytes((tmp_path / "train/a/1.png").read_bytes())
    data = kd.data.from_folder(tmp_path, device="cpu")
    assert data.classes == plain.classes == ("a", "b")
    assert data.fingerprint() == plain.fingerprint() and len(data.test) == 1


def test_other_files_and_a_validation_folder_are_counted_in_one_line_each(tmp_path):
    for name in ("train/a/1.png", "train/b/1.gif", "train/b/2.jfif", "val/a/1.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        kind = "JPEG" if name.endswith("jfif") else None
        Image.new("L", (5, 4), 10 * len(name)).save(path, format=kind)
    for name in ("train/a/2.heic", "train/b/3.heic", "train/notes.txt", "train/b/README"):
        (tmp_path / name).touch()
    with pytest.warns(UserWarning) as warned:
        data = kd.data.from_folder(tmp_path, device="cpu")
    assert len(data.train) == 3
    files, folder = (str(warning.message) for warning in warned)
    assert files.endswith(
        "passed over 4 files that cannot be read as images: 2 .heic, 1 .txt, 1 without an ending"
    )
    assert folder.endswith(
        "passed over val/; validation=N holds N images of train/ out of training"
    )
    assert {warning.filename for warning in warned} == {__file__}


def test_one_other_file_is_counted_as_one(tmp_path):
    for name in "ab":
        picture(tmp_path / "train" / name / "1.png", ord(name))
    (tmp_path / "train" / "a" / "1.heic").touch()
    with pytest.warns(UserWarning, match=r"passed over 1 file that cannot .* images: 1 \.heic"):
        kd.data.from_folder(tmp_path, device="cpu")


def test_pictures_behind_a_link_are_read_once_and_a_link_to_nothing_is_named(tmp_path):
    for name in ("train/a/deep/1", "train/a/z", "train/b/1", "elsewhere/2"):
        picture(tmp_path / f"{name}.png", len(name))
    link(tmp_path / "train" / "b" / "more", tmp_path / "elsewhere")
    link(tmp_path / "train" / "a" / "deep" / "up", tmp_path / "train" / "a")
    assert kd.data.from_folder(tmp_path, device="cpu").train.labels.tolist() == [0, 0, 1, 1]
    link(tmp_path / "train" / "b" / "lost.png", tmp_path / "nowhere.png")
    with pytest.raises(ValueError, match=r"lost\.png cannot be read as an image"):
        kd.data.from_folder(tmp_path, device="cpu")


def link(path, target):
    try:
        path.symlink_to(target)
    except OSError:
        pytest.skip("this system lets no one make links")


def test_a_class_without_a_readable_image_is_named(tmp_path):
    picture(tmp_path / "train" / "a" / "1.png", 1)
    (tmp_path / "train" / "empty").mkdir()
    (tmp_path / "train" / "empty" / "1.heic").touch()
    with pytest.raises(FileNotFoundError, match=r"images in every class.*empty has none"):
        kd.data.from_folder(tmp_path, device="cpu")


DAMAGES = {
    "cut short": lambda file: file.write_bytes(file.read_bytes()[:-400]),
    "empty": lambda file: file.write_bytes(b""),
    "not an image": lambda file: file.write_text("<html>not found</html>"),
    "damaged within": lambda file: file.write_bytes(
        file.read_bytes()[:60] + bytes(30) + file.read_bytes()[90:]
    ),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_an_image_that_cannot_be_read_is_named(tmp_path, damage):
    noise = np.random.default_rng(0).integers(0, 256, (2, 32, 32), dtype=np.uint8)
    for name, pixels in zip("ab", noise, strict=True):
        (tmp_path / "train" / name).mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / "train" / name / "1.png")
    damage(tmp_path / "train" / "b" / "1.png")
    with pytest.raises(
        ValueError, match=r"b/1\.png cannot be read as an image.*replace it"
    ) as seen:
        kd.data.from_folder(tmp_path, device="cpu")
    assert str(seen.value).count("cannot be read") == 1


def test_an_image_of_too_many_pixels_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5)
    picture(tmp_path / "train" / "a" / "huge.png", 1)
    with pytest.raises(ValueError, match=r"huge\.png cannot be read as an image"):
        kd.data.from_folder(tmp_path, device="cpu")


def drawn(mode):
    """Black ink on a transparent ground: a line, in one of the ways to be transparent."""
    image = Image.new("LA", (6, 6), (0, 0))
    image.paste((0, 255), (2, 1, 3, 5))
    if mode == "LA":
        return image, {}
    if mode == "RGBA":
        return image.convert("RGBA"), {}
    ink = Image.new("L", (6, 6), 0)  # 0 stands for transparent
    ink.paste(7, (2, 1, 3, 5))
    if mode == "L":
        return ink, {"transparency": 0}
    if mode == "RGB":
        return ink.convert("RGB"), {"transparency": (0, 0, 0)}
    paletted = ink.convert("P")
    return paletted, {"transparency": 0}


@pytest.mark.parametrize("mode", ["LA", "RGBA", "L", "RGB", "P"])
def test_transparent_images_are_laid_on_white(tmp_path, mode):
    image, options = drawn(mode)
    for name, turned in (("a", image), ("b", image.rotate(90))):
        (tmp_path / "train" / name).mkdir(parents=True)
        turned.save(tmp_path / "train" / name / "1.png", **options)
    found = kd.data.from_folder(tmp_path, device="cpu").train.inputs
    assert len(found.unique()) == 2  # ink and white
    line = found[0] < 0
    expected = torch.zeros(6, 6, dtype=bool)
    expected[1:5, 2] = True
    assert torch.equal(line, expected.expand_as(line))
    assert found.shape[1] == (1 if mode in ("L", "LA") else 3)
    pairs = Pairs([(Image.open(tmp_path / "train" / name / "1.png"), 0) for name in "ab"])
    same = kd.data.from_dataset(pairs, device="cpu").train.inputs
    assert torch.equal(same[0, 0] < 0, expected)


def test_a_print_shops_colours_are_read(tmp_path):
    for name, colour in (("a", (0, 0, 0, 0)), ("b", (255, 255, 255, 0))):
        (tmp_path / "train" / name).mkdir(parents=True)
        Image.new("CMYK", (6, 6), colour).save(tmp_path / "train" / name / "1.jpg")
    found = kd.data.from_folder(tmp_path, device="cpu").train.inputs
    assert found.shape == (2, 3, 6, 6) and (found[0] > 0).all() and (found[1] < 0).all()


def test_a_tilde_is_the_readers_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    for name in "ab":
        picture(tmp_path / "own" / "train" / name / "1.png", ord(name))
    assert len(kd.data.from_folder("~/own", device="cpu").train) == 2
    (tmp_path / "texts" / "ptb").mkdir(parents=True)
    for part in ("train", "valid", "test"):
        (tmp_path / "texts" / "ptb" / f"{part}.txt").write_text(" a b c \n" * 50)
    assert len(kd.text.ptb(root="~/texts", device="cpu").train) > 0


# A torch Dataset


class Pairs(list, Dataset):
    """A dataset of these pairs."""


PIXELS = np.random.default_rng(0).integers(0, 256, (12, 6, 6, 3)).astype("uint8")
LABELS = np.arange(12) % 3
PAIRS = Pairs(zip(PIXELS, LABELS.tolist(), strict=True))


def from_images(images, **options):
    pairs = Pairs(zip(images, LABELS.tolist(), strict=True))
    return kd.data.from_dataset(pairs, device="cpu", **options)


@pytest.mark.parametrize(
    "image_of",
    [Image.fromarray, np.asarray, lambda x: torch.from_numpy(x).permute(2, 0, 1)],
    ids=["PIL", "array", "uint8 tensor"],
)
def test_a_dataset_gives_the_same_data_as_its_arrays(image_of):
    expected = kd.data.from_arrays(PIXELS, LABELS, device="cpu", validation=4, name="dataset")
    found = from_images([image_of(x) for x in PIXELS], validation=4)
    assert found.fingerprint() == expected.fingerprint() and found.classes == ("0", "1", "2")
    assert torch.equal(found.train.index, expected.train.index)


def test_images_with_a_palette_are_read_as_their_colours():
    pictures = [Image.fromarray(x).quantize(16) for x in PIXELS]
    assert pictures[0].mode == "P"
    expected = from_images([np.asarray(picture.convert("RGB")) for picture in pictures])
    assert torch.equal(from_images(pictures).train.inputs, expected.train.inputs)


def test_grey_images_stay_grey_and_floating_point_tensors_unchanged():
    grey = from_images([Image.fromarray(x[..., 0]) for x in PIXELS])
    assert grey.train.inputs.shape == (12, 1, 6, 6)
    images = torch.randn(12, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(from_images(images).train.inputs, images)


def test_a_dataset_may_have_a_test_part_and_class_names():
    train, test = Pairs(PAIRS), Pairs(PAIRS[:5])
    train.classes = ["a", "b", "c"]
    data = kd.data.from_dataset(train, test, device="cpu", name="mine")
    assert (len(data.test), data.classes, data.name) == (5, ("a", "b", "c"), "mine")
    renamed = kd.data.from_dataset(train, classes=["x", "y", "z"], device="cpu")
    assert renamed.classes == ("x", "y", "z")
    part = kd.data.from_dataset(Subset(train, range(6)), device="cpu")
    assert part.classes == ("a", "b", "c")


def test_a_test_part_that_numbers_other_classes_is_refused():
    train, test = Pairs(PAIRS), Pairs(PAIRS[:5])
    train.classes, test.classes = ["a", "b", "c"], ["b", "c"]  # its own folder lacks a
    with pytest.raises(ValueError, match=r"train's classes, \['a', 'b', 'c'\], got \['b', 'c'\]"):
        kd.data.from_dataset(train, test, device="cpu")
    with pytest.raises(ValueError, match="test must have train's classes"):
        kd.data.from_dataset(Subset(train, range(6)), Subset(test, range(4)), device="cpu")


class Failing(Pairs):
    def __getitem__(self, i):
        return super().__getitem__(i) if i < 7 else self.broken()


def cut_picture(tmp_path):
    Image.fromarray(PIXELS[0]).save(tmp_path / "1.png")
    whole = (tmp_path / "1.png").read_bytes()
    (tmp_path / "1.png").write_bytes(whole[:90])
    return Image.open(tmp_path / "1.png"), 0  # Pillow reads the rest only when it is needed


def test_a_sample_that_cannot_be_read_is_named(tmp_path):
    pairs = Failing(PAIRS)
    for broken in (
        lambda: cut_picture(tmp_path),
        lambda: Image.open(tmp_path / "none.png"),
        dict.fromkeys,
    ):
        pairs.broken = broken
        with pytest.raises(
            ValueError, match=r"train: sample 7 cannot be read \(\w+Error: .*Subset"
        ):
            kd.data.from_dataset(pairs, device="cpu")


def test_a_network_trains_on_a_loaders_dataset():
    pairs = TensorDataset(torch.randn(40, 1, 28, 28), torch.arange(40) % 10)
    data = kd.data.from_dataset(DataLoader(pairs, batch_size=8).dataset, device="cpu")
    recipe = kd.Recipe(epochs=1, batch_size=8)
    kd.fit(kd.models.mlp(8), kd.CrossEntropy(), data, recipe, progress=False)


class Stream(IterableDataset):
    def __iter__(self):
        yield PIXELS[0], 0


def test_reading_shows_how_far_it_is_unless_it_should_not(capsys):
    kd.data.from_dataset(PAIRS, device="cpu", progress=False)
    assert capsys.readouterr().err == ""
    kd.data.from_dataset(PAIRS, device="cpu")
    assert "reading train" in capsys.readouterr().err


ONE, LABEL = PIXELS[0], "label of sample 0 must be an integer, got "


@pytest.mark.parametrize(
    ("dataset", "error", "message"),
    [
        (DataLoader(Pairs([(ONE, 0)])), TypeError, r"train must be a dat.*DataLoader's \.dataset"),
        (Pairs([]), TypeError, "length above 0"),
        (iter([1]), TypeError, "train must be a dataset of .image, label."),
        (Pairs([{"image": ONE, "label": 0}]), TypeError, "dict with 'image', 'label' for sample 0"),
        (Stream(), TypeError, "length above 0, got Stream"),
        (Pairs([ONE]), TypeError, "pairs .image, label., got ndarray for sample 0"),
        (Pairs([(ONE, 0, 1)]), TypeError, "pairs .image, label., got tuple of 3 for sample 0"),
        (Pairs([(ONE, 0), (ONE[:4], 1)]), ValueError, r"sample 1 has \(4, 6, 3\), .* \(6, 6, 3\)"),
        (Pairs([(ONE, "cat")]), TypeError, f"{LABEL}'cat'"),
        (Pairs([(ONE, 1.5)]), TypeError, f"{LABEL}1.5"),
        (Pairs([(ONE, torch.tensor([0, 1]))]), TypeError, rf"{LABEL}tensor\(\[0, 1"),
        (Pairs([(Image.new("I;16", (6, 6)), 0)]), ValueError, "an image has pixels of mode 'I;16'"),
        (Pairs([(ONE / 255.0, 0)]), TypeError, r"must be tensors \(C, H, W\), got a numpy array"),
        (Pairs([(ONE.astype(int), 0)]), TypeError, "x_train must be uint8 images or floating"),
    ],
)
def test_anything_but_a_dataset_of_images_and_labels_is_refused(dataset, error, message):
    with pytest.raises(error, match=message):
        kd.data.from_dataset(dataset)
