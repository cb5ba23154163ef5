"""Guided decoding in the place of transformers' own: `model.generate(..., custom_generate=generate)`."""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import (
    Cache,
    DynamicCache,
    GenerationConfig,
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteriaList,
)
from transformers.generation import UnbatchedClassifierFreeGuidanceLogitsProcessor
from transformers.generation.configuration_utils import GenerationMode
from transformers.generation.utils import GenerateDecoderOnlyOutput
from transformers.utils import ModelOutput

from counterpoint.errors import GuideError, NoEffectWarning, PromptError, UnsupportedError
from counterpoint.guide import Guide
from counterpoint.transformers.caller import Caller, running_generate
from counterpoint.transformers.guides import RowGuides
from counterpoint.transformers.histories import Histories, reads_jointly, rows_for
from counterpoint.transformers.joint import JointGuidance, JointModel, NeedsStates
from counterpoint.transformers.loops import keeps_reorderable_cache, misread_padding
from counterpoint.transformers.negatives import TokenIds, read_negatives, spread
from counterpoint.transformers.padded import PaddedHistories, reads_padded
from counterpoint.transformers.processor import GuidanceLogitsProcessor, check_negatives, context_len

LOOPS = {
    GenerationMode.SAMPLE: "_sample",
    GenerationMode.GREEDY_SEARCH: "_sample",
    GenerationMode.BEAM_SEARCH: "_beam_search",
    GenerationMode.BEAM_SAMPLE: "_beam_search",
    GenerationMode.ASSISTED_GENERATION: "_assisted_decoding",
}
# What the one-forward loop knows what to do with; anything else is left to transformers' own loop.
PLAIN_INPUTS = {"attention_mask", "position_ids", "past_key_values", "cache_params", "use_cache", "logits_to_keep"}


def generate(
    model: PreTrainedModel,
    input_ids: Tensor,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    *,
    guide: Guide | Sequence[Guide] | None = None,
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
        guide: a `Guide`, or one for each prompt. With `guidance_scale` too, that fills in a scale that is None.

    Returns:
        What `model.generate` returns. Scores are those after guidance and processors. `past_key_values` of beams is
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
    request = _Request(
        model, input_ids, generation_config, caller, _guides(guide, generation_config, caller), model_kwargs
    )
    request.warn_of_no_effect()
    fault = misread_padding(model, model_kwargs.get("attention_mask"))
    read = _reader(request, LOOPS[mode], fault is not None) if request.suits_histories() else None
    if read is not None and LOOPS[mode] == "_sample":
        return _decode(request, read, processors, stopping_criteria)
    if read is not None:
        with contextlib.suppress(NeedsStates):
            return _joint_loop(request, read, LOOPS[mode], processors, stopping_criteria)
    if fault is not None:
        raise UnsupportedError(fault)
    if request.guides is not None:
        processors.insert(0, request.processor())
    return _hand_over(request, LOOPS[mode], processors, stopping_criteria)


class _Request:
    """What was asked of `generate`, checked."""

    def __init__(
        self,
        model: PreTrainedModel,
        input_ids: Tensor,
        config: GenerationConfig,
        caller: Caller,
        guides: list[Guide] | None,
        model_kwargs: dict[str, Any],
    ) -> None:
        self.model, self.input_ids, self.config, self.caller = model, input_ids, config, caller
        self.guides, self.model_kwargs = guides, model_kwargs
        self.num_prompts, self.num_rows = caller["batch_size"], len(input_ids)
        self.negatives = self._negatives()
        if guides is not None:
            name = "guidance_scale" if isinstance(config.guidance_scale, (list, tuple)) else "guide"
            self.guide_of_row = spread(len(guides), self.num_rows, self.num_prompts, name, (len(guides),))

    def _negatives(self) -> list[TokenIds] | None:
        ids, mask = self.caller["negative_prompt_ids"], self.caller["negative_prompt_attention_mask"]
        if ids is None:
            if mask is not None:
                raise PromptError(
                    "negative_prompt_attention_mask is given without negative_prompt_ids; pass both or neither"
                )
            return None
        shape = tuple(getattr(ids, "shape", ()))
        if isinstance(ids, Tensor) and ids.device != self.input_ids.device:
            raise PromptError(
                f"negative_prompt_ids of shape {shape} is on {ids.device} and input_ids of shape "
                f"{tuple(self.input_ids.shape)} on {self.input_ids.device}; move it there"
            )
        rows = read_negatives(
            ids,
            mask,
            pad_token_ids=_ids(self.config._pad_token_tensor),
            eos_token_ids=_ids(self.config._eos_token_tensor),
        )
        owners = spread(len(rows), self.num_rows, self.num_prompts, "negative_prompt_ids", shape)
        beams = self.config.num_beams
        if any(rows[owners[row]] != rows[owners[row - row % beams]] for row in range(self.num_rows)):
            raise PromptError(
                f"negative_prompt_ids of shape {shape} differs between the {beams} beams of a prompt; pass one a prompt"
            )
        check_negatives(self.model, rows)
        limit, longest = context_len(self.model), max(map(len, rows))
        new = self.config.max_length - self.input_ids.shape[1]
        if (
            limit is not None
            and self.config.max_length <= limit < longest + new
            and not self.model.config.is_encoder_decoder
        ):
            raise PromptError(
                f"negative_prompt_ids of shape {shape} with {longest} tokens and up to {new} new ones does not fit "
                f"the model's context of {limit}, where input_ids of shape {tuple(self.input_ids.shape)} does; "
                "shorten it, or max_new_tokens"
            )
        return [rows[owner] for owner in owners]

    def prompts(self) -> list[TokenIds]:
        """The tokens of each row's prompt, without padding."""
        mask = self.model_kwargs.get("attention_mask")
        if mask is None:
            return [tuple(row) for row in self.input_ids.tolist()]
        return [tuple(row[keep != 0].tolist()) for row, keep in zip(self.input_ids, mask)]

    @property
    def others(self) -> list[TokenIds]:
        """The tokens that each row's other branch begins with."""
        return [prompt[-1:] for prompt in self.prompts()] if self.negatives is None else list(self.negatives)

    def row_guides(self) -> RowGuides:
        return RowGuides([self.guides[at] for at in self.guide_of_row])

    def warn_of_no_effect(self) -> None:
        """Warn where a negative was given that can't change a token."""
        if self.negatives is None or self.guides is None:
            return
        is_text = not self.model.config.is_encoder_decoder and self.input_ids.shape[1] > 0
        same = is_text and self.prompts() == self.negatives
        if same or not self.row_guides().has_effect:
            reason = "equals the prompt" if same else "has weight 0 (guidance scale 1)"
            warnings.warn(f"negative_prompt_ids {reason}, so it changes nothing", NoEffectWarning, stacklevel=5)

    def suits_histories(self) -> bool:
        """Whether token ids are all that the model has to be given, and logits and a plain cache all that is asked for."""
        config, given = self.config, {name for name, value in self.model_kwargs.items() if value is not None}
        cache = self.model_kwargs.get("past_key_values")
        return (
            self.guides is not None
            and given <= PLAIN_INPUTS
            and not self.model.config.is_encoder_decoder
            and self.input_ids.shape[1] > 0
            and config.use_cache is not False
            and config.prefill_chunk_size is None
            and (config.cache_implementation in (None, "dynamic") or self._static_on_cpu())
            and not self.caller["kwargs_has_position_ids"]
            and (cache is None or cache.get_seq_length() == 0)
            and not self.caller["synced_gpus"]
            and not config.output_attentions
            and not config.output_hidden_states
        )

    def _static_on_cpu(self) -> bool:
        # Elsewhere transformers compiles its own loop for a static cache, which is worth more than one forward.
        # An output object would have to hold one.
        config = self.config
        return (
            config.cache_implementation == "static"
            and self.input_ids.device.type == "cpu"
            and not config.return_dict_in_generate
        )

    def processor(self) -> GuidanceLogitsProcessor:
        ids, mask = (None, None) if self.negatives is None else _padded(self.negatives, self.input_ids.device)
        return GuidanceLogitsProcessor(
            self.model,
            [self.guides[at] for at in self.guide_of_row],
            negative_prompt_ids=ids,
            negative_prompt_attention_mask=mask,
            prompt_len=self.input_ids.shape[1],
        )


def _guides(guide: Guide | Sequence[Guide] | None, config: GenerationConfig, caller: Caller) -> list[Guide] | None:
    """The guides, one or one a prompt; None where nothing asks for guidance."""
    scale = config.guidance_scale
    if guide is None and scale is None and caller["negative_prompt_ids"] is None:
        warnings.warn(
            "generate was given neither guidance_scale, guide nor negative_prompt_ids, so nothing is guided",
            NoEffectWarning,
            stacklevel=4,
        )
        return None
    if guide is None or isinstance(guide, Guide):
        guides = [guide or Guide()]
    elif isinstance(guide, (list, tuple)) and guide and all(isinstance(one, Guide) for one in guide):
        guides = list(guide)
    else:
        raise GuideError(f"guide is {guide!r}; use a Guide, or a list of one for each prompt")
    scales = [None] if scale is None else list(scale) if isinstance(scale, (list, tuple)) else [scale]
    if not scales:
        raise GuideError(f"guidance_scale is {scale!r}; use a number, or a list of one for each prompt")
    if len(guides) != len(scales) and 1 not in (len(guides), len(scales)):
        raise GuideError(f"guide has {len(guides)} values and guidance_scale {len(scales)}; use one, or as many")
    count = max(len(guides), len(scales))
    guides, scales = guides * (count // len(guides)), scales * (count // len(scales))
    return [_with_scale(g, s) for g, s in zip(guides, scales)]


def _with_scale(guide: Guide, scale: float | None) -> Guide:
    if scale is None:
        return guide
    if guide.scale is not None and guide.scale != scale:
        raise GuideError(f"guidance_scale is {scale} and the guide's scale {guide.scale}; leave one of them out")
    return dataclasses.replace(guide, scale=scale)


def _reader(request: _Request, loop: str, misreads_padding: bool) -> Histories | PaddedHistories | None:
    """What reads both branches; None where the processor in transformers' own loop is the better way."""
    model = request.model
    if reads_jointly(model):
        return Histories(rows_for(model))
    keeps_cache = request.config.return_dict_in_generate  # which is in nobody's hands but ours then
    if loop != "_assisted_decoding" and not keeps_cache and reads_padded(model):
        return PaddedHistories(model)
    return Histories(rows_for(model)) if misreads_padding else None


def _decode(
    request: _Request,
    read: Histories | PaddedHistories,
    processors: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
) -> ModelOutput | Tensor:
    """transformers' `_sample`, token for token, with both branches in one forward."""
    config, streamer, input_ids = request.config, request.caller["streamer"], request.input_ids
    pads_finished = any(hasattr(criteria, "eos_token_id") for criteria in stopping_criteria)
    guides, cond, other = request.row_guides(), request.prompts(), request.others
    kept: dict[str, list[Tensor]] = {
        name: []
        for name in ("scores", "logits")
        if config.return_dict_in_generate and getattr(config, f"output_{name}")
    }
    unfinished = torch.ones(len(cond), dtype=torch.long, device=input_ids.device)
    running = list(range(len(cond)))  # rows
    last: tuple[Tensor, Tensor | None] | None = None
    step = 0
    while running:
        asked = [cond[row] for row in running]
        needs_negative = guides.needs_negative(step)
        if needs_negative:
            asked += [other[row] for row in running]
        logits = read.logits(asked).to(dtype=torch.float32, device=input_ids.device)
        last = _scattered(
            last, running, logits[: len(running)], logits[len(running) :] if needs_negative else None, len(cond)
        )
        scores = processors(input_ids, guides.apply(*last, step))
        if config.do_sample:
            chosen = torch.multinomial(torch.softmax(scores, dim=-1), num_samples=1).squeeze(1)
        else:
            chosen = scores.argmax(dim=-1)
        if pads_finished:
            chosen = chosen * unfinished + config._pad_token_tensor.to(chosen.device) * (1 - unfinished)
        input_ids = torch.cat([input_ids, chosen[:, None]], dim=-1)
        for name, tensor in (("scores", scores), ("logits", last[0])):
            if name in kept:
                kept[name].append(tensor.clone())
        unfinished = unfinished & ~stopping_criteria(input_ids, tuple(kept["scores"]) if "scores" in kept else None)
        if streamer is not None:
            streamer.put(chosen.cpu())
        tokens = chosen.tolist()
        running = [row for row, alive in enumerate(unfinished.tolist()) if alive]
        if running and config.return_dict_in_generate:
            running = list(range(len(cond)))  # the cache that is returned has the padding of finished rows too
        for row in running:
            cond[row] += (tokens[row],)
            other[row] += (tokens[row],)
        step += 1
    if streamer is not None:
        streamer.end()
    if not config.return_dict_in_generate:
        return input_ids
    return GenerateDecoderOnlyOutput(
        sequences=input_ids,
        **{name: tuple(steps) for name, steps in kept.items()},
        past_key_values=_cache(request, read, cond, input_ids.shape[1] - 1),
    )


def _cache(request: _Request, read: Histories, histories: Sequence[TokenIds], width: int) -> Cache | None:
    """What transformers' loop would have cached of the conditional branch, left-padded to `width` tokens.

    None where the model has a state of another kind.
    """
    if not reads_jointly(request.model):
        return None
    cache = request.model_kwargs.get("past_key_values")
    cache = DynamicCache(config=request.model.config) if cache is None else cache
    read.fill(cache, histories, width)
    return cache


def _joint_loop(
    request: _Request,
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
        out.past_key_values = None
        if loop != "_beam_search":
            texts = [p + tuple(row) for p, row in zip(request.prompts(), out.sequences[:, prompt_len:-1].tolist())]
            out.past_key_values = _cache(request, read, texts, out.sequences.shape[1] - 1)
    return out


def _scattered(
    last: tuple[Tensor, Tensor | None] | None, running: list[int], cond: Tensor, other: Tensor | None, num_rows: int
) -> tuple[Tensor, Tensor | None]:
    """Logits of all rows: finished ones keep their last, which nothing reads but the user's processors."""
    if last is None or len(running) == num_rows:
        return cond, other
    whole_cond, whole_other = last
    whole_cond[running] = cond
    if other is None or whole_other is None:
        return whole_cond, None if other is None else whole_cond.clone().index_copy_(0, torch.tensor(running), other)
    whole_other[running] = other
    return whole_cond, whole_other


def _hand_over(
    request: _Request,
    loop: str,
    processors: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    *,
    joint: JointModel | None = None,
) -> ModelOutput | Tensor:
    """Run transformers' own loop, on the model or on what stands for it."""
    caller, extra, model_kwargs = request.caller, {}, request.model_kwargs
    if joint is not None:
        model_kwargs = {**model_kwargs, "past_key_values": DynamicCache()}
    elif loop == "_beam_search" and not keeps_reorderable_cache(request.model, model_kwargs):
        model_kwargs = {**model_kwargs, "use_cache": False, "past_key_values": None, "cache_params": None}
        model_kwargs = {name: value for name, value in model_kwargs.items() if value is not None}
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


def _padded(rows: Sequence[TokenIds], device: torch.device) -> tuple[Tensor, Tensor]:
    width = max(map(len, rows))
    ids = torch.tensor([(0,) * (width - len(row)) + row for row in rows], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
    return ids, mask


def _ids(tensor: Tensor | None) -> frozenset[int]:
    return frozenset() if tensor is None else frozenset(tensor.reshape(-1).tolist())
