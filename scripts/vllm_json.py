"""Whether vLLM's guided answers are valid under a JSON schema to their end, on a model that writes: docs/vllm.md tells.

    .venv-vllm/bin/python scripts/vllm_json.py MODEL_FOLDER

MODEL_FOLDER is a chat model as transformers saves it, such as `cp.load("smollm2").hf.save_pretrained(...)` with its tokenizer.
Each question is asked against a contrary system message, greedily and seeded, with and without `min_tokens`. One line of JSON.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections import Counter
from typing import Any

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
import jsonschema
from vllm import LLM, SamplingParams
from vllm.sampling_params import StructuredOutputsParams

from counterpoint import Guide
from counterpoint.vllm import versions
from counterpoint.vllm.params import engine_args, extra_args

FRUITS = ("an apple", "a lemon", "a banana", "a cherry", "a mango", "a quince", "a pear", "a fig", "a plum", "a melon")
SYSTEM, CONTRARY = "You describe fruit in cheerful words.", "You describe fruit in gloomy words."
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 20},
        "taste": {"enum": ["sweet", "sour", "bitter"]},
        "grams": {"type": "integer", "minimum": 1, "maximum": 5000},
        "uses": {"type": "array", "items": {"type": "string", "maxLength": 30}, "minItems": 1, "maxItems": 3},
        "ripe": {"type": "boolean"},
    },
    "required": ["name", "taste", "grams", "uses", "ripe"],
    "additionalProperties": False,
}
GUIDES = (Guide(scale=2.0), Guide(scale=3.0, space="prob"), Guide(scale=3.0, plausibility=0.1))
MAX_TOKENS, MIN_TOKENS = 160, (0, 60, 120)


def asked(tokenizer: Any) -> tuple[list[dict[str, list[int]]], list[SamplingParams]]:
    """Prompts and their parameters, in the same order."""

    def ids(system: str, fruit: str) -> list[int]:
        chat = [{"role": "system", "content": system}, {"role": "user", "content": f"Describe {fruit} as JSON."}]
        return tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)

    prompts, params = [], []
    for number, fruit in enumerate(FRUITS):
        for guide in GUIDES:
            for temperature in (0.0, 1.0):
                for least in MIN_TOKENS:
                    prompts.append({"prompt_token_ids": ids(SYSTEM, fruit)})
                    params.append(
                        SamplingParams(
                            temperature=temperature, seed=number, max_tokens=MAX_TOKENS, min_tokens=least,
                            structured_outputs=StructuredOutputsParams(json=SCHEMA),
                            extra_args=extra_args(guide, ids(CONTRARY, fruit)),
                        )
                    )  # fmt: skip
    return prompts, params


def kind(output: Any) -> str:
    if output.finish_reason == "length":
        return "cut"
    try:
        jsonschema.validate(json.loads(output.text), SCHEMA)
    except (ValueError, jsonschema.ValidationError):
        return "invalid"
    return "valid"


def main() -> int:
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    llm = LLM(sys.argv[1], dtype="float32", max_model_len=512, max_num_seqs=32, enforce_eager=True, **engine_args())
    prompts, params = asked(llm.get_tokenizer())
    outputs = [answer.outputs[0] for answer in llm.generate(prompts, params)]
    found = {
        f"min_tokens {least}": dict(
            Counter(kind(o) for o, p in zip(outputs, params, strict=True) if p.min_tokens == least)
        )
        for least in MIN_TOKENS
    }
    early = sum(len(o.token_ids) < p.min_tokens for o, p in zip(outputs, params, strict=True))
    print(
        json.dumps(
            {
                "vllm": versions.installed(), "machine": f"{platform.machine()}, {os.cpu_count()} cores",
                "answers": len(outputs), "found": found, "ended before min_tokens": early, "first": outputs[0].text,
            }
        )
    )  # fmt: skip
    return int(any("invalid" in row for row in found.values()))


if __name__ == "__main__":
    sys.exit(main())
