"""transformers' `_sample`, token for token, with all branches in one forward."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, LogitsProcessorList, StoppingCriteriaList
from transformers.generation.utils import GenerateDecoderOnlyOutput
from transformers.utils import ModelOutput

from counterpoint.models.caches import GENERATED_FIELD, cache_of
from counterpoint.models.padded import PaddedHistories
from counterpoint.models.trials import abilities_of
from counterpoint.transformers.guided_call import GuidedCall
from counterpoint.transformers.histories import Histories
from counterpoint.transformers.negatives import TokenIds

Read = Histories | PaddedHistories


def sample(
    request: GuidedCall, read: Read, processors: LogitsProcessorList, stopping_criteria: StoppingCriteriaList
) -> ModelOutput | Tensor:
    """Write tokens until every row has ended. What `generate` returns of a call without beams and drafts."""
    config, streamer, ids = request.config, request.caller["streamer"], request.input_ids
    branches, kept = _Branches(request, read), _Kept(request)
    pads = any(hasattr(criteria, "eos_token_id") for criteria in stopping_criteria)
    unfinished = torch.ones(len(ids), dtype=torch.long, device=ids.device)
    while branches.running:
        cond, other = branches.read_next()
        scores = processors(ids, branches.guides.apply(cond, other, ids[:, request.input_ids.shape[1] :]))
        chosen = _chosen(scores, do_sample=config.do_sample)
        if pads:  # rows that have ended, where tokens end texts
            chosen = torch.where(unfinished.bool(), chosen, config._pad_token_tensor.to(chosen.device))
        ids = torch.cat([ids, chosen[:, None]], dim=-1)
        kept.add(scores=scores, logits=cond)
        unfinished = unfinished & ~stopping_criteria(ids, kept.scores)
        if streamer is not None:
            streamer.put(chosen.cpu())
        branches.extend(chosen.tolist(), unfinished.tolist())
    if streamer is not None:
        streamer.end()
    if not config.return_dict_in_generate:
        return ids
    cache = cache_read(request, read, branches.prompts, ids.shape[1] - 1)
    return GenerateDecoderOnlyOutput(sequences=ids, **kept.fields(), **{GENERATED_FIELD: cache})


def cache_read(request: GuidedCall, read: Read, histories: Sequence[TokenIds], width: int) -> Cache | None:
    """What transformers' loop would have cached of the conditional branch, left-padded to `width` tokens.

    None where the model has a state of another kind.
    """
    if not abilities_of(request.model).reads_jointly(request.limit):
        return None
    cache = cache_of(request.model_kwargs)
    cache = DynamicCache(config=request.model.config) if cache is None else cache
    read.fill(cache, histories, width)
    return cache


def _chosen(scores: Tensor, *, do_sample: bool) -> Tensor:
    """(R, V) -> (R,) of token ids."""
    if do_sample:
        return torch.multinomial(torch.softmax(scores, dim=-1), num_samples=1).squeeze(1)
    return scores.argmax(dim=-1)


class _Branches:
    """Both branches of all rows as they grow; rows that have ended are read no more."""

    def __init__(self, request: GuidedCall, read: Read) -> None:
        self.guides, self.prompts = request.row_guides(), request.prompts()
        self.running = list(range(len(self.prompts)))  # rows
        self._negatives, self._read, self._step = request.others, read, 0
        self._device = request.input_ids.device
        # The cache that is returned has the padding of finished rows too.
        self._reads_all = bool(request.config.return_dict_in_generate)
        self._last: tuple[Tensor, Tensor | None] | None = None

    def read_next(self) -> tuple[Tensor, Tensor | None]:
        """Logits (R, V) of the conditional branch and of the negative; None where the guides need none now.

        Rows that have ended keep their last ones, which nothing reads but the user's processors.
        """
        count, asked = len(self.running), [self.prompts[row] for row in self.running]
        needs_negative = self.guides.needs_negative(self._step)
        if needs_negative:
            asked += [self._negatives[row] for row in self.running]
        logits = self._read.logits(asked).to(dtype=torch.float32, device=self._device)
        cond, other = logits[:count], logits[count:] if needs_negative else None
        if self._last is None or count == len(self.prompts):
            self._last = cond, other
        else:
            before, other_before = self._last
            before = before.index_copy(0, torch.tensor(self.running, device=before.device), cond)
            if other is not None:
                whole = before if other_before is None else other_before
                other = whole.index_copy(0, torch.tensor(self.running, device=whole.device), other)
            self._last = before, other
        return self._last

    def extend(self, tokens: Sequence[int], unfinished: Sequence[int]) -> None:
        """Each row has one more token, and some have ended."""
        self.running = [row for row, alive in enumerate(unfinished) if alive]
        if self.running and self._reads_all:
            self.running = list(range(len(self.prompts)))
        for row in self.running:
            self.prompts[row] += (tokens[row],)
            self._negatives[row] += (tokens[row],)
        self._step += 1


class _Kept:
    """What an output object holds of each step, where one is asked for."""

    def __init__(self, request: GuidedCall) -> None:
        config = request.config
        self._steps: dict[str, list[Tensor]] = {
            name: []
            for name in ("scores", "logits")
            if config.return_dict_in_generate and getattr(config, f"output_{name}")
        }

    @property
    def scores(self) -> tuple[Tensor, ...] | None:
        """Those so far, for stopping criteria."""
        return tuple(self._steps["scores"]) if "scores" in self._steps else None

    def add(self, **tensors: Tensor) -> None:
        for name, steps in self._steps.items():
            steps.append(tensors[name].clone())

    def fields(self) -> dict[str, tuple[Tensor, ...]]:
        return {name: tuple(steps) for name, steps in self._steps.items()}
