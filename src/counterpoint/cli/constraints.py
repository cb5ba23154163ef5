"""The form of the output: a group of options, and the constraint that it asks for. No heavy import at the top."""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from counterpoint.cli.command import OptionGroup, Options
from counterpoint.cli.kinds import FILE
from counterpoint.cli.options import option, read_text
from counterpoint.errors import UsageError

if TYPE_CHECKING:
    from counterpoint.constraints import Constraint
    from counterpoint.engine import Completion

FORMS = ("json_schema", "json_object", "regex", "choices", "grammar", "plan")


class _Loop(click.ParamType):
    """The longest period and the number of repeats."""

    name = "period,repeats"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        try:
            period, repeats = (int(part) for part in str(value).split(","))
        except ValueError:
            raise UsageError(f"--loop is {value!r}; write PERIOD,REPEATS, as --loop 32,4") from None
        return period, repeats


def constraint_from(options: Options) -> Constraint | None:
    """The constraint that the group `FORM` asks for; None where it asks for none.

    Raises:
        UsageError: several are given, or a file can't be read. ConstraintError: one has no meaning.
    """
    from counterpoint.constraints import Choices, Grammar, Json, Regex

    given = [name for name in FORMS if options[name] not in (None, False)]
    after = options["form_after"]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(map(_flag, given))} are given, and an output has one form; keep one")
    if not given:
        if after is not None:
            raise UsageError(
                "--form-after is given without a form; give --json-schema, --regex, --choices or --grammar"
            )
        return None
    name, value = given[0], options[given[0]]
    if name == "plan":
        if after is not None:
            raise UsageError("--form-after goes with other forms; a plan says it itself: Plan(..., after=TEXT)")
        return _plan(value)
    if name == "regex":
        return Regex(value, after=after)
    if name == "choices":
        return Choices(tuple(next(csv.reader([value], skipinitialspace=True), ())), after=after)
    if name == "json_object":
        return Json(after=after)
    text = read_text(None, value, name=_flag(name))
    return Grammar(text or "", after=after) if name == "grammar" else Json(text or "", after=after)


def _plan(value: str) -> Constraint:
    """The plan of a Python file, which is run once."""
    import runpy

    ctx = click.get_current_context(silent=True)
    known = {} if ctx is None else ctx.meta.setdefault("counterpoint.plans", {})
    if value in known:
        return known[value]

    from counterpoint.constraints import Plan

    path, colon, name = value.rpartition(":")
    path, name = (path, name) if colon and name.isidentifier() else (value, "plan")
    try:
        found = runpy.run_path(path)
    except OSError as error:
        raise UsageError(f"the plan file {path!r} can't be read: {error.strerror}") from None
    except UsageError:
        raise
    except Exception as error:
        what = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UsageError(f"the plan file {path!r} ends in an error: {what}") from error
    if not isinstance(found.get(name), Plan):
        raise UsageError(
            f"the plan file {path!r} has no counterpoint.constraints.Plan called {name!r}; write {name} = Plan(...)"
        )
    found[name].settled()  # what can't be kept is told before a model is loaded
    known[value] = found[name]
    return found[name]


def _check(options: Options) -> None:
    if any(options[name] not in (None, False) for name in (*FORMS, "form_after")):
        constraint_from(options)
    if options["loop"] is not None:
        from counterpoint.engine.loops import checked_loop

        checked_loop(options["loop"])


FORM = OptionGroup(
    "The form of the output",
    (
        option("--json-schema", type=FILE, default=None, help="JSON that is valid under the schema in this file."),
        option("--json-object", is_flag=True, help="A JSON object of any kind."),
        option("--regex", default=None, metavar="PATTERN", help="Matches this regular expression as a whole."),
        option("--choices", default=None, metavar="A,B,...", help="One of these texts; quoted where they hold commas."),
        option("--grammar", type=FILE, default=None, help="Follows the Lark grammar in this file."),
        option(
            "--plan",
            default=None,
            metavar="FILE.py[:NAME]",
            help="The Plan of this Python file, which is run.  [NAME: plan]",
        ),
        option("--form-after", default=None, metavar="TEXT", help="The form begins after this, for models that think."),
        option("--loop", type=_Loop(), default=None, help="Ends a text that says the same so many times in a row."),
    ),
    _check,
)


def warn_of_incomplete(completions: Sequence[Completion | None]) -> None:
    """Say on standard error that an answer does not keep its form as a whole."""
    for done in completions:
        if done is not None and done.complete is False:
            print(
                f"counterpoint: warning: the form is not complete where the text ends ({done.finish_reason}); "
                "raise --max-tokens",
                file=sys.stderr,
            )
            return


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
