"""Steps that the conditional branch decides alone, so that branches which cost a forward of their own are not read.

A branch that was not read catches up later, several tokens in one forward; one that is dropped first, never. Rows that
share the conditional branch's forward are always read: that costs next to nothing.
"""

from __future__ import annotations

import torch

from counterpoint import formulas
from counterpoint.engine.constrained import allowed
from counterpoint.engine.reader import Reader
from counterpoint.engine.sequence import Sequence
from counterpoint.errors import ConstraintError

MOST_BEHIND = 256  # tokens that a branch may have to catch up with


def skippable(sequence: Sequence) -> list[Reader]:
    """The readers of a sequence that cost a forward of their own and can catch up."""
    request, cond = sequence.request, sequence.readers[0]
    if all(reader.shares_forward(cond) for reader in sequence.readers[1:]):
        return []
    reads_guesses = sequence.drafter is not None or sequence.given_next is not None
    is_seen = request.observe is not None or sequence.watched is not None
    if not sequence.output_ids or not cond.todo or reads_guesses or is_seen:
        return []
    return [
        reader
        for reader in sequence.readers[1:]
        if 0 < len(reader.todo) < MOST_BEHIND and reader.rows.can_crop and not reader.shares_forward(cond)
    ]


def decide(sequence: Sequence) -> bool:
    """Whether the next choice is the same without the further branches, and mark the sequence so.

    It is while the guide has not started; where a constraint leaves one token; under the gate, which leaves the conditional distribution; where one token
    is plausible, which leaves only that one; and as `formulas.is_settled` proves for greedy choice in prob space.
    """
    request, cond = sequence.request, sequence.readers[0]
    if cond.todo or not cond.logits:
        return False
    guide = sequence.guide
    if not guide.active(sequence.step):
        sequence.is_decided = True
        return True
    logits = cond.logits[0][None]
    if sequence.constraint is None:
        logprobs = formulas.log_probs(logits)
    else:
        try:
            left = allowed([sequence], logits)
        except ConstraintError:  # told where the token is chosen
            return False
        if int(left.sum()) == 1:
            sequence.is_decided = True
            return True
        logprobs = formulas.conditioned(logits[:, None], left)[:, 0]
    only_best = request.takes_best
    # A single plausible token is all that is left, unless it is ruled out itself: then the row is left as `cond`.
    only_pushes = guide.space == "log" and all(weight <= 0 for weight in sequence.weights)
    decided = bool(guide.gate) and bool(formulas.entropy(logprobs) < guide.gate)
    if not decided and guide.plausibility and (only_best or only_pushes):
        plausibility = torch.tensor([guide.plausibility], device=logprobs.device)
        decided = int((~formulas.implausible(logprobs, plausibility)).sum()) == 1
    if not decided and only_best and guide.space == "prob" and guide.adaptive is None:
        decided = bool(formulas.is_settled(logprobs, logprobs.new_tensor([sequence.weights])))
    sequence.is_decided = decided
    return decided
