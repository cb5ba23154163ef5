"""Where the time of a guided step goes, and how fast each product of it reads its weights.

python benchmarks/profile_step.py bfloat16 [--compile] [--no-compile] [--int8]
python benchmarks/profile_step.py parts SHAPE bfloat16 [--int8]     what a recorded step spends on what; SHAPE as of `bench`
"""

import dataclasses
import functools
import sys
import time

import torch
from torch.profiler import profile

from counterpoint.bench import measure
from counterpoint.bench.machine import read_bandwidth, timed
from counterpoint.bench.shapes import random_model
from counterpoint.bench.ways import engine_way
from counterpoint.models.kernels import blocks, few_rows
from counterpoint.models.kernels.step import ATTENTION, PRODUCTS, TOKENS
from counterpoint.models.rows import Feed, Rows

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
        rounded = [blocks.laid(weight.mul(10).to(torch.int8).view(torch.uint8), "I8") for weight in weights]
        for num_rows in (1, 2, 8):
            states, scale = torch.randn(num_rows, size).to(dtype), torch.ones(num_out)
            kinds = {
                "torch": rate(functools.partial(torch.nn.functional.linear, states), weights),
                "ours": rate(functools.partial(few_rows.few_rows, states), weights),
                "ours, int8": rate(
                    lambda weight, states=states, scale=scale: blocks.product(states, weight, "I8", None, scale),
                    rounded,
                ),
            }
            print(f"{name:14} {num_rows} rows: " + ", ".join(f"{kind} {r / 1e9:.1f} GB/s" for kind, r in kinds.items()))


def parts(shape: str, dtype: str, *options: str) -> None:
    """A step with only its products, only its attention, or only what lies between; and all that is not in it."""
    model = random_model(shape, dtype, weights="int8" if "--int8" in options else None)
    names = {
        "whole": (TOKENS, PRODUCTS, ATTENTION),
        "products": (PRODUCTS,),
        "attention": (ATTENTION,),
        "between": (TOKENS,),
        "Python": (),
    }
    print(f"{shape} {dtype} {' '.join(options)}, {torch.get_num_threads()} threads; ms, the least of 20 steps")
    for num_rows in (1, 2, 8, 32):
        rows = model.new_rows()
        held = [rows.add() for _ in range(num_rows)]
        for begin in (range(5, 53), [9], [9]):
            rows.forward([Feed(row, list(begin)) for row in held])
        whole = model._recorded._program
        if whole is None:
            raise SystemExit(f"its steps are not recorded: {model._recorded.refused}")
        found = {}
        for name, kinds in names.items():
            model._recorded._program = dataclasses.replace(whole, parts=[x for x in whole.parts if x[0] in kinds])
            found[name] = min(step_s(rows, held) for _ in range(20)) * 1e3
        model._recorded._program = whole
        print(f"{num_rows:3} rows: " + ", ".join(f"{name} {value:.2f}" for name, value in found.items()))


def step_s(rows: Rows, held: list[int]) -> float:
    """Seconds of a step, which is forgotten again."""
    feeds, length = [Feed(row, [9]) for row in held], rows.length(held[0])
    taken_s = timed(lambda: rows.forward(feeds))
    for row in held:
        rows.crop(row, length)
    return taken_s


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
        parts(*sys.argv[2:]) if sys.argv[1] == "parts" else main(*sys.argv[1:])
