"""The calls that most people need: `generate` and `stream`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from counterpoint.contexts import Built, read_request
from counterpoint.engine.loop import Engine
from counterpoint.engine.request import Completion, Observation, Progress, Request, TokenLogprob
from counterpoint.errors import PromptError, UsageError
from counterpoint.guide import Branch, Guide
from counterpoint.models.model import Model
from counterpoint.sampling import Processor, Sampling

Prompt = str | Sequence[int] | Built


class Piece(str):
    """A piece of streamed text that knows its token: `token_id`, `logprob`, and on the last piece `completion`."""

    token_id: int | None
    logprob: TokenLogprob | None
    completion: Completion | None


def prepare(
    model: Model,
    prompt: Prompt,
    *,
    negative: Any = None,
    branches: Sequence[Branch] | None = None,
    guide: Guide | None = None,
    max_tokens: int = 256,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    presence_penalty: float = 0.0,
    frequency_penalty: float = 0.0,
    logit_bias: Mapping[int, float] | None = None,
    stop: str | Sequence[str] = (),
    stop_ids: Sequence[int] = (),
    ignore_eos: bool = False,
    seed: int | None = None,
    n: int = 1,
    logprobs: int | None = None,
    processors: Sequence[Processor] = (),
    observe: Callable[[int, Observation], None] | None = None,
) -> Request:
    """Read one prompt and its branches into a `Request`.

    Args:
        prompt: a text or token ids, or what a builder of `counterpoint.contexts` made of both prompt and branches.
        negative: a text, token ids or a context of `counterpoint.contexts`; the guide's scale pushes away from it.
        branches: several contexts with weights, instead of `negative`.
        guide: how to combine predictions. With a guide and neither negative nor branches, the other branch is the
            last prompt token (Sanchez et al. 2023). Without any of the three there is no guidance.
        max_tokens: most tokens to generate, 1 or more.
        temperature, top_k, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty, logit_bias: see
            `Sampling`. Temperature 0 is greedy.
        stop: texts that end the output. stop_ids: token ids that do. ignore_eos: go on past the model's end.
        seed: sample i of n uses seed + i; None is fresh entropy.
        n: samples of the prompt.
        logprobs: report guided log-probabilities and this many best tokens a step.
        processors: functions of (prompt ids, output ids, scores) applied after the penalties; an object that remembers
            something is copied for each sample.
        observe: watch every step.

    Raises:
        UsageError: one of them is out of its range, in one line that says what to do.
    """
    if guide is not None and not isinstance(guide, Guide):
        raise UsageError(f"guide is {guide!r}; use counterpoint.Guide(scale=...)")
    prompt_ids, read, guide = read_request(model, prompt, negative=negative, branches=branches, guide=guide)
    return Request(
        prompt_ids=prompt_ids,
        branches=read,
        guide=guide or Guide(),
        sampling=Sampling(
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            presence_penalty=presence_penalty,
            frequency_penalty=frequency_penalty,
            logit_bias=dict(logit_bias or {}),
        ),
        max_tokens=max_tokens,
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        stop_ids=frozenset(stop_ids),
        ignore_eos=ignore_eos,
        seed=seed,
        num_samples=n,
        logprobs=logprobs,
        processors=tuple(processors),
        observe=observe,
    )


def generate(
    model: Model,
    prompt: Prompt | Sequence[Prompt],
    *,
    negative: Any = None,
    branches: Sequence[Branch] | Sequence[Sequence[Branch]] | None = None,
    guide: Guide | Sequence[Guide | None] | None = None,
    seed: int | Sequence[int | None] | None = None,
    max_rows: int = 256,
    draft_tokens: int = 0,
    draft_model: Model | None = None,
    draft_ahead: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
    **options: Any,
) -> Completion | list[Completion]:
    """Continue one prompt, or many in one batch.

    Args:
        prompt: a text or token ids; or a list of those.
        negative, branches, guide, seed: as in `prepare`; with a list of prompts, one for all or a list of that length.
        max_rows: most branches in one forward.
        draft_tokens, draft_model, draft_ahead: as in `Engine`; the tokens are the same, sooner where guesses come true.
        on_progress: called at each token.
        options: the other arguments of `prepare`, for all prompts.

    Returns:
        A completion; or a list, prompt by prompt and sample by sample, where there are several prompts or samples.

    Raises:
        UsageError: an argument is out of its range, or a list has another length than the prompts.
    """
    many = _is_many(prompt)
    prompts: list[Any] = list(prompt) if many else [prompt]
    if not prompts:
        raise PromptError("the list of prompts is empty; give at least one")
    columns = {
        "negative": _spread("negative", negative, prompts, many and _is_many(negative)),
        "branches": _spread("branches", branches, prompts, many and _is_nested(branches)),
        "guide": _spread("guide", guide, prompts, many and isinstance(guide, Sequence)),
        "seed": _spread("seed", seed, prompts, many and isinstance(seed, Sequence)),
    }
    requests = [
        prepare(model, one, **{name: values[i] for name, values in columns.items()}, **options)
        for i, one in enumerate(prompts)
    ]
    engine = Engine(
        model, max_rows=max_rows, draft_tokens=draft_tokens, draft_model=draft_model, draft_ahead=draft_ahead
    )
    ids = [engine.add(request) for request in requests]
    done: dict[tuple[int, int], Completion] = {}
    for progress in engine.run():
        if on_progress is not None:
            on_progress(progress)
        if progress.completion is not None:
            done[progress.request_id, progress.index] = progress.completion
    completions = [done[i, k] for i, request in zip(ids, requests) for k in range(request.num_samples)]
    return completions if many or len(completions) > 1 else completions[0]


def stream(
    model: Model,
    prompt: Prompt,
    *,
    draft_tokens: int = 0,
    draft_model: Model | None = None,
    draft_ahead: bool = False,
    **options: Any,
) -> Iterator[Piece]:
    """Continue one prompt and yield its text as it is written; together the pieces are the completion's text.

    Args:
        draft_tokens, draft_model, draft_ahead: as in `Engine`.
        options: the arguments of `prepare`, with n = 1.

    Raises:
        UsageError: an argument is out of its range; raised by this call, before the first piece.
    """
    request = prepare(model, prompt, **options)
    if request.num_samples != 1:
        raise UsageError(f"n is {request.num_samples}; a stream shows one sample, use generate for more")
    engine = Engine(model, draft_tokens=draft_tokens, draft_model=draft_model, draft_ahead=draft_ahead)
    engine.add(request)
    return _pieces(engine)


def _pieces(engine: Engine) -> Iterator[Piece]:
    for progress in engine.run():
        piece = Piece(progress.text)
        piece.token_id, piece.logprob, piece.completion = progress.token_id, progress.logprob, progress.completion
        yield piece


def _is_many(value: Any) -> bool:
    """Whether this is a list of prompts or contexts and not one of them."""
    return isinstance(value, (list, tuple)) and (not value or not isinstance(value[0], int))


def _is_nested(branches: Any) -> bool:
    return isinstance(branches, (list, tuple)) and bool(branches) and not isinstance(branches[0], Branch)


def _spread(name: str, value: Any, prompts: list[Any], is_list: bool) -> list[Any]:
    if not is_list:
        return [value] * len(prompts)
    if len(value) != len(prompts):
        raise UsageError(f"{name} has {len(value)} entries for {len(prompts)} prompts; give one for all or one each")
    return list(value)
