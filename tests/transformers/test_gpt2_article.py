"""The article's experiment: its path on random weights of GPT-2's configuration, and, asked for, its texts.

COUNTERPOINT_GPT2=openai-community/gpt2 pytest tests/transformers/test_gpt2_article.py
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from counterpoint.guide import Guide

WEIGHTS = os.environ.get("COUNTERPOINT_GPT2")
ARTICLE = {
    "scale=1.5": " You're doing well. 2. You're doing well in school. 3. You're doing well in school.",
    "scale=3.0": " Have you ever been to a movie theater? 2. Have you ever been to a concert? 3. Have you ever",
    "scale=5.0": " smile, 2. smile, 3. smile, 4. smile,",
    "scale=3.0,space=prob": ' "I\'m doing great," 2. "I\'m doing great," 3. "I\'m doing great."',
    "scale=5.0,space=prob": ' "Good, I\'m feeling pretty good." 2. "I\'m feeling pretty good." 3. "You\'re feeling pretty good."',
}


@pytest.fixture(scope="module")
def article() -> ModuleType:
    path = Path(__file__).parents[2] / "examples" / "gpt2_article.py"
    spec = importlib.util.spec_from_file_location("gpt2_article", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _bytes_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, in GPT-2's alphabet, and names for all other ids."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {text: at for at, text in enumerate([*alphabet, *(f"x{n}" for n in range(len(alphabet), 50257))])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def test_the_path_on_random_weights(article: ModuleType) -> None:
    torch.manual_seed(0)
    model, tokenizer = GPT2LMHeadModel(GPT2Config()).eval(), _bytes_tokenizer()
    assert [str(guide) for guide in article.GUIDES] == list(ARTICLE)
    for guide in (article.GUIDES[0], article.GUIDES[-1]):  # one of each space
        assert article.continuation(model, tokenizer, guide, max_new_tokens=1)
    found = article.standing(model, tokenizer, article.POSITIVE)
    assert 0 < found.probability < 1e-3 and 1 <= found.rank <= 50257


@pytest.mark.skipif(WEIGHTS is None, reason="set COUNTERPOINT_GPT2 to a folder or a hub id of GPT-2")
def test_the_texts_of_the_article(article: ModuleType) -> None:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(WEIGHTS).eval(), AutoTokenizer.from_pretrained(WEIGHTS)
    for guide, text in ARTICLE.items():
        assert article.continuation(model, tokenizer, Guide.parse(guide)).startswith(text)
    positive, negative = (article.standing(model, tokenizer, p) for p in (article.POSITIVE, article.NEGATIVE))
    assert round(positive.probability, 4) == 4e-4 and positive.rank == 50257 - 49937
    assert negative.probability == pytest.approx(2.4907e-05, rel=1e-3) and negative.rank == 50257 - 47573
