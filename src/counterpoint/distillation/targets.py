"""What guidance predicts at each token of an answer, read by the model without the adapter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from counterpoint import formulas, guiding
from counterpoint.contexts import ReadBranch
from counterpoint.distillation.answers import Example
from counterpoint.models.model import Model
from counterpoint.models.rows import Feed, Rows

AT_ONCE = 128  # tokens of an answer whose whole distributions are in memory together


@dataclass(frozen=True, slots=True)
class Target:
    """What the student shall predict at the T tokens of an answer.

    Args:
        logprobs: guided log-probabilities: (T, V) of all tokens, or (T, K) of the K most probable ones.
        ids: (T, K) which tokens these are; None for all.
        rest: (T,) log of the probability of all other tokens together, -inf for none; None where all are told apart.
    """

    logprobs: Tensor
    ids: Tensor | None = None
    rest: Tensor | None = None


@torch.no_grad()
def target_of(model: Model, example: Example, *, top: int) -> Target:
    """Read an answer in all branches and combine them with `guiding.combined`, token i at step i.

    Args:
        model: the teacher; no adapter that learns is on. An example is read by itself, so that its target is the same whatever is read beside it.
        top: so many tokens are told apart; 0 is all of them.
    """
    reading, answer = example.reading, example.answer_ids
    columns = [_predictions(model, reading.prompt_ids, answer)]
    columns += [_read(branch.model or model, reading.prompt_ids, branch, answer) for branch in reading.branches]
    width = min(one.shape[-1] for one in columns)
    weights = [branch.weight for branch in reading.branches]
    parts = []
    for at in range(0, len(answer), AT_ONCE):
        steps = range(at, min(at + AT_ONCE, len(answer)))
        cond, *others = (formulas.log_probs(one[at : at + AT_ONCE, :width]) for one in columns)
        beside = torch.stack([one.to(cond.device) for one in others], 1) if others else cond[:, None][:, :0]
        guides = [reading.guide] * len(steps)
        parts.append(_cut(guiding.combined(cond, beside, [weights] * len(steps), guides, steps), top))
    if top == 0:
        return Target(torch.cat([part.logprobs for part in parts]))
    logprobs, ids, rest = (torch.cat(list(one)) for one in zip(*((p.logprobs, p.ids, p.rest) for p in parts)))
    return Target(logprobs, ids, rest)


def _cut(guided: Tensor, top: int) -> Target:
    if top == 0:
        return Target(guided)
    logprobs, ids = guided.topk(min(top, guided.shape[-1]), dim=-1)
    rest = guided.scatter(-1, ids, formulas.NEG_INF).logsumexp(-1)
    return Target(logprobs, ids, rest)


def _read(model: Model, prompt_ids: Sequence[int], branch: ReadBranch, answer: Sequence[int]) -> Tensor:
    if branch.is_suffix:
        return _suffixed(model.new_rows(), prompt_ids, branch.ids, answer)
    return _predictions(model, branch.ids, answer)


def _predictions(model: Model, context: Sequence[int], answer: Sequence[int]) -> Tensor:
    """(T, V) logits at the answer's tokens after a context. The last token is predicted and not read."""
    rows = model.new_rows()
    ids = [*context, *answer[:-1]]
    return rows.forward([Feed(rows.add(), ids, columns=range(len(context) - 1, len(ids)))])


def _suffixed(rows: Rows, prompt_ids: Sequence[int], suffix: Sequence[int], answer: Sequence[int]) -> Tensor:
    """The same where the suffix follows all that was written, anew at each token."""
    row, made = rows.add(), []
    for ids in (prompt_ids, *([token_id] for token_id in answer[:-1])):
        rows.forward([Feed(row, list(ids))])
        forked = rows.fork(row)
        made.append(rows.forward([Feed(forked, list(suffix))]))
        rows.free(forked)
    return torch.cat(made)
