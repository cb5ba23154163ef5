"""vLLM's V1 model runner, with the rows of a guided request combined before the sampler."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from counterpoint import formulas, guiding
from counterpoint.vllm.branches import branch_id, owner_of
from counterpoint.vllm.params import Plan, read

# Added to what guidance rules out: no probability is left of it, whatever the temperature. But where a grammar or a
# minimum length then rules out all the rest, the conditional branch's own order among what is allowed shows through.
RULED_OUT = -1e4


@dataclass(frozen=True, slots=True)
class Rows:
    """A guided request in this step's batch: the row of the user's request and those of its branches."""

    plan: Plan
    own: int
    branches: tuple[int, ...]
    step: int  # generated tokens so far


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
        rows = torch.tensor(self.rows, device=logits.device)
        place = {row: index for index, row in enumerate(self.rows)}
        chosen = {place[row]: generator for row, generator in generators.items()}
        k, p = (each if each is None else each.index_select(0, rows) for each in (k, p))
        drawn, _ = self.sampler(logits.index_select(0, rows), chosen, k, p)
        return drawn.new_zeros(len(logits)).index_copy_(0, rows, drawn), None


class GuidedRunner:
    """Goes before a `GPUModelRunner`. Rows are used only if their whole group is there, at its last position."""

    _plans: dict[str, Plan | None]
    _groups: list[Rows]
    _set_aside: dict[int, torch.Generator]

    def prepare_guidance(self) -> None:
        """Take the place of `__init__`, since vLLM makes the runner itself."""
        self._plans, self._groups, self._set_aside = {}, [], {}
        self.sampler.topk_topp_sampler = ChosenRows(self.sampler.topk_topp_sampler)

    def sample_tokens(self, grammar_output: Any) -> Any:
        state = self.execute_model_state
        if state is not None and state.logits is not None:
            self._groups = self._complete_groups()
            self._set_generators_aside()
            # Before the grammar's mask: `prob` space, gate and plausibility need the whole of both distributions.
            self.execute_model_state = state._replace(logits=guided_logits(state.logits, self._groups))
        return super().sample_tokens(grammar_output)

    def _complete_groups(self) -> list[Rows]:
        """The groups to combine; every other row of a guided request is marked to be discarded."""
        index, discard = self.input_batch.req_id_to_index, self.discard_request_mask.np
        self._plans = {name: plan for name, plan in self._plans.items() if name in self.requests}
        groups, alone = [], {row for name, row in index.items() if owner_of(name) is not None}
        for name, row in index.items():
            plan = None if owner_of(name) is not None else self._plan(name)
            if plan is None:
                continue
            branches = tuple(index.get(branch_id(name, k), -1) for k in range(len(plan.contexts)))
            if min((row, *branches)) < 0 or discard[[row, *branches]].any():
                alone.add(row)
                continue
            alone.difference_update(branches)
            groups.append(Rows(plan, row, branches, len(self.requests[name].output_token_ids)))
        for row in alone:
            discard[row] = True
        return groups

    def _plan(self, name: str) -> Plan | None:
        if name not in self._plans:
            params = self.requests[name].sampling_params
            self._plans[name] = read(params.extra_args) if params is not None else None
        return self._plans[name]

    def _set_generators_aside(self) -> None:
        """Rows whose token is dropped draw nothing, so that a seed's tokens do not depend on the schedule.

        vLLM itself would draw and wind the generator back, which a generator on the CPU can't do.
        """
        generators, discard = self.input_batch.generators, self.discard_request_mask.np
        self._set_aside = {row: generators.pop(row) for row in list(generators) if discard[row]}

    def _sample(self, logits: Tensor | None, spec_decode_metadata: Any) -> Any:
        pairs = [(branch, rows.own) for rows in self._groups for branch in rows.branches]
        given, discard = {branch for branch, _ in pairs}, self.discard_request_mask.np
        chosen = [row for row in range(self.input_batch.num_reqs) if row not in given and not discard[row]]
        self.sampler.topk_topp_sampler.rows = chosen if pairs else []
        output = super()._sample(logits, spec_decode_metadata)
        if pairs:
            branches, owns = map(list, zip(*pairs, strict=True))
            output.sampled_token_ids[branches] = output.sampled_token_ids[owns]
        return output

    def _bookkeeping_sync(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super()._bookkeeping_sync(*args, **kwargs)
        finally:
            self.input_batch.generators.update(self._set_aside)


def guided_logits(logits: Tensor, groups: list[Rows]) -> Tensor:
    """The batch's logits with the guided distribution in the rows of the users' requests. (R, V) -> (R, V)."""
    alike: dict[int, list[Rows]] = defaultdict(list)
    for rows in groups:
        if guiding.applies(rows.plan.guide, rows.plan.weights, rows.step):
            alike[len(rows.branches)].append(rows)
    if not alike:
        return logits
    result = logits.float()  # guided log-probabilities are float32, whatever the model's dtype
    if result is logits:
        result = logits.clone()
    for num_branches, batch in alike.items():
        own = torch.tensor([rows.own for rows in batch], device=logits.device)
        others = torch.tensor([row for rows in batch for row in rows.branches], dtype=torch.long, device=logits.device)
        cond = formulas.log_probs(logits.index_select(0, own))
        guided = guiding.combined(
            cond,
            formulas.log_probs(logits.index_select(0, others)).view(len(batch), num_branches, logits.shape[-1]),
            [rows.plan.weights for rows in batch],
            [rows.plan.guide for rows in batch],
            [rows.step for rows in batch],
        )
        result.index_copy_(0, own, torch.where(torch.isneginf(guided), cond + RULED_OUT, guided))
    return result
