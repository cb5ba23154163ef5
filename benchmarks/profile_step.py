"""Where the time of a guided step goes, and how fast each product of it reads its weights.

python benchmarks/profile_step.py bfloat16 [--compile] [--no-compile] [--int8]
"""

import functools
import sys
import time

import torch
from torch.profiler import profile

from counterpoint.bench import measure
from counterpoint.bench.machine import read_bandwidth
from counterpoint.bench.shapes import random_model
from counterpoint.bench.ways import engine_way
from counterpoint.models.kernels import few_rows

SHAPES = {
    "attention in": (2304, 768),
    "attention out": (768, 768),
    "wide": (3072, 768),
    "narrow": (768, 3072),
    "head": (50257, 768),
}
COLD_BYTES = 256 * 2**20  # copies of a weight that no cache holds


def rate(product, weights: list[torch.Tensor]) -> float:
    """Bytes a second of the quickest of 5 rounds over the weights."""
    taken_s = []
    for _ in range(5):
        start = time.perf_counter()
        for weight in weights:
            product(weight)
        taken_s.append(time.perf_counter() - start)
    return sum(w.numel() * w.element_size() for w in weights) / min(taken_s)


def products(dtype: torch.dtype) -> None:
    print(f"a plain sum reads {read_bandwidth() / 1e9:.1f} GB/s; threads {torch.get_num_threads()}")
    for name, (num_out, size) in SHAPES.items():
        num_copies = -(-COLD_BYTES // (num_out * size * dtype.itemsize))
        weights = [torch.randn(num_out, size).to(dtype) for _ in range(num_copies)]
        rounded = [weight.mul(10).to(torch.int8) for weight in weights]
        for num_rows in (1, 2, 8):
            states, scale = torch.randn(num_rows, size).to(dtype), torch.ones(num_out)
            kinds = {
                "torch": rate(functools.partial(torch.nn.functional.linear, states), weights),
                "ours": rate(functools.partial(few_rows.few_rows, states), weights),
                "ours, int8": rate(functools.partial(few_rows.few_rows, states, scale=scale), rounded),
            }
            print(f"{name:14} {num_rows} rows: " + ", ".join(f"{kind} {r / 1e9:.1f} GB/s" for kind, r in kinds.items()))


def main(dtype: str, *options: str) -> None:
    compile = True if "--compile" in options else False if "--no-compile" in options else "auto"
    model = random_model("gpt2-124m", dtype, compile=compile, weights="int8" if "--int8" in options else None)
    way = engine_way(model, [measure.random_task(model)], guided=True)
    way()
    with profile() as profiled:
        way()
    print(profiled.key_averages().table(sort_by="self_cpu_time_total", row_limit=12, max_name_column_width=60))
    if few_rows.is_available():
        products(model.dtype)


if __name__ == "__main__":
    with torch.inference_mode():
        main(*sys.argv[1:])
