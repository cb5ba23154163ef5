"""The layers of a model, found by a trial, and directions added to what they write (a switch, see `switched`)."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from counterpoint.errors import UnsupportedError
from counterpoint.models.rows import Feed, Rows

if TYPE_CHECKING:
    from counterpoint.models.model import Model

TRIAL_IDS = (3, 5, 4)  # any tokens do; 0 and 1 are padding to some models
_FOUND: weakref.WeakKeyDictionary[nn.Module, Layers] = weakref.WeakKeyDictionary()


class Directions(Protocol):
    """What can be added to the layers of a model, such as `counterpoint.Vector`."""

    @property
    def directions(self) -> Mapping[int, Tensor]:
        """Layer number, from 0, to (H,)."""

    @property
    def digest(self) -> str:
        """Equal where all directions are."""


@dataclass(frozen=True, slots=True)
class Layers:
    """A model's layers in order, each of which reads and writes one stream of states.

    Args:
        modules: the layers. Each returns (R, Q, H) states, or a tuple that begins with them.
        width: H.
    """

    modules: tuple[nn.Module, ...]
    width: int

    def check(self, directions: Mapping[int, Tensor], name: str) -> None:
        """Refuse directions that the model `name` has no place for.

        Raises:
            UnsupportedError: another width, or a layer that the model lacks.
        """
        width = len(next(iter(directions.values())))
        if width != self.width:
            raise UnsupportedError(
                f"the vector is {width} wide and the states of {name} are {self.width} wide; fit one on this model"
            )
        if max(directions) >= len(self.modules):
            raise UnsupportedError(
                f"the vector has a direction for layer {max(directions)} and the layers of {name} end at "
                f"{len(self.modules) - 1}; fit one on this model"
            )


class VectorSwitch:
    """Adds a direction to what each layer writes, at every token.

    Args:
        layers: those of the model.
        directions: layer number to (H,).
        strength: times each direction. The product is rounded to the dtype of the states, then added.
    """

    def __init__(self, layers: Layers, directions: Mapping[int, Tensor], strength: float) -> None:
        self._added = [
            (layers.modules[number], _Added(direction.float() * strength)) for number, direction in directions.items()
        ]

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with ExitStack() as stack:
            for module, added in self._added:
                stack.callback(module.register_forward_hook(added).remove)
            yield


class _Added:
    """A forward hook that adds one direction."""

    def __init__(self, direction: Tensor) -> None:
        self._direction = direction

    def __call__(self, _module: nn.Module, _args: tuple, output: Any) -> Any:
        states = _states(output)
        if (self._direction.dtype, self._direction.device) != (states.dtype, states.device):
            self._direction = self._direction.to(device=states.device, dtype=states.dtype)
        return _with_states(output, states + self._direction)


@contextmanager
def listening(layers: Sequence[nn.Module], hear: Callable[[int, Tensor], None]) -> Iterator[None]:
    """While this holds, `hear` is told what each layer writes: its number and the states, (R, Q, H)."""
    with ExitStack() as stack:
        for number, module in enumerate(layers):

            def hook(_module: nn.Module, _args: tuple, output: Any, number: int = number) -> None:
                hear(number, _states(output))

            stack.callback(module.register_forward_hook(hook).remove)
        yield


def layers_of(model: Model) -> Layers:
    """The layers of a model: the list of modules, as many as its config says, through which all states go in order.

    Raises:
        UnsupportedError: there is no such list, or something else than the last layer's states is read after it.
    """
    hf = model.hf
    if hf not in _FOUND:
        _FOUND[hf] = _found(model)
    return _FOUND[hf]


def _found(model: Model) -> Layers:
    count = model.hf.config.get_text_config().num_hidden_layers
    lists = [module for module in model.hf.modules() if isinstance(module, nn.ModuleList) and len(module) == count]
    for modules in sorted(lists, key=_num_parameters, reverse=True):
        width = _try(model, tuple(modules))
        if width is not None:
            return Layers(tuple(modules), width)
    raise UnsupportedError(
        f"{model.name} does not pass one stream of states through {count} layers in turn, so no direction can be added "
        "to it; use another model"
    )


def _num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@torch.no_grad()
def _try(model: Model, modules: tuple[nn.Module, ...]) -> int | None:
    """The width of the states, if each module runs once, in order, and whatever is added to its output is read."""
    ids, rows = [token_id % model.vocab_size for token_id in TRIAL_IDS], model.new_rows()
    got, gave = _Heard(), _Heard()
    with ExitStack() as stack:
        for number, module in enumerate(modules):
            stack.callback(module.register_forward_pre_hook(got.inputs(number), with_kwargs=True).remove)
            stack.callback(module.register_forward_hook(gave.outputs(number)).remove)
        plain = _read(rows, ids)
    outputs = [states for _, states in gave.heard]
    if [number for number, _ in gave.heard] != list(range(len(modules))):
        return None
    if any(not isinstance(s, Tensor) or s.dim() != 3 or s.shape[:2] != (1, len(ids)) for s in outputs):
        return None
    width = outputs[0].shape[-1]
    if any(states.shape[-1] != width for states in outputs):
        return None
    for number, (module, states) in enumerate(zip(modules, outputs)):
        read_on = number + 1 < len(modules) and any(_same(states, one) for one in got.heard[number + 1][1])
        if not read_on and not _matters(module, states, rows, ids, plain):
            return None
    return width


class _Heard:
    """What hooks are told: the number of a module, and what it reads or writes."""

    def __init__(self) -> None:
        self.heard: list[tuple[int, Any]] = []

    def inputs(self, number: int) -> Callable[..., None]:
        def hook(_module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
            self.heard.append((number, [one for one in (*args, *kwargs.values()) if isinstance(one, Tensor)]))

        return hook

    def outputs(self, number: int) -> Callable[..., None]:
        def hook(_module: nn.Module, _args: tuple, output: Any) -> None:
            self.heard.append((number, _states(output)))

        return hook


def _same(states: Tensor, other: Tensor) -> bool:
    return other is states or (other.shape == states.shape and torch.equal(other, states))


def _matters(module: nn.Module, states: Tensor, rows: Rows, ids: list[int], plain: Tensor) -> bool:
    """Whether the logits are others where something as large as its states is added to what a module writes."""
    handle = module.register_forward_hook(_Added(states[0, 0].roll(1).float() + 1))
    try:
        return not torch.equal(_read(rows, ids), plain)
    finally:
        handle.remove()


def _read(rows: Rows, ids: list[int]) -> Tensor:
    row = rows.add()
    try:
        return rows.forward([Feed(row, ids)])
    finally:
        rows.free(row)


def _states(output: Any) -> Any:
    return output[0] if isinstance(output, (tuple, list)) else output


def _with_states(output: Any, states: Tensor) -> Any:
    return (states, *output[1:]) if isinstance(output, (tuple, list)) else states
