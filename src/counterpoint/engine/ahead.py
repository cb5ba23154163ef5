"""Who guesses for a sequence, and the forwards in which rows write ahead of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from counterpoint import formulas, guiding
from counterpoint.constraints.masks import unpacked
from counterpoint.engine.constrained import can_force
from counterpoint.engine.drafting import Ahead, Lookup
from counterpoint.engine.feeding import MAX_CHUNK, feed
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
    """Let the rows of these sequences' `Ahead`s write so many tokens, all of a model in one forward, and hand these to
    the sequences as guesses. Returns the sequences whose forward failed."""
    failed: dict[Sequence, Exception] = {}
    left = {s: n for s in counts if (n := _room(s, counts[s])) > 0}
    begun = list(left)
    for sequence in begun:
        sequence.drafter.catch_up(sequence.output_ids, sequence.source, sequence.processors, sequence.constraint)
    while left:
        owner = {reader: sequence for sequence in left for reader in sequence.drafter.readers}
        for reader, error in _feed_whole(list(owner)).items():
            failed[owner[reader]] = error
            left.pop(owner[reader], None)
        for sequence, count in list(left.items()):
            drafter = sequence.drafter
            drafter.look()
            if len(drafter.guesses) < count:
                try:
                    drafter.write(_next(sequence))
                except Exception:  # where no token is left to guess, the sequence itself has to say what follows
                    del left[sequence]
                    continue
            # The rows of a draft model need not read their last guess; the sequence's own must.
            if len(drafter.guesses) == count and (not drafter.is_own or not drafter.readers[0].todo):
                del left[sequence]
    for sequence in begun:
        if sequence not in failed:
            if sequence.drafter.is_own:
                sequence.drafter.hand_over()
            sequence.guess(sequence.drafter.guesses)
    return failed


def _room(sequence: Sequence, most: int) -> int:
    drafter = sequence.drafter
    if drafter.is_own and len(drafter.readers) == len(sequence.readers):
        return 0  # the branches that cost a forward have been dropped
    return drafter.count(most if drafter.room is None else min(most, drafter.room - sequence.step))


def _feed_whole(readers: list[Reader]) -> dict[Reader, Exception]:
    failed: dict[Reader, Exception] = {}
    while readers := [reader for reader in readers if reader.todo and reader not in failed]:
        failed |= feed([(reader, min(len(reader.todo), MAX_CHUNK)) for reader in readers])
    return failed


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
