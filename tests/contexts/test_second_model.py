"""Several models side by side: the tokens of a loop without any cache, a forward of each model at each step."""

import random

import pytest
import torch
from conformance.architectures import ARCHITECTURES, VOCAB
from contexts.chat_templates import SPECIAL, byte_tokenizer
from engine.oracle import assert_same

import counterpoint as cp
from counterpoint.contexts import Empty, LastTokens, OtherModel, Suffix, contrastive, proxy_tuning
from counterpoint.engine import Engine, prepare
from counterpoint.errors import GuideError, NoEffectWarning, PromptError, UnsupportedError

GREEDY = {"temperature": 0, "ignore_eos": True}
LENGTHS = [1, 23, 5]
NUM_TOKENS = 16


def ids(source, length):
    return [source.randrange(2, VOCAB) for _ in range(length)]


def model(name):
    return cp.Model(ARCHITECTURES[name].model(), name=name)


@torch.inference_mode()
def loop(readers, *, space="log", plausibility=0.0, num_tokens=NUM_TOKENS):
    """Greedy tokens of the definition, and each choice's margin. readers: (model, history, weight), the conditional
    branch first with any weight."""
    histories = [list(history) for _, history, _ in readers]
    tokens, margins = [], []
    for _ in range(num_tokens):
        cond, *others = (
            hf(torch.tensor([history])).logits[0, -1].float().log_softmax(-1)
            for (hf, _, _), history in zip(readers, histories)
        )
        weights = [weight for _, _, weight in readers[1:]]
        if space == "log":
            guided = (1 - sum(weights)) * cond + sum(w * o for w, o in zip(weights, others))
        else:
            guided = (1 - sum(weights)) * cond.exp() + sum(w * o.exp() for w, o in zip(weights, others))
            guided = guided.clamp(min=0).log()
        guided = guided.masked_fill(cond.exp() < plausibility * cond.exp().max(), float("-inf"))
        best = guided.topk(2)
        tokens.append(int(best.indices[0]))
        margins.append(float(best.values[0] - best.values[1]))
        for history in histories:
            history.append(tokens[-1])
    return tokens, margins


@pytest.mark.parametrize(
    "names, scale, space",
    [
        (("llama", "gpt2"), 1.5, "log"),
        (("gpt2", "mistral"), 3.0, "prob"),
        (("qwen3", "mamba"), 3.0, "log"),
        (("mamba", "llama"), 3.0, "prob"),
    ],
)
def test_contrastive_decoding_is_the_loops(names, scale, space):
    expert, amateur = map(model, names)
    source = random.Random(7)
    prompts = [ids(source, n) for n in LENGTHS]
    guide = cp.Guide(scale=scale, space=space, plausibility=0.1)
    done = cp.generate(expert, [contrastive(p, amateur) for p in prompts], guide=guide, max_tokens=NUM_TOKENS, **GREEDY)
    for prompt, completion in zip(prompts, done):
        readers = [(expert.hf, prompt, 0), (amateur.hf, prompt, 1 - scale)]
        want, margins = loop(readers, space=space, plausibility=0.1)
        assert_same(completion.token_ids, want, margins)


def test_plausibility_is_the_papers_unless_a_guide_says_otherwise():
    expert, amateur = model("llama"), model("gpt2")
    assert prepare(expert, contrastive([5, 6], amateur)).guide == cp.Guide(plausibility=0.1)
    assert prepare(expert, contrastive([5, 6], amateur), guide=cp.Guide(scale=2)).guide == cp.Guide(scale=2)


@pytest.mark.parametrize("strength", [1.0, -0.5])
def test_proxy_tuning_reads_three_models(strength):
    large, tuned, untuned = map(model, ("llama", "gpt2", "qwen3"))
    source = random.Random(8)
    prompts = [ids(source, n) for n in LENGTHS]
    built = [proxy_tuning(p, tuned, untuned, strength=strength) for p in prompts]
    done = cp.generate(large, built, max_tokens=NUM_TOKENS, **GREEDY)
    for prompt, completion in zip(prompts, done):
        readers = [(large.hf, prompt, 0), (tuned.hf, prompt, strength), (untuned.hf, prompt, -strength)]
        assert_same(completion.token_ids, *loop(readers))


@pytest.mark.parametrize("draft_tokens", [0, 3])
def test_many_models_in_one_engine_and_branches_of_each_kind(draft_tokens):
    main, second = model("llama"), model("mistral")
    source = random.Random(9)
    prompts, others = [ids(source, n) for n in (4, 30, 12)], [ids(source, n) for n in (9, 2, 20)]
    branches = [
        [
            cp.Branch(OtherModel(second, other), -0.7),
            cp.Branch(other, 0.4),
            cp.Branch(OtherModel(second, LastTokens(2)), -0.3),
        ]
        for other in others
    ]
    engine = Engine(
        main, max_rows=6, draft_tokens=draft_tokens
    )  # fewer than all need, so that requests wait for one another
    requests = [prepare(main, p, branches=b, max_tokens=NUM_TOKENS, **GREEDY) for p, b in zip(prompts, branches)]
    numbers = [engine.add(request) for request in requests]
    done = {p.request_id: p.completion for p in engine.run() if p.completion is not None}
    assert engine.num_rows == 0
    for number, prompt, other in zip(numbers, prompts, others):
        readers = [
            (main.hf, prompt, 0),
            (second.hf, other, -0.7),
            (main.hf, other, 0.4),
            (second.hf, prompt[-2:], -0.3),
        ]
        assert_same(done[number].token_ids, *loop(readers))


def test_skipped_steps_are_caught_up_in_the_other_models_cache():
    """With a high plausibility the expert decides many steps alone; the amateur reads them later, several at once."""
    expert, amateur = model("llama"), model("gpt2")
    source = random.Random(10)
    prompts = [ids(source, n) for n in LENGTHS]
    guide = cp.Guide(scale=3, plausibility=0.6)
    engine = Engine(expert)
    built = [contrastive(prompt, amateur) for prompt in prompts]
    numbers = [engine.add(prepare(expert, b, guide=guide, max_tokens=NUM_TOKENS, **GREEDY)) for b in built]
    done = {p.request_id: p.completion for p in engine.run() if p.completion is not None}
    assert sum(completion.usage.skipped_steps for completion in done.values()) > 0
    for number, prompt in zip(numbers, prompts):
        readers = [(expert.hf, prompt, 0), (amateur.hf, prompt, -2)]
        assert_same(done[number].token_ids, *loop(readers, plausibility=0.6))


def test_a_model_beside_itself_is_told_to_change_nothing():
    main = model("llama")
    with pytest.warns(NoEffectWarning):
        done = cp.generate(main, contrastive([5, 6, 7], main), guide=cp.Guide(scale=3), max_tokens=5, **GREEDY)
    assert done.token_ids == cp.generate(main, [5, 6, 7], max_tokens=5, **GREEDY).token_ids


def test_the_shorter_context_of_the_two_is_the_bound():
    main, small = model("llama"), cp.Model(short_model(), name="small")
    done = cp.generate(main, contrastive([5] * 10, small), max_tokens=100, **GREEDY)
    assert len(done.token_ids) == 32 - 10 and done.finish_reason == "context"
    with pytest.raises(PromptError, match="32"):
        prepare(main, contrastive([5] * 32, small))


def test_a_width_that_differs_by_padding_only_is_no_hindrance():
    tokenizer = byte_tokenizer()
    narrow, wide = (tiny(width, tokenizer, name=str(width)) for width in (268, 272))
    for main, other in ((narrow, wide), (wide, narrow)):
        done = cp.generate(
            main, contrastive("Hello", other), guide=cp.Guide(scale=2, space="log"), max_tokens=8, **GREEDY
        )
        assert len(done.token_ids) == 8


def test_another_tokenizer_is_refused_with_the_difference():
    main = tiny(272, byte_tokenizer(), name="main")
    other = tiny(272, byte_tokenizer(special=["<bos>", *SPECIAL[1:]]), name="other")
    with pytest.raises(UnsupportedError, match="its token 256 is '<bos>', not '<s>'; use a model with the same"):
        prepare(main, contrastive("Hello", other))


def test_another_way_to_split_is_refused():
    from tokenizers import pre_tokenizers

    tokenizer = byte_tokenizer()
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False)
    with pytest.raises(UnsupportedError, match="splits texts otherwise"):
        prepare(tiny(272, byte_tokenizer(), name="main"), contrastive("Hello", tiny(272, tokenizer, name="other")))


def test_models_without_tokenizers_need_one_width():
    with pytest.raises(UnsupportedError, match="has 268 tokens, not 120"):
        prepare(model("llama"), contrastive([5], tiny(268, None, name="other")))
    with pytest.raises(UnsupportedError, match="other has no tokenizer to compare"):
        prepare(tiny(268, byte_tokenizer(), name="main"), contrastive([5], tiny(268, None, name="other")))


@pytest.mark.parametrize("context", [Suffix([3]), OtherModel(None)])
def test_what_another_model_cannot_read(context):
    with pytest.raises(PromptError, match="another model can't read"):
        prepare(model("llama"), [5, 6], negative=OtherModel(model("gpt2"), context))


def test_strength_is_a_number():
    with pytest.raises(GuideError, match="strength"):
        proxy_tuning([5], model("gpt2"), model("qwen3"), strength=float("nan"))


def test_empty_context_on_another_model():
    main, other = model("llama"), model("gpt2")
    request = prepare(main, [5, 6], negative=OtherModel(other, Empty()))
    assert request.branches[0].ids == (1,) and request.branches[0].model is other


def short_model():
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=VOCAB, max_position_embeddings=32, eos_token_id=None, pad_token_id=0, **sizes)
    return LlamaForCausalLM(config).eval()


def tiny(width, tokenizer, *, name):
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(width)
    hf = LlamaForCausalLM(LlamaConfig(vocab_size=width, max_position_embeddings=128, eos_token_id=257, **sizes))
    return cp.Model(hf.eval(), tokenizer, name=name)
