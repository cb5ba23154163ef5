"""`counterpoint serve`."""

from __future__ import annotations

import os
from typing import Any

import click

from counterpoint.cli.command import Command, Options
from counterpoint.cli.contexts import load_models, load_vectors, named
from counterpoint.cli.kinds import NUMBER, Count, Input, Pair
from counterpoint.cli.options import MODEL, VECTOR, needs, open_model
from counterpoint.errors import UsageError

KEY_VARIABLE = "COUNTERPOINT_API_KEY"


class _Serve(Command):
    """With `--engine vllm` every other argument is vLLM's own and is passed on as it stands."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        rest = _without_engine(args, "vllm")
        if rest is not None:
            from counterpoint.vllm.launcher import main

            ctx.exit(main(_model_first(rest)))
        return super().parse_args(ctx, args)


def _without_engine(args: list[str], engine: str) -> list[str] | None:
    """The arguments without `--engine ENGINE`; None where they do not ask for that engine."""
    for i, arg in enumerate(args):
        if arg == f"--engine={engine}":
            return args[:i] + args[i + 1 :]
        if arg == "--engine" and args[i + 1 : i + 2] == [engine]:
            return args[:i] + args[i + 2 :]
    return None


def _model_first(args: list[str]) -> list[str]:
    """vLLM takes the model by position; here it may also be `--model MODEL`."""
    for i, arg in enumerate(args):
        if arg == "--model" and i + 1 < len(args):
            return [args[i + 1], *args[:i], *args[i + 2 :]]
        if arg.startswith("--model="):
            return [arg.removeprefix("--model="), *args[:i], *args[i + 1 :]]
    return args


def _check(options: Options) -> None:
    if options["memory_gb"] is not None and options["max_rows"] is not None:
        raise UsageError("--memory-gb and --max-rows are both given; keep one")
    for name in ("max_body_mb", "max_file_mb", "deadline", "grace", "memory_gb"):
        value = options[name]
        if value is not None and not (0 <= value < float("inf") and (value or name == "grace")):
            raise UsageError(f"--{name.replace('_', '-')} is {value}; use a finite number above 0")
    _check_port(options["host"], options["port"])


def _check_port(host: str, port: int) -> None:
    """Refuse a port that is taken, before a model is loaded for it."""
    import socket

    try:
        kind, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        with socket.socket(kind, socket.SOCK_STREAM) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(address)
    except socket.gaierror:
        raise UsageError(f"--host is {host!r}, which is no address of this machine; use 127.0.0.1 or 0.0.0.0") from None
    except OSError as error:
        raise UsageError(
            f"--port {port} of {host} can't be used ({error.strerror}); take another one, or --port 0 for any free one"
        ) from None


@click.command("serve", cls=_Serve, groups=(MODEL, VECTOR), check=_check)
@click.option(
    "--engine",
    type=click.Choice(["own", "vllm"]),
    default="own",
    show_default=True,
    help="vllm passes all other arguments on to vLLM.",
)
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="0.0.0.0 listens to other machines; use a key then."
)
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 is any free one.")
@click.option("--api-key", default=None, help=f"Ask for this key. Better: the variable {KEY_VARIABLE}.")
@click.option("--presets", type=Input(), default=None, help="A TOML file of presets that requests may name.")
@click.option("--served-name", default=None, help="What clients call the model.")
@click.option(
    "--with-model",
    type=Pair("NAME", "FOLDER"),
    multiple=True,
    help="NAME=FOLDER: a further model that branches can name.",
)
@click.option(
    "--adapter",
    type=Pair("NAME", "FOLDER"),
    multiple=True,
    help="NAME=FOLDER: a peft adapter, on unless a branch says otherwise.",
)
@click.option(
    "--with-vector",
    type=Pair("NAME", "FILE"),
    multiple=True,
    help="NAME=FILE: a control vector that branches can name.",
)
@click.option("--watch", type=Pair("NAME", "FILE"), multiple=True, help="NAME=FILE: a watch that requests can name.")
@click.option("--cors-origin", multiple=True, help="Web pages of this origin may use it; may be given several times.")
@click.option(
    "--memory-gb", type=NUMBER, default=None, help="For the rows' keys and values; the number of rows follows."
)
@click.option("--max-rows", type=Count(1), default=None, help="Branches at once; instead of --memory-gb. [default: 64]")
@click.option(
    "--max-waiting", type=Count(0), default=256, show_default=True, help="Samples that may wait; past it 429."
)
@click.option("--max-samples", type=Count(1), default=64, show_default=True, help="Prompts times n of one request.")
@click.option("--max-branches", type=Count(0), default=8, show_default=True, help="Of one request, beside its prompt.")
@click.option(
    "--max-prompt-tokens", type=Count(1), default=None, help="Of each context. [default: what the model holds]"
)
@click.option(
    "--max-tokens", type=Count(1), default=None, help="Most that may be asked for. [default: what the model holds]"
)
@click.option("--max-body-mb", type=NUMBER, default=1.0, show_default=True, help="Largest request.")
@click.option("--data", metavar="FOLDER", default=None, help="Keep files and jobs here: /v1/files and /v1/batches.")
@click.option("--max-file-mb", type=NUMBER, default=512.0, show_default=True, help="Largest uploaded file.")
@click.option(
    "--batch-rows",
    type=Count(1),
    default=8,
    show_default=True,
    help="Branches of jobs at once while others are served.",
)
@click.option("--deadline", type=NUMBER, default=600.0, show_default=True, help="Seconds for one request.")
@click.option("--grace", type=NUMBER, default=30.0, show_default=True, help="Seconds for running requests on SIGTERM.")
@click.option(
    "--prefill-tokens", type=Count(1), default=256, show_default=True, help="Prompt tokens a step while others write."
)
@click.option(
    "--prefix-tokens",
    type=Count(0),
    default=4096,
    show_default=True,
    help="Tokens of ended requests to keep for prompts that begin alike; 0 keeps none.",
)
@click.option(
    "--repeatable",
    is_flag=True,
    help="The same tokens alone and beside others in bfloat16 and int8 too; slower, see docs/server.md.",
)
def command(**options: Any) -> None:
    """OpenAI's API with a negative prompt and a guidance scale."""
    if options["presets"] is not None:
        from counterpoint.presets import VARIABLE, read_presets

        read_presets(options["presets"])  # a mistake in it is told before a model is loaded
        os.environ[VARIABLE] = os.path.abspath(options["presets"])
    with needs("serve"):
        from counterpoint.server.batches.folder import DataFolder
        from counterpoint.server.limits import Limits
        from counterpoint.server.process import Listening, serve, within_memory
    counts = (
        "max_waiting", "max_samples", "max_branches", "max_prompt_tokens", "max_tokens", "prefill_tokens",
        "prefix_tokens", "repeatable", "batch_rows",
    )  # fmt: skip
    limits = Limits(
        **{name: options[name] for name in counts},
        max_rows=64 if options["max_rows"] is None else options["max_rows"],
        max_body_bytes=int(options["max_body_mb"] * 2**20),
        max_file_bytes=int(options["max_file_mb"] * 2**20),
        deadline_s=options["deadline"],
    )
    listening = Listening(
        host=options["host"],
        port=options["port"],
        api_key=options["api_key"] or os.environ.get(KEY_VARIABLE) or None,
        model_name=options["served_name"],
        cors_origins=options["cors_origin"],
        grace_s=options["grace"],
    )
    data = None if options["data"] is None else DataFolder(options["data"])
    model, models = open_model(options), load_models(options)
    for name, folder in named(options["adapter"]):
        from counterpoint.models.adapters import load_adapter

        load_adapter(model.hf, folder, name=name)
    load_vectors(model, options)
    from counterpoint.watch import Watch

    watches = {name: Watch.load(path) for name, path in named(options["watch"])}
    if options["memory_gb"] is not None:
        limits = within_memory(model, limits, int(options["memory_gb"] * 2**30))
    serve(model, limits, listening, models=models, watches=watches, data=data)
