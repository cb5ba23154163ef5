"""The whole: an adapter that learns guidance, that others load, and that a kill does not change."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from distillation.small_chat import OPPOSITE, QUESTIONS, SYSTEM, saved, small_chat
from patience import wait_for
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import counterpoint as cp
from counterpoint.contexts import NO_SYSTEM
from counterpoint.distillation import Adapter, Training, Writing, distil
from counterpoint.errors import CounterpointError, GuideError, ModelError, PromptError, UnsupportedError, UsageError
from counterpoint.models.adapters import load_adapter

peft = pytest.importorskip("peft")

SETTING = {
    "chat": True,
    "system": SYSTEM,
    "negative": OPPOSITE,
    "guide": cp.Guide(3),
    "writing": Writing(sampling={"max_tokens": 10}, held_out=0.2),
    "training": Training(epochs=8, rate=1e-2, batch=4, checkpoint_s=0),
    "adapter": Adapter(4),
}
# peft asks transformers for something by its old name.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
PROBE = [40, 41, 42, 43]


def go(model, out, **changed):
    said = []
    return distil(model, QUESTIONS, out=out, say=said.append, **{**SETTING, **changed}), said


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distilled")
    model = cp.load(saved(folder / "model"), compile=False)
    before = model.hf(torch.tensor([PROBE])).logits
    done, said = go(model, folder / "run", merge=True, rules=["regex=."])
    assert torch.equal(model.hf(torch.tensor([PROBE])).logits, before)  # the model is left as it was
    return model, folder, done, said


def test_it_learns_what_guidance_predicts_on_prompts_it_has_not_seen(made):
    _, _, done, _ = made
    assert done.gains.loss_after < 0.6 * done.gains.loss_before
    assert done.gains.answers == 4 and 8 <= done.answers <= 14
    assert done.steps == 8 * -(-done.answers // 4)


def test_a_second_call_computes_nothing_and_gives_the_same(made):
    model, folder, done, _ = made
    again, said = go(model, folder / "run", merge=True, rules=["regex=."])
    assert again == done and said == []


def test_everybody_loads_it(made):
    """peft by the base that the config names, transformers by itself, ours, and the merged folder: the same numbers."""
    model, folder, done, _ = made
    ids = torch.tensor([model.encode("What is beige?")])
    base = AutoModelForCausalLM.from_pretrained(done.base)
    wrapped = peft.PeftModel.from_pretrained(base, str(done.adapter)).eval()
    want = wrapped(ids).logits
    by_name = peft.AutoPeftModelForCausalLM.from_pretrained(str(done.adapter))
    assert torch.equal(by_name.eval()(ids).logits, want)
    own = cp.load(folder / "model", compile=False)
    load_adapter(own.hf, str(done.adapter), name="distilled")
    assert torch.equal(own.hf(ids).logits, want)
    alone = AutoModelForCausalLM.from_pretrained(folder / "model")
    alone.load_adapter(str(done.adapter))
    assert torch.equal(alone(ids).logits, want)
    merged = AutoModelForCausalLM.from_pretrained(done.merged)
    assert torch.allclose(merged(ids).logits, want, atol=1e-4)
    assert AutoTokenizer.from_pretrained(done.merged).chat_template == model.tokenizer.chat_template
    assert not torch.allclose(model.hf(ids).logits, want, atol=0.05)
    text = cp.generate(cp.load(done.merged, compile=False), "What?", max_tokens=5, temperature=0).token_ids
    off, on = (
        cp.generate(own.with_adapter(name), "What?", max_tokens=5, temperature=0).token_ids
        for name in (None, "distilled")
    )
    assert on == text and off == cp.generate(model, "What?", max_tokens=5, temperature=0).token_ids


def test_its_files_are_those_that_peft_writes(made, tmp_path):
    """Names of weights and config as vLLM and others read them."""
    _, folder, done, _ = made
    base = AutoModelForCausalLM.from_pretrained(folder / "model")
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    peft.get_peft_model(base, config).save_pretrained(tmp_path)
    theirs, ours = (load_file(path / "adapter_model.safetensors") for path in (tmp_path, done.adapter))
    assert {name: (w.shape, w.dtype) for name, w in theirs.items()} == {n: (w.shape, w.dtype) for n, w in ours.items()}
    written = json.loads((done.adapter / "adapter_config.json").read_text())
    assert written["target_modules"] == ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
    assert (written["r"], written["lora_alpha"], written["base_model_name_or_path"]) == (4, 8, str(folder / "model"))


def test_the_card_tells_what_it_was_made_of_and_what_was_gained(made):
    _, folder, done, _ = made
    page = (done.adapter / "README.md").read_text()
    assert page.startswith(f'---\nbase_model: "{folder / "model"}"\nlibrary_name: peft\n')
    for part in (SYSTEM, OPPOSITE, "scale=3", f"{done.gains.loss_after:.3f} nats a token", "vllm serve", "distilled |"):
        assert part in page
    facts = json.loads((done.adapter / "distillation.json").read_text())
    assert facts["gains"]["closed"] == pytest.approx(done.gains.closed)
    assert facts["answers"]["kept"] == done.answers and facts["seed"] == 0


def weights(folder):
    return (Path(folder) / "adapter" / "adapter_model.safetensors").read_bytes()


def test_a_kill_at_any_moment_changes_no_bit(made, tmp_path):
    """SIGKILL as soon as a step is kept; what the rest of the run gives is what one in one go gave."""
    _, folder, done, _ = made
    script = (
        "import torch; torch.set_num_threads(1); import counterpoint as cp; "
        "from distillation.test_distil import go; "
        f"go(cp.load({str(folder / 'model')!r}, compile=False), {str(tmp_path / 'killed')!r}, rules=['regex=.'])"
    )
    out, child = tmp_path / "killed", _begun("from slowly import hold_at_checkpoint; hold_at_checkpoint(7); " + script)
    wait_for(lambda: (out / "checkpoint.pt").exists() or child.poll() is not None)
    child.kill()
    assert child.wait() == -signal.SIGKILL
    kept = torch.load(out / "checkpoint.pt", weights_only=True)["step"]
    assert 0 < kept < done.steps  # it was killed in the middle
    child = _begun(script)
    assert child.wait() == 0
    assert weights(out) == weights(folder / "run")
    assert not list(out.glob("*.part"))


def _begun(script):
    path = os.pathsep.join([str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.Popen([sys.executable, "-c", script], env=environment, stderr=subprocess.DEVNULL)


def test_dropout_is_taken_up_where_it_was(tmp_path):
    """The random numbers of the steps to come are in the checkpoint."""
    from counterpoint.distillation import training

    changed = {"adapter": Adapter(4, dropout=0.3), "training": Training(epochs=2, batch=4, checkpoint_s=0)}
    whole, _ = go(small_chat(), tmp_path / "whole", **changed)
    calls, real = [], training._step

    def stopped(*given):
        calls.append(given)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*given)

    model = small_chat()
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training, "_step", stopped)
        go(model, tmp_path / "part", **changed)
    assert not hasattr(model.hf, "peft_config")  # taken off though training ended early
    _, said = go(model, tmp_path / "part", **changed)
    assert f"resumed at step 3 of {whole.steps}" in said
    assert weights(tmp_path / "part") == weights(tmp_path / "whole")


@pytest.mark.parametrize("changed", [{"seed": 1}, {"training": Training(epochs=1)}, {"adapter": Adapter(8)}])
def test_a_folder_of_another_run_is_refused(made, changed):
    model, folder, _, _ = made
    from counterpoint.distillation import run

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "write_examples", lambda *given, **more: pytest.fail("answers were written before that"))
        for other, more in ((model, changed), (small_chat(seed=1), {})):
            with pytest.raises(
                UsageError, match="a run of another model, guide or setting has begun; choose another folder"
            ):
                go(other, folder / "run", **more)
    with pytest.raises(UsageError, match="belongs to another model or corpus; choose another --out"):
        distil(model, QUESTIONS[:-1], out=folder / "run", rules=["regex=."], say=lambda line: None, **SETTING)


def test_what_can_t_be_kept_or_written_is_told_before_any_answer(tmp_path):
    with pytest.raises(PromptError, match="a text to keep is '', which is too short"):
        go(small_chat(), tmp_path / "run", keep=[""])
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="file/run', which can't be written: .*; give another folder"):
        go(small_chat(), tmp_path / "file" / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_without_a_folder_the_base_is_written(tmp_path):
    done, _ = go(small_chat(), tmp_path / "run", training=Training(epochs=1))
    assert done.base == str(tmp_path / "run" / "base") and done.merged is None
    loaded = peft.AutoPeftModelForCausalLM.from_pretrained(str(done.adapter))
    assert torch.isfinite(loaded(torch.tensor([PROBE])).logits).all()
    # Killed before its first checkpoint, and run again with another model: the base is that of the new run.
    (tmp_path / "run" / "checkpoint.pt").unlink()
    other = small_chat(seed=1)
    done, _ = go(other, tmp_path / "run", training=Training(epochs=1))
    base = AutoModelForCausalLM.from_pretrained(done.base)
    assert torch.equal(base.lm_head.weight, other.hf.lm_head.weight)


def test_an_instruction_can_be_learnt_by_a_student_that_does_not_read_it(tmp_path):
    """Without any branch: the teacher reads more than the student."""
    training = Training(epochs=12, rate=1e-2, batch=4)
    done, _ = go(
        small_chat(), tmp_path / "run", guide=cp.Guide(scale=1), negative=None, student=NO_SYSTEM, training=training
    )
    assert done.gains.loss_before > 0.02 and done.gains.loss_after < 0.6 * done.gains.loss_before


def test_a_vector_can_be_made_into_an_adapter(tmp_path):
    """The teacher has a vector on and no guide; the student is the model without it."""
    model = small_chat()
    vector = cp.Vector({1: torch.linspace(-0.5, 0.5, 32)})
    more = {"guide": cp.Guide(scale=1), "negative": None, "training": Training(epochs=12, rate=1e-2, batch=4)}
    done, _ = go(model.with_vector(vector, 1.0), tmp_path / "run", **more)
    assert done.gains.loss_before > 0.02 and done.gains.loss_after < 0.6 * done.gains.loss_before
    base = AutoModelForCausalLM.from_pretrained(done.base)
    assert torch.equal(base.lm_head.weight, model.hf.lm_head.weight)


@pytest.mark.parametrize("target", [{"target": "samples"}, {"top": 0}])
def test_other_targets(tmp_path, target):
    training = Training(**target, epochs=8, rate=1e-2, batch=4, measure_every=4)
    done, _ = go(small_chat(), tmp_path / "run", training=training, keep=["It was late.", "She came home early."])
    curve = json.loads((done.adapter / "distillation.json").read_text())["curve"]
    assert [row[0] for row in curve] == [*range(4, done.steps + 1, 4)] and curve[-1][1] < 0.9 * curve[0][1]
    assert "target" in target or done.gains.loss_after < done.gains.loss_before
    assert done.gains.perplexity_after == pytest.approx(done.gains.perplexity_before, rel=0.5)


@pytest.mark.parametrize(
    "prompts, changed, error, said",
    [
        ([], {}, PromptError, "there are no prompts; give some, or say how many"),
        ("What?", {}, PromptError, "prompts is one text; give a list"),
        (QUESTIONS[:3], {}, PromptError, "the number of prompts is 3; give 8 or more"),
        ([*QUESTIONS, " "], {}, PromptError, "a prompt is empty"),
        (QUESTIONS, {"guide": cp.Guide(scale=1)}, GuideError, "nothing to learn from this guide: the guidance scale is 1"),
        (QUESTIONS, {"negative": SYSTEM}, GuideError, "the negative equals the prompt"),
        (QUESTIONS, {"guide": cp.Guide(3, start=10)}, GuideError, "starts at token 10 and the output has at most 10"),
        (QUESTIONS, {"guide": cp.Guide(scale=1), "negative": None}, GuideError, "the prompts are read against nothing"),
        (QUESTIONS, {"rules": ["instruction=JSON"]}, UsageError, "0 of 14 prompts have an answer to learn from"),
        (QUESTIONS, {"adapter": Adapter(modules=("q",))}, UsageError, "has no linear layer of that name"),
        (QUESTIONS, {"written": -1}, UsageError, "written is -1"),
        (QUESTIONS, {"keep": [""]}, PromptError, "a text to keep is ''"),
        (QUESTIONS, {"student": "x" * 465}, UsageError, "what the student reads and an answer have"),
        (QUESTIONS, {"save_base": False}, UsageError, "an adapter must name its base"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(tmp_path, prompts, changed, error, said):
    with pytest.raises(error, match=said) as raised:
        distil(small_chat(), prompts, out=tmp_path / "run", say=lambda line: None, **{**SETTING, **changed})
    assert isinstance(raised.value, CounterpointError) and "\n" not in str(raised.value)


def test_an_adapter_of_another_model_is_one_line(made, tmp_path):
    from conformance.architectures import ARCHITECTURES
    from models.small import llama

    _, _, done, _ = made
    gpt2 = AutoModelForCausalLM.from_config(ARCHITECTURES["gpt2"].model().config)
    others = {
        "not found in the base model": gpt2,
        r"down_proj.lora_A.weight has the shape \(4, 64\) and LlamaForCausalLM takes \(4, 96\)": llama(
            intermediate_size=96
        ),
        "it has 14 weights that LlamaForCausalLM has no place for": llama(num_hidden_layers=1),
        "it lacks 14 weights that LlamaForCausalLM takes": llama(num_hidden_layers=3),
    }
    for said, hf in others.items():
        layers = [type(module) for module in hf.modules()]
        with pytest.raises(UsageError, match=f"can't be loaded: .*{said}") as raised:
            load_adapter(hf, str(done.adapter))
        assert "\n" not in str(raised.value)
        # Nothing of it is left, and what could be trained still can.
        assert [type(module) for module in hf.modules()] == layers and not hasattr(hf, "peft_config")
        assert all(parameter.requires_grad for parameter in hf.parameters())
    model = small_chat()
    load_adapter(model.hf, str(done.adapter), name="own")
    config = json.loads((done.adapter / "adapter_config.json").read_text()) | {"r": 3}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    (tmp_path / "adapter_model.safetensors").write_bytes((done.adapter / "adapter_model.safetensors").read_bytes())
    before = model.hf(torch.tensor([PROBE])).logits
    with pytest.raises(UsageError, match="can't be loaded"):
        load_adapter(model.hf, str(tmp_path), name="other")
    assert list(model.hf.peft_config) == ["own"] and torch.equal(model.hf(torch.tensor([PROBE])).logits, before)
    with pytest.raises((UnsupportedError, ModelError)):
        distil("nowhere/../model", QUESTIONS, out=tmp_path / "run", **SETTING)
