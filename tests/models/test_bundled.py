import pytest
import torch

import counterpoint as cp
from counterpoint.models.loading import BUNDLED

CONDITIONS = ("Genre: mystery.\n\n", "Sentiment: negative. Product remark.\n\n", "Topic: noun.animal. Define: cat.\n\n")


@pytest.fixture(scope="module")
def model():
    return cp.load("bundled", dtype="float32")


def test_the_folder_is_small_and_says_what_it_is_made_of():
    assert sum(f.stat().st_size for f in BUNDLED.iterdir()) < 40_000_000
    for name in ("NOTICE", "MODEL_CARD.md", "config.json", "model.safetensors", "tokenizer.json"):
        assert (BUNDLED / name).stat().st_size > 0
    for owed in ("Pang", "Liu", "ELTeC", "WordNet", "FairytaleQA", "Standard Ebooks", "Personality Chat"):
        assert owed in (BUNDLED / "NOTICE").read_text()


@pytest.mark.parametrize("header", CONDITIONS)
def test_a_header_tokenises_alike_alone_and_before_its_text(model, header):
    text = "It was late."
    assert model.encode(header + text) == [*model.encode(header), *model.encode(text, special_tokens=False)]


@torch.no_grad()
def test_english_is_likelier_than_its_words_reversed(model):
    def mean_logprob(text: str) -> float:
        ids = torch.tensor([model.encode(text)])
        logprobs = model.hf(ids[:, :-1]).logits.log_softmax(-1)
        return float(logprobs.gather(-1, ids[:, 1:, None]).mean())

    text = "He went to the door of the house and looked out into the street, but there was nobody to be seen."
    assert mean_logprob(text) > mean_logprob(" ".join(reversed(text.split()))) + 0.5


@torch.no_grad()
@pytest.mark.parametrize(
    ("condition", "other", "text"),
    [
        (
            "Sentiment: negative. Product remark.\n\n",
            "Sentiment: positive. Product remark.\n\n",
            "Too bulky, short battery life, hard to use.",
        ),
        (
            "Sentiment: positive. Product remark.\n\n",
            "Sentiment: negative. Product remark.\n\n",
            "Easy to use, great pictures.",
        ),
        (
            "Genre: philosophy.\n\n",
            "Genre: science fiction.\n\n",
            "And is not the just man happy, Socrates, and the unjust miserable?",
        ),
        (
            "Genre: science fiction.\n\n",
            "Genre: philosophy.\n\n",
            "The ship landed on the planet, and the captain switched off the screen.",
        ),
    ],
)
def test_a_condition_makes_its_own_text_likelier(model, condition, other, text):
    def logprob(header: str) -> float:
        lead, ids = model.encode(header), model.encode(text, special_tokens=False)
        logprobs = model.hf(torch.tensor([[*lead, *ids]])).logits[0, len(lead) - 1 : -1].log_softmax(-1)
        return float(logprobs.gather(-1, torch.tensor(ids)[:, None]).sum())

    assert logprob(condition) > logprob(other)
