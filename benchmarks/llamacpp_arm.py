"""llama.cpp as one of the ways that benchmarks/peers.py measures. It runs in .venv-llamacpp, which scripts/bench-llamacpp makes.

    llamacpp_arm.py quantize FROM TO KIND     writes a GGUF file with its weights in another type
    llamacpp_arm.py run FILE THREADS          for each line "ROWS PROMPT TOKENS" on its input, one of numbers as JSON

A run reads a prompt of so many tokens in each of ROWS sequences, then writes TOKENS to each, all in one decode a step, as
guided decoding does. Tokens are arbitrary: what they are makes no difference to the time.
"""

import ctypes
import json
import sys
import time

import llama_cpp as llama

MOST_TOKENS = 2048
FIRST_ID = 5


def quantize(source: str, target: str, kind: str) -> None:
    """Write a file with weights of another type; every weight of it but for the mixtures, which have rules of their own."""
    wanted = llama.llama_model_quantize_default_params()
    wanted.ftype = getattr(llama, f"LLAMA_FTYPE_MOSTLY_{kind}")
    wanted.pure = not kind.endswith("_M")
    if llama.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(wanted)):
        raise SystemExit(f"llama.cpp can't write {target} in {kind}")


def new_context(model, num_rows: int, threads: int):
    wanted = llama.llama_context_default_params()
    wanted.n_ctx = wanted.n_batch = wanted.n_ubatch = MOST_TOKENS
    wanted.n_seq_max = num_rows
    wanted.n_threads = wanted.n_threads_batch = threads
    return llama.llama_init_from_model(model, wanted)


def run(context, num_rows: int, prompt_len: int, num_tokens: int) -> dict:
    """Seconds of the prompts, and of each step."""
    llama.llama_memory_clear(llama.llama_get_memory(context), True)
    batch = llama.llama_batch_init(num_rows * max(prompt_len, 1), 0, num_rows)

    def decode(positions, last: int) -> float:
        batch.n_tokens = 0
        for row in range(num_rows):
            for position in positions:
                i = batch.n_tokens
                batch.token[i], batch.pos[i] = FIRST_ID + position % 100 + row, position
                batch.n_seq_id[i], batch.seq_id[i][0] = 1, row
                batch.logits[i] = position == last
                batch.n_tokens += 1
        start = time.perf_counter()
        if llama.llama_decode(context, batch):
            raise SystemExit("llama.cpp can't decode")
        llama.llama_synchronize(context)
        return time.perf_counter() - start

    first_s = decode(range(prompt_len), prompt_len - 1)
    steps_s = [decode([prompt_len + i], prompt_len + i) for i in range(num_tokens)]
    llama.llama_batch_free(batch)
    return {"first_s": first_s, "steps_s": steps_s}


def main(what: str, *arguments: str) -> None:
    llama.llama_backend_init()
    if what == "quantize":
        return quantize(*arguments)
    path, threads = arguments
    model = llama.llama_model_load_from_file(path.encode(), llama.llama_model_default_params())
    contexts: dict[int, object] = {}
    for line in sys.stdin:
        num_rows, prompt_len, num_tokens = map(int, line.split())
        if num_rows not in contexts:
            contexts[num_rows] = new_context(model, num_rows, int(threads))
        print(json.dumps(run(contexts[num_rows], num_rows, prompt_len, num_tokens)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
