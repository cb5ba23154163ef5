"""Numbers for JSON, which has no infinity."""

from __future__ import annotations

LEAST_LOGPROB = -9999.0  # what OpenAI's API says of a token that can't come


def logprob(value: float) -> float:
    """A log-probability in nats; minus infinity, that of a given token which is ruled out, as `LEAST_LOGPROB`."""
    return value if value >= LEAST_LOGPROB else LEAST_LOGPROB
