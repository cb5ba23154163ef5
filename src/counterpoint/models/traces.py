"""State that a forward leaves on a model's modules, outside any cache. The next text must not see it."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

Place = tuple[nn.Module, str]


@dataclass(frozen=True, slots=True)
class Traces:
    """Attributes of modules, by the module's class, that a forward changes.

    Args:
        names: (class of the module, name of the attribute).
    """

    names: frozenset[tuple[type, str]] = field(default_factory=frozenset)

    def places(self, model: nn.Module) -> list[Place]:
        """Where they are on a model."""
        by_class: dict[type, list[str]] = {}
        for kind, name in self.names:
            by_class.setdefault(kind, []).append(name)
        return [(module, name) for module in model.modules() for name in by_class.get(type(module), ())]


def traces_of(model: nn.Module, read: Callable[[], object]) -> Traces:
    """What `read` changes on the modules of a model. The model is left as it was."""
    before = {module: _state(module) for module in model.modules()}
    read()
    changed = set()
    for module, state in before.items():
        now = _state(module)
        for name in now.keys() | state.keys():
            if not _same(state.get(name), now.get(name)):
                changed.add((type(module), name))
                _put(module, name, state.get(name))
    return Traces(frozenset(changed))


#: attributes of modules, by the module's class, that hold nothing in a model that has read nothing
Slots = frozenset[tuple[type, str]]
_OF_ANY_MODULE = frozenset(vars(nn.Module()))


def slots_of(model: nn.Module) -> Slots:
    """Where a model that has just been built will keep a state, if anywhere: what holds nothing in any module of a class."""
    empty: set[tuple[type, str]] = set()
    full: set[tuple[type, str]] = set()
    for module in model.modules():
        for name, value in vars(module).items():
            (empty if value is None else full).add((type(module), name))
    return frozenset(slot for slot in empty - full if slot[1] not in _OF_ANY_MODULE)


class OwnState:
    """The state that one reader's texts leave on the modules, kept apart from that of all other readers.

    Args:
        model: the model.
        slots: of a model of its class that has read nothing.
        traces: what else a forward changes.
    """

    def __init__(self, model: nn.Module, slots: Slots, traces: Traces) -> None:
        self._slots = [(m, name) for m in model.modules() for name in vars(m) if (type(m), name) in slots]
        self._places = [place for place in traces.places(model) if place not in self._slots]
        self._kept: list[Any] = [None] * len(self._slots)

    def fork(self) -> OwnState:
        """Room for another reader that goes on from here."""
        new = copy.copy(self)
        new._kept = copy.deepcopy(self._kept)
        return new

    def forget(self) -> None:
        """Go on as a reader that has read nothing; to be called while `alone`."""
        self._put([None] * len(self._slots))

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """While this holds, the modules have the state of this reader's texts; then what they had before."""
        others = [_get(module, name) for module, name in self._slots]
        self._put(self._kept)
        try:
            with unchanged(self._places):
                yield
        finally:
            self._kept = [_get(module, name) for module, name in self._slots]
            self._put(others)

    def _put(self, values: list[Any]) -> None:
        for (module, name), value in zip(self._slots, values):
            _put(module, name, value)


@contextlib.contextmanager
def unchanged(places: list[Place]) -> Iterator[None]:
    """Put these attributes back afterwards to the values that they have now."""
    kept = [_copy(_get(module, name)) for module, name in places]
    try:
        yield
    finally:
        for (module, name), value in zip(places, kept):
            _put(module, name, value)


@contextlib.contextmanager
def unswitched(model: nn.Module) -> Iterator[None]:
    """Leave the parts of a model and their plain settings as they are now: some switch to another attention for good where
    a text is short."""
    kept = [(module, dict(module._modules), _settings(module)) for module in model.modules()]
    try:
        yield
    finally:
        for module, parts, settings in kept:
            module._modules.clear()
            module._modules.update(parts)
            vars(module).update(settings)


def _settings(module: nn.Module) -> dict[str, Any]:
    return {name: value for name, value in vars(module).items() if value is None or isinstance(value, (bool, int, str))}


def _state(module: nn.Module) -> dict[str, Any]:
    own = {name: value for name, value in vars(module).items() if not name.startswith("_")}
    return {name: _copy(value) for name, value in {**own, **module._buffers}.items() if _is_plain(value)}


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, (bool, int, float, Tensor))


def _copy(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def _same(left: Any, right: Any) -> bool:
    if isinstance(left, Tensor) and isinstance(right, Tensor):
        return left.shape == right.shape and torch.equal(left, right)
    return type(left) is type(right) and not isinstance(left, Tensor) and left == right


def _get(module: nn.Module, name: str) -> Any:
    return module._buffers[name] if name in module._buffers else vars(module).get(name)


def _put(module: nn.Module, name: str, value: Any) -> None:
    if name in module._buffers:
        module._buffers[name] = value
    else:
        module.__dict__[name] = value
