"""How long models with codebooks take under our guidance, beside their own: paired runs of one process.

    benchmarks/codebooks.py [--runs N] [--steps N] [--threads N]

Random weights of a small width, for time does not depend on what they are. Each pair runs both ways, the first of them in
turn, with the same prompts and so many steps, at scale 3 away from silence; the ratio is ours over theirs, below 1 where ours
is quicker. Both write the same codes, which is checked.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
import types
import warnings
from collections.abc import Callable
from typing import Any

import torch
import transformers
from transformers import (
    DiaConfig,
    DiaForConditionalGeneration,
    MusicgenConfig,
    MusicgenForConditionalGeneration,
    MusicgenMelodyConfig,
    MusicgenMelodyForConditionalGeneration,
    PreTrainedModel,
)

import counterpoint as cp

WIDTH, LAYERS, CODES = 512, 8, 1024


def music(channels: int = 1, *, melody: bool = False) -> PreTrainedModel:
    classes = MusicgenConfig, MusicgenForConditionalGeneration
    if melody:
        classes = MusicgenMelodyConfig, MusicgenMelodyForConditionalGeneration
    decoder = {
        "vocab_size": CODES, "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "ffn_dim": 4 * WIDTH,
        "num_attention_heads": 8, "num_codebooks": 4 * channels, "audio_channels": channels, "pad_token_id": CODES,
        "bos_token_id": CODES,
    }  # fmt: skip
    config = classes[0](
        text_encoder={"model_type": "t5", "vocab_size": 99, "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4},
        audio_encoder={"model_type": "encodec", "num_filters": 4, "hidden_size": 16, "codebook_size": CODES, "codebook_dim": 16},
        decoder=decoder,
    )  # fmt: skip
    model = classes[1](config).eval()
    settings = model.generation_config
    settings.pad_token_id = settings.bos_token_id = settings.decoder_start_token_id = CODES
    # The codes themselves: making a sound of them is the same work either way.
    model.audio_encoder.decode = lambda codes, **_: types.SimpleNamespace(audio_values=codes[0])
    return model


def dia() -> PreTrainedModel:
    common = {"hidden_size": WIDTH, "num_attention_heads": 8, "head_dim": WIDTH // 8, "intermediate_size": 4 * WIDTH}
    config = DiaConfig(
        encoder_config={**common, "num_hidden_layers": 2, "num_key_value_heads": 8, "vocab_size": 99},
        decoder_config={
            **common, "num_hidden_layers": LAYERS, "num_key_value_heads": 4, "cross_num_attention_heads": 8,
            "cross_head_dim": WIDTH // 8, "cross_num_key_value_heads": 8, "cross_hidden_size": WIDTH,
            "vocab_size": CODES + 4, "eos_token_id": CODES, "pad_token_id": CODES + 1, "bos_token_id": CODES + 2,
        },
    )  # fmt: skip
    return DiaForConditionalGeneration(config).eval()


def ratios(model: PreTrainedModel, *, own_scale: float, num_prompts: int, steps: int, runs: int) -> list[float]:
    """Seconds of ours over seconds of theirs, pair by pair; the first pair warms up and is left out."""
    prompt = {"input_ids": torch.arange(5, 5 + 8 * num_prompts).remainder(90).view(num_prompts, 8)}
    prompt["attention_mask"] = torch.ones_like(prompt["input_ids"])
    options: dict[str, Any] = {"do_sample": False, "max_new_tokens": steps, "top_k": None}

    def theirs() -> Any:
        return model.generate(**prompt, **options, guidance_scale=own_scale)

    def ours() -> Any:
        return model.generate(**cp.transformers.codebooks(model, prompt, guide=cp.Guide(scale=3.0)), **options)

    found = []
    for number in range(runs + 1):
        ways: list[Callable[[], Any]] = [theirs, ours] if number % 2 else [ours, theirs]
        seconds, codes = {}, {}
        for way in ways:
            began = time.perf_counter()
            codes[way] = way()
            seconds[way] = time.perf_counter() - began
        if codes[ours].tolist() != codes[theirs].tolist():
            print(f"{type(model).__name__}: the codes differ, by rounding where two are equally likely", flush=True)
        if number:
            found.append(seconds[ours] / seconds[theirs])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=9, help="pairs of each")
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    transformers.logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    print(f"{platform.processor() or platform.machine()}, {given.threads} threads, torch {torch.__version__}, transformers {transformers.__version__}, seed 0; {given.steps} steps, {given.runs} pairs")  # fmt: skip
    kinds: list[tuple[str, Callable[[], PreTrainedModel], float]] = [
        ("MusicGen", music, 3.0),
        ("MusicGen stereo", lambda: music(2), 3.0),
        ("MusicGen Melody", lambda: music(melody=True), 3.0),
        ("Dia", dia, 2.0),
    ]
    for name, build, own_scale in kinds:
        torch.manual_seed(0)
        model = build()
        for num_prompts in (1, 4):
            found = ratios(model, own_scale=own_scale, num_prompts=num_prompts, steps=given.steps, runs=given.runs)
            print(f"{name:16} {num_prompts} prompts: ours over theirs {statistics.median(found):.3f} (from {min(found):.3f} to {max(found):.3f})", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
