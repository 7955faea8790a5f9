"""kdlib/data/views.py: random views of training images, and a reader's own functions for them."""

import numpy as np
import pytest
import torch
from random_arrays import draw

import kdlib as kd
from kdlib.data import crop, flip, shift
from kdlib.identity import weights_hash


def noise(n=300, channels=2, height=6, width=8, dtype=torch.float32):
    images = torch.randint(0, 256, (n, channels, height, width), generator=draw(7))
    return images.to(dtype)


def offsets(image, view, pixels, mode):
    """Find the windows of the padded image that are the view, by their offsets."""
    padded = np.pad(image, ((0, 0), (pixels, pixels), (pixels, pixels)), mode=mode)
    windows = np.lib.stride_tricks.sliding_window_view(padded, image.shape)[0]
    return np.argwhere((windows == view).all((2, 3, 4))).tolist()


@pytest.mark.parametrize(("kind", "mode"), [(shift, "edge"), (crop, "reflect")])
@pytest.mark.parametrize("pixels", [1, 2, 5])
def test_shift_and_crop_cut_a_window_out_of_the_padded_image(kind, mode, pixels):
    images = noise(n=400, height=9, width=11)
    views = kind(pixels)(images, draw())
    assert views.shape == images.shape
    pairs = zip(images.numpy(), views.numpy(), strict=True)
    found = [offsets(image, view, pixels, mode) for image, view in pairs]
    assert {len(places) for places in found} == {1}
    down, right = np.concatenate(found).T
    if pixels <= 2:  # 400 draws reach every one of 25 offsets
        assert len({*zip(down, right, strict=True)}) == (2 * pixels + 1) ** 2
    assert {down.min(), right.min()} == {0}
    assert {down.max(), right.max()} == {2 * pixels}
    assert abs(np.corrcoef(down, right)[0, 1]) < 0.2  # each direction is drawn separately


def test_flip_mirrors_about_half_of_the_images_left_to_right():
    images = noise(n=600)
    views = flip()(images, draw())
    mirrored, kept = ((views == x).flatten(1).all(1) for x in (images.flip(-1), images))
    assert torch.equal(mirrored, ~kept)
    assert 240 < mirrored.sum() < 360


@pytest.mark.parametrize("view", [shift(2), crop(2), flip()], ids=str)
def test_every_image_has_its_own_draw(view):
    images = noise(n=1).expand(300, -1, -1, -1)
    views = view(images, draw()).flatten(1).unique(dim=0)
    assert len(views) == (2 if str(view) == "flip()" else 25)


@pytest.mark.parametrize("view", [shift(2), crop(3), flip(), crop(2) + flip()], ids=str)
def test_views_depend_only_on_their_generator_and_advance_it(view):
    images, generator = noise(), draw(1)
    before = images.clone()
    callers = torch.get_rng_state()
    first, next_one = view(images, generator), view(images, generator)
    assert torch.equal(torch.get_rng_state(), callers)
    assert torch.equal(first, view(images, draw(1)))
    assert not torch.equal(first, next_one)
    assert not torch.equal(first, view(images, draw(2)))
    assert torch.equal(images, before)


def test_a_chain_is_its_links_one_after_the_other():
    images, generator = noise(), draw(3)
    expected = flip()(crop(2)(shift(1)(images, generator), generator), generator)
    chain = shift(1) + crop(2) + flip()
    assert torch.equal(chain(images, draw(3)), expected)
    assert str(chain) == "shift(1) + crop(2) + flip()"
    assert shift(1) + crop(2) + flip() == shift(1) + (crop(2) + flip())
    assert shift(1) + flip() != flip() + shift(1)
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
def test_a_view_refuses_anything_but_a_positive_whole_number_of_pixels(kind, pixels):
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


# A reader's own views


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
    assert len({once, weights_after(few, None), weights_after(few, shift(1))}) == 3
    assert weights_after(few, lambda images, generator: images) == weights_after(few, None)


def test_kept_networks_are_separate_for_views_of_different_code(
    digits, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    few = digits.limit(64)
    for k in (1, 2, 1):
        views = eval(f"lambda images, generator: {k} * images", {})
        recipe = kd.Recipe(epochs=1, batch_size=32, augment=views)
        kd.keep(lambda: kd.models.mlp(8), kd.CrossEntropy(), few, recipe)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 2
    assert capsys.readouterr().out.count("loaded") == 1


@pytest.mark.parametrize(
    ("augment", "error", "message"),
    [
        (lambda x, g: x[:, :, 1:], ValueError, "keep shape and dtype, .*28, 28.*27, 28"),
        (lambda x, g: x.double(), ValueError, "keep shape and dtype, .*float32.*float64"),
        (lambda x, g: x[:5], ValueError, "keep shape and dtype"),
        (lambda x, g: x.numpy(), TypeError, "return a tensor, got ndarray from <function"),
        (lambda x, g: None, TypeError, "return a tensor, got NoneType"),
    ],
)
def test_views_of_another_shape_or_dtype_are_refused(digits, augment, error, message):
    with pytest.raises(error, match=f"augment must {message}"):
        weights_after(digits.limit(64), augment)
