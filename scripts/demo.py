"""What guidance does, on SmolLM2 (135M, a chat model): the same question and seeds, unguided and guided, side by side.

Under each pair stands a count over 20 seeds, by a rule that is a function of this file: nobody has to take our word.
"""

from __future__ import annotations

import argparse
import re
import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass

import transformers
from rich.console import Console
from rich.table import Table

import counterpoint as cp
from counterpoint import contexts

PIRATE = re.compile(
    r"\b(arr+|aye|ahoy|matey|hearties|ye|yer|seas?|ships?|sail\w*|captain|crew|treasure|rum)\b", re.IGNORECASE
)
SHAKESPEARE = re.compile(r"\b(thee|thou|thy|thine|doth|hath|art|oft|ere|'tis|'twas|o'er)\b", re.IGNORECASE)
ENGLISH = frozenset(
    "a about all am an and are as at be but by can do for from had has have he her here his how i if in is it it's i'm "
    "me my no not of on or our she so some that the their them there they this to up us was we what when which who "
    "will with would you your".split()
)


@dataclass(frozen=True, slots=True)
class Case:
    """A question under two system messages.

    Args:
        system, negative: the model's own, and the one that guidance moves away from.
        look: what to look for.
        rule: what is counted, as a sentence and as a function of a finished answer.
        arms: the columns.
    """

    system: str
    negative: str
    question: str
    look: str
    rule: tuple[str, Callable[[cp.Completion], bool]]
    arms: dict[str, cp.Guide | None]


def is_one_sentence(done: cp.Completion) -> bool:
    text = done.text.strip()
    return done.finish_reason == "stop" and "\n" not in text and len(re.findall(r"[.!?][\"')]*(?=\s|$)", text)) == 1


def is_piratical(done: cp.Completion) -> bool:
    return len({word.lower() for word in PIRATE.findall(done.text)}) >= 2


def is_shakespearean(done: cp.Completion) -> bool:
    return bool(SHAKESPEARE.search(done.text))


def is_english(done: cp.Completion) -> bool:
    words = re.findall(r"[^\W\d_]+(?:'[a-z]+)?", done.text.lower())
    return 4 * sum(word in ENGLISH for word in words) >= max(len(words), 1)  # no words are no English


def guided(scale: float, space: str) -> dict[str, cp.Guide | None]:
    return {"unguided": None, f"guided, {space} space, scale {scale:g}": cp.Guide(scale=scale, space=space)}


CASES = [
    Case(
        "Answer in one short sentence.",
        "Answer at great length.",
        "Why is the sky blue?",
        "one short sentence. Unguided the model goes on and on.",
        ("one sentence, which the model ended itself", is_one_sentence),
        guided(2.0, "log"),
    ),
    Case(
        "You are a pirate. Talk like a pirate.",
        "You are a business consultant. Talk like a business consultant.",
        "What should I have for breakfast?",
        "arrr, ye, matey. Unguided it speaks about pirates; guided it speaks as one.",
        ("two different words of pirates", is_piratical),
        guided(1.5, "log"),
    ),
    Case(
        "You are William Shakespeare. Speak in Shakespearean English.",
        "You are a modern teenager. Speak in modern English.",
        "What do you think of the moon?",
        "thou, thy, doth.",
        ("a word such as thou, thy or doth", is_shakespearean),
        guided(2.0, "log"),
    ),
    Case(
        "You are polite.",
        "You are rude.",
        "How are you doing?",
        "what a high scale breaks: log space lifts tokens that neither message wants; prob space does not.",
        ("English: one word in four is among the commonest", is_english),
        {"log space, scale 5": cp.Guide(scale=5.0), "prob space, scale 5": cp.Guide(scale=5.0, space="prob")},
    ),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--model", default="smollm2", help="'smollm2', a folder, a GGUF file, or a hub id; a chat model"
    )
    parser.add_argument("--seeds", type=int, default=20, help="answers that are counted")
    parser.add_argument("--shown", type=int, default=2, help="answers that are shown")
    parser.add_argument("--max-tokens", type=int, default=40)
    options = parser.parse_args()
    transformers.logging.disable_progress_bar()
    started, console = time.perf_counter(), Console(highlight=False)
    model = cp.load(options.model)
    size = sum(weight.numel() for weight in model.hf.parameters())
    console.print(f"{model.name}, {size:,} weights, loaded in {time.perf_counter() - started:.1f} s.")
    for case in CASES:
        console.print(f"\n  system    [bold]{case.system}[/bold]\n  negative  [bold]{case.negative}[/bold]")
        console.print(f"  question  [bold]{case.question}[/bold]\n  look for  {case.look}")
        show(case, answers(model, case, options.seeds, options.max_tokens), options.shown, console)
    console.print(f"\n{time.perf_counter() - started:.0f} s, model included. Now your own:")
    console.print(
        '  .venv/bin/counterpoint generate "Why is the sky blue?" --model smollm2 --system "Answer in one short sentence." '
        '--negative-system "Answer at great length." --scale 2',
        markup=False,
        soft_wrap=True,
    )


def answers(model: cp.Model, case: Case, num_seeds: int, max_tokens: int) -> dict[str, list[cp.Completion]]:
    """For each arm the answers under the seeds from 0 on, all written in one batch."""
    messages = [{"role": "system", "content": case.system}, {"role": "user", "content": case.question}]
    built = contexts.chat(model, messages, negative=case.negative)
    guides = [guide for guide in case.arms.values() for _ in range(num_seeds)]
    done = cp.generate(
        model,
        [built.prompt if guide is None else built for guide in guides],
        guide=guides,
        seed=[*range(num_seeds)] * len(case.arms),
        max_tokens=max_tokens,
        temperature=0.7,
    )
    return {arm: done[at * num_seeds : (at + 1) * num_seeds] for at, arm in enumerate(case.arms)}


def show(case: Case, written: dict[str, list[cp.Completion]], num_shown: int, console: Console) -> None:
    rule, holds = case.rule
    table = Table(expand=True, show_lines=True, show_footer=True)
    for arm, done in written.items():
        count = f"{sum(map(holds, done))} of {len(done)}"
        table.add_column(arm, footer=f"{count}: {rule}", ratio=1)
    for row in list(zip(*written.values()))[:num_shown]:
        table.add_row(*(textwrap.shorten(done.text, 1000) for done in row))
    console.print(table)


if __name__ == "__main__":
    main()
