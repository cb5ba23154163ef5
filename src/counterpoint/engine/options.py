"""The options of generation: one typed list for every function that continues a prompt."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec, TypedDict, TypeVar, get_type_hints

from counterpoint.constraints import Constraint
from counterpoint.constraints.compiled import Compiled
from counterpoint.engine.request import Observation, Request
from counterpoint.engine.watching import OnAlarm, Watches
from counterpoint.errors import SamplingError, UsageError
from counterpoint.guide import Branch, Guide
from counterpoint.sampling import Processor, Sampling


class Options(TypedDict, total=False):
    """How a prompt is continued, the same for all prompts of a call. Defaults are those of `Sampling` and `Request`.

    Args:
        max_tokens: most tokens to generate, 1 or more; the model's context may end the text sooner.
        temperature: 0 or more; 0 is greedy, 1 the distribution as it is.
        top_k: keep the k most probable tokens; 0 is off.
        top_p: above 0, up to 1; keep the smallest set of tokens whose probability reaches it; 1 is off.
        min_p: 0 to 1; keep tokens with at least this share of the largest probability; 0 is off.
        repetition_penalty: above 0; above 1 makes tokens of the prompt and the output less likely; 1 is off.
        presence_penalty: subtracted once from the score of each token in the output.
        frequency_penalty: subtracted for each time that a token is in the output.
        logit_bias: token id to a number that is added to its score; -inf rules it out.
        stop: a text, or several, that end the output and are cut from it.
        stop_ids: token ids that end the output, besides the model's own.
        ignore_eos: go on past the model's own end tokens.
        n: how many samples of each prompt; with a seed, sample i uses seed + i.
        logprobs: report the guided log-probability of each token and those of this many best ones; None for neither.
        processors: functions (prompt ids, output ids, (V,) scores) -> (V,) scores, applied after the penalties; an
            object that remembers something is copied for each sample.
        observe: called at each step with the sample's number and an `Observation`.
        constraint: a form that every output keeps: one of `counterpoint.constraints`, compiled or not.
        loop: (longest period, repeats); an output ends once its last tokens are a passage of at most so many tokens,
            written so many times in a row. None never does.
        watch: a `counterpoint.Watch` that raises alarms while the text is written; None is none.
        on_alarm: "mark" reports alarms with the completion; "stop" ends the text at the first; "ease" goes back and
            writes on under a gentler guide.
        max_eases: how many times at most, 0 or more.
    """

    max_tokens: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    logit_bias: Mapping[int, float] | None
    stop: str | Sequence[str] | None
    stop_ids: Sequence[int]
    ignore_eos: bool
    n: int
    logprobs: int | None
    processors: Sequence[Processor]
    observe: Callable[[int, Observation], None] | None
    constraint: Constraint | Compiled | None
    loop: tuple[int, int] | None
    watch: Watches | None
    on_alarm: OnAlarm
    max_eases: int


class RequestOptions(Options, total=False):
    """`Options`, and what differs from prompt to prompt.

    Args:
        negative: a text, token ids or a context of `counterpoint.contexts`; the guide's scale pushes away from it.
        branches: several contexts with weights, instead of `negative`.
        guide: how predictions are combined. With a guide and neither negative nor branches, the other branch is the
            last prompt token (Sanchez et al. 2023). Without any of the three there is no guidance.
        seed: makes sampling repeatable; None is fresh entropy.
    """

    negative: Any
    branches: Sequence[Branch] | None
    guide: Guide | None
    seed: int | None


_SAMPLING = {field.name: field for field in dataclasses.fields(Sampling)}
_REQUEST = {field.name: field for field in dataclasses.fields(Request)}
_IN_REQUEST = {"n": "num_samples"}
#: What other libraries call it, and what to write here. Fields of a guide are found by themselves.
ELSEWHERE = {
    "guidance_scale": "guide=counterpoint.Guide(scale=...)",
    "cfg_scale": "guide=counterpoint.Guide(scale=...)",
    "guidance": "guide=counterpoint.Guide(scale=...)",
    "negative_prompt": "negative=...",
    "negative_prompt_ids": "negative=[ids]",
    "negative_messages": "counterpoint.contexts.chat(model, messages, negative=...) as the prompt",
    "messages": "counterpoint.contexts.chat(model, messages) as the prompt",
    "max_new_tokens": "max_tokens=...",
    "max_length": "max_tokens=...",
    "max_completion_tokens": "max_tokens=...",
    "do_sample": "temperature=0 for the most probable token at each step, a temperature above 0 to sample",
    "num_return_sequences": "n=...",
    "num_samples": "n=...",
    "best_of": "n=...",
    "stop_strings": "stop=...",
    "stop_sequences": "stop=...",
    "stopping_criteria": "stop=..., or stop_ids=...",
    "eos_token_id": "stop_ids=[...]",
    "stop_token_ids": "stop_ids=[...]",
    "logits_processor": "processors=[...]",
    "logits_processors": "processors=[...]",
    "top_logprobs": "logprobs=...",
    "streamer": "counterpoint.stream(model, prompt)",
    "stream": "counterpoint.stream(model, prompt)",
    "callback": "on_progress=...",
    "response_format": "constraint=counterpoint.constraints.Json(schema)",
    "guided_json": "constraint=counterpoint.constraints.Json(schema)",
    "json_schema": "constraint=counterpoint.constraints.Json(schema)",
    "guided_regex": "constraint=counterpoint.constraints.Regex(pattern)",
    "regex": "constraint=counterpoint.constraints.Regex(pattern)",
    "guided_choice": "constraint=counterpoint.constraints.Choices([...])",
    "choices": "constraint=counterpoint.constraints.Choices([...])",
    "guided_grammar": "constraint=counterpoint.constraints.Grammar(text)",
    "grammar": "constraint=counterpoint.constraints.Grammar(text)",
    "num_beams": "nothing: there are no beams here; n=... gives several samples",
}

P = ParamSpec("P")
R = TypeVar("R")


def default(name: str) -> Any:
    """What an option is where it is left out."""
    field = _SAMPLING.get(name) or _REQUEST.get(_IN_REQUEST.get(name, name))
    if field is None:
        return None
    made = field.default if field.default is not dataclasses.MISSING else field.default_factory()  # type: ignore[misc]
    return None if made in ({}, frozenset()) else made


def spelled_out(options: type) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Show the options that a function takes as `**options` in its signature and its help, and refuse other names.

    Args:
        options: `Options` or `RequestOptions`; the docstring's line that begins with "options:" becomes its text.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        own = inspect.signature(function)
        kept = [p for p in own.parameters.values() if p.kind is not p.VAR_KEYWORD]
        hints = get_type_hints(options)
        kept += [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default(name), annotation=hints[name])
            for name in hints
        ]
        known = [p.name for p in kept]
        num_positional = sum(p.kind is p.POSITIONAL_OR_KEYWORD for p in kept)

        @functools.wraps(function)
        def checked(*args: P.args, **kwargs: P.kwargs) -> R:
            for name in kwargs:
                if name not in known:
                    raise unknown_option(name, known, function.__name__)
            if len(args) > num_positional:
                raise UsageError(
                    f"{function.__name__} takes {' and '.join(known[:num_positional])} by position and "
                    f"{len(args)} are given; name the others, as negative=..."
                )
            return function(*args, **kwargs)

        checked.__signature__ = own.replace(parameters=kept)  # type: ignore[attr-defined]
        checked.__doc__ = _with_texts(function.__doc__ or "", options)
        return checked

    return decorate


def unknown_option(name: str, known: Sequence[str], function: str) -> UsageError:
    """The error for a keyword that a function does not have: with what it is called here, or the nearest name."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
    if name in ELSEWHERE:
        hint = f"use {ELSEWHERE[name]}"
    elif name in Guide.__dataclass_fields__:
        hint = f"it belongs to the guide: guide=counterpoint.Guide({name}=...)"
    elif near:
        hint = f"did you mean {near[0]}?"
    else:
        hint = f"known are {', '.join(known)}"
    return UsageError(f"{function} has no option {name!r}; {hint}", param=name)


def read_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `Request` that `Options` amount to.

    Raises:
        UsageError: a value is out of its range or of another kind.
    """
    fields = {_IN_REQUEST.get(name, name): value for name, value in options.items() if name not in _SAMPLING}
    sampling = {name: value for name, value in options.items() if name in _SAMPLING}
    bias = sampling.pop("logit_bias", None)
    if bias is not None and not isinstance(bias, Mapping):
        raise SamplingError(
            f"logit_bias is {bias!r:.60}; give token ids with numbers, as {{50: -1.0}}", param="logit_bias"
        )
    stop = fields.get("stop")
    fields["stop"] = (stop,) if isinstance(stop, str) else _listed("stop", stop, "a text or a list of texts")
    fields["stop_ids"] = frozenset(_listed("stop_ids", fields.get("stop_ids"), "a list of token ids"))
    fields["processors"] = _listed("processors", fields.get("processors"), "a list of functions")
    return {**fields, "sampling": Sampling(**sampling, logit_bias=dict(bias or {}))}


def _listed(name: str, value: Any, wanted: str) -> tuple[Any, ...]:
    if isinstance(value, (str, bytes, Mapping)):
        raise SamplingError(f"{name} is {value!r:.60}; give {wanted}", param=name)
    try:
        return () if value is None else tuple(value)
    except TypeError:
        raise SamplingError(f"{name} is {value!r:.60}; give {wanted}", param=name) from None


def _with_texts(doc: str, options: type) -> str:
    """The docstring with the texts of the options in place of its line "options: ..."."""
    texts = []
    for one in {RequestOptions: [RequestOptions, Options]}.get(options, [options]):  # a TypedDict has lost its bases
        entries = inspect.cleandoc(one.__doc__ or "").partition("Args:\n")[2].splitlines()
        texts += [line.removeprefix("    ") for line in entries]
    lines = []
    for line in doc.splitlines():
        if line.strip().startswith("options:"):
            indent = line[: len(line) - len(line.lstrip())]
            lines += [indent + text for text in texts]
        else:
            lines.append(line)
    return "\n".join(lines)
