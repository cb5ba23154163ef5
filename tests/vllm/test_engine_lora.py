"""Adapters: a guided request's branches are read with its own, whatever else runs."""

from __future__ import annotations

import json

import pytest
import torch
from engines import idle, scheduler_of, started
from safetensors.torch import save_file
from stateless import Job, Stateless, differences
from tiny_models import save, tokenizer
from vllm import SamplingParams
from vllm.exceptions import VLLMValidationError
from vllm.lora.request import LoRARequest
from vllm.platforms import current_platform

from counterpoint.guide import Guide
from counterpoint.vllm import extra_args, versions

RANK = 4
ROUNDING = {"float32": 0.0, "bfloat16": 0.5}  # in log-probability; with another adapter, tokens are off by 20
PROMPT, NEGATIVE = tokenizer()("Once upon a time")["input_ids"], tokenizer()("Never, said the fox")["input_ids"]


def adapter(folder, model, seed):
    """Save an adapter of the query and value projections, and give it to `model` in the plain way: W + B A."""
    generator, tensors = torch.Generator().manual_seed(seed), {}
    for name, module in model.named_modules():
        if name.endswith(("q_proj", "v_proj")):
            a = torch.randn(RANK, module.in_features, generator=generator) / 4
            b = torch.randn(module.out_features, RANK, generator=generator) / 4
            tensors |= {f"base_model.model.{name}.lora_A.weight": a, f"base_model.model.{name}.lora_B.weight": b}
            module.weight.data = module.weight.data + b @ a  # the loaded ones may be the file itself
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "r": RANK,
        "lora_alpha": RANK,
        "target_modules": ["q_proj", "v_proj"],
        "bias": "none",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(("dtype", "max_loras"), [("float32", 1), ("float32", 2), ("bfloat16", 2)])
def test_branches_have_their_requests_adapter(tmp_path, dtype, max_loras):
    if dtype == "float32" and not current_platform.is_cpu():
        pytest.skip("vLLM's kernels for adapters on a GPU take numbers of 16 bits only")
    folder = save(tmp_path / "llama", "llama")
    models, requests = {None: Stateless(folder)}, {None: None}
    for number, name in enumerate(("kind", "rude"), 1):
        models[name] = Stateless(folder)
        adapter(tmp_path / name, models[name].model, number)
        requests[name] = LoRARequest(name, number, str(tmp_path / name))
    mixed_up = versions.installed() == "0.32.0" and current_platform.is_cpu()  # requests with and without an adapter
    plain = "kind" if mixed_up else None
    names, guide = ["rude", "kind", "rude", "kind", plain, "rude"], Guide(scale=3.0)
    params = SamplingParams(temperature=0.0, max_tokens=16, ignore_eos=True, extra_args=extra_args(guide, NEGATIVE))
    small = {"max_num_seqs": 5, "max_num_batched_tokens": 24, "dtype": dtype}
    with started(folder, enable_lora=True, max_loras=max_loras, max_lora_rank=8, **small) as llm:
        prompts = [{"prompt_token_ids": PROMPT}] * len(names)
        outputs = llm.generate(prompts, params, lora_request=[requests[name] for name in names], use_tqdm=False)
        assert scheduler_of(llm).metrics.counts.held_steps
        assert idle(llm)
        if mixed_up:
            with pytest.raises(VLLMValidationError, match="without --enable-lora"):
                llm.generate(prompts[:1], params, use_tqdm=False)
    texts = set()
    for name, output in zip(names, outputs, strict=True):
        ids = list(output.outputs[0].token_ids)
        texts.add(tuple(ids))
        off = differences(models[name].guided(Job(PROMPT, [NEGATIVE], [-2.0]), ids[:-1]), ids)
        assert [step for step, margin in off if margin > ROUNDING[dtype]] == [], (name, off)
    assert len(texts) == len(set(names))
