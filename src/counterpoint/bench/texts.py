"""Real passages of Python's standard library, and texts that repeat them in the ways that texts do."""

from __future__ import annotations

import difflib
import heapq
import inspect
import re
import textwrap
from bisect import __file__ as BISECT
from dataclasses import dataclass
from pathlib import Path

# Where GPT-2's tokenizer splits before it makes tokens: a word with its space, a number, signs, white space.
PIECE = re.compile(r"'(?:s|t|re|ve|m|ll|d)| ?[^\W\d_]+| ?\d+| ?(?:[^\s\w]|_)+|\s+(?!\S)|\s+")
LONGEST_PROMPT = 460  # pieces


@dataclass(frozen=True, slots=True)
class Rewriting:
    """A passage and a text that follows it.

    Args:
        name: in what way the text repeats the passage. source: where both are from.
    """

    name: str
    source: str
    passage: str
    text: str

    def pieces(self, *, num_tokens: int, vocab_size: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Both as token ids, each distinct piece an id of its own: a little coarser than GPT-2's tokens.

        Args:
            num_tokens: of the text; less where it is shorter.
            vocab_size: ids are below it.
        """
        passage, text = PIECE.findall(self.passage + "\n\n"), PIECE.findall(self.text)
        ids: dict[str, int] = {}
        for piece in [*passage, *text]:
            ids.setdefault(piece, len(ids) % vocab_size)
        return (
            tuple(ids[piece] for piece in passage[-LONGEST_PROMPT:]),
            tuple(ids[piece] for piece in text[:num_tokens]),
        )


def rewritings() -> list[Rewriting]:
    """A summary that quotes, a passage said again in other words, an edited copy, renamed code, and text that goes on."""
    matcher = "\n\n".join(inspect.cleandoc(difflib.SequenceMatcher.__doc__).split("\n\n")[:7])
    source = Path(BISECT).read_text()
    right, left = source[source.index("def bisect_right") :], source[source.index("def bisect_left") :]
    right, left = right[: right.index("\n\n\n")], left[: left.index("\n\n\n")]
    wrap = textwrap.dedent(inspect.getsource(textwrap.TextWrapper._handle_long_word))
    about = heapq.__about__.strip()
    return [
        Rewriting(
            "a summary that quotes",
            "the beginning of difflib.SequenceMatcher's docstring, then the first sentence of each paragraph",
            matcher,
            " ".join(_first_sentence(paragraph) for paragraph in matcher.split("\n\n") if paragraph[0].isalpha()),
        ),
        Rewriting("an edited copy", "bisect.bisect_right, then bisect.bisect_left, as the file has them", right, left),
        Rewriting(
            "code with a renamed variable",
            "textwrap.TextWrapper._handle_long_word, then the same with cur_line called line",
            wrap,
            re.sub(r"\bcur_line\b", "line", wrap),
        ),
        Rewriting("the same said again", "heapq's docstring, then heapq.__about__", heapq.__doc__, about),
        Rewriting(
            "text that goes on", "heapq.__about__ in two halves", about[: len(about) // 2], about[len(about) // 2 :]
        ),
    ]


def _first_sentence(paragraph: str) -> str:
    return re.split(r"(?<=[.:?!])\s", paragraph, maxsplit=1)[0]
