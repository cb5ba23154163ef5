"""Guesses at the next tokens: who makes them for a sequence, and the forwards in which rows write ahead of it.

Guessed tokens are read along with the real one, on all branches, and then chosen one by one like any other: from the
guided distribution after the tokens before it, with the request's own random numbers. The first that is not what was
guessed makes the rest worthless, and it is forgotten. So with and without guesses the tokens are the same, greedy or
sampled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from counterpoint import formulas, guiding
from counterpoint.constraints.masks import unpacked
from counterpoint.engine.ahead import Ahead
from counterpoint.engine.constrained import can_force
from counterpoint.engine.feeding import MAX_CHUNK, feed
from counterpoint.engine.lookup import Lookup
from counterpoint.engine.reader import Reader
from counterpoint.engine.sequence import Sequence, as_wide
from counterpoint.models.model import Model
from counterpoint.models.rows import Rows
from counterpoint.sampling import draw, pass_over, processed


def new_drafter(
    sequence: Sequence, rows_of: Callable[[Model], Rows], *, model: Model | None, ahead: bool
) -> Lookup | Ahead | None:
    """What guesses for a new sequence: a draft model, its own rows that write ahead, or a look at its text.

    None where a suffix is read at each step or a row can't be rolled back, so that no guess can be tried.

    Args:
        rows_of: model -> its rows.
        model: the draft model, if there is one.
        ahead: whether the prompt's branch is to write ahead where others cost a forward of their own.
    """
    cond = sequence.readers[0]
    if cond.suffixes or not all(reader.rows.can_crop for reader in sequence.readers):
        return None
    if model is not None and any(reader.inputs is not None for reader in sequence.readers):
        return Lookup(sequence.request.prompt_ids)  # the draft model sees no pictures
    if model is not None:
        return _by_model(sequence, model, rows_of(model))
    own = [reader for reader in sequence.readers if reader is cond or reader.shares_forward(cond)]
    if not ahead or len(own) == len(sequence.readers):
        return Lookup(sequence.request.prompt_ids)
    kept = [i for i, (reader, _) in enumerate(sequence.predictions) if sequence.readers[reader] in own]
    predictions = [(own.index(sequence.readers[sequence.predictions[i][0]]), 0) for i in kept]
    return Ahead(
        own, predictions, [sequence.weights[i] for i in kept], sequence.source.clone_state(), sequence.processors
    )


def _by_model(sequence: Sequence, model: Model, rows: Rows) -> Ahead:
    """The sequence's contexts in rows of a draft model. A branch of a third model is left out of the guesses."""
    contexts, predictions, weights = [sequence.request.prompt_ids], [], []
    for branch in sequence.request.useful_branches:
        if branch.model is None:
            if branch.ids not in contexts:
                contexts.append(branch.ids)
            predictions.append((contexts.index(branch.ids), 0))
            weights.append(branch.weight)
    vocab_size = min(model.vocab_size, sequence.model.vocab_size)
    room = None if model.context_len is None else model.context_len - max(map(len, contexts))
    if max(map(max, contexts)) >= vocab_size:
        room = 0  # an id that is padding to the larger model and nothing to the smaller
    return Ahead(
        [Reader(rows, list(ids)) for ids in contexts],
        predictions,
        weights,
        sequence.source.clone_state(),
        sequence.processors,
        contexts=contexts,
        room=room,
        vocab_size=vocab_size,
    )


def write_ahead(counts: Mapping[Sequence, int]) -> dict[Sequence, Exception]:
    """Let the rows of these sequences' `Ahead`s guess so many tokens, and hand the guesses to the sequences.

    Each `Ahead` is in one of three states. It *reads* what its rows do not hold yet: all that read share one forward of
    their model. Then it *writes* one guess, which its rows read next. It is *done* when it has as many guesses as it is to
    make, or when no token is left to guess.

    Returns:
        The sequences whose forward failed. They get no guesses.
    """
    failed: dict[Sequence, Exception] = {}
    begun = {sequence: count for sequence in counts if (count := _count(sequence, counts[sequence])) > 0}
    for sequence in begun:
        sequence.drafter.catch_up(sequence.output_ids, sequence.source, sequence.processors, sequence.constraint)
    going_on = list(begun)
    while going_on:
        failed |= _read(going_on)
        going_on = [s for s in going_on if s not in failed and _write(s, begun[s])]
    for sequence in begun:
        if sequence not in failed:
            if sequence.drafter.is_own:
                sequence.drafter.hand_over()
            sequence.guess(sequence.drafter.guesses)
    return failed


def _count(sequence: Sequence, most: int) -> int:
    """How many tokens to guess."""
    drafter = sequence.drafter
    if drafter.is_own and len(drafter.readers) == len(sequence.readers):
        return 0  # the branches that cost a forward have been dropped
    return drafter.count(most if drafter.room is None else min(most, drafter.room - sequence.step))


def _read(sequences: list[Sequence]) -> dict[Sequence, Exception]:
    """Have all rows read what they do not hold yet. Returns the sequences whose forward failed."""
    owner = {reader: sequence for sequence in sequences for reader in sequence.drafter.readers}
    failed: dict[Reader, Exception] = {}
    while readers := [reader for reader in owner if reader.todo and reader not in failed]:
        failed |= feed([(reader, min(len(reader.todo), MAX_CHUNK)) for reader in readers])
    return {owner[reader]: error for reader, error in failed.items()}


def _write(sequence: Sequence, count: int) -> bool:
    """Guess one more token of `count`, where some are left. Returns whether there is more to read or to guess."""
    drafter = sequence.drafter
    drafter.look()
    if len(drafter.guesses) < count:
        try:
            drafter.write(_next(sequence))
        except Exception:  # where no token is left to guess, the sequence itself has to say what follows
            return False
    return not drafter.is_done(count)


def _next(sequence: Sequence) -> int:
    """Draw the next guess as the sequence would draw its token, if what writes ahead predicted like its branches."""
    request, drafter, state = sequence.request, sequence.drafter, sequence.drafter.constraint
    if state is not None and can_force(request) and (forced := state.forced()):
        pass_over(sequence.vocab_size, request.sampling, drafter.source)
        state.accept(forced[0])
        return forced[0]
    output_ids = [*sequence.output_ids, *drafter.guesses]
    like = torch.empty(sequence.model.vocab_size, device=sequence.model.device)
    logits = torch.stack([as_wide(like, row) for row in drafter.predicted()])
    logprobs = formulas.log_probs(logits)
    if state is not None:
        logprobs = formulas.conditioned(logits[None], unpacked([state], logits.shape[-1], logits))[0]
    guided = guiding.combined(logprobs[:1], logprobs[None, 1:], [drafter.weights], [sequence.guide], [len(output_ids)])[
        0
    ]
    scores = processed(
        guided,
        request.sampling,
        prompt_ids=request.prompt_ids,
        output_ids=output_ids,
        processors=drafter.processors,
    )
    token_id = draw(scores, request.sampling, drafter.source)
    if state is not None:
        state.accept(token_id)
    return token_id
