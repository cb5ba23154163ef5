"""A guided model as other platforms run it. Run by scripts/test-mlflow, where MLflow is."""

from __future__ import annotations

import os
import sys

import pytest

if "COUNTERPOINT_MLFLOW" in os.environ:
    sys.path.append(os.environ["COUNTERPOINT_MLFLOW"])
mlflow = pytest.importorskip("mlflow", reason="scripts/test-mlflow brings MLflow")
pandas = pytest.importorskip("pandas")
pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow's own

import counterpoint as cp
from counterpoint.errors import UsageError
from counterpoint.mlflow import guide_of, save_model

GREEDY = {"max_tokens": 6, "temperature": 0.0}


@pytest.fixture(scope="module")
def packaged(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mlflow") / "model"
    save_model(folder, "bundled", guide=cp.Guide(scale=2.0))
    return folder


@pytest.fixture(scope="module")
def model(packaged):
    return mlflow.pyfunc.load_model(str(packaged))


def test_answers_are_the_librarys(model):
    frame = pandas.DataFrame({"prompt": ["The door", "Once"], "negative": ["A list", "A table"]})
    got = model.predict(frame, params=GREEDY)
    want = cp.generate(
        cp.load("bundled"), ["The door", "Once"], negative=["A list", "A table"], guide=cp.Guide(scale=2.0), **GREEDY
    )
    assert got["text"].tolist() == [c.text for c in want]
    other = model.predict(frame, params={**GREEDY, "guidance": '{"scale": 5, "space": "prob"}'})
    guide = cp.Guide(scale=5, space="prob")
    assert (
        other["text"][0] == cp.generate(cp.load("bundled"), "The door", negative="A list", guide=guide, **GREEDY).text
    )


def test_a_stream_is_the_text_in_pieces(model):
    row = pandas.DataFrame({"prompt": ["The door"], "negative": ["A list"]})
    pieces = list(model.predict_stream(row, params=GREEDY))
    assert len(pieces) > 1 and "".join(pieces) == model.predict(row, params=GREEDY)["text"][0]


@pytest.mark.parametrize(
    "row, params, message",
    [
        ({"prompt": ["x"]}, {"guidance": '{"scael": 2}'}, "unknown guide field 'scael'"),
        ({"prompt": ["x"]}, {"guidance": "{"}, "guidance is no JSON"),
        ({"negative": ["x"]}, {}, "both or neither of prompt and messages"),
        ({"prompt": ["x"], "system": ["y"]}, {}, "system is for messages"),
    ],
)
def test_mistakes_are_errors(model, row, params, message):
    with pytest.raises(UsageError, match=message):
        model.predict(pandas.DataFrame(row), params=params)


def test_nothing_is_pickled(packaged):
    assert not [path for path in packaged.rglob("*") if path.suffix in (".pkl", ".pickle", ".cloudpickle")]


def test_settings_are_checked(tmp_path):
    for settings in ({"guidance": 3}, {"guide": "scale=3"}):
        with pytest.raises(UsageError):
            save_model(tmp_path / "model", "bundled", **settings)
    assert guide_of("scale=3", None) == cp.Guide(scale=3) and guide_of(" ", None) is None
