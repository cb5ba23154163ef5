"""Which answers are written, which is kept, and that none is written twice."""

import pytest
from distillation.small_chat import OPPOSITE, QUESTIONS, SYSTEM, small_chat

import counterpoint as cp
from counterpoint.distillation import own_prompts
from counterpoint.distillation.answers import Answer, Writer, best_of, write_examples
from counterpoint.distillation.config import Writing
from counterpoint.distillation.dialogues import Dialogue
from counterpoint.distillation.own_prompts import write_prompts
from counterpoint.distillation.reading import Contexts
from counterpoint.distillation.rules import Rule
from counterpoint.errors import PromptError
from counterpoint.models.fingerprint import fingerprint
from counterpoint.store import Store

CONTEXTS = Contexts(cp.Guide(3), OPPOSITE, None, True, SYSTEM)
CONFIG = Writing(2, sampling={"max_tokens": 6})


@pytest.fixture(scope="module")
def model():
    return small_chat()


def writer_of(model, store):
    return Writer(model, store, weights=fingerprint(model.hf), say=lambda line: None)


def test_the_best_is_the_one_that_guidance_finds_most_probable_of_those_that_keep_the_rules():
    short, long, empty = (
        Answer((1,), "short words", True, -1.0),
        Answer((1, 2), "long words", True, -0.5),
        Answer((), "", True, 0.0),
    )
    assert best_of([short, long, empty], ()) is long
    assert best_of([short, long], [Rule("short", lambda text, _: "short" in text)]) is short
    assert best_of([short, long], [Rule("none", lambda text, _: False)]) is None
    assert best_of([empty], ()) is None
    assert best_of([short, Answer((9,), "equal", True, -1.0)], ()) is short


def test_candidates_are_samples_of_what_generate_would_write(model):
    from counterpoint.contexts import chat

    writer = writer_of(model, Store(None))
    examples, chosen, tally = write_examples(model, writer, [Dialogue((QUESTIONS[0],))], [0], CONTEXTS, CONFIG, seed=5)
    built = chat(
        model, [{"role": "system", "content": SYSTEM}, {"role": "user", "content": QUESTIONS[0]}], negative=OPPOSITE
    )
    samples = cp.generate(model, built, guide=cp.Guide(3), n=2, seed=5, max_tokens=6, logprobs=0)
    best = max(samples, key=lambda one: sum(t.logprob for t in one.logprobs) / len(one.token_ids))
    assert examples[0].answer_ids == best.token_ids and chosen[0].text == best.text
    assert (tally.written, tally.rejected, tally.turns, tally.dropped) == (2, 0, 1, 0)


def test_later_turns_read_what_was_answered_before_and_a_turn_without_an_answer_ends_a_conversation(model):
    store = Store(None)
    talk = Dialogue(("One?", "Two?", "Three?"), ("Given.",))
    examples, chosen, _ = write_examples(model, writer_of(model, store), [talk], [0], CONTEXTS, CONFIG, seed=0)
    assert len(examples) == 2
    second = model.tokenizer.decode(examples[1].reading.student_ids)
    assert "Given." in second and chosen[0].text.strip() in second and second.count(SYSTEM) == 1
    prompt = model.tokenizer.decode(examples[1].reading.prompt_ids)
    assert prompt.count(SYSTEM) == 3  # at the beginning, and before both later turns
    none = [Rule("never", lambda text, _: False)]
    again = write_examples(model, writer_of(model, store), [talk], [0], CONTEXTS, CONFIG, seed=0, rules=none)
    assert again[0] == [] and (again[2].rejected, again[2].dropped, again[2].turns) == (2, 1, 1)


def test_nothing_is_written_twice_and_what_is_written_does_not_depend_on_what_was(model, tmp_path):
    prompts = [Dialogue((question,)) for question in (QUESTIONS * 3)[:48]]  # two chunks
    whole = write_examples(model, writer_of(model, Store(None)), prompts, range(48), CONTEXTS, CONFIG, seed=0)
    store = Store(tmp_path / "answers.sqlite")
    first = writer_of(model, store)
    write_examples(model, first, prompts[:32], range(32), CONTEXTS, CONFIG, seed=0)
    computed = store.num_computed
    store.close()
    store = Store(tmp_path / "answers.sqlite")
    assert write_examples(model, writer_of(model, store), prompts, range(48), CONTEXTS, CONFIG, seed=0)[:2] == whole[:2]
    assert (computed, store.num_computed, store.num_reused) == (1, 1, 1)


def test_prompts_of_the_models_own_are_different_and_repeatable(model):
    plain = cp.load("bundled", compile=False)
    store = Store(None)
    writer = writer_of(plain, store)

    def write(seed):
        return write_prompts(plain, writer, 6, is_chat=False, seed=seed, say=print)

    found = write(0)
    assert len(set(found)) == 6 and all(3 <= len(text.split()) <= 40 for text in found)
    assert write(0) == found != write(1)
    with (
        pytest.MonkeyPatch.context() as patch,
        pytest.raises(PromptError, match="usable prompts of 4 that were wanted; want fewer, or give prompts"),
    ):
        patch.setattr(own_prompts, "FEWEST_WORDS", 30)
        write_prompts(model, writer_of(model, store), 4, is_chat=True, seed=0, say=print)
