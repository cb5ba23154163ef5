"""Steps as CUDA graphs: one call of the host starts all that the GPU does in a step.

Started one by one, the kernels of a small model take the GPU less time than they take the host. A graph reads and writes
memory at fixed places, so it belongs to one shape and to the buffers that it was recorded over, and goes with them.
Buffers whose rows are gone are therefore kept for the next rows, with their graphs.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor
from transformers import PreTrainedModel

from counterpoint.models.buffers import Buffers, Views
from counterpoint.models.compiled import CompiledSteps, compiled_step
from counterpoint.models.devices import is_on_one_gpu
from counterpoint.models.fixed import FixedSteps, MasksOf, Shape, Step
from counterpoint.models.packed import Packed

SEEN = 3  # steps of a shape, after which it is recorded: that takes as long as about four
WARM_UPS = 2


class GraphedSteps(FixedSteps):
    """The steps of one model as CUDA graphs, as `FixedSteps`.

    Args:
        model: all of its weights are on one GPU.
        compiled: what is recorded is compiled code, which starts fewer kernels.
    """

    made = "recorded as CUDA graphs"

    def __init__(self, model: PreTrainedModel, *, compiled: bool = False) -> None:
        super().__init__(model, always=compiled)
        self._is_compiled = compiled
        self._seen: Counter[Shape] = Counter()
        self._graphs: weakref.WeakKeyDictionary[Views, dict[Shape, Step]] = weakref.WeakKeyDictionary()
        self._spare: Buffers | None = None

    @property
    def compiles(self) -> bool:
        return self._is_compiled and not self._broken

    @property
    def records(self) -> bool:
        return self.usable

    def new_buffers(self, num_layers: int) -> Buffers:
        spare, self._spare = self._spare, None
        if spare is None:
            return super().new_buffers(num_layers)
        spare.clear()
        return spare

    def give_back(self, buffers: Buffers) -> None:
        self._spare = None if self._broken else buffers

    def pays(
        self, num_rows: int, num_columns: int, num_positions: int, *, num_steps: int, step_s: float | None
    ) -> bool:
        """As of `FixedSteps`: whether there have been some steps of this shape, since there may be more then."""
        shape = (num_rows, num_columns, num_positions)
        self._seen[shape] += 1
        return self.always or self._seen[shape] > SEEN

    def _found(self, shape: Shape, views: Views) -> Step | None:
        return self._graphs.get(views, {}).get(shape)

    def _keep(self, shape: Shape, views: Views, step: Step) -> None:
        self._graphs.setdefault(views, {})[shape] = step

    def _new(self, packed: Packed, masks: MasksOf, views: Views) -> tuple[Step, Tensor]:
        with torch.inference_mode(False):  # which later steps need not be in
            numbers = packed.with_places.to(packed.device, copy=True)  # what a replay reads
        num_rows, keys, values = packed.num_lines, views.keys, views.values
        forward = compiled_step(self._step) if self._is_compiled else self._step

        def work() -> Tensor:  # what it makes is the graph's; of all else that it reads, somebody must keep hold
            rows = torch.arange(num_rows, device=numbers.device)[:, None]
            return forward(numbers[:3], rows, masks(numbers[3]), keys, values)

        replay, logits = captured(work, packed.device)

        def step(packed: Packed, masks: MasksOf, views: Views) -> Tensor:
            numbers.copy_(packed.with_places)
            replay()
            return logits.clone()  # the next replay writes over them

        return step, step(packed, masks, views)


def captured(work: Callable[[], Tensor], device: torch.device) -> tuple[Callable[[], None], Tensor]:
    """What `work` starts on the GPU as one call, and where that call leaves its result.

    Args:
        work: waits for nothing and copies nothing between the GPU and the host.
    """
    with torch.cuda.device(device):
        beside = torch.cuda.Stream()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):  # what libraries make ready at their first calls must not be recorded
            for _ in range(WARM_UPS):
                work()
        torch.cuda.current_stream().wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            result = work()
    return graph.replay, result


def fixed_steps(model: PreTrainedModel, *, compiled: bool) -> FixedSteps | None:
    """The quickest steps of fixed shapes where the model is; None where it has none.

    Args:
        compiled: compile each of them.
    """
    if is_on_one_gpu(model):
        return GraphedSteps(model, compiled=compiled)
    return CompiledSteps(model, always=compiled) if compiled or model.device.type == "cpu" else None
