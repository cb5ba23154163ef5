"""Guidance as a logits processor, right in every decoding loop of transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, PreTrainedModel

from counterpoint.errors import GuideError, PromptError, UnsupportedError
from counterpoint.formulas import NEG_INF
from counterpoint.guide import Guide
from counterpoint.models.adapters import unwrapped
from counterpoint.models.ids import num_ids
from counterpoint.models.inputs import InputHistories, check_inputs
from counterpoint.models.padded import PaddedHistories
from counterpoint.models.trials import abilities_of
from counterpoint.transformers.caller import Caller, is_drafting, running_generate
from counterpoint.transformers.encoded import EncodedHistories
from counterpoint.transformers.encoded_trials import encoded_trials
from counterpoint.transformers.forms import RowForms
from counterpoint.transformers.guides import RowGuides
from counterpoint.transformers.histories import Histories, rows_for
from counterpoint.transformers.loops import check_mask, check_reads_plainly, is_plain, own_loop_fault, reorders_beams
from counterpoint.transformers.negatives import TokenIds, check_vocabulary, read_negatives, spread


class GuidanceLogitsProcessor(LogitsProcessor):
    """Guides the scores of `model.generate` by a negative prompt, under greedy choice, sampling, beams and drafting.

    The scores it returns are the guided log-probabilities. It answers for the token ids that it is given, so rows may
    come reordered, extended or rolled back, and the object may be used again for another prompt. Put it first: what
    stands before it in the list changes the conditional branch alone.

    Args:
        model: the model that generates.
        guide: a `Guide`, or one for each prompt.
        negative_prompt_ids: (N, L) with N 1 or the number of prompts, padded on either side; None is the last token of
            each prompt (arXiv 2306.17806). What the encoder reads, for an encoder-decoder.
        negative_prompt_attention_mask: (N, L), nonzero for tokens.
        negative_inputs: instead of those two, whatever the model's processor makes of N contrasting prompts: with other
            pictures or sounds, or with none. Padded on the left.
        prompt_len: tokens of the prompt in `input_ids`, with padding; None finds out from the `generate` that runs, or,
            in a loop of your own, takes the length of the first call (see `reset`).
        form: a form that every row keeps, as `form_of` makes it of a constraint; it conditions both branches.

    Raises:
        PromptError: a negative is empty, or of the wrong shape, or longer than the model's context.
        GuideError: no guide, or something else in its place.
        UnsupportedError: the model can't be guided.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        guide: Guide | Sequence[Guide],
        *,
        negative_prompt_ids: Tensor | None = None,
        negative_prompt_attention_mask: Tensor | None = None,
        negative_inputs: Mapping[str, Any] | None = None,
        prompt_len: int | None = None,
        form: RowForms | None = None,
    ) -> None:
        self._model = model = unwrapped(model)
        self._guides = list(guide) if isinstance(guide, (list, tuple)) else [guide]
        if not self._guides or not all(isinstance(one, Guide) for one in self._guides):
            raise GuideError(f"guide is {guide!r}; use a Guide, or a list of one for each prompt")
        self._negatives, self._negative_inputs = None, negative_inputs
        self._negative_shape: object = None
        if negative_inputs is not None:
            self._negative_shape = (check_inputs(negative_inputs),)
            if negative_prompt_ids is not None or negative_prompt_attention_mask is not None:
                raise PromptError("negative_inputs and negative_prompt_ids are both given; use one of them")
        elif negative_prompt_ids is not None:
            config = model.generation_config
            self._negatives = read_negatives(
                negative_prompt_ids,
                negative_prompt_attention_mask,
                pad_token_ids=_id_set(config.pad_token_id),
                eos_token_ids=_id_set(config.eos_token_id),
            )
            self._negative_shape = tuple(negative_prompt_ids.shape)
            check_negatives(model, self._negatives)
        elif negative_prompt_attention_mask is not None:
            raise PromptError(
                "negative_prompt_attention_mask is given without negative_prompt_ids; pass both or neither"
            )
        elif model.config.is_encoder_decoder and any(guide.scale != 1 for guide in self._guides):
            raise UnsupportedError(
                f"{type(model).__name__} is an encoder-decoder, whose prompt's last token is no text of its own; "
                "pass negative_prompt_ids"
            )
        if self._negatives is not None and model.config.is_encoder_decoder and not encoded_trials(model).continues():
            raise UnsupportedError(
                f"{type(model).__name__} writes something else with its cache than without, by a trial, so it can't be guided "
                "exactly; use another encoder-decoder, or a decoder-only model"
            )
        self._own_prompt_len, self._form = prompt_len, form
        self._state = abilities_of(model).own_state()
        self.reset()

    def reset(self) -> None:
        """Forget everything about the last prompt. Only needed between two runs of a loop of your own."""
        self._prompts: Tensor | None = None
        self._limit: int | None = None  # tokens of a row
        self._read: Histories | PaddedHistories | EncodedHistories | InputHistories | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Guided log-probabilities in float32. (R, L) ids and (R, V) logits of the conditional branch -> (R, V)."""
        if is_drafting():
            return scores
        # A head may be wider than the embeddings; what can't be read back is not chosen.
        width = scores.shape[1] if self._model.config.is_encoder_decoder else num_ids(self._model)
        guided = self._guided(input_ids, scores[:, :width])
        return torch.nn.functional.pad(guided, (0, scores.shape[1] - guided.shape[1]), value=NEG_INF)

    def _guided(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        prompt_len = self._prompt_len(input_ids)
        num_rows, step = len(input_ids), input_ids.shape[1] - prompt_len
        caller = running_generate()
        num_prompts = num_rows if caller is None else caller["batch_size"]
        places = spread(len(self._guides), num_rows, num_prompts, "guide", len(self._guides))
        guides, generated = RowGuides([self._guides[place] for place in places], self._form), input_ids[:, prompt_len:]
        if not guides.needs_negative(step):
            return guides.apply(scores, None, generated)
        if self._negative_inputs is not None:
            found = self._read_inputs(generated, num_prompts)[:, : scores.shape[1]]
            return guides.apply(scores, found.to(scores), generated)
        negatives = self._negatives_of(input_ids, prompt_len, num_prompts)
        # Where both branches are one text the conditional logits serve for both, to the last bit.
        apart = [
            row
            for row, (prompt, negative) in enumerate(zip(_prompts(caller, input_ids, prompt_len), negatives))
            if prompt != negative
        ]
        logits = scores.clone()
        if apart:
            ids = input_ids[apart] if self._model.config.is_encoder_decoder else input_ids[apart, prompt_len:]
            found = self._read_negatives([negatives[row] for row in apart], ids.tolist())
            logits[apart] = found.to(scores)
        return guides.apply(scores, logits, generated)

    def _negatives_of(self, input_ids: Tensor, prompt_len: int, num_prompts: int) -> list[TokenIds]:
        """The negative of each row."""
        if self._negatives is None:
            if prompt_len == 0:
                raise UnsupportedError("the prompt has no token ids to take the last one of; pass negative_prompt_ids")
            return [(token_id,) for token_id in input_ids[:, prompt_len - 1].tolist()]
        places = spread(len(self._negatives), len(input_ids), num_prompts, "negative_prompt_ids", self._negative_shape)
        return [self._negatives[place] for place in places]

    def _read_negatives(self, negatives: list[TokenIds], generated: list[list[int]]) -> Tensor:
        """Logits of the negative branch. -> (R, V)."""
        with torch.no_grad(), self._state.alone():
            self._state.forget()  # what is read here has positions of its own, or none
            if self._model.config.is_encoder_decoder:
                if self._read is None:
                    self._read = EncodedHistories(self._model, list(dict.fromkeys(self._negatives)))
                return self._read.logits([(negative, tuple(row)) for negative, row in zip(negatives, generated)])
            if self._read is None:
                self._read = self._new_read(len(negatives))
            return self._read.logits([negative + tuple(row) for negative, row in zip(negatives, generated)])

    def _read_inputs(self, generated: Tensor, num_prompts: int) -> Tensor:
        """Logits of the negative branch where that is no plain text. (R, generated) -> (R, V)."""
        if self._read is None or generated.shape[1] == 0:
            self._read = InputHistories(self._model, self._negative_inputs, abilities_of(self._model).own_state())
        (count,) = self._negative_shape
        prompts = spread(count, len(generated), num_prompts, "negative_inputs", count)
        return self._read.logits([(prompt, tuple(row)) for prompt, row in zip(prompts, generated.tolist())])

    def _new_read(self, num_rows: int) -> Histories | PaddedHistories:
        # One row is quicker by itself, and can be rolled back where drafts are.
        able, limit = abilities_of(self._model), self._limit
        if num_rows > 1 and not able.reads_jointly(limit) and able.padded.holds(limit):
            return PaddedHistories(self._model)
        return Histories(rows_for(self._model, limit))

    def _prompt_len(self, input_ids: Tensor) -> int:
        if self._own_prompt_len is not None:
            return self._own_prompt_len
        caller = running_generate()
        if caller is not None:
            prompt_len = caller["input_ids_length"]
            if input_ids.shape[1] == prompt_len:
                self._check(caller)
            return prompt_len
        known = self._prompts
        if (
            known is None
            or len(known) != len(input_ids)
            or known.shape[1] > input_ids.shape[1]
            or not torch.equal(known, input_ids[:, : known.shape[1]])
        ):
            self._prompts = input_ids.clone()
        return self._prompts.shape[1]

    def _check(self, caller: Caller) -> None:
        check_reads_plainly(self._model)
        check_mask(caller, self._model.config.is_encoder_decoder)
        config, ids = caller["generation_config"], caller["input_ids"]
        model_kwargs = caller["model_kwargs"]
        longest = max([caller["input_ids_length"], *map(len, self._negatives or ())])
        num_new = config.max_length - caller["input_ids_length"]
        self._limit = None if self._model.config.is_encoder_decoder else longest + num_new
        check_readable(self._model, self._limit, num_new)
        fault = own_loop_fault(
            self._model,
            config,
            num_rows=len(ids),
            prompt_mask=model_kwargs.get("attention_mask"),
            limit=self._limit,
        )
        if fault is not None:
            raise UnsupportedError(fault)
        if config.guidance_scale not in (None, 1):
            raise UnsupportedError(
                f"guidance_scale is {config.guidance_scale} beside a GuidanceLogitsProcessor, and transformers would guide "
                "too; leave it out"
            )
        caches = config.num_beams > 1 and model_kwargs.get("use_cache", True)
        if caches and not reorders_beams(self._model, model_kwargs, self._limit):
            raise UnsupportedError(
                f"{type(self._model).__name__} keeps its state where beams (num_beams is {config.num_beams}) can't "
                "reorder it; pass use_cache=False"
            )


def _prompts(caller: Caller | None, input_ids: Tensor, prompt_len: int) -> list[TokenIds]:
    """The tokens of each row's prompt without padding, as its branch reads them; () where that is no plain text."""
    num_rows = len(input_ids)
    if caller is None:
        return [tuple(row) for row in input_ids[:, :prompt_len].tolist()]
    ids, mask = caller["inputs_tensor"], caller["model_kwargs"].get("attention_mask")
    if not is_plain(ids):
        return [()] * num_rows
    kept = torch.ones_like(ids) if mask is None else mask[:: len(mask) // len(ids)]
    prompts = [tuple(row[keep != 0].tolist()) for row, keep in zip(ids, kept)]
    return [prompts[row * len(prompts) // num_rows] for row in range(num_rows)]


def check_negatives(model: PreTrainedModel, negatives: Sequence[TokenIds]) -> None:
    """Raise where a negative can't be read by the model: unknown ids, pictures, or longer than the context."""
    text = model.config.get_text_config()
    check_vocabulary(list(negatives), text.vocab_size)
    for name in ("image_token_id", "video_token_id", "audio_token_id"):
        placeholder = getattr(model.config, name, None)
        if placeholder is not None and any(placeholder in row for row in negatives):
            raise UnsupportedError(
                f"negative_prompt_ids has the placeholder {placeholder} ({name}); a negative is text only, leave it out"
            )
    limit, longest = context_len(model), max(map(len, negatives))
    if limit is not None and longest >= limit:
        raise PromptError(
            f"negative_prompt_ids has a row of {longest} tokens and the model's context holds {limit}; shorten it"
        )


def context_len(model: PreTrainedModel) -> int | None:
    """How many tokens the model can read, None where there is no limit."""
    if not model.config.is_encoder_decoder:
        return abilities_of(model).context_len
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return limit if isinstance(limit, int) and limit > 0 else None


def check_readable(model: PreTrainedModel, limit: int | None, num_new: int) -> None:
    """Raise where the model's own forward would fail before the end.

    Args:
        limit: most tokens that a row can come to; None where that is not known.
        num_new: of them, those that are to be generated.
    """
    most = None if limit is None else abilities_of(model).readable_len
    if most is not None and limit > most:
        left = most - limit + num_new
        way_out = f"set max_new_tokens to {left} or less" if left > 0 else "shorten it"
        raise PromptError(
            f"a prompt or negative can come to {limit} tokens, {num_new} of them new, and the forward of "
            f"{type(model).__name__} fails past {most}; {way_out}"
        )


def _id_set(ids: int | list[int] | None) -> frozenset[int]:
    if ids is None:
        return frozenset()
    return frozenset(ids if isinstance(ids, (list, tuple)) else [ids])
