"""A guided model as other platforms run it. Run by scripts/test-mlflow, where MLflow is."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from patience import PATIENCE_S, http, wait_for

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
    folder = tmp_path_factory.mktemp("mlflow") / "packaged"
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


@pytest.fixture
def command():
    """MLflow's command line in a process of its own."""
    folders = [os.environ.get("COUNTERPOINT_MLFLOW", ""), *sys.path]
    env = os.environ | {
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(folder for folder in sys.path + folders if folder)),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),  # where uvicorn is
    }
    return lambda *args: ([sys.executable, "-m", "mlflow", "models", *args], env)


ASKED = {"dataframe_records": [{"prompt": "The door", "negative": "A list"}], "params": GREEDY}


def test_mlflow_models_predict(packaged, command, tmp_path, model):
    given, told = tmp_path / "in.json", tmp_path / "out.json"
    given.write_text(json.dumps(ASKED))
    arguments, env = command(
        "predict", "-m", str(packaged), "-i", str(given), "-o", str(told), "--env-manager", "local"
    )
    subprocess.run(arguments, env=env, check=True, capture_output=True, timeout=PATIENCE_S)
    want = model.predict(pandas.DataFrame(ASKED["dataframe_records"]), params=GREEDY).to_dict("records")
    assert json.loads(told.read_text())["predictions"] == want


def test_mlflow_models_serve(packaged, command, model):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    arguments, env = command("serve", "-m", str(packaged), "--env-manager", "local", "-p", str(port))
    process = subprocess.Popen(arguments, env=env, start_new_session=True)
    base = f"http://127.0.0.1:{port}"

    def answers():
        assert process.poll() is None
        with contextlib.suppress(httpx.HTTPError):
            return http.get(f"{base}/ping").status_code == 200

    try:
        wait_for(answers)
        want = model.predict(pandas.DataFrame(ASKED["dataframe_records"]), params=GREEDY).to_dict("records")
        done = http.post(f"{base}/invocations", json=ASKED)
        assert done.json()["predictions"] == want
        wrong = {**ASKED, "params": {"guidance": '{"scael": 2}'}}
        refused = http.post(f"{base}/invocations", json=wrong)
        assert refused.status_code >= 400 and "unknown guide field 'scael'" in refused.text
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=PATIENCE_S)


def test_what_a_batch_endpoint_runs(packaged, tmp_path, monkeypatch, model):
    code = Path(__file__).parents[2] / "examples" / "azure" / "code"
    monkeypatch.syspath_prepend(str(code))
    import score

    monkeypatch.setenv("AZUREML_MODEL_DIR", str(packaged.parent))
    rows = [
        {"prompt": "The door", "negative": "A list", "id": "a", "params": GREEDY},
        {"prompt": "Once", "params": {**GREEDY, "max_tokens": 3}},
        {"negative": "no prompt", "params": GREEDY},
        {"prompt": "Once", "negative": "A table", "params": GREEDY},
    ]
    given = tmp_path / "part.jsonl"
    given.write_text("".join(json.dumps(row) + "\n" for row in rows) + "{broken\n\n")
    score.init()
    told = [json.loads(line) for line in score.run([str(given)])]
    assert [one["line"] for one in told] == [1, 2, 3, 4, 5] and told[0]["id"] == "a"
    for one, row in zip(told, rows):
        if row.get("prompt"):
            params, frame = row["params"], pandas.DataFrame([{k: row[k] for k in ("prompt", "negative") if k in row}])
            assert one["text"] == model.predict(frame, params=params)["text"][0]
    assert "both or neither of prompt and messages" in told[2]["error"] and "not a JSON object" in told[4]["error"]
    del sys.modules["score"]


def test_nothing_is_pickled(packaged):
    assert not [path for path in packaged.rglob("*") if path.suffix in (".pkl", ".pickle", ".cloudpickle")]


def test_settings_are_checked(tmp_path):
    for settings in ({"guidance": 3}, {"guide": "scale=3"}):
        with pytest.raises(UsageError):
            save_model(tmp_path / "model", "bundled", **settings)
    assert guide_of("scale=3", None) == cp.Guide(scale=3) and guide_of(" ", None) is None
