"""Presets: a guide, contexts and sampling under one name, in a TOML file. Plain values.

[polite]
about = "polite answers"
guide = {scale = 3.0, space = "prob"}
contexts = {negative_system = "You are rude."}
sampling = {temperature = 0.7, max_tokens = 200}
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from counterpoint.errors import UsageError
from counterpoint.guide import Guide

VARIABLE = "COUNTERPOINT_PRESETS"
OWN = Path(__file__).parent / "presets.toml"
#: What other branches read, by the names of the command line's options; `branches` are objects as in `wire`.
CONTEXTS: Mapping[str, type | tuple[type, ...]] = {
    "negative": str, "chat": bool, "system": str, "negative_system": str, "last_tokens": int, "empty": bool,
    "suffix": str, "without": str, "instead": str, "branches": list,
}  # fmt: skip
#: Options of generation that a file can hold.
SAMPLING: Mapping[str, type | tuple[type, ...]] = {
    "max_tokens": int, "temperature": (int, float), "top_k": int, "top_p": (int, float), "min_p": (int, float),
    "repetition_penalty": (int, float), "presence_penalty": (int, float), "frequency_penalty": (int, float),
    "stop": (str, list), "ignore_eos": bool, "seed": int, "n": int,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Preset:
    """What a name stands for.

    Args:
        name: the name.
        guide: how predictions are combined; None leaves it to the caller.
        contexts: see `CONTEXTS`.
        sampling: see `SAMPLING`.
        about: one line for people.
    """

    name: str
    guide: Mapping[str, Any] | None = None
    contexts: Mapping[str, Any] = field(default_factory=dict)
    sampling: Mapping[str, Any] = field(default_factory=dict)
    about: str = ""

    def __post_init__(self) -> None:
        if self.guide is not None:
            Guide.from_dict(dict(self.guide))  # a mistake is told when the file is read
        for title, given, known in (("contexts", self.contexts, CONTEXTS), ("sampling", self.sampling, SAMPLING)):
            for name, value in given.items():
                if name not in known:
                    raise UsageError(
                        f"the preset {self.name!r} has {name!r} among its {title}; known are {', '.join(known)}"
                    )
                is_flag = isinstance(value, bool) and known[name] is not bool
                if is_flag or not isinstance(value, known[name]):
                    raise UsageError(f"the preset {self.name!r} has {name} = {value!r:.40}, which is of the wrong kind")


def read_presets(path: str | os.PathLike[str] | None = None) -> dict[str, Preset]:
    """The presets that ship with the package, and those of a file, which win.

    Args:
        path: a TOML file; None takes that of the variable COUNTERPOINT_PRESETS, or
            ~/.config/counterpoint/presets.toml where it is there.

    Raises:
        UsageError: a file can't be read, or a preset in it is not one.
    """
    found = _read(OWN)
    given = path or os.environ.get(VARIABLE)
    usual = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "counterpoint" / "presets.toml"
    if given or usual.is_file():
        found |= _read(Path(given) if given else usual)
    return found


def find_preset(name: str, path: str | os.PathLike[str] | None = None) -> Preset:
    """The preset of a name. Raises `UsageError` with the names that there are."""
    known = read_presets(path)
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(sorted(known))}"
    raise UsageError(f"there is no preset {name!r:.60}; {hint}", param="preset")


def _read(path: Path) -> dict[str, Preset]:
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"the presets {str(path)!r} can't be read: {error.strerror}", param="presets") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"the presets {str(path)!r} are not valid TOML: {error}", param="presets") from None
    return {name: _preset(name, fields) for name, fields in tables.items()}


def _preset(name: str, fields: Any) -> Preset:
    known = ("about", "guide", "contexts", "sampling")
    if not isinstance(fields, dict):
        raise UsageError(f"the preset {name!r} is {fields!r:.40}; write a table, as [{name}]")
    for key, value in fields.items():
        if key not in known or (key != "about" and not isinstance(value, dict)):
            raise UsageError(
                f"the preset {name!r} has {key} = {value!r:.40}; known are the tables {', '.join(known[1:])}"
            )
    return Preset(name, **fields)
