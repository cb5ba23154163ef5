"""What was asked of `generate` with guidance: the prompts, their guides and negatives, checked."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel
from transformers.generation.configuration_utils import ALL_STATIC_CACHE_IMPLEMENTATIONS

from counterpoint.errors import GuideError, NoEffectWarning, PromptError, UnsupportedError
from counterpoint.guide import Guide
from counterpoint.models.caches import CACHE_NAMES, cache_of, is_empty
from counterpoint.models.inputs import check_inputs
from counterpoint.transformers.caller import Caller
from counterpoint.transformers.forms import RowForms
from counterpoint.transformers.guides import RowGuides
from counterpoint.transformers.negatives import TokenIds, read_negatives, spread
from counterpoint.transformers.processor import GuidanceLogitsProcessor, check_negatives, context_len

#: caches of a fixed size, by every name that checkpoints give them; Gemma's say "hybrid"
FIXED_SIZE = tuple(name for name in ALL_STATIC_CACHE_IMPLEMENTATIONS if "offloaded" not in name)
#: arguments that the one-forward loop can take; anything else is left to transformers' own loop
PLAIN_INPUTS = {"attention_mask", "position_ids", "use_cache", "logits_to_keep", *CACHE_NAMES}


class GuidedCall:
    """One call of `generate`.

    Raises:
        UsageError: arguments that do not fit each other or the model.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        input_ids: Tensor,
        config: GenerationConfig,
        caller: Caller,
        guides: list[Guide] | None,
        model_kwargs: dict[str, Any],
        negative_inputs: Mapping[str, Any] | None = None,
        form: RowForms | None = None,
    ) -> None:
        self.negative_inputs, self.form = negative_inputs, form
        self.model, self.input_ids, self.config, self.caller = model, input_ids, config, caller
        self.guides, self.model_kwargs = guides, model_kwargs
        self.num_prompts, self.num_rows = caller["batch_size"], len(input_ids)
        self.negatives = self._negatives()
        if guides is not None:
            name = "guidance_scale" if isinstance(config.guidance_scale, (list, tuple)) else "guide"
            self.guide_of_row = spread(len(guides), self.num_rows, self.num_prompts, name, (len(guides),))

    def _negatives(self) -> list[TokenIds] | None:
        ids, mask = self.caller["negative_prompt_ids"], self.caller["negative_prompt_attention_mask"]
        if self.negative_inputs is not None:
            count = check_inputs(self.negative_inputs)
            if ids is not None or mask is not None:
                raise PromptError("negative_inputs and negative_prompt_ids are both given; use one of them")
            spread(count, self.num_rows, self.num_prompts, "negative_inputs", count)
            return None
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
        new = self.num_new
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
        mask = self.prompt_mask
        if mask is None:
            return [tuple(row) for row in self.input_ids.tolist()]
        return [tuple(row[keep != 0].tolist()) for row, keep in zip(self.input_ids, mask)]

    @property
    def others(self) -> list[TokenIds]:
        """The tokens that each row's other branch begins with."""
        return [prompt[-1:] for prompt in self.prompts()] if self.negatives is None else list(self.negatives)

    def row_guides(self) -> RowGuides:
        return RowGuides([self.guides[at] for at in self.guide_of_row], self.form)

    def warn_of_no_effect(self, processors: Sequence[Any]) -> None:
        """Warn where guidance was asked for and can change no row. `processors` are those after guidance."""
        if self.guides is None:
            return
        is_text = not self.model.config.is_encoder_decoder and self.input_ids.shape[1] > 0
        # A prompt that is no plain text equals no negative.
        prompts = self.prompts() if is_text else [object()] * self.num_rows
        is_given, config = self.negatives is not None or self.negative_inputs is not None, self.config
        if self.negative_inputs is not None:
            others = prompts if self.negative_equals_prompt() else [object()] * self.num_rows
        else:
            others = self.others if is_text or is_given else [None] * self.num_rows
        verdict = self.row_guides().no_effect(
            others,
            prompts,
            is_given=is_given,
            num_tokens=self.num_new,
            vocab_size=self.model.config.get_text_config().vocab_size,
            takes_best=not (
                config.do_sample or config.num_beams > 1 or config.return_dict_in_generate or len(processors)
            ),
        )
        if verdict is not None:
            warning = NoEffectWarning(f"guidance changes nothing: {verdict}", verdict.field)
            warnings.warn(warning, stacklevel=5)

    def negative_equals_prompt(self) -> bool:
        """Whether `negative_inputs` are what `generate` was given."""
        given = dict(self.caller["kwargs"])
        if self.caller["inputs"] is not None:
            given["input_ids"] = self.caller["inputs"]
        return all(
            isinstance(value, Tensor) and isinstance(given.get(name), Tensor) and torch.equal(value, given[name])
            for name, value in self.negative_inputs.items()
        )

    @property
    def prompt_mask(self) -> Tensor | None:
        """(R, L), nonzero for tokens of the prompts; None where nothing says so."""
        return self.model_kwargs.get("attention_mask")

    @property
    def limit(self) -> int | None:
        """Most tokens that a row of either branch can come to; None where a branch is no plain text."""
        if self.model.config.is_encoder_decoder or self.negative_inputs is not None or self.input_ids.shape[1] == 0:
            return None
        return max(map(len, [*self.prompts(), *self.others])) + self.num_new

    @property
    def num_new(self) -> int:
        """Most tokens to be generated."""
        return self.config.max_length - self.input_ids.shape[1]

    def suits_histories(self) -> bool:
        """Whether nothing speaks against a loop of ours: no wish about the cache either."""
        config = self.config
        return (
            self.is_text_only()
            and config.use_cache is not False
            and config.prefill_chunk_size is None
            and (config.cache_implementation in (None, "dynamic") or self._static_on_cpu())
        )

    def is_text_only(self) -> bool:
        """Whether token ids are all that the model has to be given, and logits and a plain cache all that is asked for."""
        config, given = self.config, {name for name, value in self.model_kwargs.items() if not _is_nothing(value)}
        cache = cache_of(self.model_kwargs)
        return (
            self.guides is not None
            and self.negative_inputs is None
            and given <= PLAIN_INPUTS
            and not self.model.config.is_encoder_decoder
            and self.input_ids.shape[1] > 0
            and config.cache_implementation in (None, "dynamic", *FIXED_SIZE)
            and not self.caller["kwargs_has_position_ids"]
            and (cache is None or is_empty(cache))
            and not self.caller["synced_gpus"]
            and not config.output_attentions
            and not config.output_hidden_states
        )

    def _static_on_cpu(self) -> bool:
        # Elsewhere transformers compiles its own loop for a static cache, which is worth more than one forward.
        # An output object would have to hold one.
        config = self.config
        return (
            config.cache_implementation in FIXED_SIZE
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
            negative_inputs=self.negative_inputs,
            prompt_len=self.input_ids.shape[1],
            form=self.form,
        )


def guides_of(
    guide: Guide | Sequence[Guide] | None,
    config: GenerationConfig,
    caller: Caller,
    *,
    has_negative_inputs: bool = False,
    has_form: bool = False,
) -> list[Guide] | None:
    """The guides, one or one a prompt; None where nothing asks for guidance."""
    scale = config.guidance_scale
    if scale is None and caller.withheld_scale is not None:
        raise UnsupportedError(
            f"{type(caller['self']).__name__}.generate keeps guidance_scale, {caller.withheld_scale}, to itself; pass "
            "guide=counterpoint.Guide(scale=...) instead"
        )
    if (
        has_form
        and guide is None
        and scale is None
        and caller["negative_prompt_ids"] is None
        and not has_negative_inputs
    ):
        return [Guide(scale=1.0)]  # the form alone
    if guide is None and scale is None and caller["negative_prompt_ids"] is None and not has_negative_inputs:
        warnings.warn(
            "generate was given neither guidance_scale, guide nor a negative, so nothing is guided",
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


def _is_nothing(value: object) -> bool:
    return value is None or (isinstance(value, (dict, list, tuple)) and not value)


def _padded(rows: Sequence[TokenIds], device: torch.device) -> tuple[Tensor, Tensor]:
    width = max(map(len, rows))
    ids = torch.tensor([(0,) * (width - len(row)) + row for row in rows], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
    return ids, mask


def _ids(tensor: Tensor | None) -> frozenset[int]:
    return frozenset() if tensor is None else frozenset(tensor.reshape(-1).tolist())
