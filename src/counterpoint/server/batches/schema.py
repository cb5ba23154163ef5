"""The fields of a job's request."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from counterpoint.server.batches.record import seconds_of
from counterpoint.server.schema import Wire


class ExpiresAfter(Wire):
    anchor: Literal["created_at"]
    seconds: Annotated[int, Field(ge=1, lt=2**31)]


class BatchBody(Wire):
    """`POST /v1/batches`."""

    input_file_id: str
    endpoint: Literal["/v1/completions", "/v1/chat/completions", "/v1/responses"]
    completion_window: str = Field(
        description="24h, or another time as 90s, 30m, 7d; what is not run by then is told as expired"
    )
    metadata: Annotated[dict[str, str], Field(max_length=16)] | None = None
    output_expires_after: ExpiresAfter | None = None

    @field_validator("completion_window")
    @classmethod
    def _is_a_time(cls, given: str) -> str:
        if seconds_of(given) is None:
            raise ValueError("use a number and s, m, h or d, as 24h")
        return given

    @field_validator("metadata")
    @classmethod
    def _is_short(cls, given: dict[str, str] | None) -> dict[str, str] | None:
        for name, value in (given or {}).items():
            if len(name) > 64 or len(value) > 512:
                raise ValueError(f"{name[:64]!r} or its value is too long; use up to 64 and 512 characters")
        return given
