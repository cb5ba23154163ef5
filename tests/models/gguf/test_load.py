"""GGUF files of each architecture and quantization, against the dequantized weights in transformers."""

import dataclasses
import json

import pytest
import torch
from engine.oracle import assert_same, guided_tokens
from gguf import GGMLQuantizationType as Kind
from models.gguf.written import ARCHITECTURES, CONTEXT, TOKENS, WIDE, model_and_file
from transformers import AutoModelForCausalLM

import counterpoint as cp
from counterpoint.cli import main
from counterpoint.errors import UnsupportedError
from counterpoint.models.gguf.file import GgufFile

IDS = torch.randint(4, len(TOKENS), (2, CONTEXT), generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
def assert_equal_logits(model, want):
    got, expected = model.hf(IDS).logits, want(IDS).logits
    assert expected.std() > 0.3  # no fixed point
    assert torch.allclose(got, expected, atol=1e-4)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture(name, tmp_path):
    want, path = model_and_file(ARCHITECTURES[name], tmp_path)
    assert_equal_logits(cp.load(path), want)


@pytest.mark.parametrize("kind", [Kind.F16, Kind.BF16, Kind.Q8_0, Kind.Q4_0, Kind.Q4_1, Kind.Q5_0, Kind.Q5_1])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_every_quantization(name, kind, tmp_path):
    want, path = model_and_file(ARCHITECTURES[name], tmp_path, kind)
    model = cp.load(path, dtype="float32")
    assert_equal_logits(model, want)
    assert cp.load(path).dtype is (torch.bfloat16 if kind == Kind.BF16 else torch.float32)


@pytest.mark.parametrize("kind", [Kind.Q4_K, Kind.Q6_K])
def test_quantizations_of_256_weights(kind, tmp_path):
    want, path = model_and_file(WIDE, tmp_path, kind)
    assert kind.name in GgufFile(path, "x").quantizations
    assert_equal_logits(cp.load(path), want)


def test_divided_frequencies(tmp_path):
    """Files of Llama 3.1 and later say the scaling of rotary positions as a tensor of divisors."""
    scaling = {"rope_type": "llama3", "rope_theta": 5e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    scaling["original_max_position_embeddings"] = 24
    llama = ARCHITECTURES["llama"]
    want, _ = model_and_file(llama, tmp_path)
    scaled = type(want)(type(want.config)(**want.config.to_dict() | {"rope_parameters": scaling})).eval()
    scaled.load_state_dict(want.state_dict())
    divisors = want.model.rotary_emb.inv_freq / scaled.model.rotary_emb.inv_freq
    assert divisors.max() > 7.9
    _, path = model_and_file(dataclasses.replace(llama, extra={"rope_freqs.weight": divisors.numpy()}), tmp_path)
    assert_equal_logits(cp.load(path), scaled)


def test_transformers_own_loader_gives_the_same(tmp_path):
    _, path = model_and_file(ARCHITECTURES["llama"], tmp_path, Kind.Q4_1)
    assert_equal_logits(cp.load(path), AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=path.name))


def test_all_parts_of_a_split_file_by_any_of_them(tmp_path):
    want, path = model_and_file(ARCHITECTURES["llama"], tmp_path, Kind.Q8_0, num_parts=3)
    for part in sorted(tmp_path.glob("*.gguf")):
        assert_equal_logits(cp.load(part), want)
    assert_equal_logits(cp.load(tmp_path), want)
    assert cp.load(path).encode("the") == cp.load(path).encode("the")


def test_tokens_guided_in_chat(tmp_path):
    want, path = model_and_file(ARCHITECTURES["llama"], tmp_path, Kind.Q4_0)
    model = cp.load(path)
    assert model.eos_ids == {0, 1}  # the file's own, and the one that ends a turn in the template
    ids = model.tokenizer.apply_chat_template([{"role": "user", "content": "the house"}], add_generation_prompt=True)
    ids = list(ids["input_ids"])
    assert model.decode(ids) == "the house" and ids[0] == 2 and ids[-1] == 3
    assert model.encode("the house")[0] == 1  # the file asks for a first token
    done = cp.generate(
        model, ids, negative=[1, 9, 7], guide=cp.Guide(scale=2.0), max_tokens=40, temperature=0, ignore_eos=True
    )
    tokens, margins = guided_tokens(want, ids, [[1, 9, 7]], [-1.0], num_tokens=40)
    assert_same(done.token_ids, tokens, margins)


def test_what_info_says(tmp_path, capsys):
    _, path = model_and_file(ARCHITECTURES["qwen2"], tmp_path, Kind.Q4_0, general__license="mit")
    with pytest.raises(SystemExit) as ended:
        main(["info", str(path), "--json"])
    said = json.loads(capsys.readouterr().out)
    assert ended.value.code == 0 and said["architecture"] == "Qwen2ForCausalLM" and said["chat_template"]
    assert said["file_architecture"] == "qwen2" and said["file_bytes"] == path.stat().st_size
    assert said["file_licence"] == "mit" and said["file_weights"].split(",")[-1].endswith(" F32")
    assert " Q4_0" in said["file_weights"] and said["file_tokenizer"] == f"gpt2/gpt-2, {len(TOKENS)} tokens"


def test_what_transformers_reads_alone(tmp_path, monkeypatch):
    qwen = ARCHITECTURES["qwen35"]
    _, path = model_and_file(qwen, tmp_path, Kind.Q8_0)
    for weights in ("int8", "int4"):
        with pytest.raises(UnsupportedError, match=f"keeps no blocks for {weights}"):
            cp.load(path, weights=weights)
    monkeypatch.setattr("counterpoint.models.gguf.load.is_accelerate_available", lambda: False)
    with pytest.raises(UnsupportedError, match="pip install accelerate"):
        cp.load(path)
    monkeypatch.undo()
    _, path = model_and_file(qwen, tmp_path, num_parts=2)
    with pytest.raises(UnsupportedError, match="join the parts"):
        cp.load(path)
