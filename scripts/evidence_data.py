"""Held-out text for `scripts/evidence.py`: what the bundled model never read, as judges' examples and n-gram text."""

from __future__ import annotations

import dataclasses
import random
from dataclasses import dataclass
from pathlib import Path

from counterpoint.evaluate.frontier import Condition
from counterpoint.evaluate.judges import Labelled
from counterpoint.store import Store, key_of
from counterpoint.train import read_config
from counterpoint.train.corpus import is_held_out
from counterpoint.train.records import Broken, Record, find_file, read_records

GENRES = {
    "Mystery": "mystery",
    "Children's": "children's",
    "Science Fiction": "science fiction",
    "Philosophy": "philosophy",
}
PIECE_CHARS = 240  # about as long as a sample

CONDITIONS = [
    Condition("a positive review", "Sentiment: positive. Movie review.\n\n", "Sentiment: negative. Movie review.\n\n", "sentiment", "positive"),
    Condition("a negative review", "Sentiment: negative. Movie review.\n\n", "Sentiment: positive. Movie review.\n\n", "sentiment", "negative"),
    *(Condition(genre, f"Genre: {genre}.\n\n", None, "genre", genre) for genre in GENRES.values()),
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Examples of reviews by sentiment and of books by genre, and the texts for the n-gram model."""

    reviews: list[Labelled]
    books: list[Labelled]
    texts: list[str]


def read_held_out(
    config_path: Path, corpus: Path, *, seed: int, most_pieces: int = 400, most_chars: int = 3_000_000
) -> HeldOut:
    """What the training run of `config_path` kept out.

    Args:
        most_pieces: of each book.
        most_chars: of the n-gram model's text, half of it reviews where there are as many.
    """
    config = read_config(config_path)
    rng = random.Random(seed)
    held: dict[str, list[Record]] = {"sentiment": [], "se": []}
    for source in config.source:
        if source.file in held:
            for record in read_records(find_file(corpus, source.file), only=source.only, broken=Broken()):
                if is_held_out(record, source.held_out_share, frozenset(config.held_out)):
                    held[source.file].append(record)
    reviews = [
        Labelled(piece, record.conditions["sentiment"][0], str(number))
        for number, record in enumerate(held["sentiment"])
        for piece in _pieces(record.text)[:8]
    ]
    books: dict[str, list[Labelled]] = {}
    for record in held["se"]:
        genres = [GENRES[name] for name in record.conditions.get("genre", ()) if name in GENRES]
        if len(genres) == 1 and "Horror" not in record.conditions["genre"]:
            books.setdefault(record.group, []).extend(
                Labelled(piece, genres[0], record.group) for piece in _pieces(record.text)
            )
    chosen = [one for each in books.values() for one in rng.sample(each, min(most_pieces, len(each)))]
    return HeldOut(reviews, chosen, _texts(held, rng, most_chars))


def held_out_once(store: Store, config_path: Path, corpus: Path, seed: int, most_chars: int) -> HeldOut:
    """`read_held_out`, kept in the store: reading the corpus takes longer than all that is made of it."""
    config = read_config(config_path)
    split = [(source.file, source.held_out_share, source.only) for source in config.source]
    key = key_of("held out", split, sorted(config.held_out), str(corpus.absolute()), seed, most_chars)
    found = store.get([key])
    if key not in found:
        found[key] = dataclasses.asdict(read_held_out(config_path, corpus, seed=seed, most_chars=most_chars))
        store.put(found)
    kept = found[key]
    reviews, books = ([Labelled(**one) for one in kept[name]] for name in ("reviews", "books"))
    return HeldOut(reviews, books, kept["texts"])


def _pieces(text: str) -> list[str]:
    """The text in pieces of whole words of about PIECE_CHARS characters; a shorter text is one piece."""
    pieces, words = [], []
    for word in text.split(" "):
        words.append(word)
        if sum(map(len, words)) + len(words) > PIECE_CHARS:
            pieces.append(" ".join(words))
            words = []
    return pieces or [text]


def _texts(held: dict[str, list[Record]], rng: random.Random, most_chars: int) -> list[str]:
    texts: list[str] = []
    for name in ("sentiment", "se"):
        records = held[name][:]
        rng.shuffle(records)
        budget = most_chars // 2 if name == "sentiment" else most_chars - sum(map(len, texts))
        for record in records:
            if budget <= 0:
                break
            texts.append(record.text[:budget])
            budget -= len(texts[-1])
    return texts
