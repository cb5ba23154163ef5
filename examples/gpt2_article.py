"""GPT-2 under guidance in both spaces: the experiment of Smirnov 2024 (arXiv 2412.06846) on a model that anybody can load.

    python examples/gpt2_article.py                      # openai-community/gpt2, from the hub or its cache
    python examples/gpt2_article.py --model FOLDER

In log space at scale 5 the text is "smile, smile, ...": a token with a probability of 4e-4 wins, because the negative
finds it less likely still. In prob space it can't.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from counterpoint import Guide
from counterpoint.transformers import generate

POSITIVE = 'Extremely polite and friendly answers to the question "How are you doing?" are: 1.'
NEGATIVE = 'Very rude and harmfull answers to the question "How are you doing?" are: 1.'
GUIDES = (
    Guide(scale=1.5),
    Guide(scale=3.0),
    Guide(scale=5.0),
    Guide(scale=3.0, space="prob"),
    Guide(scale=5.0, space="prob"),
)
TOKEN = " smile"


@dataclass(frozen=True, slots=True)
class Standing:
    """How a branch ranks a token as its next one. Rank 1 is the most probable."""

    probability: float
    rank: int


def continuation(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, guide: Guide, *, max_new_tokens: int = 60
) -> str:
    """The greedy continuation of the positive prompt under a guide."""
    positive = tokenizer(POSITIVE, return_tensors="pt").to(model.device)
    negative = tokenizer(NEGATIVE, return_tensors="pt").to(model.device)
    out = model.generate(
        **positive,
        negative_prompt_ids=negative["input_ids"],
        custom_generate=generate,
        guide=guide,
        max_new_tokens=max_new_tokens,
        do_sample=False,
        pad_token_id=model.generation_config.eos_token_id,
    )
    return tokenizer.decode(out[0, positive["input_ids"].shape[1] :])


@torch.no_grad()
def standing(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: str, token: str = TOKEN) -> Standing:
    """Probability and rank of a text's first token right after a prompt."""
    token_id = tokenizer(token)["input_ids"][0]
    probs = model(**tokenizer(prompt, return_tensors="pt").to(model.device)).logits[0, -1].float().softmax(-1)
    return Standing(float(probs[token_id]), int((probs > probs[token_id]).sum()) + 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="openai-community/gpt2", help="a hub id or a folder")
    asked = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(asked.model)
    model = AutoModelForCausalLM.from_pretrained(asked.model).eval()
    print(POSITIVE)
    for guide in GUIDES:
        print(f"\n[{guide}]\n{continuation(model, tokenizer, guide)}")
    print(f"\nThe first token {TOKEN!r}:")
    for name, prompt in (("positive", POSITIVE), ("negative", NEGATIVE)):
        found = standing(model, tokenizer, prompt)
        print(f"  {name}: probability {found.probability:.3g}, rank {found.rank} of {model.config.vocab_size}")


if __name__ == "__main__":
    main()
