"""Options that several commands share, and what they are made into. No heavy import at the top."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import click

from counterpoint.errors import NoEffectWarning, PromptError, UsageError
from counterpoint.guide import Guide

if TYPE_CHECKING:
    from counterpoint.models.model import Model


class Number(click.ParamType):
    """A float whose range the library checks, so that there is one message for each mistake."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            return float(value)
        except ValueError:
            raise UsageError(f"{param.opts[0] if param else 'value'} is {value!r}; use a number") from None


class Bias(click.ParamType):
    """A token id and what is added to its score."""

    name = "id=number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, float]:
        if isinstance(value, tuple):
            return value
        token_id, _, number = value.partition("=")
        try:
            return int(token_id), float(number)
        except ValueError:
            raise UsageError(f"--logit-bias is {value!r}; write ID=NUMBER, as --logit-bias 50=-100") from None


NUMBER = Number()
BIAS = Bias()


def model_options(function: Callable) -> Callable:
    """--model, --dtype, --device, --trust-remote-code, --weights, --compile."""
    for option in reversed(
        [
            click.option("--model", default="bundled", show_default=True, help="'bundled', a folder, or a hub id."),
            click.option(
                "--dtype", default=None, help="float32, bfloat16 or float16; that of the weights if left out."
            ),
            click.option("--device", default=None, help="cpu, cuda, ...; CUDA where there is one if left out."),
            click.option("--trust-remote-code", is_flag=True, help="Run code that the model brings along."),
            click.option(
                "--weights", default=None, help="int8 rounds the weights to 8 bits (CPU); as they are if left out."
            ),
            click.option(
                "--compile/--no-compile",
                default=None,
                callback=lambda _ctx, _param, value: "auto" if value is None else value,
                help="Compile all steps, or nothing; what seems to pay if left out.",
            ),
        ]
    ):
        function = option(function)
    return function


def guide_options(function: Callable) -> Callable:
    """--negative and the fields of a guide."""
    for option in reversed(
        [
            click.option("--negative", default=None, help="What to move away from."),
            click.option("--negative-file", default=None, help="Read the negative from a file."),
            click.option("--scale", type=NUMBER, default=None, help="Guidance scale; 1 is unguided."),
            click.option("--space", default="log", show_default=True, help="log or prob."),
            click.option(
                "--plausibility", type=NUMBER, default=0.0, help="0 to 1; keep tokens this close to the best."
            ),
            click.option("--gate", type=NUMBER, default=0.0, help="Guide only where the entropy is this many nats."),
            click.option("--start", type=int, default=0, help="Guide from this generated token on."),
            click.option("--stop-guiding", "stop_at", type=int, default=None, help="Guide up to this generated token."),
            click.option("--adaptive", default=None, help="jsd: push in proportion to the branches' disagreement."),
        ]
    ):
        function = option(function)
    return function


def sampling_options(function: Callable) -> Callable:
    """How tokens are drawn, and how many."""
    for option in reversed(
        [
            click.option("--max-tokens", type=int, default=128, show_default=True),
            click.option("--temperature", type=NUMBER, default=1.0, show_default=True, help="0 is greedy."),
            click.option("--top-k", type=int, default=0, help="Keep the k best tokens; 0 is off."),
            click.option("--top-p", type=NUMBER, default=1.0, help="Keep the smallest set with this probability."),
            click.option("--min-p", type=NUMBER, default=0.0, help="Keep tokens with this share of the best one's."),
            click.option("--repetition-penalty", type=NUMBER, default=1.0, help="Above 1 discourages repetition."),
            click.option("--presence-penalty", type=NUMBER, default=0.0, help="Above 0 discourages what is written."),
            click.option(
                "--frequency-penalty", type=NUMBER, default=0.0, help="The same, for each time it is written."
            ),
            click.option(
                "--logit-bias",
                type=BIAS,
                multiple=True,
                callback=lambda _ctx, _param, pairs: dict(pairs),
                help="ID=NUMBER is added to a token's score; may be given several times.",
            ),
            click.option("--seed", type=int, default=None, help="Makes sampling repeatable."),
            click.option("--stop", multiple=True, help="A text that ends the output; may be given several times."),
            click.option("--ignore-eos", is_flag=True, help="Go on past the model's own end of a text."),
        ]
    ):
        function = option(function)
    return function


SAMPLING_NAMES = (
    "max_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "presence_penalty",
    "frequency_penalty", "logit_bias", "seed", "stop", "ignore_eos",
)  # fmt: skip


def guide_from(options: dict[str, Any], *, negative: Any = None) -> Guide | None:
    """The guide of `guide_options`; None where nothing asks for guidance."""
    fields = {
        "scale": options["scale"], "space": options["space"], "plausibility": options["plausibility"],
        "gate": options["gate"], "start": options["start"], "stop": options["stop_at"],
        "adaptive": options["adaptive"],
    }  # fmt: skip
    guide = Guide(**fields)
    return None if guide == Guide() and negative is None else guide


def open_model(options: dict[str, Any]) -> Model:
    """The model of `model_options`, loaded without chatter."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    import transformers

    from counterpoint.models.loading import load

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return load(
        options["model"],
        dtype=options["dtype"],
        device=options["device"],
        trust_remote_code=options["trust_remote_code"],
        compile=options["compile"],
        weights=options["weights"],
    )


def draft_options(function: Callable) -> Callable:
    """Tokens that are guessed, so that a text takes fewer steps; the tokens are the same."""
    model = click.option(
        "--draft-model", default=None, help="A smaller model that guesses; the text itself if left out."
    )
    tokens = click.option("--draft-tokens", type=int, default=0, help="Tokens to guess at each step; 0 is none.")
    return tokens(model(function))


def drafting(options: dict[str, Any]) -> dict[str, Any]:
    """The engine's arguments of `draft_options`."""
    name = options["draft_model"]
    smaller = None if name is None else open_model(options | {"model": name, "weights": None})
    return {"draft_tokens": options["draft_tokens"], "draft_model": smaller}


def read_text(value: str | None, path: str | None, *, name: str) -> str | None:
    """A context from the command line: a text, `-` for standard input, or a file.

    Raises:
        UsageError: both are given. PromptError: the file can't be read or is not UTF-8.
    """
    if path is None:
        if value != "-":
            return value
        data = sys.stdin.buffer.read()
    elif value is not None:
        raise UsageError(f"the {name} is given as a text and as the file {path!r}; keep one")
    else:
        try:
            with open(path, "rb") as file:
                data = file.read()
        except OSError as error:
            raise PromptError(f"the {name} file {path!r} can't be read: {error.strerror}") from None
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise PromptError(f"the {name} is not valid UTF-8 at byte {error.start}; convert it first") from None


@contextlib.contextmanager
def plain_warnings() -> Iterator[None]:
    """Warnings of ours as one line on standard error; those of libraries not at all."""

    def show(message, category, *_: object, **__: object) -> None:
        if issubclass(category, NoEffectWarning):
            print(f"counterpoint: warning: {message}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.simplefilter("always", NoEffectWarning)
        warnings.showwarning = show
        yield
