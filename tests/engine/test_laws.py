"""The laws of guidance on real attention with random weights, against the stateless loop."""

import math
import random
import warnings

import pytest
import torch
from conformance.architectures import ARCHITECTURES, VOCAB
from engine.oracle import assert_same, guided_tokens

import counterpoint as cp
from counterpoint.contexts import Empty, LastTokens, Suffix
from counterpoint.engine import Engine, prepare
from counterpoint.errors import NoEffectWarning, UsageError

GUIDES = [(0, "log"), (1, "log"), (1.5, "log"), (3, "log"), (7.5, "log"), (1.5, "prob"), (3, "prob"), (7.5, "prob")]
LENGTHS = [1, 3, 7, 18, 40, 2, 25, 11]
ATTENTION = ["gpt2", "llama", "qwen3", "gemma3"]
GREEDY = {"temperature": 0, "ignore_eos": True}


def ids(source, length):
    return [source.randrange(2, VOCAB) for _ in range(length)]


@pytest.fixture(params=ATTENTION)
def model(request):
    return cp.Model(ARCHITECTURES[request.param].model())


@pytest.fixture
def llama():
    return cp.Model(ARCHITECTURES["llama"].model())


def cases():
    source = random.Random(3)
    prompts = [ids(source, n) for n in LENGTHS]
    negatives = [ids(source, n) for n in reversed(LENGTHS)]
    negatives[4] = prompts[4][:30] + negatives[4]  # a shared beginning, which is read once
    return prompts, negatives


@pytest.mark.filterwarnings("ignore::counterpoint.errors.NoEffectWarning")
def test_equal_to_the_stateless_loop_alone_and_in_a_ragged_batch(model):
    prompts, negatives = cases()
    guides = [cp.Guide(scale=scale, space=space) for scale, space in GUIDES]
    together = cp.generate(model, prompts, negative=negatives, guide=guides, max_tokens=64, **GREEDY)
    for i, (scale, space) in enumerate(GUIDES):
        want, margins = guided_tokens(model.hf, prompts[i], [negatives[i]], [1 - scale], space=space)
        assert_same(together[i].token_ids, want, margins)
        if i in (3, 6):
            alone = cp.generate(model, prompts[i], negative=negatives[i], guide=guides[i], max_tokens=64, **GREEDY)
            assert_same(alone.token_ids, want, margins)


@pytest.mark.parametrize("name", ["mixtral", "bloom", "mamba", "mamba2", "jamba", "rwkv", "mistral", "recurrent_gemma"])
def test_other_architectures(name):
    model = cp.Model(ARCHITECTURES[name].model())
    prompts, negatives = cases()
    done = cp.generate(model, prompts[2:4], negative=negatives[2:4], guide=cp.Guide(scale=2.0), max_tokens=24, **GREEDY)
    for completion, prompt, negative in zip(done, prompts[2:4], negatives[2:4]):
        want, margins = guided_tokens(model.hf, prompt, [negative], [-1.0], num_tokens=24)
        assert_same(completion.token_ids, want, margins)


def test_several_weighted_branches(model):
    prompts, negatives = cases()
    branches = [cp.Branch(negatives[0], -0.75), cp.Branch(negatives[2], 0.5), cp.Branch(prompts[3], -0.25)]
    done = cp.generate(model, prompts[1], branches=branches, max_tokens=32, **GREEDY)
    want, margins = guided_tokens(
        model.hf, prompts[1], [negatives[0], negatives[2], prompts[3]], [-0.75, 0.5, -0.25], num_tokens=32
    )
    assert_same(done.token_ids, want, margins)


def test_scale_one_is_unguided_and_zero_the_negative(model):
    prompts, negatives = cases()
    plain = cp.generate(model, prompts[2], max_tokens=32, **GREEDY)
    with pytest.warns(NoEffectWarning, match="changes nothing"):
        one = cp.generate(model, prompts[2], negative=negatives[2], guide=cp.Guide(scale=1), max_tokens=32, **GREEDY)
    assert one.token_ids == plain.token_ids
    zero = cp.generate(model, prompts[2], negative=negatives[2], guide=cp.Guide(scale=0), max_tokens=32, **GREEDY)
    own = cp.generate(model, negatives[2], max_tokens=32, **GREEDY)
    assert zero.token_ids == own.token_ids


@pytest.mark.parametrize("space", ["log", "prob"])
@pytest.mark.parametrize("scale", [0, 1.5, 5, 40])
def test_negative_equal_to_the_prompt_changes_nothing_in_bfloat16(space, scale):
    hf = ARCHITECTURES["qwen3"].build().eval().bfloat16()
    model, prompt = cp.Model(hf), cases()[0][3]
    plain = cp.generate(model, prompt, max_tokens=32, logprobs=0, **GREEDY)
    guide = cp.Guide(scale=scale, space=space)
    with pytest.warns(NoEffectWarning):
        same = cp.generate(model, prompt, negative=list(prompt), guide=guide, max_tokens=32, logprobs=0, **GREEDY)
    assert same == plain.__class__(**{**{f: getattr(plain, f) for f in plain.__slots__}, "usage": same.usage})
    # The same in two rows: the model reads the context twice, so that only the formula can keep it neutral.
    other = cp.Branch(prompt, weight=1 - scale)
    twin = cp.Model(hf)
    read = [cp.contexts.ReadBranch(tuple(prompt), other.weight, model=twin)]
    request = prepare(model, prompt, max_tokens=32, logprobs=0, **GREEDY)
    request = request.__class__(
        **{**{f: getattr(request, f) for f in request.__slots__}, "branches": tuple(read), "guide": guide}
    )
    engine = Engine(model)
    engine.add(request)
    done = [p.completion for p in engine.run() if p.completion][0]
    assert done.token_ids == plain.token_ids


def test_a_sampled_request_does_not_depend_on_what_else_runs(model):
    prompts, negatives = cases()
    options = {"guide": cp.Guide(scale=2.0), "max_tokens": 24, "temperature": 0.9, "top_p": 0.95, "ignore_eos": True}
    alone = [
        cp.generate(model, p, negative=n, seed=i, **options).token_ids
        for i, (p, n) in enumerate(zip(prompts, negatives))
    ]
    together = cp.generate(model, prompts, negative=negatives, seed=list(range(8)), **options)
    assert [done.token_ids for done in together] == alone
    narrow = cp.generate(model, prompts, negative=negatives, seed=list(range(8)), max_rows=3, **options)
    assert [done.token_ids for done in narrow] == alone
    streamed = [piece.token_id for piece in cp.stream(model, prompts[5], negative=negatives[5], seed=5, **options)]
    assert tuple(streamed) == alone[5]


def test_samples_of_a_prompt_are_its_seeds_one_by_one(llama):
    prompt, negative = cases()[0][4], cases()[1][4]
    options = {"negative": negative, "guide": cp.Guide(scale=2.0), "max_tokens": 16, "ignore_eos": True}
    several = cp.generate(llama, prompt, n=3, seed=10, **options)
    single = [cp.generate(llama, prompt, seed=10 + i, **options).token_ids for i in range(3)]
    assert [done.token_ids for done in several] == single
    assert len(set(single)) == 3
    assert [done.index for done in several] == [0, 1, 2]
    assert several[1].usage.shared_tokens > 0


def test_joining_and_leaving_between_steps(model):
    prompts, negatives = cases()
    engine, got, joined = Engine(model, prefill_tokens=8), {}, 0
    while joined < 8 or not engine.is_idle:
        if joined < 8:
            scale, space = GUIDES[joined][0] + 0.5, GUIDES[joined][1]
            engine.add(
                prepare(
                    model, prompts[joined], negative=negatives[joined], guide=cp.Guide(scale=scale, space=space),
                    max_tokens=5 + 4 * joined, **GREEDY,
                )
            )  # fmt: skip
            joined += 1
        for progress in engine.step():
            if progress.completion is not None:
                got[progress.request_id] = progress.completion.token_ids
    for i, (scale, space) in enumerate(GUIDES):
        want, margins = guided_tokens(
            model.hf, prompts[i], [negatives[i]], [0.5 - scale], space=space, num_tokens=5 + 4 * i
        )
        assert_same(got[i], want, margins)
    assert engine.num_rows == 0


def test_cancelling_frees_the_rows_and_leaves_the_others_alone(llama):
    prompts, negatives = cases()
    engine = Engine(llama)
    numbers = [
        engine.add(prepare(llama, p, negative=n, guide=cp.Guide(scale=2.0), max_tokens=20, **GREEDY))
        for p, n in zip(prompts[:4], negatives[:4])
    ]
    for _ in range(5):
        engine.step()
    cancelled = engine.cancel(numbers[1])
    assert [p.completion.finish_reason for p in cancelled] == ["cancelled"]
    assert len(cancelled[0].completion.token_ids) == 5 and engine.num_rows == 6
    assert engine.cancel(numbers[1]) == []
    rest = {p.request_id: p.completion for p in engine.run() if p.completion}
    for i in (0, 2, 3):
        want, margins = guided_tokens(llama.hf, prompts[i], [negatives[i]], [-1.0], num_tokens=20)
        assert_same(rest[numbers[i]].token_ids, want, margins)


def test_start_and_stop(llama):
    prompt, negative = cases()[0][3], cases()[1][3]
    guide = cp.Guide(scale=4.0, start=4, stop=9)
    done = cp.generate(llama, prompt, negative=negative, guide=guide, max_tokens=16, **GREEDY)
    plain, _ = guided_tokens(llama.hf, prompt, [], [], num_tokens=4)
    middle, _ = guided_tokens(llama.hf, [*prompt, *plain], [[*negative, *plain]], [-3.0], num_tokens=5)
    last, margins = guided_tokens(llama.hf, [*prompt, *plain, *middle], [], [], num_tokens=7)
    assert_same(done.token_ids, [*plain, *middle, *last], [1.0] * 9 + margins)


def test_last_tokens_and_empty(llama):
    prompt = cases()[0][3]
    for context, negative in ((LastTokens(), prompt[-1:]), (LastTokens(4), prompt[-4:]), (Empty(), [llama.bos_id])):
        done = cp.generate(llama, prompt, negative=context, guide=cp.Guide(scale=2.0), max_tokens=12, **GREEDY)
        want, margins = guided_tokens(llama.hf, prompt, [negative], [-1.0], num_tokens=12)
        assert_same(done.token_ids, want, margins)
    default = cp.generate(llama, prompt, guide=cp.Guide(scale=2.0), max_tokens=12, **GREEDY)
    last = cp.generate(llama, prompt, negative=LastTokens(), guide=cp.Guide(scale=2.0), max_tokens=12, **GREEDY)
    assert default == last


@torch.inference_mode()
def suffix_tokens(model, prompt, suffixes, weights, num_tokens):
    out = []
    for _ in range(num_tokens):
        rows = [[*prompt, *out], *([*prompt, *out, *suffix] for suffix in suffixes)]
        cond, *others = (model(torch.tensor([row])).logits[0, -1].float().log_softmax(-1) for row in rows)
        out.append(int(((1 - sum(weights)) * cond + sum(w * o for w, o in zip(weights, others))).argmax()))
    return out


def test_suffixes_ride_on_the_conditional_branch(model):
    prompt, first, second = cases()[0][2], [5, 9, 33], [7]
    one = cp.generate(model, prompt, negative=Suffix(first), guide=cp.Guide(scale=2.5), max_tokens=16, **GREEDY)
    assert list(one.token_ids) == suffix_tokens(model.hf, prompt, [first], [-1.5], 16)
    branches = [cp.Branch(Suffix(first), -0.5), cp.Branch(Suffix(second), 0.75)]
    two = cp.generate(model, prompt, branches=branches, max_tokens=16, **GREEDY)
    assert list(two.token_ids) == suffix_tokens(model.hf, prompt, [first, second], [-0.5, 0.75], 16)


def test_a_suffix_is_refused_where_a_state_can_not_be_rolled_back():
    with pytest.raises(UsageError, match="can't be rolled back"):
        cp.generate(cp.Model(ARCHITECTURES["mamba"].model()), [4, 5], negative=Suffix([6]), guide=cp.Guide(scale=2.0))


def test_reported_logprobs_are_those_of_the_guided_distribution(llama):
    prompt, negative = cases()[0][3], cases()[1][3]
    done = cp.generate(
        llama, prompt, negative=negative, guide=cp.Guide(scale=3.0, space="prob"), max_tokens=6, logprobs=VOCAB,
        seed=1, ignore_eos=True,
    )  # fmt: skip
    rows = [list(prompt), list(negative)]
    for entry in done.logprobs:
        with torch.inference_mode():
            cond, neg = (llama.hf(torch.tensor([row])).logits[0, -1].softmax(-1) for row in rows)
        want = (3 * cond - 2 * neg).clamp(min=0)
        want = want / want.sum()
        got = torch.full((VOCAB,), -torch.inf)  # what is ruled out is not reported
        for token_id, logprob in entry.top:
            got[token_id] = logprob
        torch.testing.assert_close(got.exp(), want, atol=1e-5, rtol=1e-4)
        assert float(got.exp().sum()) == pytest.approx(1, abs=1e-5)
        assert entry.logprob == pytest.approx(float(got[entry.token_id]))
        for row in rows:
            row.append(entry.token_id)


def test_penalties_see_the_guided_distribution_once(llama):
    prompt = cases()[0][3]
    banned = cp.generate(llama, prompt, guide=cp.Guide(scale=2.0), max_tokens=1, **GREEDY).token_ids[0]
    done = cp.generate(
        llama, prompt, guide=cp.Guide(scale=2.0), max_tokens=8, logit_bias={banned: -float("inf")}, **GREEDY
    )
    assert banned not in done.token_ids


def test_a_processor_constrains_the_output(llama):
    def only_even(prompt_ids, output_ids, scores):
        scores = scores.clone()
        scores[1::2] = -float("inf")
        return scores

    done = cp.generate(llama, [5, 6, 7], guide=cp.Guide(scale=2.0), max_tokens=20, processors=[only_even], seed=0)
    assert all(token_id % 2 == 0 for token_id in done.token_ids)


def test_the_context_bounds_the_output(llama):
    context = llama.context_len
    prompt = [3] * (context - 3)
    done = cp.generate(llama, prompt, max_tokens=50, **GREEDY)
    assert len(done.token_ids) == 3 and done.finish_reason == "context"
    with pytest.raises(UsageError, match=f"has {context} tokens"):
        cp.generate(llama, [3] * context, max_tokens=5)
    with pytest.raises(UsageError, match=f"has {context} tokens"):
        cp.generate(llama, [3], negative=[3] * context, max_tokens=5)


def test_prompt_chunks_do_not_change_tokens(llama):
    prompts, negatives = cases()
    want, margins = guided_tokens(llama.hf, prompts[4], [negatives[4]], [-1.0], num_tokens=16)
    engine = Engine(llama, prefill_tokens=5)
    engine.add(prepare(llama, prompts[0], max_tokens=40, **GREEDY))
    engine.step()
    number = engine.add(
        prepare(llama, prompts[4], negative=negatives[4], guide=cp.Guide(scale=2.0), max_tokens=16, **GREEDY)
    )
    steps = 0
    for progress in engine.run():
        steps += 1
        if progress.request_id == number and progress.completion:
            assert_same(progress.completion.token_ids, want, margins)
    assert steps == 55  # the others wrote on while the prompt was read in parts


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"prompt": []}, "empty"),
        ({"prompt": ""}, "empty"),
        ({"prompt": [1, 500]}, "token id 500"),
        ({"prompt": [1, -1]}, "token id -1"),
        ({"prompt": [1], "max_tokens": 0}, "max_tokens is 0"),
        ({"prompt": [1], "n": 0}, "n is 0"),
        ({"prompt": [1], "seed": -1}, "seed is -1"),
        ({"prompt": "text"}, "no tokenizer"),
        ({"prompt": [1], "stop": ["x"]}, "stop_ids"),
        ({"prompt": [1], "negative": [2], "branches": [cp.Branch([2])]}, "both negative and branches"),
        ({"prompt": [1], "guide": 3.0}, "use counterpoint.Guide"),
        ({"prompt": [[1], [2]], "guide": [cp.Guide()] * 3}, "guide has 3 entries for 2 prompts"),
        ({"prompt": [1], "logit_bias": {VOCAB: 1.0}}, f"ids of .* end at {VOCAB - 1}"),
    ],
)
def test_bad_arguments(llama, arguments, words):
    with pytest.raises(UsageError, match=words) as caught:
        cp.generate(llama, **arguments)
    assert "\n" not in str(caught.value)


def test_no_logits_of_a_whole_prompt(llama):
    """Prefill never makes [batch, length, vocab] logits."""
    largest, head = 0, llama.hf.get_output_embeddings()

    def watch(_module, _args, out):
        nonlocal largest
        largest = max(largest, out.numel() // out.shape[-1])

    hook = head.register_forward_hook(watch)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            llama.new_rows()  # the trial of the architecture happens once, on a handful of tokens
            largest = 0
            cp.generate(llama, [3] * 200, negative=[4] * 150, guide=cp.Guide(scale=2.0), max_tokens=3, **GREEDY)
    finally:
        hook.remove()
    assert largest == 2


def test_where_guidance_leaves_nothing_of_what_a_constraint_allows_the_prompt_decides(llama):
    prompt, negative = [5, 6, 7], [8, 9, 10]

    def only_the_last(prompt_ids, output_ids, scores):
        """The least probable tokens of the prompt's own prediction, which plausibility 1 rules out."""
        least = unguided(llama, [*prompt_ids, *output_ids]).topk(3, largest=False).indices
        return torch.full_like(scores, -math.inf).index_copy(0, least, scores[least])

    options = {"max_tokens": 6, "temperature": 0, "ignore_eos": True, "processors": [only_the_last]}
    done = cp.generate(llama, prompt, negative=negative, guide=cp.Guide(scale=3.0, plausibility=1.0), **options)
    plain = cp.generate(llama, prompt, **options)
    assert done.token_ids == plain.token_ids


def unguided(model, ids):
    with torch.inference_mode():
        return model.hf(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
