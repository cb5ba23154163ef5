import json
import random
from pathlib import Path

import numpy as np
import pytest

from counterpoint.errors import UsageError
from counterpoint.train.config import read_config
from counterpoint.train.corpus import open_corpus, shingles
from counterpoint.train.tokenizer import BOS
from counterpoint.train.windows import Windows


def silent(line: str) -> None:
    pass


def opened(config_path: Path, data: Path):
    config = read_config(config_path)
    return config, open_corpus(config, data, data.parent, say=silent)


def test_shingles_count_runs_and_ignore_case_and_punctuation():
    assert len(shingles("one two three four", words=3)) == 2
    assert list(shingles("One, two. THREE", words=3)) == list(shingles("one two three", words=3))
    assert list(shingles("one three two", words=3)) != list(shingles("one two three", words=3))
    assert len(shingles("short", words=13)) == 1
    assert len(shingles("")) == 0


def test_held_out_books_and_their_copies_are_not_trained_on(config_path, data, book, prose):
    rng = random.Random(9)
    held = prose(rng, 40)
    records = [
        book("book/held", "X", [], held),
        book("book/one", "X", [], prose(rng, 50)),
        book("other/edition", "X", [], prose(rng, 3) + " " + held.upper()),
    ]
    (data / "books.jsonl.xz").unlink()
    (data / "books.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    _, corpus = opened(config_path, data)
    assert corpus.report["files"]["books"]["leaked"] == 1
    assert "other/edition" not in corpus.groups
    assert [corpus.groups[g] for g in corpus.group[corpus.held]] == ["book/held"]


def test_the_cache_is_read_again_and_an_unfinished_one_is_not(config_path, data):
    config, corpus = opened(config_path, data)
    for path in data.iterdir():
        path.unlink()
    again = open_corpus(config, data, data.parent, say=silent)
    assert np.array_equal(again.tokens, corpus.tokens)
    assert again.conditions == corpus.conditions
    cache = data.parent / f"corpus-{config.fingerprint(with_model=False)}"
    (cache / "done").unlink()
    with pytest.raises(UsageError, match="no books.jsonl"):
        open_corpus(config, data, data.parent, say=silent)


def test_nothing_to_train_on_is_said(config_path, data):
    config_path.write_text(config_path.read_text().replace('"book/held"', '"book/held", "book/one", "book/two", "qa"'))
    with pytest.raises(UsageError, match="no record to train on"):
        opened(config_path, data)


def test_rows_are_full_repeatable_and_of_training_text(config_path, data):
    config, corpus = opened(config_path, data)
    windows = Windows(corpus, config)
    batch = windows.batch(5, 16, 32)
    assert batch.shape == (16, 33)
    assert np.array_equal(batch, Windows(corpus, config).batch(5, 16, 32))
    assert not np.array_equal(batch, windows.batch(6, 16, 32))
    assert (batch[:, 0] == corpus.tokenizer.token_to_id(BOS)).all()
    held = corpus.text_ids(int(np.flatnonzero(corpus.held)[0])).tolist()
    runs = {tuple(held[i : i + 16]) for i in range(len(held) - 15)}
    for row in windows.batch(1, 64, 64).tolist():
        assert not any(tuple(row[i : i + 16]) in runs for i in range(len(row) - 15))


def test_late_rows_come_by_late_shares(config_path, data):
    text = (
        config_path.read_text()
        .replace("share = 0.6", "share = 1000\nlate_share = 0.001")
        .replace("share = 0.4", "share = 0.001\nlate_share = 1000")
    )
    config_path.write_text(text.replace("steps = 12", "steps = 12\nlate = 0.5"))
    config, corpus = opened(config_path, data)
    windows = Windows(corpus, config)
    for step, has_question in ((0, False), (5, False), (6, True), (11, True)):
        rows = [corpus.tokenizer.decode(row.tolist()) for row in windows.batch(step, 6, 64)]
        assert any("Question: " in row for row in rows) == has_question


def test_a_short_record_is_header_text_end(config_path, data):
    config, corpus = opened(config_path, data)
    record = int(np.flatnonzero(corpus.source == 1)[0])
    seen = {
        corpus.tokenizer.decode(
            Windows(corpus, config).document(record, 200, random.Random(s)).tolist(), skip_special_tokens=False
        )
        for s in range(8)
    }
    question = corpus.conditions[record]["question"][0]
    passage = corpus.conditions[record]["passage"][0]
    answer = f"Question: {question} Answer: The cat.</s>"
    assert seen == {f"<s>{answer}", f"<s>{passage}\n\n{answer}"}


def test_validation_counts_the_bytes_of_its_targets(config_path, data):
    config, corpus = opened(config_path, data)
    rows, sizes = Windows(corpus, config).validation(0, 3, 32)
    assert rows.shape == (3, 33)
    for row, size in zip(rows, sizes):
        assert len(corpus.tokenizer.decode(row[1:].tolist()).encode()) == size
    assert Windows(corpus, config).validation(1, 3, 32)[0].shape == (0, 33)
