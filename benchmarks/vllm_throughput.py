#!/usr/bin/env python
"""Tokens a second of one model of about 100M random parameters: vLLM, vLLM guided, our engine, transformers.

    .venv/bin/python benchmarks/vllm_throughput.py                 # needs .venv-vllm too: scripts/test-vllm makes it

Every arm is a process of its own on the same saved model, one after the other, on a quiet machine. Each cell is the
best of `--repeats` runs of so many requests at once, every one with `--prompt` random tokens, a negative as long, and
`--tokens` greedy tokens. transformers guides one prompt at a time, so past 4 requests its rate at 4 stands.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ARMS = ("vllm", "own", "transformers")
VOCAB = 16_384
SCALE = 1.5


def save_model(folder: Path) -> int:
    """Save the model; returns its number of parameters."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    sys.path.insert(0, str(ROOT / "tests" / "vllm"))
    import tiny_models

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=768, intermediate_size=2048, num_hidden_layers=12, num_attention_heads=12,
        num_key_value_heads=12, max_position_embeddings=512, tie_word_embeddings=False,
        bos_token_id=None, eos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.generation_config.eos_token_id = None
    model.save_pretrained(folder)
    tiny_models.tokenizer().save_pretrained(folder)
    return model.num_parameters()


def prompts(number: int, length: int, seed: int) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(VOCAB) for _ in range(length)] for _ in range(number)]


def best(run: Callable[[], int], expected: int, repeats: int) -> float:
    """Tokens a second of the quickest run."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        made = run()
        seconds.append(time.perf_counter() - started)
        assert made == expected, f"{made} tokens in place of {expected}"
    return expected / min(seconds)


def vllm_arm(folder: str, options: argparse.Namespace) -> dict[str, dict[int, float]]:
    os.environ.update(VLLM_ENABLE_V1_MULTIPROCESSING="0", VLLM_LOGGING_LEVEL="ERROR", HF_HUB_OFFLINE="1")
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", f"0-{(os.cpu_count() or 1) - 1}")
    from vllm import LLM, SamplingParams

    from counterpoint.guide import Guide
    from counterpoint.vllm import engine_args, extra_args

    llm = LLM(
        folder, dtype=options.dtype, max_model_len=512, max_num_seqs=64, kv_cache_memory_bytes=2 << 30,
        enable_prefix_caching=False, enforce_eager=options.eager, skip_tokenizer_init=True, **engine_args(),
    )  # fmt: skip

    def run(number: int, guided: bool) -> int:
        params = [
            SamplingParams(
                temperature=0.0, max_tokens=options.tokens, ignore_eos=True, detokenize=False,
                extra_args=extra_args(Guide(scale=SCALE), negative) if guided else None,
            )
            for negative in prompts(number, options.prompt, 1)
        ]  # fmt: skip
        asked = [{"prompt_token_ids": ids} for ids in prompts(number, options.prompt, 0)]
        return sum(len(out.outputs[0].token_ids) for out in llm.generate(asked, params, use_tqdm=False))

    result: dict[str, dict[int, float]] = {"vLLM": {}, "vLLM guided": {}}
    for number in options.sizes:
        run(number, True)
        for name, guided in (("vLLM", False), ("vLLM guided", True)):
            cell = best(lambda n=number, g=guided: run(n, g), number * options.tokens, options.repeats)
            result[name][number] = cell
    return result


def own_arm(folder: str, options: argparse.Namespace) -> dict[str, dict[int, float]]:
    import counterpoint as cp

    model = cp.load(folder, dtype=options.dtype)
    guide = cp.Guide(scale=SCALE)

    def run(number: int) -> int:
        done = cp.generate(
            model, prompts(number, options.prompt, 0), negative=prompts(number, options.prompt, 1), guide=guide,
            max_tokens=options.tokens, temperature=0, ignore_eos=True,
        )  # fmt: skip
        return sum(len(completion.token_ids) for completion in done)

    run(1)
    cells = {n: best(lambda n=n: run(n), n * options.tokens, options.repeats) for n in options.sizes}
    return {"counterpoint's engine guided": cells}


def transformers_arm(folder: str, options: argparse.Namespace) -> dict[str, dict[int, float]]:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, options.dtype)).eval()

    def run(number: int) -> int:
        made = 0
        for ids, negative in zip(prompts(number, options.prompt, 0), prompts(number, options.prompt, 1), strict=True):
            out = model.generate(
                torch.tensor([ids]), negative_prompt_ids=torch.tensor([negative]), guidance_scale=SCALE,
                max_new_tokens=options.tokens, do_sample=False,
            )  # fmt: skip
            made += out.shape[1] - len(ids)
        return made

    run(1)
    sizes = {min(n, 4) for n in options.sizes}
    measured = {n: best(lambda n=n: run(n), n * options.tokens, options.repeats) for n in sizes}
    return {"transformers guided": {n: measured[min(n, 4)] for n in options.sizes}}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--prompt", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 4, 16, 32], help="requests at once")
    parser.add_argument("--arms", choices=ARMS, nargs="+", default=ARMS)
    parser.add_argument("--eager", action="store_true", help="vLLM without compiling")
    parser.add_argument("--vllm-python", type=Path, default=ROOT / ".venv-vllm" / "bin" / "python")
    parser.add_argument("--arm", choices=ARMS, help="one arm in this process, on --folder")
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.arm:
        run = {"vllm": vllm_arm, "own": own_arm, "transformers": transformers_arm}[options.arm]
        print("RESULT" + json.dumps(run(options.folder, options)))
        return 0
    rates: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        parameters = save_model(Path(folder))
        for arm in options.arms:
            python = options.vllm_python if arm == "vllm" else sys.executable
            command = [str(python), __file__, *sys.argv[1:], "--arm", arm, "--folder", folder]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            lines = [line for line in done.stdout.splitlines() if "RESULT{" in line]
            if not lines:
                sys.exit(f"{arm} failed: {done.stderr[-3000:]}")
            rates |= json.loads(lines[-1].partition("RESULT")[2])
    lengths = f"{options.prompt} prompt and {options.tokens} new tokens"
    print(f"{parameters / 1e6:.0f}M parameters, {options.dtype}, {lengths}")
    versions = {name: metadata.version(name) for name in ("torch", "transformers")}
    print(f"{os.cpu_count()} cores, {platform.processor() or platform.machine()}, {versions}")
    print("\n| tokens a second at | " + " | ".join(map(str, options.sizes)) + " |")
    print("|---|" + "---:|" * len(options.sizes))
    for name, cells in rates.items():
        print(f"| {name} | " + " | ".join(f"{cells[str(n)]:.1f}" for n in options.sizes) + " |")
    if "vLLM" not in rates:
        return 0
    cost = [rates["vLLM"][str(n)] / rates["vLLM guided"][str(n)] for n in options.sizes]
    print("| cost of a guided request in unguided ones, vLLM | " + " | ".join(f"{ratio:.2f}" for ratio in cost) + " |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
