"""`counterpoint eval`: a grid of guides, what it compares, and that nothing is computed twice."""

import io
import json
import math
import warnings
from pathlib import Path

import pytest
from click.testing import CliRunner

from counterpoint.errors import Failure, GuideError, UsageError
from counterpoint.guide import Guide
from tests.evaluate.tiny import write_jsonl

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("lm_eval")
    from counterpoint.cli.eval import command
    from counterpoint.evaluate import grid
    from counterpoint.evaluate.grid import run_grid
    from counterpoint.evaluate.tasks import lambada
    from counterpoint.evaluate.until import run_until

pytestmark = pytest.mark.filterwarnings("ignore")
CPU = {"device": "cpu", "dtype": "float32", "batch_size": 2}
GUIDES = [Guide(scale=1.0), Guide(scale=2.0), Guide(scale=2.0, space="prob")]
PASSAGES = [f"The {name} walked to the {place} and opened the old door" for name, place in
            [("king", "castle"), ("girl", "garden"), ("boy", "river"), ("doctor", "house"), ("captain", "ship")]]  # fmt: skip


@pytest.fixture
def passages(tmp_path) -> str:
    return write_jsonl(tmp_path / "passages.jsonl", [{"text": text} for text in PASSAGES])


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))


def figures(record) -> list[tuple]:
    return [(row["metric"], row["guide"], row["value"], row["low"], row["high"]) for row in record["rows"]]


def test_a_grid_is_each_guide_on_its_own(passages):
    together = run_grid([lambada(passages)], GUIDES, resamples=50, **CPU)
    assert [row["guide"] for row in together["rows"] if row["metric"] == "acc"] == [str(guide) for guide in GUIDES]
    assert together["computed"] == len(PASSAGES) * len(GUIDES)
    assert together["rows"][0]["gain"] is None and together["rows"][1]["gain"]["p"] <= 1
    assert together["versions"]["lm_eval"] and together["seed"] == 0
    for guide in GUIDES:
        alone = figures(run_grid([lambada(passages)], [guide], resamples=50, **CPU))
        for metric, text, value, *_ in alone:
            (want,) = [v for m, t, v, *_ in figures(together) if (m, t) == (metric, text)]
            assert value == pytest.approx(want, rel=1e-5)


def test_killed_in_the_middle_it_continues_and_computes_nothing_twice(passages, tmp_path, monkeypatch):
    counted, score = [], grid.score

    def dies(model, items, guides, *, on_batch, **options):
        def stop(numbers, scores):
            on_batch(numbers, scores)
            counted.extend(numbers)
            if len(counted) >= 4:
                raise Failure("killed")

        return score(model, items, guides, on_batch=stop, **options)

    monkeypatch.setattr(grid, "score", dies)
    with pytest.raises(Failure):
        run_grid([lambada(passages)], GUIDES, folder=tmp_path / "run", resamples=50, **CPU)
    assert len(counted) == 4
    monkeypatch.setattr(grid, "score", score)
    rest = run_grid([lambada(passages)], GUIDES, folder=tmp_path / "run", resamples=50, **CPU)
    assert rest["computed"] == (len(PASSAGES) - 4) * len(GUIDES)
    assert rest["reused"] == 4 * len(GUIDES)
    again = run_grid([lambada(passages)], GUIDES, folder=tmp_path / "run", resamples=50, **CPU)
    assert (again["computed"], again["reused"]) == (0, len(PASSAGES) * len(GUIDES))
    whole = run_grid([lambada(passages)], GUIDES, resamples=50, **CPU)
    for (*names, a, _, _), (*same, b, _, _) in zip(figures(again), figures(whole), strict=True):
        assert names == same and a == pytest.approx(b, rel=1e-5)


def test_written_texts_are_kept_too(tmp_path):
    data = write_jsonl(tmp_path / "data.jsonl", [{"text": text, "end": "x"} for text in PASSAGES[:2]])
    task = {
        "task": "written", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": data}},
        "test_split": "test", "output_type": "generate_until", "doc_to_text": "{{text}}", "doc_to_target": "{{end}}",
        "metric_list": [{"metric": "bleu"}], "generation_kwargs": {"until": ["\n"], "max_gen_toks": 4},
    }  # fmt: skip
    first = run_grid([task], GUIDES[:2], folder=tmp_path, resamples=20, **CPU)
    assert (first["computed"], first["reused"]) == (4, 0)
    assert run_grid([task], GUIDES[:2], folder=tmp_path, resamples=20, **CPU)["computed"] == 0


def test_a_sample_of_lambada_is_drawn_once(passages, tmp_path):
    task = lambada(passages, sample=3, seed=1, folder=tmp_path)
    path = Path(task["dataset_kwargs"]["data_files"]["test"])
    drawn = path.read_text()
    assert len(drawn.splitlines()) == 3 and set(drawn.splitlines()) <= set(Path(passages).read_text().splitlines())
    assert lambada(passages, sample=3, seed=1, folder=tmp_path) == task and path.read_text() == drawn


@pytest.mark.parametrize(
    ("tasks", "guides", "error", "message"),
    [
        (["no_such_task_of_ours"], GUIDES, UsageError, "unknown task 'no_such_task_of_ours'"),
        ([], GUIDES, UsageError, "there is no task"),
        (["lambada"], [], GuideError, "there is no guide"),
        (["lambada"], [Guide()], GuideError, "has no scale"),
        (["lambada"], [GUIDES[1], GUIDES[1]], GuideError, "given twice"),
    ],
)
def test_bad_input(tasks, guides, error, message):
    with pytest.raises(error, match=message):
        run_grid(tasks, guides, **CPU)


def test_bad_passages(tmp_path):
    for lines, message in (
        ([{"text": "one"}], "line 1 has no text that ends with a second word"),
        ([{"txt": "a b"}], "line 1"),
        ([{"text": "a b"}, {"text": "one two "}], "line 2 has no text that ends"),
        ([], "holds no passage"),
    ):
        with pytest.raises(UsageError, match=message):
            lambada(write_jsonl(tmp_path / "bad.jsonl", lines))
    with pytest.raises(UsageError, match="can't be read"):
        lambada(tmp_path / "missing.jsonl")


def test_the_command_prints_a_table_or_json(passages):
    runner = CliRunner()
    arguments = [
        "--lambada",
        passages,
        "--scales",
        "1,1.5",
        "--spaces",
        "log,prob",
        "--device",
        "cpu",
        "--dtype",
        "float32",
    ]
    shown = runner.invoke(command, arguments, catch_exceptions=False)
    assert "perplexity" in shown.output and "scale=1.5,space=prob" in shown.output and "seed 0" in shown.output
    record = json.loads(runner.invoke(command, [*arguments, "--json"], catch_exceptions=False).stdout)
    assert [guide["scale"] for guide in record["guides"]] == [1.0, 1.5, 1.5]
    with pytest.raises(UsageError, match="there is no task"):
        runner.invoke(command, [], catch_exceptions=False)


@pytest.mark.parametrize("is_terminal", [True, False])
def test_progress_is_shown_on_a_terminal_only(passages, monkeypatch, is_terminal):
    monkeypatch.setenv("TQDM_DISABLE", "1")  # as the command sets it, for the harness' own bars
    shown = io.StringIO()
    shown.isatty = lambda: is_terminal
    monkeypatch.setattr("sys.stderr", shown)
    run_grid([lambada(passages)], GUIDES[:1], resamples=50, **CPU)
    assert (f"{len(PASSAGES)}/{len(PASSAGES)}" in shown.getvalue() and "scoring" in shown.getvalue()) is is_terminal


def test_every_option_has_an_effect(passages, monkeypatch, tmp_path):
    """As the docs have it, without a device, on any machine; and what the model's options say is done."""
    runner, asked = CliRunner(), {}

    def seen(tasks, guides, **options):
        asked.update(options)
        return run_grid(tasks, guides, resamples=5, **options)

    monkeypatch.setattr(grid, "run_grid", seen)
    plain = ["--lambada", passages, "--scales", "1,1.5", "--json"]
    record = json.loads(runner.invoke(command, plain, catch_exceptions=False).stdout)
    assert record["dtype"] == "float32"
    rounded = [*plain, "--weights", "int8", "--no-compile"]
    other = json.loads(runner.invoke(command, rounded, catch_exceptions=False).stdout)
    assert (asked["weights"], asked["compile"]) == ("int8", False)
    assert other["weights"] != record["weights"] and other["rows"] != record["rows"]
    for given, needed in (
        (["task", "--sample", "3"], "--lambada"),
        (["task", "--spaces", "prob"], "--scales"),
        (["--lambada", passages, "--include", str(tmp_path)], "a task"),
        (["task", "--metric", "acc"], "--until"),
    ):
        with pytest.raises(UsageError, match=f"does nothing without {needed}"):
            runner.invoke(command, given, catch_exceptions=False)


@pytest.fixture
def many_passages(tmp_path) -> str:
    texts = [f"{text} of the {place}" for text in PASSAGES for place in
             ("town", "lord", "sea", "priest", "old man", "winter", "school", "great war", "forest", "city", "north", "queen")]  # fmt: skip
    return write_jsonl(tmp_path / "many.jsonl", [{"text": text} for text in texts])


def test_it_stops_when_one_guide_is_best(many_passages, tmp_path):
    guides = [Guide(scale=1.0), Guide(scale=5.0), Guide(scale=8.0)]
    options = {"resamples": 50, **CPU}
    found = run_until(
        [lambada(many_passages)], guides, until=0.95, metric="perplexity", folder=tmp_path / "run", **options
    )
    whole = run_grid([lambada(many_passages)], guides, **options)
    best = min((row for row in whole["rows"] if row["metric"] == "perplexity"), key=lambda row: row["value"])
    went = found["race"]
    assert went["best"] == best["guide"] == best["standing"]["guide"] and went["prob_best"] >= 0.95
    assert went["answers"] < went["grid"] == 180 and went["posterior"]["method"] == "Bayesian bootstrap"
    # What is reported is over the documents that were answered, and was computed once.
    assert {row["num_docs"] for row in found["rows"]} == {went["answers"] // 3} and found["computed"] == went["answers"]
    again = run_until(
        [lambada(many_passages)], guides, until=0.95, metric="perplexity", folder=tmp_path / "run", **options
    )
    assert again["computed"] == 0 and again["rows"] == found["rows"]


def test_an_incomplete_grid_is_summed_up_by_the_logistic_model(many_passages, monkeypatch):
    pytest.importorskip("numpyro")
    import numpy as np

    from counterpoint.evaluate import until
    from counterpoint.evaluate.race import Race

    answered = np.ones((60, 2), dtype=bool)
    answered[40:, 1] = False

    def half(num_documents, num_guides, ask, **_):
        ask(list(range(40)), [0, 1])
        ask(list(range(40, 60)), [0])
        return Race(0, 0.97, 100, 120, answered, (2, 1))

    monkeypatch.setattr(until, "race", half)
    guides = [Guide(scale=1.0), Guide(scale=2.0)]
    found = run_until([lambada(many_passages)], guides, until=0.95, metric="acc", resamples=50, **CPU)
    assert (
        found["race"]["posterior"]["method"] == "logistic model by NUTS" and found["race"]["posterior"]["r_hat"] <= 1.01
    )
    assert [row["num_docs"] for row in found["rows"] if row["metric"] == "acc"] == [60, 40]
    assert found["rows"][0]["gain"] is None and found["rows"][1]["gain"]["p"] <= 1


def test_what_cannot_be_raced_is_refused(passages):
    for tasks, guides, options, message in (
        ([lambada(passages)], GUIDES[:1], {}, "there is one guide"),
        ([lambada(passages), dict(lambada(passages), task="other")], GUIDES, {}, "there are 2 tasks"),
        ([lambada(passages)], GUIDES, {"metric": "f1"}, "no metric 'f1'; it has perplexity, acc"),
    ):
        with pytest.raises(UsageError, match=message):
            run_until(tasks, guides, until=0.95, **options, **CPU)
    shown = CliRunner().invoke(
        command,
        ["--lambada", passages, "--scales", "1,5", "--until", "0.95", "--metric", "perplexity"],
        catch_exceptions=False,
    )
    assert "after 10 of 10 answers" in " ".join(shown.output.split())


def test_answers_of_earlier_versions_are_found(tmp_path):
    """A key is a hash of the item's own key and of the guide's text form, as it has been from the first version on."""
    import hashlib
    import sqlite3

    from counterpoint.models.fingerprint import fingerprint
    from counterpoint.models.loading import load

    def hashed(*parts) -> str:
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    model, text = load("bundled"), PASSAGES[0]
    context = model.encode(text.rsplit(" ", 1)[0])
    item = {"context": context, "continuation": model.encode(text)[len(context) :], "negative": context[-1:]}
    file = sqlite3.connect(tmp_path / "answers.sqlite")
    file.execute("CREATE TABLE answers (key TEXT PRIMARY KEY, value TEXT NOT NULL)")
    for guide, logprob in (("scale=1.0", -1.0), ("scale=2.0", -2.0)):
        key = hashed(hashed("score", fingerprint(model.hf), item), guide)
        file.execute("INSERT INTO answers VALUES (?, ?)", (key, json.dumps([logprob, True])))
    file.commit()
    passages = write_jsonl(tmp_path / "one.jsonl", [{"text": text}])
    found = run_grid([lambada(passages)], GUIDES[:2], folder=tmp_path, resamples=5, **CPU)
    assert (found["computed"], found["reused"]) == (0, 2)
    assert [row["value"] for row in found["rows"] if row["metric"] == "perplexity"] == pytest.approx(
        [math.e, math.e**2]
    )
