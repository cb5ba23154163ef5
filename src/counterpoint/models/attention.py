"""Attention of a few queries a row, where torch's own reads the keys and values far below the memory's speed.

On the CPU there is a kernel of ours. Where there is none, a step that is compiled gets a formula that a compiler makes
one pass over the keys and one over the values of.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from counterpoint.models.caches import CACHE_NAMES
from counterpoint.models.kernels import few_queries

MOST_QUERIES = 8  # of a row and head, at which the kernel is faster than torch
KERNEL, FORMULA = "counterpoint_kernel", "counterpoint_formula"
#: arguments of transformers' attention that change nothing here; with any other, its own function is used
IGNORED_ARGUMENTS = {
    "position_ids",
    "use_cache",
    "is_causal",
    "cache_position",
    "output_attentions",
    "sliding_window",
    *CACHE_NAMES,
}


class FewQueries:
    """The attention of a model, for steps of few tokens a row.

    Args:
        compiled: use the kernel that the machine's C compiler makes.
    """

    def __init__(self, model: PreTrainedModel, *, compiled: bool = False) -> None:
        self._config = model.config.get_text_config()
        # Asked at each step, and a config takes several calls of Python to give an attribute.
        self._settings = self._config.__dict__
        # Falcon's own code, for one, asks what its attention is called, and takes another branch for a name it doesn't know.
        self._is_named = type(model)._supports_attention_backend
        suits = compiled and self._is_named and model.device.type == "cpu" and model.dtype in few_queries.NAMES
        #: whether our kernel is there and is used
        self.has_kernel = suits and few_queries.is_available()

    @property
    def is_by_kernel(self) -> bool:
        """Whether steps of few tokens a row go through the kernel."""
        return self.has_kernel and self._settings.get("_attn_implementation_internal") == "sdpa"

    @contextmanager
    def joint(self, num_queries: int, *, traced: bool = False) -> Iterator[None]:
        """While this holds, the model attends by what is quick for so many queries a row, where it attended by sdpa.

        Args:
            traced: the step is being compiled, or was compiled so.
        """
        by_kernel = self.has_kernel and num_queries <= MOST_QUERIES
        before = self._config._attn_implementation
        if before != "sdpa" or not self._is_named or not (by_kernel or traced):
            yield
            return
        self._config._attn_implementation_internal = KERNEL if by_kernel else FORMULA
        try:
            yield
        finally:
            self._config._attn_implementation_internal = before


def by_kernel(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """As transformers' attention, by the kernel. query: (R, H, Q, D); key, value: (R, G, N, D), H a multiple of G."""
    alike = query.dtype is key.dtype is value.dtype and query.dtype in few_queries.NAMES
    if not (alike and _is_plain(attention_mask, dropout, more) and attention_mask.dtype is torch.bool):
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **more)
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    return few_queries.few_queries(query, key, value, attention_mask, scaling), None


def by_formula(
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
    if not _is_plain(attention_mask, dropout, more):
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


def _is_plain(mask: Tensor | None, dropout: float, more: dict[str, Any]) -> bool:
    # A flag that is False asks for nothing: Mixtral's layers, for one, hand on that of their router.
    asked = [name for name, value in more.items() if value is not None and value is not False]
    return mask is not None and not dropout and IGNORED_ARGUMENTS.issuperset(asked)


AttentionInterface.register(KERNEL, by_kernel)
AttentionInterface.register(FORMULA, by_formula)
