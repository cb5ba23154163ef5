"""Answer from documents, then judge the answer against them: retrieval, guidance and a second look, step by step.

    python examples/self_check.py "What kind of hair did the wife have?" --folder STORIES [--model MODEL]

STORIES is a folder of text files. BM25 (the bm25s package; pip install 'counterpoint[retrieval]') finds the passages, the
answer is written against the same question without them, and then the model says whether the passages bear it out:
"correct" and "incorrect" are compared by how much more likely the passages make each of them. A model with a chat
template is asked through it; any other, such as the bundled one, in plain text. The bundled model is too small to judge:
its verdicts show the steps, not good judgement.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from pathlib import Path

import bm25s

import counterpoint as cp
from counterpoint.contexts import documents, read_request
from counterpoint.evaluate.loglikelihood import Item, score

JUDGE = "{documents}\n\nQuestion: {question}\nIs the answer correct or incorrect? It is"
VERDICTS = (" correct", " incorrect")


@dataclass(frozen=True, slots=True)
class Checked:
    """An answer, what it was read from, and the probability that it is correct (of the two verdicts)."""

    answer: str
    passages: list[str]
    correct: float


def split(text: str, most_chars: int = 1200) -> list[str]:
    """Passages of whole paragraphs, each of about this many characters."""
    passages = [""]
    for paragraph in filter(None, (part.strip() for part in text.split("\n\n"))):
        if passages[-1] and len(passages[-1]) + len(paragraph) > most_chars:
            passages.append("")
        passages[-1] += ("\n\n" if passages[-1] else "") + paragraph
    return [passage for passage in passages if passage]


class Passages:
    """What the retriever knows."""

    def __init__(self, texts: list[str]) -> None:
        self.texts = texts
        self._index = bm25s.BM25()
        self._index.index(bm25s.tokenize(texts, stopwords="en", show_progress=False), show_progress=False)

    def best(self, question: str, count: int) -> list[str]:
        """The passages that match a question best, the best one first."""
        asked = bm25s.tokenize(question, stopwords="en", show_progress=False)
        found, _ = self._index.retrieve(asked, k=min(count, len(self.texts)), show_progress=False)
        return [self.texts[i] for i in found[0]]


def answer(model: cp.Model, question: str, passages: list[str], guide: cp.Guide) -> str:
    """A greedy answer, against the same question without the passages."""
    built = documents(question, passages, model=_chat(model))
    return cp.generate(model, built, guide=guide, max_tokens=48, temperature=0, stop="\n").text.strip()


def check(model: cp.Model, question: str, given: str, passages: list[str], guide: cp.Guide) -> float:
    """The guided probability of "correct" against "incorrect", with the passages against without."""
    built = documents(f"{question}\nAnswer: {given}", passages, template=JUDGE, model=_chat(model))
    cond, read, guide = read_request(model, built, guide=guide)
    verdicts = VERDICTS if _chat(model) is None else [verdict.strip() for verdict in VERDICTS]
    items = [Item(cond, tuple(model.encode(verdict, special_tokens=False)), read[0].ids) for verdict in verdicts]
    right, wrong = (scores[0].logprob for scores in score(model, items, [guide]))
    return 1 / (1 + math.exp(min(wrong - right, 700)))


def answer_and_check(model: cp.Model, question: str, known: Passages, *, count: int, guide: cp.Guide) -> Checked:
    """The whole: find passages, answer, judge."""
    passages = known.best(question, count)
    given = answer(model, question, passages, guide)
    return Checked(given, passages, check(model, question, given, passages, guide))


def _chat(model: cp.Model) -> cp.Model | None:
    return model if model.tokenizer.chat_template else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("question")
    parser.add_argument("--folder", required=True, type=Path)
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--passages", type=int, default=1)
    parser.add_argument("--scale", type=float, default=1.5)
    given = parser.parse_args()
    texts = [part for path in sorted(given.folder.glob("*.txt")) for part in split(path.read_text(encoding="utf-8"))]
    if not texts:
        parser.error(f"{given.folder} holds no text file")
    guide = cp.Guide(scale=given.scale)
    checked = answer_and_check(cp.load(given.model), given.question, Passages(texts), count=given.passages, guide=guide)
    for passage in checked.passages:
        print(f"passage: {passage[:200]!r}")
    print(f"answer: {checked.answer}")
    print(f"correct: {checked.correct:.2f}")


if __name__ == "__main__":
    main()
