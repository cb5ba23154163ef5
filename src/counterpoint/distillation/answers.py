"""Guided answers to learn from: several to each prompt, the best of those that keep the rules. Every answer is kept in a
store, so that a killed run writes nothing twice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from counterpoint.contexts import ReadBranch
from counterpoint.distillation.config import Writing
from counterpoint.distillation.dialogues import Dialogue
from counterpoint.distillation.reading import Contexts, Reading
from counterpoint.distillation.rules import Rule, keeps_all
from counterpoint.engine import Engine, Request
from counterpoint.engine.options import read_options
from counterpoint.errors import TooLongError, UsageError
from counterpoint.models.model import Model
from counterpoint.sampling import SEED_VERSION
from counterpoint.store import Store, key_of

CHUNK = 32  # prompts answered, and kept, together


@dataclass(frozen=True, slots=True)
class Answer:
    """One guided answer.

    Args:
        ids: its tokens, the end token included where the model ended it.
        text: as people read it.
        is_ended: whether the model ended it.
        logprob: guided log-probability in nats a token.
    """

    ids: tuple[int, ...]
    text: str
    is_ended: bool
    logprob: float


@dataclass(frozen=True, slots=True)
class Example:
    """An answer to learn from, and what is read before it.

    Args:
        reading: what teacher and student read.
        answer_ids: token ids of the answer, the only ones that carry a loss.
        weight: how much one of its tokens counts.
        is_kept: whether it is an ordinary text, on which the student shall predict what the model predicted before.
    """

    reading: Reading
    answer_ids: tuple[int, ...]
    weight: float = 1.0
    is_kept: bool = False


@dataclass(slots=True)
class Tally:
    """What became of the candidates: how many were written, kept no rule, and of how many turns none was kept."""

    written: int = 0
    rejected: int = 0
    turns: int = 0
    dropped: int = 0
    logprobs: list[float] = field(default_factory=list)


class Writer:
    """Writes the answers of one model. What it writes is a function of what it is asked for, chunk by chunk, whatever was
    written before: so a run that goes on after a kill has the same answers, bit for bit.

    Args:
        model: read without compiled steps, whose state would depend on what ran before.
        weights: a fingerprint of the model.
        say: takes lines of progress.
    """

    def __init__(
        self, model: Model, store: Store, *, weights: str, max_rows: int = 64, say: Callable[[str], None]
    ) -> None:
        self._model = uncompiled(model)
        self.store, self._weights, self._max_rows, self._say = store, weights, max_rows, say
        self._others: dict[Model, str] = {}  # fingerprints of models that read branches

    def write(self, requests: Sequence[Request], what: str) -> list[list[Answer]]:
        """All samples of all requests, in their order; `what` tells in progress lines what they are."""
        made: list[list[Answer]] = []
        for at in range(0, len(requests), CHUNK):
            chunk = requests[at : at + CHUNK]
            key = key_of("distilled", SEED_VERSION, self._weights, [self._facts(request) for request in chunk])
            found = self.store.get([key]).get(key)
            if found is None:
                done = Engine(self._model, max_rows=max(self._max_rows, _rows(chunk))).complete(chunk)
                found = [[_kept(one) for one in samples] for samples in done]
                self.store.put({key: found})
                self._say(f"{min(at + CHUNK, len(requests))} of {len(requests)} {what}")
            made += [[Answer(tuple(ids), text, ended, logprob) for ids, text, ended, logprob in one] for one in found]
        return made

    def _facts(self, request: Request) -> list[Any]:
        """What the answers to a request depend on, besides the weights, as JSON has it."""
        branches = [[one.ids, one.weight, one.is_suffix, self._name_of(one.model)] for one in request.branches]
        sampling = {name: getattr(request.sampling, name) for name in type(request.sampling).__slots__}
        sampling["logit_bias"] = sorted(request.sampling.logit_bias.items())
        ends: list[Any] = [request.max_tokens, request.min_tokens, request.ignore_eos, request.loop]
        ends += [list(request.stop), sorted(request.stop_ids)]
        prompt, guide = list(request.prompt_ids), request.guide.to_dict()
        return [prompt, branches, guide, sampling, ends, request.seed, request.num_samples]

    def _name_of(self, model: Model | None) -> str | None:
        if model is None:
            return None
        if model not in self._others:
            self._others[model] = model.fingerprint
        return self._others[model]


def uncompiled(model: Model) -> Model:
    """The model without compiled steps. One with something switched on, as a vector, has none."""
    if model.base is not model:
        return model
    return Model(model.hf, model.tokenizer, name=model.name, compile=False)


def write_examples(
    model: Model,
    writer: Writer,
    prompts: Sequence[Any],
    numbers: Sequence[int],
    contexts: Contexts,
    config: Writing,
    *,
    seed: int,
    rules: Sequence[Rule] = (),
    what: str = "answers",
) -> tuple[list[Example], list[Answer], Tally]:
    """An example for each turn of each prompt that has an answer good enough: turn by turn, since what is said later
    reads what was answered before. A conversation ends at a turn of which no candidate is good.

    Args:
        prompts: all of the run; `numbers` are those to answer. A prompt's seeds depend on its number alone.

    Raises:
        UsageError: a prompt can't be read.
    """
    examples: list[Example] = []
    chosen: list[Answer] = []
    tally = Tally()
    said = {number: list(getattr(prompts[number], "answers", ())) for number in numbers}
    turn, most = 0, max(_num_turns(prompt) for prompt in prompts)
    while any(_is_open(prompts[number], said[number]) for number in said):
        asked = [number for number in said if _is_open(prompts[number], said[number])]
        readings = [contexts.read(model, prompts[number], said[number]) for number in asked]
        seeds = [seed + (number * most + turn) * config.candidates for number in asked]
        requests = [request_of(reading, config, own) for reading, own in zip(readings, seeds)]
        for number, reading, answers in zip(asked, readings, writer.write(requests, what)):
            best = best_of(answers, rules)
            tally.turns += 1
            tally.written += len(answers)
            tally.rejected += sum(not keeps_all(rules, one.text, one.is_ended) for one in answers) if rules else 0
            if best is None:
                tally.dropped += 1
                del said[number]
                continue
            _check_fits(model, reading, best)
            tally.logprobs.append(best.logprob)
            examples.append(Example(reading, best.ids))
            chosen.append(best)
            said[number].append(best.text)
        turn += 1
    return examples, chosen, tally


def best_of(answers: Sequence[Answer], rules: Sequence[Rule]) -> Answer | None:
    """Of the answers that keep all rules and say something, the one with the highest guided log-probability a token; the
    first of equals; None where there is none."""
    good = [one for one in answers if one.text.strip() and (not rules or keeps_all(rules, one.text, one.is_ended))]
    return max(good, key=lambda one: one.logprob, default=None)


def facts_of(examples: Sequence[Example]) -> list[Any]:
    """What examples are, as JSON has it: equal where the same is learnt."""

    def told(branch: ReadBranch) -> list[Any]:
        other = None if branch.model is None else branch.model.fingerprint
        return [branch.ids, branch.weight, branch.is_suffix, other]

    facts = []
    for one in examples:
        reading = one.reading
        branches, guide = [told(branch) for branch in reading.branches], reading.guide.to_dict()
        facts.append([reading.student_ids, reading.prompt_ids, branches, guide, one.answer_ids, one.weight])
    return facts


def _check_fits(model: Model, reading: Reading, answer: Answer) -> None:
    """The engine keeps answers within the teacher's contexts; the student's may be longer."""
    length = len(reading.student_ids) + len(answer.ids) - 1  # the last token is predicted and not read
    if model.context_len is not None and length > model.context_len:
        raise TooLongError(
            f"what the student reads and an answer have {length} tokens and the context of {model.name} holds "
            f"{model.context_len}; shorten it"
        )


def _num_turns(prompt: Any) -> int:
    return len(prompt.turns) if isinstance(prompt, Dialogue) else 1


def _is_open(prompt: Any, said: Sequence[str]) -> bool:
    return len(said) < _num_turns(prompt)


def request_of(reading: Reading, config: Writing, seed: int) -> Request:
    """The request that writes the candidates of one answer."""
    return Request(
        prompt_ids=reading.prompt_ids,
        branches=reading.branches,
        guide=reading.guide,
        seed=seed,
        num_samples=config.candidates,
        logprobs=0,
        **read_options(config.sampling),
    )


def _rows(requests: Sequence[Request]) -> int:
    return max(1 + len(request.branches) for request in requests)


def _kept(done: Any) -> list[Any]:
    if done.text is None:
        raise UsageError("the model has no tokenizer, so its answers can't be read; give one", param="model")
    total = sum(token.logprob for token in done.logprobs)
    return [list(done.token_ids), done.text, done.finish_reason == "stop", total / max(1, len(done.token_ids))]
