"""Instructions whose fulfilment a program decides, each with its opposite, and ordinary questions to try them on."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass

#: (text, whether the model ended it) -> whether it does what was asked for
Check = Callable[[str, bool], bool]


@dataclass(frozen=True, slots=True)
class Instruction:
    """A system message, the opposite one, and what decides.

    Args:
        name: what tables call it.
        system, opposite: system messages.
        check: says of an answer, and of whether the model ended it itself, whether it fulfils `system`.
    """

    name: str
    system: str
    opposite: str
    check: Check

    def is_fulfilled(self, text: str, *, is_ended: bool = True) -> bool:
        """Whether an answer does what the instruction asks for. An answer without a word never does."""
        return bool(words(text)) and self.check(text.strip(), is_ended)


def words(text: str) -> list[str]:
    """The words of a text, in lower case."""
    return re.findall(r"[^\W_]+(?:['’][^\W_]+)*", text.lower())


def num_sentences(text: str) -> int:
    """Ends of sentences: a full stop, question mark or exclamation mark before white space or the end."""
    return len(re.findall(r"[.!?]+[\"')\]]*(?=\s|$)", text))


def is_mostly(text: str, language: str) -> bool:
    """Whether a text has more function words of one of FUNCTION_WORDS' languages than of any other, and at least two."""
    counts = {name: sum(word in known for word in words(text)) for name, known in FUNCTION_WORDS.items()}
    return counts[language] >= 2 and all(counts[language] > n for name, n in counts.items() if name != language)


def is_object(text: str) -> bool:
    """Whether a text is one JSON object, with or without a code fence around it."""
    fenced = re.fullmatch(r"```(?:json)?\s*(.*?)\s*```", text, re.DOTALL)
    try:
        return isinstance(json.loads(fenced[1] if fenced else text), dict)
    except ValueError:
        return False


#: words of grammar, which any text of some length has; words that two of the languages share are left out
FUNCTION_WORDS = {
    "English": frozenset(
        "the of and to is that it for was with as are be this have from or by not but they you".split()
    ),
    "French": frozenset(
        "le les des et est une dans qui pour pas sur au avec ce il sont plus nous vous je du ou mais cette aux".split()
    ),
    "Spanish": frozenset("el los las y es una del que por con para como su al lo más pero sus esta muy son".split()),
}
PIRATE = frozenset("arr arrr arrrr ahoy matey mateys ye yer aye avast scallywag booty buccaneer seas treasure".split())

INSTRUCTIONS = (
    Instruction(
        "one sentence",
        "Answer in exactly one sentence.",
        "Answer in many sentences.",
        lambda text, _: num_sentences(text) == 1 and text[-1] in ".!?\"')",
    ),
    Instruction(
        "capitals",
        "Write everything in capital letters.",
        "Write everything in lower case letters.",
        lambda text, _: text == text.upper() and text != text.lower(),
    ),
    Instruction(
        "lower case",
        "Write everything in lower case letters, without any capital.",
        "Write everything in capital letters.",
        lambda text, _: text == text.lower() and text != text.upper(),
    ),
    Instruction(
        "a numbered list",
        "Answer with a numbered list.",
        "Answer with a paragraph of prose, without a list.",
        lambda text, _: len(re.findall(r"^\s*\d+[.)]\s+\S", text, re.MULTILINE)) >= 2,
    ),
    Instruction(
        "begins with a word",
        'Begin your answer with the word "Certainly".',
        'Never begin your answer with the word "Certainly".',
        lambda text, _: words(text)[0] == "certainly",
    ),
    Instruction(
        "ends with a question",
        "Answer briefly, and end your answer with a question to the user.",
        "Answer at length, and never ask the user a question.",
        lambda text, is_ended: is_ended and text.rstrip("\"')*_ ").endswith("?"),
    ),
    Instruction(
        "in French",
        "Answer in French.",
        "Answer in English.",
        lambda text, _: is_mostly(text, "French"),
    ),
    Instruction(
        "at most ten words",
        "Answer with at most ten words.",
        "Answer at length, with more than a hundred words.",
        lambda text, is_ended: is_ended and len(words(text)) <= 10,
    ),
    Instruction(
        "a word to use",
        'Use the word "ocean" in your answer.',
        'Never use the word "ocean" in your answer.',
        lambda text, _: "ocean" in words(text),
    ),
    Instruction(
        "a word to avoid",
        'Never use the word "the" in your answer.',
        'Use the word "the" as often as you can in your answer.',
        lambda text, _: "the" not in words(text),
    ),
    Instruction(
        "JSON",
        "Answer with one JSON object and nothing else.",
        "Answer in plain words, without any JSON.",
        lambda text, _: is_object(text),
    ),
    Instruction(
        "a persona",
        "You are a pirate. Talk like a pirate.",
        "You are a professor. Talk like a professor.",
        lambda text, _: any(word in PIRATE for word in words(text)),
    ),
)

QUESTIONS = (
    "What is a good way to start the day?",
    "Why do leaves change their colour?",
    "How do I make a cup of tea?",
    "What should I pack for a weekend in the mountains?",
    "What is a computer?",
    "How can I learn to play the guitar?",
    "Why is the sky blue?",
    "What makes a good friend?",
    "How do bees make honey?",
    "What can I cook with eggs and potatoes?",
    "How does a bicycle stay upright?",
    "What is the Moon made of?",
    "How can I sleep better?",
    "Why do people like music?",
    "What is a library for?",
    "How do I look after a houseplant?",
    "What happens when water boils?",
    "Why should I read books?",
    "How do birds find their way?",
    "What is a fair price for a used car?",
)
