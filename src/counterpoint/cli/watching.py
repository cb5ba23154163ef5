"""A watch over the text: a group of options, and what they are made into. No heavy import at the top."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from counterpoint.cli.command import OptionGroup, Options
from counterpoint.cli.kinds import FILE, Count
from counterpoint.cli.options import option
from counterpoint.errors import UsageError


def _check_watch(options: Options) -> None:
    for name in ("on_alarm", "max_eases"):
        if options[name] is not None and options["watch"] is None:
            raise UsageError(f"--{name.replace('_', '-')} needs --watch FILE")
    if options["on_alarm"] not in (None, "mark", "stop", "ease"):
        raise UsageError(f"--on-alarm is {options['on_alarm']!r}; use mark, stop or ease")
    if options["max_eases"] is not None and options["on_alarm"] != "ease":
        raise UsageError("--max-eases needs --on-alarm ease")


WATCH = OptionGroup(
    "A watch over the text",
    (
        option("--watch", type=FILE, default=None, help="Raise alarms where the text looks like no good one."),
        option("--on-alarm", default=None, metavar="[mark|stop|ease]", help="Tell, end the text, or go back and ease the guide.  [default: mark]"),
        option("--max-eases", type=Count(0), default=None, help="How often ease goes back.  [default: 3]"),
    ),
    _check_watch,
)  # fmt: skip


def watching(options: Options) -> dict[str, Any]:
    """The arguments of `WATCH`, for `generate` and its like."""
    if options["watch"] is None:
        return {}
    from counterpoint.watch import Watch

    given = {name: options[name] for name in ("on_alarm", "max_eases") if options[name] is not None}
    return given | {"watch": Watch.load(options["watch"])}


def tell_alarms(completions: Sequence[Any], *, where: str = "") -> None:
    """Say on standard error which alarms were raised."""
    for number, done in enumerate(completions):
        sample = f" of sample {number}" if len(completions) > 1 else ""
        for alarm in () if done is None or not done.alarms else done.alarms:
            what = f"went back to token {alarm.begin}" if alarm.eased else f"tokens {alarm.begin} to {alarm.step}"
            print(
                f"counterpoint: alarm at token {alarm.step}{sample}{where}, {alarm.score:.2f}: {what}", file=sys.stderr
            )
