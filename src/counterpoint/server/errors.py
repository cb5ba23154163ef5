"""What goes wrong, in OpenAI's error shape. Nothing of the machine (a path, a traceback) is in an answer."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from counterpoint.errors import UsageError

SHOWN = 120  # characters of a value in a message
# A value can be as large as a body, and is not written out for a message.
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = SHOWN


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


def too_late(seconds: float) -> ApiError:
    """A request that took longer than the server allows."""
    message = f"the request took more than {seconds:g} s; ask for fewer tokens"
    return ApiError(408, message, kind="timeout_error", code="deadline")


def failed() -> ApiError:
    """A mistake of ours."""
    return ApiError(500, "the server failed at this request; its log says why", kind="server_error")


#: arguments of the library that have another name over the wire
WIRE_NAMES = {
    "stop_ids": "stop_token_ids",
    "num_samples": "n",
    "guide": "guidance",
    "negative": "negative_prompt",
    "constraint": "response_format",
}


def from_usage(error: UsageError, param: str | None = None) -> ApiError:
    """A mistake that the library found in what the caller gave.

    Args:
        param: the field to blame where the error does not say.
    """
    blamed = param if error.param is None else WIRE_NAMES.get(error.param, error.param)
    return ApiError(400, str(error), param=blamed, code=error.code)


def from_validation(error: ValidationError) -> ApiError:
    """The mistakes in a body, with the first field that they are about."""
    errors = error.errors(include_url=False)
    about: dict[str, list[Any]] = {}
    for one in errors:
        about.setdefault(_path(one["loc"][:1]), []).append(one)
    first = errors[0]
    param = _path(first["loc"]) or getattr((first.get("ctx") or {}).get("error"), "param", None)
    code = {"missing": "missing_required_parameter", "extra_forbidden": "unknown_parameter"}.get(
        first["type"], "invalid_value"
    )
    told = [_told(several) for several in about.values()]
    return ApiError(400, "; ".join(told)[: 8 * SHOWN], param=param, code=code)


def _told(errors: Sequence[Any]) -> str:
    """What is wrong with one field. The members of a union complain one by one about the same one."""
    first = errors[0]
    param = _path(first["loc"])
    if first["type"] == "missing":
        return f"the field {param!r} is missing; give it"
    if first["type"] == "extra_forbidden":
        return f"unknown field {param!r}; leave it out"
    said = "; or ".join(dict.fromkeys(_line(one["msg"].removeprefix("Value error, ")) for one in errors))[:400]
    return f"{param} is {_shown(first['input'])}: {said}" if param else said


def _path(loc: Sequence[int | str]) -> str:
    """The field's name as one writes it: `messages[0].content`. Names of union members are left out."""
    path = ""
    for part in loc:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part.isascii() and part.isdigit():  # a key that is a token id
            path += f".{part}"
        elif part.isidentifier() and not part[0].isupper() and part not in ("str", "int", "float", "bool", "dict"):
            path += f".{part}" if path else part
        elif not path:
            path = part[:SHOWN]
    return path


def _shown(value: Any) -> str:
    text = " ".join(_SHORT.repr(value).split())
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."


def _line(text: str) -> str:
    return " ".join(text.split())[: 2 * SHOWN]
