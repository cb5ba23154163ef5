"""vLLM's second model runner, with the rows of a guided request combined before its sampler's processors.

The sampler is all that changes. It is told of every request that comes in, and what it says about each row's tokens,
`num_sampled` and `num_rejected`, is what the runner goes by: none sampled and one rejected means "do it again". The noise
of a draw depends on the seed and the position alone, so a row that waits takes none away.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from vllm import SamplingParams
from vllm.v1.worker.gpu.sample.sampler import Sampler

from counterpoint import guiding
from counterpoint.errors import UnsupportedError
from counterpoint.vllm.params import Plan, read
from counterpoint.vllm.rows import Batch


class GuidedSampler(Sampler):
    """Takes the place of vLLM's `Sampler`, see `guide`."""

    _plans: dict[int, Plan | None]  # by the slots of requests, like all that the runner keeps
    _constrained: dict[int, bool]

    def add_request(self, req_idx: int, sampling_params: SamplingParams) -> None:
        super().add_request(req_idx, sampling_params)
        self._plans[req_idx] = read(sampling_params.extra_args)
        self._constrained[req_idx] = sampling_params.structured_outputs is not None

    def __call__(self, logits: Tensor, input_batch: Any) -> Any:
        slots = input_batch.idx_mapping_np
        seen = input_batch.num_computed_tokens_np + input_batch.num_scheduled_tokens
        reads_on = seen < input_batch.prefill_len_np
        generated = seen - self.req_states.prompt_len.np[slots]
        index = {name: row for row, name in enumerate(input_batch.req_ids)}
        self._batch = Batch.of(
            index,
            lambda name: self._plans.get(slots[index[name]]),
            reads_on=reads_on.__getitem__,
            step_of=lambda _, row: int(generated[row]),
            constrained=lambda _, row: self._constrained[slots[row]],
        )
        output = super().__call__(self._batch.guided(logits), input_batch)
        again = [row for row in self._batch.alone if not reads_on[row]]
        if again:
            rows = guiding.sent(again, logits.device)
            output.num_sampled.index_fill_(0, rows, 0)
            output.num_rejected.index_fill_(0, rows, 1)
        return output

    def sample(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        sampled, processed = super().sample(*args, **kwargs)
        self._batch.give(sampled)
        return sampled, processed


def guide(runner: Any) -> None:
    """Let a runner guide, whose model is loaded.

    Raises:
        UnsupportedError: its sampler is not vLLM's plain one, as with watermarks.
    """
    if type(runner.sampler) is not Sampler:
        raise UnsupportedError(f"counterpoint.vllm: the sampler is {type(runner.sampler)}; use vLLM's own")
    runner.sampler.__class__ = GuidedSampler
    runner.sampler._plans, runner.sampler._constrained = {}, {}
