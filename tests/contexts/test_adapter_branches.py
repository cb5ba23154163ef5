"""A LoRA trained on one of two authors: amplified, undone, and switched around each forward of one set of weights."""

import random

import pytest
import torch

import counterpoint as cp
from counterpoint.contexts import OtherModel, against_adapter
from counterpoint.errors import UsageError
from counterpoint.wire import branch_from_wire

peft = pytest.importorskip("peft")

VOCAB, BOS = 24, 0
# Two authors who share half of their words: those from 1 to 7 are the first's own, those from 8 to 14 the second's.
OWN = {"first": range(1, 8), "second": range(8, 15)}
SHARED = range(15, 24)
GREEDY = {"temperature": 0, "ignore_eos": True}


def write(author, source, length=24):
    """A text: own and shared words take turns, each drawn by a rule that depends on the word before."""
    words, at = [BOS], source.randrange(99)
    for step in range(length - 1):
        at = (at * 3 + source.randrange(2)) % 99
        pool = OWN[author] if step % 2 == 0 else SHARED
        words.append(pool[at % len(pool)])
    return words


def train(hf, authors, steps, rate, source):
    optimizer = torch.optim.AdamW([p for p in hf.parameters() if p.requires_grad], lr=rate)
    hf.train()
    for _ in range(steps):
        ids = torch.tensor([write(source.choice(authors), source) for _ in range(16)])
        hf(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    hf.eval()


@pytest.fixture(scope="module")
def adapted():
    """A model that writes as either author, with an adapter that leans to the first."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    source = random.Random(0)
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=64, bos_token_id=BOS, eos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    hf = LlamaForCausalLM(config)
    train(hf, ["first", "second"], 100, 5e-3, source)
    peft.inject_adapter_in_model(
        peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=True), hf, "leaning"
    )
    train(hf, ["first", "first", "first", "second"], 25, 3e-3, source)
    return cp.Model(hf, name="adapted")


def first_share(model, prompt, guide=None):
    """A naive Bayes judge: the share of texts whose own words are more often the first author's."""
    done = cp.generate(model, prompt, guide=guide, max_tokens=20, n=60, seed=5)
    scores = [sum((t in OWN["first"]) - (t in OWN["second"]) for t in c.token_ids) for c in done]
    return sum((score > 0) + 0.5 * (score == 0) for score in scores) / len(scores)


def test_guidance_amplifies_and_undoes_what_the_adapter_learned(adapted):
    plain = adapted.with_adapter(None)
    off, on = first_share(plain, [BOS]), first_share(adapted, [BOS])
    amplified = first_share(adapted, against_adapter([BOS], adapted), cp.Guide(scale=3))
    undone = first_share(plain, against_adapter([BOS], plain, adapter="leaning"), cp.Guide(scale=3))
    assert undone < off - 0.05 < off + 0.05 < on < amplified - 0.05, (undone, off, on, amplified)


def test_tokens_are_those_of_a_loop_that_switches(adapted):
    prompts = [[BOS], [BOS, 3, 17, 4], [BOS, 9, 15, 10, 16, 11]]
    built = [against_adapter(p, adapted) for p in prompts]
    done = cp.generate(adapted, built, guide=cp.Guide(scale=2.5), max_tokens=16, **GREEDY)
    for prompt, completion in zip(prompts, done):
        history, want = list(prompt), []
        with torch.inference_mode():
            for _ in range(16):
                on = logprobs(adapted.hf, history)
                enable(adapted.hf, False)
                off = logprobs(adapted.hf, history)
                enable(adapted.hf, True)
                history.append(int((2.5 * on - 1.5 * off).argmax()))
                want.append(history[-1])
        assert list(completion.token_ids) == want


def enable(hf, on):
    for layer in hf.modules():
        if isinstance(layer, peft.tuners.lora.LoraLayer):
            layer.enable_adapters(on)


def logprobs(hf, history):
    return hf(torch.tensor([history])).logits[0, -1].log_softmax(-1)


def test_one_set_of_weights(adapted):
    plain = adapted.with_adapter(None)
    assert plain.hf is adapted.hf and adapted.with_adapter(None) is plain
    adapter = sum(p.numel() for name, p in adapted.hf.named_parameters() if "lora_" in name)
    whole = sum(p.numel() for p in adapted.hf.parameters())
    assert 0 < adapter < 0.1 * whole


def test_generating_leaves_the_adapter_and_its_training_as_they_were(adapted):
    for number, parameter in enumerate(p for name, p in adapted.hf.named_parameters() if "lora_" in name):
        parameter.requires_grad_(number % 2 == 0)  # frozen in part, which switching by itself would undo
    trainable = {name: p.requires_grad for name, p in adapted.hf.named_parameters()}
    before = logprobs(adapted.hf, [BOS, 4])
    cp.generate(adapted, against_adapter([BOS], adapted), max_tokens=4, **GREEDY)
    assert {name: p.requires_grad for name, p in adapted.hf.named_parameters()} == trainable
    assert torch.equal(logprobs(adapted.hf, [BOS, 4]), before)


def test_a_failing_forward_switches_back(adapted):
    rows = adapted.with_adapter(None).new_rows()
    from counterpoint.models.rows import Feed

    row = rows.add()
    with pytest.raises(IndexError):
        rows.forward([Feed(row, [VOCAB + 5])])
    assert not any(layer.disable_adapters for layer in adapted.hf.modules() if hasattr(layer, "lora_A"))


def test_names_of_adapters(adapted):
    assert branch_from_wire({"adapter": None}, model=adapted).context == OtherModel(adapted.with_adapter(None))
    with pytest.raises(UsageError, match="no adapter 'other'; the model has leaning"):
        adapted.with_adapter("other")
    with pytest.raises(UsageError, match="has no adapter to turn on or off"):
        from conformance.architectures import ARCHITECTURES

        cp.Model(ARCHITECTURES["llama"].model()).with_adapter(None)
