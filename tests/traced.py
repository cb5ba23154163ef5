"""Fixtures of the tests of traces and reports: a small model, and traces of texts that it is made to write."""

import pytest
import torch
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from counterpoint.models.loading import BUNDLED
from counterpoint.models.model import Model


@pytest.fixture(scope="session")
def model():
    """A random GPT-2 with decided opinions, and the byte-level tokenizer of the bundled model."""
    tokenizer = AutoTokenizer.from_pretrained(BUNDLED)
    config = GPT2Config(
        n_layer=2, n_embd=32, n_head=2, vocab_size=len(tokenizer), n_positions=4096, initializer_range=0.6,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    torch.manual_seed(7)
    return Model(GPT2LMHeadModel(config), tokenizer, name="tiny")


@pytest.fixture(scope="session")
def forced(model):
    """A text to a processor that makes the model write exactly that text."""

    def force(text):
        ids = model.encode(text, special_tokens=False)

        def processor(prompt_ids, output_ids, scores):
            wanted = ids[len(output_ids)] if len(output_ids) < len(ids) else model.tokenizer.eos_token_id
            return torch.full_like(scores, float("-inf")).index_fill(0, torch.tensor([wanted]), 0.0)

        return processor

    return force


@pytest.fixture(scope="session")
def make_trace(model, forced):
    """A trace of a text that is forced on the model, under guidance."""
    import counterpoint as cp

    def make(text, **options):
        given = {"negative": "A sad dog sat alone.", "guide": cp.Guide(scale=3.0), "max_tokens": 4000, "temperature": 0}
        return cp.trace.record(model, "A happy girl sang.", processors=[forced(text)], **(given | options))

    return make
