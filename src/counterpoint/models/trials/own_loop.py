"""A trial of transformers' own decoding loop: it is run as `generate` runs it, and compared with forwards without a cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, GenerationMixin, PreTrainedModel
from transformers.generation.configuration_utils import ALL_STATIC_CACHE_IMPLEMENTATIONS

from counterpoint.models.trials.course import Difference

TokenIds = tuple[int, ...]

FEW = 5  # tokens of a chunk, so that short texts are read in several


def writes_more(model: PreTrainedModel) -> str | None:
    """Why what follows is no row of tokens: the class has a loop of its own, as models of sounds have that write all codes of
    a frame within a step. None where it has transformers'."""
    if getattr(type(model), "_sample", GenerationMixin._sample) is GenerationMixin._sample:
        return None
    return "its class writes by a loop of its own, more than a token a step"


@dataclass(frozen=True, slots=True)
class LoopCall:
    """The settings of a call of `generate` that decide how transformers' loop reads the rows.

    Args:
        num_rows: 1, or 2 for any more.
        padded: rows are of different lengths, padded on the left (an encoder's on the right, unless `left`).
        left: an encoder's rows are padded on the left.
        static: the name of a cache of fixed size; None is a growing one.
        chunked: prompts are read in chunks.
    """

    num_rows: int = 2
    padded: bool = False
    left: bool = False
    static: str | None = None
    chunked: bool = False

    @classmethod
    def of(cls, config: GenerationConfig, *, num_rows: int, padded: bool, left: bool = False) -> LoopCall:
        """The kind of a call with these settings."""
        name = config.cache_implementation
        return cls(
            min(num_rows, 2),
            padded,
            left,
            name if name in ALL_STATIC_CACHE_IMPLEMENTATIONS else None,
            config.prefill_chunk_size is not None,
        )

    def settings(self, num_new: int, **more: Any) -> GenerationConfig:
        """The settings of a trial that writes `num_new` tokens."""
        config = GenerationConfig(
            max_new_tokens=num_new,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
            cache_implementation=self.static,
            **more,
        )
        if self.chunked:
            config.prefill_chunk_size = FEW
        return config


@dataclass(frozen=True, slots=True)
class Written:
    """What the loop wrote.

    Args:
        rows: of each row, its tokens without padding, written ones included.
        starts: of each row, how many tokens were there before.
        logits: of each row, (new tokens, V) that the loop chose from.
    """

    rows: Sequence[TokenIds]
    starts: Sequence[int]
    logits: Sequence[Tensor] = field(repr=False)

    def first_difference(self, agrees: Callable[[int, Tensor, TokenIds, TokenIds], bool]) -> Difference | None:
        """The first step whose logits differ.

        Args:
            agrees: whether logits are those of a row, by its number, after the first of two texts, a beginning of the
                second, which is all of the row.
        """
        for at, (row, start) in enumerate(zip(self.rows, self.starts, strict=True)):
            for step, got in enumerate(self.logits[at]):
                if not agrees(at, got, row[: start + step], row):
                    return Difference(start + step, "in transformers' own loop")
        return None


def write(model: PreTrainedModel, rows: Sequence[TokenIds], call: LoopCall, num_new: int, width: int) -> Written:
    """Let a decoder-only model's own loop go on with rows that are padded on the left to `width` tokens."""
    ids = torch.tensor([(0,) * (width - len(row)) + row for row in rows], device=model.device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=model.device)
    config = call.settings(num_new, pad_token_id=0)
    out = model.generate(input_ids=ids, attention_mask=mask, generation_config=config)
    written = [row + tuple(new) for row, new in zip(rows, out.sequences[:, width:].tolist())]
    return Written(written, [len(row) for row in rows], list(torch.stack(out.logits, dim=1)))
