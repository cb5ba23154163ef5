import random

from counterpoint.train.config import HeaderConfig, SourceConfig
from counterpoint.train.headers import header

BOOKS = SourceConfig("se", 1.0, {"genre": "Genre: {}.", "author": "Author: {}."}, lower=("genre",), vague=("Fiction",))
ALWAYS = HeaderConfig(drop_all=0, drop_field=0, shuffle=0)
CONDITIONS = {"genre": ("Fiction", "Mystery"), "author": ("G. K. Chesterton",)}


def test_fields_stand_in_order_and_vague_values_yield():
    assert header(CONDITIONS, BOOKS, ALWAYS, random.Random(0)) == "Genre: mystery. Author: G. K. Chesterton.\n\n"
    assert header({"genre": ("Fiction",)}, BOOKS, ALWAYS, random.Random(0)) == "Genre: fiction.\n\n"


def test_a_full_stop_is_not_doubled():
    assert header({"author": ("Anon.",)}, BOOKS, ALWAYS, random.Random(0)) == "Author: Anon.\n\n"


def test_more_than_three_values_say_nothing():
    assert header({"genre": ("A", "B", "C", "D")}, BOOKS, ALWAYS, random.Random(0)) == ""


def test_dropping_makes_none_one_and_several_all_common():
    config, rng = HeaderConfig(drop_all=0.2, drop_field=0.5, shuffle=0.5), random.Random(1)
    seen = [header(CONDITIONS, BOOKS, config, rng) for _ in range(2000)]
    shares = {text: seen.count(text) / len(seen) for text in set(seen)}
    assert 0.16 < shares[""] < 0.24
    assert 0.16 < shares["Genre: mystery.\n\n"] < 0.24
    assert 0.16 < shares["Author: G. K. Chesterton.\n\n"] < 0.24
    assert 0.07 < shares["Author: G. K. Chesterton. Genre: mystery.\n\n"] < 0.13


def test_required_fields_are_never_dropped_and_a_passage_comes_first():
    source = SourceConfig(
        "qa",
        1.0,
        {"question": "Question: {} Answer:"},
        required=("question",),
        before="passage",
        before_drop=0.5,
        joint=" ",
    )
    conditions = {"question": ("Who?",), "passage": ("A cat sat.",)}
    seen = {header(conditions, source, HeaderConfig(drop_all=1.0), random.Random(s)) for s in range(20)}
    assert seen == {"Question: Who? Answer:", "A cat sat.\n\nQuestion: Who? Answer:"}
