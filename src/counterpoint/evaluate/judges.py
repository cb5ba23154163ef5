"""Who judges samples: a classifier of what was asked for, and an n-gram model of how the language goes. Neither wrote them.

Both are trained on text that the writing model never saw.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from nltk.lm import Vocabulary, WittenBellInterpolated
from nltk.util import everygrams
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import Pipeline, make_pipeline

from counterpoint.errors import UsageError


@dataclass(frozen=True, slots=True)
class Labelled:
    """A text, what it is, and the work that it is part of (kept on one side when a classifier is tested)."""

    text: str
    label: str
    work: str


@dataclass(frozen=True, slots=True)
class Judge:
    """Says whether a text is what was asked for: word and word-pair TF-IDF, then logistic regression (scikit-learn).

    Args:
        labels: what it tells apart.
        accuracy: balanced accuracy on works that it was not trained on; chance is 1 / number of labels.
    """

    name: str
    labels: tuple[str, ...]
    accuracy: float
    _pipeline: Pipeline

    def agrees(self, texts: Sequence[str], label: str) -> list[int]:
        """1 for each text that is taken for `label`, else 0."""
        if label not in self.labels:
            raise UsageError(f"the judge of {self.name} knows no {label!r}; it tells apart {', '.join(self.labels)}")
        return [int(found == label) for found in self._pipeline.predict(list(texts))]

    def log_odds(self, texts: Sequence[str], label: str) -> list[float]:
        """For each text, the natural log of the odds that it is `label`."""
        if label not in self.labels:
            raise UsageError(f"the judge of {self.name} knows no {label!r}; it tells apart {', '.join(self.labels)}")
        probs = self._pipeline.predict_proba(list(texts))[:, list(self._pipeline.classes_).index(label)]
        return np.log(probs / (1 - probs)).tolist()


def train_judge(name: str, examples: Sequence[Labelled], *, seed: int, folds: int = 2) -> Judge:
    """A judge of all examples, and its accuracy measured by holding out whole works.

    Raises:
        UsageError: a label has fewer works than there are folds.
    """
    labels = tuple(sorted({one.label for one in examples}))
    for label in labels:
        works = {one.work for one in examples if one.label == label}
        if len(works) < folds:
            raise UsageError(
                f"the judge of {name} has {len(works)} works of {label!r} and needs {folds}; give more text"
            )
    texts, wanted = [one.text for one in examples], [one.label for one in examples]
    works = [one.work for one in examples]
    found = np.empty(len(texts), dtype=object)
    for trained, tested in StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(texts, wanted, works):
        pipeline = _pipeline(seed).fit([texts[i] for i in trained], [wanted[i] for i in trained])
        found[tested] = pipeline.predict([texts[i] for i in tested])
    accuracy = float(balanced_accuracy_score(wanted, found.astype(str)))
    return Judge(name, labels, accuracy, _pipeline(seed).fit(texts, wanted))


def _pipeline(seed: int) -> Pipeline:
    return make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True, max_features=100_000),
        LogisticRegression(C=10.0, class_weight="balanced", max_iter=1000, random_state=seed),
    )


class NgramModel:
    """Bits per byte of a text under an interpolated Witten-Bell n-gram model of tokens (nltk.lm).

    Every token of the vocabulary is seen once besides the text, so that no text is impossible.

    Args:
        encode: text to token ids, without special tokens; the pieces must spell any text.
        vocab_size: number of token ids.
        texts: what it is trained on.
        order: tokens in the longest n-gram.
    """

    def __init__(
        self, encode: Callable[[str], list[int]], *, vocab_size: int, texts: Sequence[str], order: int = 3
    ) -> None:
        self._encode, self.order = encode, order
        self.num_tokens = 0
        self._model = WittenBellInterpolated(
            order, vocabulary=Vocabulary((str(i) for i in range(vocab_size)), unk_cutoff=1)
        )
        self._known: dict[tuple[str, ...], float] = {}
        self._gammas: dict[tuple[str, ...], float] = {}
        self._model.counts.update([[(str(i),)] for i in range(vocab_size)])
        for text in texts:
            ids = [str(i) for i in encode(text)]
            self.num_tokens += len(ids)
            self._model.counts.update([everygrams(ids, max_len=order)])

    def bits(self, text: str) -> float:
        """Bits that the text costs; its first tokens have less before them."""
        ids = [str(i) for i in self._encode(text)]
        return -sum(math.log2(self._prob(ids[i], tuple(ids[max(0, i + 1 - self.order) : i]))) for i in range(len(ids)))

    def bits_per_byte(self, texts: Sequence[str]) -> float:
        """Of all texts together."""
        return sum(map(self.bits, texts)) / max(1, sum(len(text.encode()) for text in texts))

    def _prob(self, token: str, context: tuple[str, ...]) -> float:
        key = (*context, token)
        if key not in self._known:
            # nltk's own score adds up a context's counts at each call; kept here, which is thousands of times quicker.
            if not context:
                self._known[key] = self._model.counts.unigrams.freq(token)
            else:
                shorter = self._prob(token, context[1:])
                counts = self._model.counts[context]
                if context not in self._gammas:
                    self._gammas[context] = len(counts) / (len(counts) + counts.N()) if counts else 1.0
                gamma = self._gammas[context]
                seen = counts[token] / counts.N() if counts else 0.0
                self._known[key] = (1 - gamma) * seen + gamma * shorter
        return self._known[key]
