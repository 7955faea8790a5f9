"""A language model: an LSTM that reads a text from left to right."""

from __future__ import annotations

from torch import Tensor, nn

from kdlib._checks import fraction, sizes
from kdlib.seeding import seeded


def lstm(
    vocabulary: int, width: int = 200, layers: int = 2, dropout: float = 0.0, seed: int = 0
) -> LanguageModel:
    """Build a recurrent language model with tied weights, which predicts a token at each position.

    An embedding, LSTM layers of the same width, and an output layer that shares the embedding's
    weights (Press and Wolf 2017); dropout acts between them, never within the recurrence (Zaremba,
    Sutskever, Vinyals 2014). Furlanello et al. 2018 describe one layer of 1500 units and a dropout
    of 0.65, but the 52 million parameters in their table 6 are those of two layers.

    Args:
        vocabulary: number of tokens; the logits are ``(N, L, vocabulary)`` for tokens ``(N, L)``.
        width: width of the embedding and of each layer.
        layers: number of LSTM layers.
        dropout: probability of dropping an output of the embedding or of a layer in training.
        seed: seed of the initial weights: the embedding is uniform from -0.1 to 0.1, the LSTM has
            torch's defaults.

    >>> sum(p.numel() for p in lstm(10_000, width=1500).parameters())
    51034000
    """
    sizes(vocabulary=vocabulary, width=width, layers=layers)
    fraction("dropout", dropout, "0 drops nothing")
    with seeded(seed):
        return LanguageModel(vocabulary, width, layers, dropout)


class LanguageModel(nn.Module):
    """The network that :func:`lstm` builds: ``embedding``, ``lstm``, ``head``.

    A call starts from a state of zeros. Between ``begin_text(carry=True)`` and
    ``begin_text(carry=False)`` it starts from the detached final state of the previous call;
    ``fit`` and ``evaluate`` read a text in pieces this way, and do so with any network that has
    this method.
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
        """Reset the state; from now on keep it from call to call, or not."""
        self._carry = carry
        self._state: tuple[Tensor, Tensor] | None = None

    def forward(self, tokens: Tensor) -> Tensor:
        if tokens.ndim != 2 or tokens.is_floating_point():
            raise ValueError(
                f"tokens must be integers (N, L), got {tokens.dtype} of shape {tuple(tokens.shape)}"
            )
        state = self._state
        if state is not None and state[0].shape[1] != len(tokens):
            raise ValueError(
                f"tokens must continue the {state[0].shape[1]} rows of the last call, got "
                f"{len(tokens)}; begin_text(carry=True) starts a new text"
            )
        try:
            embedded = self.embedding(tokens)  # (N, L, width)
        except IndexError as error:  # torch checks the tokens on a CPU only
            raise ValueError(
                f"tokens must be from 0 to {self.head.out_features - 1}, got "
                f"{int(tokens.min())} to {int(tokens.max())}; build the network with "
                "vocabulary=len(data.classes)"
            ) from error
        read, state = self.lstm(self.dropout(embedded), state)  # (N, L, width)
        if self._carry:
            self._state = tuple(part.detach() for part in state)
        return self.head(self.dropout(read))  # (N, L, vocabulary)
