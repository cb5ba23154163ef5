"""int8 and int4 of a GGUF file: what the file has in blocks stays as it is."""

import pytest
import torch
from engine.oracle import assert_same, guided_tokens
from gguf import GGMLQuantizationType as Kind
from models.gguf.written import ARCHITECTURES, CONTEXT, TOKENS, model_and_file

import counterpoint as cp
from counterpoint.errors import UnsupportedError
from counterpoint.models.blocks import BlockEmbedding, BlockLinear
from counterpoint.models.int8 import Int8Linear
from counterpoint.models.kernels import build

pytestmark = pytest.mark.skipif(not build.has_compiler(), reason="no C compiler")
IDS = torch.randint(4, len(TOKENS), (2, CONTEXT), generator=torch.Generator().manual_seed(1))


def kinds(model):
    found = [type(module) for module in model.hf.modules()]
    return [found.count(kind) for kind in (BlockLinear, BlockEmbedding, Int8Linear, torch.nn.Linear)]


@torch.inference_mode()
@pytest.mark.parametrize(
    "weights, kind", [("int8", Kind.Q8_0), ("int4", Kind.Q8_0), ("int4", Kind.Q4_0), ("int4", Kind.Q4_1)]
)
@pytest.mark.parametrize("name", ["llama", "gpt2", "phi3", "gemma2"])
def test_logits_of_the_files_own_weights(name, kind, weights, tmp_path):
    """Nothing is rounded again: the logits are those of the dequantized weights."""
    want, path = model_and_file(ARCHITECTURES[name], tmp_path, kind)
    model = cp.load(path, weights=weights)
    in_blocks, embeddings, rounded, _ = kinds(model)
    assert (
        in_blocks >= 8
        and rounded == 0
        and embeddings == (weights == "int4") * (2 if name == "gpt2" else name != "gemma2")
    )
    expected = want(IDS).logits
    assert torch.allclose(model.hf(IDS).logits, expected, atol=1e-4 * float(expected.abs().max()))
    few = model.hf(IDS[:1, :9]).logits
    assert torch.allclose(few, want(IDS[:1, :9]).logits, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("compile", [False, True])
def test_tokens(compile, tmp_path):
    want, path = model_and_file(ARCHITECTURES["llama"], tmp_path, Kind.Q4_1)
    model = cp.load(path, weights="int4", compile=compile)
    prompt, negative = [1, 9, 13, 40], [1, 11, 12]
    done = cp.generate(
        model, prompt, negative=negative, guide=cp.Guide(scale=3.0), max_tokens=30, temperature=0, ignore_eos=True
    )
    tokens, margins = guided_tokens(want, prompt, [negative], [-2.0], num_tokens=30)
    assert_same(done.token_ids, tokens, margins)


def test_int8_rounds_the_others(tmp_path):
    _, path = model_and_file(ARCHITECTURES["qwen3"], tmp_path, Kind.Q4_0)
    assert kinds(cp.load(path, weights="int8")) == [0, 0, 15, 0]


def test_a_file_without_blocks(tmp_path):
    _, path = model_and_file(ARCHITECTURES["qwen3"], tmp_path, Kind.F16)
    with pytest.raises(UnsupportedError, match="has no weights in Q8_0, Q4_0, Q4_1"):
        cp.load(path, weights="int4")
    with pytest.raises(UnsupportedError, match="int4 weights are for the CPU with float32 or bfloat16"):
        cp.load(path, weights="int4", dtype="float16")
