"""The command line: parse, call, print. Each command is a file of its own, read when it is asked for."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any, NoReturn

import click

from counterpoint import __version__
from counterpoint.cli.command import CommandGroup
from counterpoint.cli.record import ARGUMENTS
from counterpoint.errors import CounterpointError, UsageError

COMMANDS = {
    "generate": "write text under guidance",
    "chat": "a conversation in the terminal, with guidance as one of its controls",
    "compare": "a grid of scales and spaces from one prompt, side by side",
    "trace": "why each token was chosen",
    "serve": "OpenAI's API with a negative prompt and a guidance scale",
    "assign": "give each prompt one option, within capacities",
    "batch": "many prompts as a job that survives a kill",
    "eval": "measure a model under guides",
    "bench": "time guided generation against transformers",
    "vectors": "control vectors: made from pairs of texts, tried layer by layer",
    "watch": "alarms while a text is written: fitted on good ones",
    "train": "train a small conditional model from records of text",
    "distil": "a guide made into an adapter that needs no second branch",
    "info": "versions, and what a model is",
    "again": "make again what --log kept",
}


def _find(name: str) -> click.Command:
    return importlib.import_module(f"counterpoint.cli.{name}").command


@click.group(
    cls=CommandGroup,
    texts=COMMANDS,
    find=_find,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__, prog_name="counterpoint")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """Text generation under guidance: a prompt pulls, a negative prompt pushes away."""


def run(arguments: list[str]) -> Any:
    """Run one command in this process; its errors are raised."""
    with cli.make_context("counterpoint", list(arguments)) as ctx:
        ctx.meta[ARGUMENTS] = list(arguments)
        return cli.invoke(ctx)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0, 1 after a failure, 2 after a mistake of the caller's, 130 after Ctrl-C."""
    if "_COUNTERPOINT_COMPLETE" in os.environ:  # the shell asks how a word may go on
        cli.main(prog_name="counterpoint")
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    arguments = ["--debug", *(a for a in arguments if a != "--debug")] if debug else arguments
    try:
        status = run(arguments)
        sys.stdout.flush()
        _exit(status if isinstance(status, int) else 0)
    except (click.exceptions.Abort, KeyboardInterrupt):
        _exit(130)
    except click.exceptions.Exit as error:
        _exit(error.exit_code)
    except BrokenPipeError:  # the reader went away: nothing more to say, and nobody to say it to
        sys.stdout = open(os.devnull, "w")
        _exit(0)
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message())
        _exit(2)
    except click.ClickException as error:
        _complain(error.format_message(), 2)
    except UsageError as error:
        if debug:
            raise
        _complain(str(error), 2)
    except Exception as error:
        if debug:
            raise
        known = isinstance(error, (CounterpointError, OSError))
        _complain(f"{error}" if known else f"{type(error).__name__}: {error} (--debug shows where)", 1)


def _complain(message: str, status: int) -> NoReturn:
    sys.stdout.flush()
    print("counterpoint: " + " ".join(message.split()), file=sys.stderr)
    _exit(status)


def _exit(status: int) -> NoReturn:
    raise SystemExit(status)
