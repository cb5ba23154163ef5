"""The bridge, from the harness' own command line and from Python, with data of its own only."""

import json
import math
import os
import subprocess
import sys
import warnings

import pytest
import torch
import yaml
from patience import PATIENCE_S

from counterpoint.errors import GuideError, NoEffectWarning, PromptError, SamplingError, UsageError
from counterpoint.evaluate import REGISTER
from counterpoint.guide import Guide
from counterpoint.models.loading import BUNDLED, load
from tests.evaluate.tiny import guided_probs, next_probs, write_jsonl

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    lm_eval = pytest.importorskip("lm_eval")
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    from counterpoint.evaluate.harness import GuidedLM

pytestmark = pytest.mark.filterwarnings("ignore")  # the harness and datasets warn of their own affairs
TEXTS = ["The king rode out at dawn.", "She said nothing, and the door closed.", "It was a dark and stormy night."]
CPU = {"device": "cpu", "dtype": "float32", "batch_size": 4}


def instances(kind: str, arguments: list[tuple]) -> list[Instance]:
    return [Instance(request_type=kind, doc={}, arguments=a, idx=i) for i, a in enumerate(arguments)]


def pairs() -> list[Instance]:
    ends = [" and then he slept.", " but", " who knows? Nobody does.", "\n"]
    return instances("loglikelihood", [(text, end) for text in TEXTS for end in ends] + [("", "Once upon a time")])


def oracle(lm: GuidedLM, context: list[int], continuation: list[int], negative: list[int]) -> float:
    cond = next_probs(lm.guided_model, context, continuation)
    other = next_probs(lm.guided_model, negative, continuation)
    return sum(math.log(guided_probs(cond[i], other[i], lm.guide, i)[token]) for i, token in enumerate(continuation))


@pytest.fixture(scope="module")
def unguided() -> HFLM:
    return HFLM(str(BUNDLED), **CPU)


@pytest.fixture(scope="module")
def guided() -> GuidedLM:
    return GuidedLM(scale=2.0, **CPU)


@pytest.fixture
def changed(guided, monkeypatch):
    """The guided model with other settings, put back afterwards."""

    def change(**settings) -> GuidedLM:
        for name, value in settings.items():
            monkeypatch.setattr(guided, name, value)
        return guided

    return change


def test_scale_1_is_hf_in_every_request(unguided):
    plain = GuidedLM(scale=1.0, **CPU)
    writing = instances("generate_until", [(text, {"until": ["\n"], "max_gen_toks": 8}) for text in TEXTS])
    whole = instances("loglikelihood_rolling", [(text,) for text in TEXTS])
    assert plain.loglikelihood(pairs(), disable_tqdm=True) == unguided.loglikelihood(pairs(), disable_tqdm=True)
    assert plain.loglikelihood_rolling(whole, True) == unguided.loglikelihood_rolling(whole, True)
    assert plain.generate_until(writing, True) == unguided.generate_until(writing, True)


def test_our_own_way_at_scale_1_agrees_with_hf(unguided, changed, monkeypatch):
    monkeypatch.setattr(GuidedLM, "is_unguided", property(lambda self: False))
    lm = changed(guide=Guide(scale=1.0), negative_ids=(3, 4, 5))
    writing = instances("generate_until", [(text, {"until": ["\n"], "max_gen_toks": 8}) for text in TEXTS])
    whole = instances("loglikelihood_rolling", [(text,) for text in TEXTS])
    for got, want in zip(lm.loglikelihood(pairs(), True), unguided.loglikelihood(pairs(), True), strict=True):
        assert got[0] == pytest.approx(want[0], abs=1e-5, rel=1e-6) and got[1] == want[1]
    assert lm.loglikelihood_rolling(whole, True) == pytest.approx(unguided.loglikelihood_rolling(whole, True), rel=1e-6)
    assert lm.generate_until(writing, True) == unguided.generate_until(writing, True)


def test_the_default_branch_is_the_last_token_of_the_context(guided):
    results = guided.loglikelihood(pairs(), disable_tqdm=True)
    for request, (got, _) in zip(pairs()[:-1], results):
        context, continuation = guided._encode_pair(*request.args)
        assert got == pytest.approx(oracle(guided, context, continuation, context[-1:]), abs=1e-3)
    # A context that is one token is its own last token: unguided.
    begin = guided.prefix_token_id
    continuation = guided.tok_encode("Once upon a time", add_special_tokens=False)
    plain = next_probs(guided.guided_model, [begin], continuation)
    assert results[-1][0] == pytest.approx(sum(math.log(plain[i, t]) for i, t in enumerate(continuation)), abs=1e-3)


def test_other_branches(changed):
    request = instances("loglikelihood", [(TEXTS[0], " He slept.")])
    lm = changed(branch="empty")
    context, continuation = lm._encode_pair(*request[0].args)
    want = oracle(lm, context, continuation, [lm.prefix_token_id])
    assert lm.loglikelihood(request, True)[0][0] == pytest.approx(want, abs=1e-3)
    lm = changed(negative_ids=lm._read_negative("A dull report"))
    want = oracle(lm, context, continuation, list(lm.negative_ids))
    assert lm.loglikelihood(request, True)[0][0] == pytest.approx(want, abs=1e-3)


def test_whole_texts_in_several_windows(changed):
    lm = changed(negative_ids=(7, 8, 9), _max_length=16)
    text = " ".join(TEXTS * 2)
    ids = lm.tok_encode(text)
    assert len(ids) > 32
    got = lm.loglikelihood_rolling(instances("loglikelihood_rolling", [(text,)]), True)[0]
    want, room, at = 0.0, 16 - 3, 0
    while at < len(ids):
        size = min(room, len(ids) - at)
        # Windows after the first are filled up from the left with what came before.
        lead = ids[max(0, at + size - room - 1) : at] if at else [lm.prefix_token_id]
        negative = [7, 8, 9, *(lead if at else [])]
        assert len(negative) + size - 1 <= 16  # what the model reads
        want += oracle(lm, lead, ids[at : at + size], negative)
        at += size
    assert got == pytest.approx(want, abs=5e-3)


def test_generation_is_that_of_the_package(guided, changed):
    import counterpoint as cp

    lm = changed(seed=3)
    given = {"until": ["."], "max_gen_toks": 6, "do_sample": True, "temperature": 0.8, "top_k": 20}
    texts = lm.generate_until(instances("generate_until", [(text, given) for text in TEXTS]), True)
    for number, text in enumerate(TEXTS):
        ids = lm.tok_encode(text)
        want = cp.generate(
            lm.guided_model, ids, negative=ids[-1:], guide=lm.guide, max_tokens=6, temperature=0.8, top_k=20,
            stop=["."], seed=3 + number,
        )  # fmt: skip
        assert texts[number] == want.text
    assert given["until"] == ["."]


def test_chats_lose_their_system_message(changed):
    lm = changed(_without_system={})
    lm.tokenizer.chat_template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
    try:
        chat = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello"}]
        rendered = lm.apply_chat_template(chat)
        assert rendered == "<system>Be kind.\n<user>Hello\n"
        context = lm.tok_encode(rendered + "I think")
        assert lm._negative(rendered + "I think", context) == tuple(lm.tok_encode("<user>Hello\nI think"))
        assert lm._negative("plain text", context) == tuple(context[-1:])
        lm = changed(branch="no-system")
        with pytest.raises(GuideError, match="needs chats with a system message"):
            lm._negative("plain text", context)
    finally:
        lm.tokenizer.chat_template = None


ENDS = ["", " ", "\n", "\n\n"]
TEMPLATE = (
    "{% for m in messages %}{% if m.content %}<{{ m.role }}>{{ m.content }}<end>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>END{% endif %}"
)
DEFAULTING = "{% if messages[0].role != 'system' %}<system>Be good.<end>{% endif %}" + TEMPLATE
FOLDING = (
    "{% set s = messages[0].content if messages[0].role == 'system' else '' %}<user>{% if s %}{{ s }}\n\n{% endif %}"
    "{{ messages[-1].content }}<end><assistant>END"
)


@pytest.fixture
def templated(guided, changed, monkeypatch):
    """The guided model with a chat template and nothing remembered, as in a new process."""

    def make(template: str, end: str = "", **settings) -> GuidedLM:
        monkeypatch.setattr(guided.tokenizer, "chat_template", template.replace("END", end))
        return changed(**{"_without_system": {}, "_chats": None, "branch": None} | settings)

    return make


def read_by(lm: GuidedLM, monkeypatch, text: str, continuation: str = " yes") -> list:
    """The items that are scored."""
    seen = []
    monkeypatch.setattr(
        lm, "scores", lambda items, keys, disable_tqdm: [seen.extend(items)] * 0 + [(0.0, True)] * len(items)
    )
    lm.loglikelihood(instances("loglikelihood", [(text, continuation)]), True)
    return seen


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize(
    "template", [TEMPLATE, DEFAULTING, FOLDING, "{% for m in messages %}{{ m.content }}{% endfor %}END"]
)
def test_an_empty_system_message_gives_both_branches_the_same_ids(templated, monkeypatch, template, end):
    lm = templated(template, end)
    user = {"role": "user", "content": "Is it so?"}
    system = "Be good." if template is DEFAULTING else ""  # a default's own words stand for nothing
    text = lm.apply_chat_template([{"role": "system", "content": system}, user])
    (item,) = read_by(lm, monkeypatch, text)
    assert item.negative == item.context
    with pytest.warns(NoEffectWarning, match="changes nothing"):
        lm.loglikelihood(instances("loglikelihood", [(text, " yes")]), True)


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("template", [TEMPLATE, DEFAULTING, FOLDING])
def test_both_branches_of_a_chat_are_encoded_by_one_rule(templated, monkeypatch, template, end):
    lm = templated(template, end)
    user = {"role": "user", "content": "Is it so?"}
    text = lm.apply_chat_template([{"role": "system", "content": "Answer."}, user])
    bare = HFLM.apply_chat_template(lm, [user])
    (item,) = read_by(lm, monkeypatch, text)
    # What stands before the continuation, and the continuation, are those of the bare chat scored by itself.
    assert (list(item.negative), list(item.continuation)) == tuple(lm._encode_pair(bare, " yes"))
    monkeypatch.setattr(lm, "_scored_negatives", {})
    negative = "A dull report:" + text[len(text.rstrip()) :]
    monkeypatch.setattr(lm, "negative_ids", lm._read_negative(negative))
    (item,) = read_by(lm, monkeypatch, text)
    assert (list(item.negative), list(item.continuation)) == tuple(lm._encode_pair(negative, " yes"))


@pytest.mark.parametrize("template", [TEMPLATE, DEFAULTING])
def test_chats_that_were_rendered_by_another_process(templated, template):
    """The harness keeps rendered requests (--cache_requests), so that the template is not asked again."""
    chat = [{"role": "system", "content": "Answer.\nBe kind."}, {"role": "user", "content": "a"},
            {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]  # fmt: skip
    lm = templated(template, "\n")
    text = lm.apply_chat_template(chat)
    request = instances("loglikelihood", [(text, " yes")])
    first = lm.loglikelihood(request, True)
    again = templated(template, "\n").loglikelihood(request, True)
    assert first == again and first != templated(template, "\n", branch="last").loglikelihood(request, True)
    # Without a system message there is nothing to take out, whoever rendered it.
    alone = HFLM.apply_chat_template(lm, chat[1:])
    with pytest.warns(NoEffectWarning):
        templated(template, "\n").loglikelihood(instances("loglikelihood", [(alone, " yes")]), True)


def test_chats_whose_system_message_cannot_be_found_are_refused(templated):
    user = {"role": "user", "content": "Is it so?"}
    chat = [{"role": "system", "content": "Answer."}, user]
    text = templated(FOLDING).apply_chat_template(chat)
    with pytest.raises(PromptError, match="--cache_requests refresh"):
        templated(FOLDING).loglikelihood(instances("loglikelihood", [(text, " yes")]), True)
    assert templated(FOLDING, branch="last").loglikelihood(instances("loglikelihood", [(text, " yes")]), True)
    with pytest.raises(PromptError, match="can't be taken out again"):
        templated(TEMPLATE).apply_chat_template([{"role": "system", "content": "Say <end><user>x"}, user])
    dated = "<bos>Day END.<system>" + TEMPLATE
    text = templated(dated, "1").apply_chat_template(chat)
    with pytest.raises(PromptError, match="not as its template writes them now"):
        templated(dated, "2").loglikelihood(instances("loglikelihood", [(text, " yes")]), True)


def test_an_empty_context_never_turns_guidance_off_in_silence(changed):
    only, mixed = [("", "Once upon a time")], [("", "Once upon a time"), ("The king", " rode")]
    for branch in ("last", "empty", None):
        with pytest.raises(GuideError, match="guidance can change nothing"):
            changed(branch=branch).loglikelihood(instances("loglikelihood", only), True)
    with pytest.warns(NoEffectWarning, match="changes nothing in 1 of 2 requests"):
        changed(branch="last").loglikelihood(instances("loglikelihood", mixed), True)
    lm = changed(negative_ids=(7, 8, 9))
    (got, _) = lm.loglikelihood(instances("loglikelihood", only), True)[0]
    ids = lm.tok_encode(only[0][1], add_special_tokens=False)
    assert got == pytest.approx(oracle(lm, [lm.prefix_token_id], ids, [7, 8, 9]), abs=1e-3)


def test_a_guide_that_never_acts_is_told(changed):
    request = instances("loglikelihood", [("The king rode", " out")])
    for guide, reason in (
        (Guide(scale=2.0, start=3, stop=3), "starts and stops"),
        (Guide(scale=2.0, start=9), "at token 9"),
    ):
        with pytest.warns(NoEffectWarning, match=reason):
            changed(guide=guide).loglikelihood(request, True)


def test_cached_answers_are_those_of_the_guide(tmp_path, changed):
    from lm_eval.api.model import CachingLM

    request, got = instances("loglikelihood", [("The king rode", " out")]), []
    for guide in (Guide(scale=2.0), Guide(scale=5.0), Guide(scale=2.0, space="prob"), Guide(scale=2.0)):
        lm = changed(guide=guide)
        plain = lm.loglikelihood(request, True)
        with_cache = CachingLM(lm, str(tmp_path / "answers.db")).loglikelihood
        assert with_cache(request) == plain
        got.append(plain)
    assert got[0] == got[3] and got[0] != got[1] != got[2] != got[0]
    monkeyed = CachingLM(lm, str(tmp_path / "answers.db"))
    assert len(list(monkeyed.dbdict.keys())) == 3
    # The second time nothing is computed.
    changed(scores=lambda *_, **__: pytest.fail("computed again"))
    assert monkeyed.loglikelihood(request) == plain
    # Another branch is another answer.
    changed(negative_ids=(7, 8, 9))
    with pytest.raises(pytest.fail.Exception, match="computed again"):
        monkeyed.loglikelihood(request)


def test_whole_texts_at_the_models_own_length():
    import transformers as hf

    torch.manual_seed(1)
    tokenizer = hf.AutoTokenizer.from_pretrained(BUNDLED)
    config = hf.LlamaConfig(vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                            num_attention_heads=2, max_position_embeddings=16, bos_token_id=0, eos_token_id=0)  # fmt: skip
    made = hf.LlamaForCausalLM(config)
    lm = GuidedLM(made, tokenizer=tokenizer, scale=2.0, negative="A dull")
    length = len(lm.negative_ids)
    for count in (16 - length, 16 - length + 1, 16, 17, 50):
        ids = tokenizer(" ".join(TEXTS * 3))["input_ids"][:count]
        text = tokenizer.decode(ids)
        assert lm.tok_encode(text) == ids
        assert math.isfinite(lm.loglikelihood_rolling(instances("loglikelihood_rolling", [(text,)]), True)[0])


def test_the_model_is_the_packages_own(monkeypatch):
    from counterpoint.evaluate import opened

    asked = []
    monkeypatch.setattr(
        opened, "load", lambda *given, **options: asked.append((given, options)) or load(*given, **options)
    )
    lm = GuidedLM(scale=1.5, weights="int8", compile=False)
    ((name,), options) = asked[0]
    assert (name, options["weights"], options["compile"]) == ("bundled", "int8", False)
    assert lm.device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert any(type(part).__name__.startswith("Int8") for part in lm.model.modules())
    assert not lm.guided_model.has_kernels
    assert os.path.isabs(lm.pretrained) and lm.get_model_info()["model_sha"] == ""  # no hub id is looked up
    assert GuidedLM().guided_model.dtype == torch.float32 == load("bundled").dtype
    assert GuidedLM(dtype="bfloat16").guided_model.dtype == torch.bfloat16
    # Where only the harness' loader knows an option, it loads, and the package's options still act.
    mine = GuidedLM(str(BUNDLED), revision="main", attn_implementation="eager", weights="int8", dtype="float32")
    assert len(asked) == 3 and any(type(part).__name__.startswith("Int8") for part in mine.model.modules())


def test_what_a_think_token_ends_is_left_out(changed):
    request = instances("generate_until", [(TEXTS[0], {"until": [], "max_gen_toks": 8})])
    whole = changed().generate_until(request, True)[0]
    ids = changed().tok_encode(whole, add_special_tokens=False)
    lm = changed(think_end_token=ids[3])
    last = len(ids) - ids[::-1].index(ids[3])
    assert lm.generate_until(request, True) == [lm.tok_decode(ids[last:]).lstrip()]


def test_a_branch_that_does_not_fit_the_task(guided, changed):
    whole = instances("loglikelihood_rolling", [(TEXTS[0],)])
    with pytest.raises(GuideError, match="give negative=TEXT"):
        guided.loglikelihood_rolling(whole)
    lm = changed(negative_ids=tuple(range(3, 13)), _max_length=16)
    with pytest.raises(PromptError, match="shorten the negative"):
        lm.loglikelihood(instances("loglikelihood", [("The king", " rode out at dawn and" * 2)]), True)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"scal": 2}, UsageError, "did you mean 'scale'"),
        ({"space": "linear"}, GuideError, "use one of log, prob"),
        ({"branch": "first"}, GuideError, "use one of last, empty, no-system"),
        ({"branch": "last", "negative": "x"}, GuideError, "give one of them"),
        ({"scale": 1, "compile": True}, UsageError, "leave it out"),
        ({"softmax_dtype": "float64"}, UsageError, "no effect on guided results"),
        ({"truncation": True}, UsageError, "no effect on guided results"),
    ],
)
def test_bad_model_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        GuidedLM(**arguments, **CPU)


def test_a_continuation_without_a_token_of_its_own(guided):
    with pytest.raises(PromptError, match="begin it with a space"):
        guided._loglikelihood_tokens([(("a", "b"), [5, 6], [])], True)


def test_bad_generation_arguments(guided):
    for given, message in (({"num_beams": 4}, "num_beams"), ({"max_gen_toks": 5000}, "ask for less")):
        with pytest.raises(SamplingError, match=message):
            guided.generate_until(instances("generate_until", [("The king", given)]), True)


def tasks(folder) -> list[str]:
    """Task files of three kinds, with data beside them."""
    choices = [
        {"question": f"{text} Then it was", "choices": [" happy.", " sad, I fear.", " over."], "answer": i % 3}
        for i, text in enumerate(TEXTS)
    ]
    kinds = {
        "choice": ("multiple_choice", choices, {
            "doc_to_text": "{{question}}", "doc_to_choice": "{{choices}}", "doc_to_target": "{{answer}}",
            "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
        }),
        "whole": ("loglikelihood_rolling", [{"text": text} for text in TEXTS], {
            "doc_to_text": "", "doc_to_target": "{{text}}",
            "metric_list": [{"metric": "bits_per_byte"}, {"metric": "word_perplexity"}],
        }),
        "written": ("generate_until", [{"text": text, "end": "x"} for text in TEXTS], {
            "doc_to_text": "{{text}}", "doc_to_target": "{{end}}", "metric_list": [{"metric": "bleu"}],
            "generation_kwargs": {"until": ["\n"], "max_gen_toks": 6, "do_sample": False},
        }),
    }  # fmt: skip
    paths = []
    for name, (kind, records, rest) in kinds.items():
        data = write_jsonl(folder / f"{name}.jsonl", records)
        config = {"task": f"tiny_{name}", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": data}}}
        path = folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump({**config, "test_split": "test", "output_type": kind, **rest}))
        paths.append(str(path))
    return paths


def test_the_harness_own_command_line(tmp_path):
    offline = {
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    script = os.path.join(os.path.dirname(sys.executable), "lm_eval")
    model = {"pretrained": "bundled", "dtype": "float32", "scale": 1.5, "negative": "A dull, dry report:"}
    ran = subprocess.run(
        [script, "--model", "counterpoint", "--model_args", json.dumps(model), "--device", "cpu", "--batch_size", "4",
         "--tasks", ",".join([REGISTER, *tasks(tmp_path)]), "--use_cache", str(tmp_path / "cache"),
         "--output_path", str(tmp_path / "out.json")],
        env={**os.environ, **offline}, capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-2000:]
    (path,) = tmp_path.glob("out_*.json")
    results = json.loads(path.read_text())
    assert set(results["results"]) >= {"tiny_choice", "tiny_whole", "tiny_written"}
    assert results["config"]["model_args"]["scale"] == 1.5
    assert results["config"]["guide"] == {"scale": 1.5}
    assert (tmp_path / "cache_rank0.db").exists()
    assert torch.isfinite(torch.tensor(results["results"]["tiny_whole"]["bits_per_byte,none"]))


def test_kept_requests_and_answers_are_those_of_the_first_run(tmp_path, monkeypatch):
    """--cache_requests and --use_cache through the harness' own evaluation of a chat task."""
    from lm_eval.caching import cache

    monkeypatch.setattr(cache, "PATH", str(tmp_path / "kept"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "data"))
    task, runs = tasks(tmp_path)[0], []
    for scale in (2.0, 2.0, 5.0, 1.0, 2.0):
        lm = GuidedLM(scale=scale, **CPU)
        lm.tokenizer.chat_template = TEMPLATE.replace("END", "\n")
        found = lm_eval.simple_evaluate(
            lm, tasks=[task], cache_requests=True, apply_chat_template=True, system_instruction="Be kind.",
            use_cache=str(tmp_path / "answers") if runs else None, bootstrap_iters=0, log_samples=True,
        )  # fmt: skip
        runs.append([doc["resps"] for doc in found["samples"]["tiny_choice"]])
    assert list((tmp_path / "kept").iterdir()) and (tmp_path / "answers_rank0.db").exists()
    assert runs[0] == runs[1] == runs[4]
    assert len({str(run) for run in runs}) == 3
