"""vLLM's first model runner, with the rows of a guided request combined before the sampler's processors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from vllm.v1.sample.sampler import Sampler

from counterpoint import guiding
from counterpoint.errors import UnsupportedError
from counterpoint.vllm.params import Plan, read
from counterpoint.vllm.rows import Batch


class ChosenRows(torch.nn.Module):
    """In front of vLLM's top-k, top-p and draw: only the rows whose token counts, since the whole vocabulary is sorted."""

    def __init__(self, sampler: torch.nn.Module) -> None:
        super().__init__()
        self.sampler = sampler
        self.rows: list[int] = []  # none: all of them

    def forward(
        self, logits: Tensor, generators: dict[int, torch.Generator], k: Tensor | None, p: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """(R, V) -> (R,), 0 in the other rows."""
        # Processed log-probabilities are wanted of every row.
        if not self.rows or self.sampler.logprobs_mode.startswith("processed"):
            return self.sampler(logits, generators, k, p)
        rows = guiding.sent(self.rows, logits.device)
        place = {row: index for index, row in enumerate(self.rows)}
        chosen = {place[row]: generator for row, generator in generators.items()}
        k, p = (each if each is None else each.index_select(0, rows) for each in (k, p))
        drawn, _ = self.sampler(logits.index_select(0, rows), chosen, k, p)
        return drawn.new_zeros(len(logits)).index_copy_(0, rows, drawn), None


class GuidedSampler(Sampler):
    """vLLM's sampler for one step's `batch`, which the runner puts there."""

    batch: Batch

    def forward(self, logits: Tensor, *args: Any, **kwargs: Any) -> Any:
        return super().forward(self.batch.guided(logits), *args, **kwargs)

    def sample(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        sampled, processed = super().sample(*args, **kwargs)
        self.batch.give(sampled)
        return sampled, processed


class GuidedRunner:
    """Goes before a `GPUModelRunner`. Rows are used only if their whole group is there, at its last position."""

    _plans: dict[str, Plan | None]
    _set_aside: dict[int, torch.Generator]

    def prepare_guidance(self) -> None:
        """Take the place of `__init__`, since vLLM makes the runner itself."""
        if type(self.sampler) is not Sampler:
            raise UnsupportedError(f"counterpoint.vllm: the sampler is {type(self.sampler)}; use vLLM's own")
        self._plans, self._set_aside = {}, {}
        self.sampler.topk_topp_sampler = ChosenRows(self.sampler.topk_topp_sampler)
        self.sampler.__class__ = GuidedSampler
        self.sampler.batch = Batch()

    def _sample(self, logits: Tensor | None, spec_decode_metadata: Any) -> Any:
        if logits is not None:
            self._choose_rows(self._batch())
        return super()._sample(logits, spec_decode_metadata)

    def _batch(self) -> Batch:
        requests, discard = self.requests, self.discard_request_mask.np
        self._plans = {name: plan for name, plan in self._plans.items() if name in requests}
        return Batch.of(
            self.input_batch.req_id_to_index,
            self._plan,
            reads_on=discard.__getitem__,
            step_of=lambda name, _: len(requests[name].output_token_ids),
            constrained=lambda name, _: requests[name].sampling_params.structured_outputs is not None,
        )

    def _choose_rows(self, batch: Batch) -> None:
        """Rows whose token is dropped draw nothing, so that a seed's tokens do not depend on the schedule.

        vLLM itself would draw and wind the generator back, which a generator on the CPU can't do.
        """
        generators, discard = self.input_batch.generators, self.discard_request_mask.np
        discard[list(batch.alone)] = True
        self._set_aside = {row: generators.pop(row) for row in list(generators) if discard[row]}
        given = {branch for rows in batch.groups for branch in rows.branches}
        chosen = [row for row in range(self.input_batch.num_reqs) if row not in given and not discard[row]]
        self.sampler.topk_topp_sampler.rows = chosen if given else []
        self.sampler.batch = batch

    def _plan(self, name: str) -> Plan | None:
        if name not in self._plans:
            params = self.requests[name].sampling_params
            self._plans[name] = read(params.extra_args) if params is not None else None
        return self._plans[name]

    def _bookkeeping_sync(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super()._bookkeeping_sync(*args, **kwargs)
        finally:
            self.input_batch.generators.update(self._set_aside)
