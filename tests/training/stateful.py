"""Networks that training changes in other ways than by their weights; shared by several tests."""

import torch
from torch import nn

import kdlib as kd


class Centred(nn.Module):
    """Logits without their running mean, which is noted by one of the subclasses below."""

    def __init__(self, seed=1):
        super().__init__()
        with kd.seeded(seed):
            self.linear = nn.Linear(784, 10)

    def forward(self, x):
        logits = self.linear(x.flatten(1))
        if self.training:
            self.note(logits.detach())
        return logits - self.mean()


class OutsideTheState(Centred):
    def __init__(self, seed=1):
        super().__init__(seed)
        self.register_buffer("running", torch.zeros(10), persistent=False)

    def note(self, logits):
        self.running = 0.9 * self.running + 0.1 * logits.mean(0)

    def mean(self):
        return self.running


class NoneAtFirst(OutsideTheState):
    def __init__(self, seed=1):
        super().__init__(seed)
        self.register_buffer("running", None)

    def note(self, logits):
        before = torch.zeros(10) if self.running is None else self.running
        self.running = 0.9 * before + 0.1 * logits.mean(0)

    def mean(self):
        return 0 if self.running is None else self.running


class Growing(Centred):
    def __init__(self, seed=1):
        super().__init__(seed)
        self.register_buffer("queue", torch.zeros(1, 10))

    def note(self, logits):
        self.queue = torch.cat([self.queue, logits.mean(0, keepdim=True)])[-12:]

    def mean(self):
        return self.queue.mean(0)


class ExtraState(Centred):
    def __init__(self, seed=1):
        super().__init__(seed)
        self._count = 0

    def note(self, logits):
        self._count += 1

    def mean(self):
        return self._count / 100 * torch.arange(10)

    def get_extra_state(self):
        return {"count": self._count}

    def set_extra_state(self, state):
        self._count = state["count"]


class Attribute(ExtraState):
    """The same where nothing but an attribute holds the count."""

    get_extra_state = nn.Module.get_extra_state
    set_extra_state = nn.Module.set_extra_state


class Expanded(OutsideTheState):
    """A buffer whose places share their memory."""

    def __init__(self, seed=1):
        super().__init__(seed)
        self.register_buffer("wide", torch.zeros(1, 3).expand(4, 3), persistent=False)


def normalised(seed=1, norm=nn.utils.parametrizations.spectral_norm):
    model = kd.models.mlp(16, seed=seed)
    with kd.seeded(seed):
        norm(model[1])
    return model


def tied(seed=1):
    model = kd.models.mlp(10, depth=3, seed=seed)
    model[5].weight = model[3].weight
    return model


# All but Attribute's state is stored.
STORED = {
    "a buffer outside the state": OutsideTheState,
    "a buffer that is None at first": NoneAtFirst,
    "a buffer that grows": Growing,
    "an expanded buffer": Expanded,
    "extra state": ExtraState,
    "spectral norm": normalised,
    "weight norm": lambda: normalised(norm=nn.utils.parametrizations.weight_norm),
    "weight norm by a hook": lambda: normalised(norm=nn.utils.weight_norm),
    "tied weights": tied,
    "compiled": lambda: torch.compile(kd.models.mlp(16), backend="eager"),
}
