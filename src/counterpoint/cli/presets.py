"""A preset as defaults of a command's options."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

from counterpoint.errors import UsageError
from counterpoint.presets import find_preset


def defaults_of(given: Mapping[str, Any], known: set[str | None], unused: Mapping[str, str]) -> dict[str, Any]:
    """Defaults by the names of a command's parameters.

    Args:
        given: what was typed: the preset's name, the file, and what the caller chose for himself.
        known: the command's parameters.
        unused: parameters that the command has no use for, with what it has instead.

    Raises:
        UsageError: there is no such preset, or the command can't do what it asks for.
    """
    preset = find_preset(given["preset"], given.get("presets"))
    values: dict[str, Any] = {**preset.sampling, **preset.contexts}
    if "n" in values:
        values["num_samples"] = values.pop("n")
    if isinstance(values.get("stop"), str):
        values["stop"] = [values["stop"]]
    for name, value in (preset.guide or {}).items():
        values["stop_at" if name == "stop" else name] = value
    if "branches" in values:
        values["branch"] = [json.dumps(fields) for fields in values.pop("branches")]
    if "negative" in values and (given.get("negative_file") or given.get("negative")):
        del values["negative"]
    for name in [name for name in values if name not in known]:
        if name not in unused:
            raise UsageError(f"the preset {preset.name!r} has {name}, which this command can't do; take another one")
        value = values.pop(name)
        print(f"counterpoint: the preset's {name} {value} is left out; {unused[name]} is the way here", file=sys.stderr)
    return values
