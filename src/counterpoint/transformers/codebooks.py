"""Guidance of models that write sounds and pictures as codes, and that double the batch for guidance of their own."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedModel, StoppingCriteriaList
from transformers.generation import ClassifierFreeGuidanceLogitsProcessor
from transformers.modeling_outputs import BaseModelOutput

from counterpoint.errors import GuideError, NoEffectWarning, PromptError, UnsupportedError
from counterpoint.formulas import log_probs
from counterpoint.guide import Branch, Guide, no_effect
from counterpoint.guiding import combined
from counterpoint.models.trials.own_loop import writes_more
from counterpoint.transformers.branched import GuidedBranches, guide_samples
from counterpoint.transformers.cached_codes import check_cached

Inputs = Mapping[str, Any]


def codebooks(
    model: PreTrainedModel,
    inputs: Inputs,
    *,
    negative: Inputs | None = None,
    branches: Sequence[Branch] | None = None,
    guide: Guide | Sequence[Guide] | None = None,
) -> dict[str, Any]:
    """Arguments of `model.generate` that guide MusicGen, MusicGen Melody, Dia and Janus.

        model.generate(**codebooks(model, inputs, negative=drums, guide=Guide(scale=3)), max_new_tokens=500)

    Every codebook of every prompt is guided by the formulas of `Guide`; by themselves these models know log space, one
    scale, and pushing away from silence. All branches take one forward a step. Guidance comes first, then the processors
    that `generate` makes.

    Args:
        model: MusicGen (mono or stereo), MusicGen Melody, Dia, or Janus for pictures.
        inputs: of B prompts, as the model's processor makes them.
        negative: the same for the contrasting prompt, of one or B rows. None is what the model was trained with: silence,
            or for Janus the prompt blotted out, the only negative that it takes.
        branches: several such inputs, each a context with its weight, instead of `negative`; None is silence.
        guide: a `Guide`, or one for each prompt; `start` and `stop` count steps of the loop, and a delay pattern shifts
            each codebook against them.

    Returns:
        Keyword arguments, usable more than once. Add stopping criteria of your own to the list under
        `stopping_criteria`, and processors to `logits_processor` of the call.

    Raises:
        UnsupportedError: another model, a negative that this model can't have, or a version of transformers that misreads it.
        PromptError: inputs without `input_ids`, of other numbers of rows, or too long to stand beside the prompt's.
        GuideError: no guide, or not one for each prompt.
    """
    kind = model.config.model_type
    if kind not in ENCODERS and kind != "janus":
        more = writes_more(model)
        way_out = "pass custom_generate=counterpoint.transformers.generate to its generate" if more is None else more
        raise UnsupportedError(
            f"{type(model).__name__} has no codebooks of a kind known here ({', '.join(ENCODERS)}, janus); {way_out}"
        )
    num_prompts = _num_rows(inputs, "inputs")
    guides = _guides(guide, num_prompts)
    others = _branches(negative, branches)
    for branch in others:
        if branch.context is not None and _num_rows(branch.context, "negative") not in (1, num_prompts):
            raise PromptError(
                f"negative has {_num_rows(branch.context, 'negative')} rows for {num_prompts} prompts; "
                "use one, or one for each prompt"
            )
    weights = [one.weights(others) for one in guides]
    if kind == "janus":
        return _janus(inputs, others, weights, guides)
    return _encoded(model, ENCODERS[kind], inputs, others, weights, guides)


@dataclass(frozen=True, slots=True)
class _Context:
    """What a decoder reads of its branch: (B, L, H) states, and (B, L) where there are some."""

    states: Tensor
    mask: Tensor

    def padded(self, length: int) -> _Context:
        missing = length - self.states.shape[1]
        pad = torch.nn.functional.pad
        return _Context(pad(self.states, (0, 0, 0, missing)), pad(self.mask, (0, missing)))

    def repeated(self, num_rows: int) -> _Context:
        times = num_rows // len(self.states)
        return _Context(self.states.repeat(times, 1, 1), self.mask.repeat(times, 1))


@dataclass(frozen=True, slots=True)
class _Encoder:
    """How a kind of model reads its contexts.

    Args:
        read: the context of inputs.
        silence: the context beside these inputs that stands for nothing.
        arguments: of the model's forward, for a context.
        num_codebooks: rows of the decoder for each prompt.
        masks: whether contexts of several lengths can stand side by side.
    """

    read: Callable[[PreTrainedModel, Inputs], _Context]
    silence: Callable[[PreTrainedModel, Inputs], _Context]
    arguments: Callable[[_Context], dict[str, Any]]
    num_codebooks: Callable[[PreTrainedModel], int]
    masks: bool = True


def _encoded(
    model: PreTrainedModel,
    encoder: _Encoder,
    inputs: Inputs,
    others: Sequence[Branch],
    weights: Sequence[tuple[float, ...]],
    guides: Sequence[Guide],
) -> dict[str, Any]:
    with torch.no_grad():
        prompt = encoder.read(model, inputs)
        read = [encoder.silence(model, inputs) if b.context is None else encoder.read(model, b.context) for b in others]
    kept = {name: value for name, value in inputs.items() if name not in ("attention_mask", "input_features")}
    arguments = {**kept, **encoder.arguments(prompt), "guidance_scale": 1.0}
    if not _has_effect(inputs, others, weights, guides):
        return arguments
    longest = max(context.states.shape[1] for context in read)
    if not encoder.masks and longest > prompt.states.shape[1]:
        raise PromptError(
            f"a negative is {longest - prompt.states.shape[1]} tokens longer than the prompt, which {type(model).__name__} "
            "can't mask; pad the prompt to its length with the processor"
        )
    check_cached(model, arguments)
    length = max(longest, prompt.states.shape[1])
    rows = [context.repeated(len(prompt.states)).padded(length) for context in (prompt, *read)]
    joined = _Context(torch.cat([context.states for context in rows]), torch.cat([context.mask for context in rows]))
    guide_samples(model)
    asked = GuidedBranches(
        encoder.arguments(joined), weights=weights, guides=guides, num_codebooks=encoder.num_codebooks(model)
    )
    return {**arguments, "stopping_criteria": StoppingCriteriaList([asked])}


def _mask(inputs: Inputs) -> Tensor:
    mask = inputs.get("attention_mask")
    return torch.ones_like(inputs["input_ids"]) if mask is None else mask


def _text(model: PreTrainedModel, inputs: Inputs) -> _Context:
    """MusicGen's: states of the text encoder, masked."""
    mask = _mask(inputs)
    return _Context(model.text_encoder(input_ids=inputs["input_ids"], attention_mask=mask).last_hidden_state, mask)


def _no_text(model: PreTrainedModel, inputs: Inputs) -> _Context:
    ids = inputs["input_ids"]
    width = model.text_encoder.config.hidden_size
    return _Context(
        torch.zeros((len(ids), 1, width), dtype=model.dtype, device=ids.device), torch.zeros_like(ids[:, :1])
    )


def _melody(model: PreTrainedModel, inputs: Inputs) -> _Context:
    """MusicGen Melody's: chroma of the melody, then states of the text, both before the decoder's own tokens."""
    text = _text(model, inputs)
    states = text.states
    if model.text_encoder.config.hidden_size != model.decoder.config.hidden_size:
        states = model.enc_to_dec_proj(states)
    return _with_chroma(model, _Context(states * text.mask[..., None], text.mask), inputs.get("input_features"))


def _no_melody(model: PreTrainedModel, inputs: Inputs) -> _Context:
    ids = inputs["input_ids"]
    states = torch.zeros((*ids.shape, model.decoder.config.hidden_size), dtype=model.dtype, device=ids.device)
    return _with_chroma(model, _Context(states, torch.ones_like(ids)), None)


def _with_chroma(model: PreTrainedModel, text: _Context, chroma: Tensor | None) -> _Context:
    config = model.config
    if chroma is None:  # the first of the classes is silence
        chroma = torch.zeros((len(text.states), 1, config.num_chroma), dtype=model.dtype, device=text.states.device)
        chroma[:, :, 0] = 1
    if config.num_chroma != model.decoder.config.hidden_size:
        chroma = model.audio_enc_to_dec_proj(chroma)
    repeats = math.ceil(config.chroma_length / chroma.shape[1])
    chroma = chroma.repeat(1, repeats, 1)[:, : config.chroma_length]
    ones = torch.ones(chroma.shape[:2], dtype=text.mask.dtype, device=text.mask.device)
    return _Context(torch.cat([chroma, text.states], dim=1), torch.cat([ones, text.mask], dim=1))


def _bytes(model: PreTrainedModel, inputs: Inputs) -> _Context:
    """Dia's: states of the encoder of bytes, masked."""
    mask = _mask(inputs)
    return _Context(model.get_encoder()(input_ids=inputs["input_ids"], attention_mask=mask).last_hidden_state, mask)


def _no_bytes(model: PreTrainedModel, inputs: Inputs) -> _Context:
    return _bytes(model, {**inputs, "input_ids": torch.zeros_like(inputs["input_ids"])})


def _attended(context: _Context) -> dict[str, Any]:
    return {"encoder_outputs": BaseModelOutput(last_hidden_state=context.states), "attention_mask": context.mask}


ENCODERS = {
    "musicgen": _Encoder(_text, _no_text, _attended, lambda model: model.decoder.num_codebooks),
    "musicgen_melody": _Encoder(
        _melody,
        _no_melody,
        # Several samples end in an error of transformers that names something else, so the argument is taken.
        lambda context: {"encoder_hidden_states": context.states, "num_return_sequences": 1},
        lambda model: model.decoder.num_codebooks,
        masks=False,
    ),
    "dia": _Encoder(_bytes, _no_bytes, _attended, lambda model: model.config.decoder_config.num_channels),
}


def _janus(
    inputs: Inputs, others: Sequence[Branch], weights: Sequence[tuple[float, ...]], guides: Sequence[Guide]
) -> dict[str, Any]:
    """Janus reads its prompts twice in any case, the second time blotted out, so only its formula is exchanged."""
    if len(others) > 1 or others[0].context is not None:
        raise UnsupportedError(
            "Janus pushes away from the prompt blotted out and takes no other negative; leave it out"
        )
    for one in guides:
        if one.start or one.stop is not None:
            raise UnsupportedError(
                f"start is {one.start} and stop {one.stop}, and Janus does not show how far a picture is; leave them out"
            )
    _has_effect(inputs, others, weights, guides)
    processors = _WithoutOwnGuidance([_Halves(weights, guides)])
    # The scale only makes Janus double the batch; what it appends for it is left out.
    return {**inputs, "generation_mode": "image", "guidance_scale": 2.0, "logits_processor": processors}


class _WithoutOwnGuidance(LogitsProcessorList):
    """Processors to which `generate` can't append its own guidance."""

    def append(self, processor: LogitsProcessor) -> None:
        if not isinstance(processor, ClassifierFreeGuidanceLogitsProcessor):
            super().append(processor)


class _Halves(LogitsProcessor):
    """Guided log-probabilities from logits of the prompts and, after them, of their negatives."""

    def __init__(self, weights: Sequence[tuple[float, ...]], guides: Sequence[Guide]) -> None:
        self._weights, self._guides = list(weights), list(guides)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """(R, L), (2R, V) -> (R, V)."""
        if len(scores) != 2 * len(self._guides):
            raise UnsupportedError(
                f"{len(scores) // 2} rows are guided and there are {len(self._guides)} guides; leave num_return_sequences "
                "out and repeat the prompts"
            )
        cond, other = log_probs(scores).chunk(2)
        steps = [0] * len(cond)
        return combined(cond, other[:, None], self._weights, self._guides, steps)


def _has_effect(
    inputs: Inputs, others: Sequence[Branch], weights: Sequence[tuple[float, ...]], guides: Sequence[Guide]
) -> bool:
    """Whether guidance can change any prompt's codes; a warning says why not."""
    prompts = _keys(inputs)
    contexts = [_keys(branch.context) if branch.context is not None else [()] for branch in others]
    reason = None
    for row, (prompt, own, guide) in enumerate(zip(prompts, weights, guides)):
        reason = no_effect(guide, own, [keys[row % len(keys)] for keys in contexts], prompt)
        if reason is None:
            return True
    warnings.warn(f"guidance changes nothing: {reason}", NoEffectWarning, stacklevel=5)
    return False


def _keys(inputs: Inputs) -> list[tuple[object, ...]]:
    """Of each row, a value that equals another's where the model reads the same."""
    tensors = {name: value for name, value in sorted(inputs.items()) if isinstance(value, Tensor)}
    tensors["attention_mask"] = _mask(inputs)
    return [
        tuple((name, tuple(value[row].flatten().tolist())) for name, value in sorted(tensors.items()))
        for row in range(len(inputs["input_ids"]))
    ]


def _guides(guide: Guide | Sequence[Guide] | None, num_prompts: int) -> list[Guide]:
    guides = list(guide) if isinstance(guide, (list, tuple)) else [guide or Guide()] * num_prompts
    if not all(isinstance(one, Guide) for one in guides):
        raise GuideError(f"guide is {guide!r}; use a Guide, or a list of one for each prompt")
    if len(guides) != num_prompts:
        raise GuideError(f"guide has {len(guides)} values for {num_prompts} prompts; use one, or one for each prompt")
    return guides


def _branches(negative: Inputs | None, branches: Sequence[Branch] | None) -> list[Branch]:
    if branches is None:
        return [Branch(negative)]
    if negative is not None:
        raise PromptError("negative and branches are both given; use one of them")
    if not branches or not all(isinstance(one, Branch) for one in branches):
        raise PromptError(f"branches is {branches!r}; use a list of counterpoint.Branch, each with inputs and a weight")
    return list(branches)


def _num_rows(inputs: Any, name: str) -> int:
    ids = inputs.get("input_ids") if isinstance(inputs, Mapping) else None
    if not isinstance(ids, Tensor) or ids.dim() != 2 or not len(ids):
        raise PromptError(f"{name} has no input_ids of shape (prompts, length); pass what the model's processor makes")
    return len(ids)
