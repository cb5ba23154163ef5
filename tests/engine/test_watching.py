"""A watch in the loop: its numbers, that it changes nothing until it rings, and how a text goes back."""

import math

import pytest
import torch
from conformance.architectures import ARCHITECTURES
from engine.oracle import assert_same
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

import counterpoint as cp
from counterpoint.constraints import Regex
from counterpoint.engine import Engine, prepare
from counterpoint.engine.loops import Loops
from counterpoint.engine.watching import gentler, measure
from counterpoint.errors import SamplingError
from counterpoint.models.loading import BUNDLED
from counterpoint.sampling import Sampling, draw, generator, pass_over
from counterpoint.watch.fit import Listener

PROMPT, NEGATIVE = [1, 5, 9, 17, 40, 7], [1, 66, 3, 30]
GREEDY = {"temperature": 0, "ignore_eos": True}


class Bell:
    """Rings at given calls: each a step, taken in order. Scores are 2 there and 0 elsewhere."""

    hears_states = False

    def __init__(self, *rings, window=5):
        self.rings, self.window, self.heard = list(rings), window, []

    def check(self, model):
        pass

    def start(self):
        return _Ringing(self, list(self.rings))


class _Ringing:
    def __init__(self, bell, rings):
        self.bell, self.rings, self.steps = bell, rings, []

    def hear(self, step, numbers):
        self.steps.append(step)
        self.bell.heard.append((step, numbers))
        if len(self.steps) < self.bell.window:
            return None
        if self.rings and step == self.rings[0]:
            self.rings.pop(0)
            return 2.0
        return 0.0

    @property
    def begin(self):
        return self.steps[-self.bell.window]

    def cut(self, length):
        self.steps = [step for step in self.steps if step < length]


@pytest.fixture(scope="module")
def llama():
    return cp.Model(ARCHITECTURES["llama"].model())


@pytest.fixture(scope="module")
def worded():
    """A random model with the bundled tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(BUNDLED)
    config = GPT2Config(
        n_layer=2, n_embd=32, n_head=2, vocab_size=len(tokenizer), n_positions=128, initializer_range=0.4,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    torch.manual_seed(7)
    return cp.Model(GPT2LMHeadModel(config), tokenizer, name="tiny")


def test_numbers_are_those_of_the_definitions():
    source = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(2, 3, 50, generator=source)
    scores = 2 * torch.randn(2, 50, generator=source)
    got = measure(logits, scores, [4, 9])
    for row, token_id in enumerate((4, 9)):
        cond, *others = logits[row].double().log_softmax(-1)
        kl = [float((cond.exp() * (cond - other)).sum()) for other in others]
        want = [
            float(-(cond.exp() * cond).sum()), float(cond[token_id]),
            float(scores[row].double().log_softmax(-1)[token_id]), sum(kl) / 2,
        ]  # fmt: skip
        numbers = got[row]
        found = [numbers.entropy, numbers.cond_logprob, numbers.guided_logprob, numbers.divergence]
        assert found == pytest.approx(want, abs=1e-5)


def test_numbers_stay_finite_where_a_branch_rules_tokens_out():
    logits = torch.zeros(1, 2, 4)
    logits[0, 0, 0] = logits[0, 1, 1] = -math.inf
    numbers = measure(logits, torch.tensor([[0.0, -math.inf, 0.0, 0.0]]), [1])[0]
    assert numbers.entropy == pytest.approx(math.log(3)) and numbers.guided_logprob == -100
    assert 30 < numbers.divergence < 40  # a third of the mass lies where the branch has none: 100 nats down


@pytest.mark.parametrize(
    "options",
    [
        {"guide": cp.Guide(scale=3), "temperature": 0},
        {"guide": cp.Guide(scale=3), "seed": 3, "n": 2},
        {"guide": cp.Guide(scale=3, space="prob", plausibility=0.1), "seed": 3, "logprobs": 2},
        {"guide": cp.Guide(scale=2, gate=1.0), "seed": 1, "top_k": 20, "repetition_penalty": 1.2},
        {"guide": cp.Guide(scale=3), "temperature": 0, "draft_tokens": 3},
    ],
    ids=["greedy", "sampled", "prob", "penalised", "drafted"],
)
@pytest.mark.parametrize("on_alarm", ["mark", "ease"])
def test_without_an_alarm_nothing_changes(llama, options, on_alarm):
    given = {"negative": NEGATIVE, "max_tokens": 24, "ignore_eos": True, **options}
    plain = cp.generate(llama, PROMPT, **given)
    watched = cp.generate(llama, PROMPT, watch=Bell(), on_alarm=on_alarm, **given)
    for one, other in zip(*([made] if not isinstance(made, list) else made for made in (plain, watched))):
        assert (one.token_ids, one.logprobs, one.finish_reason) == (
            other.token_ids,
            other.logprobs,
            other.finish_reason,
        )
        assert other.alarms == () and one.alarms is None and other.usage.eases == 0


def test_numbers_do_not_depend_on_how_a_text_is_written(llama):
    """Alone, in a batch, drafted, one by one since log-probabilities are wanted, and given instead of drawn."""
    given = {"negative": NEGATIVE, "guide": cp.Guide(scale=3), "max_tokens": 12, **GREEDY}
    ways, done = [], None
    for more in ({}, {"draft_tokens": 3}, {"logprobs": 1}):
        listener = Listener()
        done = cp.generate(llama, PROMPT, watch=listener, **given, **more)
        ways.append(listener.texts[0])
    listener = Listener()
    cp.generate(llama, [[1, 9], PROMPT], watch=listener, **{**given, "negative": [[1, 8, 8, 8], NEGATIVE]})
    ways.append(listener.texts[1])
    from counterpoint.watch.fit import numbers_of

    written = numbers_of(llama, [(PROMPT, done)], negative=NEGATIVE, guide=cp.Guide(scale=3))[0]
    for way in [*ways[1:], written.tolist()]:
        assert len(way) == 12
        for one, other in zip(way, ways[0]):
            assert one == pytest.approx(other, abs=2e-3)


def stateless(hf, rings, *, scale, window, num_tokens, sampling=None, seed=None):
    """The definition: every branch read anew; at an alarm the text is cut and the guide made gentler."""
    sampling = sampling or Sampling(temperature=0)
    source, tokens, margins, rings = generator(seed), [], [], list(rings)
    plausibility, heard, discarded = 0.0, [], 0
    while len(tokens) < num_tokens:
        with torch.inference_mode():
            cond, other = (
                hf(torch.tensor([[*ids, *tokens]])).logits[0, -1].float().log_softmax(-1) for ids in (PROMPT, NEGATIVE)
            )
        guided = scale * cond + (1 - scale) * other
        if plausibility:
            guided = guided.masked_fill(cond < cond.max() + math.log(plausibility), -math.inf)
        guided = guided.log_softmax(-1)
        token_id = draw(guided, sampling, source)
        best = guided.topk(2).values
        heard.append(len(tokens))
        if rings and len(tokens) == rings[0] and len(heard) >= window:
            rings.pop(0)
            begin = heard[-window]
            discarded += len(tokens) + 1 - begin
            del tokens[begin:], margins[begin:], heard[begin:]
            scale, plausibility = max(scale / 2, 1.0), 0.1
            source = generator(seed)
            for _ in tokens:
                pass_over(len(guided), sampling, source)
            continue
        tokens.append(token_id)
        margins.append(float(best[0] - best[1]) if sampling.greedy else math.inf)
    return tokens, margins, discarded


@pytest.mark.parametrize("name", ["llama", "mixtral", "mistral", "mamba", "bloom"])
@pytest.mark.parametrize("rings", [(5,), (4, 9), (11, 12, 20)], ids=str)
def test_ease_is_the_stateless_loop_that_goes_back(name, rings):
    model = cp.Model(ARCHITECTURES[name].model())
    want, margins, discarded = stateless(model.hf, rings, scale=5.0, window=5, num_tokens=26)
    given = {"negative": NEGATIVE, "guide": cp.Guide(scale=5), "max_tokens": 26, **GREEDY}
    plain = cp.generate(model, PROMPT, **given)
    assert list(plain.token_ids) != want
    for more in ({}, {"draft_tokens": 3}, {"logprobs": 1}):
        done = cp.generate(model, PROMPT, watch=Bell(*rings), on_alarm="ease", **given, **more)
        assert_same(done.token_ids, want, margins)
        assert done.usage.eases == len(rings) and done.usage.discarded_tokens == discarded
        assert [alarm.step for alarm in done.alarms] == list(rings) and all(alarm.eased for alarm in done.alarms)
        assert done.logprobs is None or [t.token_id for t in done.logprobs] == list(done.token_ids)


def test_a_sample_goes_on_with_the_random_numbers_of_its_place(llama):
    want, _, _ = stateless(llama.hf, (8, 15), scale=5.0, window=5, num_tokens=24, sampling=Sampling(), seed=6)
    given = {"negative": NEGATIVE, "guide": cp.Guide(scale=5), "max_tokens": 24, "ignore_eos": True, "seed": 6}
    done = cp.generate(llama, PROMPT, watch=Bell(8, 15), on_alarm="ease", **given)
    assert list(done.token_ids) == want
    # Beside others, of which one is eased elsewhere and one has no watch.
    engine, requests = Engine(llama), []
    for bell in (Bell(8, 15), Bell(6), None):
        watch = {} if bell is None else {"watch": bell, "on_alarm": "ease"}
        requests.append(prepare(llama, PROMPT, **given, **watch))
    both = engine.complete(requests)
    assert list(both[0][0].token_ids) == want
    assert both[2][0].token_ids == cp.generate(llama, PROMPT, **given).token_ids


def test_several_branches_and_one_of_another_state(llama):
    """Weights are halved together; a branch that costs a forward of its own goes back too."""
    vector = cp.Vector({1: torch.randn(32, generator=torch.Generator().manual_seed(0))})
    branches = [cp.Branch(NEGATIVE, -1.0), cp.Branch(cp.contexts.OtherModel(llama.with_vector(vector)), -0.6)]
    given = {"branches": branches, "max_tokens": 20, **GREEDY}
    for more in ({}, {"draft_tokens": 3, "draft_ahead": True}):
        done = cp.generate(llama, PROMPT, watch=Bell(9), on_alarm="ease", **given, **more)
        kept, factor = list(done.token_ids[:5]), (1.3 - 1) / (2.6 - 1)
        assert kept == list(cp.generate(llama, PROMPT, **given).token_ids[:5])
        eased = [cp.Branch([*NEGATIVE, *kept], -1.0 * factor)]
        eased.append(cp.Branch(cp.contexts.OtherModel(llama.with_vector(vector)), -0.6 * factor))
        rest = cp.generate(
            llama, [*PROMPT, *kept], branches=eased, guide=cp.Guide(plausibility=0.1), max_tokens=15, **GREEDY
        )
        assert done.token_ids[5:] == rest.token_ids


def test_a_stream_tells_every_token_once(worded):
    given = {"negative": "no", "guide": cp.Guide(scale=4), "max_tokens": 30, "seed": 2, "ignore_eos": True}
    pieces = list(cp.stream(worded, "Once", watch=Bell(9, 17), on_alarm="ease", logprobs=0, **given))
    done = pieces[-1].completion
    assert done.usage.eases == 2 and "".join(pieces) == done.text == worded.decode(done.token_ids)
    assert [piece.token_id for piece in pieces] == list(done.token_ids)
    assert [piece.logprob for piece in pieces] == list(done.logprobs)


def test_stop_ends_the_text_at_the_first_alarm(llama):
    given = {"negative": NEGATIVE, "guide": cp.Guide(scale=5), "max_tokens": 20, **GREEDY}
    done = cp.generate(llama, PROMPT, watch=Bell(8, 12), on_alarm="stop", **given)
    assert done.finish_reason == "alarm" and len(done.token_ids) == 9 and len(done.alarms) == 1
    assert done.token_ids == cp.generate(llama, PROMPT, **given).token_ids[:9]


def test_mark_tells_each_run_of_alarms_once(llama):
    bell = Bell(6, 7, 8, 12)
    done = cp.generate(llama, PROMPT, watch=bell, max_tokens=16, **GREEDY)
    assert [(alarm.step, alarm.begin, alarm.score, alarm.eased) for alarm in done.alarms] == [
        (6, 2, 2.0, False), (12, 8, 2.0, False)
    ]  # fmt: skip
    assert done.finish_reason == "length" and done.usage.discarded_tokens == 0


def test_past_its_number_of_times_it_only_marks(llama):
    given = {"negative": NEGATIVE, "guide": cp.Guide(scale=5), "max_tokens": 20, **GREEDY}
    done = cp.generate(llama, PROMPT, watch=Bell(6, 8, 10), on_alarm="ease", max_eases=1, **given)
    assert [alarm.eased for alarm in done.alarms] == [True, False, False] and done.usage.eases == 1
    none = cp.generate(llama, PROMPT, watch=Bell(6), on_alarm="ease", max_eases=0, **given)
    assert none.token_ids == cp.generate(llama, PROMPT, **given).token_ids


def test_where_guidance_has_ended_there_is_nothing_to_ease(llama):
    guide = cp.Guide(scale=5, stop=4)
    given = {"negative": NEGATIVE, "guide": guide, "max_tokens": 16, **GREEDY}
    done = cp.generate(llama, PROMPT, watch=Bell(8), on_alarm="ease", **given)
    assert not done.alarms[0].eased and done.token_ids == cp.generate(llama, PROMPT, **given).token_ids


def test_a_form_and_stop_texts_go_back_too(worded):
    form = Regex("[a-e]{20,24}").compile(worded)
    given = {"negative": "no", "guide": cp.Guide(scale=4), "max_tokens": 40, "seed": 5}
    done = cp.generate(worded, "Once", constraint=form, watch=Bell(7, 9), on_alarm="ease", **given)
    assert done.usage.eases == 2 and done.complete and set(done.text) <= set("abcde") and 0 < done.constraint_mass < 1
    plain = cp.generate(worded, "Once", watch=Bell(9), on_alarm="ease", ignore_eos=True, **given)
    mark = plain.text[20:24]
    stopped = cp.generate(worded, "Once", watch=Bell(9), on_alarm="ease", ignore_eos=True, stop=mark, **given)
    assert stopped.text == plain.text[: plain.text.index(mark)]


def test_a_loop_is_looked_for_in_what_is_left(llama):
    """Tokens that were given up count for no loop."""
    given = {"negative": NEGATIVE, "guide": cp.Guide(scale=5), "max_tokens": 90, **GREEDY}
    whole = cp.generate(llama, PROMPT, watch=Bell(9), on_alarm="ease", **given).token_ids
    loops = Loops(40, 2)
    end = next(step for step, token_id in enumerate(whole, 1) if loops.extend(token_id))
    done = cp.generate(llama, PROMPT, watch=Bell(9), on_alarm="ease", loop=(40, 2), **given)
    assert done.finish_reason == "loop" and done.token_ids == whole[:end] and end > 9


@pytest.mark.parametrize(
    "options, message, param",
    [
        ({"on_alarm": "sing", "watch": Bell()}, "on_alarm is 'sing'; use mark, stop, ease", "on_alarm"),
        ({"on_alarm": "stop"}, "on_alarm is given and no watch", "on_alarm"),
        ({"max_eases": 1}, "max_eases is given and no watch", "max_eases"),
        ({"max_eases": -1, "watch": Bell()}, "max_eases is -1", "max_eases"),
        ({"watch": "bell"}, "watch is 'bell'; use a counterpoint.Watch", "watch"),
        ({"watch": Bell(), "on_alarm": "ease"}, "nothing guides the text", "on_alarm"),
        ({"watch": Bell(), "on_alarm": "ease", "observe": print}, "observe is given, which can't", "on_alarm"),
        ({"watch": Bell(), "on_alarm": "ease", "processors": [print]}, "processors is given", "on_alarm"),
    ],
)
def test_mistakes_are_one_line(llama, options, message, param):
    with pytest.raises(SamplingError, match=message) as caught:
        cp.generate(llama, PROMPT, max_tokens=4, **options)
    assert caught.value.param == param and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "weights, scales",
    [([-4.0], [2.5, 1.25, 1.0]), ([-0.5], [1.0, 1.0, 1.0]), ([-1.0, -2.0], [2.0, 1.0, 1.0]), ([0.4], [0.8, 0.9, 0.95])],
)
def test_gentler(weights, scales):
    guide = cp.Guide(plausibility=0.02)
    for scale in scales:
        guide, factor = gentler(guide, weights)
        weights = [weight * factor for weight in weights]
        assert 1 - sum(weights) == pytest.approx(scale) and guide.plausibility == 0.1
    assert gentler(cp.Guide(plausibility=0.3), [-1.0])[0].plausibility == 0.3
