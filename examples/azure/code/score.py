"""What a batch endpoint runs on each of its machines: files of JSON lines in, one JSON line for each row out.

A line has the columns of the packaged model (`prompt` or `messages`, `negative`, ...), and may have `id` and `params`, which has
the model's parameters (`guidance`, `max_tokens`, ...). Lines with the same parameters go through the model together.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pandas

ROWS = 64  # lines that go through the model together
model = None


def init() -> None:
    """Called once a process: load the model."""
    import mlflow

    global model
    model = mlflow.pyfunc.load_model(str(Path(os.environ["AZUREML_MODEL_DIR"]) / "packaged"))


def run(mini_batch: list[str]) -> list[str]:
    """Called for some files: their answers in the order of their lines. A broken line is an answer that says so."""
    told: list[str] = []
    for name in map(Path, mini_batch):
        lines = [(number, text) for number, text in enumerate(name.read_text().splitlines(), 1) if text.strip()]
        for first in range(0, len(lines), ROWS):
            told += _answers(name.name, lines[first : first + ROWS])
    return told


def _answers(file: str, lines: list[tuple[int, str]]) -> list[str]:
    found: dict[int, dict] = {}
    alike: dict[str, list[tuple[int, dict]]] = {}
    for number, text in lines:
        try:
            row = dict(json.loads(text))
            found[number] = {"file": file, "line": number, "id": row.pop("id", None)}
            alike.setdefault(json.dumps(row.pop("params", {}), sort_keys=True), []).append((number, row))
        except (ValueError, TypeError) as error:
            found[number] = {"file": file, "line": number, "error": f"not a JSON object: {error}"}
    for params, rows in alike.items():
        for number, answer in _predicted(rows, json.loads(params)).items():
            found[number] |= answer
    return [json.dumps(found[number]) for number, _ in lines]


def _predicted(rows: list[tuple[int, dict]], params: dict) -> dict[int, dict]:
    try:
        answers = model.predict(pandas.DataFrame([row for _, row in rows]), params=params).to_dict("records")
        return {number: answer for (number, _), answer in zip(rows, answers)}
    except Exception as error:  # of one row or of all: tried one by one, it is the error of the rows that it is about
        if len(rows) == 1:
            return {rows[0][0]: {"error": " ".join(str(error).split())[:1000]}}
    return {number: answer for one in rows for number, answer in _predicted([one], params).items()}
