"""What goes wrong, in OpenAI's error shape. Nothing of the machine (a path, a traceback) is in an answer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from counterpoint.errors import UsageError

SHOWN = 120  # characters of a value in a message


class ApiError(Exception):
    """An answer that is not what was asked for.

    Args:
        status: of HTTP.
        message: one line: what was wrong, the value, what to do.
        kind: OpenAI's `type`.
        param: the field that is to blame.
        code: OpenAI's `code`.
        retry_after_s: when to try again; None where trying again would not help.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.kind, self.param, self.code = status, message, kind, param, code
        self.retry_after_s = retry_after_s

    @property
    def body(self) -> dict[str, Any]:
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        """`Retry-After`, and whether OpenAI's clients should try again by themselves."""
        if self.retry_after_s is None:
            return {"x-should-retry": "false"}
        return {"Retry-After": str(max(1, math.ceil(self.retry_after_s)))}


def from_usage(error: UsageError, param: str | None = None) -> ApiError:
    """A mistake that the library found in what the caller gave."""
    return ApiError(400, str(error), param=param)


def from_validation(error: ValidationError) -> ApiError:
    """The first mistake in a body, with the field that it is about."""
    errors = error.errors(include_url=False, include_context=False)
    first = errors[0]
    param = _path(first["loc"])
    if first["type"] == "extra_forbidden":
        return ApiError(400, f"unknown field {param!r}; leave it out", param=param, code="unknown_parameter")
    if first["type"] == "missing":
        return ApiError(400, f"the field {param!r} is missing; give it", param=param, code="missing_required_parameter")
    if first["type"] == "json_invalid":
        return ApiError(400, f"the body is no JSON: {_line(first['msg'])}", code="invalid_json")
    if not first["loc"]:
        return ApiError(400, _line(first["msg"].removeprefix("Value error, ")))
    # The members of a union complain one by one about the same field.
    about = dict.fromkeys(
        _line(e["msg"].removeprefix("Value error, ")) for e in errors if e["loc"][:1] == first["loc"][:1]
    )
    return ApiError(
        400, f"{param} is {_shown(first['input'])}: {'; or '.join(about)[:400]}", param=param, code="invalid_value"
    )


def _path(loc: Sequence[int | str]) -> str:
    """The field's name as one writes it: `messages[0].content`. Names of union members are left out."""
    path = ""
    for part in loc:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part.isidentifier() and not part[0].isupper() and part not in ("str", "int", "float", "bool", "dict"):
            path += f".{part}" if path else part
        elif not path:
            path = part[:SHOWN]
    return path


def _shown(value: Any) -> str:
    text = " ".join(repr(value)[: 4 * SHOWN].split())
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."


def _line(text: str) -> str:
    return " ".join(text.split())[: 2 * SHOWN]
