"""Every error the package raises on purpose. Each message is one line: what was wrong, the value, what to do.

CounterpointError
├── UsageError (also ValueError)      the caller can mend it; exit status 2, HTTP 400
│   ├── GuideError                    a guide, a branch or a weight
│   ├── PromptError                   a prompt or a context: empty, not text
│   │   └── TooLongError              more tokens than the model's context, or a server's limit, holds
│   ├── FieldError                    a field of a request is unknown, or asks for what can't be done
│   │   └── UnknownFieldError         nobody knows it
│   ├── SamplingError                 temperature, top-p, penalties, limits
│   │   └── NothingLeftError          the constraints on the output leave no token
│   ├── ConstraintError               a constraint on the output can't be read, or can't be kept
│   ├── ModelError                    a model folder: missing, truncated, not a causal model
│   └── UnsupportedError              this model or this combination cannot do that
└── Failure (also RuntimeError)       nobody's mistake; exit status 1, HTTP 500

NoEffectWarning (UserWarning)         what was asked for is allowed and changes nothing
CompileWarning (UserWarning)          steps run uncompiled
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

_PACKAGE = str(Path(__file__).parent)


class CounterpointError(Exception):
    """Base of all errors that the package raises on purpose."""


class UsageError(CounterpointError, ValueError):
    """Something that the caller gave is wrong.

    Args:
        message: one line: what was wrong, the value, what to do.
        param: the argument or field to blame, as the caller wrote it; None where it is no single one.
    """

    #: what a program can tell the error by, in OpenAI's words; None where the message says it all
    code: str | None = None

    def __init__(self, message: str = "", *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class GuideError(UsageError):
    """A guide, a branch or a weight is out of range."""


class PromptError(UsageError):
    """A prompt or another context can't be used."""


class TooLongError(PromptError):
    """A context has more tokens than fit."""

    code = "context_length_exceeded"


class FieldError(UsageError):
    """A field of a request is unknown, or asks for what can't be done."""

    code = "unsupported_parameter"


class UnknownFieldError(FieldError):
    """Fields that nobody knows."""

    code = "unknown_parameter"


class SamplingError(UsageError):
    """A sampling parameter or a limit is out of range."""


class NothingLeftError(SamplingError):
    """The constraints on the output rule out every token."""


class ConstraintError(UsageError):
    """A constraint on the output can't be read, or can't be kept on this model."""


class ModelError(UsageError):
    """A model can't be loaded from where the caller pointed."""


class UnsupportedError(UsageError):
    """The model, or the combination of arguments, can't do what was asked for."""


class Failure(CounterpointError, RuntimeError):
    """Something failed that the caller did not cause."""


class NoEffectWarning(UserWarning):
    """An argument is valid and changes nothing.

    Args:
        message: one line.
        field: the argument that is the cause, where one is.
    """

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class CompileWarning(UserWarning):
    """Steps can't be compiled on this machine or for this model; they run as they are."""


def warn(warning: Warning) -> None:
    """Warn at the line of the caller's that called the package."""
    level, frame = 1, sys._getframe()
    while frame is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        level, frame = level + 1, frame.f_back
    warnings.warn(warning, stacklevel=level)
