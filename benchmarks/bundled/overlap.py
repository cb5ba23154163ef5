"""Does the model recite? Runs of 12 words, and sentences of 12 or more, of 200 generated texts that stand in the
training text, beside the same count for 200 held-out passages of the same lengths."""

import random
import re

import numpy as np
from common import held_out, keep, opened, parser

import counterpoint as cp
from counterpoint.train.corpus import shingles

RUN_WORDS = 12
PROMPTS = (
    "",
    "Genre: mystery.\n\n",
    "Genre: children's.\n\n",
    "Genre: science fiction.\n\n",
    "Genre: horror.\n\n",
    "Sentiment: positive. Movie review.\n\n",
    "Sentiment: negative. Movie review.\n\n",
    "Author: P. G. Wodehouse.\n\n",
)


def sentences(text: str) -> list[str]:
    return [s for s in re.split(r"(?<=[.!?])[\"')]*\s+", text) if len(s.split()) >= RUN_WORDS]


def count(texts: list[str], stands: set[int]) -> dict[str, int]:
    runs = [shingles(t, words=RUN_WORDS) for t in texts if len(t.split()) >= RUN_WORDS]
    long = [s for t in texts for s in sentences(t)]
    return {
        "texts": len(texts),
        "runs": sum(map(len, runs)),
        "runs_in_training": sum(int(r) in stands for k in runs for r in k),
        "sentences": len(long),
        "sentences_in_training": sum(all(int(r) in stands for r in shingles(s, words=RUN_WORDS)) for s in long),
    }


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--texts", type=int, default=200)
    made.add_argument("--tokens", type=int, default=128)
    args = made.parse_args()
    config, corpus, model = opened(args)
    kinds = {}
    for name, guided in (
        ("unguided", {}),
        ("guided, scale 3", {"negative": cp.contexts.Empty(), "guide": cp.Guide(scale=3.0)}),
    ):
        prompts = [PROMPTS[i % len(PROMPTS)] or [model.bos_id] for i in range(args.texts)]
        texts = []
        for at in range(0, args.texts, 32):
            block = prompts[at : at + 32]
            done = cp.generate(
                model, block, seed=[args.seed + at + i for i in range(len(block))], max_tokens=args.tokens, **guided
            )
            texts += [d.text for d in done]
        kinds[name] = texts
    rng = random.Random(args.seed)
    held = held_out(config, corpus, "se", "eltec", "novels100", "sentiment")
    lengths = corpus.length[held]
    passages = []
    for text in kinds["unguided"]:
        words = corpus.text(rng.choices(held, weights=lengths)[0]).split()
        size = max(1, len(text.split()))
        start = rng.randrange(max(1, len(words) - size))
        passages.append(" ".join(words[start : start + size]))
    kinds["held-out passages"] = passages
    asked = np.unique(
        np.concatenate([shingles(t, words=RUN_WORDS) for texts in kinds.values() for t in texts if t.split()])
    )
    stands: set[int] = set()
    for record in np.flatnonzero(~corpus.held):
        runs = shingles(corpus.text(int(record)), words=RUN_WORDS)
        at = np.minimum(np.searchsorted(asked, runs), len(asked) - 1)
        stands.update(int(r) for r in runs[asked[at] == runs])
    keep("overlap", args, {name: count(texts, stands) for name, texts in kinds.items()})


if __name__ == "__main__":
    main()
