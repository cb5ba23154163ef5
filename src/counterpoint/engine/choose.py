"""From the branches' predictions of many sequences to one token each."""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from counterpoint import formulas, guiding
from counterpoint.engine.constrained import allowed, append_forced
from counterpoint.engine.request import Observation, Progress, TokenLogprob
from counterpoint.engine.scores import Scores, drawn
from counterpoint.engine.sequence import Sequence
from counterpoint.engine.watching import Numbers, measure
from counterpoint.errors import Failure, NothingLeftError
from counterpoint.sampling import NEG_INF, draw, processed


class _Way(NamedTuple):
    """What sequences have in common whose tokens are chosen together."""

    applied: bool  # guidance changes the distribution
    constrained: bool
    num_branches: int
    choice: Literal["best", "draw", "each"]  # "each": one by one, since more than the token is asked for
    from_logits: bool  # log-probabilities would give the same choice


def choose(sequences: list[Sequence], most_forced: int) -> list[Progress]:
    """Choose the next token of every sequence and append it, and those that a constraint leaves no choice of after it.
    Sequences whose guides work alike go together.

    Args:
        most_forced: how many tokens without a choice a sequence appends at once; the rest follow at its next choice.
    """
    progress: list[Progress] = []
    alike: dict[_Way, list[Sequence]] = defaultdict(list)
    for sequence in sequences:
        sequence.vocab_size = sequence.readers[0].logits[0].shape[-1]
        forced = append_forced(sequence, most_forced)
        progress += _told(sequence, forced)
        if not forced:
            alike[_way(sequence)].append(sequence)
    chosen: dict[Sequence, Progress] = {}
    for way, group in alike.items():
        chosen.update(_choose_alike(group, way))
    for sequence in sequences:
        if sequence in chosen:
            progress += _told(sequence, [chosen[sequence], *append_forced(sequence, most_forced)])
    return progress


def is_costly(sequence: Sequence) -> bool:
    """Whether its choice takes a time of its own, and is not made for many sequences at once."""
    return sequence.constraint is not None or _is_single(sequence)


def _told(sequence: Sequence, progress: list[Progress]) -> list[Progress]:
    """What can be told of a sequence now: a text that may still go back is held back so far."""
    if sequence.watched is None or not sequence.watched.delay:
        return progress
    first = sequence.step - len(progress)
    return [told for step, one in enumerate(progress, first) for told in sequence.watched.released(step, one)]


def _choose_alike(group: list[Sequence], way: _Way) -> dict[Sequence, Progress]:
    try:
        left = allowed(group, group[0].readers[0].logits[0]) if way.constrained else None
        token_ids = None
        if way.from_logits:
            weighed = Scores(group, applied=way.applied, left=left)
            if -1 in weighed.best:
                return _some_by_formula(group, way, weighed.best)
            token_ids, written = weighed.best if way.choice == "best" else weighed.drawn(group), weighed.written
        else:
            cond, others, scores = _guided(group, way, left)
            if way.choice != "each":
                token_ids = scores.argmax(-1).tolist() if way.choice == "best" else drawn(group, scores)
                written = lambda: scores  # noqa: E731
        masses = None if left is None else _masses(group, left)
        numbers = None if token_ids is None else _measured(group, written, token_ids)
    except Exception as error:  # of whatever kind: it ends one request and must not end the others
        if len(group) == 1:
            return {group[0]: group[0].fail(error)}
        return {sequence: p for one in group for sequence, p in _choose_alike([one], way).items()}
    progress: dict[Sequence, Progress] = {}
    for i, sequence in enumerate(group):
        try:
            if masses is not None and masses[i] is not None:
                sequence.note_mass(masses[i])
            if token_ids is None:
                made = _one(sequence, cond[i], others[i], scores[i], way.applied)
            elif numbers is not None and sequence in numbers and sequence.hear(token_ids[i], numbers[sequence]):
                made = None
            else:
                made = sequence.accept(token_ids[i], None)
            if made is not None:
                progress[sequence] = made
        except Exception as error:  # a processor, an observer or the tokenizer
            progress[sequence] = sequence.fail(error)
    return progress


def _some_by_formula(group: list[Sequence], way: _Way, best: list[int]) -> dict[Sequence, Progress]:
    """Those without a best token are chosen for by the formula, and the others as they would be without them."""
    rest = [sequence for sequence, token_id in zip(group, best) if token_id >= 0]
    failed = [sequence for sequence, token_id in zip(group, best) if token_id < 0]
    progress = _choose_alike(failed, way._replace(from_logits=False))
    return progress | (_choose_alike(rest, way) if rest else {})


def _is_single(sequence: Sequence) -> bool:
    """Whether more than the token is asked for, or something of its own decides: such sequences choose one by one."""
    request = sequence.request
    is_watched = request.logprobs is not None or request.observe is not None or len(sequence.processors)
    return bool(is_watched or request.sampling.changes_order or sequence.given_next is not None)


def _way(sequence: Sequence) -> _Way:
    guide, sampling = sequence.guide, sequence.request.sampling
    each = _is_single(sequence)
    is_refined = guide.gate or guide.adaptive
    return _Way(
        applied=guiding.applies(guide, sequence.needed_weights, sequence.step),
        constrained=sequence.constraint is not None,
        num_branches=len(sequence.needed),
        choice="each" if each else "best" if sampling.greedy else "draw",
        from_logits=not each and guide.space == "log" and not is_refined,
    )


def _masses(group: list[Sequence], left: Tensor) -> list[float | None]:
    """What the prompt's branches give to the tokens that are left; None where that is one."""
    masses = formulas.mass(torch.stack([sequence.readers[0].logits[0] for sequence in group]), left).tolist()
    return [mass if count > 1 else None for mass, count in zip(masses, left.sum(-1).tolist())]


def _measured(
    group: list[Sequence], written: Callable[[], Tensor], token_ids: list[int]
) -> dict[Sequence, Numbers] | None:
    """The numbers of the step of those that are watched."""
    watched = [i for i, sequence in enumerate(group) if sequence.watched is not None]
    if not watched:
        return None
    logits = torch.stack([torch.stack(group[i].predicted()) for i in watched])
    scores = written() if len(watched) == len(group) else written()[watched]
    numbers = measure(logits, scores, [token_ids[i] for i in watched])
    for at, i in enumerate(watched):
        if group[i].readers[0].head is not None:
            numbers[at] = dataclasses.replace(numbers[at], hidden=group[i].readers[0].logits[0].hidden)
    return dict(zip([group[i] for i in watched], numbers))


def _guided(group: list[Sequence], way: _Way, left: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    logits = torch.stack([row for sequence in group for row in sequence.predicted()])
    check_finite(logits, len(logits) // len(group))
    logits = logits.view(len(group), -1, logits.shape[-1])  # (B, 1 + K, V)
    logprobs = formulas.log_probs(logits) if left is None else formulas.conditioned(logits, left)
    if left is not None and bool((logprobs[:, 0].amax(-1) == NEG_INF).any()):
        raise NothingLeftError(
            f"no token is left to choose after {group[0].step} generated ones: the model rules out every token that the "
            "constraint allows; loosen it"
        )
    cond, others = logprobs[:, 0], logprobs[:, 1:]
    if not way.applied:
        return cond, others, cond
    guided = guiding.combined(
        cond,
        others,
        [sequence.needed_weights for sequence in group],
        [sequence.guide for sequence in group],
        [sequence.step for sequence in group],
    )
    return cond, others, guided


def check_finite(logits: Tensor, num_branches: int) -> None:
    """Raise where a model predicts nothing that a token could be chosen by. (R, V), the branches of a request in turn."""
    best = logits.amax(-1).tolist()
    for row, most in enumerate(best):
        if not math.isfinite(most):
            branch = "the prompt" if row % num_branches == 0 else f"branch {row % num_branches}"
            kind = "NaN" if math.isnan(most) else "infinite" if most > 0 else "all -inf"
            raise Failure(
                f"the model's logits after {branch} are {kind}, so no token can be chosen; load it in float32 or "
                "bfloat16, or check its weights"
            )


def _one(sequence: Sequence, cond: Tensor, others: Tensor, guided: Tensor, applied: bool) -> Progress | None:
    """Choose one token by itself; None where an alarm has the text go back instead."""
    request, sampling = sequence.request, sequence.request.sampling
    seen = {"prompt_ids": request.prompt_ids, "output_ids": sequence.output_ids}
    decided = guided
    spare = sequence.processors.fork() if applied and guided.amin() == NEG_INF else None
    try:
        scores = processed(guided, sampling, **seen, processors=sequence.processors)
    except NothingLeftError:  # of what the processors leave, guidance left nothing: the prompt decides
        if spare is None:
            raise
        sequence.processors = spare
        scores = processed(cond, sampling, **seen, processors=spare)
        decided = cond
    given = sequence.given_next
    token_id = draw(scores, sampling, sequence.source) if given is None else given
    if (numbers := _measured([sequence], lambda: guided[None], [token_id])) and sequence.hear(
        token_id, numbers[sequence]
    ):
        return None
    if request.observe is not None:
        request.observe(sequence.index, Observation(sequence.step, token_id, cond, others, guided, applied))
    logprob = None if request.logprobs is None else _logprob(decided, token_id, request.logprobs)
    return sequence.accept(token_id, logprob)


def _logprob(decided: Tensor, token_id: int, num_top: int) -> TokenLogprob:
    """What is reported of a step, from the distribution (V,) that decided; what it rules out is no alternative."""
    best = decided.topk(min(num_top, decided.shape[-1]))
    top = tuple((i, value) for i, value in zip(best.indices.tolist(), best.values.tolist()) if value != NEG_INF)
    return TokenLogprob(token_id, float(decided[token_id]), top)
