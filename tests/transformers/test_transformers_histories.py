import random

import pytest
import torch
from conformance.architectures import ARCHITECTURES, next_logits

from counterpoint.transformers.encoded import EncodedHistories
from counterpoint.transformers.histories import Histories, rows_for


@torch.no_grad()
@pytest.mark.parametrize("name", ["gpt2", "mistral", "mamba"])
def test_any_order_of_histories_has_the_logits_of_none_cached(name: str) -> None:
    """Rows grow by some tokens, split, shrink, swap, end and begin again, at random."""
    model, chance = ARCHITECTURES[name].model(), random.Random(3)
    histories = Histories(rows_for(model))
    texts = [(5, 6, 7), (8, 9)]
    for _ in range(25):
        texts = [
            text + tuple(chance.randrange(2, 100) for _ in range(chance.choice((0, 1, 1, 1, 3)))) for text in texts
        ]
        change = chance.randrange(6)
        if change == 0:
            texts = [text[: max(1, len(text) - 2)] for text in texts]
        elif change == 1:
            texts = texts[::-1]
        elif change == 2:
            texts = [texts[0], *texts][:4]
        elif change == 3:
            texts = texts[1:] or [(11, 12)]
        got = histories.logits(texts)
        want = torch.stack([next_logits(model, text, ()) for text in texts])
        assert torch.allclose(got, want, atol=1e-3)


@torch.no_grad()
def test_decoder_histories_of_an_encoder_decoder() -> None:
    model, start = ARCHITECTURES["t5"].model(), 0
    histories = EncodedHistories(model, [(5, 6, 7), (8, 9)])
    steps = [
        [((5, 6, 7), ()), ((8, 9), ())],
        [((5, 6, 7), (4,)), ((8, 9), (3,))],
        [((8, 9), (3, 2)), ((5, 6, 7), (4, 9)), ((8, 9), (3, 7))],
        [((8, 9), (3, 2, 1)), ((5, 6, 7), (4, 9, 1))],
        [((8, 9), (3,)), ((5, 6, 7), (8,))],
    ]
    for keys in steps:
        got = histories.logits([(text, (start, *ids)) for text, ids in keys])
        want = torch.stack([next_logits(model, text, ids) for text, ids in keys])
        assert torch.allclose(got, want, atol=1e-3)
