"""What a forward leaves behind on a model's modules, outside any cache: a state that the next text must not see."""

from __future__ import annotations

import contextlib
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


@contextlib.contextmanager
def unchanged(places: list[Place]) -> Iterator[None]:
    """Leave these attributes as they are now, whatever is read meanwhile."""
    kept = [_copy(_get(module, name)) for module, name in places]
    try:
        yield
    finally:
        for (module, name), value in zip(places, kept):
            _put(module, name, value)


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
