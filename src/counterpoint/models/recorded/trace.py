"""One forward of a model, written down operation by operation, with one token in each of some rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, CacheLayerMixin

from counterpoint.models.kernels.build import OPERATORS

Masks = Tensor | dict[str, Tensor]

# Keys and values that a layer keeps, as what is read of its buffers afterwards; which numbers these are makes no difference.
OPERATORS.define("keep(Tensor key, Tensor value, int layer, int reach) -> (Tensor, Tensor)")


def _kept(key: Tensor, value: Tensor, layer: int, reach: int) -> tuple[Tensor, Tensor]:
    seen = [x.new_zeros((x.shape[0], x.shape[1], reach, x.shape[3])) for x in (key, value)]
    return seen[0], seen[1]


OPERATORS.impl("keep", _kept, "CPU")


@dataclass(frozen=True, slots=True)
class Call:
    """One operation: its name without the overload, its arguments by name, the tensors that came of it."""

    name: str
    arguments: dict[str, Any]
    outs: list[Tensor]
    is_changing: bool  # one of its arguments is changed in place
    place: str  # the module of the model that did it


@dataclass(frozen=True, slots=True)
class Trace:
    """What a forward did.

    Args:
        num_rows, reach: of the forward. ids, positions: (R, 1), what it read. masks: by kind, (R, 1, 1, N).
        logits: (R, 1, V), what came of it.
    """

    num_rows: int
    reach: int
    ids: Tensor
    positions: Tensor
    masks: dict[str, Tensor]
    calls: list[Call]
    logits: Tensor


class _Layer(CacheLayerMixin):
    is_compileable = True
    is_sliding = False

    def __init__(self, index: int, reach: int) -> None:
        super().__init__()
        self._index, self._reach = index, reach
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        pass

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        return torch.ops.counterpoint.keep(key_states, value_states, self._index, self._reach)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._reach, 0

    def get_seq_length(self) -> int:
        return 0

    def get_max_length(self) -> int:
        return self._reach


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self._within: list[str] = []  # the modules that are running, the innermost last

    @contextmanager
    def told(self, model: PreTrainedModel) -> Iterator[None]:
        """While this holds, the model's modules tell when they run."""
        handles = []
        for name, module in model.named_modules():
            shown = f"{name} ({type(module).__name__})" if name else type(module).__name__
            handles.append(module.register_forward_pre_hook(lambda *_, shown=shown: self._within.append(shown)))
            handles.append(module.register_forward_hook(lambda *_: self._leave(), always_call=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _leave(self) -> None:
        self._within.pop()

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):  # noqa: ANN001, the mode's own signature
        if operator._can_decompose():  # in inference mode such operations are not taken apart beforehand
            with self:
                made = operator.decompose(*args, **(kwargs or {}))
            if made is not NotImplemented:
                return made
        out = operator(*args, **(kwargs or {}))
        schema = operator._schema
        arguments = {argument.name: value for argument, value in zip(schema.arguments, args)} | (kwargs or {})
        outs = [x for x in (out if isinstance(out, (tuple, list)) else [out]) if isinstance(x, Tensor)]
        name = schema.name.removeprefix("aten::")
        self.calls.append(Call(name, arguments, outs, schema.is_mutable, self._within[-1] if self._within else ""))
        return out


def record(
    model: PreTrainedModel,
    cache_name: str,
    num_layers: int,
    kinds: list[str] | None,
    joint: Callable[[], AbstractContextManager[None]],
    *,
    num_rows: int,
    reach: int,
) -> Trace:
    """Record a forward of `num_rows` rows of a token each, which attend to `reach` positions.

    Args:
        cache_name: what the model's forward calls its cache.
        kinds: of masks, where the forward takes one of each kind.
        joint: the state in which the model's products and attention are ours.
    """
    ids = torch.arange(num_rows, device=model.device)[:, None] % 2
    positions = torch.arange(num_rows, device=model.device)[:, None] + reach
    masks = {kind: torch.ones(num_rows, 1, 1, reach, dtype=torch.bool) for kind in kinds or [""]}
    cache = Cache(layers=[_Layer(index, reach) for index in range(num_layers)])
    recorder = _Recorder()
    with torch.no_grad(), joint(), recorder.told(model), recorder:
        logits = model(
            input_ids=ids,
            position_ids=positions,
            attention_mask=masks if kinds else masks[""],
            use_cache=True,
            **{cache_name: cache},
        ).logits
    return Trace(num_rows, reach, ids, positions, masks, recorder.calls, logits)
