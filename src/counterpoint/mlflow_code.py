"""The model that MLflow loads: this file is copied beside the weights and run there."""

from __future__ import annotations

import json
from typing import Any

import mlflow.models
import mlflow.pyfunc

import counterpoint as cp
from counterpoint.contexts import chat, chat_prompt
from counterpoint.errors import UsageError
from counterpoint.guide import Guide
from counterpoint.mlflow import COLUMNS, PARAMS, guide_of


class GuidedModel(mlflow.pyfunc.PythonModel):
    """Texts under guidance, one for each row."""

    def load_context(self, context: Any) -> None:
        with open(context.artifacts["settings"]) as file:
            self._settings = json.load(file)
        source = context.artifacts.get("weights") or self._settings["model"]
        options = {name: self._settings[name] for name in ("dtype", "weights") if name in self._settings}
        self._model = cp.load(source, **options)
        kept = self._settings["guide"]
        self._guide = None if kept is None else Guide.from_dict(kept)

    def predict(self, context, model_input, params=None):  # MLflow reads type hints as a schema
        """A frame of texts and finish reasons. Rows of one call go through the model together."""
        import pandas

        guide, options = self._options(params)
        rows = [self._row(row, guide) for row in _rows(model_input)]
        seed = options.pop("seed")
        done = cp.generate(
            self._model,
            [prompt for prompt, _ in rows],
            negative=[negative for _, negative in rows],
            guide=guide,
            seed=None if seed < 0 else [seed + number for number in range(len(rows))],
            **options,
        )
        return pandas.DataFrame({"text": [c.text for c in done], "finish_reason": [c.finish_reason for c in done]})

    def predict_stream(self, context, model_input, params=None):
        """The text of one row, piece by piece."""
        guide, options = self._options(params)
        rows = [self._row(row, guide) for row in _rows(model_input)]
        if len(rows) != 1:
            raise UsageError(f"a stream shows one text and there are {len(rows)} rows; send one")
        seed = options.pop("seed")
        (prompt, negative), *_ = rows
        yield from map(str, cp.stream(
            self._model, prompt, negative=negative, guide=guide, seed=None if seed < 0 else seed, **options
        ))  # fmt: skip

    def _options(self, params: dict[str, Any] | None) -> tuple[Guide | None, dict[str, Any]]:
        options = {**PARAMS, **(params or {})}
        guide = guide_of(options.pop("guidance"), self._guide)
        options["stop"] = [options["stop"]] if options["stop"] else []
        return guide, options

    def _row(self, row: dict[str, Any], guide: Guide | None) -> tuple[Any, Any]:
        """The prompt and the negative of a row. Raises `UsageError`."""
        given = {name: row.get(name) if row.get(name) is not None else self._settings.get(name) for name in COLUMNS}
        if (given["prompt"] is None) == (given["messages"] is None):
            raise UsageError("a row has both or neither of prompt and messages; give one of them", param="prompt")
        if given["messages"] is None:
            for name in ("system", "negative_system"):
                if row.get(name) is not None:
                    raise UsageError(f"{name} is for messages and the row has a prompt; leave it out", param=name)
            return given["prompt"], given["negative"]
        if row.get("negative") is not None:
            raise UsageError("negative is for a prompt and the row has messages; use negative_system", param="negative")
        messages = [dict(message) for message in given["messages"]]
        if given["system"] is not None:
            messages.insert(0, {"role": "system", "content": given["system"]})
        negative = given["negative_system"]
        if negative is None:
            return chat_prompt(self._model, messages), None
        return chat(self._model, messages, negative=negative), None


def _rows(model_input: Any) -> list[dict[str, Any]]:
    """Rows without what is missing in them."""
    import pandas

    if isinstance(model_input, dict) and not any(isinstance(value, (list, tuple)) for value in model_input.values()):
        model_input = [model_input]  # a stream's one row comes as its fields
    frame = model_input if isinstance(model_input, pandas.DataFrame) else pandas.DataFrame(model_input)
    rows = []
    for row in frame.to_dict("records"):
        kept = {name: value for name, value in row.items() if isinstance(value, (list, dict)) or not _missing(value)}
        unknown = [name for name in kept if name not in COLUMNS]
        if unknown:
            raise UsageError(f"unknown column {unknown[0]!r}; known are {', '.join(COLUMNS)}", param=unknown[0])
        rows.append(kept)
    return rows


def _missing(value: Any) -> bool:
    return value is None or value != value


mlflow.models.set_model(GuidedModel())
