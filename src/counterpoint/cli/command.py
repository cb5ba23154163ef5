"""What all commands have in common: groups of options, checks before the work, errors in the words of the options."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click

from counterpoint.cli.record import finish_record, prepare_record
from counterpoint.errors import GuideError, UsageError

Options = dict[str, Any]
# Where an argument of Python is an option of another name. A guide's `stop` is a step, the sampling's are texts.
CALLED = {"num_samples": "n", "stop_at": "stop", "max_guess": "draft_tokens"}
GUIDE_CALLED = {"stop": "--stop-guiding"}


@dataclass(frozen=True)
class OptionGroup:
    """Options that belong together: one heading in the help, one check before a model is loaded.

    Args:
        title: the heading.
        options: what may be given.
        check: raises `UsageError` for what can be told wrong without a model.
    """

    title: str
    options: tuple[click.Option, ...]
    check: Callable[[Options], object] = lambda options: None


class Command(click.Command):
    """A command of ours.

    Args:
        groups: the groups of options that it shares with others.
        check: its own check, run after those of the groups.
        unused: options of presets that it has no use for, with what it has instead.
    """

    def __init__(
        self,
        *args: Any,
        groups: Sequence[OptionGroup] = (),
        check: Callable[[Options], object] = lambda options: None,
        unused: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.own = list(self.params)
        self.groups, self.check, self.unused = tuple(groups), check, dict(unused or {})
        self.params = [*self.params, *(option for group in groups for option in group.options)]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        own = [p for p in self.get_params(ctx) if (p in self.own or p.name == "help") and isinstance(p, click.Option)]
        for title, params in [("Options", own), *((group.title, group.options) for group in self.groups)]:
            rows = [row for param in params if (row := param.get_help_record(ctx)) is not None]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if any(param.name == "preset" for param in self.params):
            from counterpoint.cli.presets import defaults_of

            given, _, _ = self.make_parser(ctx).parse_args(list(args))
            if given.get("preset"):
                ctx.default_map = defaults_of(given, {p.name for p in self.params}, self.unused)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            if ctx.params.get("escapes"):
                ctx.params.update(_unescaped(ctx.params))
            for check in (*(group.check for group in self.groups), self.check):
                check(ctx.params)
            prepare_record(ctx)
            result = super().invoke(ctx)
            finish_record(ctx)
            return result
        except UsageError as error:
            raise self.in_words(error) from error

    def in_words(self, error: UsageError) -> UsageError:
        """The error with options where the library's message has arguments of Python."""
        message, param = str(error), error.param
        for option in self.params:
            if not isinstance(option, click.Option) or option.name is None:
                continue
            name = CALLED.get(option.name, option.name)
            said = next((o for o in option.opts if o.startswith("--")), option.opts[0])
            if name == param and isinstance(error, GuideError) == (option.name in _guide_names()):
                message = re.sub(rf"^(guidance )?{re.escape(name)}\b", said, message)
            if "_" in name:
                message = re.sub(rf"(?<![\w./-]){re.escape(name)}(?!\w)", said, message)
        changed = type(error)(message)
        changed.param = param
        return changed


def _guide_names() -> set[str]:
    from counterpoint.guide import Guide

    return {*Guide.__dataclass_fields__, "stop_at"} - {"stop"}


TEXTS = ("prompt", "negative", "suffix", "without", "instead", "system", "negative_system", "stop", "branch")
_MEANT = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\"}


def _unescaped(options: Options) -> Options:
    """The texts among the options with \\n, \\t, \\r and \\\\ read as what they mean."""

    def read(text: str) -> str:
        return re.sub(r"\\([ntr\\])", lambda found: _MEANT[found[1]], text)

    given = {name: options[name] for name in TEXTS if options.get(name)}
    return {name: read(v) if isinstance(v, str) else tuple(map(read, v)) for name, v in given.items()}


class CommandGroup(click.Group):
    """Knows its commands by name, so that help needs none of them.

    Args:
        texts: name -> one line of help.
        find: name -> the command.
    """

    def __init__(
        self, *args: Any, texts: Mapping[str, str], find: Callable[[str], click.Command], **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.texts, self.find = texts, find

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.texts)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        return self.find(name) if name in self.texts else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in self.texts and not name.startswith("-"):
            import difflib

            near = difflib.get_close_matches(name, self.texts, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"commands are {', '.join(self.texts)}"
            if len(args) == 1 and " " in name.strip():
                hint = 'a text to continue comes after a command: counterpoint generate "TEXT"'
            raise UsageError(f"there is no command {name[:40]!r}; {hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(self.texts.items()))
