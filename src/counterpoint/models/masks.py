"""Which positions a query may attend to, taken from transformers' own rules and evaluated for ragged rows.

transformers expresses causal, sliding and chunked attention as functions of index tensors. Asking it for those
functions, instead of for a finished mask, gives every architecture's rules without knowing any of them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, create_masks_for_generate

from counterpoint.models.caches import MASKS_ARGUMENT

Rule = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def _capture(*, mask_function: Rule, **_: object) -> Rule:
    return mask_function


ALL_MASK_ATTENTION_FUNCTIONS.register("counterpoint_rules", _capture)


def mask_rules(model: PreTrainedModel) -> Rule | dict[str, Rule]:
    """The attention rule of a model, or one for each kind of layer, in the form its forward takes masks in."""
    config = copy.deepcopy(model.config)
    config.get_text_config()._attn_implementation = "counterpoint_rules"
    return create_masks_for_generate(
        config,
        inputs_embeds=torch.empty((1, 2, 0), dtype=torch.float32),
        attention_mask=None,
        **{MASKS_ARGUMENT: None},
    )


def ragged_mask(rule: Rule, positions: Tensor, reach: int) -> Tensor:
    """True where a query may attend. positions: (R, Q) of the queries -> (R, 1, Q, reach)."""
    queries = positions[:, None, :, None]
    keys = torch.arange(reach, device=positions.device)[None, None, None, :]
    zero = torch.zeros((), dtype=torch.long, device=positions.device)
    allowed = rule(zero, zero, queries, keys)
    return allowed.expand(positions.shape[0], 1, positions.shape[1], reach)
