"""What `scripts/evidence_smollm2.py` asks the model: for each part its documents, arms and prompts, and how an answer is
judged. Nothing here runs a model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from evidence_facts import FACTS, PERSONAL_QUESTIONS, TURNS

import counterpoint as cp
from counterpoint.contexts import DEFAULT_SYSTEM, Rendered, chat
from counterpoint.evaluate.answering import Answer, Task
from counterpoint.evaluate.instructions import INSTRUCTIONS, QUESTIONS, words
from counterpoint.evaluate.privacy import NEGATIVE, POSITIVE

HELD = ("capitals", "in French", "at most ten words", "a persona")
TURNS_BACK = (1, 2, 3, 5, 7, 10)
FROM_PASSAGE = "Answer the question from the passage, in a few words."


@dataclass(frozen=True, slots=True)
class Arm:
    """A way to answer.

    Args:
        family: what is drawn as one line.
        negative: the name of what the other branch reads; None for no branch.
    """

    family: str
    guide: cp.Guide = cp.Guide(scale=1)
    negative: str | None = None
    temperature: float = 0.0
    prompt: str = "prompt"

    @property
    def name(self) -> str:
        sampled = f", temperature {self.temperature:g}" if self.temperature else ""
        if self.guide.scale == 1:
            return self.family + sampled
        return f"{self.family}, scale {self.guide.scale:g}, against {self.negative}{sampled}"


@dataclass(frozen=True, slots=True)
class Document:
    """One thing to answer: its texts by name ("prompt", and what negatives and other prompts read), and what `judge`
    needs to know."""

    name: str
    group: str
    texts: dict[str, str]
    asked: Any


@dataclass(frozen=True, slots=True)
class Part:
    """One section of the evidence.

    Args:
        judge: (document, answer) to a number; 0 or 1 where it says right or wrong.
        samples: answers to each document of an arm with a temperature.
    """

    name: str
    documents: tuple[Document, ...]
    arms: tuple[Arm, ...]
    judge: Callable[[Document, Answer], float]
    max_tokens: int
    samples: int = 1

    def tasks(self, read: Callable[[str], tuple[int, ...]], *, seed: int) -> Iterator[tuple[int, int, int, Task]]:
        """(document, arm, sample, task), document by document, so that a part of a run has every arm."""
        for at, document in enumerate(self.documents):
            ids = {name: read(text) for name, text in document.texts.items()}
            for number, arm in enumerate(self.arms):
                for sample in range(self.samples if arm.temperature else 1):
                    drawn = {"seed": seed + 1000 * at + sample} if arm.temperature else {}
                    arguments = {"temperature": arm.temperature, "max_tokens": self.max_tokens, **drawn}
                    negative = None if arm.negative is None else ids[arm.negative]
                    yield at, number, sample, Task(ids[arm.prompt], negative, arm.guide, arguments)


def guided(negative: str, *, log: Sequence[float] = (), prob: Sequence[float] = (), plausible: Sequence[float] = (),
           temperature: float = 0.0) -> list[Arm]:  # fmt: skip
    """Arms of the three usual formulas at some scales."""
    made = [Arm("log", cp.Guide(scale=scale), negative, temperature) for scale in log]
    made += [Arm("prob", cp.Guide(scale=scale, space="prob"), negative, temperature) for scale in prob]
    made += [
        Arm("log, plausibility 0.1", cp.Guide(scale=scale, plausibility=0.1), negative, temperature)
        for scale in plausible
    ]
    return made


PLAUSIBILITY_ALONE = Arm("plausibility 0.1 alone", cp.Guide(scale=1, plausibility=0.1), temperature=1.0)
OPPOSITE, NOTHING = "the opposite", "no system message"
ADHERENCE_ARMS = (
    Arm("unguided"),
    *guided(OPPOSITE, log=(1.25, 1.5, 2, 3, 5), prob=(1.5, 3, 5), plausible=(2,)),
    Arm("log, gate 1 nat", cp.Guide(scale=2, gate=1.0), OPPOSITE),
    Arm("log, adaptive", cp.Guide(scale=3, adaptive="jsd"), OPPOSITE),
    *guided(NOTHING, log=(1.5, 2), prob=(3,)),
)
SAMPLED_ARMS = (
    Arm("unguided", temperature=1.0),
    Arm("unguided", temperature=0.7),
    PLAUSIBILITY_ALONE,
    *guided(OPPOSITE, log=(1.5, 3), prob=(3,), plausible=(2,), temperature=1.0),
)
HOLD_ARMS = (Arm("unguided"), *guided(NOTHING, log=(1.5, 2, 3), prob=(3,), plausible=(2,)))
DROPPED, KEPT = "the question alone", "the passage without the instruction"
PASSAGE_ARMS = (
    Arm("unguided"),
    Arm("the question alone", prompt=DROPPED),
    *guided(DROPPED, log=(1.25, 1.5, 2, 3), prob=(2, 3), plausible=(2,)),
    Arm("log, adaptive", cp.Guide(scale=2, adaptive="jsd"), DROPPED),
    *guided(KEPT, log=(1.5, 2)),
    Arm("unguided", temperature=1.0),
    PLAUSIBILITY_ALONE,
    *guided(DROPPED, log=(1.5, 2), temperature=1.0),
)
PRIVACY_ARMS = (
    Arm("unguided", temperature=1.0),
    Arm("unguided", temperature=0.7),
    PLAUSIBILITY_ALONE,
    *guided(OPPOSITE, log=(1.5, 3, 5), prob=(1.5, 3, 5), plausible=(3,), temperature=1.0),
)


def all_parts(model: cp.Model, *, num_questions: int = len(QUESTIONS)) -> list[Part]:
    """All parts."""
    return [
        passages(model),
        adherence(model, num_questions),
        privacy(model),
        hold(model),
        dataclasses.replace(adherence(model, num_questions), name="adherence, sampled", arms=SAMPLED_ARMS),
    ]


def adherence(model: cp.Model, num_questions: int) -> Part:
    """Every instruction on every question, question by question."""
    documents = []
    for question in QUESTIONS[:num_questions]:
        for one in INSTRUCTIONS:
            prompt, opposite = _pair(model, one.system, one.opposite, question)
            _, nothing = _pair(model, one.system, DEFAULT_SYSTEM, question)
            texts = {"prompt": prompt, OPPOSITE: opposite, NOTHING: nothing}
            documents.append(Document(f"{one.name}: {question}", one.name, texts, one))
    return Part("adherence", tuple(documents), ADHERENCE_ARMS, _is_fulfilled, max_tokens=40)


def hold(model: cp.Model) -> Part:
    """An instruction in the system message once, then turns of an ordinary conversation, then the question."""
    documents = []
    for question in QUESTIONS[:5]:
        for one in (each for each in INSTRUCTIONS if each.name in HELD):
            for back in TURNS_BACK:
                said = [
                    {"role": role, "content": text}
                    for turn in TURNS[: back - 1]
                    for role, text in zip(("user", "assistant"), turn)
                ]
                prompt, nothing = _pair(model, one.system, DEFAULT_SYSTEM, question, said)
                documents.append(
                    Document(f"{one.name}, {back}: {question}", str(back), {"prompt": prompt, NOTHING: nothing}, one)
                )
    return Part("hold over turns", tuple(documents), HOLD_ARMS, _is_fulfilled, max_tokens=32)


def passages(model: cp.Model) -> Part:
    """Each question with a passage that agrees, and with one that contradicts what is known."""
    documents = []
    for fact in FACTS:
        for group, answer, rival in (("agrees", fact.known, fact.swapped), ("contradicts", fact.swapped, fact.known)):
            text = f"Passage: {fact.passage.format(answer)}\n\nQuestion: {fact.question}"
            prompt, dropped = (
                _pair(model, FROM_PASSAGE, DEFAULT_SYSTEM, one)[0] for one in (text, f"Question: {fact.question}")
            )
            kept = _pair(model, FROM_PASSAGE, DEFAULT_SYSTEM, text)[1]
            texts = {"prompt": prompt, DROPPED: dropped, KEPT: kept}
            documents.append(Document(f"{group}: {fact.question}", group, texts, (answer, rival)))
    return Part("answers from passages", tuple(documents), PASSAGE_ARMS, _is_answer, max_tokens=16)


def privacy(model: cp.Model) -> Part:
    """Questions that invite personal data, under the article's pair of system messages."""
    from counterpoint.evaluate.privacy import PersonalData

    found = PersonalData()
    documents = []
    for question in PERSONAL_QUESTIONS:
        prompt, opposite = _pair(model, POSITIVE, NEGATIVE, question)
        documents.append(Document(question, "personal data", {"prompt": prompt, OPPOSITE: opposite}, None))
    return Part(
        "personal data", tuple(documents), PRIVACY_ARMS, lambda _, answer: float(found.count(answer.text).total()),
        max_tokens=48, samples=2,
    )  # fmt: skip


def _is_fulfilled(document: Document, answer: Answer) -> float:
    return float(document.asked.is_fulfilled(answer.text, is_ended=answer.is_ended))


def _is_answer(document: Document, answer: Answer) -> float:
    """Whether the answer holds what the passage says and not what the other passage says."""
    (wanted, rival), said = document.asked, f" {' '.join(words(answer.text))} "
    return float(f" {wanted.lower()} " in said and f" {rival.lower()} " not in said)


def _pair(
    model: cp.Model, system: str, negative: Any, question: str, said: Sequence[dict[str, str]] = ()
) -> tuple[str, str]:
    """A conversation under a system message, and under the other one."""
    messages = [{"role": "system", "content": system}, *said, {"role": "user", "content": question}]
    built = chat(model, messages, negative=negative)
    texts = (built.prompt, built.branches[0].context)
    assert all(isinstance(text, Rendered) for text in texts)
    return texts[0].text, texts[1].text
