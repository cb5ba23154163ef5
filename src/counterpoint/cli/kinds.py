"""Kinds of values on the command line. Whatever can be told wrong without a model is told while arguments are read."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any

import click

from counterpoint.errors import UsageError


class Number(click.ParamType):
    """A float. Most ranges are checked by the library, so that there is one message for each mistake.

    Args:
        low, high: the bounds of one that is the command line's own.
    """

    name = "number"

    def __init__(self, low: float | None = None, high: float | None = None) -> None:
        self.low, self.high = low, high

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        bounds = "" if self.low is None else f" from {self.low:g} to {self.high:g}"
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise UsageError(f"{_called(param)} is {value!r}; use a number{bounds}") from None
        if self.low is not None and self.high is not None and not self.low <= number <= self.high:
            raise UsageError(f"{_called(param)} is {value}; use a number{bounds}")
        return number


class Count(click.ParamType):
    """A whole number, so many or more."""

    name = "count"

    def __init__(self, least: int) -> None:
        self.least = least

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            number = value if isinstance(value, int) and not isinstance(value, bool) else int(str(value))
        except ValueError:
            number = None
        if number is None or number < self.least:
            raise UsageError(f"{_called(param)} is {value!s:.40}; use a whole number, {self.least} or more")
        return number


class Numbers(click.ParamType):
    """Numbers with commas between them."""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[float]:
        if isinstance(value, list):
            return value
        try:
            return [float(part) for part in str(value).split(",") if part.strip()]
        except ValueError:
            raise UsageError(
                f"{_called(param)} is {value!r}; use numbers with commas between them, as 1,1.5,3"
            ) from None


class Words(click.ParamType):
    """Words with commas between them."""

    name = "words"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[str]:
        return value if isinstance(value, list) else [part.strip() for part in value.split(",") if part.strip()]


class Pair(click.ParamType):
    """Two parts with an equals sign between them; stays one text.

    Args:
        left, right: what the parts are called.
        number: which of them is a number; neither where None.
    """

    name = "pair"

    def __init__(self, left: str, right: str, *, number: str | None = None, example: str = "") -> None:
        self.left, self.right, self.number, self.example = left, right, number, example

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return f"{self.left}={self.right}"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        left, equals, right = str(value).partition("=")
        is_right = bool(equals and left and right)
        try:
            float({self.left: left, self.right: right}.get(self.number or "", "0"))
        except ValueError:
            is_right = False
        if not is_right:
            example = f", as {self.example}" if self.example else ""
            raise UsageError(f"{_called(param)} is {value[:40]!r}; write {self.left}={self.right}{example}")
        return value


class Input(click.ParamType):
    """A file to read, or a folder; its path, once it is known to be there.

    Args:
        dash: whether "-" is standard input.
        folder: whether it is a folder that is wanted.
    """

    name = "file"

    def __init__(self, *, dash: bool = False, folder: bool = False) -> None:
        self.dash, self.folder = dash, folder
        self.name = "folder" if folder else "file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value == "-" and self.dash:
            return value
        if self.folder:
            if not Path(value).is_dir():
                raise UsageError(f"{_called(param)} is {value!r}, and there is no such folder; give one that is there")
            return value
        try:
            with open(value, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest() if Path(value).is_file() else None
        except OSError as error:
            raise UsageError(f"{_called(param)} is {value!r}, which can't be read: {error.strerror}") from None
        if ctx is not None and digest is not None:
            ctx.meta.setdefault("counterpoint.files", {})[str(Path(value).absolute())] = digest
        return value


class Output(click.ParamType):
    """A file to write; its path, once it is known that it can be made."""

    name = "file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        path = Path(value)
        folder = path.parent
        if not value or path.is_dir():
            raise UsageError(f"{_called(param)} is {value!r}, which is a folder; give a file's name")
        if not folder.is_dir():
            raise UsageError(f"{_called(param)} is {value!r} and there is no folder {str(folder)!r}; make it first")
        if not (os.access(path, os.W_OK) if path.exists() else _takes_files(folder)):
            raise UsageError(f"{_called(param)} is {value!r}, which can't be written; give another file")
        return value


class OutputFolder(click.ParamType):
    """A folder to write into, which is there or is made; its path, once it is known that files can be made in it."""

    name = "folder"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        there = Path(value).absolute()
        while not there.exists() and there != there.parent:
            there = there.parent
        if not value or not there.is_dir():
            raise UsageError(f"{_called(param)} is {value!r}, and {str(there)!r} is a file; give a folder")
        if not _takes_files(there):
            raise UsageError(f"{_called(param)} is {value!r}, which can't be written; give another folder")
        return value


def _takes_files(folder: Path) -> bool:
    """Whether a file can be made in a folder, by trying: what may be done says nothing of a disk that takes no files."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _called(param: click.Parameter | None) -> str:
    """The option's name as it is typed; a command's argument in capitals."""
    if param is None:
        return "a value"
    return param.opts[0] if isinstance(param, click.Option) else (param.metavar or param.name or "").upper()


NUMBER, SHARE, NUMBERS, WORDS = Number(), Number(0, 1), Numbers(), Words()
FILE, OUTPUT, OUTPUT_FOLDER = Input(), Output(), OutputFolder()
