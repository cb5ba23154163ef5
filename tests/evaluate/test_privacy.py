"""Personal data: what is counted, and the run with a stub chat model of random weights whose words include some."""

import warnings

import pytest
import torch
import transformers as hf
from tokenizers import Tokenizer, models, pre_tokenizers

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("presidio_analyzer")
    from counterpoint.evaluate.privacy import NEGATIVE, POSITIVE, PersonalData, run_privacy

from counterpoint.errors import GuideError, PromptError
from counterpoint.guide import Guide
from counterpoint.models.model import Model

pytestmark = pytest.mark.filterwarnings("ignore")
LEAKS = ["ann@example.com", "bob@example.org", "212-555-0187", "4111-1111-1111-1111"]
WORDS = [*f"{POSITIVE} {NEGATIVE}".split(), "who", "where", "are", "you", "?", *"abcdefghij", *LEAKS]
TEMPLATE = "{% for m in messages %}{{ m.content }} {% endfor %}"


@pytest.fixture(scope="module")
def stub() -> Model:
    words = {word: number for number, word in enumerate(dict.fromkeys(["<unk>", *WORDS]))}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    torch.manual_seed(0)
    config = hf.LlamaConfig(
        vocab_size=len(words), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=128, eos_token_id=None, bos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    wrapped = hf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")
    wrapped.chat_template = TEMPLATE
    return Model(hf.LlamaForCausalLM(config), wrapped, name="stub")


def test_what_is_counted():
    data = PersonalData()
    text = "Write to ann@example.com or call 212-555-0187; my card is 4111 1111 1111 1111, my number 856-45-6789."
    assert data.count(text) == {"EMAIL_ADDRESS": 1, "PHONE_NUMBER": 1, "CREDIT_CARD": 1, "US_SSN": 1}
    assert data.count("I have no personal name, and 3 dogs of 12 years.") == {}
    assert data.count("nobody@nowhere.notadomain") == {}
    starts = [one.start for one in data.find(text)]
    assert starts == sorted(starts)


def test_a_run_with_a_stub_chat_model(stub):
    guides = [Guide(scale=1.0), Guide(scale=3.0), Guide(scale=3.0, space="prob")]
    results = run_privacy(stub, ["who are you ?", "where are you ?"], guides, samples=3, max_tokens=24, seed=1)
    assert [one.guide for one in results] == guides
    data = PersonalData()
    for one in results:
        assert len(one.answers) == 6
        assert sum(one.kinds.values()) == sum(data.count(answer).total() for answer in one.answers)
        assert one.mean == pytest.approx(sum(one.kinds.values()) / 6)
        assert one.low <= one.mean <= one.high
    assert sum(results[0].kinds.values()) > 0  # random weights do say such words
    assert results[0].gain is None and results[1].gain["value"] == pytest.approx(results[1].mean - results[0].mean)
    assert results[0].answers != results[1].answers
    assert results == run_privacy(stub, ["who are you ?", "where are you ?"], guides, samples=3, max_tokens=24, seed=1)


def test_the_branches_are_the_two_system_messages(stub, monkeypatch):
    from counterpoint.evaluate import privacy

    seen, prepare = [], privacy.prepare
    monkeypatch.setattr(privacy, "prepare", lambda *a, **k: seen.append(prepare(*a, **k)) or seen[-1])
    run_privacy(stub, ["who are you ?"], [Guide(scale=1.0), Guide(scale=2.0)], max_tokens=2)
    plain, guided = seen
    assert plain.branches == () and plain.prompt_ids == guided.prompt_ids
    assert stub.decode(guided.prompt_ids).startswith(POSITIVE.split(".")[0])
    assert stub.decode(guided.branches[0].ids).startswith(NEGATIVE.split(" in ")[0])
    assert guided.branches[0].weight == -1.0


def test_bad_input(stub):
    with pytest.raises(PromptError, match="no question"):
        run_privacy(stub, [], [Guide(scale=1.0)])
    with pytest.raises(GuideError, match="each with a scale"):
        run_privacy(stub, ["who ?"], [Guide()])
    bare = Model(stub.hf, hf.PreTrainedTokenizerFast(tokenizer_object=stub.tokenizer.backend_tokenizer), name="bare")
    with pytest.raises(PromptError, match="chat template"):
        run_privacy(bare, ["who ?"], [Guide(scale=2.0)])
