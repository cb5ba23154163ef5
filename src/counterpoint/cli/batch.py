"""counterpoint batch"""

from __future__ import annotations

import contextlib
import datetime
import platform
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from counterpoint import __version__
from counterpoint.cli.command import Command, Options
from counterpoint.cli.constraints import FORM, constraint_from
from counterpoint.cli.kinds import FILE, OUTPUT, Count, Input
from counterpoint.cli.options import (
    GUIDE,
    MODEL,
    SAMPLING,
    VECTOR,
    guide_from,
    needs,
    open_model,
    plain_warnings,
    read_text,
    sampling_from,
)
from counterpoint.cli.watching import WATCH, watching
from counterpoint.errors import PromptError, UsageError

if TYPE_CHECKING:
    from counterpoint.batch.job import Progress, Runner, Shard

SHOWN_S = 0.5


def _check(options: Options) -> None:
    from counterpoint.batch.job import Shard

    Shard.parse(options["shard"])
    engine = options["engine"]
    if engine not in ("own", "vllm") and not engine.startswith(("http://", "https://")):
        raise UsageError(f"--engine is {engine!r}; use own, vllm, or a server's address as http://127.0.0.1:8000")
    if options["output"] == options["source"]:
        raise UsageError(f"OUT is IN, {options['output']!r}; give the answers a file of their own")
    if engine != "own" and any(options[option.name] not in (None, (), False) for option in FORM.options):
        raise UsageError("the form of the output is our own engine's here; for a server write it into each line's body")
    if engine != "own" and options["watch"] is not None:
        raise UsageError("--watch is for our own engine here; a server's own watch is a field of each line's body")
    if engine != "own" and options["vector"] is not None:
        raise UsageError("--vector is for our own engine; llama.cpp takes a .gguf vector with --control-vector")
    if options["output"] == "-" and options["retry_errors"]:
        raise UsageError("--retry-errors needs an output that is a file; give one in place of -")
    if engine.startswith("http") is False and options["api_key"] is not None:
        raise UsageError("--api-key is for a server; leave it out")


class _Output(type(OUTPUT)):
    """Like an output file, and `-` is standard output."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return value if value == "-" else super().convert(value, param, ctx)


@click.command("batch", cls=Command, groups=(GUIDE, SAMPLING, FORM, WATCH, MODEL, VECTOR), check=_check)
@click.argument("source", metavar="IN", type=Input(dash=True))
@click.argument("output", metavar="OUT", type=_Output())
@click.option(
    "--engine", default="own", show_default=True, metavar="own|vllm|URL", help="What answers: ours, vLLM, a server."
)
@click.option("--negative", default=None, help="For lines of our own form that have none.")
@click.option("--negative-file", type=FILE, default=None, help="Read it from a file.")
@click.option("--shard", default="1/1", show_default=True, help="3/8 answers every eighth line, from the third on.")
@click.option("--retry-errors", is_flag=True, help="Run lines again that ended in an error.")
@click.option("--window", type=Count(1), default=None, help="Lines begun at once.  [default: 512; 32 to a server]")
@click.option("--served-name", default=None, help="The model's name for a server, where lines name none.")
@click.option("--api-key", default=None, help="Of the server. Better: the variable COUNTERPOINT_API_KEY.")
@click.option("--quiet", is_flag=True, help="No progress on standard error.")
def command(source: str, output: str, **options: Any) -> int:
    """Answer every line of IN and append the answers to OUT, through kills and restarts.

    \b
    IN has lines of our own, {"prompt": ..., "negative": ..., "guide": {...}, "max_tokens": ...}, or is in OpenAI's batch
    format, {"custom_id": ..., "method": "POST", "url": "/v1/chat/completions", "body": {...}}. Names that end in .gz or
    .zst are compressed; - is standard input or output. The same command goes on where a killed one was.
    """
    from counterpoint.batch.files import open_lines
    from counterpoint.batch.forms import form_of
    from counterpoint.batch.job import Shard, run_job

    options["negative"] = read_text(options["negative"], options["negative_file"], name="negative")
    shard = Shard.parse(options["shard"])
    with plain_warnings(), contextlib.ExitStack() as stack:
        lines = stack.enter_context(open_lines(source))
        first, following = _first(source, lines)
        form = form_of(first)
        total = None if source == "-" else _count(source, shard)
        runner, identity = stack.enter_context(_runner(form.name, options))
        identity |= {"form": form.name, "shard": options["shard"], "options": _shared(options, form.name)}
        journal = _journal(output, form, identity, options, source)
        stack.callback(journal.close)
        progress = run_job(
            following, form, runner, journal, shard=shard, total=total, on_progress=_Shown(options["quiet"], output)
        )
    if not options["quiet"]:
        print(_summary(progress, journal.num_errors), file=sys.stderr)
    return 1 if journal.num_errors else 0


def _first(source: str, lines: Any) -> tuple[bytes, Iterator[bytes]]:
    """The first line that holds something, and all lines, that one among them."""
    import itertools

    skipped: list[bytes] = []
    for line in lines:
        skipped.append(line)
        if line.strip():
            return line, itertools.chain(skipped, lines)
    raise PromptError(f"{source!r} holds no line; give one JSON object a line, with a prompt")


def _count(source: str, shard: Shard) -> int:
    """Lines that hold something, of this shard."""
    from counterpoint.batch.files import open_lines

    with open_lines(source) as lines:
        return sum(bool(line.strip()) and shard.has(number) for number, line in enumerate(lines, 1))


def _shared(options: Options, form: str) -> dict[str, Any]:
    """The options that answers depend on."""
    if form != "lines":
        return {}
    guide = guide_from(options, negative=options["negative"])
    sampling = {name: list(v) if isinstance(v, tuple) else v for name, v in sampling_from(options).items()}
    sampling |= {option.name: options[option.name] for option in FORM.options}
    sampling |= {name: value.to_dict() if name == "watch" else value for name, value in watching(options).items()}
    return {**sampling, "negative": options["negative"], "guide": None if guide is None else str(guide)}


def _form(options: Options) -> dict[str, Any]:
    return {"constraint": constraint_from(options), "loop": options["loop"], **watching(options)}


@contextlib.contextmanager
def _runner(form: str, options: Options) -> Iterator[tuple[Runner, dict[str, Any]]]:
    """What answers, and what tells its answers from another's."""
    engine = options["engine"]
    if engine.startswith(("http://", "https://")):
        yield _to_server(engine, form, options), {"engine": "server", "model": options["served_name"]}
        return
    if engine == "vllm":
        with needs("vllm"):
            from counterpoint.vllm.offline import Offline, started

            llm = started(options["model"], form)
        runner = Offline(llm, sampling_from(options), guide_from(options), options["negative"])
        yield runner, {"engine": "vllm", "model": options["model"]}
        return
    model = open_model(options)
    identity = {"engine": "own", "model": model.fingerprint}
    if form == "lines":
        from counterpoint.batch.own import Defaults, OwnEngine
        from counterpoint.batch.run import WINDOW
        from counterpoint.engine import Engine

        sampling = sampling_from(options)
        defaults = Defaults(
            {**{name: value for name, value in sampling.items() if name != "seed"}, **_form(options)},
            guide=guide_from(options, negative=options["negative"]),
            negative=options["negative"],
            seed=sampling["seed"] if sampling["seed"] is not None else 0,
        )
        yield OwnEngine(Engine(model), defaults, window=options["window"] or WINDOW), identity
        return
    if options["watch"] is not None:
        raise UsageError("--watch is for lines of our own form; lines in OpenAI's go to a server with serve --watch")
    with needs("serve"):
        from counterpoint.server.local import local_server
    with local_server(model, window=options["window"] or 64) as address:
        yield _to_server(address, form, options | {"served_name": model.name}), identity


def _to_server(address: str, form: str, options: Options) -> Runner:
    import os

    from counterpoint.batch.remote import Remote, body_of_line, completions_of

    key = options["api_key"] or os.environ.get("COUNTERPOINT_API_KEY")
    window, name = options["window"] or 32, options["served_name"]
    if form == "openai":

        def body_of(task: Any) -> tuple[str, dict[str, Any]]:
            return task.asked["url"], ({} if name is None else {"model": name}) | task.asked["body"]

        return Remote(address, body_of=body_of, api_key=key, window=window)
    sampling = sampling_from(options)
    plain = {
        name: list(v) if isinstance(v, tuple) else v for name, v in sampling.items() if v not in (None, (), {}, False)
    }
    guide, negative = guide_from(options, negative=options["negative"]), options["negative"]

    def body_of_ours(task: Any) -> tuple[str, dict[str, Any]]:
        import dataclasses

        line = task.asked
        line = dataclasses.replace(
            line,
            guide=line.guide or guide,
            negative=negative if line.negative is None and line.branches is None else line.negative,
        )
        own = dict(plain)
        own["seed"] = (sampling["seed"] or 0) + line.number
        return body_of_line(line, model=name, defaults=own)

    return Remote(address, body_of=body_of_ours, answer_of=completions_of, api_key=key, window=window)


def _journal(output: str, form: Any, identity: dict[str, Any], options: Options, source: str) -> Any:
    from counterpoint.batch.journal import Journal, Piped

    if output == "-":
        return Piped(sys.stdout.buffer)
    import importlib.metadata

    packages = ("torch", "transformers", "vllm")
    versions = {"counterpoint": __version__, "python": platform.python_version()}
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    digests = click.get_current_context().meta.get("counterpoint.files", {})
    facts = {
        "versions": versions,
        "input": {"name": source, "sha256": next(iter(digests.values()), None)},
        "model": options["model"],
        "begun": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    return Journal(output, identity=identity, facts=facts, read=form.entry, retry_errors=options["retry_errors"])


class _Shown:
    """Progress on standard error: one line that changes on a terminal, a line a minute elsewhere."""

    def __init__(self, quiet: bool, output: str) -> None:
        self._is_on, self._is_terminal = not quiet, sys.stderr.isatty()
        self._next = time.monotonic() + (0 if self._is_terminal else 60)

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if not self._is_on or now < self._next:
            return
        self._next = now + (SHOWN_S if self._is_terminal else 60)
        done = progress.num_earlier + progress.num_now
        text = f"{done}{'' if progress.total is None else f' of {progress.total}'} lines, {progress.rate:.1f} a second"
        if progress.num_errors:
            text += f", {progress.num_errors} errors"
        if progress.left_s is not None:
            text += f", {datetime.timedelta(seconds=round(progress.left_s))} left"
        print(f"\r{text}\x1b[K" if self._is_terminal else text, end="" if self._is_terminal else "\n", file=sys.stderr)
        sys.stderr.flush()


def _summary(progress: Progress, num_errors: int) -> str:
    done = f"{progress.num_answers} answered, {progress.num_errors} errors"
    earlier = f", {progress.num_earlier} from earlier" if progress.num_earlier else ""
    ending = "; --retry-errors runs those with errors again" if num_errors else ""
    return ("\n" if sys.stderr.isatty() else "") + f"{done}{earlier}, {progress.rate:.1f} lines a second{ending}"
