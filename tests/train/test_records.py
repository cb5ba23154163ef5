import json
import lzma

import pytest

from counterpoint.errors import UsageError
from counterpoint.train.records import Broken, find_file, normalise, read_records


def test_quotes_dashes_and_spaces_have_one_style():
    assert normalise("“It’s”\u00a0well-\u2060known -- so…") == '"It\'s" well-known — so...'


def test_hard_wraps_are_undone_and_verse_is_not():
    wrapped = "This line of prose is as long as a page is wide,\nand so goes on here.\n\nNext."
    assert normalise(wrapped) == "This line of prose is as long as a page is wide, and so goes on here.\n\nNext."
    assert normalise("Short lines\nof a poem\nstay") == "Short lines\nof a poem\nstay"


def write(path, lines):
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_broken_records_are_named_skipped_and_counted(tmp_path):
    good = {
        "text": "Good.",
        "cond": {"genre": ["A", "B"], "year": 1900, "author": "[pseud.] X", "none": None},
        "source": "s",
    }
    write(
        tmp_path / "a.jsonl",
        [
            json.dumps(good),
            "{not json",
            json.dumps({"cond": {}}),
            "",
            json.dumps({"text": " "}),
            json.dumps({"text": "x", "cond": []}),
            json.dumps({"text": "\ufffd" * 5}),
            json.dumps(good),
        ],
    )
    broken = Broken()
    records = list(read_records(tmp_path / "a.jsonl", broken=broken))
    assert [r.text for r in records] == ["Good.", "Good."]
    assert records[0].conditions == {"genre": ("A", "B"), "year": ("1900",), "author": ("X",)}
    assert broken.count == 5
    assert broken.first[0] == "a.jsonl:2: is not JSON"
    assert broken.first[2] == "a.jsonl:5: its text is empty"


def test_only_keeps_one_split(tmp_path):
    write(tmp_path / "a.jsonl", [json.dumps({"text": s, "split": s, "cond": {}}) for s in ("train", "test")])
    broken = Broken()
    assert [r.text for r in read_records(tmp_path / "a.jsonl", only="split=train", broken=broken)] == ["train"]
    assert broken.count == 0


def test_a_truncated_file_gives_what_it_holds(tmp_path):
    line = json.dumps({"text": "word " * 50, "cond": {}}) + "\n"
    whole = lzma.compress((line * 4000).encode())
    (tmp_path / "a.jsonl.xz").write_bytes(whole[: len(whole) // 2])
    broken = Broken()
    list(read_records(tmp_path / "a.jsonl.xz", broken=broken))
    assert broken.count == 1
    assert "the file ends or breaks here" in broken.first[0]


def test_a_missing_file_says_what_was_looked_for(tmp_path):
    with pytest.raises(UsageError, match=r"no a.jsonl.xz or a.jsonl in"):
        find_file(tmp_path, "a")
