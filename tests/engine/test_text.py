"""Streaming text: whole characters, stop texts, nothing lost."""

import random

import pytest

import counterpoint as cp
from counterpoint.engine.stops import StopTexts
from counterpoint.engine.text import MOST_AGAIN, TextStream


def decode(ids):
    return bytes(ids).decode(errors="replace")


def run(text, stop=(), size=1):
    stream, pieces = TextStream(decode, stop), []
    for byte in text.encode():
        pieces.append(stream.add(byte))
        if stream.stopped:
            return stream, pieces
    pieces.append(stream.finish())
    return stream, pieces


@pytest.mark.parametrize("text", ["plain", "naïve café", "日本語", "👩‍🚀 ok", "a\nb", "", "ends in é"])
def test_pieces_are_the_text_and_never_half_a_character(text):
    stream, pieces = run(text)
    assert "".join(pieces) == stream.text == text
    assert all("\ufffd" not in piece for piece in pieces)


@pytest.mark.parametrize(
    "text, stop, want",
    [
        ("one. Two", [". "], "one"),
        ("aab", ["ab"], "a"),
        ("abcabd", ["abd"], "abc"),
        ("xyz", ["q"], "xyz"),
        ("say END now", ["END", "now"], "say "),
        ("日本語", ["本"], "日"),
        ("aaa", ["a"], ""),
        ("unfinished EN", ["END"], "unfinished EN"),
    ],
)
def test_stop_texts(text, stop, want):
    stream, pieces = run(text, stop)
    assert stream.text == "".join(pieces) == want
    assert stream.stopped == (want != text)


def test_an_incomplete_character_at_the_end_is_shown():
    stream = TextStream(decode, ())
    pieces = [stream.add(byte) for byte in "ok é".encode()[:-1]]
    pieces.append(stream.finish())
    assert "".join(pieces) == "ok \ufffd"


def test_a_decoder_is_asked_for_few_tokens_however_long_the_text():
    asked = []

    def spaced(ids):  # no space before the first of what is decoded, as some tokenizers do
        asked.append(len(ids))
        return " ".join(str(i) for i in ids)

    stream = TextStream(spaced, ())
    ids = [7, 42, 1, 100] * 25
    pieces = [stream.add(i) for i in ids]
    assert "".join(pieces) == stream.text == spaced(ids)
    assert max(asked[:-1]) <= MOST_AGAIN + 1
    assert len(asked) - 1 < 1.5 * len(ids)


@pytest.mark.parametrize("text", ["日本語" * 9, "👩‍🚀 ok " * 5, "plain and long, with é in it" * 3])
def test_text_is_the_same_wherever_decoding_begins_again(text):
    stream, pieces = run(text)
    assert "".join(pieces) == stream.text == text


@pytest.mark.parametrize("seed", range(40))
def test_stop_texts_are_found_as_by_looking_at_the_whole(seed):
    """Against a search through the whole text after each piece, on texts that nearly repeat."""
    rng = random.Random(seed)
    text = "".join(rng.choice("ab") for _ in range(200))
    stop = ["".join(rng.choice("ab") for _ in range(rng.randint(1, 12))) for _ in range(rng.randint(1, 4))]
    stream = TextStream(lambda ids: "".join("ab"[i] for i in ids), stop)
    shown = ""
    for number, char in enumerate(text, 1):
        shown += stream.add("ab".index(char))
        found = [text[:number].find(one) for one in stop if one in text[:number]]
        assert stream.stopped == bool(found)
        if found:
            assert shown == stream.text == text[: min(found)]
            return
        held = max(
            n for n in range(number + 1) if any(one[:n] == text[number - n : number] for one in stop if n < len(one))
        )
        assert shown == text[: number - held]


def test_how_long_stop_texts_are_does_not_matter_to_a_step():
    """A text that nearly matches for ever: as many comparisons with long stop texts as with short ones."""

    class Char(str):
        num_compared = 0

        def __eq__(self, other):
            Char.num_compared += 1
            return str.__eq__(self, other)

        __hash__ = str.__hash__

    counts = []
    for length in (10, 4000):
        stops, Char.num_compared = StopTexts(["a" * length + "b"]), 0
        for _ in range(5000):
            stops.read([Char("a")])
        counts.append(Char.num_compared)
        assert stops.num_held == length
    assert counts[1] <= counts[0] <= 4 * 5000


def test_a_models_texts_are_those_of_its_tokenizer():
    model = cp.load("bundled", compile=False)
    ids = [model.tokenizer.eos_token_id, *model.encode("The old man 's café, and\n  so on"), 7]
    for keeps in (True, False):
        want = model.tokenizer.decode(ids, skip_special_tokens=not keeps, clean_up_tokenization_spaces=False)
        assert model.decode(ids, special_tokens=keeps) == want


def test_a_tokenizer_with_a_decoder_of_its_own_is_asked():
    model = cp.load("bundled", compile=False)
    own = type("Own", (type(model.tokenizer),), {"_decode": lambda self, *args, **kwargs: "as I say"})
    model.tokenizer.__class__ = own
    assert model.decode([3, 4]) == "as I say"
