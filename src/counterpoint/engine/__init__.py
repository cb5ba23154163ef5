"""The decoding loop and the calls that use it."""

from counterpoint.engine.generate import generate, prepare, stream
from counterpoint.engine.loop import Engine
from counterpoint.engine.options import Options, RequestOptions
from counterpoint.engine.request import Completion, Observation, Progress, Request, TokenLogprob, Usage, describe

__all__ = [
    "Completion", "Engine", "Observation", "Options", "Progress", "Request", "RequestOptions",
    "TokenLogprob", "Usage",
    "describe", "generate", "prepare", "stream",
]  # fmt: skip
