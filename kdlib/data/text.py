"""Texts on the device: tokens in order, read in pieces from left to right.

``ptb`` reads the words of your copy of the Penn Treebank, ``topics`` the characters of Python's
help texts, ``from_texts`` any other text. Nothing here trains.
"""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from kdlib._checks import sizes
from kdlib._files import reason
from kdlib.data.splits import Data, Samples, device_or_gpu
from kdlib.losses import soften
from kdlib.networks import answers, carrying, evaluating
from kdlib.recipe import Views
from kdlib.seeding import check_seed

__all__ = ["Text", "from_texts", "ngram_loss", "ptb", "sample", "topics"]

_UNKNOWN, _END = "<unk>", "<eos>"


@dataclass(frozen=True, eq=False, repr=False)
class Text(Samples):
    """Tokens in order; at each token, the next one is to be predicted.

    For a batch size of B the text is cut into B rows of equal length, which are read in parallel:
    each batch holds the next ``unroll`` tokens of every row, so that a recurrent network continues
    where the last batch ended. There is no shuffling and no augmentation, and rows cannot be
    selected.

    Attributes:
        inputs: ``(N,)`` int64, all tokens but the last.
        labels: ``(N,)`` int64, the token after each.
        index: ``(N,)`` int64, the position of each.
        unroll: tokens per row in a batch; gradients flow through these.
    """

    unroll: int = 35

    stands_alone = False  # a prediction depends on the tokens before

    def __post_init__(self) -> None:
        super().__post_init__()
        sizes(unroll=self.unroll)
        if self.inputs.ndim != 1 or self.inputs.dtype != torch.int64:
            raise TypeError(
                f"inputs of a text must be (N,) int64, got {self.inputs.dtype} of shape "
                f"{tuple(self.inputs.shape)}"
            )

    def __repr__(self) -> str:
        return f"Text({len(self):,} tokens, read {self.unroll} at a time, on {self.device})"

    def steps(self, batch_size: int) -> int:
        """Batches in an epoch; an incomplete last one is dropped unless it is the only one."""
        return max(1, self._row(batch_size) // self.unroll)

    def batches(
        self,
        batch_size: int,
        order: torch.Generator,
        augment: Views | None,
        views: torch.Generator,
    ) -> Iterator[tuple[Tensor, Tensor | None, Tensor]]:
        """Yield one epoch, left to right: inputs, labels and index ``(batch_size, unroll)``."""
        if augment is not None:
            raise ValueError(f"augment must be None for a text, got {augment}")
        length = self._row(batch_size)
        rows = [
            None if part is None else part[: batch_size * length].view(batch_size, length)  # (B, L)
            for part in (self.inputs, self.labels, self.index)
        ]
        for step in range(self.steps(batch_size)):
            here = slice(step * self.unroll, (step + 1) * self.unroll)
            # Copies, like the batches of images: an objective may write into them.
            yield tuple(None if part is None else part[:, here].clone() for part in rows)

    def at_once(self, batch_size: int | None = None) -> int:
        """Tokens per forward pass outside training: those of a training step, by default 1,000."""
        return super().at_once(batch_size) * (1 if batch_size is None else self.unroll)

    def parts(self, size: int) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Yield the text as one row, ``size`` tokens at a time: inputs and labels ``(1, size)``."""
        for first in range(0, len(self), size):
            here = slice(first, first + size)
            labels = None if self.labels is None else self.labels[None, here]
            yield self.inputs[None, here], labels

    def joined(self, answers: list[Tensor]) -> Tensor:
        """Join a network's outputs ``(1, size, ...)`` for the parts: one row per token."""
        return torch.cat(answers, dim=1).flatten(0, 1)

    def beginning(self, n: int, seed: int) -> Text:
        """Return the first n tokens; the seed plays no part."""
        labels = None if self.labels is None else self.labels[:n]
        return Text(self.inputs[:n], labels, self.index[:n], self.unroll)

    def fingerprint(self) -> str:
        return f"{super().fingerprint()}-{self.unroll}"

    def _row(self, batch_size: int) -> int:
        if batch_size > len(self):
            raise ValueError(
                f"batch_size must be at most the {len(self):,} tokens of the text, got {batch_size}"
            )
        return len(self) // batch_size


def ptb(
    root: str | os.PathLike | None = None,
    device: torch.device | str | None = None,
    unroll: int = 35,
) -> Data:
    """Load the Penn Treebank for language models: 929,589 training tokens of 10,000 distinct words.

    This is Mikolov's version: rare words are ``<unk>``, numbers are N, and each line ends with
    ``<eos>``. Its licence forbids redistribution, so kdlib cannot download it: take it from the
    folder ``data`` of ``simple-examples.tgz``, which comes with Mikolov's RNNLM toolkit.

    Args:
        root: a folder that holds ``ptb/train.txt``, ``valid.txt`` and ``test.txt``, or
            ``ptb/ptb.train.txt`` and so on; by default the folder named by ``KDLIB_DATA``, or else
            the current one.
        device: device of the tokens; by default the GPU if there is one.
        unroll: tokens per row in a batch.

    Raises:
        FileNotFoundError: the files are missing; the message says what to do.
    """
    root = root or os.environ.get("KDLIB_DATA")
    folder = Path(root).expanduser() / "ptb" if root else Path("ptb")
    texts = [_ptb_file(folder, part) for part in ("train", "valid", "test")]
    return from_texts(*texts, words=True, name="ptb", device=device, unroll=unroll)


def topics(device: torch.device | str | None = None, unroll: int = 100) -> Data:
    """Load the help texts that come with Python, character by character; no download is needed.

    The topics of ``pydoc_data.topics`` are taken in alphabetical order, each text once: the first
    90 % for training, the next 5 % for validation and the last 5 % for test. The texts change
    between versions of Python, so the name holds the version and a hash of the text: compare losses
    within one version.

    >>> topics(device="cpu").name.startswith("topics of python 3.")
    True
    """
    from pydoc_data.topics import topics as found

    whole = "\n\n".join(dict.fromkeys(found[name].strip() for name in sorted(found)))
    sha256 = hashlib.sha256(whole.encode()).hexdigest()[:12]
    name = f"topics of python {platform.python_version()}, sha256 {sha256}"
    ends = len(whole) * 18 // 20, len(whole) * 19 // 20
    texts = whole[: ends[0]], whole[ends[0] : ends[1]], whole[ends[1] :]
    return from_texts(*texts, name=name, device=device, unroll=unroll)


def from_texts(
    train: str,
    validation: str | None = None,
    test: str | None = None,
    *,
    words: bool = False,
    name: str = "texts",
    device: torch.device | str | None = None,
    unroll: int = 35,
) -> Data:
    """Turn your texts into tokens on which ``fit`` can train a language model.

    Args:
        train, validation, test: the texts. The vocabulary is that of the training text, in order of
            first appearance; any other token becomes ``<unk>``.
        words: split at white space and end each line with ``<eos>``; otherwise tokens are
            characters.
        name: name of the data set.
        device: by default the GPU if there is one.
        unroll: tokens per row in a batch.

    Raises:
        TypeError: one of the texts is not a str.
        ValueError: a text has fewer than two tokens.

    >>> data = from_texts("to be or not to be", "to do", device="cpu")
    >>> data.classes
    ('t', 'o', ' ', 'b', 'e', 'r', 'n', '<unk>')
    >>> data.validation.labels
    tensor([1, 2, 7, 1])
    """
    parts = {"train": train, "validation": validation, "test": test}
    tokens = {part: _tokens(part, text, words) for part, text in parts.items() if text is not None}
    place = {token: i for i, token in enumerate(dict.fromkeys(tokens["train"]))}
    if any(token not in place for part in tokens.values() for token in part):
        place.setdefault(_UNKNOWN, len(place))
    splits = {
        part: _split([place.get(token, place.get(_UNKNOWN)) for token in found], device, unroll)
        for part, found in tokens.items()
    }
    return Data(splits["train"], splits.get("validation"), splits.get("test"), tuple(place), name)


@torch.no_grad()
def sample(
    model: nn.Module,
    data: Data,
    length: int,
    temperature: float = 1.0,
    prompt: str = "\n",
    seed: int = 0,
) -> str:
    """Let a model continue a prompt, drawing each token from ``softmax(z / T)``.

    This is the formula of soft targets: a low temperature picks the most likely token, a high one
    any token. One seed gives the same random draws at every temperature, so that texts differ only
    because of T.

    Args:
        model: maps tokens ``(N, L)`` to logits ``(N, L, C)``.
        data: the data set whose tokens the model knows.
        length: number of tokens to draw.
        temperature: T > 0.
        prompt: a text of known tokens; words are separated by spaces.
        seed: seed of the draws.

    Returns:
        The new text, without the prompt.

    Raises:
        ValueError: the prompt is empty or has unknown tokens, or the temperature is not positive.
    """
    sizes(length=length)
    check_seed(seed)
    place = {token: i for i, token in enumerate(data.classes)}
    words = _of_words(data)
    known = _pieces(prompt, words)
    unknown = [token for token in known if token not in place]
    if not known or unknown:
        raise ValueError(
            f"prompt must consist of known tokens, got {prompt!r} with unknown {unknown}; "
            "data.classes lists the known ones"
        )
    # The argmax of logits plus Gumbel noise is a draw from their softmax (Gumbel-max trick).
    generator = torch.Generator().manual_seed(int(seed))
    uniform = torch.rand(length, len(place), generator=generator, dtype=torch.float64)
    noise = -torch.log(-torch.log(uniform))  # (length, C)
    drawn, tokens = [], torch.tensor([[place[token] for token in known]])
    with evaluating(model), carrying([model]):
        for draw in noise:
            # On the CPU, since not every device has float64.
            logits = answers(model, tokens)[0, -1].cpu().double()  # (C,)
            tokens = (torch.log(soften(logits, temperature)) + draw).argmax().view(1, 1)
            drawn.append(data.classes[tokens.item()])
    return " ".join(drawn).replace(_END, "\n") if words else "".join(drawn)


def ngram_loss(data: Data, order: int, split: Text | None = None) -> float:
    """Mean of -log p, in nats, when counts of n-grams predict each token: no network needed.

    ``p_n(c | context) = (count(context c) + K * p_(n-1)(c | shorter context)) / (count(context)
    + K)``, starting from ``p_0 = 1 / C``: smoothing by a Dirichlet prior (MacKay and Peto 1995).
    One K serves all orders; it is chosen on the validation text, or is 4 without one.

    Args:
        data: the training text gives the counts.
        order: n; 1 uses no context, 3 the two tokens before.
        split: the text to predict; by default the test text.

    Raises:
        TypeError: the text to count or to predict is not a text, or has no labels.
        ValueError: order is below 1, or too large for contexts to be numbered in int64.

    >>> data = from_texts("ab" * 50, "ab" * 10, "ab" * 10, device="cpu")
    >>> round(ngram_loss(data, 1), 2), round(ngram_loss(data, 2), 2)
    (0.69, 0.01)
    """
    sizes(order=order)
    base = len(data.classes)
    if base**order >= 2**63:
        raise ValueError(f"order must be smaller for {base} tokens, got {order}")
    seen = _sequence("data.train", data.train)
    new = _sequence("split", data.test if split is None else split)
    strength = 4.0
    if data.validation is not None:
        held_out = _sequence("data.validation", data.validation)
        strengths = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
        strength = min(strengths, key=lambda k: _ngram_loss(seen, held_out, base, order, k))
    return _ngram_loss(seen, new, base, order, strength)


def _ngram_loss(seen: np.ndarray, new: np.ndarray, base: int, order: int, strength: float) -> float:
    p = np.full(len(new) - 1, 1 / base)  # (N,): for every token except the first
    for n in range(1, order + 1):
        known, grams = _grams(seen, n, base), _grams(new, n, base)[n == 1 :]
        context = _count(known // base, grams // base)
        here = slice(max(0, n - 2), None)  # the first tokens have only shorter contexts
        p[here] = (_count(known, grams) + strength * p[here]) / (context + strength)
    return float(-np.log(p).mean())


def _grams(tokens: np.ndarray, n: int, base: int) -> np.ndarray:
    """Number the n-gram that ends at each position; ``// base`` gives that of its context."""
    length = max(0, len(tokens) - n + 1)
    return sum(tokens[i : i + length] * base ** (n - 1 - i) for i in range(n))


def _count(known: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    if len(known) == 0:
        return np.zeros_like(wanted)
    values, counts = np.unique(known, return_counts=True)
    place = np.searchsorted(values, wanted).clip(max=len(values) - 1)
    return np.where(values[place] == wanted, counts[place], 0)


def _sequence(name: str, split: Text | None) -> np.ndarray:
    if not isinstance(split, Text) or split.labels is None:
        raise TypeError(f"{name} must be a labelled text such as data.test, got {split!r}")
    return torch.cat([split.inputs, split.labels[-1:]]).cpu().numpy()


def _pieces(text: str, words: bool) -> list[str]:
    return text.replace("\n", f" {_END} ").split() if words else list(text)


def _of_words(data: Data) -> bool:
    return any(len(token) > 1 and token != _UNKNOWN for token in data.classes)


def _tokens(part: str, text: str, words: bool) -> list[str]:
    if not isinstance(text, str):
        raise TypeError(f"{part} must be a str, got {type(text).__name__}")
    found = _pieces(text, words)
    if len(found) < 2:
        raise ValueError(f"{part} must have at least two tokens, got {len(found)}")
    return found


def _split(tokens: Sequence[int], device: torch.device | str | None, unroll: int) -> Text:
    whole = torch.tensor(tokens, device=device_or_gpu(device))
    index = torch.arange(len(whole) - 1, device=whole.device)
    return Text(whole[:-1], whole[1:], index, unroll)


def _ptb_file(folder: Path, part: str) -> str:
    for name in (f"{part}.txt", f"ptb.{part}.txt"):
        if (folder / name).exists():
            try:
                return (folder / name).read_text(encoding="utf-8")
            except (OSError, UnicodeError) as error:
                raise ValueError(
                    f"{folder / name} cannot be read as UTF-8 text ({reason(error)}); replace it with an intact copy"
                ) from error
    raise FileNotFoundError(
        f"{folder} must hold {part}.txt or ptb.{part}.txt, but does not. The Penn Treebank may not "
        "be redistributed: take ptb.train.txt, ptb.valid.txt and ptb.test.txt from data/ in "
        "Mikolov's simple-examples.tgz, and set KDLIB_DATA to the folder that contains ptb"
    )
