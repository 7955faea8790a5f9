"""The language model: an LSTM that reads a text from left to right."""

from __future__ import annotations

from torch import Tensor, nn

from kdlib._checks import fraction, sizes
from kdlib.seeding import seeded


def lstm(
    vocabulary: int, width: int = 200, layers: int = 2, dropout: float = 0.0, seed: int = 0
) -> LanguageModel:
    """A recurrent language model with tied weights: the next token's logits at every place.

    An embedding, LSTM layers of its width, and a last layer whose weights are the embedding's own (Press
    and Wolf 2017), with dropout between them, never within the recurrence (Zaremba, Sutskever, Vinyals
    2014). Furlanello et al. 2018 write of a single layer of 1500 units and a dropout of 0.65; the 52
    million parameters of their table 6 are those of two.

    Args:
        vocabulary: how many tokens there are; logits ``(N, L, vocabulary)`` for tokens ``(N, L)``.
        width: of the embedding and of each layer.
        layers: of the LSTM.
        dropout: share of the embedding's and of each layer's outputs that is dropped in training.
        seed: of the initial weights: the embedding's uniform from -0.1 to 0.1, the LSTM's as torch
            draws them.

    >>> sum(p.numel() for p in lstm(10_000, width=1500).parameters())
    51034000
    """
    sizes(vocabulary=vocabulary, width=width, layers=layers)
    fraction("dropout", dropout, "0 drops nothing")
    with seeded(seed):
        return LanguageModel(vocabulary, width, layers, dropout)


class LanguageModel(nn.Module):
    """Built by :func:`lstm`; its parts are ``embedding``, ``lstm``, ``head``.

    A call begins with a state of zeros. Between ``begin_text(carry=True)`` and
    ``begin_text(carry=False)`` it goes on from the state in which the last call ended, detached: so
    ``fit`` and ``evaluate`` read a text in pieces. Any network with that method is treated so.
    """

    def __init__(self, vocabulary: int, width: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.dropout = nn.Dropout(dropout)
        between = dropout if layers > 1 else 0.0
        self.lstm = nn.LSTM(width, width, layers, batch_first=True, dropout=between)
        self.head = nn.Linear(width, vocabulary)
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
        nn.init.zeros_(self.head.bias)
        self.head.weight = self.embedding.weight
        self.begin_text(carry=False)

    def begin_text(self, carry: bool) -> None:
        """Forget what was read; from now on go on from call to call, or not."""
        self._carry = carry
        self._state: tuple[Tensor, Tensor] | None = None

    def forward(self, tokens: Tensor) -> Tensor:
        if tokens.ndim != 2 or tokens.is_floating_point():
            raise ValueError(
                f"tokens must be whole numbers (N, L), got {tokens.dtype} of shape "
                f"{tuple(tokens.shape)}"
            )
        state = self._state
        if state is not None and state[0].shape[1] != len(tokens):
            raise ValueError(
                f"tokens must go on with the {state[0].shape[1]} rows of the last call, got "
                f"{len(tokens)}; begin_text(carry=True) begins anew"
            )
        try:
            embedded = self.embedding(tokens)
        except IndexError as error:  # torch looks at every token on a CPU, and nowhere else
            raise ValueError(
                f"tokens must be from 0 to {self.head.out_features - 1}, got {int(tokens.min())} to "
                f"{int(tokens.max())}; build the network for the text's len(data.classes)"
            ) from error
        read, state = self.lstm(self.dropout(embedded), state)  # (N, L, width)
        if self._carry:
            self._state = tuple(part.detach() for part in state)
        return self.head(self.dropout(read))  # (N, L, vocabulary)
