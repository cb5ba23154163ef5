"""What models keep on their modules of the texts they read, under any name, and readers that must not see one another's."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from counterpoint.models.traces import OwnState, Traces, slots_of


class Counter(nn.Module):
    """Adds to each text what it has read before, as a state of two kinds: one that is empty at first, and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.whatever: Any = None
        self.constant = torch.ones(2)  # no state: a model that has just been built holds it
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, number: float) -> float:
        self.whatever = torch.tensor(number) if self.whatever is None else self.whatever + number
        self.seen += 1
        return float(self.whatever)


def state_of(model: nn.Module) -> OwnState:
    traces = Traces(frozenset({(Counter, "seen")}))
    return OwnState(model, slots_of(nn.Sequential(Counter())), traces)


def test_each_reader_goes_on_with_its_own() -> None:
    model = nn.Sequential(Counter())
    assert model(1.0) == 1.0
    one, other = state_of(model), state_of(model)
    with one.alone():
        assert model(10.0) == 10.0
    with other.alone():
        assert model(100.0) == 100.0
    with one.alone():
        assert model(10.0) == 20.0
    assert model(1.0) == 2.0 and float(model[0].seen) == 2.0
    assert torch.equal(model[0].constant, torch.ones(2))


def test_a_reader_that_fails_changes_nothing_for_others() -> None:
    model = nn.Sequential(Counter())
    model(1.0)
    reader = state_of(model)
    try:
        with reader.alone():
            model(5.0)
            raise KeyError
    except KeyError:
        pass
    assert model(1.0) == 2.0
    with reader.alone():
        reader.forget()
        assert model(7.0) == 7.0
    assert model(1.0) == 3.0


def test_what_only_some_modules_of_a_class_lack_is_no_state() -> None:
    """Such as the number of the layer whose keys a layer reads: None where it has keys of its own."""
    model = nn.Sequential(Counter(), Counter())
    model[0].shares, model[1].shares = None, 3
    assert slots_of(model) == {(Counter, "whatever")}


def test_what_torch_keeps_on_every_module_is_no_state() -> None:
    assert slots_of(nn.Sequential(Counter(), nn.Linear(2, 2))) == {(Counter, "whatever")}
