"""Negative prompts as the caller gave them, made into one tuple of token ids for each."""

from __future__ import annotations

import torch
from torch import Tensor

from counterpoint.errors import PromptError

TokenIds = tuple[int, ...]


def read_negatives(
    ids: Tensor,
    mask: Tensor | None,
    *,
    pad_token_ids: frozenset[int] = frozenset(),
    eos_token_ids: frozenset[int] = frozenset(),
) -> list[TokenIds]:
    """The tokens of each row that are no padding, whichever side it is on.

    Without a mask, pad tokens are padding where no text can hold them, as transformers has it for prompts: where they
    are no end-of-text token as well.

    Args:
        ids: (N, L) integers.
        mask: (N, L), nonzero for tokens.

    Raises:
        PromptError: not (N, L), not integers, a mask of another shape or device, a row without tokens, or padding that can't be
            told from text.
    """
    name = "negative_prompt_ids"
    if not isinstance(ids, Tensor) or ids.dim() != 2 or ids.dtype.is_floating_point or ids.dtype is torch.bool:
        what = f"of shape {tuple(ids.shape)} and {ids.dtype}" if isinstance(ids, Tensor) else f"a {type(ids).__name__}"
        raise PromptError(f"{name} is {what}; use a tensor of token ids of shape (batch, length)")
    shape = tuple(ids.shape)
    if 0 in shape:
        raise PromptError(f"{name} of shape {shape} is empty; for an empty negative use the beginning-of-text token")
    if mask is not None:
        if not isinstance(mask, Tensor):
            raise PromptError(
                f"negative_prompt_attention_mask is a {type(mask).__name__}; use a tensor of shape {shape}, as {name} has"
            )
        if mask.device != ids.device:
            raise PromptError(
                f"negative_prompt_attention_mask of shape {tuple(mask.shape)} is on {mask.device} and {name} of shape "
                f"{shape} on {ids.device}; move it there"
            )
        if tuple(mask.shape) != shape:
            raise PromptError(
                f"negative_prompt_attention_mask has shape {tuple(mask.shape)} and {name} has {shape}; use equal shapes"
            )
        kept = mask != 0
    else:
        kept = torch.ones_like(ids, dtype=torch.bool)
        for pad in sorted(pad_token_ids):
            if pad not in eos_token_ids:
                kept &= ids != pad
            elif at_some_edges(ids, pad):
                raise PromptError(
                    f"some rows of {name} of shape {shape} begin or end with token {pad}, which is padding and end of text "
                    "at once; pass negative_prompt_attention_mask of the same shape"
                )
    rows = [tuple(row[keep].tolist()) for row, keep in zip(ids, kept)]
    for number, row in enumerate(rows):
        if not row:
            raise PromptError(
                f"row {number} of {name} of shape {shape} is all padding; for an empty negative use the "
                "beginning-of-text token"
            )
    return rows


def at_some_edges(ids: Tensor, token_id: int) -> bool:
    """Whether some rows begin or end with a token and others don't: whether it may be padding. (N, L)."""
    at = ids == token_id
    return any(bool(edge.any() and not edge.all()) for edge in (at[:, 0], at[:, -1]))


def check_vocabulary(rows: list[TokenIds], vocab_size: int) -> None:
    """Raise a `PromptError` for a token id that the model doesn't have."""
    for number, row in enumerate(rows):
        for token_id in row:
            if not 0 <= token_id < vocab_size:
                raise PromptError(
                    f"row {number} of negative_prompt_ids has the token id {token_id}; this model's ids end at {vocab_size - 1}"
                )


def spread(count: int, num_rows: int, num_prompts: int, what: str, shape: object) -> list[int]:
    """Which of `count` negatives or guides each of `num_rows` rows has: one for all, one a prompt, or one a row.

    transformers keeps the rows of one prompt (beams, return sequences) side by side, always.

    Raises:
        PromptError: `count` is none of 1, `num_prompts` and `num_rows`.
    """
    if count not in (1, num_prompts, num_rows):
        raise PromptError(
            f"{what} is of shape {shape} and input_ids of {num_prompts} prompt(s) in {num_rows} row(s); "
            "use one for all or one for each prompt"
        )
    return [row * count // num_rows for row in range(num_rows)]
