"""A plan in the loops of transformers: the tokens of our engine, and rules that hold in beams and samples too."""

import pytest
import torch
from constrained_models import tiny

import counterpoint as cp
from counterpoint.constraints import Plan

pytest.importorskip("ortools")

DISHES, SLOTS = ["fish", "fish pie", "bean stew"], ["a", "b", "c"]
PROMPT, NEGATIVE, GUIDE = [50, 60, 70, 80, 50, 60], [400, 30, 5, 7, 9, 11], cp.Guide(scale=3.0, space="prob")


def menu():
    plan = Plan("{a}, {b} and {c}", dict.fromkeys(SLOTS, DISHES))
    for dish in DISHES:
        plan.model.add_at_most_one(plan[slot][dish] for slot in SLOTS)
    return plan


@pytest.mark.parametrize(
    "options",
    [{}, {"prompt_lookup_num_tokens": 3}, {"num_beams": 3, "num_return_sequences": 3}, {"do_sample": True}],
    ids=str,
)
def test_rules_hold(options):
    model, plan = tiny("llama"), menu()
    torch.manual_seed(0)
    out = model.hf.generate(
        torch.tensor([PROMPT]), negative_prompt_ids=torch.tensor([NEGATIVE]), custom_generate=cp.transformers.generate,
        guide=GUIDE, constraint=plan.compile(model.hf, model.tokenizer), max_new_tokens=40, pad_token_id=2,
        **{"do_sample": False, **options},
    )  # fmt: skip
    rows = [row[len(PROMPT) :].tolist() for row in out]
    texts = [model.tokenizer.decode(row, skip_special_tokens=True, clean_up_tokenization_spaces=False) for row in rows]
    assert all(sorted(plan.read(text).values()) == sorted(DISHES) for text in texts), texts
    if not {"num_beams", "do_sample"} & options.keys():
        done = cp.generate(model, PROMPT, negative=NEGATIVE, guide=GUIDE, constraint=plan, temperature=0, max_tokens=40)
        assert tuple(rows[0][: len(done.token_ids)]) == done.token_ids
