"""A watch as a value: windows of good texts, and the distance from them at which it raises an alarm."""

from __future__ import annotations

import functools
import json
import os
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import numpy as np

from counterpoint.errors import UnsupportedError, UsageError
from counterpoint.watch.distance import (
    JUDGES,
    LEAST_GOOD,
    NAMES,
    USUAL,
    Array,
    Judge,
    bound,
    check_lengths,
    windows,
)  # fmt: skip
from counterpoint.watch.echo import FURTHEST, Echo
from counterpoint.watch.watching import Watching

if TYPE_CHECKING:
    from counterpoint.models.model import Model

FORMAT, VERSION = "counterpoint-watch", 2
WINDOW = 16
FALSE_ALARMS = 0.05
ECHO_SHARE = 0.8  # of the false alarms: what sees most is given most of them
DIGITS = 5  # after the point
FEATURES = ("numbers", "hidden")


class Settings(TypedDict):
    """What a watch is set to, as its arguments and its file name it."""

    window: int
    method: Literal["nearest", "forest"]
    features: Literal["numbers", "hidden"]
    numbers: tuple[str, ...]
    false_alarms: float
    echoes: bool


SETTINGS = tuple(Settings.__annotations__)


@dataclass(frozen=True, eq=False)
class Watch:
    """Raises an alarm where the last tokens of a text look like none of some good texts.

    A step has four numbers: the entropy of the prompt's branch, the log-probability of the chosen token there and in the
    guided distribution, and the branches' divergence. A window is known by the means of some of them over its tokens, and by
    its echo: how far its numbers, one by one, are those of an earlier part of the text (`watch.echo`). Each has its bound.

    Args:
        texts: for each good text, its steps' numbers, (T, 4) each; or its steps' states, (T, H).
        model: the fingerprint of the model that they are of; `model_name` is what messages call it.
        window: tokens of a window, 4 or more.
        method: "nearest", the mean distance to the 3 nearest good windows, or "forest", an isolation forest.
        features: "numbers", or "hidden": windows are known by the mean of the states that the prompt's branch predicts
            from. It needs a model with compile=False.
        numbers: of features "numbers", which of "entropy", "cond_logprob", "guided_logprob" and "divergence" windows are known by; the first
            three unless told otherwise, since the last did harm where it was measured.
        false_alarms: the share of good texts that may raise one, above 0 and below 0.5; sets the bounds.
        echoes: whether a window's echo is looked for. It needs `LEAST_GOOD` good texts of two windows and a token more;
            with fewer there is none, and `echo_bound` is None.

    Raises:
        UsageError: too few good texts, or one that is shorter than a window.
    """

    texts: Sequence[Array]
    model: str
    model_name: str = ""
    window: int = WINDOW
    method: Literal["nearest", "forest"] = "nearest"
    features: Literal["numbers", "hidden"] = "numbers"
    numbers: tuple[str, ...] = USUAL
    false_alarms: float = FALSE_ALARMS
    echoes: bool = True
    _known: weakref.WeakKeyDictionary[Any, str] = field(
        default_factory=weakref.WeakKeyDictionary, init=False, repr=False
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "numbers", (self.numbers,) if isinstance(self.numbers, str) else tuple(self.numbers))
        _check(**{name: getattr(self, name) for name in SETTINGS})
        check_lengths([len(text) for text in self.texts], self.window)
        # As a file has them, so that a watch and its file judge alike to the last bit.
        texts = tuple(np.round(np.asarray(text, dtype=np.float64), DIGITS) for text in self.texts)
        for number, text in enumerate(texts):
            width = text.shape[1] if self.hears_states and text.ndim == 2 else len(NAMES)
            if text.ndim != 2 or not width or text.shape[1] != width or not np.isfinite(text).all():
                raise UsageError(f"good text {number} has no {len(NAMES)} finite numbers for each step", param="good")
        object.__setattr__(self, "texts", texts)

    @classmethod
    def fit(
        cls,
        model: Model,
        good: Sequence[Any],
        *,
        window: int = WINDOW,
        method: Literal["nearest", "forest"] = "nearest",
        features: Literal["numbers", "hidden"] = "numbers",
        numbers: Sequence[str] = USUAL,
        false_alarms: float = FALSE_ALARMS,
        echoes: bool = True,
        **options: Any,
    ) -> Watch:
        """A watch from texts that are good.

        Args:
            model: the model that wrote them.
            good: (prompt, completion) each, 8 are enough: the prompt as `generate` takes it, with its branches where
                `contexts` made it, and the completion as a text, token ids or a `Completion`. Written under the guide that
                is to be watched, since the numbers depend on it.
            window, method, features, numbers, false_alarms, echoes: as in `Watch`.
            options: `negative`, `branches` and `guide` of all prompts, as in `generate`.

        Raises:
            UsageError: too few texts, one that is empty or shorter than a window, or an option of another kind.
        """
        from counterpoint.watch.fit import numbers_of

        settings: Settings = {
            "window": window, "method": method, "features": features, "false_alarms": false_alarms, "echoes": echoes,
            "numbers": (numbers,) if isinstance(numbers, str) else tuple(numbers),
        }  # fmt: skip
        _check(**settings)
        if features == "hidden":
            _check_states(model)
        texts = numbers_of(model, good, features=features, window=window, **options)
        return cls(texts, model.fingerprint, model.name, **settings)

    @functools.cached_property
    def judge(self) -> Judge:
        """What windows are judged by."""
        return self._judge_of(self.texts)

    def _judge_of(self, texts: Sequence[Array]) -> Judge:
        return JUDGES[self.method](np.concatenate([self._windows(text) for text in texts]))

    def _windows(self, numbers: Array) -> Array:
        return windows(numbers, self.window, () if self.hears_states else self.numbers)

    @property
    def hears_states(self) -> bool:
        """Whether a step is known by its states."""
        return self.features == "hidden"

    @functools.cached_property
    def bound(self) -> float:
        """The distance from good windows at which an alarm is raised: each good text is judged by the others."""
        largest = []
        for number, text in enumerate(self.texts):
            others = self._judge_of([*self.texts[:number], *self.texts[number + 1 :]])
            largest.append(float(others.distances(self._windows(text)).max()))
        return bound(largest, self.false_alarms * (1 if self.echo is None else 1 - ECHO_SHARE))

    @functools.cached_property
    def echo(self) -> Echo | None:
        """What tells echoes; None where they are not looked for."""
        found = Echo([self._steps(text) for text in self.texts], self.window)
        return found if self.echoes and len(self._long(found)) >= LEAST_GOOD else None

    @functools.cached_property
    def echo_bound(self) -> float | None:
        """The echo at which an alarm is raised; None where none is looked for."""
        if self.echo is None:
            return None
        largest = [float(self.echo.distances(self._steps(text)).max()) for text in self._long(self.echo)]
        return bound(largest, self.false_alarms * ECHO_SHARE)

    def _long(self, echo: Echo) -> list[Array]:
        return [text for text in self.texts if len(text) >= echo.shortest]

    def _steps(self, numbers: Array) -> Array:
        """Steps as echoes compare them: numbers by their roots, where being sure and being surer differ; states as parts
        of the good ones' mean size."""
        return numbers / self._size if self.hears_states else np.sqrt(np.abs(numbers[:, : len(USUAL)]))

    @functools.cached_property
    def _size(self) -> float:
        return float(np.mean([np.abs(text).mean() for text in self.texts])) or 1.0

    def scores(self, numbers: Array) -> Array:
        """How far each window of a text is from good ones; 1 and above raise an alarm. (T, 4) -> (T - window + 1,)."""
        numbers = np.asarray(numbers, dtype=np.float64)
        far = self.judge.distances(self._windows(numbers)) / self.bound
        if self.echo is None or self.echo_bound is None:
            return far
        return np.maximum(far, self.echo.distances(self._steps(numbers)) / self.echo_bound)

    def last_score(self, numbers: Array) -> float:
        """The score of the last window of a text."""
        far = float(self.judge.distances(self._windows(numbers[-self.window :]))[0]) / self.bound
        if self.echo is None or self.echo_bound is None:
            return far
        return max(far, self.echo.last(self._steps(numbers[-(FURTHEST + 1) * self.window :])) / self.echo_bound)

    def start(self) -> Watching:
        """A new text begins."""
        return Watching(self)

    def check(self, model: Model) -> None:
        """Refuse another model than the one it was fitted on.

        Raises:
            UnsupportedError: with both names.
        """
        if self.hears_states:
            _check_states(model)
        if model not in self._known:
            self._known[model] = model.fingerprint
        if self._known[model] != self.model:
            raise UnsupportedError(
                f"the watch is of another model, {self.model_name or self.model}, or of its weights in another form, and "
                f"this one is {model.name}; fit one on it",
                param="watch",
            )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it to a JSON file, whole or not at all.

        Raises:
            UsageError: the file can't be written.
        """
        path = Path(path)
        part = path.with_name(path.name + ".part")
        try:
            part.write_text(json.dumps(self.to_dict()), encoding="utf-8")
            os.replace(part, path)
        except OSError as error:
            raise UsageError(f"the watch can't be written to {str(path)!r}: {error.strerror}") from None
        finally:
            part.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Watch:
        """Read what `save` wrote.

        Raises:
            UsageError: there is no such file, or it holds no watch.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise UsageError(f"the watch {str(path)!r} can't be read: {reason}") from None
        try:
            record = json.loads(text)
            if not isinstance(record, Mapping) or record.get("format") != FORMAT:
                raise ValueError(f"it has no format {FORMAT!r}")
            if record["version"] not in (1, VERSION):
                raise ValueError(f"its version is {record['version']!r}, and this package reads 1 and {VERSION}")
            names = ("texts", "model", "model_name", *SETTINGS)
            fields = {name: record[name] for name in names if name != "echoes" or record["version"] != 1}
            fields.setdefault("echoes", False)  # the first version knew none
            return cls(**{**fields, "texts": [np.array(one, dtype=np.float64) for one in fields["texts"]]})
        except UnsupportedError:
            raise
        except (ValueError, KeyError, TypeError) as error:
            reason = f"it has no {error}" if isinstance(error, KeyError) else str(error)
            raise UsageError(f"the file {str(path)!r} is no watch: {reason}") from None

    def to_dict(self) -> dict[str, Any]:
        """The watch as plain JSON values."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "model": self.model,
            "model_name": self.model_name,
            "window": self.window,
            "method": self.method,
            "false_alarms": self.false_alarms,
            "bound": self.bound,
            "echoes": self.echoes,
            "echo_bound": self.echo_bound,
            "features": self.features,
            "numbers": list(self.numbers),
            "columns": [] if self.hears_states else list(NAMES),  # of the texts
            "texts": [text.tolist() for text in self.texts],
        }


def _check(
    *, window: object, method: object, features: object, numbers: tuple[str, ...], false_alarms: object, echoes: object
) -> None:
    """Refuse settings of a watch, before any text is read.

    Raises:
        UsageError: with the setting.
    """
    if isinstance(window, bool) or not isinstance(window, int) or window < 4:
        raise UsageError(f"window is {window!r}; use a whole number, 4 or more", param="window")
    if method not in JUDGES:
        raise UsageError(f"method is {method!r}; use {' or '.join(JUDGES)}", param="method")
    if features not in FEATURES:
        raise UsageError(f"features is {features!r}; use {' or '.join(FEATURES)}", param="features")
    unknown = [name for name in numbers if name not in NAMES]
    if unknown or not numbers or len(set(numbers)) < len(numbers):
        named = f"has {unknown[0]!r}" if unknown else "is empty" if not numbers else "names one twice"
        raise UsageError(f"numbers {named}; use some of {', '.join(NAMES)}", param="numbers")
    if isinstance(false_alarms, bool) or not isinstance(false_alarms, (int, float)) or not 0 < false_alarms < 0.5:
        raise UsageError(f"false_alarms is {false_alarms!r}; use a number above 0 and below 0.5", param="false_alarms")
    if not isinstance(echoes, bool):
        raise UsageError(f"echoes is {echoes!r}; use true or false", param="echoes")
    if method == "forest":
        _check_forest()


def _check_states(model: Model) -> None:
    if model.may_compile:
        raise UnsupportedError(
            f"compiled steps don't tell the states of {model.name}, which features='hidden' needs; load it with "
            "compile=False, or use features='numbers'",
            param="features",
        )


def _check_forest() -> None:
    import importlib.util

    if importlib.util.find_spec("sklearn") is None:
        raise UnsupportedError("an isolation forest needs scikit-learn; pip install '.[watch]', or method='nearest'")
