"""Bits per byte on held-out text: the bundled model, a Kneser-Ney 5-gram model of its training text, and xz -9."""

import lzma
import math
import random

import numpy as np
import torch
from common import held_out, keep, opened, parser
from ngram import KneserNey

from counterpoint.train.config import HeaderConfig
from counterpoint.train.headers import header

BOOK_BYTES = 60_000
REVIEWS = 800
WINDOW, STRIDE = 512, 256


def passages(config, corpus) -> dict[str, list[tuple[np.ndarray, str]]]:
    """Held-out (tokens, header) by kind: the first 60,000 bytes of each book, and whole reviews."""
    always = HeaderConfig(drop_all=0, drop_field=0, shuffle=0)
    found: dict[str, list] = {"books": [], "reviews": []}
    by_book: dict[int, list[int]] = {}
    for record in held_out(config, corpus, "se", "eltec", "novels100"):
        by_book.setdefault(int(corpus.group[record]), []).append(record)
    for records in by_book.values():
        left = BOOK_BYTES
        for record in records:
            if left <= 0:
                break
            text = corpus.text(record)[:left]
            left -= len(text.encode())
            found["books"].append((record, text))
    reviews = held_out(config, corpus, "sentiment")
    random.Random(0).shuffle(reviews)
    found["reviews"] = [(record, corpus.text(record)) for record in reviews[:REVIEWS]]
    return {
        kind: [
            (
                np.array(corpus.tokenizer.encode(text, add_special_tokens=False).ids),
                text,
                header(corpus.conditions[r], config.source[corpus.source[r]], always, random.Random(0)),
            )
            for r, text in some
        ]
        for kind, some in found.items()
    }


@torch.no_grad()
def model_bits(model, ids: np.ndarray, lead: list[int]) -> float:
    """Bits of one text, every token with at least 256 tokens of context (or all there are), `lead` before each window."""
    bits, start = 0.0, 0
    while start < len(ids):
        context = max(0, start - STRIDE)
        piece = ids[context : context + WINDOW]
        rows = torch.tensor([[model.bos_id, *lead, *piece]])
        logprobs = model.hf(rows[:, :-1]).logits[0].float().log_softmax(-1)
        picked = logprobs[torch.arange(rows.shape[1] - 1), rows[0, 1:]][len(lead) :]
        new = picked[start - context :]
        bits -= float(new.sum()) / math.log(2)
        start = context + len(piece)
    return bits


def main() -> None:
    args = parser(__doc__).parse_args()
    config, corpus, model = opened(args)
    texts = passages(config, corpus)
    training = [np.concatenate([corpus.text_ids(int(r)), [1]]) for r in np.flatnonzero(~corpus.held)]
    grams = KneserNey(np.concatenate(training), vocab=config.tokenizer.vocab)
    result = {}
    for kind, some in texts.items():
        size = sum(len(text.encode()) for _, text, _ in some)
        plain = sum(model_bits(model, ids, []) for ids, _, _ in some)
        led = sum(
            model_bits(model, ids, model.encode(lead, special_tokens=False) if lead else []) for ids, _, lead in some
        )
        gram_bits = sum(-np.log2(grams.probabilities(ids)).sum() for ids, _, _ in some)
        packed = len(lzma.compress("\n\n".join(text for _, text, _ in some).encode(), preset=9))
        result[kind] = {
            "texts": len(some),
            "bytes": size,
            "tokens": sum(len(ids) for ids, _, _ in some),
            "model": plain / size,
            "model with header": led / size,
            "5-gram Kneser-Ney": float(gram_bits) / size,
            "xz -9": packed * 8 / size,
        }
    keep("bits", args, {"training_tokens_of_the_5_gram": int(sum(len(t) for t in training)), "bits_per_byte": result})


if __name__ == "__main__":
    main()
