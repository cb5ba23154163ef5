"""Forwards of few tokens as one call each, where the model's own forward can be recorded and the call gives the same."""

from __future__ import annotations

import itertools
import warnings
from array import array
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import CacheLayerMixin

from counterpoint.errors import CompileWarning
from counterpoint.models.attention import FewQueries
from counterpoint.models.caches import cache_argument
from counterpoint.models.close import is_within
from counterpoint.models.hooks import Hooks
from counterpoint.models.kernels import step
from counterpoint.models.kernels.few_rows import MOST_ROWS
from counterpoint.models.kernels.step import as_array
from counterpoint.models.linears import Linears
from counterpoint.models.packed import Packed
from counterpoint.models.recorded.layout import NotRecordable, storage_of
from counterpoint.models.recorded.lower import Lowered
from counterpoint.models.recorded.operations import lowered
from counterpoint.models.recorded.program import assembled
from counterpoint.models.recorded.trace import record

MOST_TOKENS = 256  # of a forward, padding included
MOST_COLUMNS = 128  # of a row
MOST_WANTED_BYTES = 2**27  # of what is computed after the head, where logits are changed there
PROBES = (3, 5), (5, 6)  # rows and positions of the two traces
LEAST_REACH = 256  # positions; results are compared again at each power of two from there on
CLOSE = {torch.float32: 64 * 2.0**-23, torch.bfloat16: 16 * 2.0**-8}  # of the largest logit


@dataclass(frozen=True, slots=True)
class Masked:
    """Masks in memory, a byte for each position, 1 where a token may attend.

    Args:
        addresses: of each kind, for each line, where the mask of its first token lies.
        strides: of each kind, bytes from the mask of one token of a line to that of the next.
        kept: tensors whose addresses these are.
    """

    addresses: list[int]
    strides: list[int]
    kept: list[Tensor]


class RecordedSteps:
    """The recorded forward of one model, made when it is first wanted.

    Args:
        model: its weights must not be exchanged any more.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._model, self._dtype = model, model.dtype
        self._cache_name = cache_argument(model.forward)
        self._program: step.Program | None = None
        self._lowered: Lowered | None = None
        self._compared: set[tuple[int, bool, bool]] = set()
        self._memory: dict[str, Tensor] = {}
        self._rooms: list[int] = []
        self._room_for = (-1, -1)  # tokens, and wanted predictions
        self._num_logits = self._widest = 0
        self._hooks = Hooks(model)
        #: why forwards are not recorded; None where they are, or that is not known yet
        self.refused: str | None = None
        if model.device.type != "cpu" or model.dtype not in MOST_ROWS:
            self.refused = "it is not on the CPU in float32 or bfloat16"
        elif not step.is_available():
            self.refused = "there is no compiled kernel"

    @property
    def usable(self) -> bool:
        """Whether forwards go through the program now: nobody looks into the model's own, or changes it."""
        return self.refused is None and not self._hooks.any() and not self._model.__dict__.get("peft_config")

    def suits(self, num_rows: int, width: int, num_wanted: int) -> bool:
        """Whether a forward of this shape, with so many predictions wanted, is quicker so and takes little memory."""
        wide = 0 if self._program is None else self._program.wanted_wide
        return width <= MOST_COLUMNS and num_rows * width <= MOST_TOKENS and num_wanted * wide * 4 <= MOST_WANTED_BYTES

    def prepare(
        self, linears: Linears, attention: FewQueries, layers: Sequence[CacheLayerMixin], kinds: list[str] | None
    ) -> bool:
        """Record the forward, if that is still to be done; whether there is a program.

        Args:
            linears, attention: our kernels. layers: buffers of keys and values. kinds: of masks, where there are several.
        """
        if self._program is None and self.refused is None:

            def joint() -> AbstractContextManager[Any]:
                stack = ExitStack()
                stack.enter_context(linears.joint())
                stack.enter_context(attention.joint(1))
                return stack

            try:
                traces = [
                    record(self._model, self._cache_name, len(layers), kinds, joint, num_rows=num_rows, reach=reach)
                    for num_rows, reach in PROBES
                ]
                self._lowered = lowered(*traces)
                given = storage_of(traces[0].ids), storage_of(traces[0].positions)
                self._program = assembled(self._lowered, given)
                self._num_logits = traces[0].logits.shape[-1]
                sizes = [one.sizes for one in self._program.instructions if one.name in ("ASK", "TAKE")]
                self._widest = max((heads * size for heads, size in sizes), default=0)
            except NotRecordable as error:
                self.refused = str(error)
            except Exception as error:  # of whatever kind: this model's forward is another one with such inputs
                self.refused = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:160]}"
        if self._program is None or self._lowered is None:
            return False
        for index, (key, value) in self._lowered.layers.items():
            if not layers[index].is_initialized:
                layers[index].lazy_initialization(key, value)
        return True

    @property
    def _made(self) -> tuple[step.Program, Lowered]:
        if self._program is None or self._lowered is None:
            raise RuntimeError("nothing is recorded yet; call prepare first")
        return self._program, self._lowered

    def described(self, layers: Sequence[CacheLayerMixin]) -> array[int]:
        """The buffers of layers as `run` takes them; anew whenever they have moved."""
        values, known = [], self._made[1].layers
        for index, layer in enumerate(layers):
            if index not in known:
                values += [0] * 11
                continue
            keys, others = layer.keys, layer.values
            values += [keys.data_ptr(), others.data_ptr(), *keys.stride()[:3], *others.stride()[:3]]
            values += [keys.shape[1], keys.shape[3], others.shape[3]]
        return as_array(values)

    @property
    def kinds(self) -> list[Any]:
        """The kinds of masks that the program takes, in its order."""
        return self._made[1].kinds

    def run(
        self,
        packed: Packed,
        slots: Sequence[int],
        layers: array[int],
        masks: Masked,
        reach: int,
        *,
        eager: Callable[[], Tensor],
    ) -> Tensor:
        """Logits (M, V) of the wanted predictions.

        Args:
            packed: R lines of Q tokens. slots: of each line, in the buffers.
            layers: what `described` gave.
            masks: where a token may attend, of the positions up to `reach`.
            eager: the same by the model's own forward; called now and then, to compare.
        """
        shape = (max(LEAST_REACH, reach).bit_length(), packed.num_tokens > 6, packed.width > 1)
        if shape in self._compared:
            return self._run(packed, slots, layers, masks, reach)
        self._compared.add(shape)
        want = eager()
        got = self._run(packed, slots, layers, masks, reach)  # what it keeps takes the place of what the model kept
        if is_within(got, want, CLOSE[want.dtype]):
            return got
        self.refused = "its results differ from those of the model's own forward"
        warnings.warn(f"steps are not recorded: {self.refused}", CompileWarning, stacklevel=4)
        return eager()

    def _run(self, packed: Packed, slots: Sequence[int], layers: array[int], masks: Masked, reach: int) -> Tensor:
        num_lines, width, num_tokens, num_wanted = packed.num_lines, packed.width, packed.num_tokens, len(packed.lines)
        wanted = packed.lines if width == 1 else [a * width + b for a, b in zip(packed.lines, packed.columns)]
        given = as_array([*packed.numbers, *slots, *wanted, *masks.addresses, *masks.strides])
        sizes = (num_tokens, num_tokens, num_tokens, num_lines, num_wanted, len(masks.addresses))
        places = [step.address(given) + 8 * before for before in itertools.accumulate(sizes, initial=0)]
        logits = torch.empty((num_wanted, self._num_logits), dtype=self._dtype)
        if self._room_for != (num_tokens, num_wanted):
            self._rooms, self._room_for = self._new_rooms(num_tokens, num_wanted), (num_tokens, num_wanted)
        step.run(
            self._made[0],
            [
                step.address(layers), self._dtype is torch.bfloat16, torch.get_num_threads(),
                num_lines, width, num_wanted, self._num_logits, reach, *places, *self._rooms, logits.data_ptr(),
            ],
        )  # fmt: skip
        return logits

    def _new_rooms(self, num_tokens: int, num_wanted: int) -> list[int]:
        """The addresses of memory that is kept between steps, as C's `Run` has them."""
        program = self._made[0]
        return [
            self._room("arena", num_tokens * program.wide * 4),
            self._room("wanted", num_wanted * program.wanted_wide * 4),
            program.wide,
            program.wanted_wide,
            self._room("queries", num_tokens * self._widest * 4),
            self._room("attended", num_tokens * self._widest * 4),
            self._room("packed", step.packed_bytes(program, max(num_tokens, num_wanted, 1))),
        ]

    def _room(self, name: str, num_bytes: int) -> int:
        """The address of so much memory."""
        held = self._memory.get(name)
        if held is None or held.numel() < num_bytes + 64:
            held = self._memory[name] = torch.empty(num_bytes * 5 // 4 + 64, dtype=torch.uint8)
        return -(-held.data_ptr() // 64) * 64
