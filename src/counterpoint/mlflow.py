"""A guided model packaged for MLflow: models from code, weights as an artefact, nothing pickled.

    counterpoint.mlflow.save_model("packaged", "smollm2", guide=Guide(scale=1.5), negative_system="Answer at great length.")
    mlflow models serve -m packaged --env-manager local

Rows have a `prompt` or `messages`, and `negative`, `system` or `negative_system` where they want. The guide is ONE parameter,
`guidance`, a text such as `scale=2,space=prob` or JSON: MLflow drops parameters that it does not know, so a guide spread over
several of them could lose one in silence. A field that a guide does not have is an error.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from counterpoint import __version__
from counterpoint.errors import UsageError
from counterpoint.guide import Guide

CODE = Path(__file__).with_name("mlflow_code.py")
COLUMNS = ("prompt", "messages", "negative", "system", "negative_system")
#: parameters and their defaults, which also say their types to MLflow; -1 is no seed
PARAMS: dict[str, Any] = {"guidance": "", "max_tokens": 128, "temperature": 1.0, "top_p": 1.0, "seed": -1, "stop": ""}


def save_model(path: str | Path, model: str | Path, **settings: Any) -> None:
    """Write a folder that `mlflow models serve` and `mlflow.pyfunc.load_model` take.

    Args:
        path: of the folder; it must not be there.
        model: "bundled", "smollm2", a model folder, or a hub id. A folder's files are copied; others are loaded by name.
        guide: for requests without `guidance`. negative, system, negative_system: for rows that have none.
        dtype, weights: as in `counterpoint.load`.

    Raises:
        UsageError: a setting is unknown, or the model can't be loaded.
    """
    import mlflow.pyfunc

    with _packaged(model, settings) as arguments:
        mlflow.pyfunc.save_model(path=str(path), **arguments)


def log_model(name: str, model: str | Path, **settings: Any) -> Any:
    """The same into the active MLflow run. Returns MLflow's own description of the logged model.

    Args:
        name: of the artefact. The others as in `save_model`; `registered_model_name` too.
    """
    import mlflow.pyfunc

    registered = settings.pop("registered_model_name", None)
    with _packaged(model, settings) as arguments:
        return mlflow.pyfunc.log_model(name=name, registered_model_name=registered, **arguments)


class _packaged:
    """What MLflow is given, in a folder that lasts as long as the block."""

    def __init__(self, model: str | Path, settings: Mapping[str, Any]) -> None:
        known = ("guide", "negative", "system", "negative_system", "dtype", "weights")
        for name in settings:
            if name not in known:
                raise UsageError(f"unknown setting {name!r}; known are {', '.join(known)}", param=name)
        guide = settings.get("guide")
        if guide is not None and not isinstance(guide, Guide):
            raise UsageError(f"guide is {guide!r}; use counterpoint.Guide(scale=...)", param="guide")
        self._model, self._settings = model, dict(settings)

    def __enter__(self) -> dict[str, Any]:
        import pandas
        from mlflow.models import infer_signature

        self._folder = tempfile.TemporaryDirectory()
        folder = Path(self._folder.name)
        guide = self._settings.pop("guide", None)
        kept = {name: value for name, value in self._settings.items() if value is not None}
        kept |= {"guide": None if guide is None else guide.to_dict(), "model": str(self._model)}
        artifacts = {}
        if Path(self._model).exists():
            kept["model"] = None
            artifacts["weights"] = str(Path(self._model).absolute())
        (folder / "settings.json").write_text(json.dumps(kept))
        artifacts["settings"] = str(folder / "settings.json")
        code = folder / CODE.name
        shutil.copy(CODE, code)
        example = pandas.DataFrame({"prompt": ["The door"], "negative": ["A list"]})
        signature = infer_signature(example, pandas.DataFrame({"text": ["x"], "finish_reason": ["stop"]}), PARAMS)
        return {
            "python_model": str(code),
            "artifacts": artifacts,
            "signature": _optional(signature),
            "pip_requirements": [f"counterpoint=={__version__}"],
        }

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()


def _optional(signature: Any) -> Any:
    """All columns, none of them required: a row has a prompt or messages."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import AnyType

    columns = [
        ColSpec(AnyType() if name == "messages" else DataType.string, name=name, required=False) for name in COLUMNS
    ]
    return ModelSignature(inputs=Schema(columns), outputs=signature.outputs, params=signature.params)


def guide_of(text: str, default: Guide | None) -> Guide | None:
    """The guide that the parameter `guidance` asks for.

    Raises:
        UsageError: it is no guide, or has a field that a guide does not have.
    """
    text = text.strip()
    if not text:
        return default
    if not text.startswith("{"):
        return Guide.parse(text)
    try:
        fields = json.loads(text)
    except ValueError as error:
        raise UsageError(
            f"guidance is no JSON ({error}); use scale=2,space=prob or an object", param="guidance"
        ) from None
    return Guide.from_dict(fields)
