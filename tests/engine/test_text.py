"""Streaming text: whole characters, stop texts, nothing lost."""

import pytest

from counterpoint.engine.text import TextStream


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
