"""vLLM's own server with guidance: our classes are added, everything else is passed on."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path

from counterpoint.errors import UsageError
from counterpoint.vllm import versions
from counterpoint.vllm.params import CHECK, MIDDLEWARE, SCHEDULER, WORKER

METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"


def main(argv: Sequence[str] | None = None) -> int:
    """Serve: `main(["MODEL", "--port", "8000", ...])`, with the arguments of `vllm serve`. Returns an exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        versions.require()
        with metrics_folder():
            _serve(arguments)
    except UsageError as error:
        print(f"counterpoint: {error}", file=sys.stderr)
        return 2
    return 0


@contextlib.contextmanager
def metrics_folder() -> Iterator[None]:
    """A folder for the counters of all processes, where the user names none; it is gone afterwards, also on SIGTERM."""
    given = os.environ.get(METRICS_FOLDER)
    if given is not None:
        if not Path(given).is_dir():
            raise UsageError(f"{METRICS_FOLDER} is {given!r}, which is no folder; make it, or leave the variable out")
        if any(Path(given).glob("*.db")):
            message = f"{METRICS_FOLDER} {given!r} has another run's numbers, to which this run adds; empty it first"
            print(f"counterpoint: {message}", file=sys.stderr)
        yield
        return
    # Until vLLM listens for it, which takes as long as its imports.
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        with tempfile.TemporaryDirectory(prefix="counterpoint-metrics-") as folder:
            os.environ[METRICS_FOLDER] = folder
            yield
    finally:
        del os.environ[METRICS_FOLDER]
        signal.signal(signal.SIGTERM, before)


def _serve(arguments: list[str]) -> None:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.entrypoints.cli.serve import ServeSubcommand
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    from counterpoint.vllm.config import refuse_unsupported

    versions.imported("cli_env_setup")()
    parser = FlexibleArgumentParser(prog="counterpoint serve --engine vllm")
    command = ServeSubcommand()
    command.subparser_init(parser.add_subparsers())
    args = guided(parser.parse_args(["serve", *arguments]))
    if getattr(args, "model_tag", None) == "bundled":
        from counterpoint.models.loading import BUNDLED

        args.model_tag, args.served_model_name = str(BUNDLED), args.served_model_name or ["bundled"]
    command.validate(args)
    if getattr(args, "model_tag", None):
        args.model = args.model_tag
    # The same check runs in the engine's process; here its answer is one line.
    refuse_unsupported(AsyncEngineArgs.from_cli_args(args).create_engine_config())
    command.cmd(args)


def guided(args: Namespace) -> Namespace:
    """vLLM's parsed arguments with our classes in their places.

    Raises:
        UsageError: a place is taken.
    """
    for name, ours in (("scheduler_cls", SCHEDULER), ("worker_cls", WORKER)):
        given = getattr(args, name)
        if given not in (None, "auto", ours):
            flag = "--" + name.replace("_", "-")
            raise UsageError(f"{flag} is {given}; guidance needs {ours}, so leave the flag out")
        setattr(args, name, ours)
    if args.async_scheduling:
        raise UsageError("--async-scheduling is on; guidance needs ordinary scheduling, so leave the flag out")
    if args.grpc:
        raise UsageError("--grpc is on; guidance is asked for over HTTP, so leave the flag out")
    args.async_scheduling = False
    args.logits_processors = list(dict.fromkeys([*(args.logits_processors or ()), CHECK]))
    args.middleware = list(dict.fromkeys([*args.middleware, MIDDLEWARE]))
    return args
