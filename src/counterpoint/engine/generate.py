"""The calls that most people need: `generate` and `stream`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from numbers import Integral
from typing import Any, Unpack

from counterpoint.constraints import Constraint
from counterpoint.contexts import BranchedPrompt, Inputs, Rendered, read_request
from counterpoint.contexts.reading import inputs_of
from counterpoint.engine.loop import Engine
from counterpoint.engine.options import Options, RequestOptions, read_options, spelled_out
from counterpoint.engine.request import Completion, Progress, Request, TokenLogprob
from counterpoint.errors import PromptError, UsageError
from counterpoint.guide import Branch, Guide
from counterpoint.models.loading import as_model
from counterpoint.models.model import Model

Prompt = str | Sequence[int] | Rendered | Inputs | BranchedPrompt


class Piece(str):
    """A piece of streamed text that knows its token: `token_id`, `logprob`, and on the last piece `completion`."""

    token_id: int | None
    logprob: TokenLogprob | None
    completion: Completion | None


@spelled_out(RequestOptions)
def prepare(model: Model | str, prompt: Prompt, **options: Unpack[RequestOptions]) -> Request:
    """Read one prompt and its branches into a `Request`.

    Args:
        model: what `counterpoint.load` gave, or a name for it.
        prompt: a text or token ids, or what a builder of `counterpoint.contexts` made of both prompt and branches.
        options: see `RequestOptions`.

    Raises:
        UsageError: one of them is out of its range, in one line that says what to do.
    """
    negative, branches, guide, seed = (options.pop(name, None) for name in ("negative", "branches", "guide", "seed"))
    if guide is not None and not isinstance(guide, Guide):
        raise UsageError(f"guide is {guide!r:.60}; use counterpoint.Guide(scale=...)", param="guide")
    model = as_model(model)
    if isinstance(options.get("constraint"), Constraint):
        options["constraint"] = options["constraint"].compile(model)
    prompt_ids, read, guide = read_request(
        model, prompt, negative=negative, branches=branches, guide=guide, takes_inputs=True
    )
    return Request(
        prompt_ids=prompt_ids,
        inputs=inputs_of(prompt),
        branches=read,
        guide=guide or Guide(),
        seed=seed,
        **read_options(options),
    )


@spelled_out(Options)
def generate(
    model: Model | str,
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
    repeatable: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
    **options: Unpack[Options],
) -> Completion | list[Completion]:
    """Continue one prompt, or many in one batch.

    Args:
        model: what `counterpoint.load` gave, or a name for it; the last model that was named stays in memory.
        prompt: a text or token ids; or a list of those; or what a builder of `counterpoint.contexts` made.
        negative: a text, token ids or a context of `counterpoint.contexts`; the guide's scale pushes away from it.
            With a list of prompts negative, branches, guide and seed are one for all, or a list of that length.
        branches: several contexts with weights, instead of `negative`.
        guide: how predictions are combined. With a guide and neither negative nor branches, the other branch is the
            last prompt token (Sanchez et al. 2023). Without any of the three there is no guidance.
        seed: makes sampling repeatable; sample i of n uses seed + i; None is fresh entropy.
        options: see `Options`.
        max_rows: most branches in one forward.
        draft_tokens, draft_model, draft_ahead: as in `Engine`; the tokens are the same, sooner where guesses come true.
        repeatable: as in `Engine`: in every precision the tokens are the same to the bit, alone and in any batch.
        on_progress: called at each token.

    Returns:
        A completion; or a list, prompt by prompt and sample by sample, where there are several prompts or samples.

    Raises:
        UsageError: an argument is out of its range, or a list has another length than the prompts.
    """
    model = as_model(model)
    many = _is_many(prompt)
    prompts: list[Any] = list(prompt) if many else [prompt]
    if not prompts:
        raise PromptError("the list of prompts is empty; give at least one", param="prompt")
    if not many and _is_many(negative) and len(negative):
        raise UsageError(
            f"negative is a list of {len(negative)} and there is one prompt; give one text, or token ids",
            param="negative",
        )
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
        model,
        max_rows=max_rows,
        draft_tokens=draft_tokens,
        draft_model=draft_model,
        draft_ahead=draft_ahead,
        repeatable=repeatable,
    )
    completions = [sample for samples in engine.complete(requests, on_progress=on_progress) for sample in samples]
    return completions if many or len(completions) > 1 else completions[0]


@spelled_out(RequestOptions)
def stream(
    model: Model | str,
    prompt: Prompt,
    *,
    draft_tokens: int = 0,
    draft_model: Model | None = None,
    draft_ahead: bool = False,
    repeatable: bool = False,
    **options: Unpack[RequestOptions],
) -> Iterator[Piece]:
    """Continue one prompt and yield its text as it is written; together the pieces are the completion's text.

    Args:
        model: what `counterpoint.load` gave, or a name for it; the last model that was named stays in memory.
        prompt: a text or token ids, or what a builder of `counterpoint.contexts` made of both prompt and branches.
        options: see `RequestOptions`, with n = 1.
        draft_tokens, draft_model, draft_ahead, repeatable: as in `Engine`.

    Raises:
        UsageError: an argument is out of its range; raised by this call, before the first piece.
    """
    model = as_model(model)
    request = prepare(model, prompt, **options)
    if request.num_samples != 1:
        raise UsageError(f"n is {request.num_samples}; a stream shows one sample, use generate for more", param="n")
    engine = Engine(
        model, draft_tokens=draft_tokens, draft_model=draft_model, draft_ahead=draft_ahead, repeatable=repeatable
    )
    engine.add(request)
    return _pieces(engine)


def _pieces(engine: Engine) -> Iterator[Piece]:
    for progress in engine.run():
        piece = Piece(progress.text)
        piece.token_id, piece.logprob, piece.completion = progress.token_id, progress.logprob, progress.completion
        yield piece


def _is_many(value: Any) -> bool:
    """Whether this is a list of prompts or contexts and not one of them: token ids, or messages by mistake."""
    return isinstance(value, (list, tuple)) and (not value or not isinstance(value[0], (Integral, Mapping)))


def _is_nested(branches: Any) -> bool:
    return isinstance(branches, (list, tuple)) and bool(branches) and not isinstance(branches[0], Branch)


def _spread(name: str, value: Any, prompts: list[Any], is_list: bool) -> list[Any]:
    if not is_list:
        return [value] * len(prompts)
    if len(value) != len(prompts):
        raise UsageError(
            f"{name} has {len(value)} entries for {len(prompts)} prompts; give one for all or one each", param=name
        )
    return list(value)
