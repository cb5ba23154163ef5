"""What the suite asks of an integration, and what an integration is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor
from transformers import PreTrainedModel

from counterpoint.guide import Guide

TokenIds = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One call.

    Args:
        prompts: token ids of each.
        negatives: one for all, or one a prompt; None is the integration's default, the last token of each prompt.
        guides: one for all, or one a prompt; None gives no scale and no guide at all.
        seed: sample with this seed; None is greedy.
        num_samples, num_beams: of each prompt. With beams the samples are the best beams.
        draft: None, "assistant" or "lookup".
        prompt_side, negative_side: where padding goes.
        negative_mask: whether the padding of negatives comes with a mask.
        expanded: negatives are given once for each beam or sample.
        static: a static cache.
        embedded: the prompt comes as embeddings.
        eos: token ids that end a text.
        uses: how often the call is made with the same objects; the last one's result counts.
        repetition_penalty: 1 is off.
    """

    prompts: tuple[TokenIds, ...]
    negatives: tuple[TokenIds, ...] | None = None
    guides: tuple[Guide, ...] | None = (Guide(scale=3.0),)
    max_tokens: int = 24
    seed: int | None = None
    num_samples: int = 1
    num_beams: int = 1
    draft: str | None = None
    prompt_side: str = "left"
    negative_side: str = "left"
    negative_mask: bool = True
    expanded: bool = False
    static: bool = False
    embedded: bool = False
    eos: tuple[int, ...] = ()
    uses: int = 1
    repetition_penalty: float = 1.0

    def guide(self, row: int) -> Guide | None:
        if self.guides is None:
            return None
        return self.guides[row if len(self.guides) > 1 else 0]

    def negative(self, row: int) -> TokenIds:
        if self.negatives is None:
            return self.prompts[row][-1:]
        return self.negatives[row if len(self.negatives) > 1 else 0]


class NotOffered(Exception):
    """The integration has no such feature, and no way to ask for it. Shown as a dash in the table."""


class Integration(ABC):
    """A way to generate under guidance."""

    name: str

    @abstractmethod
    def generate(self, model: PreTrainedModel, request: Request) -> list[TokenIds]:
        """The generated tokens, sample by sample of prompt by prompt, without padding.

        Raises:
            NotOffered: there is no way to ask for this.
            ValueError: refused.
        """

    @abstractmethod
    def draw(self, logprobs: Tensor, step: int, request: Request) -> list[int]:
        """The tokens that this integration draws at a step, from the right distributions of all rows. (R, V)."""

    def scores(self, model: PreTrainedModel, request: Request) -> list[Tensor]:
        """What the integration reports of each step, as log-probabilities (R, V)."""
        raise NotOffered
