"""Time of guided `model.generate` with and without `custom_generate=counterpoint.transformers.generate`, side by side.

    python benchmarks/transformers_generate.py [--dtype bfloat16] [--new-tokens 64] [--runs 5]

The model has GPT-2's configuration (124M) and random weights; greedy, one prompt of 24 tokens, a negative of 30. The
ways take turns within each run, so that whatever else the machine does meets all of them; ratios are of medians.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from pathlib import Path

import torch
import transformers
from transformers import GPT2Config, GPT2LMHeadModel

from counterpoint.transformers import generate

SEED = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--batch", type=int, default=1)
    asked = parser.parse_args()
    transformers.logging.set_verbosity_error()
    torch.manual_seed(SEED)
    model = GPT2LMHeadModel(GPT2Config(eos_token_id=None, pad_token_id=0)).eval().to(getattr(torch, asked.dtype))
    prompt, negative = (torch.randint(5, 50000, (asked.batch, length)) for length in (24, 30))
    ask = {"max_new_tokens": asked.new_tokens, "do_sample": False}
    guided = dict(guidance_scale=3.0, negative_prompt_ids=negative, **ask)
    ways = {
        "unguided": ask,
        "transformers' guidance": guided,
        "custom_generate": dict(guided, custom_generate=generate),
        "custom_generate, 4 beams": dict(guided, custom_generate=generate, num_beams=4),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for run in range(asked.runs + 1):
        for name, arguments in ways.items():
            began = time.perf_counter()
            model.generate(prompt, **arguments)
            if run:  # the first is to warm up
                times[name].append(time.perf_counter() - began)
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    print(
        f"{cpu}, {torch.get_num_threads()} threads, torch {torch.__version__}, transformers {transformers.__version__}"
    )
    print(f"GPT-2 124M {asked.dtype}, batch {asked.batch}, {asked.new_tokens} tokens, {asked.runs} runs, seed {SEED}")
    base = statistics.median(times["transformers' guidance"])
    for name, values in times.items():
        median = statistics.median(values)
        print(f"{name:26} {median:7.3f} s (least {min(values):.3f})   {median / base:.2f} of transformers' guidance")


if __name__ == "__main__":
    main()
