"""The ways to generate under guidance that the suite knows: ours, and transformers' own to compare with."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessorList, PreTrainedModel

from conformance.architectures import IMAGE, PAD, picture, picture_types
from conformance.request import Integration, NotOffered, Request, TokenIds
from counterpoint.engine.generate import generate as engine_generate
from counterpoint.errors import NoEffectWarning
from counterpoint.guide import Guide
from counterpoint.models.model import Model
from counterpoint.sampling import Sampling, draw, generator
from counterpoint.transformers import GuidanceLogitsProcessor, generate


def padded(rows: tuple[TokenIds, ...], side: str) -> tuple[Tensor, Tensor]:
    """Rows of ids as a tensor with its mask."""
    width = max(map(len, rows))
    gaps = [(PAD,) * (width - len(row)) for row in rows]
    ids = [gap + row if side == "left" else row + gap for row, gap in zip(rows, gaps)]
    mask = [
        (0,) * len(g) + (1,) * len(r) if side == "left" else (1,) * len(r) + (0,) * len(g) for r, g in zip(rows, gaps)
    ]
    return torch.tensor(ids), torch.tensor(mask)


class _InTransformers(Integration):
    """Anything that goes through `model.generate`."""

    def arguments(self, model: PreTrainedModel, request: Request) -> dict[str, Any]:
        ids, mask = padded(request.prompts, request.prompt_side)
        arguments: dict[str, Any] = {
            "input_ids": ids,
            "attention_mask": mask,
            "max_new_tokens": request.max_tokens,
            "do_sample": request.seed is not None,
            "top_k": 0,
            "num_beams": request.num_beams,
            "num_return_sequences": request.num_samples,
        }
        if request.repetition_penalty != 1:
            arguments["repetition_penalty"] = request.repetition_penalty
        if request.eos:
            arguments["eos_token_id"] = list(request.eos)
        if request.static:
            arguments["cache_implementation"] = "static"
        if request.draft == "lookup":
            arguments["prompt_lookup_num_tokens"] = 3
        if request.draft == "assistant":
            arguments["assistant_model"] = model
        if request.embedded:
            arguments["inputs_embeds"] = model.get_input_embeddings()(arguments.pop("input_ids"))
        if any(IMAGE in prompt for prompt in request.prompts):
            arguments |= {**picture(), "mm_token_type_ids": picture_types(ids)}
        return arguments

    def negative(self, request: Request) -> tuple[Tensor | None, Tensor | None]:
        if request.negatives is None:
            return None, None
        ids, mask = padded(request.negatives, request.negative_side)
        if request.expanded:
            ids = ids.expand(len(request.prompts), -1) if len(ids) == 1 else ids
            times = max(request.num_beams, request.num_samples)
            ids, mask = ids.repeat_interleave(times, 0), mask.expand(len(ids), -1).repeat_interleave(times, 0)
        return ids, mask if request.negative_mask else None

    def run(self, model: PreTrainedModel, request: Request, **arguments: Any) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if request.seed is not None:
                torch.manual_seed(request.seed)
            return model.generate(**self.arguments(model, request), **arguments)

    def guided(self, model: PreTrainedModel, request: Request, **arguments: Any) -> Any:
        raise NotImplementedError

    def generate(self, model: PreTrainedModel, request: Request) -> list[TokenIds]:
        out = self.guided(model, request)
        if not request.embedded:
            width = 1 if model.config.is_encoder_decoder else max(map(len, request.prompts))
            out = out[:, width:]
        return [_until_end(tuple(row), request.eos) for row in out.tolist()]

    def scores(self, model: PreTrainedModel, request: Request) -> list[Tensor]:
        out = self.guided(model, request, return_dict_in_generate=True, output_scores=True)
        return list(out.scores)

    def draw(self, logprobs: Tensor, step: int, request: Request) -> list[int]:
        if step == 0:
            torch.manual_seed(request.seed)
        return torch.multinomial(logprobs.exp().float(), num_samples=1).squeeze(1).tolist()


class Upstream(_InTransformers):
    """transformers' own guidance."""

    name = "transformers' own"

    def guided(self, model: PreTrainedModel, request: Request, **arguments: Any) -> Any:
        if request.uses > 1:
            raise NotOffered
        ids, mask = self.negative(request)
        return self.run(
            model,
            request,
            negative_prompt_ids=ids,
            negative_prompt_attention_mask=mask,
            guidance_scale=_scale(request),
            **arguments,
        )


class OurGenerate(_InTransformers):
    """`custom_generate=counterpoint.transformers.generate`."""

    name = "generate"

    def guided(self, model: PreTrainedModel, request: Request, **arguments: Any) -> Any:
        if request.uses > 1:
            raise NotOffered
        ids, mask = self.negative(request)
        guides = None if request.guides is None else list(request.guides)
        return self.run(
            model,
            request,
            negative_prompt_ids=ids,
            negative_prompt_attention_mask=mask,
            custom_generate=generate,
            guide=guides,
            **arguments,
        )


class OurProcessor(_InTransformers):
    """`counterpoint.transformers.GuidanceLogitsProcessor` in transformers' own loops."""

    name = "processor"

    def guided(self, model: PreTrainedModel, request: Request, **arguments: Any) -> Any:
        if request.guides is None or request.repetition_penalty != 1:
            raise NotOffered  # there is no guide to leave out; and transformers puts its penalty first
        ids, mask = self.negative(request)
        processor = GuidanceLogitsProcessor(
            model, list(request.guides), negative_prompt_ids=ids, negative_prompt_attention_mask=mask
        )
        for _ in range(request.uses):
            out = self.run(model, request, logits_processor=LogitsProcessorList([processor]), **arguments)
        return out


class Engine(Integration):
    """`counterpoint.generate`."""

    name = "engine"

    def generate(self, model: PreTrainedModel, request: Request) -> list[TokenIds]:
        unknown = request.num_beams > 1 or request.draft or request.static or request.embedded or request.uses > 1
        if unknown or model.config.is_encoder_decoder or any(IMAGE in prompt for prompt in request.prompts):
            raise NotOffered
        rows = range(len(request.prompts))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NoEffectWarning)
            done = engine_generate(
                Model(model),
                [list(prompt) for prompt in request.prompts],
                negative=[list(request.negative(row)) for row in rows],
                guide=[request.guide(row) or Guide() for row in rows],
                max_tokens=request.max_tokens,
                temperature=0.0 if request.seed is None else 1.0,
                seed=request.seed,
                n=request.num_samples,
                stop_ids=request.eos,
                repetition_penalty=request.repetition_penalty,
            )
        return [completion.token_ids for completion in done]

    def draw(self, logprobs: Tensor, step: int, request: Request) -> list[int]:
        if step == 0:
            samples = range(request.num_samples)
            self._sources = [generator(request.seed + i) for _ in request.prompts for i in samples]
        return [draw(row.float(), Sampling(), source) for row, source in zip(logprobs, self._sources)]


OURS: dict[str, Integration] = {i.name: i for i in (OurGenerate(), OurProcessor(), Engine())}


def _scale(request: Request) -> Any:
    if request.guides is None:
        return None
    scales = [guide.scale for guide in request.guides]
    if any(guide != Guide(scale=guide.scale) for guide in request.guides):
        raise NotOffered
    return scales[0] if len(scales) == 1 else torch.tensor(scales)[:, None]


def _until_end(tokens: TokenIds, eos: TokenIds) -> TokenIds:
    ends = [at for at, token in enumerate(tokens) if token in eos]
    return tokens[: ends[0] + 1] if ends else tokens
