"""Steps as compiled code, for a few fixed shapes.

Products of few rows are calls of our kernel on the model's own weights, and the compiled code lies in the compiler's
cache on disk, so that a second process has it in a few seconds. For more rows the weights are laid out for the
processor beforehand: they are held twice then, and such code the compiler does not cache.

A step is compiled for the first R slots of the buffers, 1 or `MOST_COLUMNS` tokens each, and the first N positions, R
and N powers of two. What fills up the shape is written at the positions that come next in its slot, where nothing has
been read yet and the next real tokens go.
"""

from __future__ import annotations

import functools
import types
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, CacheLayerMixin

from counterpoint.errors import CompileWarning
from counterpoint.models.attention import FewQueries
from counterpoint.models.caches import cache_argument
from counterpoint.models.close import is_close
from counterpoint.models.kernels.build import OPERATORS
from counterpoint.models.linears import Linears, is_slow_blas

LEAST_REACH = 256
LEAST_ROWS = 1
MOST_COLUMNS = 8
#: what compiling takes, in seconds for each layer, and what it saves of a step that is not compiled; as measured with
#: the 124M configuration of GPT-2
COMPILE_S_A_LAYER = 1.0
SAVED = 0.12

Masks = Tensor | dict[str, Tensor]
States = list[Tensor | None]

# As an operator: a compiler that sees an assignment to indices copies the buffers for those who read them next.
OPERATORS.define("write(Tensor(a!) keys, Tensor(b!) values, Tensor key, Tensor value, Tensor rows, Tensor at) -> ()")


def _write(keys: Tensor, values: Tensor, key: Tensor, value: Tensor, rows: Tensor, at: Tensor) -> None:
    keys[rows, :, at] = key.transpose(1, 2)  # (R, Q, H, D)
    values[rows, :, at] = value.transpose(1, 2)


OPERATORS.impl("write", _write, "CompositeExplicitAutograd")
OPERATORS.impl("write", lambda *_: None, "Meta")


class _StaticLayer(CacheLayerMixin):
    """A layer of the compiled step: writes a few tokens a row and reads all positions."""

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
        return self.keys.shape[2], 0

    def get_seq_length(self) -> int:
        return 0

    def get_max_length(self) -> int:
        return self.keys.shape[2]


class CompiledSteps:
    """The compiled steps of one model, made when their shape is first seen and kept.

    Args:
        model: an attention model; its weights must not change any more.
        always: compile every shape; else only where it seems to pay, see `pays`.
    """

    def __init__(self, model: PreTrainedModel, *, always: bool = True) -> None:
        self._model, self.always = model, always
        self._cache_name = cache_argument(model.forward)
        self._linears: Linears | None = None
        self._attention: FewQueries | None = None
        self._steps: dict[tuple[int, int, int], Callable[..., Tensor]] = {}
        self._broken = False

    @property
    def usable(self) -> bool:
        """False after a compilation has failed or has given other logits."""
        return not self._broken

    def num_rows(self, num_slots: int) -> int:
        """The least number of rows of a step that holds these slots."""
        return max(LEAST_ROWS, 1 << (num_slots - 1).bit_length())

    def num_columns(self, width: int) -> int:
        """The number of columns of a step that holds these, at most `MOST_COLUMNS`."""
        return 1 if width == 1 else MOST_COLUMNS

    def num_positions(self, reach: int) -> int:
        """The least number of positions of a step that holds these."""
        return max(LEAST_REACH, 1 << (reach - 1).bit_length())

    def pays(
        self, num_rows: int, num_columns: int, num_positions: int, *, num_steps: int, step_s: float | None
    ) -> bool:
        """Whether a step of this shape is to be compiled, or is already.

        Where the choice is free, it is compiled if `num_steps` steps to come, of `step_s` seconds each as they are,
        would save twice the estimated time of compiling.
        """
        if self.always or (num_rows, num_columns, num_positions) in self._steps:
            return True
        cost_s = COMPILE_S_A_LAYER * self._model.config.get_text_config().num_hidden_layers
        return step_s is not None and num_steps * SAVED * step_s > 2 * cost_s

    def run(self, packed: Tensor, masks: Masks, keys: States, values: States, *, eager: Callable[[], Tensor]) -> Tensor:
        """Logits (R, Q, V) after each of Q tokens in the first R slots.

        Args:
            packed: (3, R, Q), the tokens, their positions, and the positions that are written.
            masks: (R, 1, Q, N), where a token may attend.
            keys, values: of each layer, (R, H, N, D) views of the buffers; None where it has none of its own.
            eager: the same by the model's own forward; called once a shape, to compare.
        """
        if self._linears is None:
            self._linears = Linears(self._model, compiled=True)
            self._attention = FewQueries(self._model, compiled=True)
        rows = torch.arange(packed.shape[1], device=packed.device)[:, None]
        arguments = (packed, rows, masks, keys, values)
        shape = (packed.shape[1], packed.shape[2], next(k for k in keys if k is not None).shape[2])
        has_kernel = self._linears.suits(packed[0].numel())
        if shape in self._steps:
            with self._traced(has_kernel, packed):
                return self._steps[shape](*arguments)
        want = eager()
        try:
            step = self._new_step()
            with self._traced(has_kernel, packed):
                got = _compiled(step, arguments, frozen=not has_kernel)
        except Exception as error:  # any failure means that this model or machine compiles nothing
            return self._give_up(want, f"{type(error).__name__}: {str(error).strip().splitlines()[0][:160]}")
        if not is_close(got, want.view_as(got)):
            return self._give_up(want, "its logits differ from those of the model")
        self._steps[shape] = step
        return got

    def _give_up(self, logits: Tensor, reason: str) -> Tensor:
        self._broken = True
        warnings.warn(f"steps are not compiled: {reason}", CompileWarning, stacklevel=4)
        return logits

    @contextmanager
    def _traced(self, has_kernel: bool, packed: Tensor) -> Iterator[None]:
        """The model as a step is compiled and run: with our attention, and with our products where they are quickest."""
        linears = self._linears.joint() if has_kernel else nullcontext()
        with self._attention.joint(packed.shape[2], traced=True), linears:
            yield

    def _new_step(self) -> Callable[..., Tensor]:
        """`_step` to be compiled for one shape, with nothing to check at each call: `run` chooses by the shape."""
        step = self._step.__func__
        # Compiled code is found by its code object: with one of its own, no other shape or model is looked through.
        own = types.FunctionType(step.__code__.replace(), step.__globals__, step.__name__, None, step.__closure__)
        options = {"guard_filter_fn": lambda guards: [False] * len(guards)}
        return functools.partial(torch.compile(own, dynamic=False, fullgraph=True, options=options), self)

    def _step(self, packed: Tensor, rows: Tensor, masks: Masks, keys: States, values: States) -> Tensor:
        layers = [_StaticLayer(k, v, rows, packed[2]) for k, v in zip(keys, values)]
        return self._model(
            input_ids=packed[0],
            position_ids=packed[1],
            attention_mask=masks,
            use_cache=True,
            **{self._cache_name: Cache(layers=layers)},
        ).logits


def _compiled(step: Callable[..., Tensor], arguments: tuple, *, frozen: bool) -> Tensor:
    """The first call of a step, which compiles it. What the compiler warns of is not the caller's."""
    with warnings.catch_warnings(), _joint_linears(), torch._inductor.config.patch(freezing=frozen):
        warnings.simplefilter("ignore")
        return step(*arguments)


@contextmanager
def _joint_linears() -> Iterator[None]:
    """While this holds, float32 linear layers are compiled to oneDNN's kernel where MKL's is slow at a few rows.

    The compiler does so where float32 products may be computed in tf32. The processors in question know no tf32, and
    the permission ends with the compilation.
    """
    before = torch.backends.mkldnn.matmul.fp32_precision
    if is_slow_blas():
        torch.backends.mkldnn.matmul.fp32_precision = "tf32"
    try:
        yield
    finally:
        torch.backends.mkldnn.matmul.fp32_precision = before
