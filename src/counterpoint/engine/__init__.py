"""The decoding loop and the calls that use it."""

from counterpoint.engine.generate import generate, prepare, stream
from counterpoint.engine.loop import Engine
from counterpoint.engine.request import Completion, Observation, Progress, Request, TokenLogprob, Usage, describe

__all__ = [
    "Completion", "Engine", "Observation", "Progress", "Request", "TokenLogprob", "Usage",
    "describe", "generate", "prepare", "stream",
]  # fmt: skip
