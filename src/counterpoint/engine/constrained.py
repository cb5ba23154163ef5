"""What a constraint on the output does in the loop: masks of many samples, and tokens that no model has to choose."""

from __future__ import annotations

import math
from collections.abc import Sequence as List

from torch import Tensor

from counterpoint.constraints.masks import begin, unpacked
from counterpoint.engine.request import Progress, Request, TokenLogprob
from counterpoint.engine.sequence import Sequence
from counterpoint.sampling import pass_over


def begin_masks(sequences: List[Sequence]) -> None:
    """Start computing the masks that the next choices need, while the rows are read."""
    states = [sequence.constraint for sequence in sequences if sequence.constraint is not None]
    if states:
        begin(states)


def allowed(sequences: List[Sequence], like: Tensor) -> Tensor:
    """The tokens that each sequence's constraint leaves, as wide as predictions `like`. -> (B, V) of bool.

    Raises:
        ConstraintError: a constraint can't be followed any further.
    """
    return unpacked([sequence.constraint for sequence in sequences], like.shape[-1], like)


def can_force(request: Request) -> bool:
    """Whether tokens may be appended without a prediction: nobody looks at it, and nothing else can rule them out."""
    bans = any(bias == -math.inf for bias in request.sampling.logit_bias.values())
    return request.observe is None and not request.processors and not bans


def append_forced(sequence: Sequence, most: int) -> list[Progress]:
    """Append the tokens, at most so many, that the constraint leaves no choice of.

    All branches read them in their next forward, and the random numbers go on as if each had been drawn, so that the
    tokens after them are what they are otherwise.
    """
    state, request = sequence.constraint, sequence.request
    if state is None or not can_force(request):
        return []
    progress: list[Progress] = []
    try:
        while sequence.is_alive and len(progress) < most and (token_ids := state.forced()):
            for token_id in token_ids[: most - len(progress)]:
                pass_over(sequence.vocab_size, request.sampling, sequence.source)
                progress.append(sequence.accept(token_id, _certain(token_id, request)))
                if not sequence.is_alive:
                    break
    except Exception as error:  # of whatever kind: it ends one request and must not end the others
        progress.append(sequence.fail(error))
    return progress


def _certain(token_id: int, request: Request) -> TokenLogprob | None:
    if request.logprobs is None:
        return None
    return TokenLogprob(token_id, 0.0, ((token_id, 0.0),) if request.logprobs else ())
