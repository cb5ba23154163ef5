import json
import lzma
import random
from collections.abc import Callable
from pathlib import Path

import pytest

CONFIG = """
seed = 3
held_out = ["book/held"]
[tokenizer]
vocab = 320
sample_bytes = 100000
[model]
width = 32
layers = 1
heads = 2
inner = 48
positions = 64
[schedule]
steps = 12
batch_tokens = 256
micro_tokens = 128
window = 32
long_window = 64
long = 0.25
warmup = 2
validate_every = 4
validate_windows = 2
checkpoint_s = 0
[[source]]
file = "books"
share = 0.6
fields = { genre = "Genre: {}.", author = "Author: {}." }
lower = ["genre"]
vague = ["Fiction"]
[[source]]
file = "questions"
share = 0.4
fields = { question = "Question: {} Answer:" }
required = ["question"]
before = "passage"
before_drop = 0.5
joint = " "
only = "split=train"
"""

WORDS = "the cat and a dog went over hill river house green old king queen saw ran said never again wolf".split()


def write_prose(rng: random.Random, sentences: int) -> str:
    return " ".join(" ".join(rng.choices(WORDS, k=8)).capitalize() + "." for _ in range(sentences))


def make_book(name: str, author: str, genre: list[str], text: str) -> dict:
    return {"source": name, "license": "CC0", "cond": {"author": author, "genre": genre}, "title": name, "text": text}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder of two small files, one of them compressed."""
    rng, folder = random.Random(0), tmp_path / "data"
    folder.mkdir()
    books = [
        make_book("book/one", "A. B. Author", ["Fiction", "Mystery"], write_prose(rng, 60)),
        make_book("book/two", "C. Writer", ["Fiction"], write_prose(rng, 30)),
        make_book("book/held", "C. Writer", ["Mystery"], write_prose(rng, 40)),
    ]
    with lzma.open(folder / "books.jsonl.xz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(b) + "\n" for b in books)
    questions = [
        {
            "source": "qa",
            "split": "train" if i % 4 else "test",
            "title": None,
            "text": f"The {WORDS[i]}.",
            "cond": {"passage": write_prose(rng, 2), "question": f"Who saw {WORDS[i]}?"},
        }
        for i in range(12)
    ]
    (folder / "questions.jsonl").write_text("".join(json.dumps(q) + "\n" for q in questions), encoding="utf-8")
    return folder


@pytest.fixture
def config_path(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(CONFIG, encoding="utf-8")
    return path


@pytest.fixture
def prose() -> Callable:
    return write_prose


@pytest.fixture
def book() -> Callable:
    return make_book
