"""kdlib/data/text.py: tokens in order, their batches, n-gram losses and samples."""

import hashlib
import math
import platform
import random
import re
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import kdlib as kd
from kdlib.data.text import Text, from_texts, ngram_loss, ptb, sample, topics


def scribble(n, seed=0, letters="aabbbcd "):
    return "".join(random.Random(seed).choices(letters, k=n))


def some(n=500, **options):
    return from_texts(scribble(n), scribble(90, 1), scribble(80, 2), device="cpu", **options)


def text_of(n, unroll=3):
    """Tokens that are their own places, so that each batch shows where it comes from."""
    place = torch.arange(n)
    return Text(place + 100, place + 101, place, unroll)


def epoch(text, batch_size, augment=None):
    return list(text.batches(batch_size, torch.Generator(), augment, torch.Generator()))


def tokens_of(split):
    return [*split.inputs.tolist(), split.labels[-1].item()]


# Tokens


def test_characters_are_numbered_in_the_order_of_their_first_appearance():
    data = from_texts("hello", "hole", device="cpu")
    assert data.classes == ("h", "e", "l", "o")
    assert data.train.inputs.tolist() == [0, 1, 2, 2]
    assert data.train.labels.tolist() == [1, 2, 2, 3]
    assert data.train.index.tolist() == [0, 1, 2, 3]
    assert tokens_of(data.validation) == [0, 3, 2, 1]
    assert data.test is None
    assert from_texts("hello", device="cpu").validation is None


def test_words_are_split_at_white_space_and_each_line_ends():
    data = from_texts(" to be \n or  not\n", "be to\n", words=True, device="cpu")
    assert data.classes == ("to", "be", "<eos>", "or", "not")
    assert tokens_of(data.train) == [0, 1, 2, 3, 4, 2]
    assert tokens_of(data.validation) == [1, 0, 2]


def test_tokens_missing_from_the_training_text_become_its_unknown_token():
    data = from_texts("abab", "axyb", device="cpu")
    assert data.classes == ("a", "b", "<unk>")
    assert data.validation.inputs.tolist() == [0, 2, 2]
    assert from_texts("abab", "ba", device="cpu").classes == ("a", "b")
    own = from_texts("one <unk> two\n", "three two\n", words=True, device="cpu")
    assert own.classes == ("one", "<unk>", "two", "<eos>")
    assert own.validation.inputs.tolist() == [1, 2]


# Batches


def test_a_batch_reads_rows_of_the_text_in_parallel_and_the_next_one_continues_them():
    batches = epoch(text_of(26), 2)  # 13 tokens per row, of which four batches of three use 12
    assert [batch[2].tolist() for batch in batches] == [
        [[0, 1, 2], [13, 14, 15]],
        [[3, 4, 5], [16, 17, 18]],
        [[6, 7, 8], [19, 20, 21]],
        [[9, 10, 11], [22, 23, 24]],
    ]
    for inputs, labels, index in batches:
        assert torch.equal(inputs, index + 100)
        assert torch.equal(labels, index + 101)
    assert text_of(26).steps(2) == 4


@pytest.mark.parametrize(
    ("tokens", "batch_size", "shapes"),
    [
        (24, 2, [(2, 3)] * 4),
        (23, 2, [(2, 3)] * 3),
        (5, 2, [(2, 2)]),  # the only batch
        (2, 2, [(2, 1)]),
        (3, 1, [(1, 3)]),
    ],
)
def test_an_incomplete_last_batch_is_dropped_unless_it_is_the_only_one(tokens, batch_size, shapes):
    text = text_of(tokens)
    assert [tuple(inputs.shape) for inputs, _, _ in epoch(text, batch_size)] == shapes
    assert text.steps(batch_size) == len(shapes)


def test_every_epoch_of_a_text_is_the_same_and_draws_nothing():
    text, order, views = text_of(20), torch.Generator(), torch.Generator()
    before = order.get_state(), views.get_state()
    first, second = (list(text.batches(4, order, None, views)) for _ in range(2))
    assert all(torch.equal(a[0], b[0]) for a, b in zip(first, second, strict=True))
    assert torch.equal(order.get_state(), before[0])
    assert torch.equal(views.get_state(), before[1])


def test_an_unlabelled_text_is_still_a_text_and_yields_no_labels():
    text = text_of(20).unlabelled()
    assert isinstance(text, Text) and text.unroll == 3
    assert {labels for _, labels, _ in epoch(text, 2)} == {None}
    assert {labels for _, labels in text.parts(7)} == {None}


@pytest.mark.parametrize("size", [1, 7, 20, 1000])
def test_parts_are_the_whole_text_as_one_row(size):
    inputs, labels = zip(*text_of(20).parts(size), strict=True)
    assert torch.cat(inputs, 1).tolist() == [[*range(100, 120)]]
    assert torch.cat(labels, 1).tolist() == [[*range(101, 121)]]
    assert max(part.shape[1] for part in inputs) == min(size, 20)


def test_a_text_has_neither_augmentation_nor_selections():
    with pytest.raises(ValueError, match=r"augment must be None for a text, got shift\(1\)"):
        epoch(text_of(20), 2, kd.data.shift(1))
    assert not isinstance(text_of(20), kd.data.Split)
    assert not any(hasattr(text_of(20), name) for name in ("select", "only", "without"))


def test_writing_into_a_batch_does_not_change_the_text():
    text = text_of(20)
    before = text.fingerprint()
    for inputs, labels, index in epoch(text, 2):
        inputs.zero_(), labels.fill_(-100), index.zero_()
    assert text_of(20).fingerprint() == before
    assert int(text.labels.min()) > 0 and int(text.inputs.max()) > 0 and int(text.index.max()) > 0


def test_a_batch_of_more_rows_than_tokens_is_refused():
    assert len(epoch(text_of(20), 20)) == 1
    for ask in (lambda: epoch(text_of(20), 21), lambda: text_of(20).steps(21)):
        with pytest.raises(ValueError, match="batch_size must be at most the 20 tokens .*got 21"):
            ask()


@pytest.mark.parametrize("seed", [0, 5])
def test_limit_keeps_the_first_tokens_of_a_text_whatever_the_seed(seed):
    data = some(unroll=6)
    part = data.limit(60, seed=seed)
    for name in ("inputs", "labels", "index"):
        assert torch.equal(getattr(part.train, name), getattr(data.train, name)[:60])
    assert part.train.unroll == 6
    assert part.validation is data.validation
    bare = replace(data, train=data.train.unlabelled()).limit(60).train
    assert bare.labels is None and len(bare) == 60


def test_a_texts_fingerprint_sees_its_tokens_and_how_they_are_read():
    found = {some().fingerprint(), some(unroll=6).fingerprint(), some(501).fingerprint()}
    assert len(found) == 3
    assert some().fingerprint() == some().fingerprint()


def test_a_text_says_what_it_holds():
    assert repr(text_of(1234)) == "Text(1,234 tokens, read 3 at a time, on cpu)"


# The texts


def decoded(data):
    """The three parts as lists of tokens."""
    parts = (data.train, data.validation, data.test)
    return [[data.classes[place] for place in tokens_of(split)] for split in parts]


def test_topics_are_pythons_help_texts_each_once_divided_into_90_5_and_5_percent(monkeypatch):
    found = {"b": "\ntwo" * 40, "a": "one" * 40, "c": "two" + "\ntwo" * 39 + "\n"}
    found |= {"d": scribble(2000)}
    monkeypatch.setattr("pydoc_data.topics.topics", found)
    whole = "\n\n".join(["one" * 40, "two" + "\ntwo" * 39, found["d"].strip()])  # b and c are equal
    data = topics(device="cpu")
    parts = decoded(data)
    assert "".join(token for part in parts for token in part) == whole
    for part, share in zip(parts, (0.9, 0.05, 0.05), strict=True):
        assert len(part) == pytest.approx(share * len(whole), abs=2)
    sha256 = hashlib.sha256(whole.encode()).hexdigest()
    assert data.name == f"topics of python {platform.python_version()}, sha256 {sha256[:12]}"
    assert (data.train.unroll, topics(device="cpu", unroll=7).train.unroll) == (100, 7)


def test_topics_are_the_same_each_time():
    first, second = topics(device="cpu"), topics(device="cpu")
    assert (first.name, first.fingerprint()) == (second.name, second.fingerprint())
    assert len(first.train) > 100_000


PENN = {"train": " no it was n't <unk> \n N years \n", "valid": " no years \n", "test": " it N \n"}


def penn(root, form):
    folder = root / "ptb"
    folder.mkdir(parents=True)
    for part, text in PENN.items():
        (folder / form.format(part)).write_text(text, encoding="utf-8")
    return root


@pytest.mark.parametrize("form", ["{}.txt", "ptb.{}.txt"])
@pytest.mark.parametrize("how", ["root", "KDLIB_DATA"])
def test_the_penn_treebank_is_read_under_both_file_names_from_both_folders(
    tmp_path, monkeypatch, form, how
):
    root = penn(tmp_path, form)
    monkeypatch.setenv("KDLIB_DATA", str(tmp_path / "elsewhere" if how == "root" else root))
    data = ptb(root if how == "root" else None, device="cpu", unroll=4)
    assert (data.name, data.train.unroll) == ("ptb", 4)
    assert data.classes == ("no", "it", "was", "n't", "<unk>", "<eos>", "N", "years")
    assert decoded(data) == [
        ["no", "it", "was", "n't", "<unk>", "<eos>", "N", "years", "<eos>"],
        ["no", "years", "<eos>"],
        ["it", "N", "<eos>"],
    ]


def test_the_error_for_a_missing_penn_treebank_says_where_to_get_it(tmp_path, monkeypatch):
    monkeypatch.delenv("KDLIB_DATA", raising=False)
    with pytest.raises(FileNotFoundError, match="ptb must hold train.txt or ptb.train.txt"):
        ptb()
    root = penn(tmp_path, "{}.txt")
    (root / "ptb" / "valid.txt").unlink()
    with pytest.raises(FileNotFoundError) as caught:
        ptb(root)
    for remedy in (str(root / "ptb"), "ptb.valid.txt", "simple-examples.tgz", "KDLIB_DATA"):
        assert remedy in str(caught.value)


def test_a_penn_treebank_in_another_encoding_is_named(tmp_path):
    root = penn(tmp_path, "{}.txt")
    (root / "ptb" / "valid.txt").write_bytes("Ä no years".encode("utf-16"))
    with pytest.raises(ValueError, match=r"valid\.txt cannot be read as UTF-8 text.*replace it"):
        ptb(root)


@pytest.mark.real_data
def test_the_real_penn_treebank_has_the_published_numbers_of_tokens(real_data):
    if not (real_data / "ptb").is_dir():
        pytest.skip("needs the Penn Treebank: a folder ptb under KDLIB_DATA")
    data = ptb(real_data, device="cpu")
    # The first token is not a label, the last not an input.
    counts = [len(split) + 1 for split in (data.train, data.validation, data.test)]
    assert counts == [929_589, 73_760, 82_430]
    assert len(data.classes) == 10_000
    assert {"<unk>", "<eos>", "N"} < set(data.classes)


# Counts of n tokens

STRENGTHS = [0.5, 1, 2, 4, 8, 16, 32, 64]


def ngram_oracle(data, order, split, K):
    """Compute the loss token by token from the formula, counting by walks over the text."""
    train, new = tokens_of(data.train), tokens_of(split)
    grams = [Counter(zip(*(train[i:] for i in range(n)), strict=False)) for n in range(order + 1)]

    def p(context, token):
        n = len(context) + 1
        followed = sum(count for gram, count in grams[n].items() if gram[:-1] == context)
        shorter = p(context[1:], token) if context else 1 / len(data.classes)
        return (grams[n][(*context, token)] + K * shorter) / (followed + K)

    losses = []
    for place in range(1, len(new)):
        context = tuple(new[max(0, place - order + 1) : place])
        losses.append(-math.log(p(context, new[place])))
    return sum(losses) / len(losses)


def strength(data, order):
    """K as chosen on the validation text."""
    if data.validation is None:
        return 4
    return min(STRENGTHS, key=lambda K: ngram_oracle(data, order, data.validation, K))


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_ngram_loss_is_its_formula_with_the_strength_chosen_on_validation(order):
    data = from_texts(scribble(300), scribble(60, 1), scribble(50, 2) + "??", device="cpu")
    K, other = strength(data, order), data.train.beginning(40, 0)
    assert ngram_loss(data, order) == pytest.approx(ngram_oracle(data, order, data.test, K))
    assert ngram_loss(data, order, other) == pytest.approx(ngram_oracle(data, order, other, K))
    bare = replace(data, validation=None)
    assert ngram_loss(bare, order) == pytest.approx(ngram_oracle(data, order, data.test, 4))


@pytest.mark.parametrize("order", [1, 3, 5, 6])
@pytest.mark.parametrize(
    "texts", [("abab", "aba", "ab"), ("ab", "ba", "abab"), ("aab", None, "ba")]
)
def test_ngram_loss_is_its_formula_for_texts_shorter_than_the_order(texts, order):
    data = from_texts(*texts, device="cpu")
    expected = ngram_oracle(data, order, data.test, strength(data, order))
    assert ngram_loss(data, order) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("validation", "best"), [("ab" * 30, 0.5), (scribble(60, letters="ab"), 64)]
)
def test_the_strength_depends_on_the_validation_text(validation, best):
    data = from_texts("ab" * 50 + "ba", validation, scribble(50, 3, "ab"), device="cpu")
    assert strength(data, 3) == best
    assert ngram_loss(data, 3) == pytest.approx(ngram_oracle(data, 3, data.test, best))


def test_an_order_whose_contexts_exceed_int64_is_refused():
    data = from_texts(scribble(300), test=scribble(50, 1), device="cpu")
    assert len(data.classes) == 5
    ngram_loss(data, 27)
    with pytest.raises(ValueError, match="order must be smaller for 5 tokens, got 28"):
        ngram_loss(data, 28)


# Samples


class Chain(nn.Module):
    """Logits that depend only on the last token, from a table."""

    def __init__(self, table):
        super().__init__()
        self.table = nn.Parameter(table)

    def forward(self, tokens):
        return self.table[tokens]


def chain():
    table = torch.tensor([[2.0, 0.0, 1.0], [0.0, 0.5, -1.0], [-1.0, 1.0, 1.5]])
    return Chain(table), from_texts("abcba", device="cpu")


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_tokens_occur_with_the_probabilities_of_the_softmax_at_the_temperature(temperature):
    model, data = chain()
    letters = "a" + sample(model, data, 6000, temperature, prompt="a", seed=3)
    for i, before in enumerate("abc"):
        follow = [b for a, b in pairwise(letters) if a == before]
        weights = [math.exp(z / temperature) for z in model.table[i].tolist()]
        for letter, weight in zip("abc", weights, strict=True):
            p = weight / sum(weights)
            spread = math.sqrt(p * (1 - p) / len(follow))
            assert follow.count(letter) / len(follow) == pytest.approx(p, abs=4 * spread)


def test_near_temperature_zero_the_most_likely_token_after_all_the_text_is_taken():
    data = some()
    model = kd.models.lstm(len(data.classes), 12, seed=4)
    with torch.no_grad():
        for weights in model.parameters():
            weights *= 6  # separate the logits, and let distant tokens count
    read = [data.classes.index(letter) for letter in "abd c"]
    for _ in range(40):
        read.append(int(model(torch.tensor([read]))[0, -1].argmax()))
    expected = "".join(data.classes[i] for i in read[5:])
    assert len(set(expected)) > 1
    assert sample(model, data, 40, 1e-6, prompt="abd c") == expected
    assert sample(model, data, 40, 1e-6, prompt="d") != expected


def test_a_text_depends_on_the_seed_and_a_shorter_one_is_its_beginning():
    model, data = chain()
    first = sample(model, data, 50, prompt="a", seed=1)
    assert first == sample(model, data, 50, prompt="a", seed=1)
    assert first != sample(model, data, 50, prompt="a", seed=2)
    assert len(first) == 50
    assert first[:20] == sample(model, data, 20, prompt="a", seed=1)


def test_a_sample_of_words_is_joined_by_spaces_and_ends_its_lines():
    data = from_texts("to be\nor not\n", words=True, device="cpu")
    after = torch.tensor([[1], [2], [3], [4], [2]])  # to be <eos> or not <eos>
    model = Chain(torch.zeros(5, 5).scatter(1, after, 100.0))
    assert sample(model, data, 5, prompt="to") == "be \n or not \n"
    assert sample(model, data, 2, prompt="be\n") == "or not"
    assert sample(model, data, 2) == "or not"  # after a line's end


@pytest.mark.parametrize(("prompt", "unknown"), [("", []), ("aYbX", ["Y", "X"]), ("\n", ["\n"])])
def test_a_prompt_that_is_empty_or_unknown_is_refused(prompt, unknown):
    model, data = chain()
    message = f"prompt must consist of known tokens, got {prompt!r} with unknown {unknown}"
    with pytest.raises(ValueError, match=re.escape(message)):
        sample(model, data, 5, prompt=prompt)


def test_a_sample_is_drawn_on_the_networks_device_whatever_that_of_the_text():
    model, data = chain()
    elsewhere = SimpleNamespace(classes=data.classes)  # has no tensors
    assert sample(model, elsewhere, 9, prompt="a") == sample(model, data, 9, prompt="a")


@pytest.mark.parametrize("mode", [True, False])
def test_sampling_leaves_the_callers_generator_and_the_networks_mode_and_state_alone(mode):
    data = some()
    model = kd.models.lstm(len(data.classes), 6, dropout=0.5).train(mode)
    tokens = torch.tensor([[0, 1, 2]])
    with kd.seeded(1):
        before = model(tokens)
    model.lstm.eval()
    modes = [module.training for module in model.modules()]
    before_sampling = torch.get_rng_state()
    first = sample(model, data, 30, prompt="a")
    assert torch.equal(torch.get_rng_state(), before_sampling)
    assert [module.training for module in model.modules()] == modes
    assert first == sample(model, data, 30, prompt="a")  # no dropout
    model.lstm.train(mode)
    with kd.seeded(1):
        assert torch.equal(model(tokens), before)
    with pytest.raises(ValueError, match="temperature"):
        sample(model, data, 5, 0.0, prompt="a")
    assert [module.training for module in model.modules()] == [mode] * len(modes)


# Arguments

ABAB, ROW = from_texts("abab", "abab", device="cpu"), torch.arange(4)
READ = ABAB.train


def unlabelled(part):
    return replace(ABAB, **{part: READ.unlabelled()})


def drawn(*temperature, length=5, **options):
    return sample(*chain(), length, *temperature, prompt="a", **options)


@pytest.mark.parametrize(
    ("use", "kind", "message"),
    [
        (lambda: from_texts("ab", 3), TypeError, "validation must be a str, got int"),
        (lambda: from_texts(["a", "b"]), TypeError, "train must be a str, got list"),
        (lambda: from_texts("a"), ValueError, "train must have at least two tokens, got 1"),
        (lambda: from_texts("ab", "ab", ""), ValueError, "test must have at least two .* got 0"),
        (lambda: Text(ROW / 1, ROW, ROW), TypeError, r"must be \(N,\) int64, got torch.float32"),
        (lambda: Text(ROW[:, None], ROW, ROW), TypeError, r"inputs .* int64, got .* \(4, 1\)"),
        (lambda: Text(ROW, ROW, ROW, 0), ValueError, "unroll must be a whole .* of at least 1"),
        (lambda: Text(ROW[:0], ROW[:0], ROW[:0]), ValueError, "at least one sample"),
        (lambda: ngram_loss(ABAB, 1), TypeError, "split must be a labelled text .*, got None"),
        (lambda: ngram_loss(ABAB, 1, READ.unlabelled()), TypeError, "split must be a labelled"),
        (lambda: ngram_loss(unlabelled("train"), 1, READ), TypeError, "data.train must be a"),
        (lambda: ngram_loss(unlabelled("validation"), 1, READ), TypeError, "data.validation must"),
        (lambda: ngram_loss(ABAB, 0), ValueError, "order must be a whole .* of at least 1, got 0"),
        (lambda: ngram_loss(ABAB, 1.5), ValueError, "order must be a whole .*, got 1.5"),
        (lambda: ngram_loss(ABAB, True), ValueError, "order must be a whole .*, got True"),
        (lambda: drawn(0), ValueError, "temperature must be positive"),
        (lambda: drawn(-1.0), ValueError, "temperature must be positive"),
        (lambda: drawn(length=0), ValueError, "length must be a whole .* of at least 1, got 0"),
        (lambda: drawn(seed=1.5), TypeError, "seed must be a whole number, got 1.5"),
    ],
)
def test_an_argument_about_texts_is_refused_by_name(use, kind, message):
    with pytest.raises(kind, match=message):
        use()
