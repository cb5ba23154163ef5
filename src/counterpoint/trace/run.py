"""Generate and record."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, Unpack

from counterpoint.engine import Completion, Engine, Progress, Request, RequestOptions, prepare
from counterpoint.engine.generate import Prompt
from counterpoint.engine.options import spelled_out
from counterpoint.engine.text import TextStream
from counterpoint.errors import UsageError
from counterpoint.guide import Guide
from counterpoint.models.loading import as_model
from counterpoint.models.model import Model
from counterpoint.sampling import Sampling
from counterpoint.trace.labels import labeller
from counterpoint.trace.record import LIMITS, ArtefactLimits, Step, Trace, TracedBranch
from counterpoint.trace.recorder import NUM_ALTERNATIVES, Numbers, Recorder


@spelled_out(RequestOptions)
def record(
    model: Model | str,
    prompt: Prompt,
    *,
    num_alternatives: int = NUM_ALTERNATIVES,
    limits: ArtefactLimits = LIMITS,
    on_progress: Callable[[Progress], None] | None = None,
    **options: Unpack[RequestOptions],
) -> Trace:
    """Continue one prompt and keep what every step looked like.

    Args:
        model: what `counterpoint.load` gave, or a name for it.
        prompt: a text or token ids, or what a builder of `counterpoint.contexts` made of both prompt and branches.
        num_alternatives: alternatives to keep of each distribution.
        limits: what counts as an artefact.
        on_progress: called at each token.
        options: see `RequestOptions`, with n = 1.

    Raises:
        UsageError: an argument is out of its range.
    """
    model = as_model(model)
    request = prepare(model, prompt, **options)
    if request.num_samples != 1:
        raise UsageError(f"n is {request.num_samples}; record traces one sample, use record_all for more", param="n")
    return record_all(model, [request], num_alternatives=num_alternatives, limits=limits, on_progress=on_progress)[0][0]


@spelled_out(RequestOptions)
def record_unguided(
    model: Model | str, prompt: Prompt, *, limits: ArtefactLimits = LIMITS,
    on_progress: Callable[[Progress], None] | None = None, **options: Unpack[RequestOptions],
) -> Trace:  # fmt: skip
    """What the same request would write without guidance, from the same random numbers.

    Args:
        model, prompt, limits, on_progress: as in `record`.
        options: see `RequestOptions`, with n = 1.

    Raises:
        UsageError: an argument is out of its range.
    """
    model = as_model(model)
    request = dataclasses.replace(prepare(model, prompt, **options), branches=(), guide=Guide(scale=1.0))
    return record_all(model, [request], limits=limits, on_progress=on_progress)[0][0]


def record_all(
    model: Model,
    requests: Sequence[Request],
    *,
    num_alternatives: int = NUM_ALTERNATIVES,
    limits: ArtefactLimits = LIMITS,
    max_rows: int = 256,
    on_progress: Callable[[Progress], None] | None = None,
) -> list[list[Trace]]:
    """Run requests as one batch; returns, request by request, the traces of its samples. Arguments as in `record`."""
    recorders = [Recorder(request, num_alternatives=num_alternatives) for request in requests]
    watched = [dataclasses.replace(request, observe=watch) for request, watch in zip(requests, recorders)]
    done = Engine(model, max_rows=max_rows).complete(watched, on_progress=on_progress)
    label = labeller(model)
    return [
        [_trace(model, request, watch.steps[c.index], c, limits, label) for c in completions]
        for request, watch, completions in zip(requests, recorders, done)
    ]


def watched(
    model: Model, request: Request, *, num_alternatives: int = NUM_ALTERNATIVES, limits: ArtefactLimits = LIMITS
) -> tuple[Request, Callable[[Completion], Trace]]:
    """A request that is recorded while somebody else runs it, and what makes a trace of each completion of it.

    Args:
        num_alternatives, limits: as in `record`.
    """
    recorder = Recorder(request, num_alternatives=num_alternatives)

    def finish(completion: Completion) -> Trace:
        steps = recorder.steps[completion.index]
        return _trace(model, request, steps, completion, limits, labeller(model))

    return dataclasses.replace(request, observe=recorder), finish


def _trace(
    model: Model,
    request: Request,
    numbers: list[Numbers],
    completion: Completion,
    limits: ArtefactLimits,
    label: Callable[[int], str],
) -> Trace:
    texts = _texts(model, [n.token_id for n in numbers])
    branches = request.useful_branches
    names = ["negative"] if len(branches) == 1 else [f"branch {k}" for k in range(1, len(branches) + 1)]
    token_ids = {n.token_id for n in numbers} | {i for n in numbers for seen in n.seen for i, _ in seen.top}
    return Trace(
        model=model.name,
        prompt=_whole(model, request.prompt_ids),
        branches=tuple(TracedBranch(n, _whole(model, b.ids), b.weight) for n, b in zip(names, branches)),
        guide=request.guide,
        sampling=_given(request.sampling),
        seed=request.seed,
        sample=completion.index,
        limits=limits,
        labels={token_id: label(token_id) for token_id in sorted(token_ids)},
        steps=tuple(
            Step(
                index=index,
                token_id=n.token_id,
                text=text,
                guidance=n.guidance,
                artefact=limits.mark(n.seen[0]),
                entropy=n.entropy,
                shift=n.shift,
                divergence=n.divergence,
                cond=n.seen[0],
                branches=n.seen[1:-1],
                guided=n.seen[-1],
                kept=n.kept,
            )
            for index, (n, text) in enumerate(zip(numbers, texts))
        ),
        text=completion.text,
        finish_reason=completion.finish_reason,
    )


def _texts(model: Model, token_ids: list[int]) -> list[str]:
    """What each token adds to the text; a character of several tokens comes with the last of them."""
    if model.tokenizer is None:
        return [""] * len(token_ids)
    stream = TextStream(model.decode, ())
    texts = [stream.add(token_id) for token_id in token_ids]
    if texts:
        texts[-1] += stream.finish()
    return texts


def _whole(model: Model, ids: Sequence[int]) -> str | None:
    """The text of token ids with its special tokens."""
    if model.tokenizer is None:
        return None
    return model.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)


def _given(sampling: Sampling) -> dict[str, Any]:
    defaults = Sampling()
    given = {f.name: getattr(sampling, f.name) for f in dataclasses.fields(sampling)}
    # JSON has neither numbers as keys nor minus infinity.
    given["logit_bias"] = {str(i): None if math.isinf(bias) else bias for i, bias in sampling.logit_bias.items()}
    return {name: value for name, value in given.items() if value != getattr(defaults, name)}
