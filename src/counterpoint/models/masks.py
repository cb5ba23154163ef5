"""Which positions a query may attend to, taken from transformers' own rules and evaluated for ragged rows.

transformers expresses causal, sliding and chunked attention as functions of index tensors. Asking it for those
functions, instead of for a finished mask, gives every architecture's rules without knowing any of them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, create_masks_for_generate

from counterpoint.models.caches import MASKS_ARGUMENT
from counterpoint.models.packed import Packed
from counterpoint.models.recorded.steps import Masked

Rule = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
TOGETHER = 64  # positions whose masks are made at once
MOST_BYTES = 2**24  # of masks that are kept


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


def ragged_masks(
    rules: Rule | dict[str, Rule], places: Tensor, reach: int, dtype: torch.dtype | None
) -> Tensor | dict[str, Tensor]:
    """The masks of all kinds of layers, as `ragged_mask`; with a dtype 0 and its least number for True and False."""
    if isinstance(rules, dict):
        return {kind: ragged_masks(rule, places, reach, dtype) for kind, rule in rules.items()}
    allowed = ragged_mask(rules, places, reach)
    if dtype is None:
        return allowed
    zero = torch.zeros((), dtype=dtype, device=allowed.device)
    return zero.masked_fill(~allowed, torch.finfo(dtype).min)


class KeptMasks:
    """Masks of single queries: where one at a position may attend is the same in each row and at each step.

    Args:
        rules: what `mask_rules` gives.
    """

    def __init__(self, rules: Rule | dict[str, Rule]) -> None:
        self._rules, self._reach = rules, 0
        #: of a kind, so many positions from a multiple of these on
        self._kept: dict[tuple[str, int], Tensor] = {}

    def addresses(self, kinds: Sequence[str], positions: Sequence[int], reach: int) -> list[int]:
        """Of each kind, for each position, where its `reach` bytes lie in memory. They stay there until the next call.

        Args:
            kinds: of layers; any name where the model has one rule. reach: more than any position, seldom another.
        """
        if reach != self._reach:
            self._kept, self._reach = {}, reach
        groups = {position // TOGETHER for position in positions}
        missing = [key for kind in kinds for group in groups if (key := (kind, group)) not in self._kept]
        if missing:
            if (len(self._kept) + len(missing)) * TOGETHER * reach > MOST_BYTES:
                self._kept, missing = {}, [(kind, group) for kind in kinds for group in groups]
            for kind, group in missing:
                rule = self._rules[kind] if isinstance(self._rules, dict) else self._rules
                queries = torch.arange(group * TOGETHER, (group + 1) * TOGETHER)
                self._kept[kind, group] = ragged_mask(rule, queries[None], reach)[0, 0].contiguous()
        return [
            self._kept[kind, position // TOGETHER].data_ptr() + position % TOGETHER * reach
            for kind in kinds
            for position in positions
        ]


def masks_in_memory(
    rules: Rule | dict[str, Rule], kept: KeptMasks, packed: Packed, reach: int, capacity: int, kinds: Sequence[str]
) -> Masked:
    """The masks of these kinds as a recorded step takes them; kept ones where each line has one token.

    Args:
        capacity: positions that the buffers hold.
    """
    named = list(kinds) if isinstance(rules, dict) else [""] * len(kinds)
    if packed.width == 1:
        return Masked(kept.addresses(named, packed.place_numbers, capacity), [0] * len(named), [])
    made = {
        kind: ragged_mask(rules[kind] if isinstance(rules, dict) else rules, packed.places, reach).contiguous()
        for kind in dict.fromkeys(named)
    }
    masks = [made[kind] for kind in named]
    lines = range(packed.num_lines)
    return Masked(
        [mask.data_ptr() + line * mask.stride(0) for mask in masks for line in lines],
        [mask.stride(2) for mask in masks],
        masks,
    )
