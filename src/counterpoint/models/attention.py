"""Attention of a few queries, written so that a compiler makes one pass over the keys and one over the values of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

NAME = "counterpoint_few_queries"
#: arguments of transformers' attention that change nothing here; with any other, its own function is used
IDLE = {
    "position_ids",
    "use_cache",
    "is_causal",
    "cache_position",
    "output_attentions",
    "past_key_values",
    "sliding_window",
}


def few_queries(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """softmax(q k^T * scaling + mask) v in float32. query: (R, H, Q, D); key, value: (R, G, N, D), H a multiple of G."""
    if attention_mask is None or dropout or any(more[name] is not None for name in more.keys() - IDLE):
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **more)
    num_rows, num_heads, num_queries, size = query.shape
    num_groups = key.shape[1]
    scaling = size**-0.5 if scaling is None else scaling
    queries = query.reshape(num_rows, num_groups, -1, 1, size).float()  # (R, G, H/G * Q, 1, D)
    scores = (queries * key.unsqueeze(2).float()).sum(-1) * scaling  # (R, G, H/G * Q, N)
    scores = scores.view(num_rows, num_heads, num_queries, -1)
    if attention_mask.dtype is torch.bool:
        scores = scores.masked_fill(~attention_mask, torch.finfo(torch.float32).min)
    else:
        scores = scores + attention_mask.float()
    weights = torch.softmax(scores, -1).view(num_rows, num_groups, -1, key.shape[2], 1)
    states = (weights * value.unsqueeze(2).float()).sum(-2)  # (R, G, H/G * Q, D)
    states = states.view(num_rows, num_heads, num_queries, value.shape[3]).to(query.dtype)
    return states.transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, few_queries)


@contextmanager
def few_queries_in(model: PreTrainedModel) -> Iterator[None]:
    """While this holds, the model attends by `few_queries`, where it attended by sdpa."""
    config = model.config.get_text_config()
    before = config._attn_implementation
    if before != "sdpa":
        yield
        return
    config._attn_implementation_internal = NAME
    try:
        yield
    finally:
        config._attn_implementation_internal = before
