"""What the trials of a model cost: seconds of processor time, and tokens that go through the model itself.

    python benchmarks/trials.py [LAYOUT...]      of: qwen2-0.5b, smollm2-135m, gemma3-1b, longrope-0.5b

On one thread. Weights are random, in bfloat16; the trials read the same tokens whatever the weights are. One step of one row, in the
same process, stands beside them for comparison.
"""

from __future__ import annotations

import json
import platform
import sys
import time

import torch
import transformers as hf

from counterpoint.models.model import Model

LAYOUTS = {
    "qwen2-0.5b": lambda: hf.Qwen2Config(
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        max_position_embeddings=32768,
        sliding_window=32768,
        max_window_layers=24,
        tie_word_embeddings=True,
    ),
    "smollm2-135m": lambda: hf.LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
    ),
    "gemma3-1b": lambda: hf.Gemma3TextConfig(
        hidden_size=1152,
        intermediate_size=6912,
        num_hidden_layers=26,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=256,
        sliding_window=512,
    ),
    "longrope-0.5b": lambda: hf.Phi3Config(
        hidden_size=1536,
        intermediate_size=4096,
        num_hidden_layers=16,
        num_attention_heads=16,
        num_key_value_heads=16,
        max_position_embeddings=131072,
        original_max_position_embeddings=4096,
        rope_parameters={
            "rope_type": "longrope",
            "rope_theta": 10000.0,
            "short_factor": [1.0] * 48,
            "long_factor": [1.0 + at / 10 for at in range(48)],
            "original_max_position_embeddings": 4096,
        },
    ),
}


def main() -> None:
    torch.set_num_threads(1)
    names = sys.argv[1:] or list(LAYOUTS)
    for name in names:
        with torch.no_grad():
            model = hf.AutoModelForCausalLM.from_config(LAYOUTS[name](), dtype=torch.bfloat16).eval()
            model(torch.tensor([[3]]))  # what a process pays once
            began = time.process_time()
            model(torch.tensor([[3]]))
            step_s = time.process_time() - began
            shapes: list[torch.Size] = []
            model.register_forward_pre_hook(
                lambda _module, _args, given, shapes=shapes: shapes.append(given["input_ids"].shape), with_kwargs=True
            )
            ours = Model(model, compile="auto")
            began = time.process_time()
            rows = ours.new_rows()
            trials_s = time.process_time() - began
        found = {
            "layout": name,
            "parameters": sum(p.numel() for p in model.parameters()),
            "rows": type(rows).__name__,
            "trials_cpu_s": round(trials_s, 3),
            "step_cpu_s": round(step_s, 3),
            "forwards_of_the_model": len(shapes),
            "tokens_of_the_model": sum(shape.numel() for shape in shapes),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "transformers": hf.__version__,
            "machine": platform.machine(),
        }
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
