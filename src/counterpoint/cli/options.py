"""Groups of options that several commands share, and what they are made into. No heavy import at the top."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import click

from counterpoint.cli.command import OptionGroup, Options
from counterpoint.cli.kinds import FILE, NUMBER, OUTPUT, Count, Pair
from counterpoint.cli.record import STDIN
from counterpoint.errors import NoEffectWarning, PromptError, UsageError
from counterpoint.guide import DEFAULT_SCALE, Guide, weighty

if TYPE_CHECKING:
    from counterpoint.models.model import Model
    from counterpoint.vectors import Vector


def option(*names: str, **settings: Any) -> click.Option:
    """An option of a group. A default that is worth knowing is shown."""
    default = settings.get("default")
    settings.setdefault("show_default", default not in (None, False, (), []))
    return click.Option(names, **settings)


def _check_model(options: Options) -> None:
    from counterpoint.models.names import check_dtype, check_name, check_weights

    for name in ("model", "draft_model", "contrast"):
        if options.get(name) is not None:
            check_name(options[name])
    check_dtype(options["dtype"])
    check_weights(options["weights"])


def model_group(default: str = "bundled") -> OptionGroup:
    """Which model, and how it is loaded."""
    options = (
        option("--model", default=default, metavar="NAME", help="'bundled', 'smollm2', a folder, a file, or a hub id."),
        option("--dtype", default=None, metavar="[float32|bfloat16|float16]", help="That of the weights if left out."),
        option("--device", default=None, metavar="[cpu|cuda|...]", help="CUDA where there is one if left out."),
        option(
            "--weights",
            default=None,
            metavar="[int8|int4]",
            help="Round the weights to 8 bits, or keep a GGUF file's 4-bit ones (CPU).",
        ),  # fmt: skip
        option(
            "--compile/--no-compile",
            default=None,
            callback=lambda _ctx, _param, value: "auto" if value is None else value,
            help="Compile all steps, or nothing; what seems to pay if left out.",
        ),
        option("--trust-remote-code", is_flag=True, help="Run code that the model brings along."),
    )
    return OptionGroup("Model", options, _check_model)


MODEL = model_group()


def _check_vector(options: Options) -> None:
    if options["vector_strength"] is not None and options["vector"] is None:
        raise UsageError("--vector-strength needs --vector FILE")
    if options["vector_strength"] is not None:
        weighty("--vector-strength", options["vector_strength"])


VECTOR = OptionGroup(
    "A control vector",
    (
        option("--vector", type=FILE, default=None, help="Add this vector to the model's states: .safetensors, .gguf."),
        option(
            "--vector-strength",
            type=NUMBER,
            default=None,
            help="Times the vector; negative for the opposite.  [default: 1]",
        ),
    ),
    _check_vector,
)


GUIDE = OptionGroup(
    "Guidance",
    (
        option(
            "--scale", type=NUMBER, default=None, help=f"1 is unguided.  [default: {DEFAULT_SCALE}, with a negative]"
        ),
        option("--space", default="log", metavar="[log|prob]", help="Where predictions are combined."),
        option(
            "--plausibility", type=NUMBER, default=0.0, help="0 to 1: keep tokens this close to the best; 0 is off."
        ),
        option("--gate", type=NUMBER, default=0.0, help="Guide only where the entropy is this many nats; 0 is off."),
        option("--start", type=Count(0), default=0, help="Guide from this generated token on."),
        option("--stop-guiding", "stop_at", type=Count(0), default=None, help="Guide up to this generated token."),
        option("--adaptive", default=None, metavar="[jsd]", help="Push in proportion to the branches' disagreement."),
    ),
    lambda options: guide_from(options),
)


def _check_sampling(options: Options) -> None:
    given = {name: options[name] for name in SAMPLING_NAMES if options.get(name) is not None}
    plain = {param.name: param.default for param in SAMPLING.options}
    if all(value == plain.get(name) or value == () or value == {} for name, value in given.items()):
        return  # nothing to check, and so nothing to import
    from counterpoint.engine.options import read_options
    from counterpoint.engine.request import Request

    Request(prompt_ids=(0,), seed=options.get("seed"), **read_options({k: v for k, v in given.items() if k != "seed"}))


def _biases(_ctx: click.Context, _param: click.Parameter, pairs: tuple[str, ...]) -> dict[int, float]:
    try:
        return {int(pair.partition("=")[0]): float(pair.partition("=")[2]) for pair in pairs}
    except ValueError:
        raise UsageError("--logit-bias takes a whole number before the equals sign, as 50=-100") from None


def sampling_group(max_tokens: int = 128, temperature: float = 1.0) -> OptionGroup:
    """How tokens are drawn, and how many."""
    options = (
        option("--max-tokens", type=Count(1), default=max_tokens, help="Most tokens to write."),
        option("--temperature", type=NUMBER, default=temperature, help="0 is greedy."),
        option("--top-k", type=Count(0), default=0, help="Keep the k best tokens; 0 is off."),
        option("--top-p", type=NUMBER, default=1.0, help="Keep the smallest set with this probability; 1 is off."),
        option("--min-p", type=NUMBER, default=0.0, help="Keep tokens with this share of the best one's; 0 is off."),
        option("--repetition-penalty", type=NUMBER, default=1.0, help="Above 1 discourages repetition; 1 is off."),
        option("--presence-penalty", type=NUMBER, default=0.0, help="Above 0 discourages what is written already."),
        option("--frequency-penalty", type=NUMBER, default=0.0, help="The same, for each time that it is written."),
        option(
            "--logit-bias", type=Pair("ID", "NUMBER", number="NUMBER", example="50=-100"), multiple=True,
            callback=_biases, help="Added to the score of a token; may be given several times.",
        ),
        option("--seed", type=Count(0), default=None, help="Makes sampling repeatable."),
        option("--stop", multiple=True, metavar="TEXT", help="Ends the output; may be given several times."),
        option("--ignore-eos", is_flag=True, help="Go on past the model's own end of a text."),
    )  # fmt: skip
    return OptionGroup("Sampling", options, _check_sampling)


SAMPLING = sampling_group()

SAMPLING_NAMES = (
    "max_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "presence_penalty",
    "frequency_penalty", "logit_bias", "seed", "stop", "ignore_eos",
)  # fmt: skip


def _check_drafting(options: Options) -> None:
    if options["draft_model"] is not None and not options["draft_tokens"]:
        raise UsageError("--draft-model needs --draft-tokens, the number of tokens to guess at each step; 4, say")


DRAFTING = OptionGroup(
    "Guessing ahead: the same tokens, sooner",
    (
        option("--draft-tokens", type=Count(0), default=0, help="Tokens to guess at each step; 0 is none."),
        option(
            "--draft-model", default=None, metavar="NAME", help="A smaller model that guesses; else the text itself."
        ),
    ),
    _check_drafting,
)

PRESETS = OptionGroup(
    "Presets and records",
    (
        option("--preset", default=None, metavar="NAME", help="Defaults under one name; what you type yourself wins."),
        option("--presets", type=FILE, default=None, help="A TOML file of presets, besides those that ship."),
        option(
            "--log", type=OUTPUT, default=None, help="Append what was asked; `counterpoint again FILE` makes it again."
        ),
    ),
)


def guide_from(options: Options, *, negative: Any = None) -> Guide | None:
    """The guide of `GUIDE`; None where nothing asks for guidance."""
    guide = Guide(
        scale=options["scale"],
        space=options["space"],
        plausibility=options["plausibility"],
        gate=options["gate"],
        start=options["start"],
        stop=options["stop_at"],
        adaptive=options["adaptive"],
    )
    return None if guide == Guide() and negative is None else guide


def sampling_from(options: Options) -> dict[str, Any]:
    """The arguments of `SAMPLING`, for `generate` and its like."""
    return {name: options[name] for name in SAMPLING_NAMES}


def open_model(options: Options) -> Model:
    """The model of `MODEL`, loaded without chatter, with the vector of `VECTOR` where a command has that group."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    import transformers

    from counterpoint.models.loading import load

    transformers.logging.set_verbosity_error()
    path, strength = options.get("vector"), options.get("vector_strength")
    vector = None if path is None else read_vector(path)
    model = load(
        options["model"],
        dtype=options["dtype"],
        device=options["device"],
        trust_remote_code=options["trust_remote_code"],
        compile=options["compile"],
        weights=options["weights"],
    )
    return model if vector is None else model.with_vector(vector, 1.0 if strength is None else strength)


def read_vector(path: str) -> Vector:
    """A vector's file."""
    from counterpoint.vectors import Vector

    return Vector.load(path)


def drafting(options: Options) -> dict[str, Any]:
    """The engine's arguments of `DRAFTING`."""
    name = options["draft_model"]
    smaller = None if name is None else open_model(options | {"model": name, "weights": None, "vector": None})
    return {"draft_tokens": options["draft_tokens"], "draft_model": smaller}


def read_text(value: str | None, path: str | None, *, name: str) -> str | None:
    """A context from the command line: a text, `-` for standard input, or a file.

    Raises:
        UsageError: both are given. PromptError: the file can't be read or is not UTF-8.
    """
    if path is None:
        if value != "-":
            return value
        data = _standard_input(name)
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


def _standard_input(name: str) -> bytes:
    ctx = click.get_current_context(silent=True)
    data = sys.stdin.buffer.read()
    if ctx is not None:
        if STDIN in ctx.meta:
            raise UsageError(f"standard input was read already, and the {name} is - too; give one of them as a file")
        ctx.meta[STDIN] = data.decode("utf-8", "replace")
    return data


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


@contextlib.contextmanager
def needs(extra: str) -> Iterator[None]:
    """Imports that an extra brings. Raises `UsageError` where it is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("counterpoint"):
            raise
        raise UsageError(
            f"this needs {error.name.partition('.')[0]}; in a clone of Counterpoint: pip install '.[{extra}]'"
        ) from None


@contextlib.contextmanager
def token_bar(label: str, total: int) -> Iterator[Callable[[Any], None]]:
    """A bar on standard error, on a terminal only, that counts tokens; gives what `on_progress` takes."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed} tokens"),
        TimeElapsedColumn(),
    )
    hidden = not sys.stderr.isatty()
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=hidden, redirect_stdout=False) as bar:
        task = bar.add_task(label, total=total)
        yield lambda progress: bar.advance(task, progress.token_id is not None)
