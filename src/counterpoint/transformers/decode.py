"""Guided decoding in the place of transformers' own: `model.generate(..., custom_generate=generate)`."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from transformers import (
    DynamicCache,
    GenerationConfig,
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteriaList,
)
from transformers.generation import UnbatchedClassifierFreeGuidanceLogitsProcessor
from transformers.generation.configuration_utils import GenerationMode
from transformers.utils import ModelOutput

from counterpoint.constraints.compiled import Compiled
from counterpoint.errors import UnsupportedError
from counterpoint.guide import Guide
from counterpoint.models.caches import CACHE_NAMES, CAUSAL_FIELD, GENERATED_FIELD
from counterpoint.models.padded import PaddedHistories
from counterpoint.models.trials import abilities_of
from counterpoint.transformers.caller import running_generate
from counterpoint.transformers.forms import form_of
from counterpoint.transformers.guided_call import GuidedCall, guides_of
from counterpoint.transformers.histories import Histories, rows_for
from counterpoint.transformers.joint import JointGuidance, JointModel, NeedsStates
from counterpoint.transformers.loops import check_mask, check_reads_plainly, own_loop_fault, reorders_beams
from counterpoint.transformers.processor import GuidanceLogitsProcessor, check_readable
from counterpoint.transformers.sample import cache_read, sample

LOOPS = {
    GenerationMode.SAMPLE: "_sample",
    GenerationMode.GREEDY_SEARCH: "_sample",
    GenerationMode.BEAM_SEARCH: "_beam_search",
    GenerationMode.BEAM_SAMPLE: "_beam_search",
    GenerationMode.ASSISTED_GENERATION: "_assisted_decoding",
}


def generate(
    model: PreTrainedModel,
    input_ids: Tensor,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    *,
    guide: Guide | Sequence[Guide] | None = None,
    negative_inputs: Mapping[str, Any] | None = None,
    constraint: Compiled | None = None,
    **model_kwargs: Any,
) -> ModelOutput | Tensor:
    """Guided generation, for `model.generate(**inputs, custom_generate=generate, guidance_scale=3.0, ...)`.

    Both branches go through the model in one forward where it allows that. Encoder-decoders, vision-language models and
    those that read padding as text, a prompt given as embeddings or with a cache or positions of its own, caches on special
    terms (quantized, offloaded, prefilled in chunks, static on an accelerator), attentions and hidden states as output take
    transformers' own loop with a `GuidanceLogitsProcessor` in front: the same tokens, in two forwards a step.

    Args (of `model.generate`):
        guidance_scale: as in `Guide.scale`; may be a list, one for each prompt.
        negative_prompt_ids: (N, L) with N 1 or the number of prompts, padded on either side; None is the last token of
            each prompt.
        negative_prompt_attention_mask: (N, L), nonzero for tokens.
        negative_inputs: instead of negative ids, what the model's processor makes of the contrasting prompts: with other
            pictures or sounds, or with none. N of them, padded on the left.
        constraint: a form that every output keeps: one of `counterpoint.constraints`, made ready by
            `.compile(model, tokenizer)`. Both branches are conditioned on it. Where a form has fewer texts than there are
            beams, those left over score -inf.
        guide: a `Guide`, or one for each prompt. With `guidance_scale` too, that fills in a scale that is None.

    Returns:
        What `model.generate` returns. Scores are those after guidance and processors. The cache of beams is
        None where both branches took one forward.

    Raises:
        UsageError: a `ValueError`; the arguments or the model can't be guided, found before the first token.
    """
    caller = running_generate()
    if caller is None:
        raise UnsupportedError("generate is called by transformers; use model.generate(..., custom_generate=generate)")
    mode = generation_config.get_generation_mode(caller["assistant_model"])
    if mode not in LOOPS:
        raise UnsupportedError(
            f"{mode.value} has left transformers; pass its custom_generate instead, and a GuidanceLogitsProcessor "
            "in logits_processor"
        )
    if any(isinstance(p, GuidanceLogitsProcessor) for p in logits_processor):
        raise UnsupportedError(
            "logits_processor has a GuidanceLogitsProcessor already; leave it out, or custom_generate"
        )
    processors = LogitsProcessorList(
        p for p in logits_processor if not isinstance(p, UnbatchedClassifierFreeGuidanceLogitsProcessor)
    )
    form = None
    if constraint is not None:
        form = form_of(constraint, model, generation_config)
    guides = guides_of(
        guide, generation_config, caller, has_negative_inputs=negative_inputs is not None, has_form=form is not None
    )
    request = GuidedCall(model, input_ids, generation_config, caller, guides, model_kwargs, negative_inputs, form)
    if guides is not None:
        check_reads_plainly(model)
        check_mask(caller, model.config.is_encoder_decoder)
        check_readable(model, request.limit, request.num_new)
    request.warn_of_no_effect(processors)
    read = None if guides is None else _reader(request, LOOPS[mode])
    if read is not None and LOOPS[mode] == "_sample":
        return sample(request, read, processors, stopping_criteria)
    if read is not None:
        with contextlib.suppress(NeedsStates):
            return _joint_loop(request, read, LOOPS[mode], processors, stopping_criteria)
    if request.guides is not None and not (negative_inputs is not None and request.negative_equals_prompt()):
        processors.insert(0, request.processor())
    return _hand_over(request, LOOPS[mode], processors, stopping_criteria)


def _reader(request: GuidedCall, loop: str) -> Histories | PaddedHistories | None:
    """What reads both branches; None where the processor in transformers' own loop is the better way.

    Raises:
        UnsupportedError: that loop would be wrong, and more than a text is read or asked for.
    """
    model, limit = request.model, request.limit
    able = abilities_of(model)
    if request.suits_histories():
        if able.reads_jointly(limit):
            return Histories(rows_for(model, limit))
        keeps_cache = request.config.return_dict_in_generate  # the output object has to hold the cache
        if loop != "_assisted_decoding" and not keeps_cache and able.padded.holds(limit):
            return PaddedHistories(model)
    fault = own_loop_fault(
        model,
        request.config,
        num_rows=request.num_rows,
        prompt_mask=request.prompt_mask,
        limit=limit,
    )
    # transformers drafts with few kinds of cache, and tries none before.
    if fault is None and not (loop == "_assisted_decoding" and request.is_text_only()):
        return None
    if request.is_text_only():
        return Histories(rows_for(model, limit))
    raise UnsupportedError(str(fault))


def _joint_loop(
    request: GuidedCall,
    read: Histories | PaddedHistories,
    loop: str,
    processors: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
) -> ModelOutput | Tensor:
    """Run transformers' own loop on both branches in one forward."""
    prompt_len = request.input_ids.shape[1]
    model = JointModel(
        request.model,
        read,
        prompts=request.prompts(),
        negatives=request.others,
        prompt_len=prompt_len,
        guides=request.row_guides(),
    )
    processors = LogitsProcessorList([JointGuidance(model), *processors])
    out = _hand_over(request, loop, processors, stopping_criteria, joint=model)
    if isinstance(out, ModelOutput):
        out[GENERATED_FIELD] = None
        if loop != "_beam_search":
            texts = [p + tuple(row) for p, row in zip(request.prompts(), out.sequences[:, prompt_len:-1].tolist())]
            out[GENERATED_FIELD] = cache_read(request, read, texts, out.sequences.shape[1] - 1)
    return out


def _hand_over(
    request: GuidedCall,
    loop: str,
    processors: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    *,
    joint: JointModel | None = None,
) -> ModelOutput | Tensor:
    """Run transformers' own loop, on the model or on what stands for it."""
    caller, extra, model_kwargs = request.caller, {}, request.model_kwargs
    if joint is not None:
        model_kwargs = {**_without_cache(model_kwargs), CAUSAL_FIELD: DynamicCache()}
    elif loop == "_beam_search" and not reorders_beams(request.model, model_kwargs, request.limit):
        model_kwargs = {**_without_cache(model_kwargs), "use_cache": False}
    if loop == "_assisted_decoding":
        extra = {"inputs_tensor": caller["inputs_tensor"], "assistant_model": caller["assistant_model"]}
    if loop != "_beam_search":
        extra["streamer"] = caller["streamer"]
    return getattr(type(request.model), loop)(
        request.model if joint is None else joint,
        request.input_ids,
        logits_processor=processors,
        stopping_criteria=stopping_criteria,
        generation_config=request.config,
        synced_gpus=bool(caller["synced_gpus"]),
        **extra,
        **model_kwargs,
    )


def _without_cache(model_kwargs: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in model_kwargs.items() if name not in CACHE_NAMES}
