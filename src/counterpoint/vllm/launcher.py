"""vLLM's own server with guidance: our classes are added, everything else is passed on."""

from __future__ import annotations

import os
import sys
import tempfile
from argparse import Namespace
from collections.abc import Sequence

from counterpoint.errors import UsageError
from counterpoint.vllm import versions
from counterpoint.vllm.params import CHECK, MIDDLEWARE, SCHEDULER, WORKER


def main(argv: Sequence[str] | None = None) -> int:
    """Serve: `main(["MODEL", "--port", "8000", ...])`, with the arguments of `vllm serve`. Returns an exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        versions.require()
        # Read when vLLM and prometheus_client are imported, here and in the processes that they start.
        os.environ.setdefault("VLLM_USE_V2_MODEL_RUNNER", "0")
        with tempfile.TemporaryDirectory(prefix="counterpoint-metrics-") as folder:
            os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", folder)
            _serve(arguments)
    except UsageError as error:
        print(f"counterpoint: {error}", file=sys.stderr)
        return 2
    return 0


def _serve(arguments: list[str]) -> None:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.entrypoints.cli.serve import ServeSubcommand
    from vllm.entrypoints.serve.utils.api_utils import cli_env_setup
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    from counterpoint.vllm.config import refuse_unsupported

    cli_env_setup()
    parser = FlexibleArgumentParser(prog="counterpoint serve --engine vllm")
    command = ServeSubcommand()
    command.subparser_init(parser.add_subparsers())
    args = guided(parser.parse_args(["serve", *arguments]))
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
    args.async_scheduling = False
    args.logits_processors = [*(args.logits_processors or ()), CHECK]
    args.middleware = [*args.middleware, MIDDLEWARE]
    return args
