"""The card of an adapter: what it was made of, what it has gained, how to use it. As JSON, and as a page for people."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from counterpoint.distillation.gains import Gains


def versions() -> dict[str, str]:
    """Of what took part."""
    packages = ("counterpoint", "torch", "transformers", "peft")
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in packages}


def told(gains: Gains, target: str) -> str:
    """What was gained, in one line."""
    if gains.loss_before is None or gains.loss_after is None:
        return "nothing was held out, so nothing was measured"
    line = f"{gains.loss_before:.3f} to {gains.loss_after:.3f} nats a token on what was held out"
    if gains.closed is not None and target == "distribution":
        line += f", {100 * gains.closed:.0f} percent of the way to guidance"
    for arm, kept, count in gains.rules:
        line += f"; {arm} {kept} of {count} keep the rules"
    return line


def page(facts: Mapping[str, Any]) -> str:
    """README.md of the adapter's folder, from its facts alone."""
    base, guide = facts["base"], facts["guide"] or "as for any negative"
    rank = facts["adapter"]["rank"]
    front = [
        "---",
        f"base_model: {_quoted(base['path'])}",
        "library_name: peft",
        "tags: [lora, counterpoint, guidance, distilled]",
        "---",
    ]
    lines = [
        "# A guide, distilled",
        (
            f"This adapter makes {base['name']} answer without guidance as it answers under it: one context is read, no further "
            "branch. Made by `counterpoint distil`."
        ),
        "## What it was made of",
        _table(
            [
                ("base", f"{base['name']}, {base['dtype']}, weights {base['fingerprint']}{_born(base)}"),
                ("its folder", f"`{base['path']}`"),
                ("teacher", facts["teacher"]["name"]),
                ("guide", f"`{guide}`"),
                *((name, f"{value}") for name, value in facts["contexts"].items() if value not in (None, "", [])),
                ("prompts", _prompts(facts["prompts"])),
                ("answers learnt from", f"{facts['answers']['kept']:,} of {facts['answers']['written']:,} written"),
                ("rules", ", ".join(f"`{rule}`" for rule in facts["rules"]) or "none"),
                ("texts to keep", f"{facts['prompts']['texts']:,}"),
                ("target", _target(facts["training"])),
                ("adapter", f"rank {rank}, alpha {facts['adapter']['alpha']:g}, {facts['trained']:,} parameters"),
                ("training", f"{facts['steps']:,} steps, {facts['tokens']:,} tokens, {facts['seconds']:.0f} s"),
                ("seed", f"{facts['seed']}"),
                ("versions", ", ".join(f"{name} {version}" for name, version in facts["versions"].items())),
            ]
        ),
        "## What was gained",
        *_gains(facts["gains"], facts["training"]["target"]),
        "## How to use it",
        _use(base["path"], rank),
    ]
    return "\n".join(front) + "\n\n" + "\n\n".join(lines) + "\n"


def _gains(gains: dict[str, Any], target: str) -> list[str]:
    told = []
    if gains["loss_before"] is None:
        told.append("Nothing was held out, so nothing was measured.")
    else:
        what = "the divergence from the guided distribution" if target == "distribution" else "the surprise"
        told.append(
            f"On {gains['answers']} guided answers to prompts that were held out ({gains['tokens']:,} tokens) {what} went from "
            f"{gains['loss_before']:.3f} to {gains['loss_after']:.3f} nats a token"
            + (f": {100 * gains['closed']:.0f} percent of it is gone." if target == "distribution" else ".")
        )
    if gains["rules"]:
        rows = [(arm, f"{kept} of {count}", f"{kept / count:.2f}") for arm, kept, count in gains["rules"]]
        told.append(_table(rows, ("answers", "keep all rules", "share")))
    if gains["perplexity_before"] is not None:
        before, after = gains["perplexity_before"], gains["perplexity_after"]
        told.append(
            f"Perplexity of ordinary text that was held out: {before:.2f} before, {after:.2f} with the adapter "
            f"({100 * (after / before - 1):+.1f} percent)."
        )
    return told


def _use(base: str, rank: int) -> str:
    return f"""```python
from peft import AutoPeftModelForCausalLM

model = AutoPeftModelForCausalLM.from_pretrained("ADAPTER")  # this folder; reads {base}
```

```
vllm serve {base} --enable-lora --max-lora-rank {_rank_of_vllm(rank)} --lora-modules distilled=ADAPTER
```

```python
import counterpoint as cp
from counterpoint.models.adapters import load_adapter

model = cp.load("{base}")
load_adapter(model.hf, "ADAPTER", name="distilled")
model.with_adapter("distilled"), model.with_adapter(None)  # with it and without it: one set of weights
```"""


def _rank_of_vllm(rank: int) -> int:
    """The least of the ranks that vLLM offers which holds this one."""
    return next((offered for offered in (8, 16, 32, 64, 128, 256, 320, 512) if offered >= rank), rank)


def _born(base: dict[str, Any]) -> str:
    return ", read from a GGUF file and written as a plain folder" if base["is_gguf"] else ""


def _prompts(prompts: dict[str, Any]) -> str:
    own = f", {prompts['written']:,} of them by the model itself" if prompts["written"] else ""
    return f"{prompts['learnt']:,} to learn from{own}; {prompts['held_out']:,} held out"


def _target(training: dict[str, Any]) -> str:
    if training["target"] == "samples":
        return "the answers' tokens"
    if training["top"]:
        return f"the guided distribution, the {training['top']} most probable tokens and all others as one"
    return "the guided distribution, all tokens"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _table(rows: Sequence[tuple[str, ...]], head: tuple[str, ...] = ("", "")) -> str:
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in cells)])


def finished(folder: Path, run: str, facts: Mapping[str, Any]) -> tuple[Gains, int, int, int] | None:
    """What the same run gave when it was at its end; None where it was not, or was measured otherwise."""
    try:
        card = json.loads((folder / "distillation.json").read_text())
    except (OSError, ValueError):
        return None
    measured = ("base", "teacher", "prompts", "answers", "rules", "writing")
    if card.get("run") != run or any(card[name] != facts[name] for name in measured):
        return None
    gains = {name: value for name, value in card["gains"].items() if name != "closed"}
    gains["rules"] = tuple((arm, kept, count) for arm, kept, count in gains["rules"])
    return Gains(**gains), card["answers"]["kept"] + card["prompts"]["texts"], card["steps"], card["tokens"]
