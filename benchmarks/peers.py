"""Our engine beside llama.cpp and transformers, on SmolLM2 and on a Llama of half a billion random weights.

    scripts/bench-llamacpp && python benchmarks/performance.py measure smollm2 llama-0.5b batches && \
        python benchmarks/performance.py render

All ways take turns within one process here and one for each file in llama.cpp. A step is a token after the first one; a pair
is two sequences in one decode of llama.cpp. The files of the half billion weights are written once, about 2 GB, into a folder
beside the compiled kernels.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import subprocess
from collections.abc import Callable
from pathlib import Path

import gguf
import torch
from transformers import PreTrainedModel

import counterpoint as cp
from counterpoint.bench import measure
from counterpoint.bench.machine import read_bandwidth, step_bytes, timed
from counterpoint.bench.measure import Line
from counterpoint.bench.paired import Paired, run_paired
from counterpoint.bench.shapes import random_model
from counterpoint.bench.ways import Clock, Task, engine_way, transformers_way
from counterpoint.models.gguf.find import find
from counterpoint.models.kernels.build import cache_folder
from counterpoint.models.model import Model
from counterpoint.models.rows import Feed

HERE = Path(__file__).parent
PYTHON = HERE.parent / ".venv-llamacpp" / "bin" / "python"
ARM = HERE / "llamacpp_arm.py"
PROMPT_LEN, NUM_TOKENS = 48, 48
BATCHES = (1, 2, 8, 32)


class LlamaCpp:
    """A file in llama.cpp, in a process of its own."""

    def __init__(self, path: Path) -> None:
        if not PYTHON.exists():
            raise SystemExit("there is no llama.cpp to measure: run scripts/bench-llamacpp")
        threads = str(torch.get_num_threads())
        self._process = subprocess.Popen(
            [PYTHON, ARM, "run", path, threads],
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def steps(self, num_rows: int, num_tokens: int = NUM_TOKENS) -> list[float]:
        """Seconds of each step of so many sequences."""
        self._process.stdin.write(f"{num_rows} {PROMPT_LEN} {num_tokens}\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("llama.cpp has ended")
        return json.loads(line)["steps_s"]

    def way(self, num_rows: int) -> Callable[[], float]:
        return lambda: sum(self.steps(num_rows))


def guided_way(model: Model, task: Task, *, guided: bool = True) -> Callable[[], float]:
    """Our engine's steps after the first token."""
    return engine_way(model, [task], guided=guided, after_first=True)


def compared(paired: Paired, pairs: list[tuple[str, str, float]], num_tokens: int = NUM_TOKENS) -> list[Line]:
    """Milliseconds of each way, then the ratios that have an aim."""
    lines = [Line(name, paired.median(name) * 1e3 / num_tokens, "ms a token") for name in paired.seconds]
    for way, base, aim in pairs:
        low, high = paired.spread(way, base)
        lines.append(Line(f"{way} / {base}", paired.ratio(way, base), "", low, high, aim))
    return lines


def smollm2(rounds: int) -> list[Line]:
    """The trained model, in the blocks of its file and in bfloat16."""
    int4, half = (cp.load("smollm2", dtype="bfloat16", weights=weights) for weights in ("int4", None))
    rival = cp.load("smollm2", dtype="bfloat16", compile=False).hf
    llama, task = (
        LlamaCpp(find("smollm2")),
        measure.random_task(half, context_len=PROMPT_LEN, num_tokens=NUM_TOKENS + 1),
    )
    steps = run_paired(
        {
            "ours int4 guided": guided_way(int4, task),
            "llama.cpp Q4_1 unguided": llama.way(1),
            "llama.cpp Q4_1 guided pair": llama.way(2),
            "ours int4 unguided": guided_way(int4, task, guided=False),
            "ours bfloat16 guided": guided_way(half, task),
            "ours bfloat16 unguided": guided_way(half, task, guided=False),
        },
        rounds=rounds,
    )
    ours = "ours int4 guided"
    lines = compared(steps, [(ours, "llama.cpp Q4_1 unguided", 1 / 0.9), (ours, "llama.cpp Q4_1 guided pair", 1 / 1.4)])
    return lines + requests(half, rival, rounds) + shares(int4, "int4")


def requests(model: Model, rival: PreTrainedModel, rounds: int) -> list[Line]:
    """Whole requests in bfloat16 against transformers, the first token, and the distance to the memory's speed."""
    task, clock = measure.random_task(model, context_len=PROMPT_LEN, num_tokens=NUM_TOKENS), Clock()
    first = dataclasses.replace(task, num_tokens=1)
    whole = run_paired(
        {
            "ours guided, whole": engine_way(model, [task], guided=True, clock=clock),
            "transformers unguided, whole": transformers_way(rival, task, guided=False),
            "ours guided, first token": engine_way(model, [first], guided=True),
            "transformers guided, first token": transformers_way(rival, first, guided=True),
        },
        rounds=rounds,
    )
    lines = []
    for way, base, aim in (
        ("ours guided, whole", "transformers unguided, whole", 0.28),
        ("ours guided, first token", "transformers guided, first token", 0.5),
    ):
        lines += [Line(f"{x} request" if "whole" in x else x, whole.median(x) * 1e3, "ms") for x in (way, base)]
        lines.append(Line(f"{way} / {base}", whole.ratio(way, base), "", *whole.spread(way, base), aim))
    step = statistics.median(clock.steps_s[1:])
    limit = step_bytes(model) / read_bandwidth()
    lines.append(Line("a guided step, bfloat16 / reading the weights once", step / limit, aim=1.7))
    least = limit * NUM_TOKENS / whole.median("transformers unguided, whole")
    lines.append(Line("reading the weights once a token, nothing else / transformers unguided, whole", least))
    return lines + shares(model, "bfloat16")


def shares(model: Model, name: str) -> list[Line]:
    """What the engine does beside the forward, greedy and sampled."""
    task, lines = measure.random_task(model, context_len=PROMPT_LEN, num_tokens=NUM_TOKENS), []
    for how, temperature in (("greedy", 0.0), ("sampled", 1.0)):
        clock, values = Clock(), []
        way = engine_way(model, [dataclasses.replace(task, temperature=temperature)], guided=True, clock=clock)
        for _ in range(4):
            way()
            values.append(measure.share(clock))
        lines.append(Line(f"{name}: our share of a guided step, {how}", min(values[1:]), "%", aim=8))
    return lines


def llama_05b(rounds: int) -> list[Line]:
    """Random weights: 24 layers, hidden 896, a vocabulary of 152k; 8 and 4 bits."""
    files = written()
    int8 = random_model("llama-0.5b", "bfloat16", weights="int8")
    int4 = cp.load(files["Q4_1"], dtype="bfloat16", weights="int4")
    eights, fours = LlamaCpp(files["Q8_0"]), LlamaCpp(files["Q4_K_M"])
    task = measure.random_task(int8, context_len=PROMPT_LEN, num_tokens=NUM_TOKENS + 1)
    steps = run_paired(
        {
            "ours int8 guided": guided_way(int8, task),
            "llama.cpp Q8_0 unguided": eights.way(1),
            "llama.cpp Q8_0 guided pair": eights.way(2),
            "ours int4 guided": guided_way(int4, task),
            "llama.cpp Q4_K_M unguided": fours.way(1),
            "llama.cpp Q4_K_M guided pair": fours.way(2),
        },
        rounds=rounds,
    )
    pairs = [
        ("ours int8 guided", "llama.cpp Q8_0 unguided", 1.0),
        ("ours int4 guided", "llama.cpp Q4_K_M guided pair", 1 / 1.8),
    ]
    return compared(steps, pairs) + shares(int8, "int8") + shares(int4, "int4")


def batches(rounds: int) -> list[Line]:
    """A step of several rows, SmolLM2: ours in bfloat16, 8 and 4 bits, and llama.cpp's."""
    models = {name: cp.load("smollm2", dtype="bfloat16", weights=w)
              for name, w in (("bfloat16", None), ("int8", "int8"), ("int4", "int4"))}  # fmt: skip
    llama, lines = LlamaCpp(find("smollm2")), []
    for num_rows in BATCHES:
        ways = {f"ours {name}": step_way(model, num_rows) for name, model in models.items()}
        ways["llama.cpp Q4_1"] = lambda num_rows=num_rows: statistics.median(llama.steps(num_rows, 8))
        paired = run_paired(ways, rounds=rounds)
        lines += [Line(f"{num_rows} rows: {name}", paired.median(name) * 1e3, "ms a step") for name in ways]
        if num_rows == max(BATCHES):
            spread = paired.spread("ours int8", "ours bfloat16")
            lines.append(
                Line(f"{num_rows} rows: int8 / bfloat16", paired.ratio("ours int8", "ours bfloat16"), "", *spread, 1.0)
            )
    return lines


def step_way(model: Model, num_rows: int, num_steps: int = 8) -> Callable[[], float]:
    """The median of a few steps of so many rows, without the engine."""

    @torch.inference_mode()
    def way() -> float:
        clock, rows = Clock(), model.new_rows()
        held = [rows.add() for _ in range(num_rows)]
        for row in held:
            rows.forward([Feed(row, list(range(5, 5 + PROMPT_LEN)))])
        for i in range(num_steps):
            clock.steps_s.append(timed(lambda i=i: rows.forward([Feed(row, [9 + i]) for row in held])))
        return statistics.median(clock.steps_s[2:])

    return way


def written() -> dict[str, Path]:
    """GGUF files of the half billion random weights, by their type; made where they are not there yet."""
    folder = cache_folder() / "bench"
    folder.mkdir(exist_ok=True)
    files = {kind: folder / f"llama-0.5b-{kind}.gguf" for kind in ("Q8_0", "Q4_1", "Q4_K_M")}
    missing = [kind for kind, path in files.items() if not path.exists()]
    if missing:
        source = folder / "llama-0.5b-source.gguf"
        write(random_model("llama-0.5b", "float32", compile=False).hf, source)
        for kind in missing:
            part = files[kind].with_suffix(".part")
            subprocess.run([PYTHON, ARM, "quantize", source, part, kind], check=True, capture_output=True)
            part.replace(files[kind])
        source.unlink()
    return files


def write(hf: PreTrainedModel, path: Path) -> None:
    """A Llama as a GGUF file in float16. Its tokenizer has the bytes, and tokens that mean nothing."""
    config, writer = hf.config, gguf.GGUFWriter(path, "llama")
    heads = config.num_attention_heads, config.num_key_value_heads
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads[0])
    writer.add_head_count_kv(heads[1])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.hidden_size // heads[0])
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    bytes_ = [chr(byte) if byte in plain else chr(next(others)) for byte in range(256)]
    tokens = [*bytes_, "Ġt", *(f"<{i}>" for i in range(257, config.vocab_size))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.NORMAL] * len(tokens))
    writer.add_token_merges(["Ġ t"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, weight in hf.named_parameters():
        stem = names.get_name(name.removesuffix(".weight"))
        data = weight.detach().numpy()
        writer.add_tensor(f"{stem}.weight", data.astype("float16") if data.ndim > 1 else data)
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        step()


PIECES = {"smollm2": smollm2, "llama-0.5b": llama_05b, "batches": batches}
