"""kdlib/data/splits.py: selections, batches and fingerprints of samples that keep their index."""

import copy
import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from random_arrays import arrays, draw, same

import kdlib as kd
from kdlib.data import Data, Split, shift, splits


def a_split(n=3):
    return Split(torch.zeros(n, 2), torch.arange(n), torch.arange(n))


# limit, only, without, select


def test_every_selection_keeps_the_index():
    data = kd.data.from_arrays(*arrays().values(), device="cpu", validation=20)
    whole = kd.data.from_arrays(*arrays().values(), device="cpu").train
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
    assert forgotten.labels is None and parts["limit"].labels is not None
    assert same(replace(forgotten, labels=parts["limit"].labels), parts["limit"])


def test_limit_balances_the_classes_as_far_as_possible(digits):
    for n in (1, 7, 10, 55, 200, 400):
        counts = digits.limit(n).train.labels.bincount(minlength=10)
        assert counts.sum() == n
        assert counts.max() - counts.min() <= 1
    labels = np.array([0] * 3 + [1] * 30 + [2] * 30)  # too few of class 0
    data = kd.data.from_arrays(np.random.default_rng(0).normal(size=(63, 4)), labels, device="cpu")
    assert data.limit(23).train.labels.bincount().tolist() == [3, 10, 10]


def test_limit_is_nested_for_one_seed_and_differs_between_seeds(digits):
    kept = [set(digits.limit(n, seed=1).train.index.tolist()) for n in (10, 55, 100, 600, 1137)]
    for smaller, larger in itertools.pairwise(kept):
        assert smaller < larger
    assert kept[2] != set(digits.limit(100, seed=2).train.index.tolist())
    assert same(digits.limit(55, seed=1).train, digits.train.beginning(55, 1))


def test_limit_changes_only_the_training_split_which_may_be_unlabelled(digits):
    before = torch.get_rng_state()
    part = digits.limit(50)
    assert torch.equal(torch.get_rng_state(), before)
    assert part.validation is digits.validation
    assert part.test is digits.test
    assert len(digits.train) == 1137
    bare = replace(digits, train=digits.train.unlabelled()).limit(40).train
    assert (len(bare), bare.labels) == (40, None)


@pytest.mark.parametrize("n", [0, -1, 1138, 2.0, "5", None])
def test_limit_refuses_a_number_that_cannot_be_kept(digits, n):
    with pytest.raises(ValueError, match=f"^n must be .*1,137.*got {n!r}"):
        digits.limit(n)


def test_only_and_without_divide_a_split_in_two(digits):
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
    with pytest.raises(ValueError, match="classes cannot be selected: this split has no labels"):
        digits.train.unlabelled().only(classes)


def test_an_empty_selection_is_refused(digits):
    for choose, nothing in (("select", digits.train.labels > 9), ("without", range(10))):
        with pytest.raises(ValueError, match="at least one sample, got an empty split"):
            getattr(digits.train, choose)(nothing)


# Fingerprints


def test_a_fingerprint_covers_inputs_labels_and_index_but_not_the_test_split(digits):
    split = digits.limit(30).train
    changed = [
        split.select(torch.arange(29, -1, -1)),
        replace(split, inputs=split.inputs + 1e-6),
        replace(split, labels=split.labels.roll(1)),
        replace(split, index=split.index + 1),
        split.unlabelled(),
    ]
    assert len({s.fingerprint() for s in (split, *changed)}) == 6
    assert replace(digits, test=None).fingerprint() == digits.fingerprint()
    assert replace(digits, validation=None).fingerprint() != digits.fingerprint()


def test_a_fingerprint_is_computed_once_per_split(monkeypatch):
    calls = []
    monkeypatch.setattr(splits, "tensors_hash", lambda parts: calls.append(parts) or "0" * 64)
    split = a_split()
    for _ in range(3):
        split.fingerprint()
    assert len(calls) == 1
    replace(split).fingerprint()
    assert len(calls) == 2


@pytest.mark.parametrize("name", ["inputs", "labels", "index"])
def test_a_tensor_that_was_changed_in_place_is_hashed_again(name):
    split = a_split()
    before = split.fingerprint()
    getattr(split, name)[0] += 1
    assert split.fingerprint() != before
    getattr(split, name)[0] -= 1
    assert split.fingerprint() == before


def test_a_copy_of_a_split_has_its_own_fingerprint():
    split = a_split()
    before = split.fingerprint()
    twin = copy.deepcopy(split)
    assert {*vars(twin)} == {"inputs", "labels", "index"}  # nothing remembered comes along
    twin.inputs[0] += 1
    assert twin.fingerprint() != before == split.fingerprint()


# Batches


def epoch(split, batch_size, seed=0, augment=None):
    return list(split.batches(batch_size, draw(seed), augment, draw(9)))


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


def test_the_last_incomplete_batch_is_dropped_unless_it_is_the_only_one(digits):
    split = digits.limit(110).train
    assert [len(index) for _, _, index in epoch(split, 40)] == [40, 40]
    assert [len(index) for _, _, index in epoch(split, 500)] == [110]
    assert (split.steps(40), split.steps(110), split.steps(111)) == (2, 1, 1)


def test_the_order_of_an_epoch_depends_only_on_its_generator(digits):
    split = digits.limit(60).train
    orders = [torch.cat([i for *_, i in epoch(split, 20, s)]).tolist() for s in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]


def test_augmented_batches_keep_order_labels_and_index(digits):
    split = digits.limit(60).train
    plain, shifted = epoch(split, 20), epoch(split, 20, augment=shift(2))
    for (x, y, i), (x2, y2, i2) in zip(plain, shifted, strict=True):
        assert torch.equal(y, y2) and torch.equal(i, i2)
        assert not torch.equal(x, x2)


@pytest.mark.parametrize("size", [1, 50, 60, 1000])
def test_parts_are_all_samples_in_their_order(digits, size):
    split = digits.limit(60).train
    inputs, labels = zip(*split.parts(size), strict=True)
    assert max(map(len, inputs)) == min(size, 60)
    assert torch.equal(torch.cat(inputs), split.inputs)
    assert torch.equal(torch.cat(labels), split.labels)


def test_an_unlabelled_split_yields_no_labels(digits):
    split = digits.limit(60).train.unlabelled()
    assert {labels for _, labels, _ in epoch(split, 20)} == {None}
    assert {labels for _, labels in split.parts(20)} == {None}


# Split and Data


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"inputs": [0, 0, 0]}, TypeError, "inputs must be a tensor, got list"),
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
def test_a_split_refuses_tensors_that_do_not_fit(change, kind, message):
    with pytest.raises(kind, match=message):
        replace(a_split(), **change)


@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_data_refuses_a_label_without_a_class(part):
    parts = dict.fromkeys(("train", "validation", "test"), a_split())
    Data(**parts, classes=("a", "b", "c"), name="mine")
    parts[part] = replace(a_split(), labels=torch.tensor([0, 3, 1]))
    with pytest.raises(ValueError, match=f"labels of {part} must be below 3.*got 3"):
        Data(**parts, classes=("a", "b", "c"), name="mine")


def test_data_and_splits_show_what_they_hold(digits):
    assert repr(digits.test) == "Split(360 labelled samples of 1 x 28 x 28 on cpu)"
    assert "unlabelled" in repr(digits.test.unlabelled())
    assert repr(replace(digits, validation=None)) == (
        "Data(digits: 1,137 training, no validation and 360 test samples of 10 classes on cpu)"
    )


def test_a_split_knows_its_device_its_labels_and_that_its_samples_stand_alone():
    split = a_split()
    assert split.stands_alone
    assert not kd.text.from_texts("abcab", device="cpu").train.stands_alone
    data = Data(split, split.unlabelled(), None, ("a", "b", "c"), "mine")
    assert split.labelled and not split.unlabelled().labelled and split.device.type == "cpu"
    assert [data.labelled(part) for part in ("train", "validation", "test")] == [True, False, False]
