"""Steps of a few fixed shapes, each made ready once and kept: compiled code, or a graph of a GPU's work.

A step is made for the first R slots of the buffers, 1 or `MOST_COLUMNS` tokens each, and the first N positions, R and N
powers of two. What fills up the shape is written at the positions that come next in its slot, where nothing has been
read yet and the next real tokens go.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, CacheLayerMixin

from counterpoint.errors import CompileWarning
from counterpoint.models.buffers import Buffers, Views
from counterpoint.models.caches import cache_argument
from counterpoint.models.close import is_close
from counterpoint.models.hooks import Hooks
from counterpoint.models.kernels.build import OPERATORS
from counterpoint.models.packed import Packed

LEAST_REACH = 256
LEAST_ROWS = 1
MOST_COLUMNS = 8

States: TypeAlias = list[Tensor | None]
Masks: TypeAlias = Tensor | dict[str, Tensor]
#: from the places of tokens in their rows (R, Q) to where they may attend (R, 1, Q, N)
MasksOf: TypeAlias = Callable[[Tensor], Masks]
Shape: TypeAlias = tuple[int, int, int]
Step: TypeAlias = Callable[[Packed, MasksOf, Views], Tensor]

# As an operator: a compiler that sees an assignment to indices copies the buffers for those who read them next.
OPERATORS.define("write(Tensor(a!) keys, Tensor(b!) values, Tensor key, Tensor value, Tensor rows, Tensor at) -> ()")


def _write(keys: Tensor, values: Tensor, key: Tensor, value: Tensor, rows: Tensor, at: Tensor) -> None:
    keys[rows, :, at] = key.transpose(1, 2)  # (R, Q, H, D)
    values[rows, :, at] = value.transpose(1, 2)


OPERATORS.impl("write", _write, "CompositeExplicitAutograd")
OPERATORS.impl("write", lambda *_: None, "Meta")


class StaticLayer(CacheLayerMixin):
    """A layer of such a step: writes a few tokens a row and reads all positions."""

    is_compileable = True
    is_sliding = False

    def __init__(self, keys: Tensor | None, values: Tensor | None, rows: Tensor, positions: Tensor) -> None:
        super().__init__()
        self.keys, self.values, self.rows, self.positions = keys, values, rows, positions
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        pass

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        torch.ops.counterpoint.write(self.keys, self.values, key_states, value_states, self.rows, self.positions)
        return self.keys, self.values

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_max_length(), 0

    def get_seq_length(self) -> int:
        return 0

    def get_max_length(self) -> int:
        assert self.keys is not None  # one is asked that is read
        return self.keys.shape[2]


class FixedSteps(ABC):
    """The steps of one model, made when their shape is first wanted and kept.

    Args:
        model: an attention model; its weights must not change any more.
        always: make one for every shape; else only where it seems to pay, see `pays`.
    """

    #: what a step that was made is called in messages
    made = "made ready"

    def __init__(self, model: PreTrainedModel, *, always: bool) -> None:
        self._model, self.always = model, always
        self._cache_name = cache_argument(model.forward)
        self._hooks = Hooks(model)
        self._broken = False

    @property
    def compiles(self) -> bool:
        """Whether a step may be compiled, so that what hooks see of it is not to be had."""
        return False

    @property
    def records(self) -> bool:
        """Whether steps are recorded and done again, not computed by the model's own code."""
        return False

    @property
    def usable(self) -> bool:
        """False after a step could not be made or gave other logits, while hooks look into the forward, and with adapters."""
        return not self._broken and not self._hooks.any() and not self._model.__dict__.get("peft_config")

    def num_rows(self, num_slots: int) -> int:
        """The least number of rows of a step that holds these slots."""
        return max(LEAST_ROWS, 1 << (num_slots - 1).bit_length())

    def num_columns(self, width: int) -> int:
        """The number of columns of a step that holds these, at most `MOST_COLUMNS`."""
        return 1 if width == 1 else MOST_COLUMNS

    def num_positions(self, reach: int) -> int:
        """The least number of positions of a step that holds these."""
        return max(LEAST_REACH, 1 << (reach - 1).bit_length())

    def new_buffers(self, num_layers: int) -> Buffers:
        """Buffers for the first of some rows."""
        return Buffers(num_layers)

    def give_back(self, buffers: Buffers) -> None:
        """What `new_buffers` gave, when its last row is gone."""
        return  # most keep none

    @abstractmethod
    def pays(
        self, num_rows: int, num_columns: int, num_positions: int, *, num_steps: int, step_s: float | None
    ) -> bool:
        """Whether a step of this shape is to be made, or is there already.

        Args:
            num_steps: to come in this shape, as far as that is known.
            step_s: seconds that one takes as it is; None where there was none.
        """

    @abstractmethod
    def _found(self, shape: Shape, views: Views) -> Step | None:
        """The step of this shape over these buffers, if it has been made."""

    @abstractmethod
    def _new(self, packed: Packed, masks: MasksOf, views: Views) -> tuple[Step, Tensor]:
        """A step for this shape, and what it gives the first time."""

    @abstractmethod
    def _keep(self, shape: Shape, views: Views, step: Step) -> None:
        """Keep a step that gave what the model gives."""

    def run(self, packed: Packed, masks: MasksOf, views: Views, *, eager: Callable[[], Tensor]) -> Tensor:
        """Logits (R, Q, V) after each of Q tokens in the first R slots.

        Args:
            packed: R lines of Q tokens.
            masks: the model's, for these N positions.
            views: of the first R slots and N positions of the buffers.
            eager: the same by the model's own forward; called where a step is made, to compare.
        """
        shape = (packed.num_lines, packed.width, views.num_positions)
        step = self._found(shape, views)
        if step is not None:
            return step(packed, masks, views)
        want = eager()
        try:
            step, got = self._new(packed, masks, views)
        except Exception as error:  # any failure means that this model or machine makes none
            why = str(error).strip().splitlines() or [""]
            return self._give_up(eager, f"{type(error).__name__}: {why[0][:160]}")
        if not is_close(got, want.view_as(got)):
            return self._give_up(eager, "its logits differ from those of the model")
        self._keep(shape, views, step)
        return got

    def _step(self, tokens: Tensor, rows: Tensor, masks: Masks, keys: States, values: States) -> Tensor:
        """Logits (R, Q, V). tokens: (3, R, Q), ids, positions and places to write at; rows: (R, 1), of the buffers."""
        layers = [StaticLayer(k, v, rows, tokens[2]) for k, v in zip(keys, values)]
        return self._model(
            input_ids=tokens[0],
            position_ids=tokens[1],
            attention_mask=masks,
            use_cache=True,
            **{self._cache_name: Cache(layers=layers)},
        ).logits

    def _give_up(self, eager: Callable[[], Tensor], reason: str) -> Tensor:
        self._broken = True
        warnings.warn(f"steps are not {self.made}: {reason}", CompileWarning, stacklevel=5)
        return eager()  # once more, since what was tried has written into the buffers
