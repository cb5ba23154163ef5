"""Steps as compiled code, for a few fixed shapes.

Products of few rows are calls of our kernel on the model's own weights, and the compiled code lies in the compiler's
cache on disk, so that a second process has it in a few seconds. For more rows the weights are laid out for the
processor beforehand: they are held twice then, and such code the compiler does not cache.
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

from counterpoint.models.attention import FewQueries
from counterpoint.models.buffers import Views
from counterpoint.models.fixed import FixedSteps, MasksOf, Shape, Step
from counterpoint.models.linears import Linears, is_slow_blas
from counterpoint.models.packed import Packed

#: what compiling takes, in seconds for each layer, and what it saves of a step that is not compiled; as measured with
#: the 124M configuration of GPT-2
COMPILE_S_A_LAYER = 1.0
SAVED = 0.12


class CompiledSteps(FixedSteps):
    """The compiled steps of one model, as `FixedSteps`."""

    made = "compiled"

    def __init__(self, model: PreTrainedModel, *, always: bool = True) -> None:
        super().__init__(model, always=always)
        self._steps: dict[Shape, Step] = {}

    @property
    def compiles(self) -> bool:
        return not self._broken

    def pays(
        self, num_rows: int, num_columns: int, num_positions: int, *, num_steps: int, step_s: float | None
    ) -> bool:
        """As of `FixedSteps`. Where the choice is free, it is compiled if the steps to come would save twice the
        estimated time of compiling."""
        if self.always or (num_rows, num_columns, num_positions) in self._steps:
            return True
        cost_s = COMPILE_S_A_LAYER * self._model.config.get_text_config().num_hidden_layers
        return step_s is not None and num_steps * SAVED * step_s > 2 * cost_s

    @functools.cached_property
    def _linears(self) -> Linears:
        return Linears(self._model, compiled=True)

    @functools.cached_property
    def _attention(self) -> FewQueries:
        return FewQueries(self._model, compiled=True)

    def _found(self, shape: Shape, views: Views) -> Step | None:
        return self._steps.get(shape)

    def _keep(self, shape: Shape, views: Views, step: Step) -> None:
        self._steps[shape] = step

    def _new(self, packed: Packed, masks: MasksOf, views: Views) -> tuple[Step, Tensor]:
        has_kernel = self._linears.suits(packed.num_tokens)
        compiled = compiled_step(self._step)

        def step(packed: Packed, masks: MasksOf, views: Views) -> Tensor:
            rows = torch.arange(packed.num_lines, device=packed.device)[:, None]
            with self._traced(has_kernel, packed.width):
                return compiled(packed.tokens, rows, masks(packed.places), views.keys, views.values)

        with _compiling(frozen=not has_kernel):
            return step, step(packed, masks, views)

    @contextmanager
    def _traced(self, has_kernel: bool, num_queries: int) -> Iterator[None]:
        """The model as a step is compiled and run: with our attention, and with our products where they are quickest."""
        linears = self._linears.joint() if has_kernel else nullcontext()
        with self._attention.joint(num_queries, traced=True), linears:
            yield


def compiled_step(step: types.MethodType) -> Callable[..., Tensor]:
    """A method to be compiled for one shape, with nothing to check at each call: who calls it chooses by the shape."""
    plain = step.__func__
    # Compiled code is found by its code object: with one of its own, no other shape or model is looked through.
    own = types.FunctionType(plain.__code__.replace(), plain.__globals__, plain.__name__, None, plain.__closure__)
    options = {"guard_filter_fn": lambda guards: [False] * len(guards)}
    return functools.partial(torch.compile(own, dynamic=False, fullgraph=True, options=options), step.__self__)


@contextmanager
def _compiling(*, frozen: bool) -> Iterator[None]:
    """Around the first call of a step, which compiles it. What the compiler warns of is not the caller's."""
    with warnings.catch_warnings(), _joint_linears(), torch._inductor.config.patch(freezing=frozen):
        warnings.simplefilter("ignore")
        yield


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
