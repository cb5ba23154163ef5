"""What the student loses at the tokens of an answer, in nats. Pure functions."""

from __future__ import annotations

import torch
from torch import Tensor

from counterpoint.distillation.targets import Target


def divergence(target: Target, logprobs: Tensor) -> Tensor:
    """KL(guided || student) at each token of an answer.

    All tokens told apart:  sum_i g_i (log g_i - log p_i)
    the K most probable:    sum_{i in K} g_i (log g_i - log p_i) + r (log r - log q),  r = 1 - sum_K g_i, q = 1 - sum_K p_i

    The second is the divergence of both distributions with the tokens outside of K made one: never above the first
    (data-processing inequality), and 0 where the student agrees on K. Tokens that guidance rules out (g_i = 0) count
    for nothing.

    Args:
        target: of T tokens.
        logprobs: (T, V) of the student.

    Returns:
        (T,), never below 0 but for rounding.

    Source: Hinton et al. 2015, arXiv 1503.02531, at temperature 1.
    """
    if target.ids is None:
        return _weighed(target.logprobs, logprobs[:, : target.logprobs.shape[-1]]).sum(-1)
    assert target.rest is not None
    own = logprobs.gather(-1, target.ids)
    rest = logprobs.scatter(-1, target.ids, float("-inf")).logsumexp(-1)
    return _weighed(target.logprobs, own).sum(-1) + _weighed(target.rest, rest)


def surprise(answer_ids: Tensor, logprobs: Tensor) -> Tensor:
    """-log p of each token of an answer. (T,), (T, V) -> (T,)."""
    return -logprobs.gather(-1, answer_ids[:, None]).squeeze(-1)


def _weighed(goal: Tensor, own: Tensor) -> Tensor:
    """g (log g - log p), element by element; 0 where g is 0, and no gradient there."""
    is_out = torch.isneginf(goal)
    safe = goal.masked_fill(is_out, 0.0)
    return torch.where(is_out, 0.0, safe.exp() * (safe - own.masked_fill(is_out, 0.0)))
