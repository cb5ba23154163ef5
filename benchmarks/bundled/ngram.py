"""An interpolated Kneser-Ney 5-gram model on token ids, in numpy: the yardstick beside which a small model is read.

Kneser & Ney 1995 with one discount for each order, D = n1 / (n1 + 2 n2) (Ney, Essen & Kneser 1994). The n-grams of an
order are the sorted distinct integers that 12 bits a token make, so counts are found by binary search.
"""

from dataclasses import dataclass

import numpy as np

BITS = 12


@dataclass(frozen=True, slots=True)
class _Order:
    grams: np.ndarray  # sorted n-grams
    counts: np.ndarray  # how often each was seen; below the highest order, in how many left contexts
    contexts: np.ndarray  # sorted contexts (the n-grams without their last token)
    totals: np.ndarray  # sum of the counts in each context
    kinds: np.ndarray  # distinct continuations of each context
    discount: float


class KneserNey:
    """p(w | h) = max(c(h w) - D, 0) / c(h) + D * kinds(h) / c(h) * p(w | h without its first token)."""

    def __init__(self, tokens: np.ndarray, *, vocab: int, order: int = 5) -> None:
        if vocab > 1 << BITS or order * BITS > 64:
            raise ValueError(f"vocabulary of {vocab} and order {order} do not fit 64 bits")
        self.vocab, self.order = vocab, order
        ids = tokens.astype(np.uint64)
        grams, counts = np.unique(_grams(ids, order), return_counts=True)
        self._orders: list[_Order] = []
        for size in range(order, 0, -1):
            self._orders.insert(0, _order(grams, counts))
            if size > 1:
                grams, counts = np.unique(grams & np.uint64((1 << BITS * (size - 1)) - 1), return_counts=True)

    def probabilities(self, tokens: np.ndarray) -> np.ndarray:
        """p of each token given up to four before it [N]; the first ones have shorter contexts."""
        ids = tokens.astype(np.uint64)
        p = np.full(len(ids), 1.0 / self.vocab)
        for size, kept in enumerate(self._orders, start=1):
            if len(ids) < size:
                break
            grams = _grams(ids, size)
            seen = _look_up(kept.grams, kept.counts, grams)
            context = grams >> np.uint64(BITS)
            total = _look_up(kept.contexts, kept.totals, context)
            kinds = _look_up(kept.contexts, kept.kinds, context)
            known = total > 0
            lower = p[size - 1 :]
            mixed = (np.maximum(seen - kept.discount, 0) + kept.discount * kinds * lower) / np.maximum(total, 1)
            p[size - 1 :] = np.where(known, mixed, lower)
        return p


def _grams(ids: np.ndarray, size: int) -> np.ndarray:
    packed = np.zeros(len(ids) - size + 1, dtype=np.uint64)
    for offset in range(size):
        packed = packed << np.uint64(BITS) | ids[offset : len(ids) - size + 1 + offset]
    return packed


def _order(grams: np.ndarray, counts: np.ndarray) -> _Order:
    contexts, first, kinds = np.unique(grams >> np.uint64(BITS), return_index=True, return_counts=True)
    once, twice = int((counts == 1).sum()), int((counts == 2).sum())
    discount = once / (once + 2 * twice) if once and twice else 0.5
    return _Order(grams, counts, contexts, np.add.reduceat(counts, first), kinds, discount)


def _look_up(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], 0).astype(np.float64)
