"""Whether an adapter that `counterpoint distil` made is served alike by vLLM and by peft: docs/served.json, docs/distil.md.

    python scripts/served.py RUN --vllm .venv-vllm/bin/python    # RUN: the folder of a run of `counterpoint distil`

vLLM's server runs with --enable-lora on this machine's CPU and answers the questions of `evaluate.instructions` greedily, with
the adapter and without. peft and transformers, without a cache, are asked for the same tokens: each answer is read once, and
a token is theirs where it has the highest logit. Needs the extras adapters and eval, and vLLM in an environment of its own
(`scripts/test-vllm` makes one).
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
import torch

from counterpoint.evaluate.instructions import QUESTIONS

ROOT = Path(__file__).parent.parent
BEGIN, END = "<!-- served: written by scripts/served.py -->", "<!-- end of served -->"
MAX_TOKENS = 48
START_S = 300
NAME = "distilled"


def ask(url: str, body: dict[str, Any] | None = None) -> Any:
    """A request of JSON; without a body a GET."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, headers={"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=300) as answer:
        text = answer.read()
    return json.loads(text) if text else None


def answers_of_vllm(given: argparse.Namespace, prompts: list[list[int]]) -> dict[str, list[list[int]]]:
    """Token ids of the answers, of the plain model as "base" and with the adapter."""
    command = [
        str(given.vllm), "-m", "vllm.entrypoints.openai.api_server", "--model", str(given.run / "base"),
        "--served-model-name", "base", "--enable-lora",
        "--max-lora-rank", "16", "--lora-modules", f"{NAME}={given.run / 'adapter'}", "--dtype", "float32",
        "--enforce-eager", "--max-model-len", "512", "--port", str(given.port),
    ]  # fmt: skip
    quiet = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | quiet
    with (given.run / "vllm.log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
        try:
            url, until = f"http://127.0.0.1:{given.port}", time.monotonic() + START_S
            while True:
                try:
                    ask(f"{url}/health")
                    break
                except (urllib.error.URLError, OSError):
                    if server.poll() is not None or time.monotonic() > until:
                        raise SystemExit(f"vLLM did not start; {log.name} says why") from None
                    time.sleep(1)
            print(f"models: {[one['id'] for one in ask(f'{url}/v1/models')['data']]}", file=sys.stderr)
            return {name: [_answer(url, name, ids) for ids in prompts] for name in ("base", NAME)}
        finally:
            server.terminate()
            server.wait(60)


def _answer(url: str, name: str, ids: list[int]) -> list[int]:
    body = {"model": name, "prompt": ids, "max_tokens": MAX_TOKENS, "temperature": 0, "return_token_ids": True}
    return ask(f"{url}/v1/completions", body)["choices"][0]["token_ids"]


@torch.inference_mode()
def compared(model: Any, prompts: list[list[int]], answers: list[list[int]]) -> dict[str, Any]:
    """How many of the answers' tokens have the highest logit; the largest distance in nats of one that has not."""
    equal, whole, furthest = 0, 0, 0.0
    for ids, answer in zip(prompts, answers):
        logits = model(torch.tensor([ids + answer[:-1]]), use_cache=False).logits[0, len(ids) - 1 :].float()
        behind = logits.max(-1).values - logits.gather(-1, torch.tensor(answer)[:, None])[:, 0]
        equal += int((behind == 0).sum())
        whole += bool((behind == 0).all())
        furthest = max(furthest, float(behind.max()))
    return {
        "answers": len(answers), "equal answers": whole, "tokens": sum(map(len, answers)), "equal tokens": equal,
        "furthest": furthest,
    }  # fmt: skip


def page(record: dict[str, Any]) -> str:
    """The served part of docs/distil.md."""
    rows = [
        f"| {name} | {row['equal answers']} of {row['answers']} | {row['equal tokens']:,} of {row['tokens']:,} | {row['furthest']:.2g} |"
        for name, row in record["rows"].items()
    ]
    return "\n".join([
        f"vLLM {record['vllm']} (`python -m vllm.entrypoints.openai.api_server`) served such an adapter on a CPU, with the options above and "
        f"`--dtype float32 --enforce-eager`. Greedy answers of at most {MAX_TOKENS} tokens to {record['questions']} questions over HTTP, against transformers and peft without "
        "a cache:",
        "",
        "| | equal answers | equal tokens | nats behind the best, at most |",
        "| --- | --- | --- | --- |",
        *rows,
        "",
        f"With the adapter {record['changed']} of the {record['questions']} answers differ from those without it. Made by "
        f"`python scripts/served.py RUN`, {record['machine']}, {record['versions']}.",
    ])  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("--vllm", type=Path, default=ROOT / ".venv-vllm" / "bin" / "python")
    parser.add_argument("--system", default="Answer in exactly one sentence.")
    parser.add_argument("--port", type=int, default=8391)
    given = parser.parse_args()
    torch.set_num_threads(1)
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(given.run / "base")
    chats = [[{"role": "system", "content": given.system}, {"role": "user", "content": one}] for one in QUESTIONS]
    prompts = [tokenizer.apply_chat_template(one, add_generation_prompt=True, return_dict=False) for one in chats]
    answers = answers_of_vllm(given, prompts)
    base = AutoModelForCausalLM.from_pretrained(given.run / "base", dtype=torch.float32)
    rows = {"without the adapter": compared(base, prompts, answers["base"])}
    learnt = PeftModel.from_pretrained(base, str(given.run / "adapter"))
    rows["with the adapter"] = compared(learnt, prompts, answers[NAME])
    release = subprocess.run(
        [given.vllm, "-c", "from importlib.metadata import distributions as d; print(*(x.version for x in d() if x.name.startswith('vllm')))"],
        capture_output=True, text=True, check=True,
    ).stdout.split()[0]  # fmt: skip
    record = {
        "rows": rows, "questions": len(prompts), "changed": sum(a != b for a, b in zip(answers["base"], answers[NAME])),
        "vllm": release.partition("+")[0], "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "transformers", "peft")),
    }  # fmt: skip
    print(json.dumps(record, indent=1))
    (ROOT / "docs" / "served.json").write_text(json.dumps(record, indent=1) + "\n")
    path = ROOT / "docs" / "distil.md"
    pattern = re.compile(rf"{re.escape(BEGIN)}.*{re.escape(END)}", re.DOTALL)
    text, count = pattern.subn(lambda _: f"{BEGIN}\n\n{page(record)}\n\n{END}", path.read_text())
    if count != 1:
        raise SystemExit(f"{path.name} has no {BEGIN} and {END}")
    path.write_text(text)


if __name__ == "__main__":
    main()
