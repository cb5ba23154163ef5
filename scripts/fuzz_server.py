"""Bad requests at one server: a schema fuzzer, then bodies made by hand. No answer of 5xx, no hang, and it serves on.

    python scripts/fuzz_server.py --seconds 600

Exits with 1 where the server answers with 5xx, takes a bad body, says nothing about it, or does not serve afterwards.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
from soak_server import served

from counterpoint.models.loading import BUNDLED

GOOD = {"prompt": "Once upon a time", "max_tokens": 2, "temperature": 0}
COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant: "
TIMEOUT_S = 300
MIB = 1 << 20


def good_with(**fields: Any) -> bytes:
    return json.dumps(GOOD | fields).encode()


def raw_with(fields: str) -> bytes:
    return json.dumps(GOOD)[:-1].encode() + f", {fields}}}".encode()


def bad_bodies() -> Iterator[tuple[str, bytes, int]]:
    """What is bad about a body, the body, and the status that it deserves."""
    yield "empty", b"", 400
    yield "no JSON", b"hello", 400
    yield "cut off", b'{"prompt": "a', 400
    yield "two values", b"{} {}", 400
    yield "a list", b"[]", 400
    yield "a number", b"1", 400
    yield "null", b"null", 400
    yield "invalid UTF-8", b'{"prompt": "\xff\xfe"}', 400
    yield "overlong UTF-8", b'{"prompt": "\xc0\xaf"}', 400
    yield "half a surrogate pair", b'{"prompt": "\\ud800"}', 400
    yield "UTF-16", json.dumps(GOOD).encode("utf-16"), 400
    yield "null bytes around", b"\0" + json.dumps(GOOD).encode(), 400
    yield "nested lists", b'{"prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400
    yield "nested objects", b'{"guidance": ' * 50_000 + b"1" + b"}" * 50_000, 400
    yield "nested lists, never closed", b"[" * 500_000, 400
    yield "no prompt", b"{}", 400
    yield "empty prompt", good_with(prompt=""), 400
    yield "no prompts", good_with(prompt=[]), 400
    yield "an empty prompt among prompts", good_with(prompt=["a", ""]), 400
    yield "mixed prompts", good_with(prompt=["a", 1]), 400
    yield "a prompt of objects", good_with(prompt={"text": "a"}), 400
    yield "a token id below 0", good_with(prompt=[-1]), 400
    yield "a token id past the vocabulary", good_with(prompt=[10**9]), 400
    yield "a token id past 64 bits", good_with(prompt=[2**70]), 400
    yield "true as a token id", good_with(prompt=[True]), 400
    yield "a prompt past the context", good_with(prompt=[3] * 100_000), 400
    yield "a text past the context", good_with(prompt="word " * 100_000), 400
    yield "a negative past the context", good_with(negative_prompt="word " * 100_000), 400
    yield "too many prompts", good_with(prompt=["a"] * 5000), 400
    yield "n of 0", good_with(n=0), 400
    yield "n of a billion", good_with(n=10**9), 400
    yield "n as text", good_with(n="2"), 400
    yield "n as a fraction", good_with(n=1.5), 400
    yield "n as true", good_with(n=True), 400
    yield "max_tokens of 0", good_with(max_tokens=0), 400
    yield "max_tokens below 0", good_with(max_tokens=-5), 400
    yield "max_tokens past 64 bits", good_with(max_tokens=2**80), 400
    yield "a number of 10,000 digits", raw_with('"seed": ' + "9" * 10_000), 400
    yield "a float of 10,000 digits", raw_with('"temperature": ' + "9" * 10_000), 400
    yield "NaN", raw_with('"temperature": NaN'), 400
    yield "Infinity", raw_with('"guidance_scale": Infinity'), 400
    yield "1e999", raw_with('"guidance_scale": 1e999'), 400
    yield "-1e999 as a weight", raw_with('"guidance": {"branches": [{"prompt": "a", "weight": -1e999}]}'), 400
    yield "temperature as text", good_with(temperature="0"), 400
    yield "temperature below 0", good_with(temperature=-1), 400
    yield "top_p of 0", good_with(top_p=0), 400
    yield "top_p of 2", good_with(top_p=2), 400
    yield "a hundred stops", good_with(stop=["a"] * 100), 400
    yield "stop as a number", good_with(stop=1), 400
    yield "logit_bias by text", good_with(logit_bias={"a": 1}), 400
    yield "logit_bias past the vocabulary", good_with(logit_bias={"999999999": 1}), 400
    yield "logit_bias of 1000", good_with(logit_bias={"5": 1000}), 400
    yield "logit_bias of null", good_with(logit_bias={"5": None}), 400
    yield "logit_bias as a list", good_with(logit_bias=[1]), 400
    yield "logprobs of 1000", good_with(logprobs=1000), 400
    yield "stream as text", good_with(stream="yes"), 400
    yield "stream_options without stream", good_with(stream_options={"include_usage": True}), 400
    yield "an unknown field", good_with(negative="a"), 400
    yield "an unknown field with a hostile name", good_with(**{"<script>\n" * 500: 1}), 400
    yield "an unknown field of guidance", good_with(guidance={"spce": "prob"}), 400
    yield "an unknown space", good_with(guidance={"space": "exp"}), 400
    yield "guidance as text", good_with(guidance="prob"), 400
    yield "plausibility of 2", good_with(guidance={"plausibility": 2}), 400
    yield "stop before start", good_with(guidance={"start": 5, "stop": 2}, negative_prompt="a"), 400
    yield "guidance after the end", good_with(guidance={"start": 50}, negative_prompt="a"), 400
    yield "a branch of nothing", good_with(guidance={"branches": [{}]}), 400
    yield "a branch of everything", good_with(guidance={"branches": [{"prompt": "a", "suffix": "b"}]}), 400
    yield "a thousand branches", good_with(guidance={"branches": [{"prompt": "a", "weight": -0.1}] * 1000}), 400
    yield "a scale of two names", good_with(guidance_scale=2, cfg_scale=3, negative_prompt="a"), 400
    yield "a scale as text", good_with(guidance_scale="3", negative_prompt="a"), 400
    yield (
        "a scale beside weights",
        good_with(guidance_scale=2, guidance={"branches": [{"prompt": "a", "weight": -1}]}),
        400,
    )
    yield "two negatives", good_with(negative_prompt="a", negative_prompt_ids=[5]), 400
    yield "a negative equal to the prompt", good_with(negative_prompt=GOOD["prompt"]), 400
    yield "messages for a completion", good_with(messages=[{"role": "user", "content": "a"}]), 400
    yield "another model", good_with(model="gpt-4"), 404
    yield "a seed past 64 bits", good_with(seed=2**64), 400
    yield "a stop text of 100,000 characters", good_with(stop="a" * 100_000), 400
    yield "more tokens at least than at most", good_with(min_tokens=5), 400
    yield "best_of below n", good_with(n=3, best_of=2), 400
    yield "a template of the client's", good_with(chat_template="{% for a in range(9999) %}{% endfor %}"), 400
    yield "a suffix", good_with(suffix="and then"), 400
    yield "beams", good_with(use_beam_search=True), 400
    yield "a form that is no form", good_with(response_format={"type": "xml"}), 400
    yield "a schema that can't be kept", good_with(structured_outputs={"json": {"not": {}}}), 400
    yield "an expression that is none", good_with(guided_regex="("), 400
    yield (
        "a grammar of 50,000 choices",
        good_with(guided_grammar="start: " + "|".join(f'"a{i}"' for i in range(50_000))),
        400,
    )
    yield "two forms", good_with(guided_regex="a", guided_choice=["a"]), 400
    yield "a thousand unknown fields", good_with(**{f"field{i}": i for i in range(1000)}), 400
    yield "a body of 2 MB", good_with(user="x" * (2 * MIB)), 413
    yield "a body of 100 MB", good_with(user="x" * (100 * MIB)), 413


#: requests that other clients send, and that ask for nothing or for what can be done
GOOD_BODIES: list[tuple[str, dict[str, Any]]] = [
    (COMPLETIONS, GOOD | {"guidance_scale": 1, "negative_prompt": "a", "best_of": 1, "suffix": None, "seed": -1}),
    (COMPLETIONS, GOOD | {"echo": True, "logprobs": 2, "min_tokens": 2, "return_token_ids": True}),
    (COMPLETIONS, GOOD | {"echo": True, "logprobs": 0, "max_tokens": 0}),
    (COMPLETIONS, GOOD | {"logprobs": 5, "negative_prompt": "a", "guidance": {"plausibility": 0.3}}),
    (COMPLETIONS, GOOD | {"structured_outputs": {"choice": ["yes", "no"]}}),
    (COMPLETIONS, GOOD | {"stop": [], "logit_bias": {}, "store": False, "top_k": -1, "mirostat": 0, "n_probs": 0}),
    ("/tokenize", {"prompt": "Once", "return_token_strs": True}),
    ("/detokenize", {"tokens": [5, 6]}),
]


def fault_of(client: httpx.Client, what: str, path: str, body: bytes, want: int) -> str | None:
    """What is wrong with the answer to a bad body; None where nothing is."""
    try:
        answer = client.post(path, content=body, headers={"content-type": "application/json"})
    except httpx.HTTPError as error:
        return f"{what}: {type(error).__name__}"
    try:
        message = answer.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        return f"{what}: {answer.status_code} without an error in OpenAI's shape: {answer.text[:200]}"
    if answer.status_code != want:
        return f"{what}: {answer.status_code} and not {want}: {message}"
    if not message or "\n" in message or len(message) > 1000 or "Traceback" in message:
        return f"{what}: {message[:200]!r} is no message"
    return None


def is_serving(client: httpx.Client) -> bool:
    answer = client.post(COMPLETIONS, json=GOOD)
    return answer.status_code == 200 and answer.json()["usage"]["completion_tokens"] > 0


def throw_by_hand(base: str) -> list[str]:
    """Every bad body, and a good request after each; returns the faults."""
    faults = []
    with httpx.Client(base_url=base, timeout=TIMEOUT_S) as client:
        for path, fields in GOOD_BODIES:
            answer = client.post(path, json=fields)
            if answer.status_code != 200:
                faults.append(f"{fields}: {answer.status_code}: {answer.text[:200]}")
        for what, body, want in bad_bodies():
            fault = fault_of(client, what, COMPLETIONS, body, want)
            if fault:
                faults.append(fault)
            if not is_serving(client):
                faults.append(f"after {what}: a good request is not served")
        for kind in ("", "text/plain", "multipart/form-data"):
            answer = client.post(COMPLETIONS, content=json.dumps(GOOD), headers={"content-type": kind})
            if answer.status_code != 415:
                faults.append(f"content type {kind!r}: {answer.status_code} and not 415")
    return faults


def run_schemathesis(base: str, seconds: int, seed: int) -> list[str]:
    """The schema fuzzer; returns its complaints."""
    checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
    command = [
        str(Path(sys.executable).parent / "schemathesis"), "run", f"{base}/openapi.json", "--phases", "coverage,fuzzing",
        "--max-time", str(seconds), "--checks", checks, "--request-timeout", str(TIMEOUT_S), "--seed", str(seed),
        "--mode", "all", "--continue-on-failure", "--warnings", "off", "--no-color", "--workers", "2",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds + 10 * TIMEOUT_S)
    print(done.stdout[-6000:], done.stderr[-2000:])
    return [] if done.returncode == 0 else ["schemathesis complains, see above"]


def fuzz(base: str, *, seconds: int, seed: int) -> list[str]:
    """All of it; returns the faults."""
    began = time.monotonic()
    faults = run_schemathesis(base, seconds, seed) if seconds else []
    print(f"schemathesis: {time.monotonic() - began:.0f} s")
    faults += throw_by_hand(base)
    with httpx.Client(base_url=base, timeout=TIMEOUT_S) as client:
        counted = [
            line for line in client.get("/metrics").text.splitlines() if line.startswith("counterpoint_requests_total")
        ]
    print("\n".join(counted))
    return faults + [f"answered with 5xx: {line}" for line in counted if 'status="5' in line]


@contextlib.contextmanager
def chatty_model() -> Iterator[str]:
    """A copy of the bundled model with a chat template, so that chats are read to their end."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(BUNDLED, folder, dirs_exist_ok=True)
        (Path(folder) / "chat_template.jinja").write_text(TEMPLATE)
        yield folder


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="a running server; otherwise one is started")
    parser.add_argument("--seconds", type=int, default=600, help="for the schema fuzzer; 0 leaves it out")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.url:
        faults = fuzz(args.url, seconds=args.seconds, seed=args.seed)
    else:
        # Outputs as long as the fuzzer likes would only show that long requests take long.
        with (
            chatty_model() as model,
            served(["--model", model, "--max-tokens", "64", "--max-samples", "8"]) as (base, _),
        ):
            faults = fuzz(base, seconds=args.seconds, seed=args.seed)
    print("\n".join(faults) or "no fault")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
