"""What the harness hands over: arguments of a model and of generations, read and checked."""

from __future__ import annotations

import difflib
import inspect
from typing import Any

from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import normalize_gen_kwargs

from counterpoint.errors import SamplingError, UsageError

SAMPLING_KEYS = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
#: what changes the numbers of `hf` and can't change guided ones, which are float32 from the weights' own dtype
HF_ONLY = ("softmax_dtype", "mixed_precision_dtype", "truncation")
_MORE_OPTIONS = ("attn_implementation",)


def check_options(options: dict[str, Any], *, own: type) -> None:
    """Refuse an argument that neither the model class `own` nor the harness' `hf` model has.

    Raises:
        UsageError: it names the argument.
    """
    known = [*inspect.signature(HFLM.__init__).parameters, *_MORE_OPTIONS]
    names = [name for name in inspect.signature(own.__init__).parameters if name not in ("self", "options")]
    for name in options:
        if name not in known:
            close = difflib.get_close_matches(name, [*names, *known], n=1)
            raise UsageError(
                f"unknown model argument {name!r}; "
                + (f"did you mean {close[0]!r}?" if close else f"its own are {', '.join(names)}")
            )


def check_effects(options: dict[str, Any], *, compile: Any, is_unguided: bool) -> None:
    """Refuse an argument that could have no effect.

    Raises:
        UsageError: it names the argument.
    """
    if is_unguided and compile is True:
        raise UsageError("compile is for guided steps, and scale=1 is the harness' own code; leave it out")
    for name in HF_ONLY:
        if options.get(name) and not is_unguided:
            raise UsageError(f"{name}={options[name]} has no effect on guided results; leave it out, or use scale=1")


def sampling_arguments(given: dict[str, Any], max_gen_toks: int) -> dict[str, Any]:
    """The sampling arguments of `counterpoint.generate` from the harness' generation arguments.

    Args:
        max_gen_toks: tokens to write where nothing is said.

    Raises:
        SamplingError: an argument is not known.
    """
    wanted = normalize_gen_kwargs(given, max_gen_toks)
    arguments: dict[str, Any] = {"max_tokens": wanted.pop("max_gen_toks"), "stop": tuple(wanted.pop("until", ()))}
    is_sampled = wanted.pop("do_sample")
    for key in SAMPLING_KEYS:
        if key in wanted:
            arguments[key] = wanted.pop(key)
    if not is_sampled:
        arguments["temperature"] = 0.0
    if wanted:
        raise SamplingError(
            f"generation argument {min(wanted)!r} is not known; known are do_sample, until, max_gen_toks, "
            f"{', '.join(SAMPLING_KEYS)}"
        )
    return arguments
