"""The rows of guided requests in one step's batch, and their distributions combined: what both of vLLM's runners share."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from counterpoint import formulas, guiding
from counterpoint.vllm.branches import branch_id, owner_of
from counterpoint.vllm.params import Plan

# Added to tokens that guidance rules out: no probability is left of them, whatever the temperature. But where a minimum
# length or a ban then rules out all the rest, the conditional branch's own order among what is left shows through.
RULED_OUT = -1e4


@dataclass(frozen=True, slots=True)
class GroupRows:
    """A guided request in this step's batch: the row of the user's request and those of its branches."""

    plan: Plan
    own: int
    branches: tuple[int, ...]
    step: int  # generated tokens so far
    constrained: bool = False  # a grammar's mask is in the row of the user's request


@dataclass(frozen=True, slots=True)
class Batch:
    """One step's rows. `alone` are those of requests whose group is not there as a whole: their tokens do not count."""

    groups: tuple[GroupRows, ...] = ()
    alone: frozenset[int] = frozenset()

    @classmethod
    def of(
        cls,
        index: Mapping[str, int],
        plan_of: Callable[[str], Plan | None],
        *,
        reads_on: Callable[[int], bool],
        step_of: Callable[[str, int], int],
        constrained: Callable[[str, int], bool],
    ) -> Batch:
        """Sort a step's rows.

        Args:
            index: the row of each request in the batch.
            plan_of: the plan of a user's request, by its id.
            reads_on: whether a row still reads its prompt after this step, so that it gives no token.
            step_of: generated tokens so far, by id and row.
            constrained: whether a request has a grammar, by id and row.
        """
        groups, alone = [], {row for name, row in index.items() if owner_of(name) is not None}
        for name, row in index.items():
            plan = None if owner_of(name) is not None else plan_of(name)
            if plan is None:
                continue
            branches = tuple(index.get(branch_id(name, k), -1) for k in range(len(plan.contexts)))
            if min((row, *branches)) < 0 or any(map(reads_on, (row, *branches))):
                alone.add(row)
                continue
            alone.difference_update(branches)
            groups.append(GroupRows(plan, row, branches, step_of(name, row), constrained(name, row)))
        return cls(tuple(groups), frozenset(alone))

    def guided(self, logits: Tensor) -> Tensor:
        """The logits with the guided distribution in the rows of the users' requests. (R, V) -> (R, V).

        A grammar's mask is a condition on every branch: what it rules out of a request's row, no branch predicts.
        """
        alike: dict[tuple[int, bool], list[GroupRows]] = defaultdict(list)
        for rows in self.groups:
            if guiding.applies(rows.plan.guide, rows.plan.weights, rows.step):
                alike[len(rows.branches), rows.constrained].append(rows)
        if not alike:
            return logits
        result = logits.float()  # guided log-probabilities are float32, whatever the model's dtype
        if result is logits:
            result = logits.clone()
        for (_, constrained), batch in alike.items():
            at = guiding.sent([(rows.own, *rows.branches) for rows in batch], logits.device)  # (B, 1 + K)
            branches = logits.index_select(0, at.flatten()).view(*at.shape, logits.shape[-1])
            if constrained:
                branches = formulas.conditioned(branches, ~torch.isneginf(branches[:, 0]))
            else:
                branches = formulas.log_probs(branches)
            cond = branches[:, 0]
            guided = guiding.combined(
                cond,
                branches[:, 1:],
                [rows.plan.weights for rows in batch],
                [rows.plan.guide for rows in batch],
                [rows.step for rows in batch],
            )
            result.index_copy_(0, at[:, 0], torch.where(torch.isneginf(guided), cond + RULED_OUT, guided))
        return result

    def give(self, sampled: Tensor) -> None:
        """Give every branch its request's token, in place. (R)."""
        pairs = [(branch, rows.own) for rows in self.groups for branch in rows.branches]
        if pairs:
            branches, owns = guiding.sent(pairs, sampled.device).unbind(1)
            sampled[branches] = sampled[owns]
