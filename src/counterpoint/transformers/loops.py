"""Where transformers' own decoding loops are wrong for the conditional branch, and what is refused for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, GenerationConfig, PreTrainedModel

from counterpoint.errors import PromptError, UnsupportedError
from counterpoint.models.caches import cache_of
from counterpoint.models.trials import LoopCall, abilities_of
from counterpoint.models.trials.own_loop import writes_more
from counterpoint.transformers.caller import Caller
from counterpoint.transformers.encoded_trials import encoded_trials
from counterpoint.transformers.negatives import at_some_edges


def has_padding(prompt_mask: Tensor | None) -> bool:
    """Whether any prompt is padded. (B, L) or None."""
    return prompt_mask is not None and not bool((prompt_mask != 0).all())


def own_loop_fault(
    model: PreTrainedModel, config: GenerationConfig, *, num_rows: int, prompt_mask: Tensor | None, limit: int | None
) -> str | None:
    """Why transformers' own loops would be wrong for these prompts, None where they are right.

    Args:
        config: what `generate` was called with.
        prompt_mask: (B, L); None is no padding.
        limit: most tokens that a row can come to.
    """
    kind, is_padded, is_encoder = type(model).__name__, has_padding(prompt_mask), model.config.is_encoder_decoder
    is_left = is_encoder and is_padded and prompt_mask is not None and not bool((prompt_mask[:, 0] != 0).all())
    call = LoopCall.of(config, num_rows=num_rows, padded=is_padded, left=is_left)
    shape = f"(attention_mask of shape {tuple(prompt_mask.shape)})" if prompt_mask is not None else ""
    if is_padded and _has_gaps(prompt_mask):
        return (
            f"input_ids have padding between their tokens {shape}, which transformers' own loops count as text in "
            f"positions, windows and states; pad them on the {'right' if is_encoder else 'left'}"
        )
    if is_encoder:
        trials = encoded_trials(model)
        if trials.writes(call):
            return None
        other = _plainer(call, trials.writes)
        way_out = other or "use another encoder-decoder, or a decoder-only model"
        return f"{kind} writes something else in transformers' own loop than without a cache, by a trial; {way_out}"
    if is_padded and prompt_mask is not None and not bool((prompt_mask[:, -1] != 0).all()):
        return (
            f"input_ids are padded on the right {shape}, which transformers' own loops can't continue; pad them on the "
            "left"
        )
    able = abilities_of(model)
    answer = able.own_loop(call)
    if answer.holds(limit):
        return None
    if not able.causal:
        return f"{kind} can't be guided: {able.causal.reason}; use a causal language model (config.is_decoder=True)"
    other = _plainer(call, lambda plainer: able.own_loop(plainer).holds(limit))
    if is_padded:
        what, way_out = f"misreads padding in transformers' own loop, and input_ids are padded {shape}", ""
    elif num_rows > 1:
        what, way_out = "misreads a batch in transformers' own loop", ""
    else:
        what, way_out = "is misread by transformers' own loop", "use counterpoint.generate"
    return f"{kind} {what}: {answer.reason}; {other or way_out or 'use counterpoint.generate'}"


def _has_gaps(mask: Tensor) -> bool:
    """Whether any row of (B, L) has padding on both sides of which there are tokens."""
    kept = mask != 0
    starts = kept[:, 1:] & ~kept[:, :-1]  # a token after padding
    return bool((starts.sum(1) + kept[:, 0] > 1).any())


def _plainer(call: LoopCall, does: Callable[[LoopCall], bool]) -> str | None:
    """What to leave out of a call so that transformers' own loop does; None where nothing helps."""
    ways = [
        ("leave cache_implementation out", call.static is not None, replace(call, static=None)),
        ("leave prefill_chunk_size out", call.chunked, replace(call, chunked=False)),
        ("pad input_ids on the right", call.left, replace(call, left=False)),
        ("pass prompts of one length", call.padded, replace(call, padded=False, left=False)),
        ("pass one prompt at a time", call.num_rows > 1, replace(call, padded=False, left=False, num_rows=1)),
    ]
    return next((way for way, asked, plainer in ways if asked and does(plainer)), None)


def check_mask(caller: Caller, is_encoder_decoder: bool) -> None:
    """Raise where prompts come without a mask, and whether they are padded can't be told from them.

    transformers takes pad tokens for text where they end texts too, and in all that an encoder reads.
    """
    config, ids = caller["generation_config"], caller["inputs_tensor"]
    if caller["kwargs_has_attention_mask"] or config._pad_token_tensor is None or not is_plain(ids):
        return
    ends = [] if config._eos_token_tensor is None else config._eos_token_tensor.reshape(-1).tolist()
    for pad in config._pad_token_tensor.reshape(-1).tolist():
        if (is_encoder_decoder or pad in ends) and at_some_edges(ids, pad):
            both = "padding and end of text at once" if pad in ends else "padding, and which the encoder reads as text"
            raise PromptError(
                f"some rows of input_ids of shape {tuple(ids.shape)} begin or end with token {pad}, which is {both}; "
                "pass attention_mask of the same shape"
            )


def check_reads_plainly(model: PreTrainedModel) -> None:
    """Raise where a class writes otherwise than token by token, or peft changes what a row reads, or the weights it meets,
    outside the model's own forward."""
    kind, more = type(model).__name__, writes_more(model)
    if more is not None:
        raise UnsupportedError(
            f"{kind} can't be guided: {more}; use a model of MusicGen's kind, or one that writes tokens"
        )
    if "prepare_inputs_for_generation" in vars(model) and not _prepares_as_its_class(model):
        raise UnsupportedError(
            f"prepare_inputs_for_generation of this {kind} adds to its inputs, as with prompt and prefix tuning of peft, "
            "and the negative would be read without that; use an adapter that changes weights, such as LoRA"
        )
    found = [
        (module, key)
        for module in model.modules()
        for key, hook in module._forward_pre_hooks.items()
        if getattr(hook, "keywords", {}).get("adapter_names")
    ]
    for module, key in found:  # peft would leave them behind, where an error passes through it
        del module._forward_pre_hooks[key]
    if found:
        raise UnsupportedError(
            f"adapter_names gives each row of {kind} an adapter of its own, and rows change places under guidance; "
            "call generate for each adapter, with set_adapter before"
        )


def _prepares_as_its_class(model: PreTrainedModel) -> bool:
    """A trial: whether what was put in the place of the class's method hands the same inputs to the forward."""
    ids = torch.tensor([[1, 2]], device=model.device)
    given = {"attention_mask": torch.ones_like(ids), "use_cache": True, "is_first_iteration": True}
    own = type(model).prepare_inputs_for_generation(model, ids, **given)
    try:
        got = model.prepare_inputs_for_generation(ids, **given)
    except Exception:  # any exception: it is not the same method
        return False
    same = own.keys() == got.keys()
    return same and all(torch.equal(own[n], got[n]) if isinstance(own[n], Tensor) else own[n] == got[n] for n in own)


def is_plain(ids: Tensor) -> bool:
    """Whether these are token ids, (B, L)."""
    return ids.dim() == 2 and not ids.dtype.is_floating_point


def reorders_beams(model: PreTrainedModel, model_kwargs: dict[str, Any], limit: int | None) -> bool:
    """Whether beams can be reordered with their cache. Else transformers refuses, or keeps the old order."""
    if not isinstance(cache_of(model_kwargs), Cache):
        return False
    # The trial of padded rows puts them in another order at each step.
    return model.config.is_encoder_decoder or bool(abilities_of(model).padded.holds(limit))
