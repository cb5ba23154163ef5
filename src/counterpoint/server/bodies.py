"""From the bytes of a request to the fields that ask for something, strictly."""

from __future__ import annotations

import codecs
from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from counterpoint.errors import UsageError
from counterpoint.server.errors import ApiError, from_usage, from_validation
from counterpoint.wire import asked
from counterpoint.wire.presets import with_preset

B = TypeVar("B", bound=BaseModel)


def read_fields(kind: type[B], data: bytes) -> B:
    """The body of a request; fields at their neutral value are left out.

    Raises:
        ApiError: it is no JSON object, or has fields that are unknown, missing or can't be.
    """
    return validated(kind, lambda: asked(with_preset(read_object(data)), kind.model_fields))


def read_object(data: bytes) -> dict[str, Any]:
    """The JSON object in a body. Raises `ApiError`."""
    try:
        fields = from_json(data.removeprefix(codecs.BOM_UTF8), allow_inf_nan=False)
    except ValueError as error:
        said = " ".join(str(error).split())[:200]
        what = "has half a character" if "hex escape" in said else "is no JSON"
        raise ApiError(400, f"the body {what}: {said}", code="invalid_json") from None
    if not isinstance(fields, dict):
        raise ApiError(400, f"the body is a {type(fields).__name__}; send a JSON object", code="invalid_json")
    return fields


def validated(kind: type[B], fields: Callable[[], dict[str, Any]]) -> B:
    """Fields as a value of their schema. Raises `ApiError`."""
    try:
        return kind.model_validate(fields())
    except ValidationError as error:
        raise from_validation(error) from None
    except UsageError as error:
        raise from_usage(error) from None
