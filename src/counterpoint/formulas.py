"""The mathematics of guidance: pure functions on float32 log-probabilities, in nats.

Shapes: B rows, K further branches, V tokens. `cond` is the conditional branch `l_c`, `others` the further branches
`l_b`. Weights are those of the further branches; the conditional one has `1 - sum(w_b)`. Writing both formulas as the
conditional prediction plus weighted differences makes them exactly neutral where a branch agrees with it.

Every function keeps rows apart: a row's result does not depend on the other rows.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

NEG_INF = float("-inf")
SETTLED_MARGIN = 1e-4  # in probability: far above the rounding of float32


def log_probs(logits: Tensor) -> Tensor:
    """`log_softmax` in float32 over the last axis, whatever the dtype of `logits`; -inf stays -inf."""
    return torch.log_softmax(logits.float(), dim=-1)


def conditioned(logprobs: Tensor, allowed: Tensor) -> Tensor:
    """Each branch conditioned on a set of tokens: l_b <- log_softmax(l_b + mask), the mask being 0 or -inf.

    A further branch that rules out every allowed token says nothing of how to choose between them: it is taken for the
    conditional one. A row whose conditional branch does so is left without any token, at -inf.

    Args:
        logprobs: (B, R, V) log-probabilities or logits; the conditional branch first, then the further ones.
        allowed: (B, V) of bool.

    Returns:
        (B, R, V) log-probabilities.
    """
    masked = logprobs.float().masked_fill(~allowed.unsqueeze(1), NEG_INF)
    is_empty = masked.amax(-1, keepdim=True) == NEG_INF
    result = torch.log_softmax(masked, dim=-1).masked_fill(is_empty, NEG_INF)
    return torch.where(is_empty, result[:, :1], result)


def mass(cond: Tensor, allowed: Tensor) -> Tensor:
    """The probability that a branch gives to a set of tokens. (B, V) logits, (B, V) of bool -> (B,), from 0 to 1."""
    weights = (cond.float() - cond.amax(-1, keepdim=True)).exp_()
    return (weights * allowed).sum(-1) / weights.sum(-1)


def combine_log(cond: Tensor, others: Tensor, weights: Tensor) -> Tensor:
    """g = l_c + sum_b w_b * (l_b - l_c), not normalised.

    A token that a branch rules out altogether (l_b = -inf) is ruled out by a positive weight; a negative weight
    leaves it to the other branches, since an infinite ratio says nothing about how much to push.

    Args:
        cond: (B, V). others: (B, K, V). weights: (B, K).

    Source: Sanchez et al. 2023, arXiv 2306.17806, equation 7.
    """
    push = weights.unsqueeze(-1) * (others - cond.unsqueeze(1))  # (B, K, V)
    # 0 * inf and -inf - -inf are NaN, -w * -inf is inf: these say nothing. But a branch that is NaN shall be seen.
    broken = 0 * others.amax(-1).sum(-1, keepdim=True)  # (B, 1), NaN or 0
    return cond + push.nan_to_num_(nan=0.0, posinf=0.0, neginf=NEG_INF).sum(1) + broken


def combine_logits(cond: Tensor, others: Tensor, weights: Tensor) -> Tensor:
    """`combine_log` of logits that are all finite where anything counts: the same, but for a number added to each row.

    A token at -inf in `cond` becomes -inf or NaN, and so does a token at an infinity in `others`.

    Args and shapes as in `combine_log`; `cond` and `others` need not be normalised.
    """
    scores = cond.clone()
    for at in range(others.shape[1]):
        scores.addcmul_(weights[:, at, None], others[:, at] - cond)
    return scores


def combine_prob(cond: Tensor, others: Tensor, weights: Tensor) -> Tensor:
    """log of q = max(0, p_c + sum_b w_b * (p_b - p_c)), not normalised; -inf where q is 0.

    Log-probabilities, not q: a softmax of q itself would be almost uniform.

    Args and shapes as in `combine_log`.

    Source: Smirnov 2024, arXiv 2412.06846.
    """
    cond_probs = cond.exp()
    push = weights.unsqueeze(-1) * (others.exp() - cond_probs.unsqueeze(1))  # (B, K, V)
    guided = (cond_probs + push.sum(1)).clamp_(min=0.0).log_()
    return guided.masked_fill(torch.isneginf(cond), NEG_INF)


def implausible(cond: Tensor, plausibility: Tensor) -> Tensor:
    """True where p_c(i) < plausibility * max p_c. (B, V), (B,) -> (B, V) of bool.

    Source: Li et al. 2022, arXiv 2210.15097, equation 2.
    """
    return cond < (cond.amax(-1) + plausibility.log()).unsqueeze(-1)


def is_settled(cond: Tensor, weights: Tensor) -> Tensor:
    """Whether the most probable token of `combine_prob` is that of `cond`, whatever the further branches predict.

    With w_c = 1 - sum_b w_b, the two most probable tokens 1 and 2 of p_c, and any other token j,
    q_1 - q_j = w_c * (p_c1 - p_cj) + sum_b w_b * (p_b1 - p_bj) >= w_c * (p_c1 - p_c2) - sum_b |w_b|, since two
    probabilities differ by 1 at most. Where that is positive, token 1 is the most probable one; and if q_1 is clamped
    to 0, so are all, and the row is left as `cond`. For one negative it reads p_c1 - p_c2 > (s - 1) / s.

    Args:
        cond: (B, V). weights: (B, K), of the further branches.

    Returns:
        (B,) of bool; False within rounding of the bound.
    """
    best = cond.topk(2, dim=-1).values.exp()
    own = 1 - weights.sum(-1)
    return (own > 0) & (own * (best[:, 0] - best[:, 1]) - weights.abs().sum(-1) > SETTLED_MARGIN)


def entropy(cond: Tensor) -> Tensor:
    """Entropy in nats. (B, V) -> (B,)."""
    return torch.special.entr(cond.exp()).sum(-1)


def jensen_shannon(cond: Tensor, others: Tensor) -> Tensor:
    """Jensen-Shannon divergence in bits of p_c and each p_b, from 0 to 1. (B, V), (B, K, V) -> (B, K)."""
    p, q = cond.exp().unsqueeze(1), others.exp()
    shared = torch.special.entr((p + q) / 2).sum(-1)
    own = (torch.special.entr(p).sum(-1) + torch.special.entr(q).sum(-1)) / 2
    return ((shared - own) / math.log(2)).clamp(0.0, 1.0)


def guided(
    cond: Tensor,
    others: Tensor,
    weights: Tensor,
    *,
    space: str = "log",
    plausibility: Tensor | None = None,
    gate: Tensor | None = None,
    adaptive: bool = False,
) -> Tensor:
    """Guided log-probabilities: one of the two formulas with its refinements, normalised, never NaN.

    A token at -inf in `cond` stays there. A row that would be left without any token is left as `cond`.

    Args:
        cond: (B, V) log-probabilities of the conditional branch.
        others: (B, K, V) log-probabilities of the further branches.
        weights: (B, K).
        space: "log" or "prob".
        plausibility: (B,) in [0, 1]; None is off.
        gate: (B,) nats; rows whose conditional entropy is below it stay as `cond`; None is off.
        adaptive: multiply the weights by `jensen_shannon`.

    Returns:
        (B, V) log-probabilities that sum to 1.
    """
    if adaptive:
        weights = weights * jensen_shannon(cond, others)
    result = (combine_log if space == "log" else combine_prob)(cond, others, weights)
    if plausibility is not None:
        result = result.masked_fill(implausible(cond, plausibility), NEG_INF)
    result = torch.where(result.amax(-1, keepdim=True) == NEG_INF, cond, result)
    # A row that guidance left as it was is normalised already: again would change its last bits.
    untouched = (result == cond).all(-1, keepdim=True)
    result = torch.where(untouched, cond, torch.log_softmax(result, dim=-1))
    if gate is not None:
        result = torch.where((entropy(cond) < gate).unsqueeze(-1), cond, result)
    return result
