"""How varied samples are, and how much they repeat themselves. Texts in, numbers out."""

from __future__ import annotations

import random
from collections.abc import Sequence

from nltk.util import ngrams
from sacrebleu.metrics import BLEU


def distinct(texts: Sequence[str], n: int) -> float:
    """Share of different n-grams of words among all of them, 0 to 1 (Li et al. 2016). 0 where there is none.

    It falls with the amount of text, so compare the same number of samples of the same length.
    """
    grams = [gram for text in texts for gram in ngrams(text.split(), n)]
    return len(set(grams)) / len(grams) if grams else 0.0


def self_bleu(texts: Sequence[str], *, seed: int, most: int = 40) -> float:
    """Mean BLEU of each text against all others, 0 to 100 (Zhu et al. 2018); high is alike. At most `most` texts, drawn
    with the seed. 0 where there are fewer than two."""
    texts = [text for text in texts if text.strip()]
    if len(texts) > most:
        texts = random.Random(seed).sample(texts, most)
    if len(texts) < 2:
        return 0.0
    metric = BLEU(effective_order=True)
    scores = [metric.sentence_score(text, [*texts[:i], *texts[i + 1 :]]).score for i, text in enumerate(texts)]
    return sum(scores) / len(scores)


def repetition(text: str, n: int = 3) -> float:
    """Share of a text's n-grams of words that it had already, 0 to 1."""
    grams = list(ngrams(text.split(), n))
    return 1 - len(set(grams)) / len(grams) if grams else 0.0
